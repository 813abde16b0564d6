/** A disk that is there already: all of what is copied is written into it, zeroes too. */
import { dataRuns } from './data-runs.ts';
import type { Piece, Target } from './target.ts';

const PIECE_BYTES = 2 * 1024 * 1024;

/** Options of a disk target. */
export interface DiskTargetOptions {
  /** Runs of zeroes of as many bytes are written as zeroes; 0: all is data. */
  readonly sparseBytes: number;
  /** The disk reads as zeroes: none have to be written. */
  readonly isZero: boolean;
}

/** What is written into: a disk, or an export of an NBD server. */
export interface WrittenDisk extends AsyncDisposable {
  readonly size: number;
  /** Writes begin at multiples of it; absent: anywhere. */
  readonly minimumBlockBytes?: number;
  write(offset: number, bytes: Uint8Array): Promise<void>;
  writeZeroes(offset: number, length: number, how: { mayUnmap: boolean }): Promise<void>;
  flush(): Promise<void>;
}

/** Writes the pieces where they are on the disk. */
export class DiskTarget implements Target {
  readonly pieceBytes = PIECE_BYTES;
  readonly granuleBytes = PIECE_BYTES;
  readonly wantsZeroes: boolean;
  readonly #disk: WrittenDisk;
  readonly #options: DiskTargetOptions;

  constructor(disk: WrittenDisk, options: DiskTargetOptions) {
    this.#disk = disk;
    this.#options = options;
    this.wantsZeroes = options.sparseBytes === 0;
  }

  async put({ start, length, buffer }: Piece): Promise<void> {
    if (buffer === undefined) return this.#putZeroes(start, length);
    const { sparseBytes } = this.#options;
    if (sparseBytes === 0) return this.#disk.write(start, buffer.bytes.subarray(0, length));
    const granules = buffer.findData(length, sparseBytes).slice();
    const writing: Promise<void>[] = [];
    for (const run of dataRuns(granules)) {
      const [from, to] = [run.from * sparseBytes, Math.min(length, run.to * sparseBytes)];
      if (run.isData) writing.push(this.#disk.write(start + from, buffer.bytes.subarray(from, to)));
      else writing.push(this.#putZeroes(start + from, to - from));
    }
    await Promise.all(writing);
  }

  finish(): Promise<void> {
    return this.#disk.flush();
  }

  async #putZeroes(start: number, length: number): Promise<void> {
    if (this.#options.isZero) return;
    await this.#disk.writeZeroes(start, length, { mayUnmap: true });
  }
}
