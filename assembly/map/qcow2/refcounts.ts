// Refcounts in slices of refcount blocks (spec: section 5).

import { CORRUPT_REFCOUNT_TABLE } from '../../../src/abi/map.ts';
import { NONE } from '../../engine.ts';
import {
  enterSlice,
  findSlice,
  Slice,
  SLICE_VALID,
  sliceData,
  soilSlice,
  wantRoom,
} from './cache.ts';
import { markCorrupt, overlapsRanges } from './firewall.ts';
import { zeroPrefix } from '../../simd/zero-prefix.ts';
import { hasIo } from './io.ts';
import { Cache, Qcow2 } from './state.ts';
import { loadSlice } from './tables.ts';

const BLOCK_MASK: u64 = ~(<u64>0x1ff);

export const REFCOUNTS_THERE: u32 = 0;
/** No block covers the cluster: its refcount is 0. */
export const REFCOUNTS_NONE: u32 = 1;
export const REFCOUNTS_WAIT: u32 = 2;
/** The block cannot be used; the image is marked corrupt. */
export const REFCOUNTS_WRONG: u32 = 3;

/**
 * Finds the slice with the refcount of a cluster; its slot is in `foundSlot`; NONE while it
 * waits for something else than that slice.
 */
export function findRefcounts(map: Qcow2, cluster: u64): u32 {
  const block = cluster >> <u64>map.blockCountBits;
  if (block >= <u64>map.tableEntries) return REFCOUNTS_NONE;
  const offset = blockAt(map, <u32>block);
  if (offset == 0) return REFCOUNTS_NONE;
  if (isWrong(map, offset)) {
    markCorrupt(map, CORRUPT_REFCOUNT_TABLE, offset, block);
    return REFCOUNTS_WRONG;
  }
  const cache = Cache.refcounts(map);
  const key = sliceKey(map, offset, cluster);
  map.foundSlot = findSlice(map, cache, key);
  if (map.foundSlot == NONE) {
    if (map.mayLoad == 0 || !hasIo(map)) return REFCOUNTS_WAIT;
    map.foundSlot = enterSlice(map, cache, key);
    if (map.foundSlot == NONE) wantRoom(map, cache);
    else {
      loadSlice(map, cache, map.foundSlot);
      map.countRefcountLoads += 1;
    }
    return REFCOUNTS_WAIT;
  }
  const isThere = Slice.at(map, cache, map.foundSlot).state == SLICE_VALID;
  return isThere ? REFCOUNTS_THERE : REFCOUNTS_WAIT;
}

/** Host offset of a refcount block, or 0. */
export function blockAt(map: Qcow2, block: u32): u64 {
  return bswap<u64>(load<u64>(map.place(map.tableAt) + ((<usize>block) << 3))) & BLOCK_MASK;
}

/** Host offset of the slice in the block at `offset` that has a cluster's refcount. */
export function sliceKey(map: Qcow2, offset: u64, cluster: u64): u64 {
  const inBlock = cluster & (((<u64>1) << (<u64>map.blockCountBits)) - 1);
  return offset + ((inBlock >> <u64>map.sliceCountBits) << (<u64>map.sliceBits));
}

/** Clusters from `cluster` to the end of its slice. */
export function leftInSlice(map: Qcow2, cluster: u64): u64 {
  const count = (<u64>1) << (<u64>map.sliceCountBits);
  return count - (cluster & (count - 1));
}

/** The refcount of a cluster, in the slice at `slot`. */
export function refcountOf(map: Qcow2, slot: u32, cluster: u64): u64 {
  const data = sliceData(map, Cache.refcounts(map), slot);
  const index = <usize>(cluster & (((<u64>1) << (<u64>map.sliceCountBits)) - 1));
  switch (map.refcountOrder) {
    case 3:
      return <u64>load<u8>(data + index);
    case 4:
      return <u64>bswap<u16>(load<u16>(data + (index << 1)));
    case 5:
      return <u64>bswap<u32>(load<u32>(data + (index << 2)));
    case 6:
      return bswap<u64>(load<u64>(data + (index << 3)));
    default: {
      const bit = <u32>(index << (<usize>map.refcountOrder));
      return (<u64>load<u8>(data + (bit >> 3)) >> <u64>(bit & 7)) & narrowMask(map);
    }
  }
}

/** Sets the refcount of a cluster in the slice at `slot`, which is dirty then. */
export function setRefcount(map: Qcow2, slot: u32, cluster: u64, value: u64): void {
  const cache = Cache.refcounts(map);
  const data = sliceData(map, cache, slot);
  const index = <usize>(cluster & (((<u64>1) << (<u64>map.sliceCountBits)) - 1));
  soilSlice(map, cache, slot, map.changes);
  switch (map.refcountOrder) {
    case 3:
      store<u8>(data + index, <u8>value);
      return;
    case 4:
      store<u16>(data + (index << 1), bswap<u16>(<u16>value));
      return;
    case 5:
      store<u32>(data + (index << 2), bswap<u32>(<u32>value));
      return;
    case 6:
      store<u64>(data + (index << 3), bswap<u64>(value));
      return;
    default: {
      const bit = <u32>(index << (<usize>map.refcountOrder));
      const mask = (<u32>narrowMask(map)) << (bit & 7);
      const byte = <u32>load<u8>(data + (bit >> 3));
      store<u8>(data + (bit >> 3), <u8>((byte & ~mask) | ((<u32>value) << (bit & 7))));
    }
  }
}

/**
 * Clusters from `cluster` on, at most `most` and all in the slice at `slot`, that are free
 * (`free`), or that are in use.
 */
export function countFree(map: Qcow2, slot: u32, cluster: u64, most: u64, free: bool): u64 {
  let counted: u64 = 0;
  if (free && map.refcountOrder >= 3) {
    const width = <u64>map.refcountOrder - 3;
    const index = cluster & (((<u64>1) << (<u64>map.sliceCountBits)) - 1);
    const data = sliceData(map, Cache.refcounts(map), slot) + <usize>(index << width);
    return <u64>zeroPrefix(data, <u32>(most << width)) >> width;
  }
  while (counted < most && (refcountOf(map, slot, cluster + counted) == 0) == free) counted += 1;
  return counted;
}

/** Refcounts narrower than a byte. */
function narrowMask(map: Qcow2): u64 {
  return ((<u64>1) << ((<u64>1) << (<u64>map.refcountOrder))) - 1;
}

function isWrong(map: Qcow2, offset: u64): bool {
  if ((offset & (map.clusterBytes - 1)) != 0) return true;
  if (offset >= map.fileBytes || map.fileBytes - offset < map.clusterBytes) return true;
  return overlapsRanges(map, offset, map.clusterBytes);
}
