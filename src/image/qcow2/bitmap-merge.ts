/**
 * A bitmap that learns what another one says, of the same image or of another one.
 *
 *     clusters taken ─▶ stable ─▶ bits and table written ─▶ stable ─▶ the entry names the table
 *         ─▶ stable ─▶ what it named before is given back
 *
 * G1 Bits are written to new clusters only: until the entry changes, in one sector, the bitmap is
 *    what it was. Clusters that nothing is added to are named by both tables.
 */
import type { ImageFile } from '../image-file.ts';
import { type EditOptions, refusal, takeBackPromises } from './begin-edit.ts';
import { nextWritten, setBits } from './bitmap-bits.ts';
import { type Bitmap, readBitmapDirectory } from './bitmap-directory.ts';
import {
  clustersOf,
  findUsable,
  newTable,
  openBitmaps,
  type Opened,
  refused,
  refuseUnsound,
  releaseAll,
  switchTable,
  tableClusters,
} from './bitmap-edit.ts';
import { ALL_ONES, ALL_ZEROES, readBitmapTable } from './bitmap-table.ts';
import { type Qcow2Header, readHeader } from './header.ts';

/** The bitmap that is merged; `image`: it is one of another image, which is only read. */
export interface MergeSource {
  readonly name: string;
  readonly image?: {
    readonly file: ImageFile;
    readonly header: Qcow2Header;
    readonly path: string;
  };
}

/** A bitmap, and its table. */
interface Side {
  readonly file: ImageFile;
  readonly header: Qcow2Header;
  readonly bitmap: Bitmap;
  readonly entries: readonly bigint[];
}

interface Range {
  readonly from: number;
  readonly to: number;
}

/** Sets in a bitmap what is set in another; the header as it is then, and stable. */
export async function mergeBitmap(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  name: string,
  source: MergeSource,
  options: EditOptions = {},
): Promise<Qcow2Header> {
  const { signal } = options;
  const opened = await openBitmaps(file, header, path, options);
  const bitmap = findUsable(opened, name);
  const from = await sourceOf(opened, source);
  const isSame = source.image === undefined && source.name === name;
  if (isSame) return opened.header;
  await refuseUnsound(opened, bitmap);
  const into = await sideOf(opened, bitmap);
  const changed = await changedEntries(into, from, signal);
  signal?.throwIfAborted();
  await takeBackPromises(file, opened.header, path);
  if (changed.length > 0) await merge(opened, into, from, changed, signal);
  return readHeader(file, path);
}

async function sourceOf(opened: Opened, { name, image }: MergeSource): Promise<Side> {
  if (image === undefined) return sideOf(opened, findUsable(opened, name));
  const { file, header, path } = image;
  const { bitmaps, problem } = await readBitmapDirectory(file, header, path);
  if (problem !== undefined) {
    throw refusal('ERR_SLUICE_CORRUPT', 'bitmap', path, problem, 'check and repair it first');
  }
  const other = { ...opened, file, header, path, bitmaps };
  const bitmap = findUsable(other, name);
  if (header.sizeBytes !== opened.header.sizeBytes) {
    const found = `its disk has ${opened.header.sizeBytes} bytes`;
    const theirs = `that of ${JSON.stringify(path)} has ${header.sizeBytes}`;
    throw refused(opened, `${found}, ${theirs}`, 'merge bitmaps of disks of the same size');
  }
  return sideOf(other, bitmap);
}

async function sideOf({ file, header, path }: Opened, bitmap: Bitmap): Promise<Side> {
  const { entries, problem } = await readBitmapTable(file, header, bitmap);
  if (problem === undefined) return { file, header, bitmap, entries };
  throw refusal('ERR_SLUICE_CORRUPT', 'bitmap', path, problem, 'check and repair it first');
}

/** Those of the target in which something gets set. */
async function changedEntries(into: Side, from: Side, signal?: AbortSignal): Promise<number[]> {
  const changed: number[] = [];
  for (const [index, entry] of into.entries.entries()) {
    signal?.throwIfAborted();
    if (entry === ALL_ONES) continue;
    for await (const run of setRanges(from, rangeOf(into, index))) {
      if (run.from < run.to) changed.push(index);
      break;
    }
  }
  return changed;
}

async function merge(
  opened: Opened,
  into: Side,
  from: Side,
  changed: readonly number[],
  signal?: AbortSignal,
): Promise<void> {
  const { file, header } = opened;
  const clusters = await clustersOf(opened);
  const taken = await clusters.take(changed.length);
  const entries = [...into.entries];
  const old = tableClusters(opened, into.bitmap);
  for (const [order, index] of changed.entries()) {
    signal?.throwIfAborted();
    const entry = entries[index] ?? ALL_ZEROES;
    const offset = taken[order] ?? 0;
    const isBlank = entry === ALL_ZEROES;
    const bits = isBlank
      ? new Uint8Array(header.clusterBytes)
      : new Uint8Array(await file.read(Number(entry), header.clusterBytes));
    await addRuns(bits, into, from, index);
    await file.write(offset, bits);
    if (!isBlank) old.push(Number(entry));
    entries[index] = BigInt(offset);
  }
  const tableOffset = await newTable(opened, clusters, entries.length, entries);
  await switchTable(file, into.bitmap, tableOffset);
  await releaseAll(opened, clusters, old);
}

async function addRuns(bits: Uint8Array, into: Side, from: Side, index: number): Promise<void> {
  const range = rangeOf(into, index);
  const granuleBytes = 2 ** into.bitmap.granularityBits;
  for await (const run of setRanges(from, range)) {
    const first = Math.floor((run.from - range.from) / granuleBytes);
    setBits(bits, first, Math.ceil((run.to - range.from) / granuleBytes));
  }
}

/** The bytes of the disk for which something is set, cut to the range. */
async function* setRanges(side: Side, { from, to }: Range): AsyncGenerator<Range> {
  const { file, header, bitmap, entries } = side;
  const span = spanOf(side);
  const end = Math.min(entries.length, Math.ceil(to / span));
  for (let index = Math.floor(from / span); index < end; index++) {
    const entry = entries[index] ?? ALL_ZEROES;
    const start = index * span;
    const [first, last] = [Math.max(from, start), Math.min(to, start + span)];
    if (entry === ALL_ZEROES) continue;
    if (entry === ALL_ONES) {
      yield { from: first, to: last };
      continue;
    }
    const map = await file.read(Number(entry), header.clusterBytes);
    const bits = { bits: bitmap.granularityBits, map };
    for (let at = first - start; at < last - start;) {
      const run = nextWritten(bits, at, last - start);
      if (run === undefined) break;
      yield { from: start + run.from, to: start + run.to };
      at = run.to;
    }
  }
}

/** The bytes of the disk that the bits of a cluster stand for. */
function rangeOf(side: Side, index: number): Range {
  const span = spanOf(side);
  return { from: index * span, to: Math.min((index + 1) * span, side.header.sizeBytes) };
}

function spanOf({ header, bitmap }: Side): number {
  return header.clusterBytes * 8 * 2 ** bitmap.granularityBits;
}
