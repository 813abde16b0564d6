// The exports, in the order of a request's life.

import { CAPACITY_BITS, COMMAND_SLOTS, FILES, SECTOR_SIZE } from '../src/abi/limits.ts';
import {
  CONFIG_DEADLINE,
  CONFIG_DEVICE,
  CONFIG_WCE,
  ENGINE_STATE,
  REGION_SIZE,
  REQUEST_HEAD,
  STATE_WAIT_NEVER,
} from '../src/abi/region.ts';
import { initFlights } from './command/flight.ts';
import { initCommands } from './command/slot.ts';
import { ATTACH_BUSY, ATTACH_UNKNOWN, QUEUE_DEAD, VIRTQUEUES } from '../src/abi/virtio-device.ts';
import { Device, initDeviceState, sizeOfDevice } from './device.ts';
import { Engine } from './engine.ts';
import { addRegion, regionOf, removeRegion } from './guest.ts';
import { abortHeld, resume, run } from './pump.ts';
import { initResets } from './request/reset.ts';
import { initSlots } from './request/slot.ts';
import {
  attachQueue as attach,
  detachQueue as detach,
  holdsRing,
  initQueues,
  setQueueState as changeState,
} from './ring/queue.ts';
import { beginPeek as startPeek, listWritten, peekChain as peek } from './ring/peek.ts';
import { countInFlight, initChains } from './ring/slot.ts';
import { landChain as land, publishUsed } from './ring/used.ts';
import { initBarrier } from './schedule/barrier.ts';
import { initDeadline } from './schedule/deadline.ts';
import { initElevator } from './schedule/elevator.ts';
import { initFlush } from './schedule/flush.ts';
import { initHazards } from './schedule/hazard.ts';
import { initStability } from './schedule/stability.ts';
import { initUnwritten } from './schedule/unwritten.ts';
import { initQcow2, measureMap as measure } from './map/qcow2/index.ts';
import { Qcow2 } from './map/qcow2/state.ts';
import { isZero } from './simd/zero.ts';

/** Bytes of memory that an engine needs at a base on a 64-byte boundary. */
export function regionSize(): u32 {
  return REGION_SIZE;
}

/**
 * Makes an engine of the region at `base` from the configuration at its start. Rings and counters
 * start at zero. Returns 1, or 0 when the configuration breaks a limit of src/abi/limits.ts.
 */
export function init(base: usize): u32 {
  const engine = changetype<Engine>(base);
  if ((base & 63) != 0 || !isWithinLimits(engine)) return 0;
  memory.fill(base + REQUEST_HEAD, 0, ENGINE_STATE - REQUEST_HEAD);
  engine.wce = u32(engine.has(CONFIG_WCE));
  engine.wait = <u32>STATE_WAIT_NEVER;
  initSlots(base);
  initResets(base);
  initBarrier(base);
  initHazards(base);
  initElevator(base);
  initDeadline(base);
  initFlush(base);
  initStability(base);
  initUnwritten(base);
  initFlights(base);
  initCommands(base);
  return 1;
}

/** True when a configuration keeps the limits. */
function isWithinLimits(engine: Engine): bool {
  if (engine.capacity >= (<u64>1) << (<u64>CAPACITY_BITS)) return false;
  if (popcnt(engine.blockSize) != 1 || engine.blockSize > 1 << 20) return false;
  if (engine.depth == 0 || engine.depth > <u32>COMMAND_SLOTS) return false;
  if (engine.files == 0 || engine.files > <u32>FILES) return false;
  if (engine.files > 1 && engine.map == 0) {
    if (popcnt(engine.chunkBytes) != 1) return false;
    if (engine.chunkBytes < max(engine.blockSize, <u32>SECTOR_SIZE)) return false;
  }
  if (!engine.has(CONFIG_DEADLINE)) return true;
  return engine.batch != 0 && engine.writesStarved != 0;
}

/**
 * Runs the engine at `base` over everything in its request and result rings. `now` is the time in
 * microseconds since any moment. Returns the number of commands in the command ring; completions
 * are in the completion ring, and STATE_WAIT says when to call again if nothing happens.
 */
export function pump(base: usize, now: f64): u32 {
  return run(base, now);
}

/**
 * Settles where the parts of a qcow2 mapping lie, from the configuration at CONFIG_MAP (map.ts).
 * Returns the bytes of its region, or 0 when they are too many.
 */
export function measureMap(base: usize): u32 {
  return measure(Qcow2.of(base));
}

/**
 * Makes a mapping of the region at CONFIG_MAP, which was measured. The host fills the L1 table, the
 * refcount table, the list of ranges and the header copy, at MAP_*_AT, before the first `pump`.
 */
export function initMap(base: usize): void {
  initQcow2(Qcow2.of(base));
}

/** Bytes of memory that a virtio device with so many queues needs behind its engine. */
export function deviceSize(queues: u32): u32 {
  return sizeOfDevice(queues);
}

/**
 * Makes a virtio device of the region that follows the engine at `base`: no regions, every queue
 * off. Returns 1, or 0 when the number of queues is not 1 to VIRTQUEUES.
 */
export function initDevice(base: usize, queues: u32): u32 {
  if (queues == 0 || queues > <u32>VIRTQUEUES) return 0;
  const device = base + REGION_SIZE;
  memory.fill(device, 0, sizeOfDevice(queues));
  initDeviceState(device, queues);
  initChains(device);
  initQueues(device);
  changetype<Engine>(base).flags |= CONFIG_DEVICE;
  return 1;
}

/**
 * Adds a region of guest memory: `size` bytes at a guest address lie at `address`. The 64-bit
 * numbers come in halves. Returns 0, or MAP_*.
 */
export function mapGuest(
  base: usize,
  guestLow: u32,
  guestHigh: u32,
  sizeLow: u32,
  sizeHigh: u32,
  address: u32,
): u32 {
  return addRegion(base, join(guestLow, guestHigh), join(sizeLow, sizeHigh), address);
}

/** Removes the region that starts at a guest address. Returns 0, ATTACH_UNKNOWN or ATTACH_BUSY. */
export function unmapGuest(base: usize, guestLow: u32, guestHigh: u32): u32 {
  const device = base + REGION_SIZE;
  const start = join(guestLow, guestHigh);
  if (countInFlight(device) != 0) return ATTACH_BUSY;
  const region = regionOf(device, start);
  if (region.size == 0 || region.start != start) return ATTACH_UNKNOWN;
  return holdsRing(device, region) ? ATTACH_BUSY : removeRegion(device, start);
}

/** Switches on the queue that the host's words describe. Returns 0, or ATTACH_*. */
export function attachQueue(base: usize, queue: u32): u32 {
  return attach(base + REGION_SIZE, queue);
}

/**
 * Sets the state of a queue: QUEUE_PAUSED and QUEUE_ON in turn, or QUEUE_DEAD. A queue that dies is
 * to be reset by OP_RESET_QUEUE next. Returns 0, ATTACH_UNKNOWN or ATTACH_BUSY.
 */
export function setQueueState(base: usize, queue: u32, state: u32): u32 {
  const error = changeState(base + REGION_SIZE, queue, state);
  if (error == 0 && state == QUEUE_DEAD) abortHeld(base, queue + 1);
  return error;
}

/** Switches off a queue that has nothing in flight. Returns 0, ATTACH_UNKNOWN or ATTACH_BUSY. */
export function detachQueue(base: usize, queue: u32): u32 {
  return detach(base + REGION_SIZE, queue);
}

/** Sends again what errors have stopped; pump after it. */
export function resumeDevice(base: usize): void {
  resume(base);
}

/** Begins to peek at the chains that are available in a queue of a copied guest (ring/peek.ts). */
export function beginPeek(base: usize, queue: u32): void {
  startPeek(base + REGION_SIZE, queue);
}

/**
 * Lists at DEVICE_LIST what the device will read of the next chain; `hasTable` is 1 when its
 * indirect table has been copied. Returns the entries, PEEK_TABLE or PEEK_NONE.
 */
export function peekChain(base: usize, queue: u32, hasTable: u32): u32 {
  return peek(base + REGION_SIZE, queue, hasTable != 0);
}

/** Lists at DEVICE_LIST what the chain at DEVICE_LANDED has written. Returns the entries. */
export function listLanded(base: usize): u32 {
  const device = Device.of(base);
  return listWritten(changetype<usize>(device), device.landed);
}

/** The host has looked at what the chain at DEVICE_LANDED has written: the next one's turn. */
export function landChain(base: usize): void {
  land(base + REGION_SIZE);
}

/** Publishes the chains that have landed and decides about interrupts. */
export function publishLanded(base: usize): void {
  publishUsed(base);
}

function join(low: u32, high: u32): u64 {
  return <u64>low | ((<u64>high) << 32);
}

/**
 * For each of `count` granules of bytes from `address` on: 1 at `out` when something in it is not
 * zero, else 0. For copies, which have no engine in their memory.
 */
export function findData(address: usize, granuleBytes: u32, count: u32, out: usize): void {
  for (let i: u32 = 0; i < count; i++) {
    store<u8>(out + i, u8(!isZero(address + <usize>i * granuleBytes, granuleBytes)));
  }
}
