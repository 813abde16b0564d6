// What an L2 entry says (spec: L2 table entries).

import {
  CORRUPT_DATA_OFFSET,
  CORRUPT_L2_ENTRY,
  MAP_DATA_FILE,
  MAP_EXTENDED_L2,
  MAP_VERSION_2,
} from '../../../src/abi/map.ts';
import {
  ENTRY_COMPRESSED_BIT,
  ENTRY_COPIED_BIT,
  ENTRY_OFFSET_LAST_BIT,
  ENTRY_ZERO_BIT,
} from '../../../src/abi/qcow2.ts';
import { Qcow2 } from './state.ts';

export const COPIED: u64 = (<u64>1) << ENTRY_COPIED_BIT;
export const COMPRESSED: u64 = (<u64>1) << ENTRY_COMPRESSED_BIT;
export const ZERO: u64 = (<u64>1) << ENTRY_ZERO_BIT;
export const OFFSET_MASK: u64 = (((<u64>1) << (ENTRY_OFFSET_LAST_BIT + 1)) - 1) & ~(<u64>0x1ff);
/** Bits that are 0 in every entry that is not compressed. */
const RESERVED: u64 = ((<u64>0x3f) << 56) | 0x1fe;
/** Bits that are 0 in an L1 entry. */
export const L1_RESERVED: u64 = ((<u64>0x7f) << 56) | 0x1ff;
export const ALL_SUBCLUSTERS: u64 = 0xffff_ffff;

export const UNALLOCATED: u32 = 0;
export const ZERO_PLAIN: u32 = 1;
/** Reads as zeroes, and has a place. */
export const ZERO_PLACED: u32 = 2;
export const NORMAL: u32 = 3;
export const PACKED: u32 = 4;

/** The entry at an address; `bitmapAt` for its second half. */
export function entryAt(address: usize): u64 {
  return bswap<u64>(load<u64>(address));
}

/** The subclusters of the entry at an address; 0 in standard tables. */
export function bitmapAt(map: Qcow2, address: usize): u64 {
  return map.has(MAP_EXTENDED_L2) ? bswap<u64>(load<u64>(address, 8)) : 0;
}

/** 0, or the CORRUPT_* that is wrong with an entry for the guest's cluster at `guest`. */
export function wrongWith(map: Qcow2, entry: u64, bitmap: u64, guest: u64): u32 {
  if ((entry & COMPRESSED) != 0) {
    if (map.has(MAP_DATA_FILE) || bitmap != 0) return CORRUPT_L2_ENTRY;
    return 0;
  }
  const extended = map.has(MAP_EXTENDED_L2);
  const reserved = extended || map.has(MAP_VERSION_2) ? RESERVED | ZERO : RESERVED;
  if ((entry & reserved) != 0) return CORRUPT_L2_ENTRY;
  const offset = entry & OFFSET_MASK;
  if ((offset & (map.clusterBytes - 1)) != 0) return CORRUPT_DATA_OFFSET;
  if (map.has(MAP_DATA_FILE) && hasPlace(map, entry) && offset != guest) return CORRUPT_DATA_OFFSET;
  return extended && wrongBitmap(map, entry, bitmap) ? CORRUPT_L2_ENTRY : 0;
}

/** True when the subclusters of an entry that is not compressed cannot be. */
export function wrongBitmap(map: Qcow2, entry: u64, bitmap: u64): bool {
  const allocated = bitmap & ALL_SUBCLUSTERS;
  if ((allocated & (bitmap >> 32)) != 0) return true;
  return allocated != 0 && !hasPlace(map, entry);
}

/** True when an entry, not a compressed one, names a host cluster. */
export function hasPlace(map: Qcow2, entry: u64): bool {
  if ((entry & OFFSET_MASK) != 0) return true;
  return map.has(MAP_DATA_FILE) && (entry & COPIED) != 0;
}

/** True when that host cluster is this entry's alone, so that it may be written. */
export function isOwned(map: Qcow2, entry: u64): bool {
  if ((entry & COMPRESSED) != 0) return false;
  return hasPlace(map, entry) && (map.has(MAP_DATA_FILE) || (entry & COPIED) != 0);
}

/** What an entry, or one subcluster of it, is. */
export function typeOf(map: Qcow2, entry: u64, bitmap: u64, subcluster: u32): u32 {
  if ((entry & COMPRESSED) != 0) return PACKED;
  const placed = hasPlace(map, entry);
  if (!map.has(MAP_EXTENDED_L2)) {
    if ((entry & ZERO) != 0) return placed ? ZERO_PLACED : ZERO_PLAIN;
    return placed ? NORMAL : UNALLOCATED;
  }
  const bits = bitmap >> <u64>subcluster;
  if (((bits >> 32) & 1) != 0) return placed ? ZERO_PLACED : ZERO_PLAIN;
  return (bits & 1) != 0 ? NORMAL : UNALLOCATED;
}

/** True when a whole cluster holds data of its own: not zeroes, not the backing disk's. */
export function holdsData(map: Qcow2, entry: u64, bitmap: u64): bool {
  if ((entry & COMPRESSED) != 0) return true;
  if (map.has(MAP_EXTENDED_L2)) return (bitmap & ALL_SUBCLUSTERS) != 0;
  return (entry & ZERO) == 0 && hasPlace(map, entry);
}

/** True when some of a cluster, not compressed, may be read from the backing disk. */
export function showsBacking(map: Qcow2, entry: u64, bitmap: u64): bool {
  if (!map.has(MAP_EXTENDED_L2)) return (entry & ZERO) == 0 && !hasPlace(map, entry);
  return ((bitmap | (bitmap >> 32)) & ALL_SUBCLUSTERS) != ALL_SUBCLUSTERS;
}

/** The first byte of a compressed cluster on the host. */
export function packedOffset(map: Qcow2, entry: u64): u64 {
  return entry & (((<u64>1) << (<u64>offsetBits(map))) - 1);
}

/** The bytes that it takes there, at most. */
export function packedBytes(map: Qcow2, entry: u64): u64 {
  const sectors = ((entry & (COMPRESSED - 1)) >> <u64>offsetBits(map)) + 1;
  return sectors * 512 - (packedOffset(map, entry) & 511);
}

function offsetBits(map: Qcow2): u32 {
  return 62 - (map.clusterBits - 8);
}
