// Clusters that are reserved: their refcount is 1, and that is stable; nothing points to them. Who
// needs a cluster takes one of these, and owes no ordering for its refcount any more (spec: section
// 9, edge 1). A crash leaves them behind as leaks.

import { VERIFY, verify } from '../../verify.ts';
import { Qcow2, RESERVED_TABLE, RUN_SIZE } from './state.ts';
import { SEARCH, TASK_GROW, TASK_RESERVE } from './task.ts';
import { RESERVED_RUNS } from '../../../src/abi/map.ts';

/** A run of reserved clusters. */
@unmanaged
export class ReservedRun {
  start: u64;
  count: u64;

  static at(map: Qcow2, run: u32): ReservedRun {
    return changetype<ReservedRun>(map.place(RESERVED_TABLE) + <usize>run * RUN_SIZE);
  }
}

if (offsetof<ReservedRun>() != <usize>RUN_SIZE) ERROR('ReservedRun');

/**
 * Takes up to `want` neighbouring clusters; returns how many, 0 when there are none: who waits for
 * WAIT_SPACE is told when there are.
 */
export function takeClusters(map: Qcow2, want: u32): u32 {
  if (map.reservedRuns == 0) {
    map.reserveWanted = 1;
    return 0;
  }
  const run = ReservedRun.at(map, 0);
  const count = min(want, <u32>run.count);
  map.takenStart = run.start;
  run.start += count;
  run.count -= count;
  map.reserved -= count;
  map.countAllocated += count;
  if (run.count == 0) dropFirst(map);
  if (map.reserved < map.reserveSize >> 1) map.reserveWanted = 1;
  return count;
}

/** Host offset of the first cluster that was taken last. */
export function taken(map: Qcow2): u64 {
  return map.takenStart << (<u64>map.clusterBits);
}

/** True when one more run can be held. */
export function hasReserveRoom(map: Qcow2): bool {
  return map.reservedRuns < <u32>RESERVED_RUNS;
}

/** Clusters from `start` on are reserved now. */
export function addReserved(map: Qcow2, start: u64, count: u64): void {
  map.reserved += <u32>count;
  if (map.reservedRuns != 0) {
    const last = ReservedRun.at(map, map.reservedRuns - 1);
    if (last.start + last.count == start) {
      last.count += count;
      return;
    }
  }
  if (VERIFY) verify(hasReserveRoom(map));
  const run = ReservedRun.at(map, map.reservedRuns);
  run.start = start;
  run.count = count;
  map.reservedRuns += 1;
}

/** Takes the first run as a whole out of the reserve; its clusters are the caller's. */
export function takeRun(map: Qcow2): u32 {
  return takeClusters(map, <u32>ReservedRun.at(map, 0).count);
}

function dropFirst(map: Qcow2): void {
  map.reservedRuns -= 1;
  const first = map.place(RESERVED_TABLE);
  memory.copy(first, first + RUN_SIZE, <usize>map.reservedRuns * RUN_SIZE);
}

/** True when a cluster is reserved, or about to be: no entry can call it its own. */
export function isReserved(map: Qcow2, cluster: u64): bool {
  for (let at: u32 = 0; at < map.reservedRuns; at++) {
    const run = ReservedRun.at(map, at);
    if (cluster - run.start < run.count) return true;
  }
  // A reserve or a growth that has found its clusters.
  const reserves = map.workerTask == TASK_RESERVE && map.workerPhase > SEARCH;
  if (!reserves && map.workerTask != TASK_GROW) return false;
  return cluster - map.workerStart < map.workerCount;
}
