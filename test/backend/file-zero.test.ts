import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { EXTENT_HOLE, EXTENT_TABLE_ENTRIES, EXTENT_ZERO } from '../../src/abi/request.ts';
import { openFileBackend } from '../../src/backend/file.ts';
import { loadNative } from '../../src/backend/native.ts';
import { Driver, expectSame, pattern } from './driver.ts';
import { backendOpener, describeWays, scratchFile, scratchFolder } from './scratch.ts';

const ENOTSUP = 95;
const EIO = 5;
const KIB = 1024;
const MIB = KIB * KIB;
const GIB = KIB * MIB;
const HOLE = EXTENT_HOLE | EXTENT_ZERO;

const folder = scratchFolder();
const open = backendOpener();

/** Bytes on the disk; holes take none. */
const allocatedBytes = (path: string): number => statSync(path).blocks * 512;

describeWays('zeroes', folder, ({ direct, koffi }) => {
  const openWritable = (path: string, discard: 'unmap' | 'ignore' = 'unmap') =>
    open(path, { writable: true, direct, discard }, koffi);

  it.for([
    ['whole blocks', 64 * KIB, 128 * KIB],
    ['odd edges', 1001, 300_000],
    ['a part of one block', 4100, 17],
    ['more than one buffer', 512, 3 * MIB],
  ] as const)('are read back after %s', async ([, offset, length]) => {
    const before = pattern(4 * MIB, 3);
    for (const mayUnmap of [false, true]) {
      const path = scratchFile(folder, before);
      const { driver } = await openWritable(path);
      expect(await driver.zero(offset, length, mayUnmap)).toBe(0);
      const expected = before.slice().fill(0, offset, offset + length);
      expectSame(readFileSync(path), expected);
      expect(statSync(path).size).toBe(4 * MIB);
    }
  });

  it('keep their space unless it may be unmapped and discards are passed on', async () => {
    const unmapped = async (mayUnmap: boolean, discard: 'unmap' | 'ignore'): Promise<boolean> => {
      const path = scratchFile(folder, pattern(MIB));
      const { driver } = await openWritable(path, discard);
      expect(await driver.zero(0, MIB, mayUnmap)).toBe(0);
      return allocatedBytes(path) === 0;
    };
    expect(await unmapped(true, 'unmap')).toBe(koffi);
    expect(await unmapped(true, 'ignore')).toBe(false);
    expect(await unmapped(false, 'unmap')).toBe(false);
  });

  it('are fast or refused when they must be', async () => {
    const path = scratchFile(folder, pattern(MIB));
    const { driver } = await openWritable(path);
    expect(await driver.zero(4096, 8192, false, true)).toBe(koffi ? 0 : ENOTSUP);
    const expected = pattern(MIB);
    if (koffi) expected.fill(0, 4096, 12288);
    expectSame(readFileSync(path), expected);
  });

  it('leave a discarded range alone or make it a hole', async () => {
    const path = scratchFile(folder, pattern(MIB));
    const { driver } = await openWritable(path);
    expect(await driver.discard(0, MIB)).toBe(0);
    expect(allocatedBytes(path) === 0).toBe(koffi);
    const kept = scratchFile(folder, pattern(MIB));
    const { driver: ignoring } = await openWritable(kept, 'ignore');
    expect(await ignoring.discard(0, MIB)).toBe(0);
    expectSame(readFileSync(kept), pattern(MIB));
  });

  it.for([
    ['behind the end', MIB, MIB],
    ['around the end', 4096, 8192],
  ] as const)('are not promised to a file that was cut, %s', async ([, offset, length]) => {
    for (const mayUnmap of [false, true]) {
      const path = scratchFile(folder, pattern(2 * MIB));
      const { driver } = await openWritable(path);
      truncateSync(path, 6000);
      // Without koffi they are written, and the file is as long again as it takes.
      expect(await driver.zero(offset, length, mayUnmap)).toBe(koffi ? EIO : 0);
      const { errno } = await driver.tryRead(offset, length);
      expect(errno).toBe(koffi ? EIO : 0);
      if (koffi) expect(statSync(path).size).toBe(6000);
      else expectSame(await driver.read(offset, length), new Uint8Array(length));
      if (koffi) expect(await driver.discard(offset, length)).toBe(EIO);
      expect(await driver.zero(0, 4096, mayUnmap)).toBe(0);
    }
  });
});

describe('zeroes of more than 4 GiB', () => {
  it('are a hole where that will do', async (context) => {
    if (loadNative() === null) context.skip('koffi is not usable here');
    const path = scratchFile(folder, new Uint8Array(0));
    truncateSync(path, 8 * GIB);
    const { driver } = await open(path, { writable: true, discard: 'unmap' });
    const places = [0, 1, 4, 5, 6, 7].map((gib) => gib * GIB + 8192);
    for (const place of places) expect(await driver.write(place, pattern(4096))).toBe(0);
    expect(await driver.zero(GIB, 5 * GIB, true)).toBe(0);
    for (const place of places) {
      const isInside = place >= GIB && place < 6 * GIB;
      expectSame(await driver.read(place, 4096), isInside ? new Uint8Array(4096) : pattern(4096));
    }
    expect(allocatedBytes(path)).toBeLessThanOrEqual(3 * 64 * KIB);
  });
});

describe('zeroes on a file system without zero range (tmpfs)', () => {
  it('are written, or punched where that may be', async (context) => {
    const path = `/dev/shm/sluice-zero-${process.pid}.raw`;
    try {
      closeSync(openSync(path, 'wx'));
    } catch {
      context.skip('there is no tmpfs at /dev/shm');
    }
    try {
      truncateSync(path, MIB);
      const { driver, backend } = await open(path, { writable: true, discard: 'unmap' });
      expect(await driver.write(0, pattern(64 * KIB))).toBe(0);
      expect(await driver.zero(0, 8192, false, true)).toBe(ENOTSUP);
      expect(await driver.zero(0, 8192)).toBe(0);
      expect(await driver.zero(8192, 8192)).toBe(0);
      expect(backend.counters.fallocates).toBe(1);
      expect(await driver.zero(16384, 8192, true, true)).toBe(0);
      const expected = pattern(64 * KIB).fill(0, 0, 24576);
      expectSame(await driver.read(0, 64 * KIB), expected);
    } finally {
      execFileSync('rm', ['-f', path]);
    }
  });
});

describe('block status', () => {
  it('tells data from holes', async (context) => {
    if (loadNative() === null) context.skip('koffi is not usable here');
    const path = scratchFile(folder, new Uint8Array(0));
    truncateSync(path, MIB);
    const { driver } = await open(path, { writable: true });
    await driver.write(64 * KIB, pattern(128 * KIB));
    expect(await driver.status(0, MIB)).toEqual([
      [64 * KIB, HOLE],
      [128 * KIB, 0],
      [832 * KIB, HOLE],
    ]);
    expect(await driver.status(100 * KIB, 8 * KIB)).toEqual([[8 * KIB, 0]]);
    expect(await driver.status(200 * KIB, 1)).toEqual([[1, HOLE]]);
    expect(await driver.status(60 * KIB, 8 * KIB)).toEqual([
      [4 * KIB, HOLE],
      [4 * KIB, 0],
    ]);
  });

  it('fills the table of a fragmented file and no more', async (context) => {
    if (loadNative() === null) context.skip('koffi is not usable here');
    const path = join(folder, 'fragments.raw');
    const fragments = 2 * EXTENT_TABLE_ENTRIES;
    const file = openSync(path, 'wx');
    ftruncateSync(file, fragments * 16 * KIB);
    closeSync(file);
    const { driver } = await open(path, { writable: true });
    for (let index = 0; index < fragments; index++) {
      await driver.write(index * 16 * KIB, pattern(4096));
    }
    const first = await driver.status(0, fragments * 16 * KIB);
    expect(first).toHaveLength(EXTENT_TABLE_ENTRIES);
    expect(first.slice(0, 3)).toEqual([
      [4096, 0],
      [12288, HOLE],
      [4096, 0],
    ]);
    const covered = first.reduce((total, [length]) => total + length, 0);
    const next = await driver.status(covered, fragments * 16 * KIB - covered);
    expect(next[0]).toEqual([4096, 0]);
  });

  it('says data where it cannot know', async () => {
    const path = scratchFile(folder, new Uint8Array(0));
    truncateSync(path, MIB);
    const { driver } = await open(path, {}, false);
    expect(await driver.status(4096, 8192)).toEqual([[8192, 0]]);
  });

  it('answers EIO for a file that was cut', async (context) => {
    if (loadNative() === null) context.skip('koffi is not usable here');
    const path = scratchFile(folder, pattern(MIB));
    const backend = await openFileBackend(path);
    const driver = new Driver(backend);
    truncateSync(path, MIB / 2);
    const { errno } = await driver.run((id) => backend.blockStatus(id, 0, MIB, 65536));
    expect(errno).toBe(EIO);
    await backend.close();
  });
});
