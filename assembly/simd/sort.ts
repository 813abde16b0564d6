// The sort of the elevator: ascending, in place, the same for every order of the same keys.
//
//   what comes in                   what is done
//   up to 4 keys                    compared in registers (sort-scalar.ts)
//   up to 16 keys                   a network (sort-network.ts)
//   sorted keys                     nothing
//   sorted for 3/4 or more          the tail is sorted and merged in (sort-merge.ts)
//   anything else                   a network, or two of powers of two and a merge where that
//                                   costs less than padding to the next power
//
// Networks compare whole keys, so the slot in the low bits breaks ties between equal places and
// the order is exact; and they take the same time for every input.

import { insertKeys, sortFour } from './sort-scalar.ts';
import { mergeRuns } from './sort-merge.ts';
import { KEY_LIMIT, sortEight, sortNetwork } from './sort-network.ts';

/** Up to here a network costs no more than to look for order first (bench: sort). */
const SCANNED = 16;
/** Up to here a network costs no more than a smaller one and a merge (bench: sort). */
const MERGED = 64;

/**
 * Sorts `count` (0 to 1024) distinct u64 keys below 2^63, ascending, in place. `scratch` holds
 * 12 KiB and is 16-byte aligned; the keys need not be. Keys below KEY_LIMIT are sorted fast; the
 * keys of the elevator, of 60 bits, all are.
 */
export function sortKeys(keys: usize, scratch: usize, count: i32): void {
  let sorted = 0;
  if (count > SCANNED) {
    const prefix = sortedPrefix(keys, count);
    if (prefix == count) return;
    if (count > MERGED && (count - prefix) << 2 <= count) sorted = prefix;
  }
  const rest = keys + ((<usize>sorted) << 3);
  if (count - sorted <= 4) sortFour(rest, count - sorted);
  else if (!areBelow(rest, count - sorted, KEY_LIMIT)) insertKeys(rest, count - sorted);
  else sortParts(rest, scratch, count - sorted);
  if (sorted != 0) mergeRuns(keys, scratch, sorted, count - sorted);
}

/** One network, or the largest power of two first when the rest is at most half of that. */
function sortParts(keys: usize, scratch: usize, count: i32): void {
  let sorted = 0;
  while (sorted < count) {
    let part = count - sorted;
    if (part > MERGED) {
      const power = 1 << (31 - clz(part));
      if (part - power <= power >> 1) part = power;
    }
    const at = keys + ((<usize>sorted) << 3);
    if (part <= 4) sortFour(at, part);
    else if (part <= 8) sortEight(at, part);
    else sortNetwork(at, scratch, part);
    if (sorted != 0) mergeRuns(keys, scratch, sorted, part);
    sorted += part;
  }
}

/**
 * How many of the first keys are sorted: `count`, or the index of a key that is smaller than the
 * one before it. Looks at eight pairs at a time; says 1 when there is disorder in the first eight.
 */
function sortedPrefix(keys: usize, count: i32): i32 {
  let i = 1;
  for (; i + 8 <= count; i += 8) {
    const at = keys + ((<usize>i) << 3);
    const a = i64x2.gt_s(v128.load(at - 8), v128.load(at));
    const b = i64x2.gt_s(v128.load(at + 8), v128.load(at, 16));
    const c = i64x2.gt_s(v128.load(at + 24), v128.load(at, 32));
    const d = i64x2.gt_s(v128.load(at + 40), v128.load(at, 48));
    if (v128.any_true(v128.or(v128.or(a, b), v128.or(c, d)))) {
      if (i == 1) return 1;
      break;
    }
  }
  for (; i < count; i++) {
    const at = keys + ((<usize>i) << 3);
    if (load<u64>(at - 8) > load<u64>(at)) break;
  }
  return i;
}

/** False when one of the keys, 5 or more, may be `limit` or more. */
function areBelow(keys: usize, count: i32, limit: u64): bool {
  // From both ends: the parts overlap, whatever the count, and cover all.
  const end = keys + ((<usize>count) << 3);
  let bits = v128.or(orFour(keys), orFour(end - 32));
  for (let at = keys + 32; at + 32 < end; at += 32) bits = v128.or(bits, orFour(at));
  return <u64>(i64x2.extract_lane(bits, 0) | i64x2.extract_lane(bits, 1)) < limit;
}

function orFour(keys: usize): v128 {
  return v128.or(v128.load(keys), v128.load(keys, 16));
}
