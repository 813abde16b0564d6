/** A raw image that is new: zeroes are holes of the file. */
import { dataRuns } from './data-runs.ts';
import type { Output } from './output.ts';
import type { Piece, Target } from './target.ts';

const PIECE_BYTES = 4 * 1024 * 1024;

/** Options of a raw target. */
export interface RawTargetOptions {
  readonly sizeBytes: number;
  /** Runs of zeroes of as many bytes become holes; 0: nothing does. */
  readonly sparseBytes: number;
}

/** Writes the pieces where they are on the disk. */
export class RawTarget implements Target {
  readonly pieceBytes = PIECE_BYTES;
  readonly granuleBytes = PIECE_BYTES;
  readonly wantsZeroes: boolean;
  readonly #output: Output;
  readonly #options: RawTargetOptions;

  constructor(output: Output, options: RawTargetOptions) {
    this.#output = output;
    this.#options = options;
    this.wantsZeroes = options.sparseBytes === 0;
  }

  async put({ start, length, buffer }: Piece): Promise<void> {
    if (buffer === undefined) return;
    const { sparseBytes } = this.#options;
    const bytes = buffer.bytes.subarray(0, length);
    if (sparseBytes === 0) return this.#output.write(start, bytes);
    const writes: Promise<void>[] = [];
    for (const run of dataRuns(buffer.findData(length, sparseBytes))) {
      const [from, to] = [run.from * sparseBytes, Math.min(length, run.to * sparseBytes)];
      if (run.isData) writes.push(this.#output.write(start + from, bytes.subarray(from, to)));
    }
    await Promise.all(writes);
  }

  finish(): Promise<void> {
    return this.#output.end(this.#options.sizeBytes);
  }
}
