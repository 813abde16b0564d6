/**
 * Persistent bitmaps that are kept up to date while an image is written: what is done with them
 * before the disk opens, and when it has closed. In between the engine notes what is written.
 *
 * B1 A bitmap is marked "in use", and the mark is stable, before the disk opens; the mark goes when
 *    the bitmap says what was written, and that is stable. Whoever finds it does not believe the
 *    bitmap: after a crash, or an error at the end.
 * B2 The mark is one bit of the directory, changed where it is: its word lies inside one sector,
 *    so that the directory is never torn, and needs no copy.
 * B3 A bitmap that is not to be updated, or that is in use already, is not touched.
 * B4 When anything about the bitmaps is not understood, all of them are given up before the first
 *    write (make-writable.ts).
 */
import { BITMAP_FLAG_IN_USE_BIT, BITMAP_FLAGS, L2_ENTRY_BYTES } from '../../abi/qcow2.ts';
import { type ErrorCode, SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { ImageClusters } from './image-clusters.ts';
import { type Bitmap, readBitmapDirectory } from './bitmap-directory.ts';
import { ALL_ONES, ALL_ZEROES, readBitmapTable } from './bitmap-table.ts';
import type { Qcow2Header } from './header.ts';
import type { ByteRange, Granules } from './map-region.ts';

const FLAGS_BYTES = 4;
const DAMAGE: ReadonlySet<ErrorCode> = new Set(['ERR_SLUICE_CORRUPT', 'ERR_SLUICE_IMAGE']);
/** What is noted of a session takes at most 4 MiB; then granules are larger than a bitmap's. */
const GRANULES_MAX = 4 * 1024 * 1024 * 8;

/**
 * The bitmaps to keep up to date; undefined when they are not all understood (B3, B4). `notice` is
 * told of those that are not kept.
 */
export async function bitmapsToKeep(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  notice: (text: string) => unknown = () => undefined,
): Promise<readonly Bitmap[] | undefined> {
  if (header.bitmaps === undefined) return [];
  if (!header.bitmaps.consistent) {
    await notice(
      'its bitmaps are out of date: a program that does not know them has written the image',
    );
    return [];
  }
  const { bitmaps, problem } = await readBitmapDirectory(file, header, path);
  const wanted = bitmaps.filter(({ auto, inUse }) => auto && !inUse);
  const isSound = problem === undefined && (await areSound(file, header, wanted));
  if (!isSound) {
    await notice('its bitmaps are damaged, and are not kept up to date any more; remove them');
    return undefined;
  }
  for (const { name } of bitmaps.filter(({ inUse }) => inUse)) {
    await notice(
      `its bitmap ${JSON.stringify(name)} was not closed, and is out of date; remove it`,
    );
  }
  return wanted;
}

/** How finely it is noted what is written; undefined when no bitmap wants to know it. */
export function granulesFor(
  bitmaps: readonly Bitmap[],
  { sizeBytes }: Qcow2Header,
): Granules | undefined {
  if (bitmaps.length === 0) return undefined;
  let bits = Math.min(...bitmaps.map(({ granularityBits }) => granularityBits));
  while (sizeBytes / 2 ** bits > GRANULES_MAX) bits++;
  return { bits, count: Math.ceil(sizeBytes / 2 ** bits) };
}

/** Sets the marks, or takes them away; that is stable afterwards (B1, B2). */
export async function markInUse(
  file: ImageFile,
  bitmaps: readonly Bitmap[],
  inUse: boolean,
): Promise<void> {
  const bit = 1 << BITMAP_FLAG_IN_USE_BIT;
  for (const { offset } of bitmaps) {
    const bytes = await file.read(offset + BITMAP_FLAGS, FLAGS_BYTES);
    const word = new DataView(bytes.buffer, bytes.byteOffset, FLAGS_BYTES);
    const flags = word.getUint32(0);
    word.setUint32(0, inUse ? flags | bit : flags & ~bit);
    await file.write(offset + BITMAP_FLAGS, bytes);
  }
  if (bitmaps.length > 0) await file.sync();
}

/** Tables and bits of these bitmaps belong to one of them, and to nothing else. */
export async function areSound(
  file: ImageFile,
  header: Qcow2Header,
  bitmaps: readonly Bitmap[],
): Promise<boolean> {
  if (bitmaps.length === 0) return true;
  try {
    return await areApart(file, header, bitmaps);
  } catch (error) {
    if (error instanceof SluiceError && DAMAGE.has(error.code)) return false;
    throw error;
  }
}

async function areApart(
  file: ImageFile,
  header: Qcow2Header,
  bitmaps: readonly Bitmap[],
): Promise<boolean> {
  const clusters = await ImageClusters.of(file, header);
  const used = new Set<number>();
  for (const bitmap of bitmaps) {
    const { entries, problem } = await readBitmapTable(file, header, bitmap);
    if (problem !== undefined) return false;
    for (const offset of clustersOf(bitmap, entries, header.clusterBytes)) {
      const isOwn = (await clusters.refcount(offset)) === 1;
      if (!isOwn || used.has(offset) || isFixed(header, offset)) return false;
      used.add(offset);
    }
  }
  return true;
}

function clustersOf(
  { tableOffset, tableEntries }: Bitmap,
  entries: readonly bigint[],
  clusterBytes: number,
): number[] {
  const offsets = entries.filter((entry) => entry !== ALL_ZEROES && entry !== ALL_ONES).map(Number);
  const tableEnd = tableOffset + tableEntries * L2_ENTRY_BYTES;
  for (let at = tableOffset; at < tableEnd; at += clusterBytes) offsets.push(at);
  return offsets;
}

/** The header and what it points to. */
function isFixed(header: Qcow2Header, offset: number): boolean {
  const { l1Offset, l1Entries, refcountTableOffset, refcountTableClusters, bitmaps } = header;
  const { clusterBytes } = header;
  const fixed: ByteRange[] = [
    { offset: 0, length: clusterBytes },
    { offset: l1Offset, length: l1Entries * L2_ENTRY_BYTES },
    { offset: refcountTableOffset, length: refcountTableClusters * clusterBytes },
    { offset: bitmaps?.directoryOffset ?? 0, length: bitmaps?.directoryBytes ?? 0 },
  ];
  return fixed.some(({ offset: at, length }) => offset < at + length && at < offset + clusterBytes);
}
