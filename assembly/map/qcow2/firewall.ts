// The last look before bytes go to a place where metadata may lie.
//
// O1  What is written as data, handed out as new, or read as a table never overlaps metadata of
//     another kind: the header, the tables of the active and of the snapshots' L1, L2 tables, the
//     refcount table and its blocks, bitmaps, keys. A cluster is looked at when it enters use: when
//     it is reserved, and when an entry of an image first leads a write there.
// O2  What would break O1 is refused with EIO; the image is marked corrupt, and no write succeeds
//     after that.

import { COMMAND_WRITE } from '../../../src/abi/command.ts';
import {
  CORRUPT_OVERLAP,
  FILE_IMAGE,
  MAP_DATA_FILE,
  MAP_EXTENDED_L2,
  MAP_READ_ONLY,
  MAP_VERSION_2,
  RANGE_LENGTH,
  RANGE_SIZE,
} from '../../../src/abi/map.ts';
import { HEADER_INCOMPATIBLE_FEATURES, INCOMPATIBLE_CORRUPT_BIT } from '../../../src/abi/qcow2.ts';
import { anyInRange } from '../../simd/range.ts';
import { overlapsDropped } from './frees.ts';
import { hasIo, IO_HEADER, order } from './io.ts';
import { Slice, SLICE_VALID, sliceData } from './cache.ts';
import { entryAt, OFFSET_MASK } from './entry.ts';
import { Cache, HEADER_COPY, HEADER_COPY_BYTES, Qcow2 } from './state.ts';

/** O1: true when `length` bytes at `offset` overlap metadata other than L2 tables. */
export function overlapsFixed(map: Qcow2, offset: u64, length: u64): bool {
  if (overlapsRanges(map, offset, length)) return true;
  if (map.tableUsed == 0) map.tableUsed = usedEntries(map);
  return anyInRange(map.place(map.tableAt), map.tableUsed, offset, offset + length);
}

/** Entries of the refcount table up to the last that is not 0. */
function usedEntries(map: Qcow2): u32 {
  let used = map.tableEntries;
  while (used != 0 && load<u64>(map.place(map.tableAt) + ((<usize>(used - 1)) << 3)) == 0) {
    used -= 1;
  }
  return used;
}

/** The same, refcount blocks aside. */
export function overlapsRanges(map: Qcow2, offset: u64, length: u64): bool {
  const end = offset + length;
  if (offset < map.clusterBytes) return true;
  if (overlap(offset, end, map.l1Offset, (<u64>map.l1Entries) << 3)) return true;
  if (overlap(offset, end, map.tableOffset, (<u64>map.tableEntries) << 3)) return true;
  for (let i: u32 = 0; i < map.ranges; i++) {
    const range = map.place(map.rangesAt) + <usize>i * RANGE_SIZE;
    if (overlap(offset, end, load<u64>(range), load<u64>(range, RANGE_LENGTH))) return true;
  }
  return false;
}

/** O1: true when `length` bytes at `offset` overlap an L2 table. */
export function overlapsTables(map: Qcow2, offset: u64, length: u64): bool {
  return anyInRange(map.place(map.l1At), map.l1Entries, offset, offset + length);
}

/**
 * O1 for clusters that are to be handed out as new: true when an entry that is in memory points
 * there, whatever refcounts say. What lies behind the end of the file is nobody's.
 */
export function isMapped(map: Qcow2, offset: u64, length: u64): bool {
  // Entries over a data file are offsets in that.
  if (map.has(MAP_DATA_FILE) || offset >= map.fileBytes) return false;
  const cache = Cache.l2(map);
  const entries: u32 = 1 << (map.sliceBits - map.entryBits);
  for (let slot: u32 = 0; slot < cache.slots; slot++) {
    if (Slice.at(map, cache, slot).state != SLICE_VALID) continue;
    if (pointsInto(map, sliceData(map, cache, slot), entries, offset, length)) return true;
  }
  return false;
}

function pointsInto(map: Qcow2, data: usize, entries: u32, offset: u64, length: u64): bool {
  if (!map.has(MAP_EXTENDED_L2)) return anyInRange(data, entries, offset, offset + length);
  for (let i: u32 = 0; i < entries; i++) {
    const host = entryAt(data + ((<usize>i) << map.entryBits)) & OFFSET_MASK;
    if (host != 0 && host - offset < length) return true;
  }
  return false;
}

function overlap(start: u64, end: u64, otherStart: u64, otherLength: u64): bool {
  return start < otherStart + otherLength && otherStart < end;
}

/** O1 for data: true, and marked (O2), when a write there must not be. */
export function refusesData(map: Qcow2, offset: u64, length: u64, guest: u64): bool {
  const isMetadata =
    overlapsFixed(map, offset, length) ||
    overlapsTables(map, offset, length) ||
    overlapsDropped(map, offset, length);
  if (!isMetadata) return false;
  markCorrupt(map, CORRUPT_OVERLAP, offset, guest);
  return true;
}

/** O2. */
export function markCorrupt(map: Qcow2, what: u32, value: u64, where: u64): void {
  if (map.corrupt != 0) return;
  map.corrupt = what;
  map.corruptValue = value;
  map.corruptWhere = where;
  if (map.has(MAP_READ_ONLY) || map.has(MAP_VERSION_2)) return;
  const bits = map.place(HEADER_COPY) + HEADER_INCOMPATIBLE_FEATURES;
  store<u64>(bits, load<u64>(bits) | bswap<u64>((<u64>1) << INCOMPATIBLE_CORRUPT_BIT));
  map.headerDirty = 1;
  writeHeader(map);
}

/** Writes the header copy when it is to be, nobody else is writing it, and an order can be made. */
export function writeHeader(map: Qcow2): void {
  if (!map.headerDirty || map.headerBusy || map.headerHeld || !hasIo(map)) return;
  map.headerDirty = 0;
  map.headerBusy = 1;
  order(map, COMMAND_WRITE, FILE_IMAGE, 0, HEADER_COPY_BYTES, HEADER_COPY, IO_HEADER, 0);
}
