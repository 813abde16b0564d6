// Writing metadata back: in cycles, each of which writes what was dirty when it began.
//
// K1  A slice is copied when its turn comes, and the copy is written: what changes meanwhile
//     belongs to the next cycle.
// K2  An entry whose data must be stable first (write.ts, N4) is written only after a sync that
//     covers the data (section 9, edges 3, 4 and 7). One sync serves all slices of a batch.
// K3  Refcounts may be written at any time: raised ones are stable before their clusters are taken
//     (worker.ts, R1), lowered ones come after their entries (frees.ts, D1).
// K4  A cycle has ended when every change up to its beginning is written; then one sync makes them
//     stable. What could not be written stays dirty, and who waited is told.
// K5  A cycle begins when a flush waits, when the cache has no room, and when a change is older
//     than the interval: a process that is killed loses no more than that.
//
//      IDLE ─▶ GATHER ─▶ (FENCE) ─▶ WRITING ─▶ GATHER ... ─▶ IDLE

import { COMMAND_WRITE, ERRNO_EIO } from '../../../src/abi/command.ts';
import { FILE_IMAGE, STAGED_SLICES } from '../../../src/abi/map.ts';
import { VERIFY, verify } from '../../verify.ts';
import { Slice, SLICE_VALID, sliceData } from './cache.ts';
import { hasIo, IO_CYCLE, order } from './io.ts';
import { WAIT_CYCLE, wake } from './job.ts';
import { chunksOf } from './layout.ts';
import { Cache, CLOSING_FAILED, L1_CHUNK_BITS, Qcow2, STAGED_SIZE } from './state.ts';
import { Chunk } from './tables.ts';

const IDLE: u32 = 0;
const GATHER: u32 = 1;
const FENCE: u32 = 2;
const WRITING: u32 = 3;

const OF_L2: u32 = 0;
const OF_REFCOUNTS: u32 = 1;
const OF_L1: u32 = 2;

/** A copy that is to be written. */
@unmanaged
class Staged {
  first: u64;
  need: u64;
  /** Slot of a cache, or chunk of the L1 table. */
  index: u32;
  kind: u32;

  static at(map: Qcow2, staged: u32): Staged {
    return changetype<Staged>(map.place(map.stagedAt) + <usize>staged * STAGED_SIZE);
  }
}

if (offsetof<Staged>() > <usize>STAGED_SIZE) ERROR('Staged');

/** True while a change waits to be written. */
export function hasChanges(map: Qcow2): bool {
  return map.changes != map.written || map.cyclePhase != IDLE;
}

/** Goes on with the cycle, or begins one; true when that was something. */
export function stepCycle(map: Qcow2): bool {
  let any: bool = false;
  noteAge(map);
  for (let goes: bool = true; goes;) {
    switch (map.cyclePhase) {
      case IDLE:
        goes = begin(map);
        break;
      case GATHER:
        goes = gather(map);
        break;
      case FENCE:
        goes = passFence(map);
        break;
      default:
        goes = send(map);
    }
    if (goes) any = true;
  }
  return any;
}

/** The host has answered the write of a copy. */
export function cycleAnswered(map: Qcow2, staged: u32, errno: u32): void {
  const copy = Staged.at(map, staged);
  if (copy.kind != OF_L1) {
    const slice = Slice.at(map, cacheOf(map, copy.kind), copy.index);
    slice.writing = 0;
  }
  if (errno != 0) {
    if (map.cycleErrno == 0) map.cycleErrno = errno;
    putBack(map, copy);
  }
  map.cycleLeft -= 1;
}

/** K5: the age of the oldest change. */
function noteAge(map: Qcow2): void {
  if (map.changes == map.written) map.dirtySince = 0;
  else if (map.dirtySince == 0) map.dirtySince = map.now + 1;
  else if (map.flushInterval != 0 && map.now + 1 - map.dirtySince >= <u64>map.flushInterval) {
    map.cycleWanted = 1;
  }
}

function begin(map: Qcow2): bool {
  if (map.cycleWanted == 0) return false;
  map.cycleWanted = 0;
  map.cycleErrno = 0;
  map.releaseHeld = 0;
  map.headerHeld = 0;
  map.cycleEnd = map.changes;
  map.cyclePhase = GATHER;
  map.countCycles += 1;
  return true;
}

/** K1: copies what is dirty since the beginning, as much as there is room for. */
function gather(map: Qcow2): bool {
  map.staged = 0;
  map.cycleFence = 0;
  map.stagedSent = 0;
  // After a failure the rest stays as it is: it will be tried again.
  if (map.cycleErrno == 0) {
    gatherCache(map, OF_L2);
    gatherChunks(map);
    gatherCache(map, OF_REFCOUNTS);
  }
  if (map.staged == 0) return finish(map);
  map.cyclePhase = FENCE;
  if (map.cycleFence > map.proven) map.countFences += 1;
  return true;
}

function gatherCache(map: Qcow2, kind: u32): void {
  const cache = cacheOf(map, kind);
  for (let slot: u32 = 0; slot < cache.slots && cache.dirty != 0; slot++) {
    const slice = Slice.at(map, cache, slot);
    if (slice.state != SLICE_VALID || !slice.dirty || slice.writing) continue;
    if (slice.first > map.cycleEnd || (kind == OF_REFCOUNTS && slice.pins != 0)) continue;
    if (map.staged == <u32>STAGED_SLICES) return;
    stage(
      map,
      kind,
      slot,
      slice.first,
      slice.need,
      sliceData(map, cache, slot),
      1 << cache.sliceBits,
    );
    slice.dirty = 0;
    slice.need = 0;
    slice.writing = 1;
    cache.dirty -= 1;
  }
}

function gatherChunks(map: Qcow2): void {
  const chunks = chunksOf(map);
  for (let index: u32 = 0; index < chunks && map.dirtyChunks != 0; index++) {
    const chunk = Chunk.at(map, index);
    if (chunk.first == 0 || chunk.first > map.cycleEnd) continue;
    if (map.staged == <u32>STAGED_SLICES) return;
    const data = map.place(map.l1At) + ((<usize>index) << L1_CHUNK_BITS);
    stage(map, OF_L1, index, chunk.first, chunk.need, data, 1 << L1_CHUNK_BITS);
    chunk.first = 0;
    chunk.need = 0;
    map.dirtyChunks -= 1;
  }
}

function stage(
  map: Qcow2,
  kind: u32,
  index: u32,
  first: u64,
  need: u64,
  data: usize,
  bytes: u32,
): void {
  const copy = Staged.at(map, map.staged);
  copy.first = first;
  copy.need = need;
  copy.index = index;
  copy.kind = kind;
  memory.copy(map.place(copyAt(map, map.staged)), data, <usize>bytes);
  if (need > map.cycleFence) map.cycleFence = need;
  map.staged += 1;
}

/** K2. */
function passFence(map: Qcow2): bool {
  if (map.noFlush == 0 && map.proven < map.cycleFence) {
    if (map.latched == 0) return false;
    // No sync succeeds any more: nothing may point to this data.
    map.cycleErrno = ERRNO_EIO;
    for (let i: u32 = 0; i < map.staged; i++) {
      const copy = Staged.at(map, i);
      if (copy.kind != OF_L1) Slice.at(map, cacheOf(map, copy.kind), copy.index).writing = 0;
      putBack(map, copy);
    }
    map.cyclePhase = GATHER;
  } else map.cyclePhase = WRITING;
  map.cycleFence = 0;
  return true;
}

/** Sends copies as long as orders can be made; true when all are answered. */
function send(map: Qcow2): bool {
  while (map.stagedSent < map.staged && hasIo(map)) {
    const copy = Staged.at(map, map.stagedSent);
    const at = copyAt(map, map.stagedSent);
    if (copy.kind == OF_L1) sendChunk(map, copy.index, at);
    else {
      const cache = cacheOf(map, copy.kind);
      const key = Slice.at(map, cache, copy.index).key;
      const bytes = (<u64>1) << (<u64>cache.sliceBits);
      order(map, COMMAND_WRITE, FILE_IMAGE, key, bytes, at, IO_CYCLE, map.stagedSent);
    }
    map.countMetadataWrites += 1;
    map.cycleLeft += 1;
    map.stagedSent += 1;
  }
  if (map.stagedSent < map.staged || map.cycleLeft != 0) return false;
  map.cyclePhase = GATHER;
  return true;
}

function sendChunk(map: Qcow2, index: u32, at: u32): void {
  const start = index << L1_CHUNK_BITS;
  const bytes = min<u32>(1 << L1_CHUNK_BITS, (map.l1Entries << 3) - start);
  order(map, COMMAND_WRITE, FILE_IMAGE, map.l1Offset + start, bytes, at, IO_CYCLE, map.stagedSent);
}

/** K4. */
function finish(map: Qcow2): bool {
  map.cyclePhase = IDLE;
  map.dirtySince = 0;
  map.lastErrno = map.cycleErrno;
  map.cyclesEnded += 1;
  if (map.cycleErrno != 0 && map.closing != 0) map.closing = CLOSING_FAILED;
  if (map.cycleErrno == 0) {
    map.written = map.cycleEnd;
    map.writtenGeneration = map.generation;
  }
  wake(map, WAIT_CYCLE, map.cycleErrno);
  return true;
}

/** What was copied and not written is dirty as it was. */
function putBack(map: Qcow2, copy: Staged): void {
  if (copy.kind == OF_L1) {
    const chunk = Chunk.at(map, copy.index);
    if (chunk.first == 0) map.dirtyChunks += 1;
    chunk.first = copy.first;
    chunk.need = max(chunk.need, copy.need);
    return;
  }
  const cache = cacheOf(map, copy.kind);
  const slice = Slice.at(map, cache, copy.index);
  if (VERIFY) verify(slice.state == SLICE_VALID);
  if (!slice.dirty) cache.dirty += 1;
  slice.dirty = 1;
  slice.first = copy.first;
  slice.need = max(slice.need, copy.need);
}

function cacheOf(map: Qcow2, kind: u32): Cache {
  return kind == OF_L2 ? Cache.l2(map) : Cache.refcounts(map);
}

/** Where a copy lies, from the base. */
function copyAt(map: Qcow2, staged: u32): u32 {
  return map.stagedDataAt + (staged << map.sliceBits);
}
