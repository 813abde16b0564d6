/**
 * What a backend is: the thing that executes command records on a file, a device or a memory.
 *
 * A backend knows bytes, offsets and errnos; it knows neither requests nor flushes nor cache
 * policy. Each call names a command id and is answered by exactly one `done(id, errno, value)`,
 * either before the call returns (page-cache hits) or later from the event loop.
 *
 * Data lies in the engine's memory: `data` is the address of the bytes when `segments` is 1, of a
 * table of {u32 address, u32 length} entries when it is more (see abi/request.ts). Calls for
 * overlapping bytes are never in flight together unless all of them read. Calls that share a block
 * of `blockSizeBytes` may be, as the clusters of an image can be smaller: a backend that reads,
 * modifies and writes whole blocks lets them take turns.
 */

/** Called once for each command: `errno` is 0 or positive; `value` is only used by blockStatus. */
export type Done = (id: number, errno: number, value: number) => void;

/** A file, a device or a memory, opened. */
export interface Backend {
  /** Capacity in bytes; changed by `extend` and `resize` alone. */
  readonly sizeBytes: number;
  /**
   * The granule in bytes, a power of two: the engine keeps requests apart that share a granule.
   * 1 where bytes are independent (page cache, memory), the O_DIRECT alignment otherwise.
   */
  readonly blockSizeBytes: number;
  /** No write-class command will be sent, and none would be executed. */
  readonly readOnly: boolean;
  /** Commands that make sense in flight at once; the engine queues and merges the rest. */
  readonly depth: number;
  /** False: zeroing and discarding never give space back. Default true. */
  readonly unmaps?: boolean;
  /** False: it cannot write stably at once; the engine writes and syncs instead. Default true. */
  readonly fua?: boolean;
  /** Where it is defined it is set before each command: no other is in flight. Default: not. */
  alone?: boolean;

  /**
   * Must be called before any command: the memory that addresses refer to, and the answer. May be
   * called again, for another memory, while no command is in flight. The memory may grow at any
   * time, by somebody else's hand: views of an unshared one are empty then.
   */
  attach(memory: WebAssembly.Memory, done: Done): void;

  /** `guest`: where the first byte lies on the disk, for old encryption (aes-cbc.ts). */
  read(
    id: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    guest?: number,
  ): void;
  /** `stable`: on stable storage before `done` (O_DSYNC). Only where `fua` says so. */
  write(
    id: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    stable: boolean,
  ): void;
  /** Zeroes in the range; `fast`: ENOTSUP rather than writing them; `mayUnmap`: a hole will do. */
  writeZeroes(id: number, offset: number, length: number, mayUnmap: boolean, fast: boolean): void;
  /** The contents of the range become undefined; doing nothing is allowed. */
  discard(id: number, offset: number, length: number): void;
  /**
   * Writes at most EXTENT_TABLE_ENTRIES extents, contiguous from `offset` and not past
   * `offset + length`, at `data`; `value` of the answer is their number, at least 1.
   */
  blockStatus(id: number, offset: number, length: number, data: number): void;
  /** Everything whose write was answered before this call is on stable storage when answered. */
  sync(id: number): void;
  /**
   * The file has at least this many bytes when answered; what is new reads as zeroes, and a sync
   * that is called then makes it stable. The file is never cut. Left out where it cannot be.
   */
  extend?(id: number, sizeBytes: number): void;

  /**
   * Changes the capacity; what is new reads as zeroes. No command is in flight. A sync makes it
   * stable. Rejects with a SluiceError, and then nothing has changed. Left out where it cannot be.
   */
  resize?(sizeBytes: number): Promise<void>;

  /** Releases files and locks. No command is in flight. Rejects with what close(2) reported. */
  close(): Promise<void>;
}
