// Files that grow while commands are in flight, files of an odd length under O_DIRECT, and commands
// that share a block.

import { execFileSync } from 'node:child_process';
import { readFileSync, statSync, truncateSync } from 'node:fs';
import process from 'node:process';
import { describe, expect, it, onTestFinished } from 'vitest';

import { Driver, expectSame, pattern } from './driver.ts';
import { backendOpener, describeWays, hasDirect } from './scratch.ts';
import { NO_DIRECT, scratchFile, scratchFolder } from './scratch.ts';

const MIB = 1 << 20;
const EIO = 5;
const EBADF = 9;
const EINVAL = 22;
const EFBIG = 27;
const ENOSPC = 28;
const EROFS = 30;
const folder = scratchFolder();
const open = backendOpener();

describeWays('an extend', folder, ({ direct, koffi }) => {
  it('makes the file longer beside other commands, and what is new reads as zeroes', async () => {
    const path = scratchFile(folder, pattern(MIB));
    const { backend, driver } = await open(path, { writable: true, direct }, koffi);
    const writing = driver.write(0, pattern(8192, 2));
    expect(await driver.extend(2 * MIB)).toBe(0);
    expect(await writing).toBe(0);
    expect([backend.sizeBytes, statSync(path).size]).toEqual([2 * MIB, 2 * MIB]);
    expectSame(await driver.read(MIB, MIB), new Uint8Array(MIB));
    expect(await driver.write(2 * MIB - 4096, pattern(4096, 3), true)).toBe(0);
    const extents = await driver.status(0, 2 * MIB);
    expect(extents.reduce((sum, [length]) => sum + length, 0)).toBe(2 * MIB);
    expect(await driver.sync()).toBe(0);
    const expected = pattern(2 * MIB).fill(0, MIB);
    expected.set(pattern(8192, 2));
    expected.set(pattern(4096, 3), 2 * MIB - 4096);
    expectSame(readFileSync(path), expected);
  });

  it('never cuts, however many there are and in whatever order', async () => {
    const path = scratchFile(folder);
    const { backend, driver } = await open(path, { writable: true, direct }, koffi);
    const sizes = [3, 5, 2, 8, 1, 7, 6, 4].map((count) => count * MIB);
    const seen = sizes.map(async (size) => {
      expect(await driver.extend(size)).toBe(0);
      return Math.min(backend.sizeBytes, statSync(path).size) >= size;
    });
    expect(await Promise.all(seen)).toEqual(sizes.map(() => true));
    expect([backend.sizeBytes, statSync(path).size]).toEqual([8 * MIB, 8 * MIB]);
    expect(await driver.extend(0)).toBe(0);
    expect(statSync(path).size).toBe(8 * MIB);
  });

  it('goes to whole blocks', async () => {
    const path = scratchFile(folder);
    const { backend, driver } = await open(path, { writable: true, direct }, koffi);
    expect(await driver.extend(MIB + 1)).toBe(0);
    const expected = MIB + backend.blockSizeBytes;
    expect([backend.sizeBytes, statSync(path).size]).toEqual([expected, expected]);
  });

  it('fails without harm where it cannot be, and later ones go on', async () => {
    const path = scratchFile(folder);
    const { backend, driver } = await open(path, { writable: true, direct }, koffi);
    expect([EFBIG, ENOSPC]).toContain(await driver.extend(2 ** 52));
    expect([backend.sizeBytes, statSync(path).size]).toEqual([MIB, MIB]);
    expect((await driver.tryRead(MIB, 512)).errno).toBe(EINVAL);
    expect(await driver.extend(2 * MIB)).toBe(0);
    expect(backend.sizeBytes).toBe(2 * MIB);
  });

  it('fails on a file whose size somebody else has changed, and leaves that size', async () => {
    for (const other of [4096, 4 * MIB]) {
      const path = scratchFile(folder);
      const { driver } = await open(path, { writable: true, direct }, koffi);
      truncateSync(path, other);
      expect(await driver.extend(2 * MIB)).toBe(EIO);
      expect(statSync(path).size).toBe(other);
    }
  });

  it('is refused on a read-only file and after the close', async () => {
    const path = scratchFile(folder);
    const reader = await open(path, { direct }, koffi);
    expect(await reader.driver.extend(2 * MIB)).toBe(EROFS);
    await reader.backend.close();
    const { backend, driver } = await open(path, { writable: true, direct }, koffi);
    await backend.close();
    expect(await driver.extend(2 * MIB)).toBe(EBADF);
    expect(statSync(path).size).toBe(MIB);
  });
});

describe('an extend of a block device', () => {
  it('succeeds as far as the device goes', async (context) => {
    const device = loopDevice();
    if (device === undefined) return context.skip('needs root and losetup with a free loop device');
    const { backend, driver } = await open(device, { writable: true });
    expect(await driver.extend(MIB)).toBe(0);
    expect(await driver.extend(MIB + 512)).toBe(ENOSPC);
    expect(backend.sizeBytes).toBe(MIB);
  });
});

/** Attaches a new file of 1 MiB, until the test ends; undefined where that does not work. */
function loopDevice(): string | undefined {
  if (process.getuid?.() !== 0) return undefined;
  try {
    const args = ['--find', '--show', scratchFile(folder)];
    const device = execFileSync('losetup', args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
    onTestFinished(() => void execFileSync('losetup', ['--detach', device]));
    return device;
  } catch {
    return undefined;
  }
}

describeWays('a file of any size', folder, ({ direct, koffi }) => {
  for (const length of [0, 1, 511, 1001, 4097, MIB + 100]) {
    it(`is read to its end, ${length} bytes long`, async () => {
      const contents = pattern(length);
      const { backend, driver } = await open(
        scratchFile(folder, contents),
        { direct, anySize: true },
        koffi,
      );
      expect(backend.sizeBytes).toBe(length);
      expectSame(await driver.read(0, length), contents);
      for (const tail of [1, 100, 600, 4096].filter((bytes) => bytes <= length)) {
        expectSame(await driver.read(length - tail, tail), contents.subarray(length - tail));
      }
      expect((await driver.tryRead(length, 1)).errno).toBe(EINVAL);
    });

    it(`is extended to whole blocks by a writer, ${length} bytes long`, async () => {
      const path = scratchFile(folder, pattern(length));
      const { backend, driver } = await open(
        path,
        { direct, writable: true, anySize: true },
        koffi,
      );
      const { sizeBytes, blockSizeBytes } = backend;
      expect(sizeBytes).toBe(Math.ceil(length / blockSizeBytes) * blockSizeBytes);
      expect(statSync(path).size).toBe(sizeBytes);
      const expected = new Uint8Array(sizeBytes);
      expected.set(pattern(length));
      expectSame(await driver.read(0, sizeBytes), expected);
      expect(await driver.extend(sizeBytes + 8192)).toBe(0);
      expect(await driver.write(sizeBytes + 7, pattern(99))).toBe(0);
      expectSame(await driver.read(sizeBytes + 7, 99), pattern(99));
    });
  }

  it('answers EIO for what was cut off behind its back', async () => {
    const path = scratchFile(folder, pattern(1001));
    const { driver } = await open(path, { direct, anySize: true }, koffi);
    truncateSync(path, 900);
    expect((await driver.tryRead(0, 1001)).errno).toBe(EIO);
    expectSame(await driver.read(0, 900), pattern(1001).subarray(0, 900));
  });
});

describe('commands that share a block under O_DIRECT', () => {
  const PART = 64;
  const PARTS = 64;

  it.for([true, false])('lose nothing of one another (koffi: %s)', async (koffi, context) => {
    if (!hasDirect(folder)) context.skip(NO_DIRECT);
    const path = scratchFile(folder, pattern(PART * PARTS));
    const options = { direct: true, writable: true, discard: 'unmap' } as const;
    const { backend } = await open(path, options, koffi);
    const driver = new Driver(backend);
    const expected = pattern(PART * PARTS);
    for (let round = 0; round < 20; round++) {
      // Neighbours at once, each with another kind of command.
      const answers = Array.from({ length: PARTS }, (_, part) => {
        const offset = part * PART;
        const kind = (part * 7 + round) % 5;
        if (kind === 0) return readPart(driver, expected.slice(offset, offset + PART), offset);
        if (kind === 1) {
          expected.fill(0, offset, offset + PART);
          return driver.zero(offset, PART, part % 2 === 0);
        }
        const bytes = pattern(PART, round * PARTS + part);
        expected.set(bytes, offset);
        return driver.write(offset, bytes, kind === 2, addressOf(part));
      });
      expect(new Set(await Promise.all(answers))).toEqual(new Set([0]));
    }
    expectSame(readFileSync(path), expected);
  });

  it('lose no zeroes that come while a write is under way', async (context) => {
    if (!hasDirect(folder)) context.skip(NO_DIRECT);
    const { driver } = await open(scratchFile(folder), { direct: true, writable: true });
    for (let round = 0; round < 200; round++) {
      expect(await driver.write(0, pattern(2 * PART, round))).toBe(0);
      const writing = driver.write(0, pattern(PART, round + 1));
      const until = performance.now() + (round % 50) / 200;
      while (performance.now() < until) await new Promise(setImmediate);
      expect(await Promise.all([driver.zero(PART, PART), writing])).toEqual([0, 0]);
      const expected = new Uint8Array(2 * PART);
      expected.set(pattern(PART, round + 1));
      expectSame(await driver.read(0, 2 * PART), expected);
    }
  });

  async function readPart(driver: Driver, expected: Uint8Array, offset: number): Promise<number> {
    expectSame(await driver.read(offset, PART, addressOf(offset / PART)), expected);
    return 0;
  }

  const addressOf = (part: number): number => 65_536 + part * PART;
});
