// Who waits for a mapping's tables: a flush, and a stable request whose place is new, are worth
// nothing while the entries that lead to the data are in memory only.
//
// X1  Who comes here waits until all changes of the tables up to now are written; then it goes on
//     as it would on a disk without tables: for a sync, or as a barrier.
// X2  When they could not be written, it fails.

import { Engine, NONE } from '../engine.ts';
import { UNWRITTEN_STATE } from '../memory.ts';
import { PLACE_ALONE, PLACE_UNWRITTEN, Slot } from '../request/slot.ts';

/** It is a flush, and has not been counted yet. */
export const AFTER_FLUSH: u8 = 0;
/** Its I/O is done, and must be stable. */
export const AFTER_STABLE: u8 = 1;
/** It is a barrier that has not started. */
export const AFTER_BARRIER: u8 = 2;

@unmanaged
class Unwritten {
  head: u32;
  tail: u32;

  static of(engine: usize): Unwritten {
    return changetype<Unwritten>(engine + UNWRITTEN_STATE);
  }
}

export function initUnwritten(engine: usize): void {
  const line = Unwritten.of(engine);
  line.head = NONE;
  line.tail = NONE;
}

/** X1: lets a request wait until change number `change` is written. */
export function awaitWritten(engine: usize, index: u32, change: u64, after: u8): void {
  const line = Unwritten.of(engine);
  const slot = Slot.at(engine, index);
  slot.place = PLACE_UNWRITTEN;
  slot.after = after;
  slot.need = change;
  slot.since = changetype<Engine>(engine).now;
  slot.next = NONE;
  if (line.tail == NONE) line.head = index;
  else Slot.at(engine, line.tail).next = index;
  line.tail = index;
}

/** True when somebody waits. */
export function someAwaitWritten(engine: usize): bool {
  return Unwritten.of(engine).head != NONE;
}

/** Takes the first whose changes, up to `change`, are decided; or NONE. */
export function takeWritten(engine: usize, change: u64): u32 {
  const line = Unwritten.of(engine);
  const index = line.head;
  if (index == NONE) return NONE;
  const slot = Slot.at(engine, index);
  if (slot.need > change) return NONE;
  line.head = slot.next;
  if (line.head == NONE) line.tail = NONE;
  slot.place = PLACE_ALONE;
  return index;
}

/** Takes a request out of the line. */
export function withdrawUnwritten(engine: usize, index: u32): void {
  const line = Unwritten.of(engine);
  let before = NONE;
  for (let at = line.head; at != index; at = Slot.at(engine, at).next) before = at;
  const slot = Slot.at(engine, index);
  if (before == NONE) line.head = slot.next;
  else Slot.at(engine, before).next = slot.next;
  if (line.tail == index) line.tail = before;
  slot.place = PLACE_ALONE;
}
