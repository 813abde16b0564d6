// Flights take turns in loading slices, so that what one has loaded is there when it is used.
//
// V1  A flight loads only when it has a turn, or there is one left: all that have one can keep a
//     slice of each cache, and leave as many to others.
// V2  It keeps what it waits for, until it goes on or waits for something else.

import { Slice } from './cache.ts';
import { Job, WAIT_IO, WAIT_REFCOUNTS, WAIT_SLICE, WAIT_TURN, wake, wakeSome } from './job.ts';
import { Cache, Qcow2 } from './state.ts';

/** Where a reason to wait has its slot (job.ts). */
const SLOT_MASK: u32 = (1 << 24) - 1;

export function initTurns(map: Qcow2): void {
  map.turns = 0;
  map.turnLimit = max(1, min(map.l2Slices, map.refcountSlices) >> 1);
  map.mayLoad = 1;
}

/** A flight is about to ask for a piece. */
export function beginAsking(map: Qcow2, id: u32): void {
  map.mayLoad = u32(Job.at(map, id).hasTurn != 0 || map.turns < map.turnLimit);
}

/** It was answered that it has to wait for `reason` (V2). */
export function noteWait(map: Qcow2, id: u32, reason: u32): void {
  const kind = reason & ~SLOT_MASK;
  if (kind != WAIT_SLICE && kind != WAIT_REFCOUNTS) return endTurn(map, id);
  if (map.mayLoad == 0) return;
  const job = Job.at(map, id);
  if (!job.hasTurn) {
    job.hasTurn = 1;
    map.turns += 1;
  }
  const slot = reason & SLOT_MASK;
  if (kind == WAIT_SLICE) {
    letGo(map, Cache.l2(map), job.keptL2);
    job.keptL2 = slot + 1;
    Slice.at(map, Cache.l2(map), slot).kept += 1;
  } else {
    letGo(map, Cache.refcounts(map), job.keptRefcounts);
    job.keptRefcounts = slot + 1;
    Slice.at(map, Cache.refcounts(map), slot).kept += 1;
  }
}

/** The flight goes on, fails, or waits for something else. */
export function endTurn(map: Qcow2, id: u32): void {
  const job = Job.at(map, id);
  if (!job.hasTurn) return;
  letGo(map, Cache.l2(map), job.keptL2);
  letGo(map, Cache.refcounts(map), job.keptRefcounts);
  job.keptL2 = 0;
  job.keptRefcounts = 0;
  job.hasTurn = 0;
  map.turns -= 1;
  // Somebody may have found no room beside what was kept.
  wake(map, WAIT_IO, 0);
}

/** Those who wait for turns that are left go on. */
export function giveTurns(map: Qcow2): void {
  if (map.turns < map.turnLimit) wakeSome(map, WAIT_TURN, 0, map.turnLimit - map.turns);
}

function letGo(map: Qcow2, cache: Cache, kept: u32): void {
  if (kept != 0) Slice.at(map, cache, kept - 1).kept -= 1;
}
