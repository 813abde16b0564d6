// Slices of L2 tables and of refcount blocks, kept big-endian as they lie in the file.
//
// A1  A slice is found by its host offset. What is pinned, kept, dirty, loading or being written
//     stays; the rest is given up when room is needed, the longest unused first, roughly (clock).
// A2  A slice that could not be loaded is forgotten: the next one who wants it tries again.

import { NONE } from '../../engine.ts';
import { VERIFY, verify } from '../../verify.ts';
import { Cache, Qcow2, SLICE_SIZE } from './state.ts';

/** An odd number with bits everywhere: the high half of a product is a hash. */
const HASH: u64 = ((<u64>0x9e37_79b9) << 32) | 0x7f4a_7c15;

/** log2 of the bytes that hold one bit for each entry of the largest slice. */
export const CLEARED_SHIFT: usize = 6;

export const SLICE_FREE: u8 = 0;
export const SLICE_LOADING: u8 = 1;
export const SLICE_VALID: u8 = 2;

@unmanaged
export class Slice {
  /** Host offset. */
  key: u64;
  /** Generation that must be stable before it may be written, or 0 (writeback.ts). */
  need: u64;
  /** Number of the first change that is not written, while it is dirty. */
  first: u64;
  /** Next with the same hash, or next free. */
  next: u32;
  pins: u32;
  state: u8;
  dirty: u8;
  /** 1: used since the clock's hand came by. */
  used: u8;
  /** 1: a copy of it is at the host. */
  writing: u8;
  /** Flights that keep it until they have used it (turns.ts). */
  kept: u32;

  static at(map: Qcow2, cache: Cache, slot: u32): Slice {
    if (VERIFY) verify(slot < cache.slots);
    return changetype<Slice>(map.place(cache.slotsAt) + <usize>slot * SLICE_SIZE);
  }
}

if (offsetof<Slice>() > <usize>SLICE_SIZE) ERROR('Slice');

export function initCache(map: Qcow2, cache: Cache, purpose: u32): void {
  cache.hand = 0;
  cache.dirty = 0;
  cache.purpose = purpose;
  memory.fill(map.place(cache.slotsAt), 0, <usize>cache.slots * SLICE_SIZE);
  memory.fill(map.place(cache.hashAt), 0xff, (<usize>cache.hashMask + 1) << 2);
}

/** True when the host cluster of an entry was seen to hold no metadata (firewall.ts, O1). */
export function isCleared(map: Qcow2, slot: u32, index: u32): bool {
  const byte = map.place(map.clearedAt) + ((<usize>slot) << CLEARED_SHIFT) + (index >> 3);
  return ((<u32>load<u8>(byte) >> (index & 7)) & 1) != 0;
}

/** Notes that. */
export function clear(map: Qcow2, slot: u32, index: u32): void {
  const byte = map.place(map.clearedAt) + ((<usize>slot) << CLEARED_SHIFT) + (index >> 3);
  store<u8>(byte, <u8>(<u32>load<u8>(byte) | (1 << (index & 7))));
}

/** Nothing is known of the entries of a slice that is loaded. */
export function forgetCleared(map: Qcow2, slot: u32): void {
  const from = map.place(map.clearedAt) + ((<usize>slot) << CLEARED_SHIFT);
  memory.fill(from, 0, 1 << CLEARED_SHIFT);
}

/** The address of a slice's bytes. */
export function sliceData(map: Qcow2, cache: Cache, slot: u32): usize {
  return map.place(cache.dataAt) + ((<usize>slot) << cache.sliceBits);
}

/** The slot that holds the slice at a host offset, or NONE. */
export function findSlice(map: Qcow2, cache: Cache, key: u64): u32 {
  let slot = load<u32>(bucketOf(map, cache, key));
  while (slot != NONE) {
    const slice = Slice.at(map, cache, slot);
    if (slice.key == key) {
      slice.used = 1;
      return slot;
    }
    slot = slice.next;
  }
  return NONE;
}

/** Makes room for the slice at a host offset, and enters it as loading; NONE: there is none. */
export function enterSlice(map: Qcow2, cache: Cache, key: u64): u32 {
  const slot = victimOf(map, cache);
  if (slot == NONE) return NONE;
  const slice = Slice.at(map, cache, slot);
  if (slice.state != SLICE_FREE) forgetSlice(map, cache, slot);
  const bucket = bucketOf(map, cache, key);
  slice.key = key;
  slice.need = 0;
  slice.first = 0;
  slice.pins = 0;
  slice.state = SLICE_LOADING;
  slice.dirty = 0;
  slice.used = 1;
  slice.writing = 0;
  if (VERIFY) verify(slice.kept == 0);
  slice.next = load<u32>(bucket);
  store<u32>(bucket, slot);
  return slot;
}

/** There is no room for a slice: a cycle makes some, unless answers that are awaited will. */
export function wantRoom(map: Qcow2, cache: Cache): void {
  if (cache.dirty != 0) map.cycleWanted = 1;
}

/** Takes a slice out of the cache. */
export function forgetSlice(map: Qcow2, cache: Cache, slot: u32): void {
  const slice = Slice.at(map, cache, slot);
  let link = bucketOf(map, cache, slice.key);
  while (load<u32>(link) != slot) {
    link = changetype<usize>(Slice.at(map, cache, load<u32>(link))) + offsetof<Slice>('next');
  }
  store<u32>(link, slice.next);
  slice.state = SLICE_FREE;
}

/** A slice has changed; `first` is the number of the change, or 0 for refcounts. */
export function soilSlice(map: Qcow2, cache: Cache, slot: u32, first: u64): void {
  const slice = Slice.at(map, cache, slot);
  if (slice.dirty) return;
  slice.dirty = 1;
  slice.first = first;
  cache.dirty += 1;
}

function victimOf(map: Qcow2, cache: Cache): u32 {
  // Twice round: once to take the marks away, once to find one without.
  for (let left = cache.slots * 2; left != 0; left--) {
    const slot = cache.hand;
    cache.hand = slot + 1 < cache.slots ? slot + 1 : 0;
    const slice = Slice.at(map, cache, slot);
    // One that could not be loaded is free, and kept until those hear of it who wait for it.
    if (slice.state == SLICE_LOADING || (slice.pins | slice.kept) != 0) continue;
    if (slice.state == SLICE_FREE) return slot;
    if ((slice.dirty | slice.writing) != 0) continue;
    if (!slice.used) return slot;
    slice.used = 0;
  }
  return NONE;
}

function bucketOf(map: Qcow2, cache: Cache, key: u64): usize {
  const hash = <u32>(((key >> cache.sliceBits) * HASH) >> 32) & cache.hashMask;
  return map.place(cache.hashAt) + ((<usize>hash) << 2);
}
