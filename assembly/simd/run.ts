// Runs in L2 tables, which stand in memory as in the file: big-endian.

/** Entries that are compared one by one before the vectors begin: most runs are short. */
const SHORT: u32 = 4;

/**
 * How many of `count` entries at `address` (8-aligned) go on from `first` in steps of `step`:
 *
 *     for i = 0, 1, ...: bswap(entry[i]) == first + i * step
 */
export function countContiguous(address: usize, count: u32, first: u64, step: u64): u32 {
  let at: u32 = 0;
  let want = first;
  const short = min(count, SHORT);
  for (; at < short; at++, want += step) {
    if (bswap<u64>(load<u64>(address + ((<usize>at) << 3))) != want) return at;
  }
  const swap = i8x16(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8);
  const steps = i64x2.splat(step << 1);
  let wanted = i64x2.add(i64x2.splat(want), i64x2.replace_lane(i64x2.splat(0), 1, step));
  for (; at + 8 <= count; at += 8) {
    const from = address + ((<usize>at) << 3);
    const a = v128.xor(i8x16.swizzle(v128.load(from), swap), wanted);
    wanted = i64x2.add(wanted, steps);
    const b = v128.xor(i8x16.swizzle(v128.load(from, 16), swap), wanted);
    wanted = i64x2.add(wanted, steps);
    const c = v128.xor(i8x16.swizzle(v128.load(from, 32), swap), wanted);
    wanted = i64x2.add(wanted, steps);
    const d = v128.xor(i8x16.swizzle(v128.load(from, 48), swap), wanted);
    wanted = i64x2.add(wanted, steps);
    if (v128.any_true(v128.or(v128.or(a, b), v128.or(c, d)))) break;
  }
  want = first + <u64>at * step;
  while (at < count && bswap<u64>(load<u64>(address + ((<usize>at) << 3))) == want) {
    at += 1;
    want += step;
  }
  return at;
}

/** How many of `count` entries at `address` (8-aligned) are the same as the first; at least 1. */
export function countEqual(address: usize, count: u32): u32 {
  const first = load<u64>(address);
  const wanted = i64x2.splat(first);
  let at: u32 = 0;
  for (; at + 8 <= count; at += 8) {
    const from = address + ((<usize>at) << 3);
    const a = v128.or(v128.xor(v128.load(from), wanted), v128.xor(v128.load(from, 16), wanted));
    const b = v128.or(v128.xor(v128.load(from, 32), wanted), v128.xor(v128.load(from, 48), wanted));
    if (v128.any_true(v128.or(a, b))) break;
  }
  while (at < count && load<u64>(address + ((<usize>at) << 3)) == first) at += 1;
  return at;
}
