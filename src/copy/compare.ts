/** Whether two disks read the same. What is known to be zeroes on both is not read. */
import { type CopyBuffer, CopyBuffers } from './buffers.ts';
import { type CutPiece, piecesOf } from './pieces.ts';
import type { Source, SourceExtent } from './source.ts';
import { awaitTurn } from './turns.ts';

/** How far a comparison is. */
export interface CompareProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** Options of firstDifference. */
export interface CompareOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: CompareProgress) => unknown) | undefined;
}

const PIECE_BYTES = 4 * 1024 * 1024;
/** Pieces of both disks that are read at once. */
const PARALLEL = 2;
const SECTOR_BYTES = 512;
const CUT = { pieceBytes: PIECE_BYTES, granuleBytes: PIECE_BYTES, wantsZeroes: false };

/** A range of both disks. */
interface Pair {
  readonly start: number;
  readonly length: number;
  /** The pieces that have bytes there. */
  readonly parts: readonly (CutPiece<SourceExtent> | undefined)[];
}

/**
 * The offset of the first sector that is not the same; undefined: there is none. What only the
 * longer disk has is compared with zeroes.
 */
export async function firstDifference(
  sources: readonly [Source, Source],
  options: CompareOptions = {},
): Promise<number | undefined> {
  const { signal, onProgress } = options;
  const totalBytes = Math.max(...sources.map(({ sizeBytes }) => sizeBytes));
  const buffers = new CopyBuffers(PARALLEL * 2, PIECE_BYTES);
  const running: Promise<number | undefined>[] = [];
  const next = async (): Promise<number | undefined> => running.shift();
  try {
    for await (const pair of pairsOf(sources)) {
      await awaitTurn();
      signal?.throwIfAborted();
      if (running.length === PARALLEL) {
        const found = await next();
        if (found !== undefined) return found;
      }
      const work = differenceIn(sources, pair, buffers);
      // It is looked at when its turn comes, which may be after it has failed.
      work.catch(() => undefined);
      running.push(work);
      await onProgress?.({ doneBytes: pair.start, totalBytes });
    }
    while (running.length > 0) {
      const found = await next();
      if (found !== undefined) return found;
    }
    await onProgress?.({ doneBytes: totalBytes, totalBytes });
    return undefined;
  } finally {
    await Promise.allSettled(running);
  }
}

/** Ranges with bytes on one disk at least. */
async function* pairsOf(sources: readonly [Source, Source]): AsyncGenerator<Pair, void, void> {
  const walks = sources.map((source) => piecesOf(source.extents(), source.sizeBytes, CUT));
  const heads: (CutPiece<SourceExtent> | undefined)[] = [];
  const advance = async (index: number): Promise<void> => {
    const step = await walks[index]?.next();
    heads[index] = step === undefined || step.done === true ? undefined : step.value;
  };
  await Promise.all([advance(0), advance(1)]);
  for (let at = 0; heads.some((head) => head !== undefined);) {
    const ends = heads.flatMap((head) => (head === undefined ? [] : [head.start + head.length]));
    // Pieces with bytes end at the same borders, but for the end of a disk.
    const end = Math.min(...ends);
    const parts = heads.map((head) =>
      head === undefined || head.parts.length === 0 ? undefined : head,
    );
    if (parts.some((part) => part !== undefined)) yield { start: at, length: end - at, parts };
    at = end;
    for (const [index, head] of heads.entries()) {
      if (head !== undefined && head.start + head.length === end) await advance(index);
    }
  }
}

async function differenceIn(
  sources: readonly [Source, Source],
  { start, length, parts }: Pair,
  buffers: CopyBuffers,
): Promise<number | undefined> {
  const both: CopyBuffer[] = [];
  try {
    // Two at a time: who has one of them may wait for another for ever.
    for (const _ of sources) both.push(await buffers.take());
    const bytes = both.map((buffer) => buffer.bytes.subarray(0, length));
    await Promise.all(
      sources.map((source, index) => readPiece(source, parts[index], start, bytes[index])),
    );
    const [one, other] = bytes as [Uint8Array, Uint8Array];
    if (Buffer.compare(one, other) === 0) return undefined;
    for (let at = 0; ; at += SECTOR_BYTES) {
      const end = at + SECTOR_BYTES;
      if (Buffer.compare(one.subarray(at, end), other.subarray(at, end)) !== 0) return start + at;
    }
  } finally {
    for (const buffer of both) buffer.release();
  }
}

/** A piece without bytes is zeroes; one that is shorter than the range ends in them. */
async function readPiece(
  source: Source,
  piece: CutPiece<SourceExtent> | undefined,
  start: number,
  bytes: Uint8Array | undefined,
): Promise<void> {
  if (bytes === undefined) return;
  const parts = clipped(piece?.parts ?? [], start, start + bytes.length);
  const covered = parts.reduce((sum, part) => sum + part.length, 0);
  if (covered < bytes.length) bytes.fill(0);
  if (parts.length > 0) await source.read(parts, start, bytes);
}

/** What of the parts is inside a range. */
export function clipped<E extends SourceExtent>(
  parts: readonly E[],
  from: number,
  to: number,
): E[] {
  return parts
    .map((part) => {
      const start = Math.max(part.start, from);
      return { ...part, start, length: Math.min(part.start + part.length, to) - start };
    })
    .filter(({ length }) => length > 0);
}
