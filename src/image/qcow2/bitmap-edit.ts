/**
 * Bitmaps added, removed, switched on and off, and cleared, in an image that no engine has open.
 *
 * D1 The directory is written anew in fresh clusters, and its table and bits with it; they are
 *    stable before the header names the directory (rewrite-header.ts), and that is stable before
 *    what was there is given back. A cut leaves the old or the new bitmaps, and leaks at worst.
 * D2 What changes one word of an entry (a flag, the place of a table) changes it where it is: it
 *    lies inside one sector. A new table is stable before an entry names it.
 * D3 The header says that bitmaps are consistent as long as there is one.
 * D4 Bitmaps that the header says are not consistent are void: they are not there, and the first
 *    new one takes their place.
 */
import {
  BITMAP_BYTES_MAX,
  BITMAP_DIRECTORY_BYTES_MAX,
  BITMAP_FLAG_AUTO_BIT,
  BITMAP_FLAGS,
  BITMAP_GRANULARITY_BITS_MAX,
  BITMAP_GRANULARITY_BITS_MIN,
  BITMAP_NAME_BYTES_MAX,
  BITMAP_TABLE_OFFSET,
  BITMAPS_MAX,
  L2_ENTRY_BYTES,
} from '../../abi/qcow2.ts';
import { invalid } from '../../arguments.ts';
import type { SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { beginEdit, type EditOptions, refusal, takeBackPromises } from './begin-edit.ts';
import { type Bitmap, readBitmapDirectory } from './bitmap-directory.ts';
import { entryBytes, entryLength, splitEntries } from './bitmap-entries.ts';
import { ALL_ONES, ALL_ZEROES, readBitmapTable } from './bitmap-table.ts';
import { areSound } from './bitmaps.ts';
import type { BitmapsExtension } from './header-extensions.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import { ImageClusters } from './image-clusters.ts';
import { planHeader, rewriteHeader } from './rewrite-header.ts';

/** How a bitmap is made. */
export interface NewBitmap {
  /** A power of two; default: a cluster, but 4 KiB at least and 64 KiB at most. */
  readonly granularityBytes?: number;
  /** It is kept up to date by whoever writes to the disk. */
  readonly enabled?: boolean;
}

/** The bitmaps of an image that was begun. */
export interface Opened {
  readonly file: ImageFile;
  readonly header: Qcow2Header;
  readonly path: string;
  readonly bitmaps: readonly Bitmap[];
  readonly isBlockDevice: boolean;
  readonly refcountTableEntriesMax?: number | undefined;
}

const DEFAULT_BYTES_MIN = 4096;
const DEFAULT_BYTES_MAX = 65_536;
const BITS_PER_BYTE = 8;
const FLAGS_BYTES = 4;

/** Adds a bitmap in which nothing is set; the header as it is then, and stable. */
export async function addBitmap(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  name: string,
  options: NewBitmap & EditOptions = {},
): Promise<Qcow2Header> {
  const bytes = nameBytes(name);
  const granularityBits = granularityBitsOf(header, options.granularityBytes);
  const opened = await openBitmaps(file, header, path, options);
  const tableEntries = tableEntriesFor(opened, granularityBits);
  if (opened.bitmaps.some((bitmap) => bitmap.name === name)) {
    throw refused(opened, `there is a bitmap ${JSON.stringify(name)}`, 'use another name');
  }
  const { count, directoryBytes } = await roomFor(opened, bytes);
  options.signal?.throwIfAborted();
  await takeBackPromises(file, opened.header, path);
  const clusters = await clustersOf(opened);
  const tableOffset = await newTable(opened, clusters, tableEntries, []);
  const enabled = options.enabled !== false;
  const entry = { name: bytes, tableOffset, tableEntries, granularityBits, enabled };
  const entries = [...(await entriesOf(opened)), entryBytes(entry)];
  return switchDirectory(opened, clusters, entries, count, directoryBytes);
}

/** Removes a bitmap, also one that is in use; the header as it is then, and stable. */
export async function removeBitmap(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  name: string,
  options: EditOptions = {},
): Promise<Qcow2Header> {
  const opened = await openBitmaps(file, header, path, options);
  const bitmap = find(opened, name);
  await refuseUnsound(opened, bitmap);
  const old = await offsetsOf(opened, bitmap);
  const index = opened.bitmaps.indexOf(bitmap);
  const entries = (await entriesOf(opened)).filter((_, at) => at !== index);
  const directoryBytes = entries.reduce((sum, { length }) => sum + length, 0);
  await planHeader(file, opened.header, path, { bitmaps: extension(entries.length, 0, 0) });
  options.signal?.throwIfAborted();
  await takeBackPromises(file, opened.header, path);
  const clusters = await clustersOf(opened);
  await switchDirectory(opened, clusters, entries, entries.length, directoryBytes);
  await releaseAll(opened, await clustersOf(opened), old);
  return readHeader(file, path);
}

/** Takes all that is set out of a bitmap; the header as it is then, and stable. */
export async function clearBitmap(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  name: string,
  options: EditOptions = {},
): Promise<Qcow2Header> {
  const opened = await openBitmaps(file, header, path, options);
  const bitmap = findUsable(opened, name);
  await refuseUnsound(opened, bitmap);
  const old = await offsetsOf(opened, bitmap);
  options.signal?.throwIfAborted();
  await takeBackPromises(file, opened.header, path);
  const clusters = await clustersOf(opened);
  const offset = await newTable(opened, clusters, bitmap.tableEntries, []);
  await switchTable(file, bitmap, offset);
  await releaseAll(opened, clusters, old);
  return readHeader(file, path);
}

/** Lets a bitmap be kept up to date; the header as it is then, and stable. */
export function enableBitmap(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  name: string,
): Promise<Qcow2Header> {
  return setAuto(file, header, path, name, true);
}

/** Lets a bitmap stay as it is whatever is written; the header as it is then, and stable. */
export function disableBitmap(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  name: string,
): Promise<Qcow2Header> {
  return setAuto(file, header, path, name, false);
}

async function setAuto(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  name: string,
  isAuto: boolean,
): Promise<Qcow2Header> {
  const opened = await openBitmaps(file, header, path, {});
  const { auto, offset } = findUsable(opened, name);
  const now = await takeBackPromises(file, opened.header, path);
  if (auto === isAuto) return now;
  const bytes = await file.read(offset + BITMAP_FLAGS, FLAGS_BYTES);
  const word = new DataView(bytes.buffer, bytes.byteOffset, FLAGS_BYTES);
  word.setUint32(0, word.getUint32(0) ^ (1 << BITMAP_FLAG_AUTO_BIT));
  await file.write(offset + BITMAP_FLAGS, bytes);
  await file.sync();
  return now;
}

/** The bitmaps of an image that may be changed; a directory that is damaged is refused. */
export async function openBitmaps(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  { isBlockDevice = false, refcountTableEntriesMax }: EditOptions,
): Promise<Opened> {
  const begun = await beginEdit(file, header, path, 'bitmap');
  const { bitmaps, problem } = await readBitmapDirectory(file, begun, path);
  const opened = { file, header: begun, path, bitmaps, isBlockDevice, refcountTableEntriesMax };
  if (problem !== undefined) throw damaged(opened, problem);
  if (begun.bitmaps === undefined || !begun.bitmaps.consistent) return opened;
  const clusters = await clustersOf(opened);
  for (const offset of directoryClusters(opened)) {
    if ((await clusters.refcount(offset)) === 1) continue;
    throw damaged(opened, 'its bitmap directory is not counted once');
  }
  return opened;
}

/** The bitmap with this name, which is not in use. */
export function findUsable(opened: Opened, name: string): Bitmap {
  const bitmap = find(opened, name);
  if (!bitmap.inUse) return bitmap;
  const found = `its bitmap ${JSON.stringify(name)} was not closed, and is out of date`;
  throw refused(opened, found, 'remove it');
}

function find(opened: Opened, name: string): Bitmap {
  const bitmap = opened.bitmaps.find((one) => one.name === name);
  if (bitmap !== undefined) return bitmap;
  const names = opened.bitmaps.map((one) => JSON.stringify(one.name)).slice(0, 8);
  const there = names.length === 0 ? 'there is none' : `there are ${names.join(', ')}`;
  throw invalid(`${JSON.stringify(opened.path)} has no bitmap ${JSON.stringify(name)}; ${there}`);
}

/** What is given back, or written to, must be the bitmap's alone. */
export async function refuseUnsound(opened: Opened, bitmap: Bitmap): Promise<void> {
  if (await areSound(opened.file, opened.header, [bitmap])) return;
  const name = JSON.stringify(bitmap.name);
  throw damaged(opened, `the table or the bits of its bitmap ${name} are not its own`);
}

/** The image as its refcounts are now. */
export async function clustersOf(opened: Opened): Promise<ImageClusters> {
  const { file, path, isBlockDevice, refcountTableEntriesMax } = opened;
  const header = await readHeader(file, path);
  return ImageClusters.of(file, header, isBlockDevice, refcountTableEntriesMax);
}

/** Writes a table in new clusters; entries that are not given are zero. It is stable. */
export async function newTable(
  { file, header }: Opened,
  clusters: ImageClusters,
  tableEntries: number,
  entries: readonly bigint[],
): Promise<number> {
  const count = Math.ceil((tableEntries * L2_ENTRY_BYTES) / header.clusterBytes);
  const table = new DataView(new ArrayBuffer(count * header.clusterBytes));
  for (const [index, entry] of entries.entries()) {
    table.setBigUint64(index * L2_ENTRY_BYTES, entry);
  }
  const offset = await clusters.takeRun(count);
  await file.write(offset, new Uint8Array(table.buffer));
  await file.sync();
  return offset;
}

/** D2. */
export async function switchTable(file: ImageFile, bitmap: Bitmap, offset: number): Promise<void> {
  const bytes = new DataView(new ArrayBuffer(8));
  bytes.setBigUint64(0, BigInt(offset));
  await file.write(bitmap.offset + BITMAP_TABLE_OFFSET, new Uint8Array(bytes.buffer));
  await file.sync();
}

/** The clusters of a bitmap: those of its table, and those of its bits. */
async function offsetsOf(opened: Opened, bitmap: Bitmap): Promise<number[]> {
  const { entries, problem } = await readBitmapTable(opened.file, opened.header, bitmap);
  if (problem !== undefined) throw damaged(opened, problem);
  const bits = entries.filter((entry) => entry !== ALL_ZEROES && entry !== ALL_ONES).map(Number);
  return [...tableClusters(opened, bitmap), ...bits];
}

/** The clusters of the table of a bitmap. */
export function tableClusters({ header }: Opened, bitmap: Bitmap): number[] {
  const { tableOffset, tableEntries } = bitmap;
  const count = Math.ceil((tableEntries * L2_ENTRY_BYTES) / header.clusterBytes);
  return Array.from({ length: count }, (_, index) => tableOffset + index * header.clusterBytes);
}

/** The clusters of the directory. */
export function directoryClusters({ header }: Opened): number[] {
  const { directoryOffset = 0, directoryBytes = 0 } = header.bitmaps ?? {};
  const count = Math.ceil(directoryBytes / header.clusterBytes);
  return Array.from({ length: count }, (_, index) => directoryOffset + index * header.clusterBytes);
}

/** Gives clusters back that nothing names any more, and that is stable. */
export async function releaseAll(
  { file }: Opened,
  clusters: ImageClusters,
  offsets: readonly number[],
): Promise<void> {
  for (const offset of offsets) await clusters.release(offset, 1);
  await file.sync();
}

/** Writes a directory in new clusters; it is stable. */
export async function placeDirectory(
  { file, header }: Opened,
  clusters: ImageClusters,
  entries: readonly Uint8Array[],
): Promise<number> {
  const bytes = Buffer.concat(entries);
  const offset = await clusters.takeRun(Math.ceil(bytes.length / header.clusterBytes));
  await file.write(offset, bytes);
  await file.sync();
  return offset;
}

/** The entries of the directory, as they lie in the file. */
export async function entriesOf({ file, header, bitmaps }: Opened): Promise<Uint8Array[]> {
  const { directoryOffset = 0, directoryBytes = 0 } = header.bitmaps ?? {};
  if (bitmaps.length === 0) return [];
  return splitEntries(await file.read(directoryOffset, directoryBytes), bitmaps.length);
}

/** D1, D3. */
async function switchDirectory(
  opened: Opened,
  clusters: ImageClusters,
  entries: readonly Uint8Array[],
  count: number,
  directoryBytes: number,
): Promise<Qcow2Header> {
  const { file, header, path } = opened;
  const old = header.bitmaps?.consistent === true ? directoryClusters(opened) : [];
  const directoryOffset = count === 0 ? 0 : await placeDirectory(opened, clusters, entries);
  const bitmaps = extension(count, directoryOffset, directoryBytes);
  const now = await rewriteHeader(file, await readHeader(file, path), path, { bitmaps });
  if (old.length > 0) await releaseAll(opened, clusters, old);
  return now;
}

function extension(
  count: number,
  directoryOffset: number,
  directoryBytes: number,
): BitmapsExtension | 'none' {
  if (count === 0) return 'none';
  return { count, directoryOffset, directoryBytes };
}

/** Refuses one bitmap too many, and a header that has no room to name it. */
async function roomFor(opened: Opened, name: Uint8Array) {
  const { file, header, path, bitmaps } = opened;
  const count = bitmaps.length + 1;
  const directoryBytes = (header.bitmaps?.directoryBytes ?? 0) + entryLength(name);
  if (count > BITMAPS_MAX || directoryBytes > BITMAP_DIRECTORY_BYTES_MAX) {
    throw refused(opened, `it has ${bitmaps.length} bitmaps already`, 'remove some');
  }
  await planHeader(file, header, path, { bitmaps: { count, directoryBytes, directoryOffset: 0 } });
  return { count, directoryBytes };
}

/** Entries of the table of a bitmap of this disk. */
export function tableEntriesFor(opened: Opened, granularityBits: number): number {
  const { version, sizeBytes, clusterBytes } = opened.header;
  if (version === 2) throw refused(opened, 'version 2 has no bitmaps', 'amend it to version 3');
  if (sizeBytes === 0) throw refused(opened, 'its disk has 0 bytes', 'resize it first');
  const bytes = Math.ceil(Math.ceil(sizeBytes / 2 ** granularityBits) / BITS_PER_BYTE);
  const tableEntries = Math.ceil(bytes / clusterBytes);
  if (tableEntries * clusterBytes <= BITMAP_BYTES_MAX) return tableEntries;
  const found = `the bitmap would have ${tableEntries * clusterBytes} bytes`;
  throw refused(opened, `${found}, more than ${BITMAP_BYTES_MAX}`, 'use a larger granularity');
}

function granularityBitsOf({ clusterBytes }: Qcow2Header, granularityBytes?: number): number {
  const bytes =
    granularityBytes ?? Math.min(Math.max(clusterBytes, DEFAULT_BYTES_MIN), DEFAULT_BYTES_MAX);
  const bits = Math.log2(bytes);
  const isPossible =
    2 ** Math.round(bits) === bytes &&
    bits >= BITMAP_GRANULARITY_BITS_MIN &&
    bits <= BITMAP_GRANULARITY_BITS_MAX;
  if (isPossible) return bits;
  const range = `${2 ** BITMAP_GRANULARITY_BITS_MIN} to ${2 ** BITMAP_GRANULARITY_BITS_MAX}`;
  throw invalid(`granularityBytes must be a power of two, ${range}, not ${granularityBytes}`);
}

function nameBytes(name: string): Uint8Array {
  const bytes = new TextEncoder().encode(name);
  if (bytes.length === 0 || bytes.length > BITMAP_NAME_BYTES_MAX) {
    const rule = `the name of a bitmap has 1 to ${BITMAP_NAME_BYTES_MAX} bytes`;
    throw invalid(`${rule}, not ${bytes.length}`);
  }
  if (!/[\p{Cc}\p{Cs}\uFFFD]/u.test(name)) return bytes;
  throw invalid(`the name of a bitmap has no control characters: ${JSON.stringify(name)}`);
}

/** The error for what this image cannot do. */
export function refused({ path }: Opened, found: string, advice: string): SluiceError {
  return refusal('ERR_SLUICE_UNSUPPORTED', 'bitmap', path, found, advice);
}

function damaged({ path }: Opened, found: string): SluiceError {
  return refusal('ERR_SLUICE_CORRUPT', 'bitmap', path, found, 'check and repair it first');
}
