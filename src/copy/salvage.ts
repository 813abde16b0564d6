/** A disk of which some sectors cannot be read: they are zeroes. */
import { SluiceError } from '../errors.ts';
import { clipped } from './compare.ts';
import type { Source, SourceExtent } from './source.ts';

const SECTOR_BYTES = 512;
const UNREADABLE: ReadonlySet<string> = new Set(['ERR_SLUICE_IO', 'ERR_SLUICE_CORRUPT']);

/** Told of bytes that could not be read, and why. */
export type OnUnreadable = (offset: number, length: number, error: SluiceError) => unknown;

/** Reads what can be read, down to the sector. */
export function salvaged(source: Source, onUnreadable: OnUnreadable): Source {
  const read = async (
    extents: readonly SourceExtent[],
    start: number,
    into: Uint8Array,
  ): Promise<void> => {
    try {
      await source.read(extents, start, into);
    } catch (error) {
      if (!(error instanceof SluiceError) || !UNREADABLE.has(error.code)) throw error;
      if (into.length <= SECTOR_BYTES) {
        into.fill(0);
        await onUnreadable(start, into.length, error);
        return;
      }
      const half = Math.max(1, into.length >> 10) * SECTOR_BYTES;
      const border = start + half;
      const end = start + into.length;
      await read(clipped(extents, start, border), start, into.subarray(0, half));
      await read(clipped(extents, border, end), border, into.subarray(half));
    }
  };
  return {
    sizeBytes: source.sizeBytes,
    extents: () => source.extents(),
    read,
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}
