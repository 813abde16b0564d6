/** How fast requests to a disk are answered. */
import { createHistogram } from 'node:perf_hooks';

import { invalid } from '../arguments.ts';
import { refuseUri } from '../image/image-at.ts';
import { OPEN_OPTIONS, type OpenOptions, openDisk } from '../open-disk.ts';
import { checkOptions, type Checks, isSwitch, isText, isWhole, pick } from '../options.ts';

/** Options of `bench`; those of OpenOptions are about the disk. */
export interface BenchOptions extends Omit<OpenOptions, 'writable'> {
  /** Requests; default 75000. */
  readonly count?: number | undefined;
  /** Requests in flight at once, 1 to 1024; default 64. */
  readonly requestDepth?: number | undefined;
  /** Bytes of a request; default 4096. */
  readonly requestBytes?: number | undefined;
  /** Bytes from one request to the next; default `requestBytes`. */
  readonly stepBytes?: number | undefined;
  /** Where the first one is; behind the end it goes on at the start. */
  readonly offset?: number | undefined;
  /** Write instead of reading, bytes of this value. */
  readonly pattern?: number | undefined;
  /** A flush after as many writes; 0: none. */
  readonly flushEvery?: number | undefined;
  /** A flush waits for the writes before it, and those after it for the flush. Default true. */
  readonly drain?: boolean | undefined;
}

const DEFAULT_COUNT = 75_000;
const DEFAULT_DEPTH = 64;
const DEPTH_MAX = 1024;
const DEFAULT_REQUEST_BYTES = 4096;
const REQUEST_BYTES_MAX = 2 ** 30;

const { writable: _, ...DISK_OPTIONS } = OPEN_OPTIONS;

const BENCH_OPTIONS: Checks<BenchOptions> = {
  ...DISK_OPTIONS,
  count: isWhole(1),
  requestDepth: isWhole(1, DEPTH_MAX),
  requestBytes: isWhole(1, REQUEST_BYTES_MAX),
  stepBytes: isWhole(0),
  offset: isWhole(0),
  pattern: isWhole(0, 255),
  flushEvery: isWhole(0),
  drain: isSwitch,
};

/** What was measured; nanoseconds, in the names of fio. */
export interface BenchResult {
  readonly requests: number;
  readonly seconds: number;
  readonly iops: number;
  readonly bw_bytes: number;
  readonly clat_ns: {
    readonly min: number;
    readonly max: number;
    readonly mean: number;
    readonly percentile: Readonly<Record<string, number>>;
  };
}

const PERCENTILES = [50, 90, 99, 99.9] as const;

/** Sends requests one behind the other on the disk, so many at once. */
export async function bench(path: string, options: BenchOptions = {}): Promise<BenchResult> {
  isText(path, 'path');
  refuseUri(path);
  const run = checked(options);
  await using disk = await openDisk(path, {
    ...pick(options, DISK_OPTIONS),
    writable: options.pattern !== undefined,
  });
  if (run.bytes > disk.size) {
    throw invalid(`a request of ${run.bytes} bytes does not fit a disk of ${disk.size}`);
  }
  const latencies = createHistogram();
  const data = new Uint8Array(run.bytes).fill(options.pattern ?? 0);
  let at = run.offset;
  let sent = 0;
  let flushing: Promise<void> | undefined;
  const active = new Set<Promise<void>>();
  const request = async (offset: number): Promise<void> => {
    const start = process.hrtime.bigint();
    if (options.pattern === undefined) await disk.read(offset, run.bytes);
    else await disk.write(offset, data);
    latencies.record(process.hrtime.bigint() - start);
  };
  const flush = async (): Promise<void> => {
    if (run.drain) await Promise.all(active);
    await disk.flush();
  };
  const worker = async (): Promise<void> => {
    while (sent < run.count) {
      options.signal?.throwIfAborted();
      if (flushing !== undefined && run.drain) await flushing;
      if (sent >= run.count) return;
      sent += 1;
      if (at + run.bytes > disk.size) at = 0;
      const work = request(at);
      at += run.step;
      active.add(work);
      await work.finally(() => active.delete(work));
      if (run.flushEvery === 0 || sent % run.flushEvery !== 0 || flushing !== undefined) continue;
      flushing = flush().finally(() => (flushing = undefined));
      await flushing;
    }
  };
  const start = performance.now();
  await Promise.all(Array.from({ length: run.depth }, worker));
  const seconds = (performance.now() - start) / 1000;
  const { min, max, mean } = latencies;
  const percentile = Object.fromEntries(
    PERCENTILES.map((share) => [share.toFixed(6), latencies.percentile(share)]),
  );
  return {
    requests: run.count,
    seconds,
    iops: run.count / seconds,
    bw_bytes: (run.count * run.bytes) / seconds,
    clat_ns: { min, max, mean, percentile },
  };
}

function checked(options: BenchOptions) {
  checkOptions(options, BENCH_OPTIONS, 'bench');
  const { count = DEFAULT_COUNT, requestDepth: depth = DEFAULT_DEPTH, pattern } = options;
  const { requestBytes: bytes = DEFAULT_REQUEST_BYTES, offset = 0 } = options;
  const { stepBytes: step = bytes, flushEvery = 0, drain = true } = options;
  if (options.flushEvery !== undefined && pattern === undefined) {
    throw invalid('flushEvery is for writes: pass a pattern');
  }
  return { bytes, count, depth, step, offset, flushEvery, drain };
}
