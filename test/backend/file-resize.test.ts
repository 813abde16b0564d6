// Images that change their size while they are open.

import { readFileSync, statSync, truncateSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import { openDisk } from '../../src/node.ts';
import { SimulatedDisk } from '../../src/testing.ts';
import { describeWays, scratchFile, scratchFolder } from './scratch.ts';

const MIB = 1 << 20;
const folder = scratchFolder();

function filled(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}

describeWays('resize', folder, ({ direct }) => {
  const cache = direct ? 'none' : 'writeback';

  it('makes a regular file longer, and what is new reads as zeroes', async () => {
    const path = scratchFile(folder, filled(MIB, 7));
    await using disk = await openDisk(path, { writable: true, cache });
    const told: number[] = [];
    const undo = disk.onResize((sizeBytes) => told.push(sizeBytes));
    const { syncs } = disk.stats();
    await disk.resize(2 * MIB);
    expect([disk.size, statSync(path).size, told]).toEqual([2 * MIB, 2 * MIB, [2 * MIB]]);
    // The size itself has to be synced, though nothing was written.
    expect(disk.stats().syncs).toBe(syncs + 1);
    expect(await disk.read(MIB - 4096, 8192)).toEqual(
      Uint8Array.from({ length: 8192 }, (_, i) => (i < 4096 ? 7 : 0)),
    );
    await disk.write(2 * MIB - 4096, filled(4096, 1), { fua: true });
    const extents = [];
    for await (const { length } of disk.blockStatus()) extents.push(length);
    expect(extents.reduce((sum, length) => sum + length)).toBe(2 * MIB);
    undo();
    await disk.resize(3 * MIB);
    expect(told.length).toBe(1);
  });

  it('cuts only when told to', async () => {
    const path = scratchFile(folder, filled(2 * MIB, 7));
    await using disk = await openDisk(path, { writable: true, cache });
    await expect(disk.resize(MIB)).rejects.toMatchObject({ code: 'ERR_SLUICE_INVALID_ARGUMENT' });
    await expect(disk.resize(MIB)).rejects.toThrow(/shrink: true/);
    expect([disk.size, statSync(path).size]).toEqual([2 * MIB, 2 * MIB]);
    await disk.resize(BigInt(MIB), { shrink: true });
    expect([disk.size, statSync(path).size]).toEqual([MIB, MIB]);
    await expect(disk.read(MIB, 512)).rejects.toMatchObject({ code: 'ERR_SLUICE_OUT_OF_RANGE' });
    await disk.write(MIB - 4096, filled(4096, 3));
    await disk.close();
    expect(readFileSync(path)[MIB - 1]).toBe(3);
  });

  it('keeps requests that come meanwhile waiting, in their order', async () => {
    const path = scratchFile(folder, filled(MIB, 0));
    await using disk = await openDisk(path, { writable: true, cache });
    const before = disk.write(0, filled(MIB, 1));
    const resized = disk.resize(2 * MIB);
    const between = disk.write(0, filled(4096, 2));
    const smaller = disk.resize(MIB / 2, { shrink: true });
    const after = disk.read(0, 8192);
    await Promise.all([before, resized, between, smaller]);
    expect(disk.size).toBe(MIB / 2);
    const bytes = await after;
    expect([bytes[0], bytes[4096]]).toEqual([2, 1]);
  });

  it('is refused on a read-only file, and the disk stays as it is', async () => {
    const path = scratchFile(folder, filled(MIB, 7));
    await using disk = await openDisk(path, { cache });
    await expect(disk.resize(2 * MIB)).rejects.toMatchObject({
      code: 'ERR_SLUICE_READ_ONLY',
      operation: 'resize',
      path,
    });
    expect([disk.size, (await disk.read(0, 512))[0]]).toEqual([MIB, 7]);
  });

  it('ends before the disk closes, and is refused after', async () => {
    const path = scratchFile(folder, filled(MIB, 7));
    const disk = await openDisk(path, { writable: true, cache });
    const resized = disk.resize(2 * MIB);
    const closed = disk.close();
    await resized;
    await closed;
    expect(statSync(path).size).toBe(2 * MIB);
    await expect(disk.resize(MIB)).rejects.toMatchObject({ code: 'ERR_SLUICE_CLOSED' });
  });

  it('needs whole blocks under O_DIRECT', async () => {
    const path = scratchFile(folder, filled(MIB, 7));
    await using disk = await openDisk(path, { writable: true, cache });
    const odd = disk.resize(MIB + 1);
    if (direct) await expect(odd).rejects.toMatchObject({ code: 'ERR_SLUICE_ALIGNMENT' });
    else await odd;
    expect(disk.size).toBe(direct ? MIB : MIB + 1);
  });
});

describe('resize', () => {
  it('is refused for striped disks and backends of a fixed size', async () => {
    const files = [scratchFile(folder), scratchFile(folder)];
    await using striped = await openDisk(files, { writable: true, chunkBytes: 4096 });
    const unsupported = { code: 'ERR_SLUICE_UNSUPPORTED', operation: 'resize' };
    await expect(striped.resize(4 * MIB)).rejects.toMatchObject(unsupported);
    const fixed = new Disk(new SimulatedDisk({ sizeBytes: MIB, seed: 1 }));
    await expect(fixed.resize(2 * MIB)).rejects.toMatchObject(unsupported);
    await expect(fixed.resize(-1)).rejects.toThrow(/bytes must be a whole number/);
  });

  it('waits for what is in flight, which still reaches the old end', async () => {
    const backend = new MemoryBackend({ sizeBytes: 2 * MIB, hold: true });
    const disk = new Disk(backend);
    const write = disk.write(2 * MIB - 512, filled(512, 1));
    await new Promise(setImmediate);
    const resized = disk.resize(MIB, { shrink: true });
    const late = disk.read(0, 512);
    await new Promise(setImmediate);
    expect([backend.held.length, disk.size]).toEqual([1, 2 * MIB]);
    backend.hold = false;
    backend.releaseAll();
    await Promise.all([write, resized, late]);
    expect([disk.size, backend.volatile.length, backend.conflicts]).toEqual([MIB, MIB, []]);
  });

  it('leaves a latch shut: the new size is in force, the flush fails', async () => {
    const backend = new MemoryBackend({ sizeBytes: MIB });
    const disk = new Disk(backend);
    backend.fail('sync');
    await expect(disk.flush()).rejects.toThrow();
    await expect(disk.resize(2 * MIB)).rejects.toMatchObject({ code: 'ERR_SLUICE_FLUSH_LATCHED' });
    expect([disk.size, disk.latched]).toEqual([2 * MIB, true]);
  });

  it('fails cleanly when the host has no space for it', async () => {
    const path = scratchFile(folder, filled(MIB, 7));
    await using disk = await openDisk(path, { writable: true });
    await expect(disk.resize(2 ** 52)).rejects.toMatchObject({ code: 'ERR_SLUICE_NO_SPACE' });
    expect([disk.size, (await disk.read(0, 1))[0]]).toEqual([MIB, 7]);
    // Somebody has cut it behind our back: the size is what is asked for all the same.
    truncateSync(path, 4096);
    await disk.resize(2 * MIB);
    expect((await disk.read(MIB, 1))[0]).toBe(0);
  });
});
