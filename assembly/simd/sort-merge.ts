// Merging two sorted runs that lie one behind the other, in place, with a copy in `scratch`.

/** The second run goes in key by key when the first is this many times as long (bench: sort). */
const FEW_RATIO = 5;

/**
 * Merges keys[0, first) and keys[first, first + second), each sorted, all keys distinct and below
 * 2^63; first >= second >= 1. `scratch` holds first + second + 2 keys.
 */
export function mergeRuns(keys: usize, scratch: usize, first: i32, second: i32): void {
  if (first >= second * FEW_RATIO) mergeFew(keys, scratch, first, second);
  else mergeEven(keys, scratch, first, second);
}

/**
 * Both ends at a time, without branches on keys: the smaller half goes up from the front, the
 * larger half down from the back. Neither uses up the first run, which is half of the keys or
 * more. The second, once used up, reads as all ones from the front and as 0 from the back:
 *
 *     | first run | 0 | second run | ~0 |
 *
 * A key 0 ties with the word 0, but it is the smallest key, and the back stops before it.
 */
function mergeEven(keys: usize, scratch: usize, first: i32, second: i32): void {
  const firstBytes = (<usize>first) << 3;
  const secondBytes = (<usize>second) << 3;
  let a = scratch;
  let b = scratch + firstBytes + 8;
  memory.copy(a, keys, firstBytes);
  store<u64>(b - 8, 0);
  memory.copy(b, keys + firstBytes, secondBytes);
  store<u64>(b + secondBytes, u64.MAX_VALUE);
  let y = a + firstBytes - 8;
  let z = b + secondBytes - 8;
  let low = keys;
  let high = keys + firstBytes + secondBytes - 8;
  for (; low < high; low += 8, high -= 8) {
    const p = load<u64>(a);
    const q = load<u64>(b);
    store<u64>(low, select<u64>(p, q, p < q));
    const up = usize(p < q) << 3;
    a += up;
    b += 8 - up;
    const r = load<u64>(y);
    const s = load<u64>(z);
    store<u64>(high, select<u64>(r, s, r > s));
    const down = usize(r > s) << 3;
    y -= down;
    z -= 8 - down;
  }
  if (low == high) store<u64>(low, min<u64>(load<u64>(a), load<u64>(b)));
}

/**
 * Key by key of the second run: eights of the first that are smaller are copied whole; of the
 * eight that is not, all are copied and only those that are smaller are counted.
 */
function mergeFew(keys: usize, scratch: usize, first: i32, second: i32): void {
  const bytes = (<usize>(first + second)) << 3;
  memory.copy(scratch, keys, bytes);
  const firstEnd = scratch + ((<usize>first) << 3);
  let from = scratch;
  let to = keys;
  for (let at = firstEnd; at < scratch + bytes; at += 8) {
    const key = load<u64>(at);
    for (; from + 64 <= firstEnd && load<u64>(from, 56) < key; from += 64, to += 64) {
      copyEight(from, to);
    }
    if (from + 64 <= firstEnd) {
      copyEight(from, to);
      const smaller = countSmaller(from, key) << 3;
      from += smaller;
      to += smaller;
    } else {
      for (; from < firstEnd && load<u64>(from) < key; from += 8, to += 8) {
        store<u64>(to, load<u64>(from));
      }
    }
    store<u64>(to, key);
    to += 8;
  }
  memory.copy(to, from, firstEnd - from);
}

function copyEight(from: usize, to: usize): void {
  v128.store(to, v128.load(from));
  v128.store(to, v128.load(from, 16), 16);
  v128.store(to, v128.load(from, 32), 32);
  v128.store(to, v128.load(from, 48), 48);
}

/** How many of eight keys are smaller than `key`. */
function countSmaller(keys: usize, key: u64): usize {
  const wanted = i64x2.splat(key);
  const a = i64x2.gt_s(wanted, v128.load(keys));
  const b = i64x2.gt_s(wanted, v128.load(keys, 16));
  const c = i64x2.gt_s(wanted, v128.load(keys, 32));
  const d = i64x2.gt_s(wanted, v128.load(keys, 48));
  const sum = i64x2.add(i64x2.add(a, b), i64x2.add(c, d));
  return <usize>-(i64x2.extract_lane(sum, 0) + i64x2.extract_lane(sum, 1));
}
