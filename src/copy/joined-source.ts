/** Several disks, one behind the other, as one. */
import type { Source, SourceExtent } from './source.ts';

/** An extent, and whose it is. */
interface JoinedExtent extends SourceExtent {
  readonly index: number;
  readonly own: SourceExtent;
}

/** Closes them with it. */
export function joinSources(sources: readonly Source[]): Source {
  const [only, ...others] = sources;
  if (only !== undefined && others.length === 0) return only;
  const bases: number[] = [];
  let sizeBytes = 0;
  for (const source of sources) {
    bases.push(sizeBytes);
    sizeBytes += source.sizeBytes;
  }
  const joined: Source<JoinedExtent> = {
    sizeBytes,
    async *extents() {
      for (const [index, source] of sources.entries()) {
        const base = bases[index] as number;
        for await (const own of source.extents()) {
          yield { start: base + own.start, length: own.length, kind: own.kind, index, own };
        }
      }
    },
    async read(extents, start, into) {
      const reading: Promise<void>[] = [];
      for (const [index, source] of sources.entries()) {
        const parts = extents.filter((extent) => extent.index === index);
        const [first] = parts;
        const last = parts.at(-1);
        if (first === undefined || last === undefined) continue;
        const base = bases[index] as number;
        const target = into.subarray(first.start - start, last.start + last.length - start);
        const own = parts.map((part) => movedTo(part, base));
        reading.push(source.read(own, first.start - base, target));
      }
      await Promise.all(reading);
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(sources.map((source) => source[Symbol.asyncDispose]()));
    },
  };
  return joined;
}

/** The part of the disk's own extent. */
function movedTo({ own, start, length }: JoinedExtent, base: number): SourceExtent {
  return { ...own, start: start - base, length };
}
