// The split virtqueue. VIRTIO 1.3, 2.7.
//
// Q1  What is available is what `idx` says beyond the device's own position, never more than the
//     queue holds, in flight included; entries are taken only up to the index that was read.
// Q2  An element of the used ring is whole before `idx` says that it is there (2.7.8, 2.7.13).
// Q3  The device writes the used ring and nothing else.
// Q4  After notifications have been asked for again, the index is looked at once more: what came in
//     between was not notified.

import { QUEUE_EVENT_IDX, QUEUE_NOTIFY_ON_EMPTY } from '../../src/abi/virtio-device.ts';
import {
  AVAIL_ENTRY_SIZE,
  AVAIL_FLAGS,
  AVAIL_IDX,
  AVAIL_RING,
  USED_ELEMENT_ID,
  USED_ELEMENT_LENGTH,
  USED_ELEMENT_SIZE,
  USED_FLAGS,
  USED_IDX,
  USED_RING,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_USED_F_NO_NOTIFY,
} from '../../src/abi/virtio-ring.ts';
import { loadAcquire, storeRelease } from '../guest-order.ts';
import { joinBatch, leaveRecord, leftOver } from './inflight.ts';
import { Queue } from './record.ts';

/** More entries than the queue holds (Q1). */
export const TOO_MANY: u32 = 0xffff_ffff;

/** Available entries that the device has not taken, or TOO_MANY. */
export function availableSplit(queue: Queue): u32 {
  const index = <u32>loadAcquire(<usize>queue.driver + AVAIL_IDX);
  if (((index - queue.used) & 0xffff) > queue.size) return TOO_MANY;
  const waiting = (index - queue.avail) & 0xffff;
  return waiting > queue.size ? TOO_MANY : waiting + leftOver(queue);
}

/** Takes the head of the next available chain. The caller has seen that there is one. */
export function takeHead(queue: Queue): u32 {
  const head = headAt(queue, queue.avail);
  queue.avail = (queue.avail + 1) & 0xffff;
  return head;
}

/** The head at an available index. */
export function headAt(queue: Queue, index: u32): u32 {
  const slot = <usize>(index & (queue.size - 1));
  return <u32>load<u16>(<usize>queue.driver + AVAIL_RING + slot * AVAIL_ENTRY_SIZE);
}

/** Writes the used element of `chains` chains, of which `head` is the last (2.7.9.1, IN_ORDER). */
export function putUsedSplit(queue: Queue, head: u32, length: u32, chains: u32): void {
  const slot = <usize>(queue.used & (queue.size - 1));
  const element = <usize>queue.device + USED_RING + slot * USED_ELEMENT_SIZE;
  store<u32>(element, head, USED_ELEMENT_ID);
  store<u32>(element, length, USED_ELEMENT_LENGTH);
  queue.used = (queue.used + chains) & 0xffff;
  if (queue.inflight != 0) joinBatch(queue, head);
}

/** Shows the used elements to the driver; true when it wants an interrupt for them (Q2). */
export function publishSplit(queue: Queue): bool {
  const driver = <usize>queue.driver;
  storeRelease(<usize>queue.device + USED_IDX, <u16>queue.used);
  if (queue.inflight != 0) leaveRecord(queue);
  const isEmpty: bool = queue.inFlight == 0 && <u32>loadAcquire(driver + AVAIL_IDX) == queue.avail;
  if (isEmpty && queue.has(QUEUE_NOTIFY_ON_EMPTY)) return noteSignal(queue, true);
  if (!queue.has(QUEUE_EVENT_IDX)) {
    return (<u32>loadAcquire(driver + AVAIL_FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT) == 0;
  }
  const event = <u32>loadAcquire(driver + AVAIL_RING + <usize>queue.size * AVAIL_ENTRY_SIZE);
  return noteSignal(queue, queue.isSignalledKnown == 0 || passes(event, queue));
}

/** True when the used index has gone past `event` since the last decision (2.7.7.2). */
function passes(event: u32, queue: Queue): bool {
  return ((queue.used - event - 1) & 0xffff) < ((queue.used - queue.signalled) & 0xffff);
}

function noteSignal(queue: Queue, wanted: bool): bool {
  queue.signalled = queue.used;
  queue.isSignalledKnown = 1;
  return wanted;
}

/** Asks the driver not to notify for a while (2.7.10). EVENT_IDX: the event index does it. */
export function suppressSplit(queue: Queue): void {
  if (queue.has(QUEUE_EVENT_IDX)) return;
  storeRelease(<usize>queue.device + USED_FLAGS, <u16>VIRTQ_USED_F_NO_NOTIFY);
}

/** Asks the driver to notify of the next available chain (Q4). */
export function enableSplit(queue: Queue): void {
  if (!queue.has(QUEUE_EVENT_IDX)) {
    storeRelease(<usize>queue.device + USED_FLAGS, 0);
    return;
  }
  const event = <usize>queue.device + USED_RING + <usize>queue.size * USED_ELEMENT_SIZE;
  storeRelease(event, <u16>queue.avail);
}
