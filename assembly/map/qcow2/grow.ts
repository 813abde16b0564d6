// A refcount table that is too small for the file is written anew (worker.ts, R4):
//
//     | new blocks | new table |  from the first cluster that the old table does not cover
//
// The new blocks count themselves and the new table.

import { NONE } from '../../engine.ts';
import { SLICE_VALID, Slice, enterSlice, forgetSlice, sliceData, wantRoom } from './cache.ts';
import { markCorrupt, overlapsFixed, overlapsTables } from './firewall.ts';
import { returnClusters } from './frees.ts';
import { hasIo } from './io.ts';
import { WAIT_SPACE, wake } from './job.ts';
import { setRefcount, sliceKey } from './refcounts.ts';
import { Cache, HEADER_COPY, HEADER_COPY_BYTES, Qcow2, TABLE_UNKNOWN } from './state.ts';
import { SEARCH, TASK_NONE, TASK_RESERVE, fenceIsOver, startFence, workerOrder } from './task.ts';
import {
  COMMAND_EXTEND,
  COMMAND_WRITE,
  COMMAND_WRITE_ZEROES,
  ERRNO_EFBIG,
  ERRNO_EIO,
} from '../../../src/abi/command.ts';
import { CORRUPT_OVERLAP } from '../../../src/abi/map.ts';
import {
  HEADER_REFCOUNT_TABLE_CLUSTERS,
  HEADER_REFCOUNT_TABLE_OFFSET,
} from '../../../src/abi/qcow2.ts';

const EXTENDED: u32 = 0;
const BLOCKS: u32 = 1;
const BLOCK_WRITTEN: u32 = 2;
const TABLE: u32 = 3;
const TABLE_WRITTEN: u32 = 4;
const SYNC: u32 = 5;
const HEADER: u32 = 6;
const HEADER_WRITTEN: u32 = 7;
const HEADER_SYNC: u32 = 8;

/** Plans the new table, and extends the file over it and its blocks. */
export function startGrowing(map: Qcow2): void {
  const perCluster = <u32>(map.clusterBytes >> 3);
  const covered = (<u64>1) << (<u64>map.blockCountBits);
  const start = (<u64>map.tableEntries) << (<u64>map.blockCountBits);
  map.workerPhase = EXTENDED;
  // Half as large again, and at least as many clusters more as the growth itself counts.
  let entries = map.tableEntries + (map.tableEntries >> 1) + perCluster;
  entries -= entries % perCluster;
  entries = min(entries, map.tableRoom - (map.tableRoom % perCluster));
  const table = entries / perCluster;
  let blocks: u64 = 1;
  while (blocks * covered < blocks + table) blocks += 1;
  if (entries <= map.tableEntries || map.tableEntries + blocks > <u64>entries) {
    map.workerErrno = ERRNO_EFBIG;
    return;
  }
  map.workerStart = start;
  map.workerCount = blocks + table;
  map.workerBlocks = <u32>blocks;
  map.workerTable = entries;
  map.workerAt = 0;
  const offset = start << (<u64>map.clusterBits);
  const bytes = map.workerCount << (<u64>map.clusterBits);
  if (overlapsFixed(map, offset, bytes) || overlapsTables(map, offset, bytes)) {
    // Bytes of somebody lie where no block has ever counted one.
    markCorrupt(map, CORRUPT_OVERLAP, offset, 0);
    map.workerErrno = ERRNO_EIO;
    return;
  }
  map.workerNewEnd = offset + bytes;
  workerOrder(map, COMMAND_EXTEND, 0, map.workerNewEnd, 0);
}

export function stepGrow(map: Qcow2): bool {
  if (map.workerErrno != 0) return fail(map);
  if (!hasIo(map)) return false;
  switch (map.workerPhase) {
    case EXTENDED:
      return zero(map);
    case BLOCKS:
      return writeCounts(map);
    case BLOCK_WRITTEN:
      forgetSlice(map, Cache.refcounts(map), map.workerSlot);
      map.workerPhase = BLOCKS;
      return true;
    case TABLE:
      return writeTable(map);
    case TABLE_WRITTEN:
      startFence(map);
      map.workerPhase = SYNC;
      return true;
    case SYNC:
      if (!fenceIsOver(map)) return false;
      map.workerPhase = HEADER;
      return true;
    case HEADER:
      return writePointer(map);
    case HEADER_WRITTEN:
      map.headerBusy = 0;
      startFence(map);
      map.workerPhase = HEADER_SYNC;
      return true;
    default:
      if (!fenceIsOver(map)) return false;
      return map.workerErrno == 0 ? useTable(map) : true;
  }
}

/** A growth that a crash has ended may have left bytes there: they are zeroed. */
function zero(map: Qcow2): bool {
  const start = map.workerStart << (<u64>map.clusterBits);
  const old = min(map.fileBytes, map.workerNewEnd);
  map.fileBytes = max(map.fileBytes, map.workerNewEnd);
  map.workerNewEnd = 0;
  map.workerPhase = BLOCKS;
  if (old > start) workerOrder(map, COMMAND_WRITE_ZEROES, start, old - start, 0);
  return true;
}

/** Writes the counts of the growth, one slice at a time. */
function writeCounts(map: Qcow2): bool {
  if (map.workerAt == map.workerCount) {
    map.workerPhase = TABLE;
    return true;
  }
  const cache = Cache.refcounts(map);
  const cluster = map.workerStart + map.workerAt;
  const block = (cluster >> <u64>map.blockCountBits) - <u64>map.tableEntries;
  const offset = (map.workerStart + block) << (<u64>map.clusterBits);
  const slot = enterSlice(map, cache, sliceKey(map, offset, cluster));
  if (slot == NONE) {
    wantRoom(map, cache);
    return false;
  }
  const slice = Slice.at(map, cache, slot);
  memory.fill(sliceData(map, cache, slot), 0, (<usize>1) << map.sliceBits);
  slice.state = SLICE_VALID;
  const perSlice = (<u64>1) << (<u64>map.sliceCountBits);
  const count = min(perSlice, map.workerCount - map.workerAt);
  for (let i: u64 = 0; i < count; i++) setRefcount(map, slot, cluster + i, 1);
  slice.dirty = 0;
  cache.dirty -= 1;
  slice.writing = 1;
  map.workerSlot = slot;
  map.workerAt += count;
  map.workerPhase = BLOCK_WRITTEN;
  const at = cache.dataAt + (slot << cache.sliceBits);
  workerOrder(map, COMMAND_WRITE, slice.key, (<u64>1) << (<u64>cache.sliceBits), at);
  return true;
}

function writeTable(map: Qcow2): bool {
  for (let i: u32 = 0; i < map.workerBlocks; i++) setEntry(map, i, map.workerStart + i);
  const offset = (map.workerStart + map.workerBlocks) << (<u64>map.clusterBits);
  workerOrder(map, COMMAND_WRITE, offset, (<u64>map.workerTable) << 3, map.tableAt);
  map.workerPhase = TABLE_WRITTEN;
  return true;
}

/** The entry of the `index`th new block; cluster 0: none. */
function setEntry(map: Qcow2, index: u32, cluster: u64): void {
  const entry = map.place(map.tableAt) + ((<usize>(map.tableEntries + index)) << 3);
  store<u64>(entry, bswap<u64>(cluster << (<u64>map.clusterBits)));
}

function writePointer(map: Qcow2): bool {
  if (map.headerBusy != 0) return false;
  const header = map.place(HEADER_COPY);
  const table = map.workerStart + map.workerBlocks;
  const perCluster = <u32>(map.clusterBytes >> 3);
  store<u64>(header + HEADER_REFCOUNT_TABLE_OFFSET, bswap<u64>(table << (<u64>map.clusterBits)));
  store<u32>(header + HEADER_REFCOUNT_TABLE_CLUSTERS, bswap<u32>(map.workerTable / perCluster));
  map.headerBusy = 1;
  workerOrder(map, COMMAND_WRITE, 0, HEADER_COPY_BYTES, HEADER_COPY);
  map.workerPhase = HEADER_WRITTEN;
  return true;
}

/** The new table is in force; the old one is given back. */
function useTable(map: Qcow2): bool {
  const perCluster = <u32>(map.clusterBytes >> 3);
  returnClusters(map, map.tableOffset, map.tableEntries / perCluster);
  map.tableOffset = (map.workerStart + map.workerBlocks) << (<u64>map.clusterBits);
  map.tableUsed = map.tableEntries + map.workerBlocks;
  map.tableEntries = map.workerTable;
  map.workerPhase = SEARCH;
  map.workerAt = map.workerStart;
  map.workerTask = TASK_RESERVE;
  return true;
}

/**
 * The old table stays. When the header was being written nobody knows which one the file names,
 * until it is written again, and stable: nothing is reserved before that (R6).
 */
function fail(map: Qcow2): bool {
  const header = map.place(HEADER_COPY);
  const perCluster = <u32>(map.clusterBytes >> 3);
  if (map.workerPhase == BLOCK_WRITTEN) {
    Slice.at(map, Cache.refcounts(map), map.workerSlot).writing = 0;
    forgetSlice(map, Cache.refcounts(map), map.workerSlot);
  }
  if (map.workerPhase >= TABLE_WRITTEN) {
    for (let i: u32 = 0; i < map.workerBlocks; i++) setEntry(map, i, 0);
  }
  if (map.workerPhase >= HEADER_WRITTEN) {
    map.headerBusy = 0;
    store<u64>(header + HEADER_REFCOUNT_TABLE_OFFSET, bswap<u64>(map.tableOffset));
    store<u32>(header + HEADER_REFCOUNT_TABLE_CLUSTERS, bswap<u32>(map.tableEntries / perCluster));
    map.headerDirty = 1;
    map.tableUnsure = TABLE_UNKNOWN;
  }
  map.workerNewEnd = 0;
  map.workerFence = 0;
  map.reserveWanted = 0;
  map.workerTask = TASK_NONE;
  wake(map, WAIT_SPACE, map.workerErrno);
  return false;
}
