/**
 * What a disk would not read any more over another backing file, written into its own image.
 *
 *     runs that may differ ─▶ both sides read ─▶ compared by clusters ─▶ what differs is written
 *
 * Y1 The disk is open over its old backing files: whatever is written of it reads as before, at any
 *    moment, and so does what a write fills up of its cluster.
 * Y2 Zeroes that no old backing file shows are written as data first: a request to write zeroes
 *    where there are zeroes may leave the cluster to the backing file, which will be another one.
 */
import type { Disk } from '../disk.ts';
import type { Qcow2Header } from '../image/qcow2/header.ts';
import { Flights } from '../flights.ts';
import { type Run, runsOf, type Side } from './rebase-runs.ts';

/** How far a rebase is. */
export interface RebaseProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** What is compared: the disk over its old backing files, and the new one alone. */
export interface Comparison {
  readonly disk: Disk;
  readonly header: Qcow2Header;
  /** Undefined: there will be none, and zeroes are read. */
  readonly next: Disk | undefined;
  readonly was: Side;
  readonly is: Side;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: RebaseProgress) => unknown) | undefined;
}

const PIECE_BYTES = 1024 * 1024;
const FLIGHTS = 8;

/** Writes what differs. Nothing of it is stable yet. */
export async function copyDifferences(comparison: Comparison): Promise<void> {
  const { disk, was, is, signal, onProgress } = comparison;
  const flights = new Flights(FLIGHTS);
  try {
    for await (const run of runsOf(was, is)) {
      for (const piece of piecesOf(run)) {
        signal?.throwIfAborted();
        await onProgress?.({ doneBytes: piece.start, totalBytes: disk.size });
        await flights.add(() => copyPiece(comparison, piece));
      }
    }
  } finally {
    await flights.landed();
  }
}

function* piecesOf(run: Run): Generator<Run, void, void> {
  const end = run.start + run.length;
  for (let at = run.start; at < end;) {
    const border = Math.min(end, (Math.floor(at / PIECE_BYTES) + 1) * PIECE_BYTES);
    yield { ...run, start: at, length: border - at };
    at = border;
  }
}

async function copyPiece(comparison: Comparison, run: Run): Promise<void> {
  const { disk, header, next, was } = comparison;
  const zeroes = (): Uint8Array => new Uint8Array(run.length);
  const [old, now] = await Promise.all([
    run.wasZero ? zeroes() : disk.read(run.start, run.length),
    run.isZero || next === undefined ? zeroes() : readUpToEnd(next, run),
  ]);
  for (const { from, to } of changedRanges(old, now, run.start, header.subclusterBytes)) {
    const offset = run.start + from;
    const length = to - from;
    const isZero = run.wasZero && offset % header.clusterBytes === 0 && hasZeroes(header, length);
    // Y2
    const isShown = isZero && offset + length <= was.sizeBytes;
    if (!isShown) await disk.write(offset, old.subarray(from, to));
    if (isZero) await disk.writeZeroes(offset, length, { mayUnmap: true });
  }
}

/** Entries alone can say that as many bytes are zeroes. */
function hasZeroes({ version, clusterBytes }: Qcow2Header, length: number): boolean {
  return version === 3 && length % clusterBytes === 0;
}

async function readUpToEnd(disk: Disk, { start, length }: Run): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  const there = Math.max(0, Math.min(length, disk.size - start));
  if (there > 0) await disk.read(start, bytes.subarray(0, there));
  return bytes;
}

/** The granules in which the two differ, those in a row as one. */
function changedRanges(one: Uint8Array, other: Uint8Array, start: number, granuleBytes: number) {
  const ranges: { from: number; to: number }[] = [];
  for (let from = 0; from < one.length;) {
    const to = Math.min(one.length, from + granuleBytes - ((start + from) % granuleBytes));
    const last = ranges.at(-1);
    if (Buffer.compare(one.subarray(from, to), other.subarray(from, to)) !== 0) {
      if (last?.to === from) last.to = to;
      else ranges.push({ from, to });
    }
    from = to;
  }
  return ranges;
}
