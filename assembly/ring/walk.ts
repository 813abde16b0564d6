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

/** Begins a walk that lists up to `room` segments at `list`; see Walk.chain. */
export function beginWalk(device: usize, list: usize, room: u32, chain: u32): void {
  const walk = Walk.of(device);
  walk.list = <u32>list;
  walk.limit = <u32>list + room * SEGMENT_SIZE;
  walk.chain = chain;
  walk.cutEnd = 0;
}

/**
 * The loops along a chain. Each has one branch for everything that is rare; what it finds of an
 * ordinary buffer is computed without branches, as guests mix reads and writes at will. They are
 * inlined where chains are taken: the calls would cost as much as the loops (bench: ring split 3).
 * They are twins: what they differ in, where flags and the next descriptor are, stands in the
 * innermost lines.
 */
export class Walker {
  /** Walks the split chain that starts at `head`; true when it is sound. */
  @inline
  static split(device: usize, walk: Walk, queue: Queue, head: u32): bool {
    let region = GuestRegion.at(device, changetype<Device>(device).region);
    let start = region.start;
    let size = region.size;
    let place = region.address;
    let limit = walk.limit;
    let table = <usize>queue.desc;
    let entries = queue.size;
    let steps = min(entries, <u32>CHAIN_DESCRIPTORS);
    let left = steps;
    let nested: bool = false;
    let direction: u32 = 0;
    let total: u64 = 0;
    let readable: u64 = 0;
    let end = walk.list;
    // Offset of the descriptor in its table.
    let at = head * DESC_SIZE;
    for (;;) {
      if (left == 0) return fail(walk, boundError(steps, entries), at / DESC_SIZE);
      left -= 1;
      const address = load<u64>(table + <usize>at, DESC_ADDRESS);
      const rest = load<u64>(table + <usize>at, DESC_LENGTH);
      const flags = <u32>(rest >> 32);
      const length = rest & 0xffff_ffff;
      const writable = (flags >> 1) & 1;
      if (address - start >= size) {
        region = regionOf(device, address);
        start = region.start;
        size = region.size;
        place = region.address;
      }
      const offset = address - start;
      // A length of 0 wraps, and so is too long.
      const fits: bool = offset < size && length - 1 < size - offset && end != limit;
      if (fits && (flags & VIRTQ_DESC_F_INDIRECT) == 0 && writable >= direction) {
        store<u64>(end, (length << 32) | <u64>(place + <u32>offset));
        end += SEGMENT_SIZE;
        total += length;
        readable += (ONE_SEGMENT | length) & (<u64>writable - 1);
        direction = writable;
      } else if ((flags & VIRTQ_DESC_F_INDIRECT) != 0) {
        const index = at / DESC_SIZE;
        table = enterTable(device, queue, address, <u32>length, flags, index, nested);
        if (table == NOWHERE) return false;
        entries = <u32>length / DESC_SIZE;
        steps = min(entries, CHAIN_DESCRIPTORS + 1 - (steps - left));
        left = steps;
        nested = true;
        at = 0;
        continue;
      } else {
        spill(walk, direction, end, total, readable);
        const index = at / DESC_SIZE;
        if (!addBuffer(device, walk, address, <u32>length, flags, index)) return false;
        direction = walk.direction;
        total = walk.total;
        readable = readableOf(walk);
        end = walk.end;
        limit = walk.limit;
      }
      if ((flags & VIRTQ_DESC_F_NEXT) == 0) break;
      at = <u32>(rest >> 44) & 0xffff0;
      if (at >= entries * DESC_SIZE) return fail(walk, RING_ERROR_NEXT, at / DESC_SIZE);
    }
    spill(walk, direction, end, total, readable);
    return isSum(walk, head);
  }

  /**
   * Walks the packed list whose first descriptor is at `slot`; true when it is sound. It takes
   * `walk.slots` descriptors of the ring; `walk.id` is the buffer id of the last. In an indirect
   * table only WRITE counts, and all entries belong to it (2.8.7).
   */
  @inline
  static packed(device: usize, walk: Walk, queue: Queue, slot: u32): bool {
    let region = GuestRegion.at(device, changetype<Device>(device).region);
    let start = region.start;
    let size = region.size;
    let place = region.address;
    let limit = walk.limit;
    let table = <usize>queue.desc;
    let entries = queue.size;
    let steps = min(entries, <u32>CHAIN_DESCRIPTORS);
    let left = steps;
    let kept: u32 = 0xffff;
    let direction: u32 = 0;
    let total: u64 = 0;
    let readable: u64 = 0;
    let end = walk.list;
    let index = slot;
    for (;;) {
      if (left == 0) return fail(walk, boundError(steps, entries), index);
      left -= 1;
      const descriptor = table + <usize>index * DESC_SIZE;
      const address = load<u64>(descriptor, DESC_ADDRESS);
      const rest = load<u64>(descriptor, DESC_LENGTH);
      const flags = <u32>(rest >> 48) & kept;
      const length = rest & 0xffff_ffff;
      const writable = (flags >> 1) & 1;
      if (address - start >= size) {
        region = regionOf(device, address);
        start = region.start;
        size = region.size;
        place = region.address;
      }
      const offset = address - start;
      const fits: bool = offset < size && length - 1 < size - offset && end != limit;
      if (fits && (flags & VIRTQ_DESC_F_INDIRECT) == 0 && writable >= direction) {
        store<u64>(end, (length << 32) | <u64>(place + <u32>offset));
        end += SEGMENT_SIZE;
        total += length;
        readable += (ONE_SEGMENT | length) & (<u64>writable - 1);
        direction = writable;
      } else if ((flags & VIRTQ_DESC_F_INDIRECT) != 0) {
        if (left + 1 != steps) return fail(walk, RING_ERROR_INDIRECT_NEXT, index);
        noteSlot(walk, rest, 1);
        table = enterTable(device, queue, address, <u32>length, flags, index, false);
        if (table == NOWHERE) return false;
        entries = <u32>length / DESC_SIZE;
        steps = min(entries, <u32>CHAIN_DESCRIPTORS);
        left = steps;
        kept = VIRTQ_DESC_F_WRITE;
        index = 0;
        continue;
      } else {
        spill(walk, direction, end, total, readable);
        if (!addBuffer(device, walk, address, <u32>length, flags, index)) return false;
        direction = walk.direction;
        total = walk.total;
        readable = readableOf(walk);
        end = walk.end;
        limit = walk.limit;
      }
      if (kept != 0xffff) {
        if (left == 0 && steps == entries) break;
      } else if ((flags & VIRTQ_DESC_F_NEXT) == 0) {
        noteSlot(walk, rest, steps - left);
        break;
      }
      index = index + 1 < entries ? index + 1 : 0;
    }
    spill(walk, direction, end, total, readable);
    return isSum(walk, slot);
  }
}

/** Why a walk has not ended: the table has no more descriptors, or a chain may have no more. */
function boundError(steps: u32, entries: u32): u32 {
  return steps == entries ? RING_ERROR_LOOP : RING_ERROR_DESCRIPTORS;
}

/** The place of the table that a descriptor with INDIRECT names (K5), or NOWHERE with an error. */
function enterTable(
  device: usize,
  queue: Queue,
  address: u64,
  length: u32,
  flags: u32,
  at: u32,
  nested: bool,
): usize {
  const walk = Walk.of(device);
  const error = errorOfTable(queue, length, flags, nested);
  const table = error == 0 ? placeOf(device, address, <u64>length) : NOWHERE;
  if (table == NOWHERE) fail(walk, error != 0 ? error : RING_ERROR_RANGE, at);
  if (table == NOWHERE || walk.stopsAtTable == 0) return table;
  listTable(walk, table, length);
  return NOWHERE;
}

function errorOfTable(queue: Queue, length: u32, flags: u32, nested: bool): u32 {
  if (nested) return RING_ERROR_INDIRECT_NESTED;
  if (!queue.has(QUEUE_INDIRECT)) return RING_ERROR_INDIRECT_FEATURE;
  if ((flags & VIRTQ_DESC_F_NEXT) != 0) return RING_ERROR_INDIRECT_NEXT;
  const entries = length / DESC_SIZE;
  const isWhole: bool = length % DESC_SIZE == 0 && entries != 0;
  return isWhole && entries <= INDIRECT_ENTRIES_MAX ? 0 : RING_ERROR_INDIRECT_LENGTH;
}

/** The ring's part of a packed list: its descriptors, and the id that the last of them has. */
function noteSlot(walk: Walk, rest: u64, slots: u32): void {
  walk.slots = slots;
  walk.id = <u32>(rest >> 32) & 0xffff;
}

/** In the loops: readable bytes in the low bits, readable segments from here on. */
const SEGMENT_SHIFT: u64 = 48;
const ONE_SEGMENT: u64 = 1 << 48;

/** Writes back what a loop keeps in registers. */
function spill(walk: Walk, direction: u32, end: u32, total: u64, readable: u64): void {
  walk.direction = direction;
  walk.end = end;
  walk.total = total;
  walk.readable = readable & (ONE_SEGMENT - 1);
  walk.readableSegments = <u32>(readable >> SEGMENT_SHIFT);
}

/** The readable part, as the loops keep it. */
function readableOf(walk: Walk): u64 {
  return walk.readable | ((<u64>walk.readableSegments) << SEGMENT_SHIFT);
}

/** K7. */
function isSum(walk: Walk, at: u32): bool {
  return walk.total <= <u64>u32.MAX_VALUE || fail(walk, RING_ERROR_BYTES, at);
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
 * Adds a buffer that is out of the ordinary: in another region, or in several, empty, or one for
 * which the list has no room; false when it breaks a rule.
 */
function addBuffer(
  device: usize,
  walk: Walk,
  address: u64,
  length: u32,
  flags: u32,
  at: u32,
): bool {
  const writable = (flags >> 1) & 1;
  if (writable < walk.direction) return fail(walk, RING_ERROR_ORDER, at);
  walk.direction = writable;
  walk.total += <u64>length;
  if (writable == 0) walk.readable += <u64>length;
  // The end of the address space is the end of every buffer (guest.ts, I3).
  if (length != 0 && address + (length - 1) < address) return fail(walk, RING_ERROR_RANGE, at);
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
    if (piece != length) walk.cutEnd = walk.end;
  }
  return true;
}

/** Adds a segment; false when neither list nor table has room. */
function addSegment(device: usize, walk: Walk, place: usize, length: u32): bool {
  if (walk.end == walk.limit && !grow(device, walk)) return false;
  store<u32>(walk.end, <u32>place, SEGMENT_ADDRESS);
  store<u32>(walk.end, length, SEGMENT_LENGTH);
  walk.end += SEGMENT_SIZE;
  walk.readableSegments += walk.direction ^ 1;
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
