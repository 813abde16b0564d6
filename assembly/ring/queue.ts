// Queues: switched on, watched, broken, switched off.
//
//   OFF ─ attachQueue ─▶ ON ◀─▶ PAUSED ─ detachQueue ─▶ OFF
//                        │         │                     ▲
//                        ├─ breakQueue ─▶ BROKEN ────────┤
//                        └─ setQueueState ─▶ DEAD ───────┘
//
// N1  Size, addresses, features and position are checked and latched when a queue is attached; what
//     the host's words say later means nothing. A position that was saved is checked like a new
//     queue's.
// N2  Each part of a ring is aligned and lies in one region; no two overlap.
// N3  A driver that breaks a rule stops its queue, before the chain in question does anything. What
//     was taken before is finished and returned; other queues go on.
// N4  A queue goes off only when nothing of it is in flight. While it is DEAD no byte of its rings
//     is touched.

import {
  ATTACH_ALIGN,
  ATTACH_BUSY,
  ATTACH_IN_ORDER,
  ATTACH_INFLIGHT,
  ATTACH_OVERLAP,
  ATTACH_POSITION,
  ATTACH_RANGE,
  ATTACH_SIZE,
  ATTACH_UNKNOWN,
  DEVICE_LANDS,
  QUEUE_BROKEN,
  QUEUE_DEAD,
  QUEUE_IN_ORDER,
  QUEUE_OFF,
  QUEUE_ON,
  QUEUE_PAUSED,
} from '../../src/abi/virtio-device.ts';
import {
  AVAIL_ALIGN,
  AVAIL_ENTRY_SIZE,
  DESC_ALIGN,
  DESC_SIZE,
  EVENT_ALIGN,
  EVENT_SIZE,
  QUEUE_SIZE_MAX,
  RING_EXTRA_BYTES,
  USED_ALIGN,
  USED_ELEMENT_SIZE,
  WRAP_BIT,
} from '../../src/abi/virtio-ring.ts';
import { Device } from '../device.ts';
import { NONE } from '../engine.ts';
import { GuestRegion, NOWHERE, overlap, placeOf } from '../guest.ts';
import { Chain, CHAIN_DONE, clearHeads, Queue } from './record.ts';
import { closeChain } from './slot.ts';

/** The bit of a queue in the device's bitmaps. */
export function bitOf(queue: Queue): u64 {
  return (<u64>1) << (<u64>queue.index);
}

export function initQueues(device: usize): void {
  const state = changetype<Device>(device);
  for (let index: u32 = 0; index < state.queueCount; index++) {
    const queue = Queue.at(device, index);
    queue.index = index;
    queue.state = QUEUE_OFF;
  }
}

/** Switches a queue on as the host's words describe it (N1, N2); 0, or why not. */
export function attachQueue(device: usize, index: u32): u32 {
  const state = changetype<Device>(device);
  if (index >= state.queueCount) return ATTACH_UNKNOWN;
  const queue = Queue.at(device, index);
  if (queue.state != QUEUE_OFF) return ATTACH_BUSY;
  queue.size = queue.configSize;
  queue.flags = queue.configFlags;
  if (!isSize(queue)) return ATTACH_SIZE;
  if (state.has(DEVICE_LANDS) && queue.has(QUEUE_IN_ORDER)) return ATTACH_IN_ORDER;
  if (queue.inflight != 0 && !keepsRecord(state, queue)) return ATTACH_INFLIGHT;
  const error = placeRing(device, queue);
  if (error != 0) return error;
  if (!isPosition(queue)) return ATTACH_POSITION;
  begin(queue);
  state.on |= bitOf(queue);
  // The driver may have made buffers available before it could notify.
  state.kicked |= bitOf(queue);
  return 0;
}

/** True when there can be a record of what is in flight (inflight.ts). */
function keepsRecord(state: Device, queue: Queue): bool {
  if (queue.isPacked || queue.has(QUEUE_IN_ORDER) || state.has(DEVICE_LANDS)) return false;
  return queue.resubmits <= ((queue.nextAvail - queue.nextUsed) & 0xffff);
}

/** 2.7: a power of two; 2.8.10.1: not only. */
function isSize(queue: Queue): bool {
  if (queue.size == 0 || queue.size > <u32>QUEUE_SIZE_MAX) return false;
  return queue.isPacked || popcnt(queue.size) == 1;
}

/** N2: finds the places of the three parts; 0, or what is wrong with them. */
function placeRing(device: usize, queue: Queue): u32 {
  const size = <u64>queue.size;
  const packed = queue.isPacked;
  const descBytes = size * DESC_SIZE;
  const driverBytes = packed ? <u64>EVENT_SIZE : RING_EXTRA_BYTES + size * AVAIL_ENTRY_SIZE;
  const deviceBytes = packed ? <u64>EVENT_SIZE : RING_EXTRA_BYTES + size * USED_ELEMENT_SIZE;
  const driverAlign: u64 = packed ? EVENT_ALIGN : AVAIL_ALIGN;
  const deviceAlign: u64 = packed ? EVENT_ALIGN : USED_ALIGN;
  const desc = queue.configDesc;
  const driver = queue.configDriver;
  const used = queue.configDevice;
  if (desc % DESC_ALIGN != 0 || driver % driverAlign != 0 || used % deviceAlign != 0) {
    return ATTACH_ALIGN;
  }
  queue.desc = <u32>placeOf(device, desc, descBytes);
  queue.driver = <u32>placeOf(device, driver, driverBytes);
  queue.device = <u32>placeOf(device, used, deviceBytes);
  if (queue.desc == <u32>NOWHERE) return ATTACH_RANGE;
  if (queue.driver == <u32>NOWHERE || queue.device == <u32>NOWHERE) return ATTACH_RANGE;
  if (overlap(desc, descBytes, driver, driverBytes)) return ATTACH_OVERLAP;
  if (overlap(desc, descBytes, used, deviceBytes)) return ATTACH_OVERLAP;
  return overlap(driver, driverBytes, used, deviceBytes) ? ATTACH_OVERLAP : 0;
}

/** N1: true when the queue can go on from where the host says. */
function isPosition(queue: Queue): bool {
  if ((queue.nextAvail | queue.nextUsed) > 0xffff) return false;
  if (!queue.isPacked) return ((queue.nextAvail - queue.nextUsed) & 0xffff) <= queue.size;
  // Nothing is in flight, so both are at the same place.
  return queue.nextAvail == queue.nextUsed && (queue.nextAvail & (WRAP_BIT - 1)) < queue.size;
}

function begin(queue: Queue): void {
  queue.avail = queue.nextAvail;
  queue.used = queue.nextUsed;
  if (queue.isPacked) {
    queue.avail &= WRAP_BIT - 1;
    queue.used &= WRAP_BIT - 1;
    queue.availWrap = queue.nextAvail >> 15;
    queue.usedWrap = queue.nextUsed >> 15;
  }
  queue.isSignalledKnown = 0;
  queue.isSuppressed = 0;
  queue.slots = 0;
  queue.resubmitted = 0;
  if (queue.inflight == 0) queue.resubmits = 0;
  queue.batchSlot = NONE;
  queue.orderHead = NONE;
  queue.orderTail = NONE;
  queue.error = 0;
  queue.state = QUEUE_ON;
  clearHeads(queue);
}

/** Pauses a queue, lets it go on, or has it die; 0, or why not. */
export function setQueueState(device: usize, index: u32, next: u32): u32 {
  const state = changetype<Device>(device);
  if (index >= state.queueCount) return ATTACH_UNKNOWN;
  const queue = Queue.at(device, index);
  const isTurn: bool = queue.state == QUEUE_ON || queue.state == QUEUE_PAUSED;
  const isAllowed: bool =
    next == QUEUE_DEAD ? queue.state != QUEUE_OFF : isTurn && next <= <u32>QUEUE_PAUSED;
  if (!isAllowed || next == QUEUE_OFF) return ATTACH_BUSY;
  queue.state = next;
  if (next == QUEUE_ON) state.on |= bitOf(queue);
  else state.on &= ~bitOf(queue);
  if (next == QUEUE_DEAD) dropDecided(device, queue);
  return 0;
}

/** Frees the chains of a dead queue that are decided and wait for earlier ones (IN_ORDER). */
function dropDecided(device: usize, queue: Queue): void {
  for (let index = queue.orderHead; index != NONE;) {
    const chain = Chain.at(device, index);
    const next = chain.next;
    if (chain.state == CHAIN_DONE) closeChain(device, index);
    index = next;
  }
  queue.orderHead = NONE;
  queue.orderTail = NONE;
}

/** Switches off a queue that does not run and has nothing in flight (N4); 0, or why not. */
export function detachQueue(device: usize, index: u32): u32 {
  const state = changetype<Device>(device);
  if (index >= state.queueCount) return ATTACH_UNKNOWN;
  const queue = Queue.at(device, index);
  if (queue.state == QUEUE_ON || queue.inFlight != 0) return ATTACH_BUSY;
  const wrapped = queue.isPacked;
  queue.nextAvail = wrapped ? queue.avail | (queue.availWrap << 15) : queue.avail;
  queue.nextUsed = wrapped ? queue.used | (queue.usedWrap << 15) : queue.used;
  queue.state = QUEUE_OFF;
  state.used &= ~bitOf(queue);
  return 0;
}

/** N3: stops a queue because of `error` in the chain at `head`. */
export function breakQueue(device: usize, queue: Queue, error: u32, head: u32, at: u32): void {
  const state = changetype<Device>(device);
  queue.state = QUEUE_BROKEN;
  queue.error = error;
  queue.errorHead = head;
  queue.errorDescriptor = at;
  state.on &= ~bitOf(queue);
  state.broken |= bitOf(queue);
}

/** True when a part of a ring that is in use lies in a region. */
export function holdsRing(device: usize, region: GuestRegion): bool {
  const state = changetype<Device>(device);
  const start = region.address;
  for (let index: u32 = 0; index < state.queueCount; index++) {
    const queue = Queue.at(device, index);
    if (queue.state == QUEUE_OFF) continue;
    if (<u64>(queue.desc - start) < region.size) return true;
    if (<u64>(queue.driver - start) < region.size) return true;
    if (<u64>(queue.device - start) < region.size) return true;
  }
  return false;
}
