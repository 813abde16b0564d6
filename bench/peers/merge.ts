import { sortByInsertion, sortByMethod } from './sort.ts';

/** A batch of requests, and room to sort and merge them. */
export interface Requests {
  readonly offsets: Float64Array;
  readonly lengths: Uint32Array;
  readonly kinds: Uint32Array;
  readonly keys: Float64Array;
  /** Pairs: first request, number of requests. */
  readonly runs: Uint32Array;
}

const KIND_SCALE = 2 ** 47;
const SLOTS = 4096;
const SECTOR_SIZE = 512;
const MOST_INSERTED = 64;

/** Sorts and merges requests from `from` on; returns how many runs there are. */
export function sortAndMerge(
  requests: Requests,
  from: number,
  count: number,
  limitBytes: number,
): number {
  const { offsets, kinds, keys } = requests;
  for (let slot = 0; slot < count; slot++) {
    const at = from + slot;
    keys[slot] = kinds[at]! * KIND_SCALE + (offsets[at]! / SECTOR_SIZE) * SLOTS + slot;
  }
  if (count <= MOST_INSERTED) sortByInsertion(keys, 0, count);
  else sortByMethod(keys, 0, count);
  return cutRuns(requests, from, count, limitBytes);
}

function cutRuns(requests: Requests, from: number, count: number, limitBytes: number): number {
  const { offsets, lengths, kinds, keys, runs } = requests;
  let run = 2 * from - 2;
  let end = -1;
  let kind = 0;
  let bytes = 0;
  for (let i = 0; i < count; i++) {
    const slot = keys[i]! % SLOTS;
    const at = from + slot;
    const offset = offsets[at]!;
    const length = lengths[at]!;
    if (offset === end && kinds[at] === kind && bytes + length <= limitBytes) {
      runs[run + 1]!++;
      bytes += length;
    } else {
      run += 2;
      runs[run] = slot;
      runs[run + 1] = 1;
      kind = kinds[at]!;
      bytes = length;
    }
    end = offset + length;
  }
  return (run - 2 * from) / 2 + 1;
}
