/** V77 to V81, V87: what the host says of a ring, and when that counts. */

import { expect } from 'vitest';
import { VIRTIO_BLK_T_IN } from '../../../src/abi/virtio-blk.ts';
import * as abi from '../../../src/abi/virtio-device.ts';
import type { DriverQueueConfig } from '../../../src/testing/guest/driver-queue.ts';
import { ENGINE_BASE } from '../../driver.ts';
import { both, each, type Play, type Row } from './row.ts';
import { BODY, DESC, DEVICE, DRIVER, MEM, type World } from './world.ts';

const OFF = { attached: false } as const;

/** What is to be refused, beside what it would be right. */
type Wrong = Partial<Pick<DriverQueueConfig, 'desc' | 'driver' | 'device' | 'position'>>;

/** Each of these is refused, and nothing is touched. */
function refused(error: number, wrongs: (world: World) => readonly Wrong[]): Play {
  return (world) => {
    for (const wrong of wrongs(world)) {
      expect(world.rig.attach(0, { ...world.config(), ...wrong })).toBe(error);
      expect(world.rig.queueWord(abi.QUEUE_STATE)).toBe(abi.QUEUE_OFF);
    }
    world.run();
  };
}

/** The read of sector 3 is served. */
function served(world: World): void {
  world.offer(world.request(VIRTIO_BLK_T_IN, 3, 512));
  world.run({ used: [{ length: 513 }], writes: world.readWrites() });
}

/** The host's words of queue 0 say something else. */
function rewrite(world: World, words: readonly (readonly [number, bigint])[]): void {
  const at = world.rig.queueAt(0);
  for (const [word, value] of words) world.rig.view.setBigUint64(at + word, value, true);
}

/** Parts that begin in the last bytes of the memory, or of the addresses. */
function pastTheEnd(world: World): Wrong[] {
  const parts = ['desc', 'driver', 'device'] as const;
  const places = [world.address(MEM - 16), world.address(MEM), 2n ** 64n - 16n, 2n ** 63n];
  return parts.flatMap((part) => {
    // A packed ring's event suppression is four bytes, which do fit there.
    const all = world.packed && part !== 'desc' ? places.slice(1, 2) : places;
    return all.map((place) => ({ [part]: place }));
  });
}

/** Rings that are refused, and words that come too late. */
export const ATTACH_ROWS: readonly Row[] = [
  each(
    'V77',
    'a ring whose parts are not aligned is refused',
    {
      split: refused(abi.ATTACH_ALIGN, (world) => [
        { desc: world.address(DESC + 8) },
        { driver: world.address(DRIVER + 1) },
        { device: world.address(DEVICE + 2) },
      ]),
      packed: refused(abi.ATTACH_ALIGN, (world) => [
        { desc: world.address(DESC + 8) },
        { driver: world.address(DRIVER + 2) },
        { device: world.address(DEVICE + 2) },
      ]),
    },
    OFF,
  ),
  both(
    'V78',
    'a ring that is not all in guest memory is refused',
    refused(abi.ATTACH_RANGE, pastTheEnd),
    OFF,
  ),
  both(
    'V78',
    'a ring that ends where the guest memory does is taken',
    (world) => {
      const desc = world.address(MEM - world.size * 16);
      expect(world.rig.attach(0, { ...world.config(), desc })).toBe(0);
      world.run();
    },
    OFF,
  ),
  both(
    'V79',
    'a ring whose parts overlap is refused',
    refused(abi.ATTACH_OVERLAP, (world) => [
      { device: world.address(DRIVER) },
      { device: world.address(DESC + 16 * world.size - 4) },
      { driver: world.address(DESC + 16 * world.size - 4) },
      { desc: world.address(DRIVER) },
      { desc: world.address(DEVICE) },
    ]),
    OFF,
  ),
  both('V80', 'a queue size that changes after the queue was attached means nothing', (world) => {
    for (const size of [0n, 1n, 0x8000n, 0xffff_ffffn]) {
      const flags = BigInt(world.rig.queueWord(abi.QUEUE_FLAGS));
      rewrite(world, [[abi.QUEUE_SIZE, size | (flags << 32n)]]);
      served(world);
    }
    expect(world.rig.exports.attachQueue(ENGINE_BASE, 0) >>> 0).toBe(abi.ATTACH_BUSY);
    served(world);
  }),
  both(
    'V81',
    'addresses and flags that change after the queue was attached mean nothing',
    (world) => {
      for (const address of [0n, world.address(BODY), world.address(MEM), 2n ** 64n - 1n]) {
        const parts = [abi.QUEUE_DESC, abi.QUEUE_DRIVER, abi.QUEUE_DEVICE];
        rewrite(
          world,
          parts.map((part) => [part, address] as const),
        );
        rewrite(world, [[abi.QUEUE_SIZE, BigInt(world.size) | ((address & 0xffff_ffffn) << 32n)]]);
        served(world);
      }
    },
  ),
  both('V87', 'a feature that nobody has offered means nothing to a ring', (world) => {
    expect(world.rig.setQueueState(abi.QUEUE_PAUSED)).toBe(0);
    expect(world.rig.detach()).toBe(0);
    const flags = world.rig.queueAt(0) + abi.QUEUE_FLAGS;
    const offered = world.rig.view.getUint32(flags, true);
    world.rig.view.setUint32(flags, (offered | 0xffff_ff00) >>> 0, true);
    expect(world.rig.exports.attachQueue(ENGINE_BASE, 0) >>> 0).toBe(0);
    served(world);
  }),
];
