// Whether the cluster of an entry may be written in place: the first time, it is looked at.
//
// O3  A cluster that an entry calls its own holds no metadata (firewall.ts, O1) and has refcount 1.
//     What is otherwise is refused, and the image marked corrupt (O2): somebody else would see the
//     write, or the cluster would be handed out a second time.

import { CORRUPT_REFCOUNT, MAP_DATA_FILE } from '../../../src/abi/map.ts';
import { NONE } from '../../engine.ts';
import { clear, isCleared } from './cache.ts';
import { COMPRESSED, hasPlace, isOwned, OFFSET_MASK } from './entry.ts';
import { markCorrupt, refusesData } from './firewall.ts';
import { WAIT_IO, WAIT_REFCOUNTS, WAIT_TURN } from './job.ts';
import {
  findRefcounts,
  refcountOf,
  REFCOUNTS_THERE,
  REFCOUNTS_WAIT,
  REFCOUNTS_WRONG,
} from './refcounts.ts';
import { isReserved } from './reserve.ts';
import { Qcow2, Spot } from './state.ts';

export const CLEAR: u32 = 0;
/** The refcount has to be loaded first. */
export const CLEAR_WAITS: u32 = 1;
export const CLEAR_REFUSED: u32 = 2;

/** What CLEAR_WAITS waits for. */
export function clearanceReason(map: Qcow2): u32 {
  if (map.foundSlot != NONE) return WAIT_REFCOUNTS | map.foundSlot;
  return map.mayLoad != 0 ? WAIT_IO : WAIT_TURN;
}

/** O1, O3, for the entry `ahead` of the one found, which is about to point elsewhere. */
export function clearanceToDrop(map: Qcow2, ahead: u32, entry: u64, guest: u64): u32 {
  if ((entry & COMPRESSED) != 0 || !hasPlace(map, entry)) return CLEAR;
  if (isOwned(map, entry)) return clearanceOf(map, ahead, entry, guest);
  const isRefused = refusesData(map, entry & OFFSET_MASK, map.clusterBytes, guest);
  return isRefused ? CLEAR_REFUSED : CLEAR;
}

/** O3, for the entry `ahead` of the one found; it says that its cluster is its own. */
export function clearanceOf(map: Qcow2, ahead: u32, entry: u64, guest: u64): u32 {
  const spot = Spot.of(map);
  const index = spot.index + ahead;
  if (map.has(MAP_DATA_FILE) || isCleared(map, spot.slot, index)) return CLEAR;
  const host = entry & OFFSET_MASK;
  if (refusesData(map, host, map.clusterBytes, guest)) return CLEAR_REFUSED;
  const cluster = host >> <u64>map.clusterBits;
  const found = findRefcounts(map, cluster);
  if (found == REFCOUNTS_WAIT) return CLEAR_WAITS;
  if (found == REFCOUNTS_WRONG) return CLEAR_REFUSED;
  const count = found == REFCOUNTS_THERE ? refcountOf(map, map.foundSlot, cluster) : 0;
  if (count != 1 || host >= map.fileBytes || isReserved(map, cluster)) {
    markCorrupt(map, CORRUPT_REFCOUNT, host, guest);
    return CLEAR_REFUSED;
  }
  clear(map, spot.slot, index);
  return CLEAR;
}
