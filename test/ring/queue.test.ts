// Queues: rules N1-N4 of assembly/ring/queue.ts, U4 of used.ts and W4 of blk-answer.ts; VIRTIO 1.3,
// 2.6.1, 2.7.1, 2.8.10; spec sections 3 and 4.

import { describe, expect, it } from 'vitest';
import { OP_RESET_QUEUE } from '../../src/abi/request.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import type { DriverQueueConfig } from '../../src/testing/guest/driver-queue.ts';
import { createDriverQueue } from '../../src/testing/guest/index.ts';
import { BlkDriver } from '../../src/testing/guest/blk.ts';
import { ENGINE_BASE } from '../driver.ts';
import {
  answer,
  expectBroken,
  expectIdle,
  FACES,
  fresh,
  packedOf,
  pattern,
  rigWith,
  send,
  splitOf,
  waiting,
} from './face.ts';
import { GuestRig } from './rig.ts';

const RESET = { flags: 0, segments: 0, data: 0, offset: 0, length: 0 };

/** What a driver says of its ring, and a rig that has not attached it. */
function unattached(face: { build: (typeof FACES)[number]['build']; packed: boolean }, size = 8) {
  const rig = new GuestRig(face.build, { queues: 2 });
  const queue = createDriverQueue(face.packed, { memory: rig.guest, size });
  return { rig, config: queue.config(), driver: new BlkDriver({ queue }) };
}

/** Takes back the commands that the host holds, as if it had never answered. */
function resetNow(rig: GuestRig, index: number): void {
  rig.setQueueState(abi.QUEUE_DEAD, index);
  rig.engine.submit({ ...RESET, tag: 9, op: OP_RESET_QUEUE, queue: index + 1 });
  rig.pump();
}

describe.each(FACES)('queues ($name)', (face) => {
  it('N1, VIRTIO 2.7, 2.8.10.1: sizes that no ring has are refused', () => {
    const { rig, config } = unattached(face);
    const bad = face.packed ? [0, 32_769, 65_536] : [0, 3, 100, 32_767, 32_769, 65_536];
    for (const size of bad) expect(rig.attach(0, { ...config, size })).toBe(abi.ATTACH_SIZE);
    expect(rig.queueWord(abi.QUEUE_STATE)).toBe(abi.QUEUE_OFF);
    expect(rig.attach(0, config)).toBe(0);
  });

  it('N1: the largest queue is one like any other', () => {
    const { rig, driver } = rigWith(face, { size: 32_768, features: { indirect: true } });
    driver.read(3, 512);
    rig.finish(driver);
    expectIdle(rig);
  });

  it('N2, VIRTIO 2.7, 2.8.10: parts that are not aligned are refused', () => {
    const { rig, config } = unattached(face);
    const by = face.packed
      ? ([
          ['desc', [1n, 8n]],
          ['driver', [1n, 2n]],
          ['device', [1n, 2n]],
        ] as const)
      : ([
          ['desc', [1n, 8n]],
          ['driver', [1n]],
          ['device', [1n, 2n]],
        ] as const);
    for (const [part, steps] of by) {
      for (const step of steps) {
        const moved: DriverQueueConfig = { ...config, [part]: config[part] + step };
        expect(rig.attach(0, moved)).toBe(abi.ATTACH_ALIGN);
      }
    }
  });

  it('N2: a part that does not lie in the memory whole is refused, wrapping ones too', () => {
    const { rig, config } = unattached(face);
    const end = rig.guestAddress + BigInt(rig.ramBytes);
    const bytes = {
      desc: 16n * 8n,
      driver: face.packed ? 4n : 6n + 16n,
      device: face.packed ? 4n : 6n + 64n,
    };
    for (const part of ['desc', 'driver', 'device'] as const) {
      const align = part === 'desc' ? 16n : 4n;
      const last = ((end - bytes[part]) / align) * align;
      const places = [end, last + align, rig.guestAddress - align, 0n, (1n << 64n) - 16n];
      for (const place of places) {
        expect(rig.attach(0, { ...config, [part]: place })).toBe(abi.ATTACH_RANGE);
      }
      expect(rig.attach(0, { ...config, [part]: last })).toBe(0);
      rig.reset();
    }
  });

  it('N2: parts that overlap are refused', () => {
    const { rig, config } = unattached(face);
    const { desc, driver, device } = config;
    const last = desc + 16n * 8n - 4n;
    for (const moved of [
      { driver: desc },
      { driver: last },
      { device: desc },
      { device: last },
      { device: driver },
      { driver: device },
      { desc: (driver / 16n) * 16n },
    ]) {
      expect(rig.attach(0, { ...config, ...moved })).toBe(abi.ATTACH_OVERLAP);
    }
    expect(rig.attach(0, { ...config, driver: desc + 16n * 8n })).toBe(0);
  });

  it('N1: a position that cannot be is refused', () => {
    const { rig, config } = unattached(face);
    const bad = face.packed
      ? [
          [8, 8],
          [0x8008, 0x8008],
          [0x8001, 0x8002],
          [1, 0x8001],
          [0x1_0000, 0x1_0000],
        ]
      : [
          [9, 0],
          [0, 1],
          [0x1_0000, 0xffff],
          [0x1_0000, 0x1_0000],
        ];
    for (const [nextAvail = 0, nextUsed = 0] of bad) {
      const position = { nextAvail, nextUsed };
      expect(rig.attach(0, { ...config, position })).toBe(abi.ATTACH_POSITION);
    }
  });

  it('a queue that the device does not have is refused', () => {
    const { rig, config } = unattached(face);
    expect(rig.attach(2, config)).toBe(abi.ATTACH_UNKNOWN);
    expect(rig.setQueueState(abi.QUEUE_PAUSED, 2)).toBe(abi.ATTACH_UNKNOWN);
    expect(rig.detach(2)).toBe(abi.ATTACH_UNKNOWN);
    expect(rig.exports.initDevice(ENGINE_BASE, 0)).toBe(0);
    expect(rig.exports.initDevice(ENGINE_BASE, abi.VIRTQUEUES + 1)).toBe(0);
  });

  it('N1: what the words say once a queue is on means nothing', () => {
    const { rig, driver } = rigWith(face);
    expect(rig.attach(0, driver.queue.config())).toBe(abi.ATTACH_BUSY);
    rig.view.setUint32(rig.queueAt(0) + abi.QUEUE_SIZE, 0, true);
    rig.view.setUint32(rig.queueAt(0) + abi.QUEUE_FLAGS, 0xff, true);
    for (const part of [abi.QUEUE_DESC, abi.QUEUE_DRIVER, abi.QUEUE_DEVICE]) {
      rig.view.setBigUint64(rig.queueAt(0) + part, 0n, true);
    }
    const read = driver.read(4, 512);
    rig.finish(driver);
    expect(read.data()).toEqual(fresh(4, 1));
  });

  it('a paused queue takes nothing, and returns what is in flight', () => {
    const { rig, driver } = rigWith(face);
    const first = driver.read(0, 512);
    send(rig, driver);
    expect(rig.setQueueState(abi.QUEUE_PAUSED)).toBe(0);
    const second = driver.read(10, 512);
    send(rig, driver);
    rig.settle();
    expect(driver.poll()).toEqual([first]);
    expect(rig.queueWord(abi.QUEUE_IN_FLIGHT)).toBe(0);
    expect(rig.setQueueState(abi.QUEUE_ON)).toBe(0);
    rig.settle();
    expect(driver.poll()).toEqual([second]);
  });

  it('states: only ON and PAUSED take turns; only what is on, paused or broken can die', () => {
    const { rig, config } = unattached(face);
    for (const state of [abi.QUEUE_ON, abi.QUEUE_PAUSED, abi.QUEUE_DEAD, abi.QUEUE_OFF]) {
      expect(rig.setQueueState(state)).toBe(abi.ATTACH_BUSY);
    }
    expect(rig.attach(0, config)).toBe(0);
    for (const state of [abi.QUEUE_BROKEN, abi.QUEUE_OFF, 5, 0xffff_ffff]) {
      expect(rig.setQueueState(state)).toBe(abi.ATTACH_BUSY);
    }
    expect(rig.setQueueState(abi.QUEUE_DEAD)).toBe(0);
    for (const state of [abi.QUEUE_ON, abi.QUEUE_PAUSED]) {
      expect(rig.setQueueState(state)).toBe(abi.ATTACH_BUSY);
    }
    expect(rig.detach()).toBe(0);
    expect(rig.queueWord(abi.QUEUE_STATE)).toBe(abi.QUEUE_OFF);
  });

  it('N4: a queue goes off when nothing of it is in flight, and says where it was', () => {
    for (const position of face.packed ? [0x8000, 3, 0x8007] : [0, 65_535, 77]) {
      const { rig, driver } = rigWith(face, { size: 8, position });
      expect(rig.detach()).toBe(abi.ATTACH_BUSY);
      driver.read(0, 512);
      send(rig, driver);
      rig.setQueueState(abi.QUEUE_PAUSED);
      expect(rig.detach()).toBe(abi.ATTACH_BUSY);
      rig.settle();
      expect(rig.detach()).toBe(0);
      expect(driver.poll()).toHaveLength(1);
      const nextAvail = rig.queueWord(abi.QUEUE_NEXT_AVAIL);
      const nextUsed = rig.queueWord(abi.QUEUE_NEXT_USED);
      expect(nextAvail).toBe(face.packed ? packedOf(driver).nextAvail : (position + 1) & 0xffff);
      expect(nextUsed).toBe(nextAvail);
      // It goes on from there: what the driver makes available meanwhile is found.
      const next = driver.read(5, 512);
      send(rig, driver);
      expect(rig.commands).toHaveLength(1);
      const config = { ...driver.queue.config(), position: { nextAvail, nextUsed } };
      expect(rig.attach(0, config)).toBe(0);
      rig.settle();
      expect(driver.poll()).toEqual([next]);
      expect(next.data()).toEqual(fresh(5, 1));
    }
  });

  it('N3: a broken queue returns what is in flight; others go on', () => {
    const { rig, driver } = rigWith(face, {}, { queues: 2 });
    const other = rig.addQueue(1, { packed: face.packed });
    const first = driver.read(0, 512);
    send(rig, driver);
    driver.queue.add([{ address: 1n, length: 1, writable: false }]);
    send(rig, driver);
    expectBroken(rig, abi.RING_ERROR_RANGE);
    answer(rig, 'READ 0+512');
    expect(driver.poll()).toEqual([first]);
    const good = other.read(9, 512);
    rig.finish(other, 1);
    expect(good.data()).toEqual(fresh(9, 1));
    expect(rig.setQueueState(abi.QUEUE_ON)).toBe(abi.ATTACH_BUSY);
  });

  it('N3, VIRTIO 2.6.1: after a reset a broken queue is as new', () => {
    const { rig, driver } = rigWith(face);
    driver.queue.add([{ address: 1n, length: 1, writable: false }]);
    send(rig, driver);
    expectBroken(rig, abi.RING_ERROR_RANGE);
    rig.reset();
    const again = rig.addQueue(0, { packed: face.packed });
    const read = again.read(9, 512);
    rig.finish(again);
    expect(read.data()).toEqual(fresh(9, 1));
    expect(rig.queueWord(abi.QUEUE_ERROR)).toBe(0);
    expectIdle(rig);
  });

  it('N4, U4, W4, VIRTIO 2.6.1: of a queue that is being reset nothing comes back', () => {
    for (const inOrder of [false, true]) {
      const { rig, driver } = rigWith(face, { features: { inOrder } });
      for (let i = 0; i < 8; i++) driver.write(i * 4, pattern(512, i));
      driver.flush();
      send(rig, driver);
      const ram = rig.guest.bytes(rig.ram, rig.ramBytes).slice();
      resetNow(rig, 0);
      expect(rig.detach()).toBe(abi.ATTACH_BUSY);
      rig.settle();
      expect(rig.engine.takeCompletions()).toEqual([expect.objectContaining({ status: 0 })]);
      expect(rig.detach()).toBe(0);
      expect(Buffer.compare(rig.guest.bytes(rig.ram, rig.ramBytes), ram)).toBe(0);
      expect(rig.takeInterrupts()).toBe(0n);
      expect(rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(0);
    }
  });

  it('N4: a reset is over only when the host has answered; no guest byte is written then', () => {
    const { rig, driver } = rigWith(face);
    driver.read(0, 512);
    send(rig, driver);
    resetNow(rig, 0);
    expect(rig.engine.takeCompletions()).toEqual([]);
    expect(waiting(rig)).toEqual(['READ 0+512']);
    rig.settle();
    expect(rig.engine.takeCompletions()).toHaveLength(1);
  });

  it('N4: what lies in the ring of a dead queue is not taken', () => {
    const { rig, driver } = rigWith(face);
    driver.read(0, 512);
    driver.publish();
    rig.notify();
    resetNow(rig, 0);
    rig.settle();
    expect(rig.commands).toEqual([]);
    expect(rig.detach()).toBe(0);
  });

  it('VIRTIO 2.6.1: heads that were in flight before a reset are free after it', () => {
    const { rig, driver } = rigWith(face, { size: 8 });
    driver.read(0, 512);
    send(rig, driver);
    rig.reset();
    const again = rig.addQueue(0, { packed: face.packed, size: 8 });
    const read = again.read(1, 512);
    rig.finish(again);
    expect(read.status).toBe(0);
    expect(face.packed || splitOf(again).usedIdx === 1).toBe(true);
  });
});
