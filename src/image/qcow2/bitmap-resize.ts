/**
 * Bitmaps of a disk that gets another size, and is not written to meanwhile (resizing.ts).
 *
 *     it gets smaller: what is behind the new end is marked ─▶ stable ─▶ it is zeroed ─▶ stable
 *     tables, bits and a directory for the size ─▶ stable ─▶ the header names them, and the size
 *         ─▶ stable ─▶ what was there before is given back
 *
 * Z1 One switch of the header (rewrite-header.ts) tells the size and the directory: bitmaps always
 *    have the length of the disk.
 * Z2 Nothing that the header names is written to. A cut leaves the old or the new, and leaks at
 *    worst. Clusters of bits that stay as they are belong to both.
 * Z3 What is new was not written. Bits past the end are clear, so that they are not there again
 *    when the disk grows.
 * Z4 A bitmap that is kept up to date says that something was written before it is taken away. The
 *    granule through which the new end goes says so until the size is told, and no longer.
 */
import { BITMAP_TABLE_OFFSET, BITMAP_TABLE_SIZE } from '../../abi/qcow2.ts';
import type { ImageFile } from '../image-file.ts';
import { type EditOptions, refusal } from './begin-edit.ts';
import { clearBits, hasBitAt, setBits } from './bitmap-bits.ts';
import type { Bitmap } from './bitmap-directory.ts';
import {
  clustersOf,
  directoryClusters,
  entriesOf,
  findUsable,
  newTable,
  openBitmaps,
  type Opened,
  placeDirectory,
  refuseUnsound,
  releaseAll,
  tableClusters,
  tableEntriesFor,
} from './bitmap-edit.ts';
import { ALL_ONES, ALL_ZEROES, readBitmapTable } from './bitmap-table.ts';
import type { BitmapsExtension } from './header-extensions.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import type { ImageClusters } from './image-clusters.ts';
import { planHeader, rewriteHeader } from './rewrite-header.ts';

/** Bitmaps in the file that the header does not name yet. */
export interface PlacedBitmaps {
  readonly extension: BitmapsExtension;
  /** Clusters that nothing names once the header names these. */
  readonly replaced: readonly number[];
}

/** Of a bitmap: all bits from `at` on become `value`, and its table gets another length. */
interface Filling {
  readonly at: number;
  readonly value: 0 | 1;
  readonly tableEntries: number;
}

/** What the table of a bitmap becomes. */
interface Filled {
  readonly entries: readonly bigint[];
  readonly replaced: readonly number[];
}

const BITS_PER_BYTE = 8;

/**
 * The bitmaps of an image, which can get that length; nothing is changed.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED when one was not closed, or would be too long, or the
 *   header has no room for the change; ERR_SLUICE_CORRUPT
 */
export async function bitmapsToResize(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  sizeBytes: number,
  options: EditOptions = {},
): Promise<Opened> {
  const opened = await openBitmaps(file, header, path, options);
  const { count = 0, directoryBytes = 0 } = opened.header.bitmaps ?? {};
  for (const { name, granularityBits } of opened.bitmaps) {
    tableEntriesFor(ofSize(opened, sizeBytes), granularityBits);
    await refuseUnsound(opened, findUsable(opened, name));
  }
  const bitmaps = { count, directoryBytes, directoryOffset: 0 };
  // Whether there is room; the L1 table is not long enough for a greater size yet.
  await planHeader(file, opened.header, path, { bitmaps, sizeBytes: 0 });
  return opened;
}

/**
 * Marks what lies behind a new end as written, and that is stable (Z4). Answers the names of the
 * bitmaps in which the granule at that end was clear before.
 */
export async function markBehind(opened: Opened, sizeBytes: number): Promise<ReadonlySet<string>> {
  const cut = new Set<string>();
  const placed = await place(opened, async (bitmap) => {
    const { auto, tableEntries, granularityBits, name } = bitmap;
    if (!auto) return undefined;
    const at = Math.floor(sizeBytes / 2 ** granularityBits);
    if (!(await isSet(opened, bitmap, at))) cut.add(name);
    return { at, value: 1, tableEntries };
  });
  if (placed !== undefined) await switchBitmaps(opened, placed, opened.header.sizeBytes);
  return cut;
}

/** Writes bitmaps for a size; they are stable. `cut` is what `markBehind` has answered (Z3, Z4). */
export async function placeFitting(
  opened: Opened,
  sizeBytes: number,
  cut: ReadonlySet<string>,
): Promise<PlacedBitmaps | undefined> {
  const keptBytes = Math.min(sizeBytes, opened.header.sizeBytes);
  return place(opened, async ({ name, granularityBits }) => {
    const granules = keptBytes / 2 ** granularityBits;
    const tableEntries = tableEntriesFor(ofSize(opened, sizeBytes), granularityBits);
    return {
      at: cut.has(name) ? Math.floor(granules) : Math.ceil(granules),
      value: 0,
      tableEntries,
    };
  });
}

/** Lets the header name them, and the size; gives back what was there before (Z1). */
export async function switchBitmaps(
  opened: Opened,
  { extension, replaced }: PlacedBitmaps,
  sizeBytes: number,
): Promise<void> {
  const { file, path } = opened;
  const header = await readHeader(file, path);
  await rewriteHeader(file, header, path, { bitmaps: extension, sizeBytes });
  await releaseAll(opened, await clustersOf(opened), replaced);
}

/** Writes tables and a directory, with those bitmaps changed for which there is a filling (Z2). */
async function place(
  opened: Opened,
  fillingOf: (bitmap: Bitmap) => Promise<Filling | undefined>,
): Promise<PlacedBitmaps | undefined> {
  const { bitmaps, header } = opened;
  const { count = 0, directoryBytes = 0 } = header.bitmaps ?? {};
  const clusters = await clustersOf(opened);
  const directory = await entriesOf(opened);
  const replaced = directoryClusters(opened);
  let changed = 0;
  for (const [index, bitmap] of bitmaps.entries()) {
    const filling = await fillingOf(bitmap);
    if (filling === undefined) continue;
    changed += 1;
    const filled = await fill(opened, clusters, bitmap, filling);
    const { tableEntries } = filling;
    const tableOffset = await newTable(opened, clusters, tableEntries, filled.entries);
    const entry = directory[index] ?? new Uint8Array(0);
    const view = new DataView(entry.buffer, entry.byteOffset);
    view.setBigUint64(BITMAP_TABLE_OFFSET, BigInt(tableOffset));
    view.setUint32(BITMAP_TABLE_SIZE, tableEntries);
    replaced.push(...tableClusters(opened, bitmap), ...filled.replaced);
  }
  if (changed === 0) return undefined;
  const directoryOffset = await placeDirectory(opened, clusters, directory);
  return { extension: { count, directoryBytes, directoryOffset }, replaced };
}

/** The entry in the midst of which the filling begins gets bits of its own; they are not synced. */
async function fill(
  opened: Opened,
  clusters: ImageClusters,
  bitmap: Bitmap,
  { at, value, tableEntries }: Filling,
): Promise<Filled> {
  const { file, header } = opened;
  const perEntry = header.clusterBytes * BITS_PER_BYTE;
  const there = await tableOf(opened, bitmap);
  const rest = value === 1 ? ALL_ONES : ALL_ZEROES;
  const entries = Array.from({ length: tableEntries }, (_, index) =>
    index * perEntry < at ? (there[index] ?? ALL_ZEROES) : rest,
  );
  const middle = Math.floor(at / perEntry);
  const first = at % perEntry;
  const entry = entries[middle] ?? rest;
  if (first > 0 && entry !== rest) {
    const bits = await bitsOf(opened, entry);
    if (value === 0) clearBits(bits, first);
    else setBits(bits, first, Math.min(perEntry, bitCount(header, bitmap) - middle * perEntry));
    const [offset = 0] = await clusters.take(1);
    await file.write(offset, bits);
    entries[middle] = BigInt(offset);
  }
  const kept = new Set(entries);
  const replaced = there.filter((one) => one !== ALL_ONES && one !== ALL_ZEROES && !kept.has(one));
  return { entries, replaced: replaced.map(Number) };
}

async function isSet(opened: Opened, bitmap: Bitmap, at: number): Promise<boolean> {
  const perEntry = opened.header.clusterBytes * BITS_PER_BYTE;
  const entry = (await tableOf(opened, bitmap))[Math.floor(at / perEntry)] ?? ALL_ZEROES;
  return hasBitAt(await bitsOf(opened, entry), at % perEntry);
}

/** The bits of an entry of a table. */
async function bitsOf({ file, header }: Opened, entry: bigint): Promise<Uint8Array> {
  const { clusterBytes } = header;
  if (entry === ALL_ZEROES) return new Uint8Array(clusterBytes);
  if (entry === ALL_ONES) return new Uint8Array(clusterBytes).fill(0xff);
  return new Uint8Array(await file.read(Number(entry), clusterBytes));
}

async function tableOf({ file, header, path }: Opened, bitmap: Bitmap): Promise<bigint[]> {
  const { entries, problem } = await readBitmapTable(file, header, bitmap);
  if (problem === undefined) return entries;
  throw refusal('ERR_SLUICE_CORRUPT', 'resize', path, problem, 'check and repair it first');
}

function bitCount({ sizeBytes }: Qcow2Header, { granularityBits }: Bitmap): number {
  return Math.ceil(sizeBytes / 2 ** granularityBits);
}

function ofSize(opened: Opened, sizeBytes: number): Opened {
  return { ...opened, header: { ...opened.header, sizeBytes } };
}
