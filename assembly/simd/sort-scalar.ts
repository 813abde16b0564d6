// Sorts without vectors, for any u64 keys: the few, and those that the networks do not take.

/** Sorts `count` (0 to 4) keys, ascending, in place, without branches on keys. */
export function sortFour(keys: usize, count: i32): void {
  if (count < 2) return;
  const a0 = load<u64>(keys);
  const a1 = load<u64>(keys, 8);
  const a2 = count > 2 ? load<u64>(keys, 16) : u64.MAX_VALUE;
  const a3 = count > 3 ? load<u64>(keys, 24) : u64.MAX_VALUE;
  const b0 = min<u64>(a0, a1);
  const b1 = max<u64>(a0, a1);
  const b2 = min<u64>(a2, a3);
  const b3 = max<u64>(a2, a3);
  const c1 = max<u64>(b0, b2);
  const c2 = min<u64>(b1, b3);
  store<u64>(keys, min<u64>(b0, b2));
  store<u64>(keys, min<u64>(c1, c2), 8);
  if (count > 2) store<u64>(keys, max<u64>(c1, c2), 16);
  if (count > 3) store<u64>(keys, max<u64>(b1, b3), 24);
}

/** Insertion sort: ascending, in place. */
export function insertKeys(keys: usize, count: i32): void {
  for (let i = 1; i < count; i++) {
    let to = keys + ((<usize>i) << 3);
    const key = load<u64>(to);
    for (; to > keys && load<u64>(to - 8) > key; to -= 8) store<u64>(to, load<u64>(to - 8));
    store<u64>(to, key);
  }
}
