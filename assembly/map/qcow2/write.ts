// Writing: in place where the cluster is the guest's alone, and else by a job that gives the
// guest's clusters a place.
//
// N1  In place: the cluster has data of its own, and nobody else refers to it.
// N2  A job's clusters are new ones, neighbours on the host, from the reserve; or the ones that
//     their entries name already, when those are theirs alone (zero clusters with a place, clusters
//     with subclusters that have none of their own yet).
// N3  What a new cluster must hold around the data is read from where the guest sees it now, and is
//     written with the data, in one command. Where that reads as zeroes and so does the new
//     cluster, nothing is written around the data.
// N4  The entries change when the host has answered the write. They may be written to the file
//     before the data is stable only when the guest's range read as zeroes before, and the new
//     clusters read as zeroes until they are written (worker.ts, R2); else after it (section 9).
// N5  When the write fails nothing has changed: new clusters are given back.
// N6  What the entries pointed to before is dropped with the change (frees.ts, D1).

import { ERRNO_EIO } from '../../../src/abi/command.ts';
import {
  MAP_BACKING,
  MAP_CIPHERED,
  MAP_DATA_FILE,
  MAP_EXTENDED_L2,
  MAP_READ_ONLY,
} from '../../../src/abi/map.ts';
import { NONE } from '../../engine.ts';
import { Extent, EXTENT_NEW } from '../extent.ts';
import { areFree, bufferAt, lendBuffer, returnBuffer } from './buffers.ts';
import { Slice } from './cache.ts';
import { CLEAR, CLEAR_WAITS, clearanceOf, clearanceReason, clearanceToDrop } from './clearance.ts';
import {
  bitmapAt,
  entryAt,
  holdsData,
  isOwned,
  NORMAL,
  OFFSET_MASK,
  showsBacking,
  typeOf,
  wrongWith,
} from './entry.ts';
import { fill } from './fill.ts';
import { markCorrupt } from './firewall.ts';
import { hasFreeRoom, returnClusters } from './frees.ts';
import { hasIo } from './io.ts';
import {
  enterJob,
  Job,
  JOB_FILLING,
  JOB_WRITING,
  leaveJob,
  unheldClusters,
  WAIT_ANY_BUFFER,
  WAIT_FREE,
  WAIT_FILL,
  WAIT_IO,
  WAIT_JOB,
  WAIT_SPACE,
  wake,
} from './job.ts';
import { linkEntries } from './link.ts';
import { answerError, answerHost, answerWait, dataFile, runBytes, subclusterOf } from './read.ts';
import { takeClusters, taken } from './reserve.ts';
import { Cache, Qcow2, Spot } from './state.ts';
import { entryAddress, FOUND, locateToChange, spotAddress, WAITS } from './tables.ts';

/**
 * Where the first of `length` bytes at `guest` are to be written, for the flight `id`. With `zero`
 * they are zeroes.
 */
export function planWrite(
  map: Qcow2,
  extent: Extent,
  id: u32,
  guest: u64,
  length: u64,
  zero: bool,
): void {
  const job = Job.at(map, id);
  if (job.state == JOB_FILLING) return goOn(map, extent, id);
  if (map.corrupt != 0 || map.has(MAP_READ_ONLY)) return answerError(extent, ERRNO_EIO);
  const found = locateToChange(map, guest);
  if (found != FOUND) return answerNotFound(map, extent, found);
  const address = spotAddress(map, 0);
  const entry = entryAt(address);
  const bitmap = bitmapAt(map, address);
  const within = guest & (map.clusterBytes - 1);
  if (isWrong(map, entry, bitmap, guest)) return answerError(extent, ERRNO_EIO);
  const type = typeOf(map, entry, bitmap, subclusterOf(map, within));
  if (type == NORMAL && isOwned(map, entry)) {
    return writeOwned(map, extent, entry, bitmap, guest, length);
  }
  planJob(map, extent, id, guest, length, zero);
}

/** What `locateToChange` says instead of an entry. */
export function answerNotFound(map: Qcow2, extent: Extent, found: u32): void {
  const spot = Spot.of(map);
  if (found == WAITS) answerWait(extent, spot.wait);
  else answerError(extent, spot.errno);
}

/** True, and the image is marked corrupt, when an entry cannot be. */
export function isWrong(map: Qcow2, entry: u64, bitmap: u64, guest: u64): bool {
  const wrong = wrongWith(map, entry, bitmap, guest & ~(map.clusterBytes - 1));
  if (wrong != 0) markCorrupt(map, wrong, entry, guest);
  return wrong != 0;
}

/** A cluster may not be written, or not yet. */
export function answerUnclear(map: Qcow2, extent: Extent, clearance: u32): void {
  if (clearance == CLEAR_WAITS) answerWait(extent, clearanceReason(map));
  else answerError(extent, ERRNO_EIO);
}

/** Writes in place (N1), to as many clusters as may be written. */
function writeOwned(
  map: Qcow2,
  extent: Extent,
  entry: u64,
  bitmap: u64,
  guest: u64,
  length: u64,
): void {
  const within = guest & (map.clusterBytes - 1);
  const bytes = runBytes(map, entry, bitmap, NORMAL, guest, length);
  const clusters = <u32>((within + bytes + map.clusterBytes - 1) >> <u64>map.clusterBits);
  let ahead: u32 = 0;
  for (; ahead < clusters; ahead++) {
    const host = entry + ((<u64>ahead) << (<u64>map.clusterBits));
    const clearance = clearanceOf(map, ahead, host, guest);
    if (clearance == CLEAR) continue;
    if (ahead != 0) break;
    return answerUnclear(map, extent, clearance);
  }
  extent.length = min(bytes, ((<u64>ahead) << (<u64>map.clusterBits)) - within);
  answerHost(map, extent, (entry & OFFSET_MASK) + within);
}

/** Begins a job (N2); answers when it can do without reading, else when `fill` is done. */
function planJob(map: Qcow2, extent: Extent, id: u32, guest: u64, length: u64, zero: bool): void {
  const spot = Spot.of(map);
  const job = Job.at(map, id);
  const cluster = guest >> <u64>map.clusterBits;
  const within = guest & (map.clusterBytes - 1);
  const most = min(
    <u64>spot.left,
    (within + length + map.clusterBytes - 1) >> <u64>map.clusterBits,
  );
  const free = unheldClusters(map, cluster, most);
  if (free == 0) return answerWait(extent, WAIT_JOB);
  if (!hasIo(map)) return answerWait(extent, WAIT_IO);
  const first = entryAt(spotAddress(map, 0));
  const clearance = clearanceToDrop(map, 0, first, guest);
  if (clearance != CLEAR) return answerUnclear(map, extent, clearance);
  job.isNew = u32(!map.has(MAP_DATA_FILE) && !isOwned(map, first));
  job.zero = u32(zero);
  job.errno = 0;
  job.guest = guest;
  job.slot = spot.slot;
  job.index = spot.index;
  job.clusters = zero ? 1 : likeFirst(map, job, <u32>free);
  if (!hasFreeRoom(map, job.clusters * 2)) return answerWait(extent, WAIT_FREE);
  if (!place(map, extent, job, length)) return;
  job.promise = job.clusters * 2;
  map.freePromised += job.promise;
  Slice.at(map, Cache.l2(map), job.slot).pins += 1;
  job.state = JOB_FILLING;
  job.fillPending = 0;
  job.fillAt = job.guest - job.headBytes;
  enterJob(map, id);
  goOn(map, extent, id);
}

/** Clusters from the first on, at most `most`, that can be one job with it. */
function likeFirst(map: Qcow2, job: Job, most: u32): u32 {
  const first = entryAt(spotAddress(map, 0)) & OFFSET_MASK;
  let clusters: u32 = 1;
  for (; clusters < most; clusters++) {
    const address = spotAddress(map, clusters);
    const entry = entryAt(address);
    const bitmap = bitmapAt(map, address);
    const guest = job.guest + ((<u64>clusters) << (<u64>map.clusterBits));
    if (wrongWith(map, entry, bitmap, guest & ~(map.clusterBytes - 1)) != 0) break;
    if (job.isNew != 0 && isOwned(map, entry)) break;
    if (job.isNew != 0) continue;
    if (!map.has(MAP_DATA_FILE) && !isOwned(map, entry)) break;
    // In place where all of it is data already: that is no job.
    if (holdsData(map, entry, bitmap) && !map.has(MAP_EXTENDED_L2)) break;
    const offset = first + ((<u64>clusters) << (<u64>map.clusterBits));
    if (!map.has(MAP_DATA_FILE) && (entry & OFFSET_MASK) != offset) break;
    if (clearanceToDrop(map, clusters, entry, guest) != CLEAR) break;
  }
  return clusters;
}

/** Settles where the job writes and what around; false, and answered, when it must wait. */
function place(map: Qcow2, extent: Extent, job: Job, length: u64): bool {
  const cluster = map.clusterBytes;
  const within = job.guest & (cluster - 1);
  job.length = min(length, ((<u64>job.clusters) << (<u64>map.clusterBits)) - within);
  measureAround(map, job);
  // Buffers first: clusters that were taken would have to be given back.
  if (!takeBuffers(map, job)) {
    answerWait(extent, WAIT_ANY_BUFFER);
    return false;
  }
  if (job.isNew == 0) {
    // In a data file everything has the guest's offset.
    const start = map.has(MAP_DATA_FILE)
      ? job.guest - within
      : entryAt(spotAddress(map, 0)) & OFFSET_MASK;
    job.host = start + within;
    return true;
  }
  const count = takeClusters(map, job.clusters);
  if (count == 0) {
    giveBuffers(map, job);
    answerWait(extent, WAIT_SPACE);
    return false;
  }
  job.host = taken(map) + within;
  if (count == job.clusters) return true;
  giveBuffers(map, job);
  job.clusters = count;
  job.length = min(job.length, ((<u64>count) << (<u64>map.clusterBits)) - within);
  measureAround(map, job);
  // At most as many as before, which were free a moment ago.
  return takeBuffers(map, job);
}

/** N3, N4: what is around the data, and what the data must be stable before. */
function measureAround(map: Qcow2, job: Job): void {
  const end = job.guest + job.length;
  const last = job.clusters - 1;
  const clean = job.isNew != 0 && !map.has(MAP_CIPHERED) && !map.has(MAP_DATA_FILE);
  const headUnit = unitOf(map, job, 0);
  const tailUnit = unitOf(map, job, last);
  job.whole = u32(headUnit > (<u64>1) << (<u64>map.unitBits));
  job.wholeLast = u32(tailUnit > (<u64>1) << (<u64>map.unitBits));
  const head = job.guest & (headUnit - 1);
  const tail = (tailUnit - (end & (tailUnit - 1))) & (tailUnit - 1);
  job.headBytes = clean && readsZero(map, job, 0) ? 0 : <u32>head;
  job.tailBytes = (clean && readsZero(map, job, last)) || endsInPlace(map, job) ? 0 : <u32>tail;
  job.ordered = u32(!clean);
  for (let i: u32 = 0; i < job.clusters && job.ordered == 0; i++) {
    job.ordered = u32(!readsZero(map, job, i));
  }
}

/** True when the last subcluster has data in place: others may be writing beside ours. */
function endsInPlace(map: Qcow2, job: Job): bool {
  if (job.isNew != 0) return false;
  const address = entryAddress(map, job.slot, job.index + job.clusters - 1);
  const within = (job.guest + job.length - 1) & (map.clusterBytes - 1);
  const subcluster = subclusterOf(map, within);
  return typeOf(map, entryAt(address), bitmapAt(map, address), subcluster) == NORMAL;
}

/**
 * Bytes of what a write fills whole: a subcluster; but a cluster whose data moves from another
 * place moves as a whole.
 */
function unitOf(map: Qcow2, job: Job, ahead: u32): u64 {
  const address = entryAddress(map, job.slot, job.index + ahead);
  const moves = job.isNew != 0 && holdsData(map, entryAt(address), bitmapAt(map, address));
  const bits = moves ? map.clusterBits : map.unitBits;
  return (<u64>1) << (<u64>bits);
}

/** True when all of a cluster reads as zeroes now. */
function readsZero(map: Qcow2, job: Job, ahead: u32): bool {
  const address = entryAddress(map, job.slot, job.index + ahead);
  const entry = entryAt(address);
  const bitmap = bitmapAt(map, address);
  if (holdsData(map, entry, bitmap)) return false;
  if (!map.has(MAP_BACKING) || !showsBacking(map, entry, bitmap)) return true;
  const guest = (job.guest & ~(map.clusterBytes - 1)) + ((<u64>ahead) << (<u64>map.clusterBits));
  return guest >= map.backingBytes;
}

/** One buffer when head and tail are of one cluster, else one for each. */
function takeBuffers(map: Qcow2, job: Job): bool {
  job.headBuffer = NONE;
  job.tailBuffer = NONE;
  if ((job.headBytes | job.tailBytes | job.zero) == 0) return true;
  const isOne = job.clusters == 1;
  const needed = isOne ? 1 : u32(job.headBytes != 0) + u32(job.tailBytes != 0);
  // Both or none: who gives one back wakes others, who would do the same.
  if (!areFree(map, needed)) return false;
  if (isOne || job.headBytes != 0) job.headBuffer = lendBuffer(map);
  if (isOne) job.tailBuffer = job.headBuffer;
  else if (job.tailBytes != 0) job.tailBuffer = lendBuffer(map);
  return true;
}

function giveBuffers(map: Qcow2, job: Job): void {
  if (job.headBuffer != NONE) returnBuffer(map, job.headBuffer);
  if (job.tailBuffer != NONE && job.tailBuffer != job.headBuffer) {
    returnBuffer(map, job.tailBuffer);
  }
  job.headBuffer = NONE;
  job.tailBuffer = NONE;
}

/** Reads what is around the data (N3); then the write can go out. */
function goOn(map: Qcow2, extent: Extent, id: u32): void {
  const job = Job.at(map, id);
  const isFilled = job.errno == 0 && fill(map, id);
  if (job.errno != 0 || (map.corrupt != 0 && job.fillPending == 0)) {
    const errno = job.errno != 0 ? job.errno : <u32>ERRNO_EIO;
    undo(map, id);
    return answerError(extent, errno);
  }
  if (!isFilled) {
    return answerWait(extent, job.fillPending != 0 ? WAIT_FILL | id : WAIT_IO);
  }
  const cluster = map.clusterBytes;
  job.state = JOB_WRITING;
  extent.kind = EXTENT_NEW;
  extent.file = dataFile(map);
  extent.length = job.length;
  extent.hostOffset = job.host - <u64>job.headBytes;
  extent.headBytes = job.headBytes;
  extent.tailBytes = job.tailBytes;
  extent.bare = job.zero;
  if (job.headBuffer != NONE) {
    const start = (job.guest - <u64>job.headBytes) & (cluster - 1);
    extent.head = <u32>(map.place(bufferAt(map, job.headBuffer)) + <usize>start);
  }
  if (job.tailBuffer != NONE) {
    const end = (job.guest + job.length) & (cluster - 1);
    extent.tail = <u32>(map.place(bufferAt(map, job.tailBuffer)) + <usize>end);
  }
  if (job.zero != 0) zeroData(map, extent, job);
  map.countCopiedBytes += <u64>job.headBytes + <u64>job.tailBytes;
}

/** The data of a job that writes zeroes stands in its buffer, between head and tail. */
function zeroData(map: Qcow2, extent: Extent, job: Job): void {
  const within = <usize>(job.guest & (map.clusterBytes - 1));
  memory.fill(map.place(bufferAt(map, job.headBuffer)) + within, 0, <usize>job.length);
  extent.head = <u32>(map.place(bufferAt(map, job.headBuffer)) + within) - job.headBytes;
  extent.headBytes = job.headBytes + <u32>job.length + job.tailBytes;
  extent.tailBytes = 0;
}

/** The host has answered the write of a job (N4, N5). */
export function jobAnswered(map: Qcow2, id: u32, errno: u32): void {
  const job = Job.at(map, id);
  if (errno != 0) return undo(map, id);
  linkEntries(map, job);
  end(map, id);
}

/** Gives up a job whose flight has failed elsewhere. */
export function abandonJob(map: Qcow2, id: u32): void {
  if (Job.at(map, id).state == JOB_FILLING) undo(map, id);
}

/** N5. */
function undo(map: Qcow2, id: u32): void {
  const job = Job.at(map, id);
  if (job.isNew != 0) {
    const first = job.host - (job.guest & (map.clusterBytes - 1));
    returnClusters(map, first, job.clusters);
  }
  end(map, id);
}

function end(map: Qcow2, id: u32): void {
  const job = Job.at(map, id);
  Slice.at(map, Cache.l2(map), job.slot).pins -= 1;
  map.freePromised -= job.promise;
  giveBuffers(map, job);
  leaveJob(map, id);
  wake(map, WAIT_JOB, 0);
  wake(map, WAIT_FREE, 0);
  wake(map, WAIT_IO, 0);
}
