// The kernels for test/simd and bench/, and batches of them that measure a kernel rather than the
// call. This is an entry of its own: nothing of it is in the engine.

import { countOverlaps } from './overlap.ts';
import { anyInRange } from './range.ts';
import { countContiguous, countEqual } from './run.ts';
import { sortKeys } from './sort.ts';
import { isZero } from './zero.ts';
import { zeroPrefix } from './zero-prefix.ts';

export { anyInRange, countContiguous, countEqual, countOverlaps, isZero, sortKeys, zeroPrefix };

/** Bytes of a request of `mergeBatch`: u64 offset, u32 length, u32 kind. */
const REQUEST_SIZE: usize = 16;
/** Bytes of a run of `mergeBatch`: u32 first request, u32 number of requests. */
const RUN_SIZE: usize = 8;
const SLOT_MASK: u64 = 0xfff;

/** Sorts `batches` arrays of `count` keys that lie one behind the other. */
export function sortBatch(keys: usize, scratch: usize, batches: i32, count: i32): void {
  const step = (<usize>count) << 3;
  for (let i = 0; i < batches; i++, keys += step) sortKeys(keys, scratch, count);
}

/**
 * Sorts and merges `batches` times `count` requests; returns how many runs there are. The runs of
 * a batch lie at the place that its requests would have; first requests and numbers only.
 */
export function mergeBatch(
  requests: usize,
  keys: usize,
  scratch: usize,
  runs: usize,
  batches: i32,
  count: i32,
  limitBytes: u32,
): i32 {
  let found = 0;
  for (let i = 0; i < batches; i++) {
    for (let slot = 0; slot < count; slot++) {
      const request = requests + <usize>slot * REQUEST_SIZE;
      const place = ((load<u64>(request) >> 9) << 12) | <u64>slot;
      store<u64>(keys + ((<usize>slot) << 3), place | ((<u64>load<u32>(request, 12)) << 56));
    }
    sortKeys(keys, scratch, count);
    found += cutRuns(requests, keys, runs, count, limitBytes);
    requests += <usize>count * REQUEST_SIZE;
    runs += <usize>count * RUN_SIZE;
  }
  return found;
}

/** Neighbours of one kind join up to `limitBytes`; returns the number of runs. */
function cutRuns(requests: usize, keys: usize, runs: usize, count: i32, limitBytes: u32): i32 {
  let run = runs - RUN_SIZE;
  let end: u64 = u64.MAX_VALUE;
  let kind: u32 = 0;
  let bytes: u32 = 0;
  for (let i = 0; i < count; i++) {
    const slot = <u32>(load<u64>(keys + ((<usize>i) << 3)) & SLOT_MASK);
    const request = requests + <usize>slot * REQUEST_SIZE;
    const offset = load<u64>(request);
    const length = load<u32>(request, 8);
    const joins = offset == end && load<u32>(request, 12) == kind && bytes + length <= limitBytes;
    if (joins) {
      store<u32>(run, load<u32>(run, 4) + 1, 4);
      bytes += length;
    } else {
      run += RUN_SIZE;
      store<u32>(run, slot);
      store<u32>(run, 1, 4);
      kind = load<u32>(request, 12);
      bytes = length;
    }
    end = offset + length;
  }
  return <i32>((run - runs) / RUN_SIZE) + 1;
}

/** Sum over queries of how many of `count` ranges each overlaps; every query has its own ranges. */
export function overlapBatch(
  starts: usize,
  ends: usize,
  queries: usize,
  batches: i32,
  count: i32,
): i32 {
  const step = (<usize>count) << 3;
  let hash = 0;
  for (let i = 0; i < batches; i++, starts += step, ends += step, queries += 16) {
    hash =
      hash * 31 + countOverlaps(starts, ends, count, load<u64>(queries), load<u64>(queries, 8));
  }
  return hash;
}

/** Which of `batches` blocks, one behind the other, are zero: a hash. */
export function zeroBatch(address: usize, batches: i32, lengthBytes: i32): i32 {
  let hash = 0;
  for (let i = 0; i < batches; i++, address += lengthBytes) {
    hash = hash * 31 + i32(isZero(address, lengthBytes));
  }
  return hash;
}

/** How long the runs are that begin `batches` tables of `count` entries: a hash. */
export function runBatch(entries: usize, batches: i32, count: i32, step: u32): i32 {
  const bytes = (<usize>count) << 3;
  let hash = 0;
  for (let i = 0; i < batches; i++, entries += bytes) {
    const first = bswap<u64>(load<u64>(entries));
    hash = hash * 31 + <i32>countContiguous(entries, count, first, <u64>step);
  }
  return hash;
}

/** Whether an entry of a table of `count` points into each of `batches` ranges: a hash. */
export function rangeBatch(entries: usize, ranges: usize, batches: i32, count: i32): i32 {
  let hash = 0;
  for (let i = 0; i < batches; i++, ranges += 16) {
    const isIn = anyInRange(entries, count, load<u64>(ranges), load<u64>(ranges, 8));
    hash = hash * 31 + i32(isIn);
  }
  return hash;
}
