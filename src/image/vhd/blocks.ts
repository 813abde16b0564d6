/**
 * What the block table of a dynamic VHD image says of the disk (specification 1.0, Block
 * Allocation Table and Data Blocks).
 *
 * A block is a bitmap of its sectors, the first one in the highest bit, and then the sectors. One
 * whose bit is 0 was never written, and reads as zeroes. QEMU sets all bits and looks at none.
 */
import { SECTOR_SIZE } from '../../abi/limits.ts';
import { EntryTable, placeOf } from '../entry-table.ts';
import type { ImageFile } from '../image-file.ts';
import { mergeExtents } from '../merge-extents.ts';
import type { TableExtent } from '../qcow2/extents.ts';
import type { DynamicHeader } from './dynamic-header.ts';

/** All of the disk from `from` to `to`, in order; neighbours of one kind are one extent. */
export function blockExtents(
  file: ImageFile,
  header: DynamicHeader,
  path: string,
  from: number,
  to: number,
): AsyncGenerator<TableExtent, void, void> {
  const extents = singleExtents(file, header, path, from, to);
  return mergeExtents(extents, (one, other) => one.kind === other.kind);
}

async function* singleExtents(
  file: ImageFile,
  { blockBytes, table, metadata }: DynamicHeader,
  path: string,
  from: number,
  to: number,
): AsyncGenerator<TableExtent, void, void> {
  const entries = new EntryTable(file, table);
  const bitmapBytes = bitmapBytesOf(blockBytes);
  for (let at = from; at < to;) {
    const index = Math.floor(at / blockBytes);
    const { sector, count } = await entries.run(index);
    const end = Math.min(to, (index + count) * blockBytes);
    if (sector === table.blank) {
      yield { start: at, length: end - at, kind: 'zero' };
    } else {
      const entry = (): string => `entry ${index} of the block table`;
      const target = { entry, sector, length: bitmapBytes + blockBytes };
      const offset = placeOf(file, target, metadata, path);
      const bitmap = await file.read(offset, bitmapBytes);
      yield* sectorRuns(bitmap, index * blockBytes, offset + bitmapBytes, at, end);
    }
    at = end;
  }
}

/** A bit for each sector, in whole sectors. */
function bitmapBytesOf(blockBytes: number): number {
  return Math.ceil(blockBytes / SECTOR_SIZE / 8 / SECTOR_SIZE) * SECTOR_SIZE;
}

/** The block that begins at `start` on the disk and at `offset` in the file. */
function* sectorRuns(
  bitmap: Uint8Array,
  start: number,
  offset: number,
  from: number,
  to: number,
): Generator<TableExtent, void, void> {
  for (let at = from; at < to;) {
    const isWritten = hasSector(bitmap, at - start);
    let end = at;
    while (end < to && hasSector(bitmap, end - start) === isWritten) {
      end = Math.min(to, end - (end % SECTOR_SIZE) + SECTOR_SIZE);
    }
    const range = { start: at, length: end - at };
    yield isWritten
      ? { ...range, kind: 'data', offset: offset + at - start }
      : { ...range, kind: 'zero' };
    at = end;
  }
}

function hasSector(bitmap: Uint8Array, byte: number): boolean {
  const sector = Math.floor(byte / SECTOR_SIZE);
  return (((bitmap[sector >> 3] ?? 0) << (sector & 7)) & 0x80) !== 0;
}
