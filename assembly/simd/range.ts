// Table entries that point into a range.

/** Bits 9 to 55. */
const OFFSET_MASK: u64 = (((<u64>1) << 56) - 1) & ~(<u64>0x1ff);

/**
 * True when one of `count` big-endian entries at `address` (8-aligned) has an offset (bits 9 to 55)
 * that is not 0 and lies in [start, end). Scalar meaning:
 *
 *     for each entry: offset = entry & OFFSET_MASK; if (offset && offset >= start && offset < end)
 *
 * Two entries at a time: swapped by a shuffle, and compared by one unsigned difference, whose high
 * bit is clear below the length (offsets and lengths are below 2^56).
 */
export function anyInRange(address: usize, count: u32, start: u64, end: u64): bool {
  const swap = i8x16(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8);
  const mask = i64x2.splat(OFFSET_MASK);
  const from = i64x2.splat(max<u64>(start, 512));
  const length = i64x2.splat(end - max<u64>(start, 512));
  let at = address;
  let left = count;
  for (; left > 1; left -= 2, at += 16) {
    const entries = v128.and(i8x16.swizzle(v128.load(at), swap), mask);
    const past = i64x2.sub(entries, from);
    // Below `start`: the difference is negative. In the range: it is not, and less than `length`.
    const isIn = v128.andnot(i64x2.lt_s(past, length), i64x2.lt_s(past, i64x2.splat(0)));
    if (v128.any_true(isIn)) return true;
  }
  if (left == 0) return false;
  const last = bswap<u64>(load<u64>(at)) & OFFSET_MASK;
  return last != 0 && last >= start && last < end;
}
