/** Encrypted images, what they are to hold, and QEMU as the judge of that. */
import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'vitest';

import type { CacheModeName } from '../../src/cache-mode.ts';
import type { Disk } from '../../src/disk.ts';
import { openDisk } from '../../src/node.ts';
import { Random } from '../../src/testing/random.ts';
import { expectSame, pattern } from '../backend/driver.ts';
import { ROOT } from '../../bench/root.ts';
import { createEncrypted } from './codec-images.ts';

const run = promisify(execFile);

/** The build of the engine that checks itself. */
const module = new WebAssembly.Module(readFileSync(join(ROOT, 'build', 'engine.debug.wasm')));

export const KEY = 'open sesame';
const SECRET = ['--object', `secret,id=s,data=${KEY}`];
/** LUKS, with a key that takes no time. */
export const LUKS: readonly string[] = ['encrypt.format=luks', 'encrypt.iter-time=10'];

/** An encrypted image and what it holds. */
export interface Encrypted {
  readonly path: string;
  readonly expected: Uint8Array;
}

/** An image that QEMU has made, which reads as zeroes, or as `backing`. */
export async function createDisk(
  path: string,
  options: readonly string[],
  sizeBytes: number,
  backing: Uint8Array = new Uint8Array(0),
): Promise<Encrypted> {
  const template = join(path, '..', `template-${options.join()}-${sizeBytes}`.replaceAll('/', '_'));
  // QEMU takes seconds to find out how many rounds of PBKDF2 take a second.
  if (!existsSync(template)) await createEncrypted(template, KEY, options, `${sizeBytes}`);
  copyFileSync(template, path);
  const expected = new Uint8Array(sizeBytes);
  expected.set(backing.subarray(0, sizeBytes));
  return { path, expected };
}

/** Opens it as a disk for writing. */
export function openEncrypted(
  path: string,
  cache: CacheModeName = 'writeback',
  writable = true,
): Promise<Disk> {
  const backing = { folders: [join(path, '..')] };
  const encryption = { key: KEY };
  return openDisk(path, { format: 'qcow2', writable, cache, encryption, backing, module });
}

function imageOptions(path: string): string {
  return `driver=qcow2,file.filename=${path},encrypt.key-secret=s`;
}

/** Runs qemu-img's `command` on the image with these options. */
export async function runQemu(
  { path }: Encrypted,
  command: string,
  ...options: readonly string[]
): Promise<void> {
  await run('qemu-img', [command, ...SECRET, ...options, '--image-opts', imageOptions(path)]);
}

/** Puts the image over another one in its folder, which it shows wherever it has nothing itself. */
export async function setBacking(image: Encrypted, name: string, format: string): Promise<void> {
  await runQemu(image, 'rebase', '-u', '-b', name, '-F', format);
}

/** What QEMU reads. */
export async function readByQemu({ path }: Encrypted): Promise<Uint8Array> {
  const raw = `${path}.raw`;
  await run('qemu-img', [
    'convert',
    ...SECRET,
    '-O',
    'raw',
    '--image-opts',
    imageOptions(path),
    raw,
  ]);
  return readFileSync(raw);
}

/** QEMU finds nothing wrong with the image, and reads from it what it is to hold. */
export async function expectByQemu({ path, expected }: Encrypted): Promise<void> {
  const { stdout } = await run('qemu-img', [
    'check',
    ...SECRET,
    '--image-opts',
    imageOptions(path),
  ]);
  expect(stdout).toContain('No errors were found');
  const raw = `${path}.expected`;
  writeFileSync(raw, expected);
  const images = [imageOptions(path), `driver=raw,file.filename=${raw}`];
  const compared = await run('qemu-img', ['compare', ...SECRET, '--image-opts', ...images]);
  expect(compared.stdout).toBe('Images are identical.\n');
}

/** QEMU writes a range with a byte; `flags` are those of its write command. */
export async function writeByQemu(
  { path, expected }: Encrypted,
  offset: number,
  length: number,
  byte: number,
  flags = '',
): Promise<void> {
  const command = `write ${flags} -P ${byte} ${offset} ${length}`;
  await run('qemu-io', [...SECRET, '-c', command, '--image-opts', imageOptions(path)]);
  expected.fill(byte, offset, offset + length);
}

/** The disk reads as expected. */
export async function expectDisk(disk: Disk, expected: Uint8Array): Promise<void> {
  expectSame(await disk.read(0, expected.length), expected);
}

/** Sends `steps` requests, many at once, to places where they meet; then flushes. */
export async function exercise(
  disk: Disk,
  expected: Uint8Array,
  seed: number,
  steps: number,
): Promise<void> {
  const random = new Random(seed);
  const waiting: Promise<unknown>[] = [];
  for (let step = 0; step < steps; step++) {
    const [offset, length] = rangeOf(random, expected.length);
    waiting.push(send(disk, expected, random.below(10), offset, length, step));
    if (random.below(8) === 0) await Promise.all(waiting.splice(0));
  }
  await Promise.all(waiting);
  await disk.flush();
}

/** Mostly small, mostly aligned, and mostly in the first part of the disk. */
function rangeOf(random: Random, sizeBytes: number): [offset: number, length: number] {
  const granule = [1, 512, 512, 4096, 65536][random.below(5)] ?? 512;
  const area = random.below(4) === 0 ? sizeBytes : Math.min(sizeBytes, 1024 * 1024);
  const offset = Math.floor(random.below(area) / granule) * granule;
  const length = granule * (1 + random.below(granule === 1 ? 2000 : 12));
  return [offset, Math.min(length, sizeBytes - offset)];
}

/** Ten kinds of request; a discard may leave what was there, so it is followed by zeroes. */
async function send(
  disk: Disk,
  expected: Uint8Array,
  kind: number,
  offset: number,
  length: number,
  seed: number,
): Promise<void> {
  const end = offset + length;
  if (kind < 6) {
    const bytes = pattern(length, seed);
    expected.set(bytes, offset);
    return disk.write(offset, bytes, { fua: kind === 0 });
  }
  if (kind === 6) {
    const before = expected.slice(offset, end);
    return expectSame(await disk.read(offset, length), before);
  }
  expected.fill(0, offset, end);
  const discarded = kind === 7 ? disk.discard(offset, length) : undefined;
  const zeroed = disk.writeZeroes(offset, length, { mayUnmap: kind === 9 });
  await Promise.all([discarded, zeroed]);
}
