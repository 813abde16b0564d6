// IN_ORDER: rule U2 of assembly/ring/used.ts; VIRTIO 1.3, 2.7.9, 2.8.5, spec section 2, bit 35.

import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/virtio-device.ts';
import type { BlkDriver } from '../../src/testing/guest/blk.ts';
import type { GuestRequest } from '../../src/testing/guest/blk-request.ts';
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

const IN_ORDER = { features: { inOrder: true } };

/** Used entries as they stand in the ring: ids, from the start of the ring on. */
function usedIds(driver: BlkDriver, places: readonly number[]): number[] {
  const { memory, device, desc, packed } = driver.queue;
  return places.map((place) =>
    packed
      ? memory.getU16(desc + BigInt(16 * place + 12))
      : memory.getU32(device + BigInt(4 + 8 * place)),
  );
}

describe.each(FACES)('IN_ORDER ($name)', (face) => {
  it('U2: what is decided early waits for what was made available before it', () => {
    const { rig, driver } = rigWith(face, IN_ORDER);
    const [first, second, third] = [0, 10, 20].map((sector) => driver.read(sector, 512));
    send(rig, driver);
    expect(waiting(rig)).toEqual(['READ 0+512', 'READ 5120+512', 'READ 10240+512']);
    answer(rig, 'READ 10240+512');
    answer(rig, 'READ 5120+512');
    expect(driver.poll()).toEqual([]);
    expect(rig.takeInterrupts()).toBe(0n);
    expect(rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(3);
    answer(rig, 'READ 0+512');
    expect(driver.poll()).toEqual([first, second, third]);
    expect(rig.takeInterrupts()).toBe(1n);
    expectIdle(rig);
  });

  it('U2: the first of the line goes alone when those behind it are not decided', () => {
    const { rig, driver } = rigWith(face, IN_ORDER);
    const [first, second, third] = [0, 10, 20].map((sector) => driver.read(sector, 512));
    send(rig, driver);
    answer(rig, 'READ 10240+512');
    answer(rig, 'READ 0+512');
    expect(driver.poll()).toEqual([first]);
    answer(rig, 'READ 5120+512');
    expect(driver.poll()).toEqual([second, third]);
    expectIdle(rig);
  });

  it('U2: what needs no I/O waits for its turn too', () => {
    const { rig, driver } = rigWith(face, IN_ORDER);
    const read = driver.read(0, 512);
    const id = driver.getId();
    const bad = driver.raw(77);
    send(rig, driver);
    expect(driver.poll()).toEqual([]);
    answer(rig, 'READ 0+512');
    expect(driver.poll()).toEqual([read, id, bad]);
    expect([read.status, id.status, bad.status]).toEqual([0, 0, 2]);
  });

  it('VIRTIO 2.7.9, 2.8.5: one used entry with the last id stands for all that are decided', () => {
    const { rig, driver } = rigWith(face, IN_ORDER);
    const before = face.packed ? 0xa5 : 0;
    const made = [0, 10, 20, 30].map((sector) => driver.read(sector, 512));
    send(rig, driver);
    for (const at of [5120, 10240, 0]) answer(rig, `READ ${at}+512`);
    const ids = usedIds(driver, face.packed ? [0] : [0, 1, 2]);
    expect(ids[0]).toBe(made[2]?.token);
    if (!face.packed) expect(ids.slice(1)).toEqual([before, before]);
    if (!face.packed) expect(splitOf(driver).usedIdx).toBe(3);
    expect(driver.poll()).toEqual(made.slice(0, 3));
    answer(rig, 'READ 15360+512');
    // The places of the batch are skipped: split, three; packed, three lists of three.
    expect(usedIds(driver, [face.packed ? 9 : 3])).toEqual([made[3]?.token]);
    expect(driver.poll()).toEqual(made.slice(3));
    expectIdle(rig);
  });

  it('U2: of a batch the used length is the last one', () => {
    const { rig, driver } = rigWith(face, IN_ORDER);
    const read = driver.read(0, 1024);
    const write = driver.write(9, pattern(512));
    send(rig, driver);
    answer(rig, 'WRITE 4608+512');
    answer(rig, 'READ 0+1024');
    expect(driver.poll()).toEqual([read, write]);
    expect(write.usedLength).toBe(1);
    expect(read.data()).toEqual(fresh(0, 2));
  });

  it('U2: lists run round the ring for long', () => {
    for (const features of [{ inOrder: true }, { inOrder: true, indirect: true, eventIdx: true }]) {
      const { rig, driver } = rigWith(face, { size: face.packed ? 13 : 16, features });
      for (let i = 0; i < 60; i++) {
        const made: GuestRequest[] = [];
        for (let n = 0; n <= i % 3; n++) made.push(driver.read(20 * n + i, 512));
        send(rig, driver);
        // In a call for each, from the last to the first: all of them are one used entry.
        while (rig.inFlight.length > 0) {
          expect(driver.poll()).toEqual([]);
          rig.answer(rig.inFlight.length - 1);
          rig.pump();
        }
        expect(driver.poll()).toEqual(made);
        for (const [n, read] of made.entries()) {
          expect(read.data()).toEqual(fresh(20 * n + i, 1));
          driver.release(read);
        }
      }
      expectIdle(rig);
    }
  });

  it('U2: I/O behind the ring is free: what does not conflict is sent at once', () => {
    const { rig, driver } = rigWith(face, IN_ORDER);
    driver.write(0, pattern(512));
    driver.read(100, 512);
    driver.write(0, pattern(512, 9));
    send(rig, driver);
    expect(waiting(rig)).not.toContain('WRITE 0+1024');
    expect(waiting(rig)).toContain('READ 51200+512');
    rig.settle();
    expect(driver.poll().map(({ status }) => status)).toEqual([0, 0, 0]);
    expect(rig.disk.subarray(0, 512)).toEqual(pattern(512, 9));
  });

  it('U2, N3: after the queue broke the line goes on, and nothing is made up', () => {
    const { rig, driver } = rigWith(face, IN_ORDER);
    const [first, second] = [0, 10].map((sector) => driver.read(sector, 512));
    driver.read(3, 512);
    if (face.packed) packedOf(driver).pokeDescriptor(7, { address: 1n });
    else splitOf(driver).pokeDescriptor(7, { address: 1n });
    send(rig, driver);
    expectBroken(rig, abi.RING_ERROR_RANGE);
    answer(rig, 'READ 5120+512');
    expect(driver.poll()).toEqual([]);
    answer(rig, 'READ 0+512');
    expect(driver.poll()).toEqual([first, second]);
    expect(rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(0);
  });

  it('U2: queues have lines of their own', () => {
    const { rig, driver } = rigWith(face, IN_ORDER, { queues: 2 });
    const other = rig.addQueue(1, { packed: face.packed, ...IN_ORDER });
    const slow = driver.read(0, 512);
    const quick = other.read(10, 512);
    driver.publish();
    send(rig, other, 1);
    rig.notify(0);
    rig.pump();
    answer(rig, 'READ 5120+512');
    expect([driver.poll(), other.poll()]).toEqual([[], [quick]]);
    answer(rig, 'READ 0+512');
    expect(driver.poll()).toEqual([slow]);
  });

  it('VIRTIO 2.7.9: without IN_ORDER used entries come in the order of completion', () => {
    const { rig, driver } = rigWith(face);
    const [first, second] = [0, 10].map((sector) => driver.read(sector, 512));
    send(rig, driver);
    answer(rig, 'READ 5120+512');
    expect(driver.poll()).toEqual([second]);
    answer(rig, 'READ 0+512');
    expect(driver.poll()).toEqual([first]);
  });

  it('U4: a reset frees what is decided and waits for what is not', () => {
    const { rig, driver } = rigWith(face, { features: { inOrder: true } });
    driver.write(1, new Uint8Array(512));
    driver.getId();
    send(rig, driver);
    expect(rig.inFlight).toHaveLength(1);
    rig.reset();
    expect(rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(0);
  });
});
