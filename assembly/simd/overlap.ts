export function countOverlaps(starts: usize, ends: usize, count: i32, start: u64, end: u64): i32 {
  let n = 0;
  for (let i = 0; i < count; i++) {
    const at = <usize>i << 3;
    n += <i32>(load<u64>(starts + at) < end && start < load<u64>(ends + at));
  }
  return n;
}
