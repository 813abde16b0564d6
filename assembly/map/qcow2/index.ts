// A qcow2 image as a mapping: what the pump calls.
//
//     plan       where the bytes of a flight are, or what it waits for    read, write, zero, status
//     answered   the host has answered an order                           io, tables, worker ...
//     step       what goes on by itself                                   writeback, worker

import { NONE } from '../../engine.ts';
import { Extent } from '../extent.ts';
import { initBuffers, plainAnswered } from './buffers.ts';
import { SLICE_VALID, Slice, forgetSlice, initCache } from './cache.ts';
import { fillAnswered } from './fill.ts';
import { writeHeader } from './firewall.ts';
import { Free, firstIsDue, hasFreeRoom, initFrees, returnClusters } from './frees.ts';
import { initGranules } from './granules.ts';
import {
  IO_BUFFER,
  IO_COPY,
  IO_CYCLE,
  IO_FILL,
  IO_HEADER,
  IO_LOAD_L2,
  IO_LOAD_REFCOUNTS,
  Io,
  closeIo,
  initIos,
} from './io.ts';
import {
  WAIT_FREE,
  WAIT_IO,
  WAIT_REFCOUNTS,
  WAIT_SLICE,
  initJobs,
  isAwaited,
  oldestOpen,
  wake,
} from './job.ts';
import { chunksOf, layOut } from './layout.ts';
import { planRead } from './read.ts';
import { takeRun, taken } from './reserve.ts';
import { CHUNK_SIZE, CLOSING, Cache, Qcow2, L1_CHUNK_BITS, TABLE_REWRITTEN } from './state.ts';
import { planStatus } from './status.ts';
import { copyAnswered } from './tables.ts';
import { workerAnswered } from './task.ts';
import { giveTurns, initTurns } from './turns.ts';
import { stepWorker } from './worker.ts';
import { planWrite } from './write.ts';
import { cycleAnswered, hasChanges, stepCycle } from './writeback.ts';
import { WISH_DISCARD, WISH_FAST, WISH_UNMAP, planZero } from './zero.ts';
import { COMMAND_READ } from '../../../src/abi/command.ts';
import { FREE_RUNS, MAP_CONFIG_SIZE, MAP_L1_AT } from '../../../src/abi/map.ts';
import {
  OP_BLOCK_STATUS,
  OP_DISCARD,
  OP_READ,
  OP_WRITE,
  REQUEST_FAST_ZERO,
  REQUEST_MAY_UNMAP,
} from '../../../src/abi/request.ts';

/** Clusters that are reserved at first: this many, or this many bytes, whichever is more. */
const FIRST_RESERVE: u32 = 64;
const FIRST_RESERVE_BITS: u32 = 20;

/** Fills in the places of a region whose configuration is written; returns its bytes, or 0. */
export function measureMap(map: Qcow2): u32 {
  return layOut(map);
}

/** Makes a mapping of a region that is laid out. L1 and refcount table are filled by the host. */
export function initQcow2(map: Qcow2): void {
  map.corrupt = 0;
  memory.fill(changetype<usize>(map) + MAP_CONFIG_SIZE, 0, MAP_L1_AT - MAP_CONFIG_SIZE);
  const state = offsetof<Qcow2>('countL2Hits');
  const geometry = offsetof<Qcow2>('clusterBytes');
  memory.fill(changetype<usize>(map) + state, 0, geometry - state);
  const jobs = offsetof<Qcow2>('parkedHead');
  memory.fill(changetype<usize>(map) + jobs, 0, offsetof<Qcow2>() - jobs);
  // The host fills in what the file has; the rest may be written, too.
  memory.fill(map.place(map.tableAt), 0, (<usize>map.tableRoom) << 3);
  memory.fill(map.place(map.l1At), 0, (<usize>chunksOf(map)) << L1_CHUNK_BITS);
  map.workerAwaits = NONE;
  // What an earlier process has written is not stable yet (schedule/flush.ts, F7).
  map.writtenGeneration = 1;
  initJobs(map);
  initTurns(map);
  initIos(map);
  initFrees(map);
  initGranules(map);
  initBuffers(map);
  initCache(map, Cache.l2(map), IO_LOAD_L2);
  initCache(map, Cache.refcounts(map), IO_LOAD_REFCOUNTS);
  memory.fill(map.place(map.chunksAt), 0, <usize>chunksOf(map) * CHUNK_SIZE);
  const byBytes: u32 =
    map.clusterBits < FIRST_RESERVE_BITS ? 1 << (FIRST_RESERVE_BITS - map.clusterBits) : 1;
  map.reserveNext = max(1, min(max(FIRST_RESERVE, byBytes), map.reserveClusters));
}

/** What the first of `length` bytes at `guest` need; the answer is in `extent`. */
export function plan(
  map: Qcow2,
  extent: Extent,
  id: u32,
  op: i32,
  flags: i32,
  guest: u64,
  length: u64,
  table: usize,
): void {
  extent.value = 0;
  switch (op) {
    case OP_READ:
      return planRead(map, extent, id, guest, length);
    case OP_WRITE:
      return planWrite(map, extent, id, guest, length, false);
    case OP_BLOCK_STATUS:
      return planStatus(map, extent, guest, length, table);
    default: {
      let wish: u32 = op == OP_DISCARD ? WISH_DISCARD : 0;
      if ((flags & REQUEST_MAY_UNMAP) != 0) wish |= WISH_UNMAP;
      if ((flags & REQUEST_FAST_ZERO) != 0) wish |= WISH_FAST;
      return planZero(map, extent, id, guest, length, wish);
    }
  }
}

/** True when an order changes what the file reads as; zeroes over zeroes do not (tables.ts, T2). */
export function changesFile(map: Qcow2, id: u32): bool {
  const io = Io.at(map, id);
  return io.op != <u32>COMMAND_READ && !(io.purpose == IO_COPY && map.copyFrom == 0);
}

/** The host has answered an order. */
export function answered(map: Qcow2, id: u32, errno: u32): void {
  const io = Io.at(map, id);
  const arg = io.arg;
  const purpose = io.purpose;
  closeIo(map, id);
  switch (purpose) {
    case IO_LOAD_L2:
      sliceAnswered(map, Cache.l2(map), arg, errno);
      wake(map, WAIT_SLICE | arg, errno);
      break;
    case IO_LOAD_REFCOUNTS:
      sliceAnswered(map, Cache.refcounts(map), arg, errno);
      if (errno != 0 && arg == map.workerAwaits) map.loadErrno = errno;
      wake(map, WAIT_REFCOUNTS | arg, errno);
      break;
    case IO_BUFFER:
      plainAnswered(map, arg, errno);
      break;
    case IO_FILL:
      fillAnswered(map, arg, errno);
      break;
    case IO_CYCLE:
      cycleAnswered(map, arg, errno);
      break;
    case IO_COPY:
      copyAnswered(map, errno);
      break;
    case IO_HEADER:
      map.headerBusy = 0;
      map.headerHeld = u32(errno != 0);
      if (errno != 0) map.headerDirty = 1;
      else if (map.tableUnsure != 0) map.tableUnsure = TABLE_REWRITTEN;
      break;
    default:
      workerAnswered(map, errno);
  }
  wake(map, WAIT_IO, 0);
}

/** Does what goes on by itself: writes back, reserves, releases. */
export function step(map: Qcow2): void {
  map.mayLoad = 1;
  giveTurns(map);
  if (map.closing != 0) giveUpReserve(map);
  if (map.freeHead != NONE) map.oldestFlight = oldestOpen(map);
  if (isAwaited(map, WAIT_FREE) && map.changes != map.written) map.cycleWanted = 1;
  if (map.writeNow != 0 || map.closing == CLOSING) {
    map.writeNow = 0;
    if (map.changes != map.written) map.cycleWanted = 1;
  }
  stepAll(map);
  if (map.closing == CLOSING && isSettled(map) && Cache.refcounts(map).dirty != 0) {
    map.cycleWanted = 1;
    stepAll(map);
  }
  writeHeader(map);
  // The refcounts of a corrupt image are left alone.
  const settled = isSettled(map) && Cache.refcounts(map).dirty == 0 && map.freeHead == NONE;
  const owes = map.corrupt == 0 && !settled;
  map.dirty = u32(owes || hasChanges(map) || map.ioOpen != 0 || map.headerDirty != 0);
}

/** What one has done may be what the other has waited for. */
function stepAll(map: Qcow2): void {
  for (let goes: bool = true; goes;) {
    goes = stepWorker(map);
    if (stepCycle(map)) goes = true;
  }
}

/** The generation that must become stable for somebody to go on, or 0. */
export function wantedFence(map: Qcow2): u64 {
  if (map.noFlush != 0) return 0;
  const wanted = max(map.cycleFence, map.workerFence);
  if (map.freeHead == NONE || firstIsDue(map) || hasChanges(map)) return wanted;
  const isPressed =
    map.closing != 0 || isAwaited(map, WAIT_FREE) || map.freeCount > <u32>FREE_RUNS / 2;
  const isWritten = Free.at(map, map.freeHead).change <= map.written;
  return isPressed && isWritten ? max(wanted, map.writtenGeneration) : wanted;
}

/** Microseconds after which a change is too old (writeback.ts, K5), or `never`. */
export function nextCycle(map: Qcow2, never: u32): u32 {
  const isIdle = map.dirtySince == 0 || map.cyclePhase != 0 || map.latched != 0;
  if (map.flushInterval == 0 || isIdle) return never;
  const age = min(map.now + 1 - map.dirtySince, <u64>map.flushInterval - 1);
  return map.flushInterval - <u32>age;
}

/** True when every change of the tables is in the file. */
export function isWritten(map: Qcow2): bool {
  return map.changes == map.written;
}

/** Somebody waits for that; true when a cycle begins for it. */
export function wantWritten(map: Qcow2): bool {
  if (map.cyclePhase != 0 || map.cycleWanted != 0) return false;
  map.cycleWanted = 1;
  return true;
}

function isSettled(map: Qcow2): bool {
  return map.workerTask == 0 && !firstIsDue(map) && (map.closing == 0 || map.reservedRuns == 0);
}

/** What nothing points to goes back before the image is closed. */
function giveUpReserve(map: Qcow2): void {
  while (map.reservedRuns != 0 && hasFreeRoom(map, 1)) {
    const count = takeRun(map);
    map.countAllocated -= count;
    returnClusters(map, taken(map), count);
  }
}

function sliceAnswered(map: Qcow2, cache: Cache, slot: u32, errno: u32): void {
  if (errno != 0) forgetSlice(map, cache, slot);
  else Slice.at(map, cache, slot).state = SLICE_VALID;
}
