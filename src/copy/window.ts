/** A part of a disk as a disk. */
import { clipped } from './compare.ts';
import type { Source, SourceExtent } from './source.ts';

/** The bytes from `from` on; closes the source with it. */
export function windowOf(source: Source, from: number, length: number): Source {
  const sizeBytes = Math.max(0, Math.min(length, source.sizeBytes - from));
  const moved = (extents: readonly SourceExtent[], by: number): SourceExtent[] =>
    extents.map((extent) => ({ ...extent, start: extent.start + by }));
  return {
    sizeBytes,
    async *extents() {
      for await (const extent of source.extents()) {
        if (extent.start >= from + sizeBytes) return;
        yield* moved(clipped([extent], from, from + sizeBytes), -from);
      }
    },
    read: (extents, start, into) => source.read(moved(extents, from), start + from, into),
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}
