// The packed virtqueue. VIRTIO 1.3, 2.8.
//
// P1  A descriptor is available when its AVAIL bit equals the device's wrap counter there and its
//     USED bit does not (2.8.1). No more descriptors are in flight than the ring has.
// P2  The length and id of a used descriptor are whole before its flags say that it is used; of a
//     batch, the flags of the first are written last (2.8.2).
// P3  A used descriptor takes the place of the next one to be used; the places of the other
//     descriptors of its list are skipped (2.8.3).
// P4  As split.ts, Q4.

import { QUEUE_EVENT_IDX } from '../../src/abi/virtio-device.ts';
import {
  DESC_LENGTH,
  DESC_SIZE,
  EVENT_FLAGS,
  EVENT_OFFSET,
  PACKED_DESC_FLAGS,
  PACKED_DESC_ID,
  RING_EVENT_FLAGS_DESC,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_USED,
  VIRTQ_DESC_F_WRITE,
  WRAP_BIT,
} from '../../src/abi/virtio-ring.ts';
import { NONE } from '../engine.ts';
import { loadAcquire, storeRelease } from '../guest-order.ts';
import { Queue } from './record.ts';

/** True when the next descriptor is available. */
export function isAvailablePacked(queue: Queue): bool {
  return isAvailableAt(queue, queue.avail, queue.availWrap);
}

/** True when the descriptor at `slot` is available, where the wrap counter is `wrap` (P1). */
export function isAvailableAt(queue: Queue, slot: u32, wrap: u32): bool {
  const descriptor = <usize>queue.desc + <usize>slot * DESC_SIZE;
  const flags = <u32>loadAcquire(descriptor + PACKED_DESC_FLAGS);
  const isAvail = u32((flags & VIRTQ_DESC_F_AVAIL) != 0);
  const isUsed = u32((flags & VIRTQ_DESC_F_USED) != 0);
  return isAvail == wrap && isUsed != wrap;
}

/** Goes past the `slots` descriptors of a list. */
export function skipPacked(queue: Queue, slots: u32): void {
  queue.avail += slots;
  if (queue.avail < queue.size) return;
  queue.avail -= queue.size;
  queue.availWrap ^= 1;
}

/**
 * Writes the used descriptor of a list, or of several in order of which it is the last one's; they
 * took `slots` descriptors of the ring (P2, P3).
 */
export function putUsedPacked(queue: Queue, id: u32, length: u32, slots: u32): void {
  const descriptor = <usize>queue.desc + <usize>queue.used * DESC_SIZE;
  store<u32>(descriptor, length, DESC_LENGTH);
  store<u16>(descriptor, <u16>id, PACKED_DESC_ID);
  let flags: u32 = length != 0 ? VIRTQ_DESC_F_WRITE : 0;
  if (queue.usedWrap != 0) flags |= VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED;
  if (queue.batchSlot == NONE) {
    queue.batchSlot = queue.used;
    queue.batchFlags = flags;
  } else storeRelease(descriptor + PACKED_DESC_FLAGS, <u16>flags);
  queue.used += slots;
  if (queue.used < queue.size) return;
  queue.used -= queue.size;
  queue.usedWrap ^= 1;
  // The last decision was in another round of the ring.
  queue.isSignalledKnown = 0;
}

/** Shows the used descriptors to the driver; true when it wants an interrupt for them. */
export function publishPacked(queue: Queue): bool {
  const first = <usize>queue.desc + <usize>queue.batchSlot * DESC_SIZE;
  storeRelease(first + PACKED_DESC_FLAGS, <u16>queue.batchFlags);
  queue.batchSlot = NONE;
  const flags = <u32>loadAcquire(<usize>queue.driver + EVENT_FLAGS) & 3;
  const isKnown: bool = queue.isSignalledKnown != 0;
  const before = queue.signalled;
  queue.signalled = queue.used;
  queue.isSignalledKnown = 1;
  if (flags == RING_EVENT_FLAGS_DISABLE) return false;
  if (flags != RING_EVENT_FLAGS_DESC || !queue.has(QUEUE_EVENT_IDX)) return true;
  return !isKnown || passes(queue, before);
}

/** True when the used position has gone past the driver's event since `before` (2.8.14). */
function passes(queue: Queue, before: u32): bool {
  const word = <u32>loadAcquire(<usize>queue.driver + EVENT_OFFSET);
  let event = word & (WRAP_BIT - 1);
  if (u32((word & WRAP_BIT) != 0) != queue.usedWrap) event -= queue.size;
  return ((queue.used - event - 1) & 0xffff) < ((queue.used - before) & 0xffff);
}

/** Asks the driver not to notify for a while. */
export function suppressPacked(queue: Queue): void {
  storeRelease(<usize>queue.device + EVENT_FLAGS, <u16>RING_EVENT_FLAGS_DISABLE);
}

/** Asks the driver to notify of the next available list (P4). */
export function enablePacked(queue: Queue): void {
  if (!queue.has(QUEUE_EVENT_IDX)) {
    storeRelease(<usize>queue.device + EVENT_FLAGS, <u16>RING_EVENT_FLAGS_ENABLE);
    return;
  }
  const wrap: u32 = queue.availWrap != 0 ? WRAP_BIT : 0;
  storeRelease(<usize>queue.device + EVENT_OFFSET, <u16>(queue.avail | wrap));
  storeRelease(<usize>queue.device + EVENT_FLAGS, <u16>RING_EVENT_FLAGS_DESC);
}
