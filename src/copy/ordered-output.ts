/**
 * Writes to a new file, in the order of the file: for what can only be written from its start to
 * its end. What is written together, without waiting, comes in any order and is put in order here.
 *
 * O1 What lies before what was passed on already is late: its bytes come out earlier only for
 *    somebody who knew them before.
 */
import type { Output } from './output.ts';

/** Bytes at an offset of the file. */
export interface Chunk {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** Takes the bytes of a file in their order; they may change when it has resolved. */
export interface ChunkSink {
  take(chunk: Chunk): Promise<void>;
  /** O1. */
  takeLate(chunk: Chunk): void;
}

interface Write extends Chunk {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Passes chunks on one after the other. */
export class OrderedOutput implements Output {
  readonly #sink: ChunkSink;
  #batch: Write[] = [];
  #end = 0;
  #last: Promise<void> = Promise.resolve();

  constructor(sink: ChunkSink) {
    this.#sink = sink;
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#batch.length === 0) queueMicrotask(() => this.#passOn());
      this.#batch.push({ offset, bytes, resolve, reject });
    });
  }

  later(offset: number, bytes: Uint8Array): void {
    // Told by settled(), which may be called after it has failed.
    this.write(offset, bytes).catch(() => undefined);
  }

  /** Resolves when all is taken that was written before. */
  async settled(): Promise<void> {
    await Promise.resolve();
    await this.#last;
  }

  /** Nothing lies behind; a shorter last cluster is made whole. */
  async end(sizeBytes: number): Promise<void> {
    await this.settled();
    if (this.#end < sizeBytes) await this.write(sizeBytes, new Uint8Array(0));
  }

  #passOn(): void {
    const batch = this.#batch.sort((a, b) => a.offset - b.offset);
    this.#batch = [];
    for (const write of batch) this.#pass(write);
  }

  #pass({ offset, bytes, resolve, reject }: Write): void {
    if (offset < this.#end) {
      this.#sink.takeLate({ offset, bytes });
      resolve();
      return;
    }
    this.#end = offset + bytes.length;
    const taken = this.#last.then(() => this.#sink.take({ offset, bytes }));
    this.#last = taken;
    // Whoever wrote is told; those behind are told the same.
    taken.then(resolve, reject);
  }
}
