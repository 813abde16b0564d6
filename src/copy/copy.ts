/**
 * A copy of a disk: pieces are read side by side, pass in the order of the disk, and are written
 * side by side.
 *
 *   extents ─▶ pieces ─▶ read ─▶ prepare ─┐ in order ─▶ put
 *                        └ as many at once as there are buffers
 *
 * P1 What is known to be zeroes is neither read nor looked at.
 * P2 The first failure ends the copy: nothing is begun after it, and what is under way is awaited.
 */
import { type CopyBuffer, CopyBuffers } from './buffers.ts';
import { Pace } from './pace.ts';
import { type CutPiece, piecesOf } from './pieces.ts';
import type { Source, SourceExtent } from './source.ts';
import type { Piece, Target } from './target.ts';
import { awaitTurn } from './turns.ts';

/** How far a copy is. */
export interface CopyProgress {
  /** Bytes of the disk. */
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** Options of copyDisk. */
export interface CopyOptions {
  /** Pieces that are under way at once. */
  readonly parallel: number;
  /** Bytes of pieces that are read in a second, at most; default: as many as can be. */
  readonly rateBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: CopyProgress) => unknown) | undefined;
}

/** Copies all pieces of a disk; the target is not finished. Rejects with the first failure. */
export async function copyDisk<E extends SourceExtent, P>(
  source: Source<E>,
  target: Target<P>,
  options: CopyOptions,
): Promise<void> {
  const { sizeBytes } = source;
  const { signal, parallel } = options;
  const buffers = new CopyBuffers(parallel, target.pieceBytes);
  const pace = options.rateBytes === undefined ? undefined : new Pace(options.rateBytes);
  const line = new Line(target, sizeBytes, options.onProgress);
  try {
    for await (const cut of piecesOf(source.extents(), sizeBytes, target)) {
      await awaitTurn();
      signal?.throwIfAborted();
      if (line.hasFailed) break;
      if (cut.parts.length > 0) await pace?.take(cut.length, signal);
      const buffer = cut.parts.length === 0 ? undefined : await buffers.take();
      await line.add(cut, buffer, read(source, cut, buffer));
    }
  } catch (error) {
    line.fail(error);
  }
  await line.end();
}

async function read<E extends SourceExtent>(
  source: Source<E>,
  { parts, start, length }: CutPiece<E>,
  buffer: CopyBuffer | undefined,
): Promise<void> {
  if (buffer !== undefined) await source.read(parts, start, buffer.bytes.subarray(0, length));
}

/** Pieces without bytes that may stand in line. */
const LINE_MAX = 1024;

/** Where pieces wait for those before them. */
class Line<P> {
  readonly #target: Target<P>;
  readonly #totalBytes: number;
  readonly #onProgress: CopyOptions['onProgress'];
  readonly #putting = new Set<Promise<void>>();
  #last: Promise<void> = Promise.resolve();
  #length = 0;
  #doneBytes = 0;
  #failure: { readonly error: unknown } | undefined;

  constructor(target: Target<P>, totalBytes: number, onProgress: CopyOptions['onProgress']) {
    this.#target = target;
    this.#totalBytes = totalBytes;
    this.#onProgress = onProgress;
  }

  get hasFailed(): boolean {
    return this.#failure !== undefined;
  }

  /** P2: the first one counts. */
  fail(error: unknown): void {
    this.#failure ??= { error };
  }

  /** A piece whose bytes are being read. Resolves when there is room for another. */
  async add(piece: Piece, buffer: CopyBuffer | undefined, reading: Promise<void>): Promise<void> {
    const whole: Piece = { start: piece.start, length: piece.length, left: piece.left, buffer };
    const prepared = reading.then(() => this.#target.prepare?.(whole));
    // It is looked at when its turn comes, which may be after it has failed.
    prepared.catch(() => undefined);
    this.#length += 1;
    this.#last = this.#last.then(() => this.#pass(whole, prepared as Promise<P>));
    if (this.#length > LINE_MAX) await this.#last;
  }

  /** Rejects with the first failure, when nothing is under way any more. */
  async end(): Promise<void> {
    await this.#last;
    await Promise.all(this.#putting);
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  async #pass(piece: Piece, prepared: Promise<P>): Promise<void> {
    this.#length -= 1;
    try {
      const made = await prepared;
      if (this.hasFailed) return piece.buffer?.release();
      const put = this.#put(piece, made);
      this.#putting.add(put);
      void put.then(() => this.#putting.delete(put));
    } catch (error) {
      this.fail(error);
      piece.buffer?.release();
    }
  }

  async #put(piece: Piece, prepared: P): Promise<void> {
    try {
      await this.#target.put(piece, prepared);
      this.#doneBytes += piece.length;
      await this.#onProgress?.({ doneBytes: this.#doneBytes, totalBytes: this.#totalBytes });
    } catch (error) {
      this.fail(error);
    } finally {
      piece.buffer?.release();
    }
  }
}
