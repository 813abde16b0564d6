/** A disk that is open, to copy from. */
import type { Disk } from '../disk.ts';
import type { Source, SourceExtent } from './source.ts';

/** Closes the disk with it. `topOnly`: what its backing file says is left. */
export function diskSource(disk: Disk, topOnly: boolean): Source {
  return {
    sizeBytes: disk.size,
    extents: () => extentsOf(disk, topOnly),
    read: async (_extents, start, into) => {
      into.set(await disk.read(start, into.length));
    },
    [Symbol.asyncDispose]: () => disk.close(),
  };
}

async function* extentsOf(disk: Disk, topOnly: boolean): AsyncGenerator<SourceExtent, void, void> {
  for await (const { offset, length, kind, depth } of disk.blockStatus()) {
    const range = { start: offset, length };
    if (topOnly && depth > 0) yield { ...range, kind: 'none' };
    else yield { ...range, kind: kind === 'data' ? 'data' : 'zero' };
  }
}
