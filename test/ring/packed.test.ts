// The packed virtqueue: rules P1-P3 of assembly/ring/packed.ts; VIRTIO 1.3, 2.8.

import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/virtio-device.ts';
import { VIRTIO_BLK_T_GET_ID } from '../../src/abi/virtio-blk.ts';
import {
  VIRTQ_DESC_F_NEXT as NEXT,
  VIRTQ_DESC_F_WRITE as WRITE,
} from '../../src/abi/virtio-ring.ts';
import type { PackedDriver } from '../../src/testing/guest/packed.ts';
import { pokePackedDescriptor } from '../../src/testing/guest/packed-descriptor.ts';
import { BUILDS } from '../support/engine.ts';
import {
  answer,
  expectBroken,
  expectIdle,
  fresh,
  packedOf,
  rigWith,
  send,
  waiting,
} from './face.ts';

const AVAIL = 0x80;
const USED = 0x8000;

/** The flags, id and length of a descriptor of the ring. */
function used(queue: PackedDriver, slot: number): { flags: number; id: number; length: number } {
  const at = queue.descriptorPlace(slot);
  const { memory } = queue;
  const length = memory.getU32(at + 8);
  return { flags: memory.getU16(at + 14), id: memory.getU16(at + 12), length };
}

describe.each(BUILDS)('packed virtqueue ($name build)', (build) => {
  const face = { name: build.name, build, packed: true };

  it.each([
    [0, 0],
    [AVAIL | USED, 0],
    [USED, 0],
    [AVAIL, 1],
  ])('P1, VIRTIO 2.8.1: in the first lap flags %d make %d lists available', (flags, count) => {
    const { rig, driver } = rigWith(face, { size: 8, features: { indirect: true } });
    driver.flush();
    driver.publish();
    packedOf(driver).pokeDescriptor(0, { flags: flags | 4 });
    rig.run();
    expect(rig.commands).toHaveLength(count);
    expectIdle(rig);
  });

  it.each([
    [0, 0],
    [AVAIL | USED, 0],
    [USED, 1],
    [AVAIL, 0],
  ])('P1, VIRTIO 2.8.1: in the second lap flags %d make %d available', (flags, count) => {
    const { rig, driver } = rigWith(face, { size: 8, features: { indirect: true }, position: 3 });
    driver.flush();
    driver.publish();
    packedOf(driver).pokeDescriptor(3, { flags: flags | 4 });
    rig.run();
    expect(rig.commands).toHaveLength(count);
    expectIdle(rig);
  });

  it('P1, 3.1.11: more descriptors in flight than the ring has break it', () => {
    const { rig, driver } = rigWith(face, { size: 4 });
    const first = driver.read(0, 512);
    send(rig, driver);
    // Three are in flight; a list of two would use one of them.
    const queue = packedOf(driver);
    const where = { address: queue.desc, length: 16 };
    queue.offer([
      { ...where, id: 9, flags: NEXT },
      { ...where, id: 9, flags: WRITE },
    ]);
    send(rig, driver);
    expectBroken(rig, abi.RING_ERROR_AVAIL_INDEX);
    expect(rig.queueWord(abi.QUEUE_ERROR_HEAD)).toBe(3);
    rig.settle();
    expect(first.status).toBe(undefined);
    expect(used(queue, 0)).toEqual({ flags: AVAIL | USED | WRITE, id: first.token, length: 513 });
  });

  it('P1: a ring may be full to the last descriptor', () => {
    const { rig, driver } = rigWith(face, { size: 6 });
    driver.read(0, 512);
    driver.read(9, 512);
    send(rig, driver);
    expect(rig.queueWord(abi.QUEUE_IN_FLIGHT)).toBe(2);
    rig.settle();
    expect(driver.poll().map(({ status }) => status)).toEqual([0, 0]);
    expectIdle(rig);
  });

  it('P2, VIRTIO 2.8.1, 2.8.2: a used descriptor has id, length and both flags of its lap', () => {
    const { rig, driver } = rigWith(face, { size: 4 });
    const queue = packedOf(driver);
    const read = driver.read(2, 512);
    rig.finish(driver);
    expect(used(queue, 0)).toEqual({ flags: AVAIL | USED | WRITE, id: read.token, length: 513 });
    const next = driver.flush();
    rig.finish(driver);
    // Used in slot 3, while the wrap counter is still 1; the next one has the other lap's flags.
    expect(used(queue, 3)).toEqual({ flags: AVAIL | USED | WRITE, id: next.token, length: 1 });
    const last = driver.read(3, 512);
    rig.finish(driver);
    expect(used(queue, 1)).toEqual({ flags: WRITE, id: last.token, length: 513 });
    expectIdle(rig);
  });

  it('P2, VIRTIO 2.8.4: WRITE is set in a used descriptor only when its length counts', () => {
    const { rig, driver } = rigWith(face, { size: 8 });
    const bare = driver.raw(VIRTIO_BLK_T_GET_ID, { status: 0 });
    rig.finish(driver);
    expect(used(packedOf(driver), 0)).toEqual({ flags: AVAIL | USED, id: bare.token, length: 0 });
    expect(bare.usedLength).toBe(0);
  });

  it('P2: all lists of a batch become visible in one call', () => {
    const { rig, driver } = rigWith(face, { size: 32 });
    const made = Array.from({ length: 8 }, () => driver.getId());
    send(rig, driver);
    expect(driver.poll()).toEqual(made);
  });

  it('P3, VIRTIO 2.8.3: used in the order of completion, one place for each list', () => {
    const { rig, driver } = rigWith(face, { size: 8 });
    const queue = packedOf(driver);
    const slow = driver.read(0, 512);
    const quick = driver.write(9, new Uint8Array(512));
    const flags = used(queue, 1).flags;
    send(rig, driver);
    answer(rig, 'WRITE 4608+512');
    expect(used(queue, 0)).toEqual({ flags: AVAIL | USED | WRITE, id: quick.token, length: 1 });
    expect(used(queue, 1).flags).toBe(flags);
    expect(driver.poll()).toEqual([quick]);
    answer(rig, 'READ 0+512');
    expect(used(queue, 3)).toEqual({ flags: AVAIL | USED | WRITE, id: slow.token, length: 513 });
    expect(driver.poll()).toEqual([slow]);
  });

  it.each([1, 3, 5, 7, 33])('VIRTIO 2.8.10.1: %d descriptors are a ring', (size) => {
    const { rig, driver } = rigWith(face, { size, features: { indirect: true } });
    for (let i = 0; i < 2 * size + 3; i++) {
      const read = driver.read(i, 512);
      rig.finish(driver);
      expect(read.status).toBe(0);
      expect(read.data()).toEqual(fresh(i, 1));
      driver.release(read);
    }
    expectIdle(rig);
  });

  it('VIRTIO 2.8.1: lists that run round the end of the ring are whole', () => {
    for (let start = 0; start < 7; start++) {
      for (const wrap of [0, 0x8000]) {
        const { rig, driver } = rigWith(face, { size: 7, position: start | wrap });
        for (let i = 0; i < 11; i++) {
          const read = driver.read(i, 1024);
          const flush = driver.flush();
          rig.finish(driver);
          expect([read.status, flush.status, read.damage()]).toEqual([0, 0, []]);
          driver.release(read);
          driver.release(flush);
        }
        expectIdle(rig);
      }
    }
  });

  it('VIRTIO 2.8.6: the buffer id is that of the last descriptor of the list, any 16 bits', () => {
    const { rig, driver } = rigWith(face, { size: 8 });
    const queue = packedOf(driver);
    const header = driver.read(5, 512).chain[0]?.address ?? 0n;
    queue.pokeDescriptor(2, { id: 0xffff });
    rig.finish(driver);
    expect(used(queue, 0).id).toBe(0xffff);
    expect(driver.strays).toEqual([{ token: 0xffff, length: 513, known: false }]);
    expect(header).not.toBe(0n);
    expectIdle(rig);
  });

  it('VIRTIO 2.8.7: of an indirect table only address, length and WRITE count', () => {
    const { rig, driver } = rigWith(face, { size: 4, features: { indirect: true } });
    const queue = packedOf(driver);
    const read = driver.read(5, 512);
    const table = queue.memory.resolve(queue.memory.getU64(queue.descriptorPlace(0)));
    for (const [index, flags] of [NEXT | 4, WRITE | NEXT | 0xff80, WRITE | NEXT | 4].entries()) {
      pokePackedDescriptor(queue.memory, table + 16 * index, { flags, id: 77 + index });
    }
    rig.finish(driver);
    expect(read.status).toBe(0);
    expect(read.data()).toEqual(fresh(5, 1));
    expect(used(queue, 0).id).toBe(read.token);
    // It has taken one place.
    expect(rig.queueWord(abi.QUEUE_STATE)).toBe(abi.QUEUE_ON);
    const next = driver.read(6, 512);
    rig.finish(driver);
    expect(used(queue, 1).id).toBe(next.token);
  });

  it('T4, 3.1.11: a buffer id that is in flight breaks the queue, in one batch or in two', () => {
    for (const batches of [1, 2]) {
      const { rig, driver } = rigWith(face, { size: 8 });
      const queue = packedOf(driver);
      const read = driver.read(0, 512);
      if (batches === 2) send(rig, driver);
      driver.flush();
      queue.pokeDescriptor(4, { id: read.token });
      send(rig, driver);
      expectBroken(rig, abi.RING_ERROR_IN_FLIGHT);
      expect(waiting(rig)).toEqual(['READ 0+512']);
      rig.settle();
      expect(used(queue, 0)).toEqual({ flags: AVAIL | USED | WRITE, id: read.token, length: 513 });
      expect(used(queue, 3).flags & USED).toBe(0);
    }
  });
});
