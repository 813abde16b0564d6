/** What a file backend counts. */

/** What a backend has done so far; all are counts of commands but the bytes. */
export interface FileCounters {
  reads: number;
  writes: number;
  bytesRead: number;
  bytesWritten: number;
  /** Sync commands that were executed. */
  syncs: number;
  /** Writes that had to be stable. */
  stableWrites: number;
  /** fallocate calls. */
  fallocates: number;
  /** Reads and writes that O_DIRECT would have refused as they came. */
  bounced: number;
  /** Reads and writes that went by io_uring, or to the pool, in whole or for the rest. */
  offThread: number;
  /** Those that went by io_uring. */
  inRing: number;
}

/** Counters at zero. */
export function newCounters(): FileCounters {
  return {
    reads: 0,
    writes: 0,
    bytesRead: 0,
    bytesWritten: 0,
    syncs: 0,
    stableWrites: 0,
    fallocates: 0,
    bounced: 0,
    offThread: 0,
    inRing: 0,
  };
}
