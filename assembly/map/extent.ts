// What a mapping answers. A mapping knows guest ranges, never requests: given a range it says
// where its first bytes lie on the host and for how many bytes that holds. Raw answers the whole
// range at once; a format with tables answers one contiguous run of clusters at a time.

import { EXTENT } from '../memory.ts';

/** The bytes lie at `hostOffset` in `file`. */
export const EXTENT_HOST: u32 = 0;
/** They read as zeroes. */
export const EXTENT_ZEROES: u32 = 1;
/** They lie in memory, at `head`. */
export const EXTENT_MEMORY: u32 = 2;
/** Nothing is left to do for them. */
export const EXTENT_NOTHING: u32 = 3;
/**
 * They are to be written at `hostOffset` in `file`, after `headBytes` bytes at `head` and before
 * `tailBytes` at `tail`; the mapping is to be told when that is answered.
 */
export const EXTENT_NEW: u32 = 4;
/** The answer is not known yet: ask again when `wait` is over. */
export const EXTENT_WAIT: u32 = 5;
/** It cannot be done, for the reason `errno`. */
export const EXTENT_ERROR: u32 = 6;

/** Where a guest range lies. */
@unmanaged
export class Extent {
  /** Where the data goes or comes from; EXTENT_NEW: where the head goes. */
  hostOffset: u64;
  /** Bytes from the start of the range asked for, at least 1; unless it waits or fails. */
  length: u64;
  /** Index of the host file. */
  file: u32;
  kind: u32;
  head: u32;
  headBytes: u32;
  tail: u32;
  tailBytes: u32;
  wait: u32;
  errno: u32;
  /** 1: head and tail are all, there is no data between them (zeroes). */
  bare: u32;
  /** Entries of a table that was filled (EXTENT_NOTHING of a block status). */
  value: u32;

  /** The answer of the last mapping call. */
  static of(engine: usize): Extent {
    return changetype<Extent>(engine + EXTENT);
  }
}

if (offsetof<Extent>() > 64) ERROR('Extent');
