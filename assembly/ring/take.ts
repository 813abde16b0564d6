// Taking chains off the queues that were notified of.
//
// T1  A queue is looked at when the host has set its bit, until it is empty; the bit is cleared
//     after notifications were asked for again and the queue looked at once more.
// T2  Queues take turns: the one after the last that was left with something in it is first.
// T3  One call takes a bounded number of chains, however fast guests add more; the bit stays set.
// T4  A head, or a packed buffer id, that is in flight is not taken again.
// T5  Nothing is taken while a request is held because of an error.
// T6  Of a copied guest nothing is taken that the host has not copied in.

import {
  CHAIN_SEGMENTS,
  CHAINS,
  DEVICE_COPIED,
  DEVICE_RUNNING,
  QUEUE_IN_ORDER,
  RING_ERROR_AVAIL_INDEX,
  RING_ERROR_HEAD,
  RING_ERROR_IN_FLIGHT,
} from '../../src/abi/virtio-device.ts';
import { COUNT_CHAINS, REGION_SIZE } from '../../src/abi/region.ts';
import { Device } from '../device.ts';
import { count, NONE } from '../engine.ts';
import { enterRecord, leftOver, takeLeftOver } from './inflight.ts';
import { isAvailablePacked, enablePacked, skipPacked, suppressPacked } from './packed.ts';
import { bitOf, breakQueue } from './queue.ts';
import { Chain, enterHead, leaveHead, ownSegments, Queue, Walk } from './record.ts';
import { dropChain, hasRoom, openChain } from './slot.ts';
import { availableSplit, enableSplit, suppressSplit, takeHead, TOO_MANY } from './split.ts';
import { beginWalk, Walker } from './walk.ts';

/** Begins a call (T3). */
export function beginTaking(engine: usize): void {
  const state = Device.of(engine);
  state.left = 0;
  state.budget = <u32>CHAINS * 2;
  state.open = u64.MAX_VALUE;
}

/** True when chains may wait that could be taken. */
export function canTakeChain(engine: usize): bool {
  const state = Device.of(engine);
  if (waitingQueues(state) == 0 || state.held != 0) return false;
  return state.has(DEVICE_RUNNING) && state.budget != 0 && hasRoom(state);
}

/** Takes the next chain, whose walk lies in the device; NONE: there is none, or no room. */
export function takeChain(engine: usize): u32 {
  const device = engine + REGION_SIZE;
  const state = changetype<Device>(device);
  while (state.left != 0 || findChains(engine, device)) {
    const queue = Queue.at(device, state.turn);
    const index = openChain(device, queue);
    const isSound = queue.isPacked
      ? takePacked(device, queue, index)
      : Taker.split(device, queue, index);
    if (!isSound) {
      dropChain(device, index);
      untake(engine, state);
      continue;
    }
    state.left -= 1;
    if (queue.has(QUEUE_IN_ORDER)) appendInOrder(device, queue, index);
    if (queue.isPacked) prolong(engine, state, queue);
    if ((state.left | state.budget) == 0 || !hasRoom(state)) untake(engine, state);
    return index;
  }
  return NONE;
}

/** A packed ring does not say how many lists are available: after each it is looked at anew. */
function prolong(engine: usize, state: Device, queue: Queue): void {
  if ((state.left | u32(state.budget == 0)) != 0 || !isAvailablePacked(queue)) return;
  if (state.has(DEVICE_COPIED)) return;
  state.left = 1;
  state.budget -= 1;
  count(engine, COUNT_CHAINS, 1);
}

/** Finds a queue with chains to take, whose turn it is then; false: there is none, or no room. */
function findChains(engine: usize, device: usize): bool {
  const state = changetype<Device>(device);
  while (canTakeChain(engine)) {
    const waiting = available(device, Queue.at(device, turnOf(state)));
    state.left = min(waiting, state.budget);
    state.budget -= state.left;
    count(engine, COUNT_CHAINS, state.left);
    if (state.left != 0) return true;
  }
  return false;
}

/** What was found and cannot be taken now is not counted; the turn goes to the next queue. */
function untake(engine: usize, state: Device): void {
  count(engine, COUNT_CHAINS, -(<u64>state.left));
  pass(state);
}

/** The queues that were notified of, are on, and are still looked at. */
function waitingQueues(state: Device): u64 {
  return state.kicked & state.on & state.open;
}

/** T2: the queue whose turn it is. The caller has seen that there is one. */
function turnOf(state: Device): u32 {
  const waiting = waitingQueues(state);
  const ahead = (waiting >> <u64>state.turn) << (<u64>state.turn);
  state.turn = <u32>ctz(ahead != 0 ? ahead : waiting);
  return state.turn;
}

/** The turn goes to the next queue. */
function pass(state: Device): void {
  state.left = 0;
  state.turn = state.turn + 1 < state.queueCount ? state.turn + 1 : 0;
}

/** Chains that wait in a queue; 0: it is empty, and the driver will notify (T1), or broken. */
function available(device: usize, queue: Queue): u32 {
  let waiting = waitingIn(queue);
  if (waiting == 0) {
    enable(queue);
    waiting = waitingIn(queue);
  }
  if (waiting == TOO_MANY) {
    breakQueue(device, queue, RING_ERROR_AVAIL_INDEX, queue.avail, 0);
    waiting = 0;
  } else if (waiting == 0) {
    const state = changetype<Device>(device);
    state.kicked &= ~bitOf(queue);
    pass(state);
  } else suppress(queue);
  return changetype<Device>(device).has(DEVICE_COPIED) ? copied(device, queue, waiting) : waiting;
}

/** T6: of `waiting` chains, those that have been copied in; none: the queue waits for the rest. */
function copied(device: usize, queue: Queue, waiting: u32): u32 {
  const chains = min(waiting, queue.copied);
  queue.copied -= chains;
  if (chains != 0 || waiting == 0) return chains;
  const state = changetype<Device>(device);
  state.open &= ~bitOf(queue);
  pass(state);
  return 0;
}

function waitingIn(queue: Queue): u32 {
  return queue.isPacked ? u32(isAvailablePacked(queue)) : availableSplit(queue);
}

function suppress(queue: Queue): void {
  if (queue.isSuppressed != 0) return;
  queue.isSuppressed = 1;
  if (queue.isPacked) suppressPacked(queue);
  else suppressSplit(queue);
}

function enable(queue: Queue): void {
  queue.isSuppressed = 0;
  if (queue.isPacked) enablePacked(queue);
  else enableSplit(queue);
}

/** Inlined, as what it is made of is: see walk.ts. */
class Taker {
  @inline
  static split(device: usize, queue: Queue, index: u32): bool {
    const isLeftOver = leftOver(queue) != 0;
    const head = isLeftOver ? takeLeftOver(queue) : takeHead(queue);
    if (head >= queue.size) return refuse(device, queue, RING_ERROR_HEAD, head);
    if (!enterHead(queue, head)) return refuse(device, queue, RING_ERROR_IN_FLIGHT, head);
    const chain = Chain.at(device, index);
    chain.head = <u16>head;
    beginWalk(device, ownSegments(chain), CHAIN_SEGMENTS, index);
    if (Walker.split(device, Walk.of(device), queue, head)) {
      if (queue.inflight != 0 && !isLeftOver) enterRecord(queue, head);
      return true;
    }
    leaveHead(queue, head);
    return refuseWalk(device, queue, head);
  }
}

function takePacked(device: usize, queue: Queue, index: u32): bool {
  const slot = queue.avail;
  const chain = Chain.at(device, index);
  beginWalk(device, ownSegments(chain), CHAIN_SEGMENTS, index);
  const walk = Walk.of(device);
  if (!Walker.packed(device, walk, queue, slot)) return refuseWalk(device, queue, slot);
  const slots = walk.slots;
  if (queue.slots + slots > queue.size) {
    return refuse(device, queue, RING_ERROR_AVAIL_INDEX, slot);
  }
  if (!enterHead(queue, walk.id)) return refuse(device, queue, RING_ERROR_IN_FLIGHT, slot);
  skipPacked(queue, slots);
  queue.slots += slots;
  chain.head = <u16>walk.id;
  chain.slots = <u16>slots;
  return true;
}

/** Stops a queue because of the chain at `head`; false. */
function refuse(device: usize, queue: Queue, error: u32, head: u32): bool {
  breakQueue(device, queue, error, head, 0);
  return false;
}

/** The same, for what a walk has found. */
function refuseWalk(device: usize, queue: Queue, head: u32): bool {
  const walk = Walk.of(device);
  breakQueue(device, queue, walk.error, head, walk.errorDescriptor);
  return false;
}

/** Adds a chain to the end of its queue's line. */
function appendInOrder(device: usize, queue: Queue, index: u32): void {
  Chain.at(device, index).next = NONE;
  if (queue.orderTail == NONE) queue.orderHead = index;
  else Chain.at(device, queue.orderTail).next = index;
  queue.orderTail = index;
}
