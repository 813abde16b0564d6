export function sortKeys(keys: usize, scratch: usize, count: i32): void {
  for (let i = 1; i < count; i++) {
    const key = load<u64>(keys + (<usize>i << 3));
    let j = i;
    for (; j > 0 && load<u64>(keys + (<usize>(j - 1) << 3)) > key; j--) {
      store<u64>(keys + (<usize>j << 3), load<u64>(keys + (<usize>(j - 1) << 3)));
    }
    store<u64>(keys + (<usize>j << 3), key);
  }
}
