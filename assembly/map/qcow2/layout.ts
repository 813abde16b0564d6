// Where the parts of a mapping's region lie:
//
//     | Qcow2 | caches | header copy | reserved runs | jobs | ios | frees | buffers | staged |
//     | L1 chunks | ranges | slots | hashes | L1 | refcount table | L2 slices | refcount slices |
//     | staged slices | buffers | granules |

import { granuleBytes } from './granules.ts';
import {
  FREE_RUNS,
  MAP_EXTENDED_L2,
  MAP_IOS,
  RANGE_SIZE,
  SLICE_BYTES,
  STAGED_SLICES,
} from '../../../src/abi/map.ts';
import { SUBCLUSTERS } from '../../../src/abi/qcow2.ts';
import { CLEARED_SHIFT } from './cache.ts';
import {
  BUFFER_SIZE,
  Cache,
  CHUNK_SIZE,
  FREE_SIZE,
  HEADER_COPY,
  IO_SIZE,
  JOB_SIZE,
  JOBS,
  L1_CHUNK_BITS,
  MAP_TABLES,
  Qcow2,
  SLICE_SIZE,
  STAGED_SIZE,
} from './state.ts';

const ALIGN: u64 = 64;
/** What O_DIRECT may ask of an address. */
const PAGE: u64 = 4096;
/** A region is addressed in 32 bits, and shares them with others. */
const LARGEST: u64 = (<u64>1) << 31;

/** log2 of `n`, not 0, rounded up. */
function bitsOf(n: u32): u32 {
  return 32 - clz(n - 1);
}

/** Fills in the geometry and the places; returns the bytes of the region, or 0 when too many. */
export function layOut(map: Qcow2): u32 {
  measure(map);
  const l2 = Cache.l2(map);
  const refcounts = Cache.refcounts(map);
  setCache(l2, map.l2Slices, map.sliceBits);
  setCache(refcounts, map.refcountSlices, map.sliceBits);
  let at: u64 = MAP_TABLES;
  map.headerAt = HEADER_COPY;
  at = align(at, PAGE);
  map.jobsAt = <u32>at;
  at = align(at + <u64>JOBS * JOB_SIZE, ALIGN);
  map.iosAt = <u32>at;
  at = align(at + <u64>MAP_IOS * IO_SIZE, ALIGN);
  map.freesAt = <u32>at;
  at = align(at + <u64>FREE_RUNS * FREE_SIZE, ALIGN);
  map.buffersAt = <u32>at;
  at = align(at + <u64>map.buffers * BUFFER_SIZE, ALIGN);
  map.stagedAt = <u32>at;
  at = align(at + <u64>STAGED_SLICES * STAGED_SIZE, ALIGN);
  map.chunksAt = <u32>at;
  at = align(at + <u64>chunksOf(map) * CHUNK_SIZE, ALIGN);
  map.clearedAt = <u32>at;
  at = align(at + ((<u64>map.l2Slices) << CLEARED_SHIFT), ALIGN);
  map.rangesAt = <u32>at;
  at = align(at + <u64>map.ranges * RANGE_SIZE, ALIGN);
  at = placeSlots(l2, at);
  at = placeSlots(refcounts, at);
  at = align(at, PAGE);
  map.l1At = <u32>at;
  at = align(at + ((<u64>chunksOf(map)) << L1_CHUNK_BITS), PAGE);
  map.tableAt = <u32>at;
  at = align(at + ((<u64>map.tableRoom) << 3), PAGE);
  l2.dataAt = <u32>at;
  at = align(at + ((<u64>map.l2Slices) << map.sliceBits), PAGE);
  refcounts.dataAt = <u32>at;
  at = align(at + ((<u64>map.refcountSlices) << map.sliceBits), PAGE);
  map.stagedDataAt = <u32>at;
  at = align(at + ((<u64>STAGED_SLICES) << map.sliceBits), PAGE);
  map.bufferDataAt = <u32>at;
  at = align(at + ((<u64>map.buffers) << map.clusterBits), PAGE);
  map.granulesAt = <u32>at;
  at = align(at + granuleBytes(map), PAGE);
  return at < LARGEST ? <u32>at : 0;
}

/** Pieces of the L1 table that are written each by itself. */
export function chunksOf(map: Qcow2): u32 {
  return ((map.l1Entries << 3) + (1 << L1_CHUNK_BITS) - 1) >> L1_CHUNK_BITS;
}

function measure(map: Qcow2): void {
  map.clusterBytes = (<u64>1) << (<u64>map.clusterBits);
  map.entryBits = map.has(MAP_EXTENDED_L2) ? 4 : 3;
  map.l2Bits = map.clusterBits - map.entryBits;
  map.sliceBits = min(map.clusterBits, bitsOf(<u32>SLICE_BYTES));
  map.unitBits = map.has(MAP_EXTENDED_L2)
    ? map.clusterBits - bitsOf(<u32>SUBCLUSTERS)
    : map.clusterBits;
  map.sliceCountBits = map.sliceBits + 3 - map.refcountOrder;
  map.blockCountBits = map.clusterBits + 3 - map.refcountOrder;
}

function setCache(cache: Cache, slots: u32, sliceBits: u32): void {
  cache.slots = slots;
  cache.sliceBits = sliceBits;
  cache.hashMask = (1 << bitsOf(slots * 2)) - 1;
}

function placeSlots(cache: Cache, at: u64): u64 {
  cache.slotsAt = <u32>at;
  const hash = align(at + <u64>cache.slots * SLICE_SIZE, ALIGN);
  cache.hashAt = <u32>hash;
  return align(hash + ((<u64>cache.hashMask + 1) << 2), ALIGN);
}

function align(at: u64, to: u64): u64 {
  return (at + to - 1) & ~(to - 1);
}
