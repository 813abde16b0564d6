// The request record: one slot for each request that the engine holds.
//
//   FREE ─ take.ts ─▶ ALONE ─▶ BLOCKED     hazard.ts: until earlier overlaps are done
//                       │  └─▶ READY       elevator.ts: to be sorted, merged, sent
//                       │  └─▶ SENT        flight.ts: at the host
//                       │  └─▶ WAITING     flush.ts: for a sync
//                       │  └─▶ SUPERSEDED  supersede.ts: rides with a later write
//                       │  └─▶ HELD        hold.ts: failed, until the host says to go on
//                       │  └─▶ UNWRITTEN   unwritten.ts: for a mapping's tables
//                       └─ finish() ─▶ DONE ─ complete.ts publishes ─▶ FREE
//
// S1  A slot is in exactly one place, which its field `place` names; `next` belongs to the list of
//     that place. ALONE are a barrier that stands and a reset that waits.
// S2  A completion is published exactly once for each request taken, by the done list.

import { REQUEST_SLOTS } from '../../src/abi/limits.ts';
import { STATUS_OK } from '../../src/abi/request.ts';
import { Engine, NONE } from '../engine.ts';
import { SLOT_POOL, SLOT_SIZE, SLOTS } from '../memory.ts';
import { VERIFY, verify } from '../verify.ts';

export const PLACE_FREE: u8 = 0;
export const PLACE_ALONE: u8 = 1;
export const PLACE_BLOCKED: u8 = 2;
export const PLACE_READY: u8 = 3;
export const PLACE_SENT: u8 = 4;
export const PLACE_WAITING: u8 = 5;
export const PLACE_SUPERSEDED: u8 = 6;
export const PLACE_DONE: u8 = 7;
export const PLACE_HELD: u8 = 8;
export const PLACE_UNWRITTEN: u8 = 9;

@unmanaged
export class Slot {
  /** Next in the list that the slot is in. */
  next: u32;
  op: i32;
  flags: i32;
  tag: u32;
  segments: u32;
  data: u32;
  /** Earlier requests that must complete first. */
  blockers: u32;
  /** Index in the hazard arrays, or NONE. */
  position: u32;
  /** Guest range in bytes. */
  offset: u64;
  length: u64;
  /** The same, rounded out to the granule: what hazards compare. */
  start: u64;
  end: u64;
  /** Submission order. */
  sequence: u64;
  /** What counts for who goes first: its own sequence, or that of the oldest it has taken over. */
  age: u64;
  /** Generation that must be stable before this completes (flush.ts). */
  need: u64;
  /** Time when it was taken, in microseconds. */
  arrival: u64;
  /** Time when it began to wait for a sync. */
  since: u64;
  status: u32;
  errno: u32;
  value: u32;
  /** First of the writes that this one has taken over (supersede.ts), or NONE. */
  superseded: u32;
  queue: u16;
  /** Where it is (S1). */
  place: u8;
  /** 1: must be stable before it completes. */
  stable: u8;
  /** 1: rode in a merged command that failed; is sent again alone. */
  alone: u8;
  /** 1: a barrier whose first flush is not done. */
  preFlush: u8;
  /** What comes when the tables are written (unwritten.ts). */
  after: u8;
  /** Sort class: requests of one kind may share a command (elevator.ts). */
  kind: u8;

  /** The slot of an index. */
  static at(engine: usize, index: u32): Slot {
    if (VERIFY) verify(index < <u32>REQUEST_SLOTS);
    return changetype<Slot>(engine + SLOTS + <usize>index * SLOT_SIZE);
  }
}

if (offsetof<Slot>() > SLOT_SIZE) ERROR('Slot');

/** Free and done lists, and what is common to all slots. */
@unmanaged
export class SlotPool {
  freeHead: u32;
  doneHead: u32;
  doneTail: u32;
  /** Slots in use. */
  open: u32;
  sequence: u64;

  static of(engine: usize): SlotPool {
    return changetype<SlotPool>(engine + SLOT_POOL);
  }
}

/** Puts every slot on the free list, lowest index first. */
export function initSlots(engine: usize): void {
  const pool = SlotPool.of(engine);
  for (let i: u32 = 0; i < <u32>REQUEST_SLOTS; i++) {
    const slot = Slot.at(engine, i);
    slot.next = i + 1 < <u32>REQUEST_SLOTS ? i + 1 : NONE;
    slot.place = PLACE_FREE;
  }
  pool.freeHead = 0;
  pool.doneHead = NONE;
  pool.doneTail = NONE;
  pool.open = 0;
  pool.sequence = 0;
}

/** A free slot, opened and numbered. The caller has seen that there is one. */
export function openSlot(engine: usize): u32 {
  const pool = SlotPool.of(engine);
  const index = pool.freeHead;
  const slot = Slot.at(engine, index);
  if (VERIFY) verify(slot.place == PLACE_FREE);
  pool.freeHead = slot.next;
  pool.open += 1;
  slot.next = NONE;
  slot.place = PLACE_ALONE;
  slot.sequence = ++pool.sequence;
  slot.age = slot.sequence;
  slot.arrival = changetype<Engine>(engine).now;
  slot.blockers = 0;
  slot.position = NONE;
  slot.status = STATUS_OK;
  slot.errno = 0;
  slot.value = 0;
  slot.superseded = NONE;
  slot.alone = 0;
  slot.stable = 0;
  slot.preFlush = 0;
  return index;
}

/** Gives a slot back. */
export function closeSlot(engine: usize, index: u32): void {
  const pool = SlotPool.of(engine);
  const slot = Slot.at(engine, index);
  if (VERIFY) verify(slot.place != PLACE_FREE);
  slot.place = PLACE_FREE;
  slot.next = pool.freeHead;
  pool.freeHead = index;
  pool.open -= 1;
}

/** The request has its status; it is published with the next batch (S2). */
export function finish(engine: usize, index: u32, status: u32, errno: u32): void {
  const pool = SlotPool.of(engine);
  const slot = Slot.at(engine, index);
  if (VERIFY) verify(slot.place != PLACE_FREE && slot.place != PLACE_DONE);
  slot.status = status;
  slot.errno = errno;
  slot.place = PLACE_DONE;
  slot.next = NONE;
  if (pool.doneTail == NONE) pool.doneHead = index;
  else Slot.at(engine, pool.doneTail).next = index;
  pool.doneTail = index;
}

/** Takes the first finished request off the done list, or NONE. */
export function takeDone(engine: usize): u32 {
  const pool = SlotPool.of(engine);
  const index = pool.doneHead;
  if (index == NONE) return NONE;
  pool.doneHead = Slot.at(engine, index).next;
  if (pool.doneHead == NONE) pool.doneTail = NONE;
  return index;
}
