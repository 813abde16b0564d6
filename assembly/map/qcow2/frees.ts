// References that were dropped, until the refcounts are lowered.
//
// D1  A refcount is lowered only when the entry that no longer points to the cluster is stable
//     (spec: section 9, edge 2), and when no flight is open that may still be reading there.
// D2  The list has room for whatever was begun: who may drop references keeps room before that.

import { FREE_RUNS } from '../../../src/abi/map.ts';
import { NONE } from '../../engine.ts';
import { VERIFY, verify } from '../../verify.ts';
import { FREE_SIZE, Qcow2 } from './state.ts';

/** Entries that no flight gets: a refcount table that grows gives the old one back, unasked. */
const GROWTHS: u32 = 4;

@unmanaged
export class Free {
  /** First cluster. */
  start: u64;
  /** Number of the change that dropped it, and of the youngest flight then. */
  change: u64;
  flight: u64;
  count: u32;
  next: u32;
  /** 1: L2 tables, which the L1 table in the file may still name. */
  isTable: u32;

  static at(map: Qcow2, run: u32): Free {
    if (VERIFY) verify(run < <u32>FREE_RUNS);
    return changetype<Free>(map.place(map.freesAt) + <usize>run * FREE_SIZE);
  }
}

if (offsetof<Free>() > <usize>FREE_SIZE) ERROR('Free');

export function initFrees(map: Qcow2): void {
  for (let run: u32 = 0; run < <u32>FREE_RUNS; run++) {
    Free.at(map, run).next = run + 1 < <u32>FREE_RUNS ? run + 1 : NONE;
  }
  map.freeSpare = 0;
  map.freeHead = NONE;
  map.freeTail = NONE;
  map.freeCount = 0;
  map.freePromised = 0;
  map.freeTables = 0;
}

/** D2: true when there is room for `runs` more, beside that of a refcount table that grows. */
export function hasFreeRoom(map: Qcow2, runs: u32): bool {
  return map.freeCount + map.freePromised + runs <= <u32>FREE_RUNS - GROWTHS;
}

/** The change that was just made dropped a reference to `count` clusters from `host` on. */
export function dropReference(map: Qcow2, host: u64, count: u32): void {
  append(map, host >> <u64>map.clusterBits, count, map.changes, 0);
}

/** The change that was just made dropped a reference to the L2 table at `host`. */
export function dropTable(map: Qcow2, host: u64): void {
  append(map, host >> <u64>map.clusterBits, 1, map.changes, 1);
}

/** True when a table that was dropped has bytes in common with a range. */
export function overlapsDropped(map: Qcow2, offset: u64, length: u64): bool {
  if (map.freeTables == 0) return false;
  const first = offset >> <u64>map.clusterBits;
  const last = (offset + length - 1) >> <u64>map.clusterBits;
  for (let run = map.freeHead; run != NONE; run = Free.at(map, run).next) {
    const free = Free.at(map, run);
    if (free.isTable && free.start <= last && first < free.start + free.count) return true;
  }
  return false;
}

/** Clusters that nothing has ever pointed to are given back. */
export function returnClusters(map: Qcow2, host: u64, count: u32): void {
  append(map, host >> <u64>map.clusterBits, count, 0, 0);
}

/** D1: the first run may be taken. */
export function firstIsDue(map: Qcow2): bool {
  if (map.freeHead == NONE) return false;
  const free = Free.at(map, map.freeHead);
  if (free.flight >= map.oldestFlight) return false;
  if (free.change == 0) return true;
  return free.change <= map.written && (map.noFlush != 0 || map.writtenGeneration <= map.proven);
}

/** Takes the first run off the list. */
export function closeFirst(map: Qcow2): void {
  const run = map.freeHead;
  const free = Free.at(map, run);
  map.freeHead = free.next;
  if (map.freeHead == NONE) map.freeTail = NONE;
  free.next = map.freeSpare;
  map.freeSpare = run;
  map.freeCount -= 1;
  map.freeTables -= free.isTable;
}

function append(map: Qcow2, start: u64, count: u32, change: u64, isTable: u32): void {
  if (map.freeTail != NONE) {
    const last = Free.at(map, map.freeTail);
    const isNext = last.start + last.count == start && last.count < 1 << 20;
    // What has been begun with is not changed any more.
    const isAlike = (last.change == 0) == (change == 0) && last.isTable == isTable;
    if (isNext && map.freeTail != map.freeHead && isAlike) {
      last.count += count;
      last.change = change;
      last.flight = map.youngestFlight;
      return;
    }
  }
  const run = map.freeSpare;
  if (VERIFY) verify(run != NONE);
  const free = Free.at(map, run);
  map.freeSpare = free.next;
  map.freeCount += 1;
  free.start = start;
  free.count = count;
  free.change = change;
  free.isTable = isTable;
  map.freeTables += isTable;
  free.flight = map.youngestFlight;
  free.next = NONE;
  if (map.freeTail == NONE) map.freeHead = run;
  else Free.at(map, map.freeTail).next = run;
  map.freeTail = run;
}
