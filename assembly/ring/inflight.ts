// The record of what is in flight of a split queue, in memory that outlives the process:
// vhost-user, "Inflight I/O tracking". The next process finds in it what was taken and not
// returned.
//
// Y1  A chain is in the record before anything of it is done.
// Y2  A chain leaves it when the driver can see its used entry. What a batch of used entries leaves
//     can be told from outside at every moment: the list from LAST_BATCH_HEAD, as long as the used
//     index is ahead of USED_INDEX.
// Y3  What the last process has left comes first, in the order in which it was taken.
// Y4  Others can write to the record, as to the rings: heads out of it are checked like theirs.

import {
  INFLIGHT_LAST_BATCH_HEAD,
  INFLIGHT_STATE_COUNTER,
  INFLIGHT_STATE_FLAG,
  INFLIGHT_STATE_NEXT,
  INFLIGHT_STATE_SIZE,
  INFLIGHT_STATES,
  INFLIGHT_USED_INDEX,
} from '../../src/abi/virtio-device.ts';
import { Queue } from './record.ts';

/** Chains of the last process that were not taken yet. */
export function leftOver(queue: Queue): u32 {
  return queue.resubmits - queue.resubmitted;
}

/** The next of them (Y3); there is one. */
export function takeLeftOver(queue: Queue): u32 {
  const order = stateAt(queue, queue.size);
  const head = <u32>load<u16>(order + <usize>queue.resubmitted * 2);
  queue.resubmitted += 1;
  return head;
}

/** Y1: of a chain that was not in the record. */
export function enterRecord(queue: Queue, head: u32): void {
  const state = stateAt(queue, head);
  store<u64>(state, queue.counter, INFLIGHT_STATE_COUNTER);
  queue.counter += 1;
  store<u8>(state, 1, INFLIGHT_STATE_FLAG);
}

/** Adds a chain to the batch whose used entries the driver cannot see yet. */
export function joinBatch(queue: Queue, head: u32): void {
  const record = <usize>queue.inflight;
  const last = load<u16>(record, INFLIGHT_LAST_BATCH_HEAD);
  store<u16>(stateAt(queue, head), last, INFLIGHT_STATE_NEXT);
  store<u16>(record, <u16>head, INFLIGHT_LAST_BATCH_HEAD);
}

/** Y2: the driver sees the batch. */
export function leaveRecord(queue: Queue): void {
  const record = <usize>queue.inflight;
  const ended = (queue.used - <u32>load<u16>(record, INFLIGHT_USED_INDEX)) & 0xffff;
  let head = <u32>load<u16>(record, INFLIGHT_LAST_BATCH_HEAD);
  for (let count = min(ended, queue.size); count > 0; count--) {
    // Y4: the size is a power of two.
    const state = stateAt(queue, head & (queue.size - 1));
    store<u8>(state, 0, INFLIGHT_STATE_FLAG);
    head = <u32>load<u16>(state, INFLIGHT_STATE_NEXT);
  }
  store<u16>(record, <u16>queue.used, INFLIGHT_USED_INDEX);
}

function stateAt(queue: Queue, head: u32): usize {
  return <usize>queue.inflight + INFLIGHT_STATES + <usize>head * INFLIGHT_STATE_SIZE;
}
