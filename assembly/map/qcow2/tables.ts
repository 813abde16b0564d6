// The way to an L2 entry: the L1 table in memory, then a slice of an L2 table, loaded when needed.
//
// T1  Nobody waits for a slice but those whose entries are in it.
// T2  A new L2 table is a reserved cluster, which reads as zeroes for good (worker.ts, R2): all its
//     entries are unallocated, in the file too. So the L1 entry may be written before the table.
//     It is written once at first all the same: who has no room for it says so then, not when a
//     flush wants to write what others were told is done.
// T3  A table that a snapshot shares is copied before it is changed. The copy is stable before the
//     L1 entry that points to it is written; the reference to the old one is dropped after that.

import { COMMAND_READ, COMMAND_WRITE, ERRNO_EIO } from '../../../src/abi/command.ts';
import { CORRUPT_L1_ENTRY, FILE_IMAGE } from '../../../src/abi/map.ts';
import { NONE } from '../../engine.ts';
import { lendBuffer, returnBuffer } from './buffers.ts';
import { enterSlice, findSlice, forgetCleared, Slice, SLICE_VALID, sliceData } from './cache.ts';
import { COPIED, entryAt, L1_RESERVED, OFFSET_MASK } from './entry.ts';
import { markCorrupt, overlapsFixed } from './firewall.ts';
import { dropTable, hasFreeRoom, returnClusters } from './frees.ts';
import { hasIo, IO_COPY, order } from './io.ts';
import {
  WAIT_ANY_BUFFER,
  WAIT_CYCLE,
  WAIT_FREE,
  WAIT_IO,
  WAIT_TURN,
  WAIT_SLICE,
  WAIT_SPACE,
  WAIT_TABLE,
  wake,
} from './job.ts';
import { takeClusters, taken } from './reserve.ts';
import { CHUNK_SIZE, Cache, L1_CHUNK_BITS, Qcow2, Spot } from './state.ts';

export const FOUND: u32 = 0;
/** Nothing is mapped there: no L2 table. */
export const NO_TABLE: u32 = 1;
export const WAITS: u32 = 2;
export const FAILS: u32 = 3;

/** Where an L1 entry is dirty: which change came first, and what must be stable before. */
@unmanaged
export class Chunk {
  /** Number of the first change that is not written, or 0. */
  first: u64;
  need: u64;

  static at(map: Qcow2, chunk: u32): Chunk {
    return changetype<Chunk>(map.place(map.chunksAt) + <usize>chunk * CHUNK_SIZE);
  }
}

if (offsetof<Chunk>() != <usize>CHUNK_SIZE) ERROR('Chunk');

const COPY_NONE: u32 = 0;
const COPY_READING: u32 = 1;
const COPY_WRITING: u32 = 2;

/** Finds the entry of a guest address, to be read; the answer is in Spot. */
export function locate(map: Qcow2, guest: u64): u32 {
  const l1 = l1IndexOf(map, guest);
  if (l1 >= <u64>map.l1Entries) return NO_TABLE;
  const entry = l1Entry(map, <u32>l1);
  if ((entry & OFFSET_MASK) == 0 && entry == 0) return NO_TABLE;
  const wrong = checkL1(map, entry, guest);
  return wrong != FOUND ? wrong : locateIn(map, entry & OFFSET_MASK, guest);
}

/** The same, to be changed: a table is made, or copied, where there is none to change. */
export function locateToChange(map: Qcow2, guest: u64): u32 {
  const l1 = l1IndexOf(map, guest);
  if (l1 >= <u64>map.l1Entries) return fail(map, ERRNO_EIO);
  const entry = l1Entry(map, <u32>l1);
  if (entry == 0) return makeTable(map, <u32>l1);
  const wrong = checkL1(map, entry, guest);
  if (wrong != FOUND) return wrong;
  if ((entry & COPIED) == 0) return copyTable(map, <u32>l1, entry & OFFSET_MASK);
  return locateIn(map, entry & OFFSET_MASK, guest);
}

/** Guest bytes from `guest` to the end of what its L2 table covers. */
export function tableReach(map: Qcow2, guest: u64): u64 {
  const bits = map.clusterBits + map.l2Bits;
  const bytes = (<u64>1) << (<u64>bits);
  return bytes - (guest & (bytes - 1));
}

/** The address of the L2 entry `ahead` of the one found. */
export function spotAddress(map: Qcow2, ahead: u32): usize {
  const spot = Spot.of(map);
  return entryAddress(map, spot.slot, spot.index + ahead);
}

/** The address of an entry of a slice. */
export function entryAddress(map: Qcow2, slot: u32, index: u32): usize {
  return sliceData(map, Cache.l2(map), slot) + ((<usize>index) << map.entryBits);
}

function l1IndexOf(map: Qcow2, guest: u64): u64 {
  return guest >> <u64>(map.clusterBits + map.l2Bits);
}

function l1Entry(map: Qcow2, l1: u32): u64 {
  return entryAt(map.place(map.l1At) + ((<usize>l1) << 3));
}

/** FOUND, or FAILS when an L1 entry cannot be. */
function checkL1(map: Qcow2, entry: u64, guest: u64): u32 {
  const table = entry & OFFSET_MASK;
  if ((entry & L1_RESERVED) != 0) return fail(map, ERRNO_EIO);
  if (table == 0 || (table & (map.clusterBytes - 1)) != 0) {
    markCorrupt(map, CORRUPT_L1_ENTRY, entry, guest);
    return fail(map, ERRNO_EIO);
  }
  return table + map.clusterBytes > map.fileBytes ? fail(map, ERRNO_EIO) : FOUND;
}

/** Finds the slice of the entry in the L2 table at `table`. */
function locateIn(map: Qcow2, table: u64, guest: u64): u32 {
  const cache = Cache.l2(map);
  const spot = Spot.of(map);
  const entry = <u32>(guest >> <u64>map.clusterBits) & ((1 << map.l2Bits) - 1);
  const perSlice: u32 = 1 << (map.sliceBits - map.entryBits);
  const key = table + ((<u64>(entry / perSlice)) << (<u64>map.sliceBits));
  let slot = findSlice(map, cache, key);
  if (slot == NONE) {
    if (overlapsFixed(map, table, map.clusterBytes)) {
      markCorrupt(map, CORRUPT_L1_ENTRY, table, guest);
      return fail(map, ERRNO_EIO);
    }
    if (map.mayLoad == 0) return wait(map, WAIT_TURN);
    if (!hasIo(map)) return wait(map, WAIT_IO);
    slot = enterSlice(map, cache, key);
    if (slot == NONE) {
      // Nothing to write: all are pinned or on their way, until something is answered.
      if (cache.dirty == 0) return wait(map, WAIT_IO);
      map.cycleWanted = 1;
      return wait(map, WAIT_CYCLE);
    }
    forgetCleared(map, slot);
    loadSlice(map, cache, slot);
    map.countL2Loads += 1;
    return wait(map, WAIT_SLICE | slot);
  }
  if (Slice.at(map, cache, slot).state != SLICE_VALID) return wait(map, WAIT_SLICE | slot);
  map.countL2Hits += 1;
  spot.slot = slot;
  spot.index = entry & (perSlice - 1);
  spot.left = perSlice - spot.index;
  return FOUND;
}

/** Orders the bytes of a slice that was entered. */
export function loadSlice(map: Qcow2, cache: Cache, slot: u32): void {
  const bytes = (<u64>1) << (<u64>cache.sliceBits);
  const at = cache.dataAt + (slot << cache.sliceBits);
  const key = Slice.at(map, cache, slot).key;
  order(map, COMMAND_READ, FILE_IMAGE, key, bytes, at, cache.purpose, slot);
}

/** T2. */
function makeTable(map: Qcow2, l1: u32): u32 {
  const ready = readyToCopy(map, l1);
  if (ready != FOUND) return ready;
  map.copyFrom = 0;
  map.copyPhase = COPY_WRITING;
  memory.fill(map.place(copyAt(map)), 0, <usize>map.clusterBytes);
  orderCopy(map, COMMAND_WRITE, map.copyTo);
  return wait(map, WAIT_TABLE | l1);
}

/** Changes an L1 entry, which may be written once generation `need` is stable. */
function setL1(map: Qcow2, l1: u32, entry: u64, need: u64): void {
  store<u64>(map.place(map.l1At) + ((<usize>l1) << 3), bswap<u64>(entry));
  const chunk = Chunk.at(map, (l1 << 3) >> L1_CHUNK_BITS);
  map.changes += 1;
  if (chunk.first == 0) {
    chunk.first = map.changes;
    map.dirtyChunks += 1;
  }
  if (need > chunk.need) chunk.need = need;
}

/** T3. */
function copyTable(map: Qcow2, l1: u32, table: u64): u32 {
  if (overlapsFixed(map, table, map.clusterBytes)) {
    markCorrupt(map, CORRUPT_L1_ENTRY, table, l1);
    return fail(map, ERRNO_EIO);
  }
  const ready = readyToCopy(map, l1);
  if (ready != FOUND) return ready;
  map.copyFrom = table;
  map.copyPhase = COPY_READING;
  orderCopy(map, COMMAND_READ, table);
  return wait(map, WAIT_TABLE | l1);
}

/** FOUND with a buffer and a cluster for a new table, one at a time; or WAITS. */
function readyToCopy(map: Qcow2, l1: u32): u32 {
  if (map.copyPhase != COPY_NONE) {
    return wait(map, map.copyIndex == l1 ? WAIT_TABLE | l1 : WAIT_IO);
  }
  if (!hasIo(map)) return wait(map, WAIT_IO);
  if (!hasFreeRoom(map, 1)) return wait(map, WAIT_FREE);
  const buffer = lendBuffer(map);
  if (buffer == NONE) return wait(map, WAIT_ANY_BUFFER);
  if (takeClusters(map, 1) == 0) {
    returnBuffer(map, buffer);
    return wait(map, WAIT_SPACE);
  }
  map.copyIndex = l1;
  map.copyTo = taken(map);
  map.copyBuffer = buffer;
  // One of the two tables is dropped.
  map.freePromised += 1;
  return FOUND;
}

function orderCopy(map: Qcow2, op: u32, offset: u64): void {
  order(map, op, FILE_IMAGE, offset, map.clusterBytes, copyAt(map), IO_COPY, 0);
}

/** Where the table that is made or copied stands. */
function copyAt(map: Qcow2): u32 {
  return map.bufferDataAt + (map.copyBuffer << map.clusterBits);
}

/** The host has answered a part of the copy of a table. */
export function copyAnswered(map: Qcow2, errno: u32): void {
  if (errno == 0 && map.copyPhase == COPY_READING) {
    map.copyPhase = COPY_WRITING;
    orderCopy(map, COMMAND_WRITE, map.copyTo);
    return;
  }
  map.copyPhase = COPY_NONE;
  map.freePromised -= 1;
  returnBuffer(map, map.copyBuffer);
  if (errno != 0) returnClusters(map, map.copyTo, 1);
  else if (map.copyFrom == 0) setL1(map, map.copyIndex, map.copyTo | COPIED, 0);
  else {
    setL1(map, map.copyIndex, map.copyTo | COPIED, map.generation);
    dropTable(map, map.copyFrom);
  }
  wake(map, WAIT_TABLE | map.copyIndex, errno);
}

function wait(map: Qcow2, reason: u32): u32 {
  Spot.of(map).wait = reason;
  return WAITS;
}

function fail(map: Qcow2, errno: u32): u32 {
  Spot.of(map).errno = errno;
  return FAILS;
}
