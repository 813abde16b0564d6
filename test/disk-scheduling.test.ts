/** Disk options that say how requests are ordered and made stable: what a program sees of them. */

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { DiskOptions } from '../src/disk-types.ts';
import { Disk, openDisk } from '../src/node.ts';
import { MemoryBackend } from '../src/testing.ts';

const MIB = 1024 * 1024;
const CHUNK = 65536;
const INVALID = { code: 'ERR_SLUICE_INVALID_ARGUMENT' };
const LATCHED = { code: 'ERR_SLUICE_FLUSH_LATCHED' };

/** What a backend was asked, in short. */
const opsOf = (backend: MemoryBackend): string[] =>
  backend.log.map(({ op, offset, stable }) => {
    const at = op === 'sync' ? '' : ` ${offset}`;
    return `${op}${at}${stable ? ' stable' : ''}`;
  });

const bytes = (length: number, value = 7): Uint8Array => new Uint8Array(length).fill(value);

/** A clean disk in memory, whose log begins after the first flush. */
async function cleanDisk(options: DiskOptions = {}): Promise<[Disk, MemoryBackend]> {
  const backend = new MemoryBackend({ sizeBytes: MIB });
  const disk = new Disk(backend, options);
  await disk.flush();
  backend.log.length = 0;
  return [disk, backend];
}

describe('barriers', () => {
  it('are refused on a disk that was opened without them', async () => {
    const [disk] = await cleanDisk();
    await expect(disk.write(0, bytes(512), { barrier: true })).rejects.toMatchObject(INVALID);
    await expect(disk.discard(0, 512, { barrier: true })).rejects.toMatchObject(INVALID);
    await disk.close();
  });

  it("'order' lets everything before complete first and nothing after start", async () => {
    const backend = new MemoryBackend({ sizeBytes: MIB, hold: true });
    const disk = new Disk(backend, { barrier: 'order' });
    const done = [
      disk.write(0, bytes(512)),
      disk.write(4096, bytes(512), { barrier: true }),
      disk.write(8192, bytes(512)),
    ];
    await new Promise(setImmediate);
    expect(opsOf(backend)).toEqual(['write 0']);
    backend.release();
    await done[0];
    expect(opsOf(backend)).toEqual(['write 0', 'write 4096']);
    backend.release();
    await done[1];
    expect(opsOf(backend)).toEqual(['write 0', 'write 4096', 'write 8192']);
    backend.hold = false;
    backend.releaseAll();
    await Promise.all(done);
    await disk.close();
  });

  it("'durable' flushes before, unless nothing is volatile, and writes stably", async () => {
    const [disk, backend] = await cleanDisk({ barrier: 'durable' });
    await disk.write(0, bytes(512));
    await disk.write(4096, bytes(512), { barrier: true });
    await disk.write(8192, bytes(512), { barrier: true });
    expect(opsOf(backend)).toEqual(['write 0', 'sync', 'write 4096 stable', 'write 8192 stable']);
    expect(disk.stats().barriers).toEqual({ received: 2, flushed: 1 });
    backend.cutPower();
    expect([...(await disk.read(8192, 1)), ...(await disk.read(0, 1))]).toEqual([7, 7]);
    await disk.close();
  });

  it('fail after a failed request where that is asked for', async () => {
    const [disk, backend] = await cleanDisk({ barrier: 'order', barrierFailsAfterError: true });
    backend.fail('write');
    await expect(disk.write(0, bytes(512))).rejects.toMatchObject({ code: 'ERR_SLUICE_IO' });
    const barrier = disk.write(512, bytes(512), { barrier: true });
    await expect(barrier).rejects.toMatchObject({ code: 'ERR_SLUICE_IO' });
    await disk.write(512, bytes(512), { barrier: true });
    expect(opsOf(backend)).toEqual(['write 0', 'write 512']);
    await disk.close();
  });
});

describe('the latch', () => {
  it('is shown, survives later successes, and opens by hand only', async () => {
    const [disk, backend] = await cleanDisk();
    backend.fail('sync');
    await disk.write(0, bytes(512));
    await expect(disk.flush()).rejects.toMatchObject({ code: 'ERR_SLUICE_IO' });
    expect(disk.latched).toBe(true);
    await disk.write(512, bytes(512));
    await expect(disk.flush()).rejects.toMatchObject(LATCHED);
    const syncs = disk.stats().syncs;
    await disk.clearLatch();
    expect(disk.latched).toBe(false);
    await disk.flush();
    expect(disk.stats().syncs).toBe(syncs + 1);
    await disk.close();
  });
});

describe('the deadline elevator', () => {
  it('sweeps by place while the host takes few commands', async () => {
    const backend = new MemoryBackend({ sizeBytes: MIB, depth: 1, hold: true });
    const disk = new Disk(backend, { elevator: 'deadline' });
    const reads = [8, 2, 6, 4].map((block) => disk.read(block * 8192, 512));
    await new Promise(setImmediate);
    backend.hold = false;
    backend.releaseAll();
    await Promise.all(reads);
    expect(opsOf(backend)).toEqual(['read 16384', 'read 32768', 'read 49152', 'read 65536']);
    await disk.close();
  });

  it('gives way to a request whose time is up', async () => {
    const backend = new MemoryBackend({ sizeBytes: MIB, depth: 1, hold: true });
    const disk = new Disk(backend, { elevator: { readExpiryMs: 0, batch: 1 } });
    const reads = [8, 2, 6].map((block) => disk.read(block * 8192, 512));
    await new Promise(setImmediate);
    backend.hold = false;
    backend.releaseAll();
    await Promise.all(reads);
    expect(opsOf(backend)).toEqual(['read 65536', 'read 16384', 'read 49152']);
    expect(disk.stats().expired).toBeGreaterThan(0);
    await disk.close();
  });
});

describe('superseding', () => {
  it('a write that a later one covers is never sent, and both resolve', async () => {
    const [disk, backend] = await cleanDisk();
    await Promise.all([disk.write(512, bytes(512, 1)), disk.write(0, bytes(4096, 2))]);
    expect(opsOf(backend)).toEqual(['write 0']);
    expect(disk.stats().superseded).toBe(1);
    expect([...(await disk.read(512, 1))]).toEqual([2]);
    await disk.close();
  });
});

describe('a wait for companions', () => {
  it('lets flushes of later turns share a sync', async () => {
    const [disk, backend] = await cleanDisk({ flushWaitMicros: 1_000_000 });
    await disk.write(0, bytes(512));
    await Promise.all([disk.flush(), disk.flush()]);
    await disk.write(0, bytes(512));
    const first = disk.flush();
    await new Promise(setImmediate);
    expect(opsOf(backend).filter((op) => op === 'sync')).toHaveLength(1);
    await Promise.all([first, disk.flush()]);
    expect(disk.stats()).toMatchObject({ syncs: 3, syncsDelayed: 1 });
    await disk.close();
  });

  it('does not keep answers waiting that come meanwhile', async () => {
    const [disk, backend] = await cleanDisk({ flushWaitMicros: 1_000_000 });
    await disk.write(0, bytes(512));
    await Promise.all([disk.flush(), disk.flush()]);
    await disk.write(0, bytes(512));
    const flush = disk.flush();
    await new Promise(setImmediate);
    backend.hold = true;
    const reads = [disk.read(0, 512), disk.read(8192, 512)];
    await new Promise(setImmediate);
    backend.release();
    await reads[0];
    expect(opsOf(backend).filter((op) => op === 'sync')).toHaveLength(1);
    backend.hold = false;
    backend.releaseAll();
    await Promise.all([...reads, flush, disk.flush()]);
    await disk.close();
  });

  it.each([1000, 5000])('of %i microseconds ends by itself', async (flushWaitMicros) => {
    const [disk] = await cleanDisk({ flushWaitMicros });
    await disk.write(0, bytes(512));
    await Promise.all([disk.flush(), disk.flush()]);
    await disk.write(0, bytes(512));
    await disk.flush();
    expect(disk.stats().syncs).toBe(3);
    await disk.close();
  });
});

describe('a striped disk', () => {
  it('lies over its files chunk by chunk', async () => {
    const files = [0, 1, 2].map(() => new MemoryBackend({ sizeBytes: MIB })) as [
      MemoryBackend,
      MemoryBackend,
      MemoryBackend,
    ];
    const disk = new Disk(files, { chunkBytes: CHUNK });
    expect(disk.size).toBe(3 * MIB);
    const data = Uint8Array.from({ length: 5 * CHUNK }, (_, i) => i / 512);
    await disk.write(512, data);
    expect(Buffer.compare(await disk.read(512, data.length), data)).toBe(0);
    expect(files[1].volatile.subarray(0, CHUNK)).toEqual(
      data.subarray(CHUNK - 512, 2 * CHUNK - 512),
    );
    expect(files[0].volatile[CHUNK]).toBe(data[3 * CHUNK - 512]);
    await disk.close();
    expect(files.map(({ closed }) => closed)).toEqual([true, true, true]);
  });

  it('S18: only files that were written are synced (durability 8)', async () => {
    const files = [0, 1, 2, 3].map(() => new MemoryBackend({ sizeBytes: MIB }));
    const disk = new Disk(files, { chunkBytes: CHUNK });
    await disk.flush();
    for (const file of files) file.log.length = 0;
    await Promise.all([disk.write(0, bytes(512)), disk.write(2 * CHUNK, bytes(512))]);
    await disk.flush();
    expect(files.map((file) => opsOf(file))).toEqual([
      ['write 0', 'sync'],
      [],
      ['write 0', 'sync'],
      [],
    ]);
    await disk.close();
  });

  it('answers block status across its files', async () => {
    const files = [0, 1].map(() => new MemoryBackend({ sizeBytes: MIB }));
    const disk = new Disk(files, { chunkBytes: CHUNK });
    await disk.write(CHUNK, bytes(CHUNK));
    const found = [];
    for await (const { offset, length, kind } of disk.blockStatus(0, 3 * CHUNK)) {
      found.push([offset / CHUNK, length / CHUNK, kind]);
    }
    expect(found).toEqual([
      [0, 1, 'hole'],
      [1, 1, 'data'],
      [2, 1, 'hole'],
    ]);
    await disk.close();
  });

  it('is opened from files of one size, and survives in them', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'sluice-stripe-'));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const paths = ['a', 'b'].map((name) => join(folder, name));
    for (const path of paths) {
      writeFileSync(path, '');
      truncateSync(path, MIB);
    }
    const options = { format: 'raw', writable: true, chunkBytes: CHUNK } as const;
    const data = Uint8Array.from({ length: MIB }, (_, i) => i >> 9);
    {
      await using disk = await openDisk(paths, options);
      await disk.write(12345, data, { fua: true });
    }
    await using disk = await openDisk(paths, { ...options, writable: false });
    expect(Buffer.compare(await disk.read(12345, MIB), data)).toBe(0);
    truncateSync(join(folder, 'a'), 2 * MIB);
    await disk.close();
    await expect(openDisk(paths, options)).rejects.toMatchObject(INVALID);
  });
});

describe('options that make no sense are refused', () => {
  const one = (): MemoryBackend => new MemoryBackend({ sizeBytes: MIB });
  it.each([
    { barrier: 'yes' },
    { elevator: 'noop' },
    { elevator: null },
    { elevator: { batch: 0 } },
    { elevator: { writesStarved: 0 } },
    { elevator: { readExpiryMs: -1 } },
    { flushWaitMicros: 1e9 },
    { barrierFailsAfterError: 1 },
    { chunkBytes: CHUNK },
  ])('%j', (options) => {
    expect(() => new Disk(one(), options as DiskOptions)).toThrow(
      expect.objectContaining(INVALID) as Error,
    );
  });

  it.each([undefined, 0, 256, 65537, 2 ** 31])('chunkBytes %j of a striped disk', (chunkBytes) => {
    expect(() => new Disk([one(), one()], { chunkBytes })).toThrow(
      expect.objectContaining(INVALID) as Error,
    );
  });

  it('files that are not whole chunks', () => {
    const odd = (): MemoryBackend => new MemoryBackend({ sizeBytes: MIB + 512 });
    expect(() => new Disk([odd(), odd()], { chunkBytes: CHUNK })).toThrow('whole chunks of 65536');
    expect(() => new Disk([one(), one()], { chunkBytes: 2 * MIB })).toThrow('whole chunks');
  });

  it('more files than an engine has', () => {
    const files = Array.from({ length: 9 }, one) as [MemoryBackend, ...MemoryBackend[]];
    expect(() => new Disk(files, { chunkBytes: CHUNK })).toThrow('at most 8 files');
  });
});
