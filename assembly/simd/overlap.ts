/** Up to here a scalar loop is faster (bench: overlaps). */
const SCALAR_COUNT = 4;

/**
 * How many of `count` ranges overlap the range [start, end): those with starts[i] < end and
 * start < ends[i]. u64 values below 2^63.
 */
export function countOverlaps(starts: usize, ends: usize, count: i32, start: u64, end: u64): i32 {
  if (count <= SCALAR_COUNT) return countFew(starts, ends, count, start, end);
  const low = i64x2.splat(start);
  const high = i64x2.splat(end);
  const bytes = (<usize>count) << 3;
  let sum = i64x2.splat(0);
  let at: usize = 0;
  for (; at + 64 <= bytes; at += 64) {
    const a = overlapPair(starts + at, ends + at, low, high);
    const b = overlapPair(starts + at + 16, ends + at + 16, low, high);
    const c = overlapPair(starts + at + 32, ends + at + 32, low, high);
    const d = overlapPair(starts + at + 48, ends + at + 48, low, high);
    sum = i64x2.sub(sum, i64x2.add(i64x2.add(a, b), i64x2.add(c, d)));
  }
  for (; at + 16 <= bytes; at += 16) {
    sum = i64x2.sub(sum, overlapPair(starts + at, ends + at, low, high));
  }
  const found = <i32>(i64x2.extract_lane(sum, 0) + i64x2.extract_lane(sum, 1));
  return found + countFew(starts + at, ends + at, count & 1, start, end);
}

/** All ones in the lanes of the ranges that overlap [low, high). */
function overlapPair(starts: usize, ends: usize, low: v128, high: v128): v128 {
  return v128.and(i64x2.gt_s(high, v128.load(starts)), i64x2.gt_s(v128.load(ends), low));
}

function countFew(starts: usize, ends: usize, count: i32, start: u64, end: u64): i32 {
  let found = 0;
  for (let i = 0; i < count; i++) {
    const at = (<usize>i) << 3;
    found += i32(load<u64>(starts + at) < end) & i32(start < load<u64>(ends + at));
  }
  return found;
}
