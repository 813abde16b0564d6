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
import { Device, WALK_SEGMENTS } from '../device.ts';
import { GuestRegion, NOWHERE, placeOf, regionOf } from '../guest.ts';
import { Queue, Walk } from './record.ts';

/** The largest indirect table that has a number for each entry. */
const INDIRECT_ENTRIES_MAX: u32 = 65535;

/** Walks the split chain that starts at `head`; true when it is sound. */
export function walkSplit(device: usize, queue: Queue, head: u32): bool {
  const walk = begin(device);
  return walkLinked(device, walk, queue, <usize>queue.desc, queue.size, head, false);
}

/**
 * Walks the packed list whose first descriptor is at `slot`; true when it is sound. It takes
 * `walk.descriptors` slots of the ring, or one when it is indirect; `id` is at the last of them.
 */
export function walkPacked(device: usize, queue: Queue, slot: u32): bool {
  const walk = begin(device);
  let at = slot;
  for (let left = queue.size; left != 0; left--) {
    const descriptor = <usize>queue.desc + <usize>at * DESC_SIZE;
    const address = load<u64>(descriptor, DESC_ADDRESS);
    const rest = load<u64>(descriptor, DESC_LENGTH);
    const flags = <u32>(rest >> 48);
    walk.id = <u32>(rest >> 32) & 0xffff;
    walk.slots += 1;
    if ((flags & VIRTQ_DESC_F_INDIRECT) != 0) {
      if (walk.slots != 1) return fail(walk, RING_ERROR_INDIRECT_NEXT, at);
      return walkIndirect(device, walk, queue, address, <u32>rest, flags, at);
    }
    if (!addBuffer(device, walk, address, <u32>rest, flags, at)) return false;
    if ((flags & VIRTQ_DESC_F_NEXT) == 0) return true;
    at += 1;
    if (at == queue.size) at = 0;
  }
  return fail(walk, RING_ERROR_LOOP, at);
}

/** Follows `next` in a table of `entries` descriptors. */
function walkLinked(
  device: usize,
  walk: Walk,
  queue: Queue,
  table: usize,
  entries: u32,
  first: u32,
  nested: bool,
): bool {
  let index = first;
  for (let left = entries; left != 0; left--) {
    const descriptor = table + <usize>index * DESC_SIZE;
    const address = load<u64>(descriptor, DESC_ADDRESS);
    const rest = load<u64>(descriptor, DESC_LENGTH);
    const flags = <u32>(rest >> 32) & 0xffff;
    if ((flags & VIRTQ_DESC_F_INDIRECT) != 0) {
      if (nested) return fail(walk, RING_ERROR_INDIRECT_NESTED, index);
      return walkIndirect(device, walk, queue, address, <u32>rest, flags, index);
    }
    if (!addBuffer(device, walk, address, <u32>rest, flags, index)) return false;
    if ((flags & VIRTQ_DESC_F_NEXT) == 0) return true;
    index = <u32>(rest >> 48);
    if (index >= entries) return fail(walk, RING_ERROR_NEXT, index);
  }
  return fail(walk, RING_ERROR_LOOP, index);
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
    listTable(device, walk, table, length);
    return false;
  }
  if (queue.isPacked) return walkConsecutive(device, walk, table, entries);
  return walkLinked(device, walk, queue, table, entries, 0, true);
}

/** Takes the descriptors of a packed indirect table, where only WRITE counts (2.8.7). */
function walkConsecutive(device: usize, walk: Walk, table: usize, entries: u32): bool {
  for (let index: u32 = 0; index < entries; index++) {
    const descriptor = table + <usize>index * DESC_SIZE;
    const address = load<u64>(descriptor, DESC_ADDRESS);
    const rest = load<u64>(descriptor, DESC_LENGTH);
    if (!addBuffer(device, walk, address, <u32>rest, <u32>(rest >> 48), index)) return false;
  }
  return true;
}

/** A walk that has found nothing yet. */
function begin(device: usize): Walk {
  const walk = Walk.of(device);
  walk.readable = 0;
  walk.writable = 0;
  walk.hasWritable = 0;
  walk.segments = 0;
  walk.readableSegments = 0;
  walk.buffers = 0;
  walk.firstLength = 0;
  walk.lastLength = 0;
  walk.descriptors = 0;
  walk.slots = 0;
  walk.id = 0;
  walk.error = 0;
  return walk;
}

/** The only segment of the walk is an indirect table. */
function listTable(device: usize, walk: Walk, table: usize, length: u32): void {
  walk.segments = 0;
  addSegment(device, walk, table, length, 0);
}

/** Stops a walk at descriptor `at`. */
function fail(walk: Walk, error: u32, at: u32): bool {
  walk.error = error;
  walk.errorDescriptor = at;
  return false;
}

/** Adds the buffer of a descriptor; false when it breaks a rule. */
function addBuffer(
  device: usize,
  walk: Walk,
  address: u64,
  length: u32,
  flags: u32,
  at: u32,
): bool {
  if (walk.descriptors == CHAIN_DESCRIPTORS) return fail(walk, RING_ERROR_DESCRIPTORS, at);
  walk.descriptors += 1;
  const writable: bool = (flags & VIRTQ_DESC_F_WRITE) != 0;
  if (!writable && walk.hasWritable != 0) return fail(walk, RING_ERROR_ORDER, at);
  walk.hasWritable = u32(writable);
  if (length == 0) return true;
  if (walk.buffers == 0) walk.firstLength = length;
  walk.buffers += 1;
  walk.lastLength = length;
  if (writable) walk.writable += <u64>length;
  else walk.readable += <u64>length;
  if (walk.readable + walk.writable > <u64>u32.MAX_VALUE) return fail(walk, RING_ERROR_BYTES, at);
  const state = changetype<Device>(device);
  const region = GuestRegion.at(device, state.region);
  if (!region.holds(address, length)) return addInPieces(device, walk, address, length, at);
  return addSegment(device, walk, region.place(address), length, at);
}

/** Adds a buffer that is not in the region found last, or not in one alone (K4). */
function addInPieces(device: usize, walk: Walk, address: u64, length: u32, at: u32): bool {
  for (let left = length; left != 0;) {
    const region = regionOf(device, address);
    const rest = region.size - (address - region.start);
    if (region.size == 0) return fail(walk, RING_ERROR_RANGE, at);
    const piece = <u32>min(rest, <u64>left);
    if (!addSegment(device, walk, region.place(address), piece, at)) return false;
    address += <u64>piece;
    left -= piece;
  }
  return true;
}

function addSegment(device: usize, walk: Walk, place: usize, length: u32, at: u32): bool {
  const index = walk.segments;
  if (index == CHAIN_DESCRIPTORS) return fail(walk, RING_ERROR_DESCRIPTORS, at);
  const segment = device + WALK_SEGMENTS + <usize>index * SEGMENT_SIZE;
  store<u32>(segment, <u32>place, SEGMENT_ADDRESS);
  store<u32>(segment, length, SEGMENT_LENGTH);
  walk.segments = index + 1;
  if (walk.hasWritable == 0) walk.readableSegments = index + 1;
  return true;
}
