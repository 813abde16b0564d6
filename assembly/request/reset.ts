// Resets of a queue or of the whole device, with requests in flight.
//
// R1  What no command at the host carries is aborted at once: in the elevator, blocked, waiting
//     for a sync, about to be sent again.
// R2  What the host holds cannot be called back: it is awaited and has a status of its own. So is a
//     flight of which the host holds a part.
// R3  A reset is done when no request of its queue is open. Until then what is taken from that
//     queue is aborted; so a reset ends however fast its queue is filled.
// R4  A reset of the device puts the write cache back as it was at first. It proves nothing and
//     heals nothing: generations and latch stay (flush.ts, F1, F6).

import { QUEUES } from '../../src/abi/limits.ts';
import { CONFIG_WCE, COUNT_ABORTED } from '../../src/abi/region.ts';
import { OP_RESET, STATUS_ABORTED, STATUS_OK } from '../../src/abi/request.ts';
import { count, Engine, NONE } from '../engine.ts';
import { QUEUE_SIZE, QUEUE_TABLE, RESET_STATE } from '../memory.ts';
import { finish, Slot } from './slot.ts';
import { isReset } from './take.ts';

@unmanaged
class Queue {
  /** Requests taken from it and not published, resets aside. */
  open: u32;
  /** Resets of it that are not done, those of the device among them. */
  resets: u32;

  static at(engine: usize, queue: u32): Queue {
    return changetype<Queue>(engine + QUEUE_TABLE + <usize>queue * QUEUE_SIZE);
  }
}

if (offsetof<Queue>() != QUEUE_SIZE) ERROR('Queue');

@unmanaged
class Resets {
  /** Requests taken and not published, resets aside. */
  open: u32;
  /** Resets that are not done, first come first. */
  head: u32;
  tail: u32;

  static of(engine: usize): Resets {
    return changetype<Resets>(engine + RESET_STATE);
  }
}

export function initResets(engine: usize): void {
  const resets = Resets.of(engine);
  resets.open = 0;
  resets.head = NONE;
  resets.tail = NONE;
  memory.fill(engine + QUEUE_TABLE, 0, <usize>QUEUES * QUEUE_SIZE);
}

/** A request has been taken. */
export function enterQueue(engine: usize, index: u32): void {
  const slot = Slot.at(engine, index);
  if (isReset(slot.op)) return;
  Resets.of(engine).open += 1;
  if (slot.queue < <u16>QUEUES) Queue.at(engine, slot.queue).open += 1;
}

/** A request is about to be published. */
export function leaveQueue(engine: usize, index: u32): void {
  const slot = Slot.at(engine, index);
  if (isReset(slot.op)) return;
  Resets.of(engine).open -= 1;
  if (slot.queue < <u16>QUEUES) Queue.at(engine, slot.queue).open -= 1;
}

/** R3: true while the queue of a request is being reset. */
export function isResetting(engine: usize, index: u32): bool {
  return Queue.at(engine, Slot.at(engine, index).queue).resets != 0;
}

/** Takes a reset; the caller then aborts whatever it concerns and can be aborted (R1). */
export function takeReset(engine: usize, index: u32): void {
  append(engine, index);
  mark(engine, Slot.at(engine, index), 1);
}

/** True when a reset is to end the request at `index`. */
export function concerns(engine: usize, reset: u32, index: u32): bool {
  const slot = Slot.at(engine, reset);
  return slot.op == OP_RESET || slot.queue == Slot.at(engine, index).queue;
}

/** Ends a request that no command at the host carries (R1). */
export function abort(engine: usize, index: u32): void {
  count(engine, COUNT_ABORTED, 1);
  finish(engine, index, STATUS_ABORTED, 0);
}

/** R3: finishes the resets that have nothing to wait for; true when there was one. */
export function finishResets(engine: usize): bool {
  const resets = Resets.of(engine);
  let any: bool = false;
  let index = resets.head;
  if (index == NONE) return false;
  resets.head = NONE;
  resets.tail = NONE;
  while (index != NONE) {
    const slot = Slot.at(engine, index);
    const next = slot.next;
    slot.next = NONE;
    if (isDone(engine, slot)) {
      any = true;
      mark(engine, slot, -1);
      endReset(engine, index);
    } else append(engine, index);
    index = next;
  }
  return any;
}

/** Adds a reset to the end of the line. */
function append(engine: usize, index: u32): void {
  const resets = Resets.of(engine);
  if (resets.tail == NONE) resets.head = index;
  else Slot.at(engine, resets.tail).next = index;
  resets.tail = index;
}

function isDone(engine: usize, slot: Slot): bool {
  if (slot.op == OP_RESET) return Resets.of(engine).open == 0;
  return Queue.at(engine, slot.queue).open == 0;
}

function endReset(engine: usize, index: u32): void {
  const state = changetype<Engine>(engine);
  if (Slot.at(engine, index).op == OP_RESET) state.wce = u32(state.has(CONFIG_WCE)); // R4
  finish(engine, index, STATUS_OK, 0);
}

/** Adds `change` to the resets of the queues that a reset concerns. */
function mark(engine: usize, slot: Slot, change: i32): void {
  if (slot.op != OP_RESET) Queue.at(engine, slot.queue).resets += change;
  else
    for (let queue: u32 = 0; queue < <u32>QUEUES; queue++) Queue.at(engine, queue).resets += change;
}
