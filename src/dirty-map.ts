/** Which parts of a disk a dirty bitmap calls dirty. */

/** The bits of a bitmap, as they were stored when they were read; they do not change. */
export interface DirtyMap {
  /** Bytes that one bit stands for. */
  readonly granularityBytes: number;
  /** The byte at this offset is in a dirty granule. What lies behind all bits is not. */
  isDirty(offset: number): boolean;
  /**
   * A place behind `offset`, up to which all bytes are as dirty as the one there; at most `end`.
   * The run may go on: one call looks at some kilobytes of bits.
   */
  runEnd(offset: number, end: number): number;
}
