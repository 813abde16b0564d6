/** What an image in memory says of its disk and its snapshots, and whether that can be believed. */
import { expect } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { parseHeader, readHeader } from '../../src/image/qcow2/header.ts';
import { repairImage } from '../../src/image/qcow2/repair.ts';
import { readGuest } from '../model/qcow2.ts';
import type { Kind } from './check-images.ts';
import { PATH, snapshotsOf } from './snapshot-images.ts';

const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;
const FLAGS: readonly string[] = ['l1-copied', 'l2-copied', 'leak'];

/** The disk, and each snapshot by its id and name. */
export type Contents = ReadonlyMap<string, Buffer>;

const DISK = 'the disk';

/** True when the model can read what images of this kind hold. */
export function isReadable({ options, encrypted }: Kind): boolean {
  return encrypted !== true && !options.includes('zstd');
}

/** What a guest reads of the disk and of every snapshot; no bytes where it cannot be read. */
export async function contentsOf(
  image: Uint8Array,
  backing: Uint8Array | undefined,
  canRead: boolean,
): Promise<Contents> {
  const read = (bytes: Uint8Array): Buffer =>
    canRead ? Buffer.from(readGuest(bytes, backing)) : Buffer.alloc(0);
  const contents = new Map<string, Buffer>([[DISK, read(image)]]);
  for (const { id, name, diskBytes, l1Entries, l1Offset } of await snapshotsOf(image)) {
    const disk = Buffer.from(image);
    disk.writeBigUInt64BE(BigInt(diskBytes), 24);
    disk.writeUInt32BE(l1Entries, 36);
    disk.writeBigUInt64BE(BigInt(l1Offset), 40);
    contents.set(`${id}: ${name}`, read(disk));
  }
  return contents;
}

/** True when they hold the same. */
export function areSame(one: Contents, other: Contents): boolean {
  if (one.size !== other.size) return false;
  return [...one].every(([key, bytes]) => other.get(key)?.equals(bytes) === true);
}

/** No worse than leaks and flags that are missing, and a repair makes all of it right. */
export async function expectMendable(bytes: Uint8Array, told: string): Promise<void> {
  const { counts, findings } = checkBytes(bytes, parseHeader(bytes, PATH));
  const kinds = Object.keys(counts).filter((kind) => !FLAGS.includes(kind));
  expect(kinds, `${told}: ${findings[0]}`).toEqual([]);
  expect(wrongFlags(bytes), told).toEqual([]);
  if (Object.keys(counts).length === 0) return;
  const file = new MemoryFile(Buffer.from(bytes));
  const { isConsistent, after } = await repairImage(file, await readHeader(file, PATH), 'leaks');
  const { corruptions, leaks } = after;
  expect({ isConsistent, corruptions, leaks }, told).toEqual({
    isConsistent: true,
    corruptions: 0,
    leaks: 0,
  });
}

/** Clusters that a COPIED flag of the active tables stands for, and whose refcount is not 1. */
function wrongFlags(bytes: Uint8Array): number[] {
  const { l1Offset, l1Entries, clusterBytes, l2Entries } = parseHeader(bytes, PATH);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wrong: number[] = [];
  const flagged = (at: number): number => {
    const entry = view.getBigUint64(at);
    const offset = Number(entry & OFFSET_MASK);
    const isFlagged = (entry & COPIED) !== 0n && (entry & COMPRESSED) === 0n && offset !== 0;
    if (isFlagged && refcountAt(bytes, offset) !== 1) wrong.push(offset);
    return offset;
  };
  for (let index = 0; index < l1Entries; index++) {
    const table = flagged(l1Offset + index * 8);
    if (table === 0) continue;
    for (let at = 0; at < clusterBytes; at += clusterBytes / l2Entries) flagged(table + at);
  }
  return wrong;
}

/** Bit by bit, from the most significant one; below a byte the lowest bits come first. */
function refcountAt(bytes: Uint8Array, offset: number): number {
  const { refcountTableOffset, refcountBits, clusterBytes } = parseHeader(bytes, PATH);
  const cluster = offset / clusterBytes;
  const perBlock = (clusterBytes * 8) / refcountBits;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const entry = refcountTableOffset + Math.floor(cluster / perBlock) * 8;
  const block = Number(view.getBigUint64(entry));
  if (block === 0) return 0;
  const bit = (cluster % perBlock) * refcountBits;
  if (refcountBits < 8) {
    return ((bytes[block + Math.floor(bit / 8)] as number) >> (bit % 8)) & (2 ** refcountBits - 1);
  }
  let refcount = 0;
  for (let at = 0; at < refcountBits / 8; at++) {
    refcount = refcount * 256 + (bytes[block + bit / 8 + at] as number);
  }
  return refcount;
}
