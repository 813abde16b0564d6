// Several queues: T2 and T3 of assembly/ring/take.ts, C1 of ring/slot.ts, hazards and flushes
// across queues; spec section 6.1, bit 12.

import { describe, expect, it } from 'vitest';
import { COUNT_CHAINS } from '../../src/abi/region.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import type { BlkDriver } from '../../src/testing/guest/blk.ts';
import { cutFraming } from '../../src/testing/guest/framing.ts';
import { ENGINE_BASE } from '../driver.ts';
import { answer, expectIdle, type Face, FACES, fresh, pattern, send, waiting } from './face.ts';
import { GuestRig, type QueueOptions } from './rig.ts';

function rigOf(face: Face, queues: number, options: QueueOptions = {}) {
  const rig = new GuestRig(face.build, { queues });
  const drivers = Array.from({ length: queues }, (_, index) =>
    rig.addQueue(index, { packed: face.packed, ...options }),
  );
  return { rig, drivers };
}

/** Notifies of all queues, and lets the device run once. */
function sendAll(rig: GuestRig, drivers: readonly BlkDriver[]): void {
  for (const [index, driver] of drivers.entries()) {
    driver.publish();
    rig.notify(index);
  }
  rig.pump();
}

const LONG: QueueOptions = {
  size: 4096,
  features: { indirect: true },
  driver: { guards: false },
};

describe.each(FACES)('several queues ($name)', (face) => {
  it('6.1: 63 queues serve one disk, and each has its own interrupt', () => {
    const { rig, drivers } = rigOf(face, 63, { size: 16 });
    rig.settle();
    rig.takeInterrupts();
    const reads = drivers.map((driver, index) => driver.read(index * 3, 512));
    sendAll(rig, drivers);
    rig.settle();
    expect(rig.takeInterrupts()).toBe((1n << 63n) - 1n);
    for (const [index, driver] of drivers.entries()) {
      expect(driver.poll()).toEqual([reads[index]]);
      expect(reads[index]?.data()).toEqual(fresh(index * 3, 1));
    }
    for (const index of [0, 31, 32, 62]) {
      drivers[index]?.getId();
      drivers[index]?.publish();
      rig.run(index);
      expect(rig.takeInterrupts()).toBe(1n << BigInt(index));
    }
    expectIdle(rig, 62);
  });

  it('T1: only the queues that were notified of are looked at', () => {
    const { rig, drivers } = rigOf(face, 3);
    rig.settle();
    for (const driver of drivers) driver.read(0, 512);
    for (const driver of drivers) driver.publish();
    rig.run(1);
    expect(drivers.map((driver) => driver.poll().length)).toEqual([0, 1, 0]);
  });

  it('hazards: requests of different queues that overlap keep the order of their taking', () => {
    const { rig, drivers } = rigOf(face, 2);
    const [first, second] = drivers as [BlkDriver, BlkDriver];
    first.write(4, pattern(512, 1));
    send(rig, first, 0);
    const between = second.read(4, 512);
    send(rig, second, 1);
    first.write(4, pattern(512, 2));
    send(rig, first, 0);
    expect(waiting(rig)).toEqual(['WRITE 2048+512']);
    rig.settle();
    second.poll();
    expect(between.data()).toEqual(pattern(512, 1));
    expect(rig.disk.subarray(2048, 2560)).toEqual(pattern(512, 2));
  });

  it('F1: a flush of one queue covers what completed in another', () => {
    const { rig, drivers } = rigOf(face, 2);
    const [first, second] = drivers as [BlkDriver, BlkDriver];
    second.flush();
    rig.finish(second, 1);
    first.write(4, pattern(512));
    rig.finish(first, 0);
    const flush = second.flush();
    send(rig, second, 1);
    expect(waiting(rig)).toEqual(['SYNC']);
    expect(second.poll()).toEqual([]);
    answer(rig, 'SYNC');
    expect(second.poll()).toEqual([flush]);
    // Nothing is volatile now: the next one, of any queue, is done at once.
    first.flush();
    send(rig, first, 0);
    expect([first.poll().length, waiting(rig)]).toEqual([1, []]);
  });

  it('F4: flushes of several queues that wait together share one sync', () => {
    const { rig, drivers } = rigOf(face, 4);
    const flushes = drivers.map((driver) => driver.flush());
    sendAll(rig, drivers);
    expect(waiting(rig)).toEqual(['SYNC']);
    rig.settle();
    for (const driver of drivers) driver.poll();
    expect(flushes.map(({ status }) => status)).toEqual([0, 0, 0, 0]);
  });

  it('T2, C1: when room is short the queues take turns, and none starves', () => {
    const { rig, drivers } = rigOf(face, 3, { ...LONG, size: 2048 });
    for (const driver of drivers) for (let i = 0; i < 1500; i++) driver.read(i, 512);
    const finished = [0, 0, 0];
    sendAll(rig, drivers);
    for (let rounds = 0; rounds < 6; rounds++) {
      while (rig.inFlight.length > 0) rig.answer();
      rig.pump();
      for (const [index, driver] of drivers.entries()) {
        const { length } = driver.poll();
        finished[index] = (finished[index] ?? 0) + length;
        // Each makes as many anew as came back: it is never empty.
        for (let i = 0; i < Math.min(length, 100); i++) driver.read(i, 512);
        driver.publish();
        rig.notify(index);
      }
    }
    for (const count of finished) expect(count).toBeGreaterThan(500);
  });

  it('T2, T3: a queue that is never empty lets the others have their turn', () => {
    const { rig, drivers } = rigOf(face, 2, LONG);
    const [greedy, modest] = drivers as [BlkDriver, BlkDriver];
    const fill = (): void => {
      while (greedy.queue.free > 0 && greedy.queue.inFlight < 3000) {
        greedy.raw(99, { framing: cutFraming([17]) });
      }
      greedy.publish();
      rig.notify(0);
    };
    const id = modest.getId();
    modest.publish();
    rig.notify(1);
    for (let calls = 0; calls < 3 && !id.used; calls++) {
      fill();
      rig.pump();
      for (const request of greedy.poll()) greedy.release(request);
      modest.poll();
    }
    expect(id.status).toBe(0);
  });

  it('C1: chains with tables of their own are taken while a table is free', () => {
    const { rig, drivers } = rigOf(face, 2, LONG);
    const framing = cutFraming([16, ...Array.from({ length: 10 }, () => 50), 12]);
    for (const driver of drivers) {
      for (let i = 0; i < 100; i++) driver.raw(1, { sector: 2 * i, out: pattern(512, i), framing });
    }
    sendAll(rig, drivers);
    expect(rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(abi.CHAIN_TABLES);
    for (let i = 0; i < 10; i++) rig.settle();
    expect(drivers.map((driver) => driver.poll().length)).toEqual([100, 100]);
    expect(rig.disk.subarray(198 * 512, 199 * 512)).toEqual(pattern(512, 99));
    expectIdle(rig, 1);
  });

  it('C1: lists of ranges take what room there is, and all of them are served', () => {
    const { rig, drivers } = rigOf(face, 2, LONG);
    for (const driver of drivers) {
      for (let i = 0; i < 60; i++) {
        driver.writeZeroes(
          Array.from({ length: 32 }, (_, n) => ({ sector: 2 * (i * 32 + n), sectors: 1 })),
        );
      }
    }
    sendAll(rig, drivers);
    for (let i = 0; i < 10; i++) rig.settle();
    const made = drivers.flatMap((driver) => driver.poll());
    expect(made).toHaveLength(120);
    expect(made.every(({ status }) => status === 0)).toBe(true);
    expect(rig.disk.subarray(512, 1024)).toEqual(fresh(1, 1));
    expectIdle(rig, 1);
  });

  it('chains that were taken are counted, once each, and no others', () => {
    const { rig, drivers } = rigOf(face, 2, LONG);
    const [first, second] = drivers as [BlkDriver, BlkDriver];
    const count = (): bigint => rig.view.getBigUint64(ENGINE_BASE + COUNT_CHAINS, true);
    for (let i = 0; i < 1500; i++) first.read(i, 512);
    for (let i = 0; i < 3; i++) second.getId();
    second.queue.add([{ address: 1n, length: 1, writable: false }]);
    for (let i = 0; i < 2; i++) second.getId();
    sendAll(rig, drivers);
    expect(count()).toBe(BigInt(rig.deviceWord(abi.DEVICE_IN_FLIGHT) + second.poll().length));
    for (let i = 0; i < 5; i++) rig.settle();
    expect([first.poll().length, count()]).toEqual([1500, 1503n]);
    expect(rig.takeBroken()).toBe(2n);
  });

  it('T2: a queue that a call has left with something in it comes after the others', () => {
    const { rig, drivers } = rigOf(face, 3, LONG);
    for (const driver of drivers) for (let i = 0; i < 2000; i++) driver.getId();
    sendAll(rig, drivers);
    const seen = [drivers.map((driver) => driver.poll().length)];
    rig.pump();
    seen.push(drivers.map((driver) => driver.poll().length));
    rig.pump();
    seen.push(drivers.map((driver) => driver.poll().length));
    // 2048 in a call: what the second queue could not have comes after the third.
    expect(seen).toEqual([
      [2000, 48, 0],
      [0, 48, 2000],
      [0, 1904, 0],
    ]);
  });

  it('R1, R3: the reset of one queue leaves the requests of others alone', () => {
    const { rig, drivers } = rigOf(face, 2);
    const [first, second] = drivers as [BlkDriver, BlkDriver];
    first.write(4, pattern(512, 1));
    const kept = second.write(9, pattern(512, 2));
    sendAll(rig, drivers);
    rig.reset(0);
    expect(second.poll()).toEqual([kept]);
    expect([kept.status, first.poll()]).toEqual([0, []]);
    const read = second.read(9, 512);
    rig.finish(second, 1);
    expect(read.data()).toEqual(pattern(512, 2));
  });
});
