// Table entries that point into a range.

/** Bits 9 to 55. */
const OFFSET_MASK: u64 = (((<u64>1) << 56) - 1) & ~(<u64>0x1ff);

/**
 * True when one of `count` big-endian entries at `address` (8-aligned) has an offset (bits 9 to 55)
 * that is not 0 and lies in [start, end). Scalar meaning:
 *
 *     for each entry: offset = entry & OFFSET_MASK; if (offset && offset >= start && offset < end)
 *
 * Two entries at a time: swapped by a shuffle, and compared by one difference, which is not
 * negative and less than the length (offsets and lengths are below 2^56).
 */
export function anyInRange(address: usize, count: u32, start: u64, end: u64): bool {
  const from = max<u64>(start, 512);
  const starts = i64x2.splat(from);
  const lengths = i64x2.splat(end - from);
  let at = address;
  let left = count;
  for (; left > 7; left -= 8, at += 64) {
    const a = v128.or(pairInRange(at, starts, lengths), pairInRange(at + 16, starts, lengths));
    const b = v128.or(pairInRange(at + 32, starts, lengths), pairInRange(at + 48, starts, lengths));
    if (v128.any_true(v128.or(a, b))) return true;
  }
  for (; left != 0; left--, at += 8) {
    const offset = bswap<u64>(load<u64>(at)) & OFFSET_MASK;
    if (offset >= from && offset < end) return true;
  }
  return false;
}

/** Which of two entries are in the range. Below the start the difference is negative. */
function pairInRange(address: usize, starts: v128, lengths: v128): v128 {
  const swap = i8x16(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8);
  const entries = v128.and(i8x16.swizzle(v128.load(address), swap), i64x2.splat(OFFSET_MASK));
  const past = i64x2.sub(entries, starts);
  return v128.andnot(i64x2.lt_s(past, lengths), i64x2.lt_s(past, i64x2.splat(0)));
}
