// What a mapping answers. A mapping knows guest ranges, never requests: given a range it says
// where its first bytes lie on the host and for how many bytes that holds. Raw answers the whole
// range at once; a format with tables answers one contiguous run of clusters at a time.

import { EXTENT } from '../memory.ts';

/** Where a guest range lies. */
@unmanaged
export class Extent {
  hostOffset: u64;
  /** Bytes from the start of the range asked for, at least 1. */
  length: u64;
  /** Index of the host file. */
  file: u32;

  /** The answer of the last mapping call. */
  static of(engine: usize): Extent {
    return changetype<Extent>(engine + EXTENT);
  }
}
