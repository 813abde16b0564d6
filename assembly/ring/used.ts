// Returning chains, and telling the driver.
//
// U1  A chain is returned once, when its request is decided and everything it was to write has been
//     written: data, then status, then the used entry, then its publication.
// U2  IN_ORDER: chains are returned in the order in which they were made available, all that can be
//     by one used entry, the last one's (2.7.9, 2.8.5); the I/O behind them is free.
// U3  Used entries are published once in a call, and then it is decided whether the driver wants an
//     interrupt.
// U4  Nothing is returned to a queue that is being reset.
// U5  Where chains land (DEVICE_LANDS) they are returned when the host has looked at what they
//     wrote.

import { DEVICE_LANDS, QUEUE_DEAD, QUEUE_IN_ORDER } from '../../src/abi/virtio-device.ts';
import {
  COUNT_INTERRUPTS,
  COUNT_INTERRUPTS_SUPPRESSED,
  REGION_SIZE,
} from '../../src/abi/region.ts';
import { Device } from '../device.ts';
import { count, NONE } from '../engine.ts';
import { publishPacked, putUsedPacked } from './packed.ts';
import { bitOf } from './queue.ts';
import { Chain, CHAIN_DONE, Queue } from './record.ts';
import { closeChain, countInFlight } from './slot.ts';
import { publishSplit, putUsedSplit } from './split.ts';

/** A chain is decided: it goes back to the driver, now or in its turn (U2, U4, U5). */
export function returnChain(engine: usize, index: u32): void {
  const device = engine + REGION_SIZE;
  const chain = Chain.at(device, index);
  const queue = Queue.at(device, chain.queue);
  chain.state = CHAIN_DONE;
  if (queue.state == QUEUE_DEAD) closeChain(device, index);
  else if (changetype<Device>(device).has(DEVICE_LANDS)) appendLanded(device, index);
  else putUsed(device, queue, index);
}

/** The host has looked at what the first chain in line wrote (U5). There is one. */
export function landChain(device: usize): void {
  const state = changetype<Device>(device);
  const index = state.landed;
  const chain = Chain.at(device, index);
  const queue = Queue.at(device, chain.queue);
  state.landed = chain.next;
  if (queue.state == QUEUE_DEAD) closeChain(device, index);
  else putUsed(device, queue, index);
}

/** Publishes the used entries of all queues (U3). */
export function publishUsed(engine: usize): void {
  const device = engine + REGION_SIZE;
  const state = changetype<Device>(device);
  for (let queues = state.used; queues != 0; queues &= queues - 1) {
    const queue = Queue.at(device, <u32>ctz(queues));
    if (queue.state == QUEUE_DEAD) continue;
    if (queue.has(QUEUE_IN_ORDER) && !putInOrder(device, queue)) continue;
    const wanted = queue.isPacked ? publishPacked(queue) : publishSplit(queue);
    count(engine, wanted ? COUNT_INTERRUPTS : COUNT_INTERRUPTS_SUPPRESSED, 1);
    if (wanted) state.interrupts |= bitOf(queue);
  }
  state.used = 0;
  countInFlight(device);
}

/** Writes the used entry of a chain, or leaves it for its turn. */
function putUsed(device: usize, queue: Queue, index: u32): void {
  changetype<Device>(device).used |= bitOf(queue);
  if (queue.has(QUEUE_IN_ORDER)) return;
  const chain = Chain.at(device, index);
  if (queue.isPacked) putUsedPacked(queue, chain.head, chain.usedLength, chain.slots);
  else putUsedSplit(queue, chain.head, chain.usedLength, 1);
  closeChain(device, index);
}

/** Writes one used entry for the decided chains at the head of the line (U2); false: none is. */
function putInOrder(device: usize, queue: Queue): bool {
  let head: u32 = 0;
  let length: u32 = 0;
  let slots: u32 = 0;
  let chains: u32 = 0;
  for (let index = queue.orderHead; index != NONE; index = queue.orderHead) {
    const chain = Chain.at(device, index);
    if (chain.state != CHAIN_DONE) break;
    queue.orderHead = chain.next;
    if (queue.orderHead == NONE) queue.orderTail = NONE;
    head = chain.head;
    length = chain.usedLength;
    slots += chain.slots;
    chains += 1;
    closeChain(device, index);
  }
  if (chains == 0) return false;
  if (queue.isPacked) putUsedPacked(queue, head, length, slots);
  else putUsedSplit(queue, head, length, chains);
  return true;
}

function appendLanded(device: usize, index: u32): void {
  const state = changetype<Device>(device);
  // The line of an in-order queue uses `next`; where chains land there is no such queue.
  Chain.at(device, index).next = NONE;
  if (state.landed == NONE) state.landed = index;
  else Chain.at(device, state.landedTail).next = index;
  state.landedTail = index;
}
