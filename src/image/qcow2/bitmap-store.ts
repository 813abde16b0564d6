/**
 * The end of a session: bitmaps learn what was written, after all else is written and stable.
 *
 *     clusters taken ─▶ stable ─▶ bits and tables written ─▶ stable ─▶ mark removed ─▶ stable
 *
 * What is written where it is may be torn by a crash: the mark is there until the end (bitmaps.ts,
 * B1). What was taken for nothing is a leak.
 */
import { SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { nextWritten, setBits, type WrittenGranules } from './bitmap-bits.ts';
import { ImageClusters } from './image-clusters.ts';
import type { Bitmap } from './bitmap-directory.ts';
import { ALL_ONES, ALL_ZEROES, bitmapTableBytes, readBitmapTable } from './bitmap-table.ts';
import { markInUse } from './bitmaps.ts';
import { type Qcow2Header, readHeader } from './header.ts';

/** A bitmap and its table; the entries whose bits change, and those of them that had none. */
interface Change {
  readonly bitmap: Bitmap;
  readonly entries: bigint[];
  readonly changed: readonly number[];
  readonly blank: ReadonlySet<number>;
}

/**
 * Adds to the bitmaps what was written, and takes their marks away.
 * @throws SluiceError of the failure, when they keep their marks
 */
export async function storeBitmaps(
  file: ImageFile,
  path: string,
  bitmaps: readonly Bitmap[],
  written: WrittenGranules,
  isBlockDevice: boolean,
): Promise<void> {
  try {
    // The engine may have moved the refcount table.
    const header = await readHeader(file, path);
    if (header.corrupt) throw new SluiceError('ERR_SLUICE_CORRUPT', 'it is marked corrupt');
    await store(file, header, bitmaps, written, isBlockDevice);
    await markInUse(file, bitmaps, false);
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : String(cause);
    const code = cause instanceof SluiceError ? cause.code : 'ERR_SLUICE_IO';
    const message = `the bitmaps of ${JSON.stringify(path)} are not up to date and stay marked`;
    const advice = 'remove them, and back up the whole disk next time';
    throw new SluiceError(code, `${message} as in use: ${found}; ${advice}`, {
      operation: 'close',
      path,
      cause,
    });
  }
}

async function store(
  file: ImageFile,
  header: Qcow2Header,
  bitmaps: readonly Bitmap[],
  written: WrittenGranules,
  isBlockDevice: boolean,
): Promise<void> {
  const changes: Change[] = [];
  for (const bitmap of bitmaps) {
    const change = await changeOf(file, header, bitmap, written);
    if (change.changed.length > 0) changes.push(change);
  }
  if (changes.length === 0) return;
  await placeBits(file, header, changes, isBlockDevice);
  for (const change of changes) await writeChange(file, header, change, written);
  await file.sync();
}

async function changeOf(
  file: ImageFile,
  header: Qcow2Header,
  bitmap: Bitmap,
  written: WrittenGranules,
): Promise<Change> {
  const { entries, problem } = await readBitmapTable(file, header, bitmap);
  if (problem !== undefined) throw new SluiceError('ERR_SLUICE_CORRUPT', problem);
  const changed = [...entries.keys()].filter((index) => {
    const { from, to } = rangeOf(header, bitmap, index);
    return entries[index] !== ALL_ONES && nextWritten(written, from, to) !== undefined;
  });
  const blank = new Set(changed.filter((index) => entries[index] === ALL_ZEROES));
  return { bitmap, entries, changed, blank };
}

/** Gives a cluster to every entry that gets its first bit. */
async function placeBits(
  file: ImageFile,
  header: Qcow2Header,
  changes: readonly Change[],
  isBlockDevice: boolean,
): Promise<void> {
  const count = changes.reduce((sum, { blank }) => sum + blank.size, 0);
  if (count === 0) return;
  const clusters = await ImageClusters.of(file, header, isBlockDevice);
  const offsets = (await clusters.take(count)).values();
  for (const { entries, blank } of changes) {
    for (const index of blank) entries[index] = BigInt(offsets.next().value ?? 0);
  }
}

async function writeChange(
  file: ImageFile,
  header: Qcow2Header,
  { bitmap, entries, changed, blank }: Change,
  written: WrittenGranules,
): Promise<void> {
  const { clusterBytes } = header;
  for (const index of changed) {
    const offset = Number(entries[index]);
    const isBlank = blank.has(index);
    const bits = isBlank ? new Uint8Array(clusterBytes) : await file.read(offset, clusterBytes);
    addWritten(bits, rangeOf(header, bitmap, index), bitmap.granularityBits, written);
    await file.write(offset, bits);
  }
  if (blank.size > 0) await file.write(bitmap.tableOffset, bitmapTableBytes(entries));
}

function addWritten(
  bits: Uint8Array,
  range: { readonly from: number; readonly to: number },
  granularityBits: number,
  written: WrittenGranules,
): void {
  const { from, to } = range;
  const granuleBytes = 2 ** granularityBits;
  for (let run = nextWritten(written, from, to); run !== undefined;) {
    const first = Math.floor((run.from - from) / granuleBytes);
    setBits(bits, first, Math.ceil((run.to - from) / granuleBytes));
    run = nextWritten(written, run.to, to);
  }
}

/** The bytes of the disk that the bits of a cluster stand for. */
function rangeOf(
  { clusterBytes, sizeBytes }: Qcow2Header,
  { granularityBits }: Bitmap,
  index: number,
): { readonly from: number; readonly to: number } {
  const length = clusterBytes * 8 * 2 ** granularityBits;
  return { from: index * length, to: Math.min((index + 1) * length, sizeBytes) };
}
