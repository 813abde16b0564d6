// Descriptor chains: rules K1-K7 of assembly/ring/walk.ts and I1, I3 of assembly/guest.ts; VIRTIO
// 1.3, 2.7.4-2.7.5, 2.8.5-2.8.7, 2.8.17.

import { describe, expect, it } from 'vitest';
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../src/abi/virtio-blk.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import {
  VIRTQ_DESC_F_NEXT as NEXT,
  VIRTQ_DESC_F_WRITE as WRITE,
} from '../../src/abi/virtio-ring.ts';
import type { BlkDriver } from '../../src/testing/guest/blk.ts';
import type { Descriptor } from '../../src/testing/guest/driver-queue.ts';
import {
  cutFraming,
  directFraming,
  indirectFraming,
  plainFraming,
  withEmptyDescriptors,
} from '../../src/testing/guest/framing.ts';
import {
  addFlags,
  answer,
  expectBroken,
  expectIdle,
  expectRefused,
  FACES,
  fresh,
  packedOf,
  pattern,
  rigWith,
  send,
  splitOf,
} from './face.ts';

const MiB = 1024 * 1024;
const INDIRECT_QUEUE = { features: { indirect: true } };

/** Writes the length of a descriptor of the ring. */
function setLength(driver: BlkDriver, index: number, length: number): void {
  const queue = driver.queue.packed ? packedOf(driver) : splitOf(driver);
  driver.queue.memory.setU32(queue.descriptorPlace(index) + 8, length);
}

describe.each(FACES)('descriptor chains ($name)', (face) => {
  it('K1, 3.1.12: what a chain says is read once; later changes of it mean nothing', () => {
    const { rig, driver } = rigWith(face, INDIRECT_QUEUE);
    const data = pattern(1024);
    const write = driver.write(3, data);
    const { memory } = driver.queue;
    driver.publish();
    rig.notify();
    rig.pump();
    const header = write.chain[0]?.address ?? 0;
    memory.setU32(header, VIRTIO_BLK_T_IN);
    memory.setU64(Number(header) + 8, 100n);
    const at = driver.queue.packed ? packedOf(driver) : splitOf(driver);
    const table = memory.resolve(memory.getU64(at.descriptorPlace(0)));
    memory.bytes(table, 48).fill(0xff);
    memory.bytes(at.descriptorPlace(0), 12).fill(0xff);
    rig.settle();
    expect(rig.disk.subarray(3 * 512, 5 * 512)).toEqual(data);
    driver.poll();
    expect([write.status, write.usedLength]).toEqual([0, 1]);
    expectIdle(rig);
  });

  it('K1: data that lands on the descriptors does not change the chain', () => {
    const { rig, driver } = rigWith(face);
    const queue = driver.queue.packed ? packedOf(driver) : splitOf(driver);
    const read = driver.raw(VIRTIO_BLK_T_IN, {
      in: 512,
      sector: 0xa5,
      alter: ([header, data, status]) => [
        header as Descriptor,
        { ...(data as Descriptor), address: queue.desc + 512n },
        status as Descriptor,
      ],
    });
    rig.finish(driver);
    expect([read.status, read.usedLength]).toEqual([0, 513]);
    expect(queue.memory.bytes(queue.desc + 512n, 512)).toEqual(fresh(0xa5, 1));
  });

  it('K2, 3.1.4: as many descriptors as the ring has are a chain, a longer one is a loop', () => {
    const framing = cutFraming([16, 64, 64, 64, 64, 64, 64, 64, 65]);
    const { rig, driver } = rigWith(face, { size: face.packed ? 10 : 16 });
    const write = driver.write(1, pattern(512), framing);
    rig.finish(driver);
    expect(write.status).toBe(0);
    const free = driver.queue.size;
    const each: Descriptor = { address: driver.queue.desc, length: 1, writable: false };
    driver.queue.add(Array.from({ length: free }, () => each));
    driver.publish();
    for (let index = 0; index < free; index++) addFlags(driver, index, NEXT);
    const before = rig.commands.length;
    send(rig, driver);
    expectBroken(rig, abi.RING_ERROR_LOOP);
    expect(rig.commands).toHaveLength(before);
  });

  it('K2, 3.1.4: 1024 descriptors are taken, one more breaks the queue', () => {
    for (const [descriptors, status] of [
      [1024, 0],
      [1025, undefined],
    ] as const) {
      const { rig, driver } = rigWith(face, INDIRECT_QUEUE);
      const sectors = 16;
      const data = descriptors - 2;
      const each = Math.floor((sectors * 512) / data);
      const rest = sectors * 512 - each * (data - 1);
      const framing = cutFraming([16, ...Array.from({ length: data - 1 }, () => each), rest]);
      const write = driver.write(8, pattern(sectors * 512), framing);
      expect(write.chain).toHaveLength(descriptors);
      rig.finish(driver);
      expect(write.status).toBe(status);
      if (status === 0) {
        expect(rig.disk.subarray(8 * 512, 24 * 512)).toEqual(pattern(sectors * 512));
        expectIdle(rig);
      } else expectRefused(rig, driver, abi.RING_ERROR_DESCRIPTORS);
    }
  });

  it('K3, 3.1.7, VIRTIO 2.7.4.2: a readable buffer after a writable one breaks the queue', () => {
    for (const features of [{}, { indirect: true }]) {
      const { rig, driver } = rigWith(face, { features });
      driver.raw(VIRTIO_BLK_T_OUT, {
        out: 512,
        alter: ([header, data, status]) => [header, status, data] as Descriptor[],
      });
      rig.finish(driver);
      expectRefused(rig, driver, abi.RING_ERROR_ORDER);
      expect(rig.queueWord(abi.QUEUE_ERROR_DESCRIPTOR)).toBe(2);
    }
  });

  it('K3: an empty readable buffer after a writable one is one all the same', () => {
    const { rig, driver } = rigWith(face);
    driver.raw(VIRTIO_BLK_T_IN, {
      in: 512,
      alter: (chain) => [...chain, { address: 0n, length: 0, writable: false }],
    });
    rig.finish(driver);
    expectRefused(rig, driver, abi.RING_ERROR_ORDER);
  });

  it.each([
    ['behind the memory', (end: bigint) => end, 512],
    ['one byte past the memory', (end: bigint) => end - 511n, 512],
    ['before the memory', (end: bigint) => end - 4n * BigInt(MiB) - 1n, 512],
    ['at an address cut to 32 bits', (end: bigint) => (end - 4096n) & 0xffff_ffffn, 512],
    ['at 2^64 - 1', () => 0xffff_ffff_ffff_ffffn, 512],
    ['that ends at 2^64', () => 0xffff_ffff_ffff_fe00n, 512],
    ['that wraps 64 bits', () => 0xffff_ffff_ffff_f000n, 0xffff_f000],
    ['of 2^32 - 1 bytes', (end: bigint) => end - 4096n, 0xffff_ff00],
  ])('K4, I1, I3, 3.1.8: a buffer %s breaks the queue', (_name, addressOf, length) => {
    const { rig, driver } = rigWith(face);
    const end = rig.guestAddress + BigInt(rig.ramBytes);
    const before = rig.guest.u8.slice(rig.ram + rig.ramBytes);
    driver.raw(VIRTIO_BLK_T_IN, {
      in: 512,
      alter: ([header, data, status]) =>
        [header, { ...data, address: addressOf(end), length }, status] as Descriptor[],
    });
    rig.finish(driver);
    expectRefused(rig, driver, abi.RING_ERROR_RANGE);
    expect(rig.queueWord(abi.QUEUE_ERROR_DESCRIPTOR)).toBe(1);
    expect(rig.guest.u8.slice(rig.ram + rig.ramBytes)).toEqual(before);
  });

  it('K4, I1: a buffer up to the last byte of the memory is read and written', () => {
    const { rig, driver } = rigWith(face);
    const address = rig.guestAddress + BigInt(rig.ramBytes) - 512n;
    const read = driver.raw(VIRTIO_BLK_T_IN, {
      in: 512,
      sector: 7,
      alter: ([header, data, status]) => [header, { ...data, address }, status] as Descriptor[],
    });
    rig.finish(driver);
    expect(read.status).toBe(0);
    expect(rig.guest.bytes(address, 512)).toEqual(fresh(7, 1));
  });

  it.each([0, 1, 15, 47, 1000])('K5, 3.1.5: an indirect table of %d bytes', (length) => {
    const { rig, driver } = rigWith(face, INDIRECT_QUEUE);
    driver.read(0, 512);
    setLength(driver, 0, length);
    rig.finish(driver);
    expectRefused(rig, driver, abi.RING_ERROR_INDIRECT_LENGTH);
  });

  it('K5, 3.1.5: an indirect table of more than 65535 entries', () => {
    for (const [entries, error] of [
      [65_536, abi.RING_ERROR_INDIRECT_LENGTH],
      [65_535, abi.RING_ERROR_RANGE],
    ] as const) {
      const { rig, driver } = rigWith(face, INDIRECT_QUEUE, { ramBytes: MiB });
      driver.read(0, 512);
      setLength(driver, 0, entries * 16);
      rig.finish(driver);
      expectRefused(rig, driver, error);
    }
  });

  it('K5, 3.1.5: an indirect table that is not in the memory', () => {
    const { rig, driver } = rigWith(face, INDIRECT_QUEUE);
    driver.read(0, 512);
    const queue = driver.queue.packed ? packedOf(driver) : splitOf(driver);
    const end = rig.guestAddress + BigInt(rig.ramBytes);
    queue.pokeDescriptor(0, { address: end - 32n });
    rig.finish(driver);
    expectRefused(rig, driver, abi.RING_ERROR_RANGE);
  });

  it('K5, 3.1.6: INDIRECT that was not negotiated breaks the queue', () => {
    const { rig, driver } = rigWith(face);
    driver.read(0, 512, indirectFraming(plainFraming));
    rig.finish(driver);
    expectRefused(rig, driver, abi.RING_ERROR_INDIRECT_FEATURE);
  });

  it('K5, 3.1.6: INDIRECT together with NEXT breaks the queue', () => {
    const { rig, driver } = rigWith(face, INDIRECT_QUEUE);
    driver.read(0, 512);
    driver.publish();
    addFlags(driver, 0, NEXT);
    rig.finish(driver);
    expectRefused(rig, driver, abi.RING_ERROR_INDIRECT_NEXT);
  });

  it('K5, VIRTIO 2.7.5.3.2, 2.8.7: WRITE on the descriptor of a table is ignored', () => {
    const { rig, driver } = rigWith(face, INDIRECT_QUEUE);
    const write = driver.write(2, pattern(512));
    driver.publish();
    addFlags(driver, 0, WRITE);
    rig.finish(driver);
    expect([write.status, write.usedLength]).toEqual([0, 1]);
    expect(rig.disk.subarray(1024, 1536)).toEqual(pattern(512));
  });

  it('K5: a table may have unused entries, and be anywhere', () => {
    const { rig, driver } = rigWith(face, INDIRECT_QUEUE);
    const read = driver.read(4, 4096, indirectFraming(cutFraming([512])));
    rig.finish(driver);
    expect(read.data()).toEqual(fresh(4, 8));
    const plain = driver.read(4, 4096, directFraming(plainFraming));
    rig.finish(driver);
    expect(plain.data()).toEqual(fresh(4, 8));
    expectIdle(rig);
  });

  it('K6, 3.1.10: buffers of no length are left out, wherever they say that they lie', () => {
    for (const features of [{}, { indirect: true }]) {
      const { rig, driver } = rigWith(face, { features });
      const framing = withEmptyDescriptors(cutFraming([5, 100, 7]));
      const read = driver.raw(VIRTIO_BLK_T_IN, {
        in: 512,
        sector: 9,
        framing,
        alter: (chain) =>
          chain.map((buffer, index) =>
            buffer.length === 0 ? { ...buffer, address: BigInt(index) << 60n } : buffer,
          ),
      });
      rig.finish(driver);
      expect([read.status, read.usedLength]).toEqual([0, 513]);
      expect(read.data()).toEqual(fresh(9, 1));
      expect(read.damage()).toEqual([]);
    }
  });

  it('K6: a chain of nothing but empty buffers comes back with nothing written', () => {
    const { rig, driver } = rigWith(face);
    driver.queue.add([
      { address: 0n, length: 0, writable: false },
      { address: 0n, length: 0, writable: true },
    ]);
    rig.finish(driver);
    expect(driver.strays).toEqual([expect.objectContaining({ length: 0 })]);
    expectIdle(rig);
  });

  it('K7, 3.1.9: the lengths of a chain add up to less than 4 GiB', () => {
    for (const [short, isSound] of [
      [1, true],
      [0, false],
    ] as const) {
      const { rig, driver } = rigWith(face, INDIRECT_QUEUE);
      const whole = { address: rig.guestAddress, length: 4 * MiB, writable: true };
      const chain = Array.from({ length: 1024 }, () => whole);
      // The last one ends behind the rings, which lie at the start of the memory.
      const last = { ...whole, length: 4 * MiB - short };
      driver.queue.add([...chain.slice(1), last], 0);
      rig.finish(driver);
      expect(rig.commands).toEqual([]);
      if (isSound) expectIdle(rig);
      else expectRefused(rig, driver, abi.RING_ERROR_BYTES);
    }
  });

  it('N3, 3.1.13: a bad chain between good ones: those before it are finished', () => {
    const { rig, driver } = rigWith(face);
    const good = driver.write(1, pattern(512));
    driver.raw(VIRTIO_BLK_T_IN, {
      in: 512,
      alter: (chain) => chain.map((buffer) => ({ ...buffer, address: 1n })),
    });
    const never = driver.write(2, pattern(512));
    send(rig, driver);
    expectBroken(rig, abi.RING_ERROR_RANGE);
    answer(rig, 'WRITE 512+512');
    expect(driver.poll()).toEqual([good]);
    rig.run();
    expect(driver.poll()).toEqual([]);
    expect(never.used).toBe(false);
    expect(rig.disk.subarray(1024, 1536)).toEqual(fresh(2, 1));
  });
});
