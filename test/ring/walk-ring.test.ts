// Descriptor chains of one layout of the ring: rules K2 and K5 of assembly/ring/walk.ts; VIRTIO
// 1.3, 2.7.5, 2.8.7.

import { describe, it, expect } from 'vitest';
import { VIRTIO_BLK_T_OUT } from '../../src/abi/virtio-blk.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import {
  VIRTQ_DESC_F_INDIRECT as INDIRECT,
  VIRTQ_DESC_F_NEXT as NEXT,
} from '../../src/abi/virtio-ring.ts';
import type { Descriptor } from '../../src/testing/guest/driver-queue.ts';
import { cutFraming, indirectFraming } from '../../src/testing/guest/framing.ts';
import { BUILDS } from '../support/engine.ts';
import { addFlags, expectIdle, expectRefused, pattern, rigWith, splitOf } from './face.ts';

const INDIRECT_QUEUE = { features: { indirect: true } };

describe.each(BUILDS)('chains of the split ring ($name build)', (build) => {
  const face = { name: build.name, build, packed: false };

  it.each([
    ['itself', 0, 0],
    ['the head', 2, 0],
    ['the one before', 2, 1],
  ])('K2, 3.1.4: a `next` that names %s is a loop', (_name, from, next) => {
    const { rig, driver } = rigWith(face, { size: 8 });
    driver.raw(VIRTIO_BLK_T_OUT, { out: 512, alter: (chain) => [...chain, ...chain].slice(0, 2) });
    splitOf(driver).pokeDescriptor(from === 2 ? 1 : from, { next, flags: NEXT });
    driver.publish();
    rig.finish(driver);
    expectRefused(rig, driver, abi.RING_ERROR_LOOP);
  });

  it.each([8, 9, 0xffff])('3.1.3: `next` %d in a table of 8 breaks the queue', (next) => {
    const { rig, driver } = rigWith(face, { size: 8 });
    driver.read(0, 512);
    splitOf(driver).pokeDescriptor(1, { next });
    rig.finish(driver);
    expectRefused(rig, driver, abi.RING_ERROR_NEXT);
  });

  it('3.1.3, K2: `next` in an indirect table stays in it and ends', () => {
    for (const [next, error] of [
      [3, abi.RING_ERROR_NEXT],
      [0, abi.RING_ERROR_LOOP],
      [99, abi.RING_ERROR_NEXT],
    ] as const) {
      const { rig, driver } = rigWith(face, { ...INDIRECT_QUEUE, size: 128 });
      driver.write(0, pattern(512));
      const queue = splitOf(driver);
      const table = queue.memory.resolve(queue.memory.getU64(queue.descriptorPlace(0)));
      queue.memory.setU16(table + 16 + 14, next);
      rig.finish(driver);
      expectRefused(rig, driver, error);
    }
  });

  it('K5, 3.1.6: INDIRECT in an indirect table breaks the queue', () => {
    const { rig, driver } = rigWith(face, INDIRECT_QUEUE);
    driver.read(0, 512);
    const queue = splitOf(driver);
    const table = queue.memory.resolve(queue.memory.getU64(queue.descriptorPlace(0)));
    queue.memory.setU16(table + 16 + 12, INDIRECT);
    rig.finish(driver);
    expectRefused(rig, driver, abi.RING_ERROR_INDIRECT_NESTED);
  });

  it('K5, VIRTIO 2.7.5.3.2: direct descriptors may come before an indirect table', () => {
    const { rig, driver } = rigWith(face, INDIRECT_QUEUE);
    for (const direct of [1, 2, 3]) {
      const framing = indirectFraming(cutFraming([16, 100, 412]), direct);
      const write = driver.write(direct, pattern(512, direct), framing);
      rig.finish(driver);
      expect([write.status, write.usedLength]).toEqual([0, 1]);
      expect(rig.disk.subarray(direct * 512, direct * 512 + 512)).toEqual(pattern(512, direct));
    }
    expectIdle(rig);
  });

  it('K2: a chain has no more descriptors in its tables together than 1024', () => {
    for (const [descriptors, isSound] of [
      [1024, true],
      [1025, false],
    ] as const) {
      const { rig, driver } = rigWith(face, { ...INDIRECT_QUEUE, size: 1024 });
      const empty: Descriptor = { address: 0n, length: 0, writable: true };
      const chain = Array.from({ length: descriptors }, () => empty);
      driver.queue.add(chain, 600);
      rig.finish(driver);
      if (isSound) expectIdle(rig);
      else expectRefused(rig, driver, abi.RING_ERROR_DESCRIPTORS);
    }
  });
});

describe.each(BUILDS)('lists of the packed ring ($name build)', (build) => {
  const face = { name: build.name, build, packed: true };

  it('K5, VIRTIO 2.8.7: INDIRECT after NEXT breaks the queue', () => {
    const { rig, driver } = rigWith(face, INDIRECT_QUEUE);
    // The table would be good: one entry of no bytes.
    const table = rig.guest.allocateCleared(16);
    driver.queue.add([
      { address: table, length: 16, writable: false },
      { address: table, length: 16, writable: false },
    ]);
    addFlags(driver, 1, INDIRECT);
    rig.finish(driver);
    expectRefused(rig, driver, abi.RING_ERROR_INDIRECT_NEXT);
  });
});
