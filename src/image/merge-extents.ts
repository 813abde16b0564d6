/** Ranges that say the same as their neighbours, made one. */
interface Extent {
  readonly start: number;
  readonly length: number;
  readonly offset?: number;
}

/** Neighbours that are `alike`, and whose places in the file follow each other, are one. */
export async function* mergeExtents<T extends Extent>(
  extents: AsyncIterable<T>,
  alike: (one: T, other: T) => boolean,
): AsyncGenerator<T, void, void> {
  let first: T | undefined;
  let length = 0;
  for await (const extent of extents) {
    if (first !== undefined && alike(first, extent) && follows(first, length, extent)) {
      length += extent.length;
      continue;
    }
    if (first !== undefined) yield { ...first, length };
    first = extent;
    ({ length } = extent);
  }
  if (first !== undefined) yield { ...first, length };
}

function follows(first: Extent, length: number, { offset }: Extent): boolean {
  return (first.offset === undefined ? undefined : first.offset + length) === offset;
}
