/** How a copy goes on. */
import { invalid, toNumber } from '../arguments.ts';
import type { CopyOptions, CopyProgress } from '../copy/copy.ts';
import type { ByteCount } from '../disk-types.ts';
import { type Checks, isByteCount, isCallback, isSignal, isWhole } from '../options.ts';

/** How fast a copy is, and who is told of it. */
export interface CopyingOptions {
  /** Pieces of 4 MiB that are under way at once, 1 to 16; default 3. */
  readonly parallel?: number | undefined;
  /** Bytes that are read in a second, at most; default: as many as can be. */
  readonly rateBytes?: ByteCount | undefined;
  /** Stops the work with its reason. */
  readonly signal?: AbortSignal | undefined;
  /** Awaited; what it throws, or rejects with, ends the work. */
  readonly onProgress?: ((progress: CopyProgress) => unknown) | undefined;
}

/** More do not fit the cache that the processors share. */
const DEFAULT_PARALLEL = 3;
const PARALLEL_MAX = 16;

/** Checks of CopyingOptions. */
export const COPYING_OPTIONS: Checks<CopyingOptions> = {
  parallel: isWhole(1, PARALLEL_MAX),
  rateBytes: isByteCount,
  signal: isSignal,
  onProgress: isCallback,
};

/** @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT */
export function copyingOf(options: CopyingOptions): CopyOptions {
  const { parallel = DEFAULT_PARALLEL, rateBytes, signal, onProgress } = options;
  if (rateBytes === undefined) return { parallel, signal, onProgress };
  const rate = toNumber(rateBytes, 'rateBytes');
  if (rate === 0) throw invalid('rateBytes is 1 at least');
  return { parallel, rateBytes: rate, signal, onProgress };
}
