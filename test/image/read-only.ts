/** Reading images of formats that are only read, as copies do. */
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';

import { expect } from 'vitest';

import type * as Pool from '../../src/copy/codec-pool.ts';
import { openSource } from '../../src/copy/open-source.ts';
import type { ReadOnlyFormat } from '../../src/image/format.ts';
import { Random } from '../../src/testing/random.ts';

/** The threads run from the built package. */
const POOL = new URL('../../dist/copy/codec-pool.js', import.meta.url).href;
const { CodecPool } = (await import(POOL)) as typeof Pool;

/** A thread for the streams of a test file. */
export function codecPool(): Pool.CodecPool {
  return new CodecPool(1);
}

/** All values. */
export async function all<T>(values: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const value of values) list.push(value);
  return list;
}

/** The same bytes; a difference is told by its place. */
export function expectBytes(
  found: Uint8Array | string | undefined,
  expected: Uint8Array | string | undefined,
): void {
  if (typeof found === 'string' || typeof expected === 'string') {
    return expect.unreachable(`${String(found)} ${String(expected)}`);
  }
  expect(found?.length).toBe(expected?.length);
  const differs = found?.findIndex((byte, at) => byte !== expected?.[at]);
  expect(differs === -1 ? 'the same' : `differs at ${differs}`).toBe('the same');
}

/** Larger disks are not read, only walked. */
export const READ_BYTES_MAX = 64 * 1024 * 1024;

/** What a disk reads as; undefined for a large one, whose ranges are told all the same. */
export async function readDisk(
  path: string,
  format: ReadOnlyFormat,
  codecs: Pool.CodecPool,
): Promise<Uint8Array | undefined> {
  await using source = await openSource(path, { format, lock: 'none' }, codecs);
  const { sizeBytes } = source;
  const disk = sizeBytes > READ_BYTES_MAX ? undefined : new Uint8Array(sizeBytes).fill(0xee);
  let end = 0;
  for await (const extent of source.extents()) {
    const { start, length } = extent;
    if (start !== end || length <= 0) throw new Error(`extent ${start}+${length} comes at ${end}`);
    end = start + length;
    if (disk !== undefined) await source.read([extent], start, disk.subarray(start, end));
  }
  if (end !== sizeBytes) throw new Error(`the extents end at ${end} of ${sizeBytes}`);
  return disk;
}

/** What qemu-img reads, or what it says where it refuses. */
export function readByQemu(path: string, format: ReadOnlyFormat): Uint8Array | string {
  const copy = `${path}.theirs`;
  const args = ['convert', '-U', '-f', format, '-O', 'raw', path, copy];
  const { status, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8', timeout: 20_000 });
  const bytes = status === 0 ? new Uint8Array(readFileSync(copy)) : stderr;
  rmSync(copy, { force: true });
  return bytes;
}

/** Text, noise and zeroes, of any length. */
export function someDisk(length: number, seed: number): Uint8Array {
  const random = new Random(seed);
  const disk = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const end = Math.min(length, at + 512 * (1 + random.below(24)));
    const kind = random.below(3);
    if (kind === 0) for (let byte = at; byte < end; byte++) disk[byte] = random.next() & 0xff;
    if (kind === 1) disk.fill(0x61 + random.below(26), at, end);
    at = end;
  }
  return disk;
}
