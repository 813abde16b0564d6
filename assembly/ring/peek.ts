// Looking at chains without taking them, for guests whose memory is a copy: what the device will
// read has to be copied in before it does, and what it has written has to be copied out.
//
// Y1  A peek decides nothing and changes nothing of the queue; what it finds is walked again when
//     the chain is taken.
// Y2  A chain lists what will be read: first its indirect table, if it has one; then, once that is
//     there, its readable buffers.
// Y3  A landed chain lists what was written: data, status area, status; nothing when its queue is
//     being reset.

import { SEGMENT_ADDRESS, SEGMENT_LENGTH, SEGMENT_SIZE } from '../../src/abi/request.ts';
import {
  CHAIN_DESCRIPTORS,
  PEEK_NONE,
  PEEK_TABLE,
  QUEUE_DEAD,
  RING_ERROR_HEAD,
} from '../../src/abi/virtio-device.ts';
import { VIRTIO_BLK_S_OK } from '../../src/abi/virtio-blk.ts';
import { WALK_SEGMENTS } from '../device.ts';
import { NONE } from '../engine.ts';
import { NOWHERE } from '../guest.ts';
import { isAvailableAt } from './packed.ts';
import { Chain, Queue, segmentsOf, Walk } from './record.ts';
import { availableSplit, headAt, TOO_MANY } from './split.ts';
import { beginWalk, Walker } from './walk.ts';

/** Begins to peek at what is available in a queue. */
export function beginPeek(device: usize, index: u32): void {
  const queue = Queue.at(device, index);
  queue.peek = queue.avail;
  queue.peekWrap = queue.availWrap;
}

/**
 * Lists what will be read of the next chain; `hasTable` says that its indirect table is there. The
 * entries of the list, PEEK_TABLE, or PEEK_NONE (Y2).
 */
export function peekChain(device: usize, index: u32, hasTable: bool): u32 {
  const queue = Queue.at(device, index);
  const walk = Walk.of(device);
  if (!isNextThere(queue)) return <u32>PEEK_NONE;
  beginWalk(device, device + WALK_SEGMENTS, CHAIN_DESCRIPTORS, NONE);
  walk.stopsAtTable = u32(!hasTable);
  walk.error = 0;
  const isSound = walkNext(device, queue);
  walk.stopsAtTable = 0;
  if (!isSound) return walk.error == 0 ? <u32>PEEK_TABLE : <u32>PEEK_NONE;
  movePeek(queue, walk);
  return walk.readableSegments;
}

function isNextThere(queue: Queue): bool {
  if (queue.isPacked) return isAvailableAt(queue, queue.peek, queue.peekWrap);
  const waiting = availableSplit(queue);
  if (waiting == TOO_MANY) return false;
  return ((queue.peek - queue.avail) & 0xffff) < waiting;
}

function walkNext(device: usize, queue: Queue): bool {
  if (queue.isPacked) return Walker.packed(device, Walk.of(device), queue, queue.peek);
  const head = headAt(queue, queue.peek);
  if (head < queue.size) return Walker.split(device, Walk.of(device), queue, head);
  Walk.of(device).error = RING_ERROR_HEAD;
  return false;
}

function movePeek(queue: Queue, walk: Walk): void {
  if (!queue.isPacked) {
    queue.peek = (queue.peek + 1) & 0xffff;
    return;
  }
  queue.peek += walk.slots;
  if (queue.peek < queue.size) return;
  queue.peek -= queue.size;
  queue.peekWrap ^= 1;
}

/** Lists what a decided chain has written (Y3); the entries of the list. */
export function listWritten(device: usize, index: u32): u32 {
  const chain = Chain.at(device, index);
  const list = device + WALK_SEGMENTS;
  if (chain.statusPlace == <u32>NOWHERE) return 0;
  if (Queue.at(device, chain.queue).state == QUEUE_DEAD) return 0;
  let entries: u32 = 0;
  const data = segmentsOf(device, chain) + <usize>chain.first * SEGMENT_SIZE;
  let left: u32 = chain.status == VIRTIO_BLK_S_OK ? chain.written : 0;
  for (; left != 0; entries++) {
    const from = data + <usize>entries * SEGMENT_SIZE;
    const to = list + <usize>entries * SEGMENT_SIZE;
    const length = min(left, load<u32>(from, SEGMENT_LENGTH));
    store<u32>(to, load<u32>(from, SEGMENT_ADDRESS), SEGMENT_ADDRESS);
    store<u32>(to, length, SEGMENT_LENGTH);
    left -= length;
  }
  const status = list + <usize>entries * SEGMENT_SIZE;
  store<u32>(status, chain.statusPlace - chain.padding, SEGMENT_ADDRESS);
  store<u32>(status, chain.padding + 1, SEGMENT_LENGTH);
  return entries + 1;
}
