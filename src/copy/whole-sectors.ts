/** A disk up to the end of its last sector. */
import { toSectors } from '../image/sectors.ts';
import type { Source, SourceExtent } from './source.ts';

/** What the source does not have of its last sector reads as zeroes; closes the source with it. */
export function wholeSectors(source: Source): Source {
  const { sizeBytes: ownBytes } = source;
  const sizeBytes = toSectors(ownBytes);
  if (sizeBytes === ownBytes) return source;
  const rest: SourceExtent = { start: ownBytes, length: sizeBytes - ownBytes, kind: 'zero' };
  return {
    sizeBytes,
    async *extents() {
      yield* source.extents();
      yield rest;
    },
    async read(extents, start, into) {
      const own = extents.filter((extent) => extent.start < ownBytes);
      const there = into.subarray(0, Math.max(0, ownBytes - start));
      into.fill(0, there.length);
      if (own.length > 0) await source.read(own, start, there);
    },
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}
