/** The shapes of a disk's calls. */
import { MAX_MERGE_BYTES } from './abi/limits.ts';
import { type CacheAxes, type CacheModeName, isCacheMode } from './cache-mode.ts';
import type { SchedulingOptions } from './engine.ts';
import type { Mapping } from './mapping.ts';
import { checkedInUse, type Checks, isWhole } from './options.ts';
import { SCHEDULING_OPTIONS } from './scheduling-options.ts';
import type { Tracer } from './trace/tracer.ts';

/** Byte offsets and lengths: a number up to 2^53-1, or a bigint of the same range. */
export type ByteCount = number | bigint;

/** Options of every request. */
export interface RequestOptions {
  /** Rejects the call with `signal.reason`. I/O that has begun goes on; what it wrote stays. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of requests that change the disk. */
export interface WriteOptions extends RequestOptions {
  /** Force unit access: stable before the promise resolves, in every mode but unsafe. */
  readonly fua?: boolean | undefined;
  /**
   * A fence: what was asked before completes first, what is asked later starts after. On disks
   * that were opened with `barrier`.
   */
  readonly barrier?: boolean | undefined;
}

/** Options of writeZeroes. */
export interface WriteZeroesOptions extends WriteOptions {
  /** A hole will do. */
  readonly mayUnmap?: boolean | undefined;
  /** Reject with ERR_SLUICE_UNSUPPORTED rather than write zeroes one by one. */
  readonly fast?: boolean | undefined;
}

/** One run of blockStatus. */
export interface DiskExtent {
  readonly offset: number;
  readonly length: number;
  /**
   * `hole`: reads as zeroes and takes no space that holds data (a hole of the file, or allocated
   * and not written); `zero`: known to read as zeroes, in formats that say so.
   */
  readonly kind: 'data' | 'zero' | 'hole';
  /** 0: this image; 1: its backing file; and so on. */
  readonly depth: number;
  /** An image of the chain says something of it; else it reads as zeroes for want of any. */
  readonly present: boolean;
  readonly compressed: boolean;
}

/** How a disk is made over a backend. */
export interface DiskOptions extends SchedulingOptions {
  /** A cache mode or a point on its axes; default `unspecified`, which is writeback. */
  readonly cache?: CacheModeName | CacheAxes | undefined;
  /** Memory for transfer buffers in bytes, a power of two; default 128 MiB, touched as needed. */
  readonly bufferBytes?: number | undefined;
  /** Largest merged transfer in bytes; default 1 MiB. */
  readonly mergeBytes?: number | undefined;
  /** Is told of every request and completion; closed with the disk. */
  readonly tracer?: Tracer | undefined;
  /** The backends are those of a format's mapping. */
  readonly mapping?: Mapping | undefined;
  /** A build of the engine; default: the inlined release build. */
  readonly module?: WebAssembly.Module | undefined;
}

/** Checks of DiskOptions; the disk looks at what is not checked here. */
export const DISK_OPTIONS: Checks<DiskOptions> = {
  ...SCHEDULING_OPTIONS,
  cache: isCacheMode,
  bufferBytes: checkedInUse,
  mergeBytes: isWhole(0, MAX_MERGE_BYTES),
  tracer: checkedInUse,
  mapping: checkedInUse,
  module: checkedInUse,
};

/** A server that uses a disk and must stop before the disk closes. */
export interface Face {
  close(): Promise<void>;
  /**
   * Its clients were told how large their requests may be, so the disk's buffers do not shrink
   * while it is there. Default true.
   */
  readonly sharesBuffers?: boolean;
}
