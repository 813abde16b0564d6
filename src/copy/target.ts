/** What a copy is made into. */
import type { CopyBuffer } from './buffers.ts';

/** Bytes of the disk. */
export interface Range {
  readonly start: number;
  readonly length: number;
}

/** A part of the disk. */
export interface Piece extends Range {
  /** Its bytes; absent: they are zeroes, or left. */
  readonly buffer?: CopyBuffer | undefined;
  /** Granules that are left to the backing file, in order; the buffer has nothing of them. */
  readonly left: readonly Range[];
}

/** Takes the pieces of a disk. `P`: what was made of a piece before its turn came. */
export interface Target<P = unknown> {
  /** Pieces begin at multiples of this; those with bytes are not longer. */
  readonly pieceBytes: number;
  /** Whole ones are left to the backing file. */
  readonly granuleBytes: number;
  /** Zeroes come with bytes, as data does. */
  readonly wantsZeroes: boolean;
  /** Work that needs no order, such as compression. */
  prepare?(piece: Piece): Promise<P>;
  /**
   * Takes a piece. Called in the order of the disk, without waiting for the ones before; when it
   * resolves the buffer is not used any more. Rejects when it could not be written.
   */
  put(piece: Piece, prepared: P): Promise<void>;
  /** All pieces are there. */
  finish(): Promise<void>;
}
