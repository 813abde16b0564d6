// The request record: one slot for each request that the engine holds.
//
//   FREE -> take.ts ──▶ OPEN ─▶ hazard.ts: blocked until earlier overlaps are done
//                        │  └─▶ elevator.ts: ready to be sorted, merged, sent
//                        │  └─▶ flush.ts: waiting for a sync
//                        └─▶ finish() ─▶ done list ─▶ complete.ts publishes ─▶ FREE
//
// S1  A slot is in exactly one place: the free list, the blocked list, the elevator, a command's
//     chain, the sync list or the done list; `next` belongs to the list it is in.
// S2  A completion is published exactly once for each request taken, by the done list.

import { REQUEST_SLOTS } from '../../src/abi/limits.ts';
import { STATUS_OK } from '../../src/abi/request.ts';
import { NONE } from '../engine.ts';
import { SLOT_POOL, SLOT_SIZE, SLOTS } from '../memory.ts';
import { VERIFY, verify } from '../verify.ts';

@unmanaged
export class Slot {
  /** Next in the list that the slot is in. */
  next: u32;
  op: i32;
  flags: i32;
  /** Sort class: requests of one kind may share a command (elevator.ts). */
  kind: i32;
  tag: u32;
  segments: u32;
  data: u32;
  /** Earlier requests that must complete first. */
  blockers: u32;
  /** Guest range in bytes. */
  offset: u64;
  length: u64;
  /** The same, rounded out to the granule: what hazards compare. */
  start: u64;
  end: u64;
  /** Submission order. */
  sequence: u64;
  /** Generation that must be stable before this completes (flush.ts). */
  need: u64;
  /** Index in the hazard arrays, or NONE. */
  position: u32;
  status: u32;
  errno: u32;
  value: u32;
  /** 1: must be stable before it completes. */
  stable: u8;
  /** 1: rode in a merged command that failed; is sent again alone. */
  alone: u8;
  /** 1: in use. */
  open: u8;

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
    slot.open = 0;
  }
  pool.freeHead = 0;
  pool.doneHead = NONE;
  pool.doneTail = NONE;
  pool.open = 0;
  pool.sequence = 0;
}

/** A free slot, opened and numbered, or NONE. */
export function openSlot(engine: usize): u32 {
  const pool = SlotPool.of(engine);
  const index = pool.freeHead;
  if (index == NONE) return NONE;
  const slot = Slot.at(engine, index);
  if (VERIFY) verify(slot.open == 0);
  pool.freeHead = slot.next;
  pool.open += 1;
  slot.next = NONE;
  slot.open = 1;
  slot.sequence = ++pool.sequence;
  slot.blockers = 0;
  slot.position = NONE;
  slot.status = STATUS_OK;
  slot.errno = 0;
  slot.value = 0;
  slot.alone = 0;
  slot.stable = 0;
  return index;
}

/** Gives a slot back. */
export function closeSlot(engine: usize, index: u32): void {
  const pool = SlotPool.of(engine);
  const slot = Slot.at(engine, index);
  if (VERIFY) verify(slot.open == 1);
  slot.open = 0;
  slot.next = pool.freeHead;
  pool.freeHead = index;
  pool.open -= 1;
}

/** The request has its status; it is published with the next batch (S2). */
export function finish(engine: usize, index: u32, status: u32, errno: u32): void {
  const pool = SlotPool.of(engine);
  const slot = Slot.at(engine, index);
  if (VERIFY) verify(slot.open == 1);
  slot.status = status;
  slot.errno = errno;
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
