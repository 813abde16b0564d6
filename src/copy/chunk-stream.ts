/** A file as it is written, for somebody who takes it piece by piece. */
import { SluiceError } from '../errors.ts';
import type { Chunk, ChunkSink } from './ordered-output.ts';

const GAP_BYTES = 1024 * 1024;

/** What of a file is written late: the writes of a first pass, whose other bytes are dropped. */
export class LateChunks implements ChunkSink {
  readonly chunks: Chunk[] = [];

  take(): Promise<void> {
    return Promise.resolve();
  }

  takeLate({ offset, bytes }: Chunk): void {
    this.chunks.push({ offset, bytes: new Uint8Array(bytes) });
  }
}

/** One chunk at a time is here; its writer waits until it is taken. */
export class ChunkStream implements ChunkSink {
  readonly #late: ReadonlyMap<number, Uint8Array>;
  #offset = 0;
  #waiting: { readonly chunk: Chunk; readonly done: () => void } | undefined;
  #wake: (() => void) | undefined;
  #failure: { readonly error: unknown } | undefined;
  #isEnded = false;

  /** `late` are the chunks that were written before, and were not late. */
  constructor(late: readonly Chunk[] = []) {
    this.#late = new Map(late.map(({ offset, bytes }) => [offset, bytes]));
  }

  async take(chunk: Chunk): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.error;
    await new Promise<void>((done) => {
      this.#waiting = { chunk, done };
      this.#wake?.();
    });
    // It may have been given up meanwhile.
    if (this.#failure !== undefined) throw (this.#failure as { readonly error: unknown }).error;
  }

  /** They were taken first; they differ when the disk has changed since. */
  takeLate({ offset, bytes }: Chunk): void {
    const known = this.#late.get(offset);
    if (known !== undefined && Buffer.compare(known, bytes) === 0) return;
    const found = `the table at offset ${offset} of the image is another one than at first`;
    const message = `the disk was written to while it was read: ${found}; stop who writes to it`;
    this.fail(new SluiceError('ERR_SLUICE_IO', message, { operation: 'read' }));
  }

  /** Nothing comes any more. */
  end(): void {
    this.#isEnded = true;
    this.#wake?.();
  }

  /** Whoever writes, and whoever takes, is told. */
  fail(error: unknown): void {
    this.#failure ??= { error };
    this.#waiting?.done();
    this.#wake?.();
  }

  /** All bytes of the file; where nothing was written there are zeroes. */
  async *bytes(): AsyncGenerator<Uint8Array, void, void> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure.error;
      const waiting = this.#waiting;
      if (waiting === undefined) {
        if (this.#isEnded) return;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      const { chunk, done } = waiting;
      yield* this.#gap(chunk.offset);
      // A copy: the buffer is used again when its writer goes on.
      const bytes = new Uint8Array(chunk.bytes);
      this.#offset += bytes.length;
      this.#waiting = undefined;
      done();
      if (bytes.length > 0) yield bytes;
    }
  }

  *#gap(end: number): Generator<Uint8Array, void, void> {
    while (this.#offset < end) {
      const length = Math.min(GAP_BYTES, end - this.#offset);
      this.#offset += length;
      yield new Uint8Array(length);
    }
  }
}
