// Taking requests off the request ring. The caller's numbers are hostile: each is read once,
// checked, and a bad one is answered with a status.
//
// T1  A request is taken only while a slot is free and its completion will find room in the ring;
//     what is not taken stays in the ring. Nothing grows.
//     Nothing is taken while a barrier stands either (barrier.ts, B1).
// T2  No offset, length, flag or operation that fails a check reaches a later stage, and no address
//     outside the memory: a segment table lies inside it, so does every segment, and their lengths
//     add up to the request's.

import { MAX_TRANSFER_BYTES, QUEUES, RING_ENTRIES } from '../../src/abi/limits.ts';
import {
  CONFIG_BARRIER,
  CONFIG_READ_ONLY,
  COUNT_BLOCK_STATUSES,
  COUNT_BYTES_READ,
  COUNT_BYTES_WRITTEN,
  COUNT_DISCARDS,
  COUNT_READS,
  COUNT_REFUSED,
  COUNT_WRITE_ZEROES,
  COUNT_WRITES,
  REQUEST_RING,
} from '../../src/abi/region.ts';
import {
  EXTENT_SIZE,
  EXTENT_TABLE_ENTRIES,
  OP_BLOCK_STATUS,
  OP_CLEAR_LATCH,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_RESET,
  OP_RESET_QUEUE,
  OP_SET_WCE,
  OP_WRITE,
  OP_WRITE_ZEROES,
  REQUEST_BARRIER,
  REQUEST_DATA,
  REQUEST_FAST_ZERO,
  REQUEST_FLAGS,
  REQUEST_FUA,
  REQUEST_LENGTH,
  REQUEST_MAY_UNMAP,
  REQUEST_OFFSET,
  REQUEST_OP,
  REQUEST_QUEUE,
  REQUEST_SEGMENTS,
  REQUEST_SIZE,
  REQUEST_TAG,
  SEGMENT_ADDRESS,
  SEGMENT_LENGTH,
  SEGMENT_SIZE,
  STATUS_INVALID,
  STATUS_OK,
  STATUS_OUT_OF_RANGE,
  STATUS_READ_ONLY,
} from '../../src/abi/request.ts';
import { count, Engine, NONE } from '../engine.ts';
import { openSlot, Slot, SlotPool } from './slot.ts';

/** Largest segment table of a request: what one preadv or pwritev takes (IOV_MAX). */
const SEGMENTS_MAX: u32 = 1024;

/** T1: true when a request waits, a slot is free, and its completion will find room. */
export function canTake(engine: usize): bool {
  const state = changetype<Engine>(engine);
  const pool = SlotPool.of(engine);
  const waiting = state.completionTail - state.completionHead;
  return (
    state.requestHead != state.requestTail &&
    pool.freeHead != NONE &&
    waiting + pool.open < <u32>RING_ENTRIES
  );
}

/**
 * Takes the next request into a slot. Its status is STATUS_OK, or why it is refused.
 * Returns the slot, or NONE when the ring is empty or the engine is full (T1).
 */
export function takeRequest(engine: usize): u32 {
  if (!canTake(engine)) return NONE;
  const state = changetype<Engine>(engine);
  const head = state.requestHead;
  const index = openSlot(engine);
  const slot = Slot.at(engine, index);
  const record = engine + REQUEST_RING + (<usize>head % RING_ENTRIES) * REQUEST_SIZE;
  slot.tag = load<u32>(record, REQUEST_TAG);
  slot.op = <i32>load<u8>(record, REQUEST_OP);
  slot.flags = <i32>load<u8>(record, REQUEST_FLAGS);
  slot.queue = load<u16>(record, REQUEST_QUEUE);
  slot.segments = load<u32>(record, REQUEST_SEGMENTS);
  slot.data = load<u32>(record, REQUEST_DATA);
  slot.offset = load<u64>(record, REQUEST_OFFSET);
  slot.length = load<u64>(record, REQUEST_LENGTH);
  state.requestHead = head + 1;

  slot.status = check(state, slot);
  if (slot.status == STATUS_OK) tally(engine, slot);
  else count(engine, COUNT_REFUSED, 1);
  return index;
}

/** True for what ends a queue or all of them. */
export function isReset(op: i32): bool {
  return op == OP_RESET_QUEUE || op == OP_RESET;
}

/** True for what changes the disk. */
export function isWriteClass(op: i32): bool {
  return op == OP_WRITE || op == OP_WRITE_ZEROES || op == OP_DISCARD;
}

/** STATUS_OK, or the first rule that the request breaks (T2). */
function check(state: Engine, slot: Slot): u32 {
  const op = slot.op;
  if (op > OP_CLEAR_LATCH || slot.queue >= <u16>QUEUES) return STATUS_INVALID;
  if ((slot.flags & ~flagsOf(state, op)) != 0) return STATUS_INVALID;
  if (op == OP_SET_WCE) return slot.length <= 1 ? STATUS_OK : STATUS_INVALID;
  if (op >= OP_FLUSH) return STATUS_OK;
  if (isWriteClass(op) && (state.flags & CONFIG_READ_ONLY) != 0) return STATUS_READ_ONLY;
  if (slot.length > state.capacity) return STATUS_OUT_OF_RANGE;
  if (slot.offset > state.capacity - slot.length) return STATUS_OUT_OF_RANGE;
  if (op == OP_BLOCK_STATUS) {
    return inMemory(slot.data, EXTENT_TABLE_ENTRIES * EXTENT_SIZE) ? STATUS_OK : STATUS_INVALID;
  }
  if (op == OP_READ || op == OP_WRITE) return checkData(slot);
  return STATUS_OK;
}

/** The memory part of T2. */
function checkData(slot: Slot): u32 {
  if (slot.length > <u64>MAX_TRANSFER_BYTES) return STATUS_INVALID;
  const segments = slot.segments;
  if (segments == 0 || segments > SEGMENTS_MAX) return STATUS_INVALID;
  if (segments == 1) return inMemory(slot.data, slot.length) ? STATUS_OK : STATUS_INVALID;
  if (!inMemory(slot.data, <u64>segments * SEGMENT_SIZE)) return STATUS_INVALID;
  let bytes: u64 = 0;
  for (let i: u32 = 0; i < segments; i++) {
    const entry = <usize>slot.data + <usize>i * SEGMENT_SIZE;
    const length = <u64>load<u32>(entry, SEGMENT_LENGTH);
    if (!inMemory(load<u32>(entry, SEGMENT_ADDRESS), length)) return STATUS_INVALID;
    bytes += length;
  }
  return bytes == slot.length ? STATUS_OK : STATUS_INVALID;
}

/** True when `length` bytes at `address` lie inside the memory. */
function inMemory(address: u32, length: u64): bool {
  return <u64>address + length <= (<u64>memory.size()) << 16;
}

/** The flags that an operation takes. */
function flagsOf(state: Engine, op: i32): i32 {
  const barrier: i32 = state.has(CONFIG_BARRIER) ? REQUEST_BARRIER : 0;
  switch (op) {
    case OP_READ:
    case OP_FLUSH:
      return barrier;
    case OP_WRITE:
    case OP_DISCARD:
      return barrier | REQUEST_FUA;
    case OP_WRITE_ZEROES:
      return barrier | REQUEST_FUA | REQUEST_MAY_UNMAP | REQUEST_FAST_ZERO;
    default:
      return 0;
  }
}

function tally(engine: usize, slot: Slot): void {
  switch (slot.op) {
    case OP_READ:
      count(engine, COUNT_READS, 1);
      count(engine, COUNT_BYTES_READ, slot.length);
      break;
    case OP_WRITE:
      count(engine, COUNT_WRITES, 1);
      count(engine, COUNT_BYTES_WRITTEN, slot.length);
      break;
    case OP_WRITE_ZEROES:
      count(engine, COUNT_WRITE_ZEROES, 1);
      break;
    case OP_DISCARD:
      count(engine, COUNT_DISCARDS, 1);
      break;
    case OP_BLOCK_STATUS:
      count(engine, COUNT_BLOCK_STATUSES, 1);
      break;
  }
}
