/** A loop device is a real block device; making one takes root. */

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { expectSame, pattern } from './driver.ts';
import { backendOpener, scratchFile, scratchFolder } from './scratch.ts';

const ENOTSUP = 95;
const MIB = 1024 * 1024;

const folder = scratchFolder();
const open = backendOpener();
const devices: string[] = [];

/** Attaches a file to a new loop device; undefined where that does not work. */
function loopDevice(path: string, ...options: string[]): string | undefined {
  if (process.getuid?.() !== 0) return undefined;
  try {
    const name = execFileSync('losetup', ['--find', '--show', ...options, path], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
    devices.push(name);
    return name;
  } catch {
    return undefined;
  }
}

afterAll(() => {
  for (const device of devices) execFileSync('losetup', ['--detach', device]);
});

describe('a block device', () => {
  let backing = '';
  let path = '';

  beforeAll(() => {
    backing = scratchFile(folder, pattern(2 * MIB));
    path = loopDevice(backing) ?? '';
  });
  // Not skipped as a suite: then the hooks that clean up would not run either.
  beforeEach((context) => {
    if (path === '') context.skip('needs root and losetup with a free loop device');
  });

  it('that is read-only is refused to a writer and open to a reader', async () => {
    const readOnly = loopDevice(scratchFile(folder, pattern(MIB)), '--read-only') ?? '';
    await expect(open(readOnly, { writable: true }, true)).rejects.toMatchObject({
      code: 'ERR_SLUICE_READ_ONLY',
    });
    const { driver } = await open(readOnly, {}, true);
    expectSame(await driver.read(0, 512), pattern(MIB).subarray(0, 512));
  });

  it.for([
    ['page cache', false, true],
    ['page cache without koffi', false, false],
    ['O_DIRECT', true, true],
    ['O_DIRECT without koffi', true, false],
  ] as const)('is a disk of its size (%s)', async ([, direct, koffi]) => {
    const { backend, driver } = await open(path, { writable: true, direct }, koffi);
    expect(backend.sizeBytes).toBe(2 * MIB);
    expect(backend.blockSizeBytes).toBe(direct ? 512 : 1);
    expectSame(await driver.read(1001, 5000), pattern(2 * MIB).subarray(1001, 6001));
    expect(await driver.write(7, pattern(5000, 2), true)).toBe(0);
    expectSame(await driver.read(7, 5000), pattern(5000, 2));
    expect(await driver.write(0, pattern(8192))).toBe(0);
    expect(await driver.sync()).toBe(0);
    expect(await driver.status(0, 2 * MIB)).toEqual([[2 * MIB, 0]]);
  });

  it.for([
    ['page cache', false],
    ['O_DIRECT', true],
  ] as const)('takes zeroes and discards, aligned or not (%s)', async ([, direct]) => {
    const { driver } = await open(path, { writable: true, direct, discard: 'unmap' });
    const expected = pattern(2 * MIB);
    for (let offset = 0; offset < 2 * MIB; offset += MIB) {
      expect(await driver.write(offset, expected.subarray(offset, offset + MIB))).toBe(0);
    }
    expect(await driver.zero(4096, 8192)).toBe(0);
    expect(await driver.zero(65536, 65536, true)).toBe(0);
    expect(await driver.zero(300_001, 1234)).toBe(0);
    expected.fill(0, 4096, 12288).fill(0, 65536, 131072).fill(0, 300_001, 301_235);
    expectSame(await driver.read(0, MIB), expected.subarray(0, MIB));
    expect(await driver.discard(MIB, 4096)).toBe(0);
    expect(await driver.discard(MIB + 1, 4096)).toBe(0);
  });

  it('refuses fast zeroes that the kernel might have to write', async () => {
    const { driver } = await open(path, { writable: true, discard: 'unmap' });
    expect(await driver.zero(0, 4096, false, true)).toBe(ENOTSUP);
    expect(await driver.zero(0, 4096, true, true)).toBe(0);
    expectSame(await driver.read(0, 4096), new Uint8Array(4096));
  });

  it('keeps its blocks of 4096 bytes together', async (context) => {
    const other = loopDevice(scratchFile(folder, pattern(MIB)), '--sector-size', '4096');
    if (other === undefined) return context.skip('losetup does not know --sector-size');
    const { backend, driver } = await open(other, { writable: true, direct: true });
    expect(backend.blockSizeBytes).toBe(4096);
    expect(await driver.write(512, pattern(512, 8))).toBe(0);
    const expected = pattern(8192);
    expected.set(pattern(512, 8), 512);
    expectSame(await driver.read(0, 8192), expected);
  });

  it('reaches what is behind it', async () => {
    const { driver } = await open(path, { writable: true });
    expect(await driver.write(MIB, pattern(4096, 5))).toBe(0);
    expect(await driver.sync()).toBe(0);
    expectSame(readFileSync(backing).subarray(MIB, MIB + 4096), pattern(4096, 5));
  });
});
