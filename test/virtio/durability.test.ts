// What an acknowledged request promises, from a guest's ring to the medium: spec sections of
// VIRTIO 1.3, 5.2.5.2 and 5.2.6.2, on a disk in memory that knows what is stable.

import { afterEach, describe, expect, it } from 'vitest';
import { VIRTIO_BLK_T_BARRIER, VIRTIO_BLK_T_OUT } from '../../src/abi/virtio-blk.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import type { DiskOptions } from '../../src/disk-types.ts';
import { BlkDriver, createDriverQueue, GuestMemory } from '../../src/testing/guest/index.ts';
import { createVirtioBlk } from '../../src/virtio/create-virtio-blk.ts';
import type { VirtioBlkOptions } from '../../src/virtio/virtio-blk-options.ts';
import { accept, turn } from './fake-queues.ts';

const MIB = 1 << 20;
const bit = (number: number): bigint => 1n << BigInt(number);
const FLUSH = bit(9);
const CONFIG_WCE = bit(11);
const VERSION_1 = bit(32);
const RING_PACKED = bit(34);
const ANY_LAYOUT = bit(27);
const disks: Disk[] = [];

afterEach(async () => {
  await Promise.allSettled(disks.splice(0).map((disk) => disk.close()));
});

/** A guest that has said DRIVER_OK with `features` (and the ring's). */
function boot(
  packed: boolean,
  features: bigint,
  diskOptions: DiskOptions = {},
  options: Partial<VirtioBlkOptions> = {},
) {
  const backend = new MemoryBackend({ sizeBytes: MIB });
  const disk = new Disk(backend, { bufferBytes: 65_536, ...diskOptions });
  disks.push(disk);
  const blk = createVirtioBlk(disk, { ramBytes: MIB, ...options });
  const memory = new GuestMemory(
    () => disk.device.engine.memory.buffer,
    [{ guestAddress: 0n, address: blk.ram!.byteOffset, sizeBytes: MIB }],
  );
  const queue = createDriverQueue(packed, { memory, size: 16 });
  const isModern = (features & VERSION_1) !== 0n;
  blk.writeStatus(3);
  accept(blk, features | (packed ? RING_PACKED : 0n));
  if (isModern) blk.writeStatus(11);
  const config = queue.config();
  blk.queues.attach(0, config);
  blk.writeStatus(isModern ? 15 : 7);
  expect(blk.status & 0xc0).toBe(0);
  blk.queues.running = true;
  const driver = new BlkDriver({ queue });
  const finish = async (): Promise<void> => {
    if (driver.publish()) blk.queues.notify(0);
    for (let turns = 0; queue.inFlight > 0 && turns < 200; turns++) {
      driver.poll();
      await turn();
    }
    expect(queue.inFlight).toBe(0);
  };
  /** The first byte of a sector, as a power cut now would leave it. */
  const stable = (sector: number): number => backend.stable[sector * 512]!;
  return { backend, blk, disk, driver, finish, stable };
}

const sector = (value: number): Uint8Array => new Uint8Array(512).fill(value);

describe.each([
  ['split', false],
  ['packed', true],
])('a guest on a %s ring', (_name, packed) => {
  it('5.2.6.2: without FLUSH and CONFIG_WCE a completed write is stable', async () => {
    const { driver, finish, stable } = boot(packed, VERSION_1);
    const write = driver.write(1, sector(7));
    const zeroes = driver.write(2, sector(8));
    await finish();
    expect([write.status, zeroes.status, stable(1), stable(2)]).toEqual([0, 0, 7, 8]);
  });

  it('5.2.6.2: with FLUSH a write is stable when a later flush completes', async () => {
    const { driver, finish, stable } = boot(packed, VERSION_1 | FLUSH);
    driver.write(1, sector(7));
    await finish();
    expect(stable(1)).toBe(0);
    const flush = driver.flush();
    await finish();
    expect([flush.status, stable(1)]).toEqual([0, 7]);
  });

  it('5.2.6.2: with the write cache off a write is stable, and what was before it', async () => {
    const { blk, driver, finish, stable } = boot(packed, VERSION_1 | FLUSH | CONFIG_WCE);
    driver.write(1, sector(1));
    await finish();
    expect(await blk.writeConfig(32, Uint8Array.of(0))).toBe(true);
    expect(stable(1)).toBe(1);
    driver.write(2, sector(2));
    await finish();
    expect(stable(2)).toBe(2);
    expect(await blk.writeConfig(32, Uint8Array.of(1))).toBe(true);
    driver.write(3, sector(3));
    await finish();
    expect(stable(3)).toBe(0);
  });

  it('5.2.5.2: CONFIG_WCE without FLUSH begins with the write cache off', async () => {
    const { driver, finish, stable } = boot(packed, VERSION_1 | CONFIG_WCE);
    driver.write(1, sector(7));
    await finish();
    expect(stable(1)).toBe(7);
  });

  it('a disk in writethrough makes every write stable, whatever is negotiated', async () => {
    const options: DiskOptions = { cache: 'writethrough' };
    const { driver, finish, stable } = boot(packed, VERSION_1 | FLUSH, options);
    driver.write(1, sector(7));
    await finish();
    expect(stable(1)).toBe(7);
  });

  it('a flush whose sync failed is IOERR, and so is every later one', async () => {
    const { backend, driver, finish } = boot(packed, VERSION_1 | FLUSH);
    driver.write(1, sector(7));
    await finish();
    backend.fail('sync');
    const failed = driver.flush();
    await finish();
    const later = driver.flush();
    await finish();
    expect([failed.status, later.status]).toEqual([1, 1]);
  });

  it('the policy to ignore errors ignores neither flushes nor what was to be stable', async () => {
    const ignore: Partial<VirtioBlkOptions> = { writeError: 'ignore', readError: 'ignore' };
    const volatile = boot(packed, VERSION_1 | FLUSH, {}, ignore);
    volatile.backend.fail('write');
    const write = volatile.driver.write(1, sector(7));
    await volatile.finish();
    volatile.backend.fail('sync');
    const flush = volatile.driver.flush();
    await volatile.finish();
    expect([write.status, flush.status]).toEqual([0, 1]);
    const stable = boot(packed, VERSION_1, {}, ignore);
    stable.backend.fail('write');
    const refused = stable.driver.write(1, sector(7));
    await stable.finish();
    expect(refused.status).toBe(1);
  });

  it('a reset of the guest leaves what was flushed, and the latch', async () => {
    const { backend, blk, disk, driver, finish, stable } = boot(packed, VERSION_1 | FLUSH);
    driver.write(1, sector(7));
    driver.flush();
    await finish();
    driver.write(1, sector(9));
    await finish();
    backend.fail('sync');
    driver.flush();
    await finish();
    await blk.reset();
    expect(stable(1)).toBe(7);
    await expect(disk.flush()).rejects.toMatchObject({ code: 'ERR_SLUICE_FLUSH_LATCHED' });
  });
});

it('a durable barrier of a legacy driver makes stable what came before, then itself', async () => {
  const { driver, finish, stable } = boot(
    false,
    bit(0) | ANY_LAYOUT | FLUSH,
    { barrier: 'durable' },
    { legacy: true },
  );
  driver.write(1, sector(1));
  const type = (VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_BARRIER) >>> 0;
  const barrier = driver.raw(type, { sector: 2, out: sector(2) });
  driver.write(3, sector(3));
  await finish();
  expect([barrier.status, stable(1), stable(2), stable(3)]).toEqual([0, 1, 2, 0]);
});
