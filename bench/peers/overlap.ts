/** How many of `count` ranges from `from` on overlap [start, end). Byte offsets as doubles. */
export function countOverlaps(
  starts: Float64Array,
  ends: Float64Array,
  from: number,
  count: number,
  start: number,
  end: number,
): number {
  let found = 0;
  for (let i = from; i < from + count; i++) {
    if (starts[i]! < end && start < ends[i]!) found++;
  }
  return found;
}
