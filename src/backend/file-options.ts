/** How an image file is opened. */
import type { LockMode } from './lock.ts';

/** How to open an image; everything is optional. */
export interface FileBackendOptions {
  /** Bypass the page cache (O_DIRECT). Default false. */
  readonly direct?: boolean;
  /** Syncs and stable writes are not made stable. Data is lost when the host fails. */
  readonly noFlush?: boolean;
  /** Open for reading and writing. Default false. */
  readonly writable?: boolean;
  /** Image lock, compatible with QEMU's. Default `auto`. */
  readonly lock?: LockMode;
  /** `unmap`: discards, and zeroes that may be unmapped, make holes. Default `ignore`. */
  readonly discard?: 'unmap' | 'ignore';
  /**
   * Commands that make sense in flight at once. Default: all of the engine's in page-cache mode; in
   * direct mode 32 with io_uring, else twice the threads of libuv's pool (UV_THREADPOOL_SIZE, 4).
   */
  readonly depth?: number;
  /** Longer transfers never run on the calling thread. Default 4 MiB, about a millisecond. */
  readonly inlineBytes?: number;
  /**
   * Where transfers and syncs run that wait for a disk. `auto` (default): short direct and stable
   * transfers, and syncs of little, on the calling thread when they are alone in flight, while the
   * disk answers within a millisecond, as a change of threads takes as long; other direct
   * transfers, and cached reads that miss, by io_uring; the rest, and where there is no io_uring,
   * on libuv's pool. `io_uring`: the same, but opening
   * fails where there is none. `threads`: always on the pool.
   */
  readonly aio?: 'auto' | 'io_uring' | 'threads';
  /**
   * With `direct`, take a file whose size is not whole blocks: a writer extends it, a reader reads
   * its last block in part. Default false: it is refused.
   */
  readonly anySize?: boolean;
}
