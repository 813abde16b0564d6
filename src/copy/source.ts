/** What a copy is made of. */

/** A range of a disk; in order they cover all of it. */
export interface SourceExtent {
  /** Byte offset on the disk. */
  readonly start: number;
  readonly length: number;
  /** `none`: left to the backing file of what is made. */
  readonly kind: 'data' | 'zero' | 'none';
}

/** A disk to copy from. */
export interface Source<E extends SourceExtent = SourceExtent> extends AsyncDisposable {
  readonly sizeBytes: number;
  extents(): AsyncIterable<E>;
  /**
   * Fills a buffer with the bytes of the disk from `start` on. The extents, or parts of them, cover
   * it; they are those of `extents` with another start and length. Zeroes are written, too.
   */
  read(extents: readonly E[], start: number, into: Uint8Array): Promise<void>;
}
