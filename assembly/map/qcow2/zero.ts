// Write zeroes and discard.
//
// Z1  Whole clusters and subclusters become zero by their entries alone; version 2 has none that
//     say so, and a raw data file must hold the zeroes itself: there they are written.
// Z2  What a cluster takes is given up when it is discarded or may be unmapped, and when it is not
//     the guest's alone; else it keeps its place.
// Z3  A part of a cluster that does not read as zeroes is written like data. A discard of it does
//     nothing.
// Z4  A discarded cluster reads as zeroes, in version 3: the backing disk does not show again. What
//     is not allocated stays as it is.

import { ERRNO_EIO, ERRNO_ENOTSUP } from '../../../src/abi/command.ts';
import {
  MAP_BACKING,
  MAP_EXTENDED_L2,
  MAP_RAW_DATA_FILE,
  MAP_READ_ONLY,
  MAP_VERSION_2,
} from '../../../src/abi/map.ts';
import { Extent, EXTENT_NOTHING } from '../extent.ts';
import {
  ALL_SUBCLUSTERS,
  bitmapAt,
  COMPRESSED,
  entryAt,
  hasPlace,
  isOwned,
  NORMAL,
  PACKED,
  typeOf,
  UNALLOCATED,
  ZERO,
} from './entry.ts';
import { CLEAR, CLEAR_REFUSED, CLEAR_WAITS, clearanceToDrop } from './clearance.ts';
import { hasFreeRoom } from './frees.ts';
import { Job, JOB_FILLING, unheldClusters, WAIT_FREE, WAIT_JOB } from './job.ts';
import { dropPlace, noteChange } from './link.ts';
import { answerError, answerWait, subclusterOf } from './read.ts';
import { Qcow2, Spot } from './state.ts';
import { FOUND, locate, locateToChange, NO_TABLE, spotAddress, tableReach } from './tables.ts';
import { answerNotFound, answerUnclear, isWrong, planWrite } from './write.ts';

/** What is to happen to a range. */
export const WISH_DISCARD: u32 = 1;
export const WISH_UNMAP: u32 = 2;
export const WISH_FAST: u32 = 4;

/** What becomes of the first of `length` bytes at `guest`, for the flight `id`. */
export function planZero(
  map: Qcow2,
  extent: Extent,
  id: u32,
  guest: u64,
  length: u64,
  wish: u32,
): void {
  if (Job.at(map, id).state == JOB_FILLING) return planWrite(map, extent, id, guest, length, true);
  if (map.corrupt != 0 || map.has(MAP_READ_ONLY)) return answerError(extent, ERRNO_EIO);
  let found = locate(map, guest);
  if (found == NO_TABLE) {
    const shows = map.has(MAP_BACKING) && guest < map.backingBytes;
    if (!shows || (wish & WISH_DISCARD) != 0) {
      return answerNothing(extent, min(length, tableReach(map, guest)));
    }
  }
  if (found == NO_TABLE || found == FOUND) found = locateToChange(map, guest);
  if (found != FOUND) return answerNotFound(map, extent, found);
  const cluster = map.clusterBytes;
  const within = guest & (cluster - 1);
  if (unheldClusters(map, guest >> <u64>map.clusterBits, 1) == 0) {
    return answerWait(extent, WAIT_JOB);
  }
  if (within != 0 || length < cluster) {
    zeroPart(map, extent, id, guest, min(length, cluster - within), wish);
  } else if (!map.has(MAP_VERSION_2) && !map.has(MAP_RAW_DATA_FILE)) {
    zeroClusters(map, extent, guest, length, wish);
  } else zeroByData(map, extent, id, guest, wish);
}

function answerNothing(extent: Extent, length: u64): void {
  extent.kind = EXTENT_NOTHING;
  extent.length = length;
}

/** Z1: whole clusters, as many as one slice has and nobody holds. */
function zeroClusters(map: Qcow2, extent: Extent, guest: u64, length: u64, wish: u32): void {
  const spot = Spot.of(map);
  const most = min(<u64>spot.left, length >> <u64>map.clusterBits);
  const clusters = <u32>unheldClusters(map, guest >> <u64>map.clusterBits, most);
  let clearance = CLEAR;
  let done: u32 = 0;
  for (; done < clusters && hasFreeRoom(map, 2); done++) {
    const at = guest + ((<u64>done) << (<u64>map.clusterBits));
    const address = spotAddress(map, done);
    if (isWrong(map, entryAt(address), bitmapAt(map, address), at)) break;
    clearance = clearanceToDrop(map, done, entryAt(address), at);
    if (clearance != CLEAR) break;
    zeroCluster(map, address, at, wish);
  }
  if (done != 0) return answerNothing(extent, (<u64>done) << (<u64>map.clusterBits));
  if (map.corrupt != 0 || clearance == CLEAR_REFUSED) return answerError(extent, ERRNO_EIO);
  if (clearance == CLEAR_WAITS) return answerUnclear(map, extent, clearance);
  answerWait(extent, WAIT_FREE);
}

function zeroCluster(map: Qcow2, address: usize, guest: u64, wish: u32): void {
  const entry = entryAt(address);
  const extended = map.has(MAP_EXTENDED_L2);
  const bitmap = bitmapAt(map, address);
  const isFree = (entry & COMPRESSED) == 0 && !hasPlace(map, entry);
  const isBlank = extended ? bitmap == 0 : (entry & ZERO) == 0;
  if (isFree && isBlank) {
    const shows = map.has(MAP_BACKING) && guest < map.backingBytes;
    if (!shows || (wish & WISH_DISCARD) != 0) return; // Z4
  }
  const keeps = isOwned(map, entry) && (wish & (WISH_DISCARD | WISH_UNMAP)) == 0; // Z2
  const flag: u64 = extended ? 0 : ZERO;
  const next = keeps ? entry | flag : flag;
  const nextBitmap = ALL_SUBCLUSTERS << 32;
  if (next == entry && (!extended || bitmap == nextBitmap)) return;
  map.changes += 1;
  if (!keeps) dropPlace(map, entry);
  store<u64>(address, bswap<u64>(next));
  if (extended) store<u64>(address, bswap<u64>(nextBitmap), 8);
  noteChange(map, Spot.of(map).slot, 0);
}

/** Z1: one whole cluster, where entries cannot say that it is zero. */
function zeroByData(map: Qcow2, extent: Extent, id: u32, guest: u64, wish: u32): void {
  const cluster = map.clusterBytes;
  const address = spotAddress(map, 0);
  const entry = entryAt(address);
  if (isWrong(map, entry, bitmapAt(map, address), guest)) return answerError(extent, ERRNO_EIO);
  const isRaw = map.has(MAP_RAW_DATA_FILE);
  const discards = (wish & WISH_DISCARD) != 0;
  const unmaps = discards || ((wish & WISH_UNMAP) != 0 && !map.has(MAP_BACKING));
  const isFree = (entry & COMPRESSED) == 0 && !hasPlace(map, entry);
  if (isFree && (discards || (!isRaw && !map.has(MAP_BACKING)))) {
    return answerNothing(extent, cluster);
  }
  if (unmaps && !isRaw) {
    const clearance = clearanceToDrop(map, 0, entry, guest);
    if (clearance != CLEAR) return answerUnclear(map, extent, clearance);
    if (!hasFreeRoom(map, 2)) return answerWait(extent, WAIT_FREE);
    map.changes += 1;
    dropPlace(map, entry);
    store<u64>(address, 0);
    noteChange(map, Spot.of(map).slot, 0);
    return answerNothing(extent, cluster);
  }
  writeZeroes(map, extent, id, guest, cluster, wish);
}

/** A part of one cluster: Z3, and subclusters. */
function zeroPart(map: Qcow2, extent: Extent, id: u32, guest: u64, length: u64, wish: u32): void {
  const within = guest & (map.clusterBytes - 1);
  const address = spotAddress(map, 0);
  const entry = entryAt(address);
  const bitmap = bitmapAt(map, address);
  if ((wish & WISH_DISCARD) != 0) return answerNothing(extent, length);
  if (isWrong(map, entry, bitmap, guest)) return answerError(extent, ERRNO_EIO);
  const type = typeOf(map, entry, bitmap, subclusterOf(map, within));
  const unit = (<u64>1) << (<u64>map.unitBits);
  const isWhole = (guest & (unit - 1)) == 0 && length >= unit;
  const inUnit = min(length, unit - (guest & (unit - 1)));
  if (map.has(MAP_EXTENDED_L2) && isWhole && type != PACKED && !map.has(MAP_RAW_DATA_FILE)) {
    zeroSubclusters(map, address, bitmap, within, length & ~(unit - 1));
    return answerNothing(extent, length & ~(unit - 1));
  }
  const shows = type == UNALLOCATED && map.has(MAP_BACKING) && guest < map.backingBytes;
  const isZero = type != NORMAL && type != PACKED && !shows;
  if (isZero && !map.has(MAP_RAW_DATA_FILE)) answerNothing(extent, inUnit);
  else writeZeroes(map, extent, id, guest, inUnit, wish);
}

function zeroSubclusters(map: Qcow2, address: usize, bitmap: u64, within: u64, length: u64): void {
  const first = within >> <u64>map.unitBits;
  const count = length >> <u64>map.unitBits;
  const mask = (((<u64>1) << count) - 1) << first;
  const next = (bitmap & ~mask) | (mask << 32);
  if (next == bitmap) return;
  map.changes += 1;
  store<u64>(address, bswap<u64>(next), 8);
  noteChange(map, Spot.of(map).slot, 0);
}

/** Zeroes as data: by the host where the cluster is the guest's alone, else by a job. */
function writeZeroes(
  map: Qcow2,
  extent: Extent,
  id: u32,
  guest: u64,
  length: u64,
  wish: u32,
): void {
  const within = guest & (map.clusterBytes - 1);
  const address = spotAddress(map, 0);
  const entry = entryAt(address);
  const type = typeOf(map, entry, bitmapAt(map, address), subclusterOf(map, within));
  const isOwn = type == NORMAL && isOwned(map, entry);
  if (!isOwn && (wish & WISH_FAST) != 0) return answerError(extent, ERRNO_ENOTSUP);
  planWrite(map, extent, id, guest, length, true);
}
