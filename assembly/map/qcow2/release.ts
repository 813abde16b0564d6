// Lowering the refcounts of what was dropped (frees.ts, D1): a task of the worker.
//
// L1  A cluster whose refcount comes to 0 is given back to the host, where that is asked for,
//     before anybody can reserve it: no late hole hits a new owner. That it cannot be is no
//     failure.
// L2  A refcount of 0 is not lowered, nor that of metadata: the image is corrupt.
// L3  Refcounts that cannot be read are not asked for again and again.

import { markCorrupt, overlapsFixed, overlapsTables } from './firewall.ts';
import { NONE } from '../../engine.ts';
import { Free, closeFirst, firstIsDue } from './frees.ts';
import { hasIo } from './io.ts';
import { WAIT_FREE, wake } from './job.ts';
import {
  REFCOUNTS_THERE,
  REFCOUNTS_WAIT,
  findRefcounts,
  refcountOf,
  setRefcount,
} from './refcounts.ts';
import { Qcow2 } from './state.ts';
import { TASK_NONE, workerOrder } from './task.ts';
import { COMMAND_DISCARD } from '../../../src/abi/command.ts';
import { CORRUPT_REFCOUNT, MAP_PUNCH } from '../../../src/abi/map.ts';

/** True when a run may be released. */
export function isReleaseDue(map: Qcow2): bool {
  return map.releaseHeld == 0 && firstIsDue(map);
}

/** Begins with the first run. */
export function startRelease(map: Qcow2): void {
  const free = Free.at(map, map.freeHead);
  map.workerStart = free.start;
  map.workerCount = free.count;
  map.workerAt = 0;
  map.punchCount = 0;
}

/** Lowers refcounts until one has to be loaded, a hole is made, or the run is done. */
export function stepRelease(map: Qcow2): bool {
  map.workerErrno = 0;
  if (map.loadErrno != 0) return putOff(map, map.loadErrno);
  while (map.workerAt < map.workerCount) {
    if (!hasIo(map)) return false;
    const cluster = map.workerStart + map.workerAt;
    const found = findRefcounts(map, cluster);
    map.workerAwaits = found == REFCOUNTS_WAIT ? map.foundSlot : NONE;
    if (found == REFCOUNTS_WAIT) return false;
    const count = found == REFCOUNTS_THERE ? refcountOf(map, map.foundSlot, cluster) : 0;
    if (count == 0 || holdsMetadata(map, cluster)) {
      markCorrupt(map, CORRUPT_REFCOUNT, count, cluster << (<u64>map.clusterBits)); // L2
      map.workerAt += 1;
      continue;
    }
    if (count == 1 && !addHole(map, cluster)) return true;
    setRefcount(map, map.foundSlot, cluster, count - 1);
    map.workerAt += 1;
  }
  if (map.punchCount != 0) {
    punch(map);
    return true;
  }
  closeFirst(map);
  map.workerTask = TASK_NONE;
  // Who found no room in the list has some now.
  wake(map, WAIT_FREE, 0);
  return true;
}

/** L3: refcounts that cannot be read are tried again after the next cycle. */
function putOff(map: Qcow2, errno: u32): bool {
  const free = Free.at(map, map.freeHead);
  free.start += map.workerAt;
  free.count -= <u32>map.workerAt;
  map.loadErrno = 0;
  map.punchCount = 0;
  map.releaseHeld = 1;
  map.workerTask = TASK_NONE;
  wake(map, WAIT_FREE, errno);
  return false;
}

/** What an entry of a damaged image has pointed to may be a table. */
function holdsMetadata(map: Qcow2, cluster: u64): bool {
  const offset = cluster << (<u64>map.clusterBits);
  return (
    overlapsFixed(map, offset, map.clusterBytes) || overlapsTables(map, offset, map.clusterBytes)
  );
}

/** L1: the cluster is about to become free; false when a hole must be made before. */
function addHole(map: Qcow2, cluster: u64): bool {
  if (map.has(MAP_PUNCH)) {
    if (map.punchCount != 0 && map.punchStart + map.punchCount != cluster) {
      punch(map);
      return false;
    }
    if (map.punchCount == 0) map.punchStart = cluster;
    map.punchCount += 1;
  }
  map.countFreed += 1;
  map.searchCluster = min(map.searchCluster, cluster);
  return true;
}

function punch(map: Qcow2): void {
  const offset = map.punchStart << (<u64>map.clusterBits);
  workerOrder(map, COMMAND_DISCARD, offset, map.punchCount << (<u64>map.clusterBits), 0);
  map.punchCount = 0;
}
