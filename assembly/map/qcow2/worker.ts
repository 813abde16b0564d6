// The refcount worker: one task at a time, step by step. It reserves clusters ahead, and lowers the
// refcounts of what was dropped (release.ts).
//
// R1  Reserve: find free clusters; extend the file over them, or zero what is inside it; write
//     their refcounts; one sync for all. Then they may be taken.
// R2  So a reserved cluster reads as zeroes, and that is stable, until its owner writes it.
// R3  A new refcount block is the first of the clusters that it covers: its bytes are stable before
//     the refcount table points to it, and that before anything that it counts is taken.
// R4  A refcount table that is too small is written anew, behind all others, with the blocks that
//     count it; stable, then the header points to it, stable, then the old one is given back
//     (grow.ts).
// R5  What has failed is undone in memory: nobody takes a cluster whose refcount is not stable.
//     Where the host has no room for many clusters, fewer are tried, down to one.
// R6  A pointer whose write has failed may be in the file all the same: what it points to stays as
//     it is until the pointer is written again, and stable. Nothing is reserved before that.
//
//      (MEND ─▶ SYNC) ─▶ SEARCH ─▶ EXTEND ─▶ ZERO ─▶ COUNT ─▶ SYNC ─▶ (LINK ─▶ SYNC) ─▶ DONE
//                           └─▶ GROW_* ─▶ SEARCH

import { NONE } from '../../engine.ts';
import { VERIFY, verify } from '../../verify.ts';
import { SLICE_VALID, Slice, enterSlice, forgetSlice, sliceData, wantRoom } from './cache.ts';
import { isMapped, markCorrupt, overlapsFixed, overlapsTables } from './firewall.ts';
import { startGrowing, stepGrow } from './grow.ts';
import { IO_WORKER, hasIo, order } from './io.ts';
import { WAIT_FREE, WAIT_IO, WAIT_SPACE, isAwaited, wake } from './job.ts';
import {
  REFCOUNTS_NONE,
  REFCOUNTS_THERE,
  REFCOUNTS_WAIT,
  countFree,
  findRefcounts,
  leftInSlice,
  setRefcount,
  sliceKey,
} from './refcounts.ts';
import { isReleaseDue, startRelease, stepRelease } from './release.ts';
import { addReserved, hasReserveRoom } from './reserve.ts';
import { Cache, Qcow2, TABLE_UNKNOWN } from './state.ts';
import {
  SEARCH,
  TASK_GROW,
  TASK_NONE,
  TASK_RELEASE,
  TASK_RESERVE,
  fenceIsOver,
  fileEnd,
  startFence,
  workerOrder,
} from './task.ts';
import {
  COMMAND_EXTEND,
  COMMAND_MAY_UNMAP,
  COMMAND_WRITE,
  COMMAND_WRITE_ZEROES,
  ERRNO_EIO,
} from '../../../src/abi/command.ts';
import { CORRUPT_OVERLAP, FILE_IMAGE, MAP_NO_HOLES } from '../../../src/abi/map.ts';

const MEND: u32 = 0;
const MENDED: u32 = 1;
const MEND_SYNC: u32 = 2;
const EXTEND: u32 = SEARCH + 1;
const ZERO: u32 = SEARCH + 2;
const COUNT: u32 = SEARCH + 3;
const COUNTED: u32 = SEARCH + 4;
const SYNC: u32 = SEARCH + 5;
const LINK: u32 = SEARCH + 6;
const LINKED: u32 = SEARCH + 7;
const LINK_SYNC: u32 = SEARCH + 8;
const DONE: u32 = SEARCH + 9;

/** Slices that one search looks through before it goes to the end of the file. */
const SEARCH_SLICES: u32 = 64;
/** Without room for clusters, a quarter of them is tried. */
const FEWER_BITS: u32 = 2;
/** Bytes of the refcount table that are written for one entry. */
const TABLE_SECTOR: u64 = 512;

/** Does what the worker can do now; true when that was something. */
export function stepWorker(map: Qcow2): bool {
  let any: bool = false;
  for (let goes: bool = true; goes;) {
    if (map.workerLeft != 0) return any;
    switch (map.workerTask) {
      case TASK_RESERVE:
        goes = stepReserve(map);
        break;
      case TASK_GROW:
        goes = stepGrow(map);
        break;
      case TASK_RELEASE:
        goes = stepRelease(map);
        break;
      default:
        goes = startTask(map);
    }
    if (goes) any = true;
  }
  return any;
}

function startTask(map: Qcow2): bool {
  map.workerErrno = 0;
  if (map.corrupt != 0 || map.latched != 0) {
    wake(map, WAIT_SPACE, ERRNO_EIO);
    wake(map, WAIT_FREE, ERRNO_EIO);
    return false;
  }
  const awaited = isAwaited(map, WAIT_SPACE);
  if (map.tableUnsure == TABLE_UNKNOWN) {
    if (awaited) {
      map.headerHeld = 0;
      wake(map, WAIT_SPACE, ERRNO_EIO);
    }
    return false;
  }
  // Who waits has found no run, and is woken as soon as there is one.
  if (VERIFY) verify(!awaited || map.reservedRuns == 0);
  const wanted = map.reserveWanted != 0 && hasReserveRoom(map) && map.closing == 0;
  if (wanted || awaited) {
    map.workerTask = TASK_RESERVE;
    map.workerPhase = map.unlinked != 0 || map.tableUnsure != 0 ? MEND : SEARCH;
    map.workerScanned = 0;
    map.workerJumped = 0;
    map.workerAt = map.searchCluster;
    return true;
  }
  if (!isReleaseDue(map)) return false;
  map.workerTask = TASK_RELEASE;
  startRelease(map);
  return true;
}

function stepReserve(map: Qcow2): bool {
  if (map.workerErrno != 0) return failReserve(map);
  if (!hasIo(map)) return false;
  switch (map.workerPhase) {
    case MEND:
      if (map.unlinked != 0) writeEntry(map, map.unlinked - 1);
      map.workerPhase = MENDED;
      return true;
    case MENDED:
      startFence(map);
      map.workerPhase = MEND_SYNC;
      return true;
    case MEND_SYNC:
      return endMending(map);
    case SEARCH:
      return search(map);
    case EXTEND:
      return extend(map);
    case ZERO:
      return zero(map);
    case COUNT:
      return writeCounts(map);
    case COUNTED:
      Slice.at(map, Cache.refcounts(map), map.workerSlot).writing = 0;
      startFence(map);
      map.workerPhase = SYNC;
      return true;
    case SYNC:
      if (!fenceIsOver(map)) return false;
      map.workerPhase = map.workerBlocks != 0 ? LINK : DONE;
      return true;
    case LINK:
      return link(map);
    case LINKED:
      startFence(map);
      map.workerPhase = LINK_SYNC;
      return true;
    case LINK_SYNC:
      if (!fenceIsOver(map)) return false;
      map.workerPhase = DONE;
      return true;
    default:
      return endReserve(map);
  }
}

/** R6. */
function endMending(map: Qcow2): bool {
  if (!fenceIsOver(map)) return false;
  if (map.workerErrno != 0) return true;
  map.unlinked = 0;
  map.tableUnsure = 0;
  map.workerPhase = SEARCH;
  return true;
}

/** Looks for free clusters from `workerAt` on. */
function search(map: Qcow2): bool {
  const end = fileEnd(map);
  if (map.workerScanned == SEARCH_SLICES && map.workerAt < end) {
    map.searchCluster = map.workerAt;
    map.workerAt = end;
    map.workerJumped = 1;
  }
  if (map.loadErrno != 0) {
    const errno = map.loadErrno;
    map.loadErrno = 0;
    return failWith(map, errno);
  }
  const found = findRefcounts(map, map.workerAt);
  map.workerAwaits = found == REFCOUNTS_WAIT ? map.foundSlot : NONE;
  if (found == REFCOUNTS_WAIT) return false;
  const left = leftInSlice(map, map.workerAt);
  const want = min(left, <u64>map.reserveNext);
  map.workerBlocks = 0;
  if (found == REFCOUNTS_NONE) {
    if (map.workerAt >> <u64>map.blockCountBits >= <u64>map.tableEntries) {
      map.workerTask = TASK_GROW;
      startGrowing(map);
      return true;
    }
    return startBlock(map, want);
  }
  if (found != REFCOUNTS_THERE) return failWith(map, ERRNO_EIO);
  map.workerSlot = map.foundSlot;
  const skip = countFree(map, map.workerSlot, map.workerAt, left, false);
  map.workerScanned += 1;
  if (skip == left) {
    map.workerAt += left;
    return true;
  }
  map.workerStart = map.workerAt + skip;
  map.workerCount = countFree(map, map.workerSlot, map.workerStart, min(left - skip, want), true);
  return mark(map);
}

/** R3: a block of its own for clusters that none covers yet; the first of them. */
function startBlock(map: Qcow2, want: u64): bool {
  const cache = Cache.refcounts(map);
  const key = sliceKey(map, map.workerAt << (<u64>map.clusterBits), map.workerAt);
  const slot = enterSlice(map, cache, key);
  if (slot == NONE) {
    wantRoom(map, cache);
    return false;
  }
  memory.fill(sliceData(map, cache, slot), 0, (<usize>1) << map.sliceBits);
  Slice.at(map, cache, slot).state = SLICE_VALID;
  map.workerSlot = slot;
  map.workerBlocks = 1;
  map.workerStart = map.workerAt;
  map.workerCount = max(want, min(leftInSlice(map, map.workerAt), 2));
  return mark(map);
}

/** Counts the clusters that were found, in memory. */
function mark(map: Qcow2): bool {
  const cache = Cache.refcounts(map);
  const offset = map.workerStart << (<u64>map.clusterBits);
  const bytes = map.workerCount << (<u64>map.clusterBits);
  const isTaken =
    overlapsFixed(map, offset, bytes) ||
    overlapsTables(map, offset, bytes) ||
    isMapped(map, offset, bytes);
  if (isTaken) {
    if (map.workerBlocks != 0) forgetSlice(map, cache, map.workerSlot);
    markCorrupt(map, CORRUPT_OVERLAP, offset, 0);
    return failWith(map, ERRNO_EIO);
  }
  Slice.at(map, cache, map.workerSlot).pins += 1;
  setCounts(map, map.workerStart, 1);
  map.workerPhase = EXTEND;
  return true;
}

/** Sets the refcounts of the clusters that were found, from `first` on. */
function setCounts(map: Qcow2, first: u64, value: u64): void {
  const end = map.workerStart + map.workerCount;
  for (let i = first; i < end; i++) setRefcount(map, map.workerSlot, i, value);
}

/** R1: the file holds the clusters. */
function extend(map: Qcow2): bool {
  const end = (map.workerStart + map.workerCount) << (<u64>map.clusterBits);
  map.workerPhase = ZERO;
  map.workerOldEnd = map.fileBytes;
  if (end <= map.fileBytes) return true;
  map.workerNewEnd = end;
  workerOrder(map, COMMAND_EXTEND, 0, end, 0);
  return true;
}

/** R2: what was inside the file already reads as zeroes. */
function zero(map: Qcow2): bool {
  if (map.workerNewEnd != 0) {
    map.fileBytes = map.workerNewEnd;
    map.workerNewEnd = 0;
  }
  const start = map.workerStart << (<u64>map.clusterBits);
  const end = (map.workerStart + map.workerCount) << (<u64>map.clusterBits);
  const old = map.has(MAP_NO_HOLES) ? end : min(end, map.workerOldEnd);
  map.workerPhase = COUNT;
  if (old <= start) return true;
  map.workerLeft += 1;
  const io = order(map, COMMAND_WRITE_ZEROES, FILE_IMAGE, start, old - start, 0, IO_WORKER, 0);
  io.flags = COMMAND_MAY_UNMAP;
  return true;
}

function writeCounts(map: Qcow2): bool {
  const cache = Cache.refcounts(map);
  const slice = Slice.at(map, cache, map.workerSlot);
  if (slice.writing) return false;
  map.workerPhase = COUNTED;
  const at = cache.dataAt + (map.workerSlot << cache.sliceBits);
  workerOrder(map, COMMAND_WRITE, slice.key, (<u64>1) << (<u64>cache.sliceBits), at);
  slice.writing = 1;
  if (VERIFY) verify(slice.dirty != 0);
  slice.dirty = 0;
  cache.dirty -= 1;
  return true;
}

/** R3: the table points to the new block. */
function link(map: Qcow2): bool {
  const block = newBlock(map);
  const entry = map.place(map.tableAt) + ((<usize>block) << 3);
  map.tableUsed = max(map.tableUsed, block + 1);
  store<u64>(entry, bswap<u64>(map.workerStart << (<u64>map.clusterBits)));
  writeEntry(map, block);
  map.workerPhase = LINKED;
  return true;
}

/** Writes the sector of the refcount table that has the entry of a block. */
function writeEntry(map: Qcow2, block: u32): void {
  const sector = ((<u64>block) << 3) & ~(TABLE_SECTOR - 1);
  const length = min(TABLE_SECTOR, ((<u64>map.tableEntries) << 3) - sector);
  workerOrder(map, COMMAND_WRITE, map.tableOffset + sector, length, map.tableAt + <u32>sector);
}

/** Index of the block that the first of the clusters is for. */
function newBlock(map: Qcow2): u32 {
  return <u32>(map.workerStart >> <u64>map.blockCountBits);
}

function endReserve(map: Qcow2): bool {
  unpin(map);
  const block = <u64>map.workerBlocks;
  addReserved(map, map.workerStart + block, map.workerCount - block);
  if (map.workerJumped == 0) map.searchCluster = map.workerStart + map.workerCount;
  map.reserveSize = map.reserveNext;
  map.reserveNext = min(map.reserveNext * 2, map.reserveClusters);
  map.reserveWanted = 0;
  map.countReserves += 1;
  map.workerTask = TASK_NONE;
  wake(map, WAIT_SPACE, 0);
  return true;
}

/** R5. */
function failReserve(map: Qcow2): bool {
  const cache = Cache.refcounts(map);
  if (map.workerPhase > SEARCH) {
    const slice = Slice.at(map, cache, map.workerSlot);
    unpin(map);
    slice.writing = 0;
    if (map.workerBlocks == 0) setCounts(map, map.workerStart, 0);
    else if (map.workerPhase >= LINKED) {
      map.unlinked = newBlock(map) + 1; // R6
      setCounts(map, map.workerStart + 1, 0);
    } else {
      if (slice.dirty) cache.dirty -= 1;
      forgetSlice(map, cache, map.workerSlot);
    }
  }
  const lacksRoom = map.workerNewEnd != 0 && map.workerErrno != ERRNO_EIO;
  const triesFewer = lacksRoom && map.reserveNext > 1;
  map.reserveWanted = 0;
  map.workerNewEnd = 0;
  map.workerFence = 0;
  map.workerTask = TASK_NONE;
  if (triesFewer) map.reserveNext = max(1, map.reserveNext >> FEWER_BITS);
  else wake(map, WAIT_SPACE, map.workerErrno);
  return triesFewer;
}

/** Others may have waited for its place in the cache. */
function unpin(map: Qcow2): void {
  Slice.at(map, Cache.refcounts(map), map.workerSlot).pins -= 1;
  wake(map, WAIT_IO, 0);
}

function failWith(map: Qcow2, errno: u32): bool {
  map.workerErrno = errno;
  return failReserve(map);
}
