// A guest's requests on real files: the data goes between guest memory and the file without a copy,
// in every cache mode, over every kind of memory.

import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import { openFileBackend } from '../../src/backend/file.ts';
import { CACHE_MODES, type CacheMode } from '../../src/cache-mode.ts';
import { Disk } from '../../src/disk.ts';
import { footprintBytes } from '../../src/place.ts';
import { BlkDriver, createDriverQueue, GuestMemory } from '../../src/testing/guest/index.ts';
import { createVirtioBlk } from '../../src/virtio/create-virtio-blk.ts';
import { hasDirect, scratchFile, scratchFolder } from '../backend/scratch.ts';

const MIB = 1 << 20;
const PAGE = 4096;
const folder = scratchFolder();
const disks: Disk[] = [];

afterAll(async () => {
  await Promise.all(disks.map((disk) => disk.close()));
});

const MODES = Object.keys(CACHE_MODES) as CacheMode[];
const MEMORIES = ['unshared', 'shared', 'copied'] as const;

async function setUp(mode: CacheMode, kind: (typeof MEMORIES)[number], packed: boolean) {
  const { direct, noFlush } = CACHE_MODES[mode];
  const path = scratchFile(folder);
  const backend = await openFileBackend(path, { direct, noFlush, writable: true, lock: 'none' });
  const disk = new Disk(backend, { cache: mode, bufferBytes: 65_536 });
  disks.push(disk);
  const pages = (MIB + footprintBytes({ virtqueues: 1 })) / 65_536 + 1;
  const maximum = Math.ceil(pages);
  const wasm = new WebAssembly.Memory({ initial: maximum, maximum, shared: kind === 'shared' });
  const guest = new ArrayBuffer(MIB);
  const ram = { guestAddress: 0n, address: 0, sizeBytes: MIB };
  const place = kind === 'copied' ? { guest } : { memory: wasm, base: MIB, ram: [ram] };
  const blk = createVirtioBlk(disk, place);
  const memory = kind === 'copied' ? new GuestMemory(guest) : new GuestMemory(wasm, [ram]);
  const queue = createDriverQueue(packed, { memory, size: 32 });
  blk.queues.attach(0, queue.config());
  blk.queues.running = true;
  const driver = new BlkDriver({ queue, align: PAGE });
  const finish = async (): Promise<void> => {
    if (driver.publish()) blk.queues.notify(0);
    while (queue.inFlight > 0) {
      await new Promise(setImmediate);
      driver.poll();
    }
  };
  return { path, backend, disk, driver, finish };
}

describe.each(MODES)('a guest on a file, cache=%s', (mode) => {
  describe.each(MEMORIES)('in %s memory', (kind) => {
    it.for([
      ['split', false],
      ['packed', true],
    ] as const)('reads and writes in place (%s ring)', async ([, packed], context) => {
      if (CACHE_MODES[mode].direct && !hasDirect(folder)) {
        context.skip(`the file system of ${folder} has no O_DIRECT`);
      }
      const { path, backend, driver, finish } = await setUp(mode, kind, packed);
      const data = Uint8Array.from({ length: 4 * PAGE }, (_, index) => (index * 7) & 0xff);
      const write = driver.write(16, data);
      await finish();
      const read = driver.read(16, data.length);
      const flush = driver.flush();
      await finish();
      expect([write.status, read.status, flush.status]).toEqual([0, 0, 0]);
      expect(Buffer.compare(read.data(), data)).toBe(0);
      expect(
        Buffer.compare(readFileSync(path).subarray(16 * 512, 16 * 512 + data.length), data),
      ).toBe(0);
      const { reads, writes, bytesRead, bytesWritten, bounced } = backend.counters;
      expect({ reads, writes, bytesRead, bytesWritten, bounced }).toEqual({
        reads: 1,
        writes: 1,
        bytesRead: data.length,
        bytesWritten: data.length,
        bounced: 0,
      });
    });
  });
});
