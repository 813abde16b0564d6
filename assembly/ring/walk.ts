// Walking a descriptor chain: what the guest wrote becomes a private list of segments.
//
// K1  Each descriptor is read once, whole; decisions use that copy (VIRTIO 2.7.5, 2.8.6).
// K2  A walk ends after at most as many steps as its table has entries, and CHAIN_DESCRIPTORS.
// K3  Readable buffers come before writable ones (2.7.4.2, 2.8.17).
// K4  Every byte of every buffer lies in guest memory; a buffer that several regions hold is as
//     many segments (guest.ts, I1).
// K5  INDIRECT is followed only when it was negotiated; its table may come after direct
//     descriptors (2.7.5.3.2); its WRITE flag is ignored; it has neither NEXT nor a table in it.
// K6  A buffer of no length is accepted and left out, wherever it says that it lies.
// K7  All lengths of a chain add up to less than 4 GiB.

import {
  CHAIN_DESCRIPTORS,
  CHAIN_SEGMENTS,
  QUEUE_INDIRECT,
  RING_ERROR_BYTES,
  RING_ERROR_DESCRIPTORS,
  RING_ERROR_INDIRECT_FEATURE,
  RING_ERROR_INDIRECT_LENGTH,
  RING_ERROR_INDIRECT_NESTED,
  RING_ERROR_INDIRECT_NEXT,
  RING_ERROR_LOOP,
  RING_ERROR_NEXT,
  RING_ERROR_ORDER,
  RING_ERROR_RANGE,
} from '../../src/abi/virtio-device.ts';
import {
  DESC_ADDRESS,
  DESC_LENGTH,
  DESC_SIZE,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
} from '../../src/abi/virtio-ring.ts';
import { SEGMENT_ADDRESS, SEGMENT_LENGTH, SEGMENT_SIZE } from '../../src/abi/request.ts';
import { Device, TABLE_SIZE } from '../device.ts';
import { NONE } from '../engine.ts';
import { GuestRegion, NOWHERE, placeOf, regionOf } from '../guest.ts';
import { Queue, Walk } from './record.ts';
import { moveToTable } from './slot.ts';

/** The largest indirect table that has a number for each entry. */
const INDIRECT_ENTRIES_MAX: u32 = 65535;

/** Walks the split chain that starts at `head` into the list of `chain`; true when it is sound. */
export function walkSplit(device: usize, queue: Queue, head: u32): bool {
  const walk = Walk.of(device);
  const desc = <usize>queue.desc;
  return walkLinked(device, walk, queue, desc, queue.size, head) && isSum(walk, head);
}

/**
 * Walks the packed list whose first descriptor is at `slot`; true when it is sound. It takes
 * `walk.slots` descriptors of the ring; `walk.id` is the buffer id of the last.
 */
export function walkPacked(device: usize, queue: Queue, slot: u32): bool {
  const walk = Walk.of(device);
  const desc = <usize>queue.desc;
  return walkConsecutive(device, walk, queue, desc, queue.size, slot) && isSum(walk, slot);
}

/** K7. */
function isSum(walk: Walk, at: u32): bool {
  return walk.total <= <u64>u32.MAX_VALUE || fail(walk, RING_ERROR_BYTES, at);
}

/** Begins a walk that lists up to `room` segments at `list`; see Walk.chain. */
export function beginWalk(device: usize, list: usize, room: u32, chain: u32): void {
  const walk = Walk.of(device);
  walk.total = 0;
  walk.readable = 0;
  walk.direction = 0;
  walk.list = <u32>list;
  walk.end = <u32>list;
  walk.limit = <u32>list + room * SEGMENT_SIZE;
  walk.readableSegments = 0;
  walk.chain = chain;
  walk.descriptors = 0;
  walk.slots = 0;
  walk.isNested = 0;
  walk.error = 0;
}

/** Follows `next` in a table of `entries` descriptors: the ring's, or an indirect one. */
function walkLinked(
  device: usize,
  walk: Walk,
  queue: Queue,
  table: usize,
  entries: u32,
  first: u32,
): bool {
  let region = GuestRegion.at(device, changetype<Device>(device).region);
  let start = region.start;
  let size = region.size;
  let place = region.address;
  let limit = walk.limit;
  const steps = min(entries, CHAIN_DESCRIPTORS - walk.descriptors);
  let direction = walk.direction;
  let total = walk.total;
  let end = walk.end;
  let index = first;
  for (let left = steps; left != 0; left--) {
    const descriptor = table + <usize>index * DESC_SIZE;
    const address = load<u64>(descriptor, DESC_ADDRESS);
    const rest = load<u64>(descriptor, DESC_LENGTH);
    const flags = <u32>(rest >> 32);
    const length = <u32>rest;
    const offset = address - start;
    const isPlain: bool = (flags & (VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT)) == direction;
    const isInside: bool = offset < size && <u64>length <= size - offset;
    if (isPlain && isInside && length != 0 && end != limit) {
      store<u64>(end, ((<u64>length) << 32) | <u64>(place + <u32>offset));
      end += SEGMENT_SIZE;
      total += <u64>length;
    } else {
      walk.total = total;
      walk.end = end;
      if ((flags & VIRTQ_DESC_F_INDIRECT) != 0) {
        if (walk.isNested != 0) return fail(walk, RING_ERROR_INDIRECT_NESTED, index);
        walk.descriptors = steps - left;
        return walkIndirect(device, walk, queue, address, length, flags, index);
      }
      if (!addBuffer(device, walk, address, length, flags, index)) return false;
      direction = walk.direction;
      total = walk.total;
      end = walk.end;
      limit = walk.limit;
      region = GuestRegion.at(device, changetype<Device>(device).region);
      start = region.start;
      size = region.size;
      place = region.address;
    }
    if ((flags & VIRTQ_DESC_F_NEXT) == 0) {
      leave(walk, total, end);
      return true;
    }
    index = flags >> 16;
    if (index >= entries) return fail(walk, RING_ERROR_NEXT, index);
  }
  const isLoop: bool = steps == entries;
  return fail(walk, isLoop ? RING_ERROR_LOOP : RING_ERROR_DESCRIPTORS, index);
}

/**
 * Takes descriptor after descriptor of a packed list: of the ring, which it may wrap around, or of
 * an indirect table, where only WRITE counts and all entries belong to it (2.8.7).
 */
function walkConsecutive(
  device: usize,
  walk: Walk,
  queue: Queue,
  table: usize,
  entries: u32,
  first: u32,
): bool {
  let region = GuestRegion.at(device, changetype<Device>(device).region);
  let start = region.start;
  let size = region.size;
  let place = region.address;
  let limit = walk.limit;
  const isRing: bool = walk.isNested == 0;
  const kept: u32 = isRing ? 0xffff : VIRTQ_DESC_F_WRITE;
  const steps = min(entries, CHAIN_DESCRIPTORS - walk.descriptors);
  let direction = walk.direction;
  let total = walk.total;
  let end = walk.end;
  let index = first;
  for (let left = steps; left != 0; left--) {
    const descriptor = table + <usize>index * DESC_SIZE;
    const address = load<u64>(descriptor, DESC_ADDRESS);
    const rest = load<u64>(descriptor, DESC_LENGTH);
    const flags = <u32>(rest >> 48) & kept;
    const length = <u32>rest;
    const offset = address - start;
    const isPlain: bool = (flags & (VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT)) == direction;
    const isInside: bool = offset < size && <u64>length <= size - offset;
    if (isPlain && isInside && length != 0 && end != limit) {
      store<u64>(end, ((<u64>length) << 32) | <u64>(place + <u32>offset));
      end += SEGMENT_SIZE;
      total += <u64>length;
    } else {
      walk.total = total;
      walk.end = end;
      if ((flags & VIRTQ_DESC_F_INDIRECT) != 0) {
        if (left != steps) return fail(walk, RING_ERROR_INDIRECT_NEXT, index);
        noteSlot(walk, rest, 1);
        return walkIndirect(device, walk, queue, address, length, flags, index);
      }
      if (!addBuffer(device, walk, address, length, flags, index)) return false;
      direction = walk.direction;
      total = walk.total;
      end = walk.end;
      limit = walk.limit;
      region = GuestRegion.at(device, changetype<Device>(device).region);
      start = region.start;
      size = region.size;
      place = region.address;
    }
    if (isRing ? (flags & VIRTQ_DESC_F_NEXT) == 0 : left == 1 && steps == entries) {
      if (isRing) noteSlot(walk, rest, steps - left + 1);
      leave(walk, total, end);
      return true;
    }
    index += 1;
    if (isRing && index == entries) index = 0;
  }
  const isLoop: bool = steps == entries;
  return fail(walk, isLoop ? RING_ERROR_LOOP : RING_ERROR_DESCRIPTORS, index);
}

/** The ring's part of a packed list: its descriptors, and the id that the last of them has. */
function noteSlot(walk: Walk, rest: u64, slots: u32): void {
  walk.slots = slots;
  walk.id = <u32>(rest >> 32) & 0xffff;
}

/** Writes back what a loop kept in registers. */
function leave(walk: Walk, total: u64, end: u32): void {
  walk.total = total;
  walk.end = end;
  if (walk.direction != 0) return;
  walk.readable = total;
  walk.readableSegments = (end - walk.list) / SEGMENT_SIZE;
}

/** Walks the table that a descriptor with INDIRECT names (K5). */
function walkIndirect(
  device: usize,
  walk: Walk,
  queue: Queue,
  address: u64,
  length: u32,
  flags: u32,
  at: u32,
): bool {
  if (!queue.has(QUEUE_INDIRECT)) return fail(walk, RING_ERROR_INDIRECT_FEATURE, at);
  if ((flags & VIRTQ_DESC_F_NEXT) != 0) return fail(walk, RING_ERROR_INDIRECT_NEXT, at);
  const entries = length / DESC_SIZE;
  if (length % DESC_SIZE != 0 || entries == 0 || entries > INDIRECT_ENTRIES_MAX) {
    return fail(walk, RING_ERROR_INDIRECT_LENGTH, at);
  }
  const table = placeOf(device, address, <u64>length);
  if (table == NOWHERE) return fail(walk, RING_ERROR_RANGE, at);
  if (walk.stopsAtTable != 0) {
    listTable(walk, table, length);
    return false;
  }
  walk.isNested = 1;
  if (queue.isPacked) return walkConsecutive(device, walk, queue, table, entries, 0);
  return walkLinked(device, walk, queue, table, entries, 0);
}

/** The only segment of the walk is an indirect table. */
function listTable(walk: Walk, table: usize, length: u32): void {
  store<u32>(walk.list, <u32>table, SEGMENT_ADDRESS);
  store<u32>(walk.list, length, SEGMENT_LENGTH);
}

/** Stops a walk at descriptor `at`. */
function fail(walk: Walk, error: u32, at: u32): bool {
  walk.error = error;
  walk.errorDescriptor = at;
  return false;
}

/**
 * Adds a buffer that is not like the ones before it: the first writable one, one of another region
 * or of several, an empty one, one for which the list has no room; false when it breaks a rule.
 */
function addBuffer(
  device: usize,
  walk: Walk,
  address: u64,
  length: u32,
  flags: u32,
  at: u32,
): bool {
  const direction = flags & VIRTQ_DESC_F_WRITE;
  if (direction != walk.direction) {
    if (direction == 0) return fail(walk, RING_ERROR_ORDER, at);
    leave(walk, walk.total, walk.end);
    walk.direction = direction;
  }
  walk.total += <u64>length;
  for (let left = length; left != 0;) {
    const region = regionOf(device, address);
    if (region.size == 0) return fail(walk, RING_ERROR_RANGE, at);
    const rest = region.size - (address - region.start);
    const piece = <u32>min(rest, <u64>left);
    if (!addSegment(device, walk, region.place(address), piece)) {
      return fail(walk, RING_ERROR_DESCRIPTORS, at);
    }
    address += <u64>piece;
    left -= piece;
  }
  return true;
}

/** Adds a segment; false when neither list nor table has room. */
function addSegment(device: usize, walk: Walk, place: usize, length: u32): bool {
  if (walk.end == walk.limit && !grow(device, walk)) return false;
  store<u32>(walk.end, <u32>place, SEGMENT_ADDRESS);
  store<u32>(walk.end, length, SEGMENT_LENGTH);
  walk.end += SEGMENT_SIZE;
  return true;
}

/** Goes on in a table; false when the list is one, or has to do. */
function grow(device: usize, walk: Walk): bool {
  if (walk.chain == NONE) return false;
  walk.list = <u32>moveToTable(device, walk.chain);
  walk.end = walk.list + CHAIN_SEGMENTS * SEGMENT_SIZE;
  walk.limit = walk.list + <u32>TABLE_SIZE;
  walk.chain = NONE;
  return true;
}
