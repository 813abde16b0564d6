// The story of a batch: results in, requests in, commands out, completions out.
//
// P1  One call takes everything that waits in both input rings, as far as there is room, and leaves
//     nothing undone that could be done.
// P2  Same bytes in, same bytes out: there is no clock, no randomness and no host call in here.

import { COUNT_REISSUED } from '../src/abi/region.ts';
import { OP_FLUSH, OP_SET_WCE, OP_WRITE, STATUS_OK } from '../src/abi/request.ts';
import { chainBytes, emitChain, emitSync } from './command/emit.ts';
import { errnoShown, Result, resultsWaiting, statusOf, takeResult } from './command/result.ts';
import { closeCommand, commandRoom, CommandSlot, SYNC_ID } from './command/slot.ts';
import { count, Engine, NONE } from './engine.ts';
import { mapRaw } from './map/raw.ts';
import { publish } from './request/complete.ts';
import { finish, Slot, takeDone } from './request/slot.ts';
import { isWriteClass, takeRequest } from './request/take.ts';
import {
  chainLength,
  collectRuns,
  enqueue,
  keepRest,
  takeOldestRun,
  takeRunInPlace,
} from './schedule/elevator.ts';
import { awaitStable, endSync, noteVolatileWrite, startSync, takeFlush } from './schedule/flush.ts';
import { enterHazards, leaveHazards, takeUnblocked } from './schedule/hazard.ts';
import { classify, declassify, sharesSync } from './schedule/stability.ts';

/** Runs the engine over one batch. Returns the commands that wait for the host. */
export function run(engine: usize): u32 {
  takeResults(engine);
  settle(engine);
  for (let more: bool = true; more;) {
    more = takeRequests(engine);
    settle(engine);
  }
  dispatch(engine);
  if (startSync(engine)) emitSync(engine);
  const state = changetype<Engine>(engine);
  return state.commandTail - state.commandHead;
}

/** Answers of the host become statuses, new rounds, or a wait for a sync. */
function takeResults(engine: usize): void {
  for (let left = resultsWaiting(engine); left != 0; left--) {
    const result = takeResult(engine);
    if (result.id == SYNC_ID) endSync(engine, result.errno);
    else takeAnswer(engine, result);
  }
}

/** The answer to a data command decides for every request that rode in it. */
function takeAnswer(engine: usize, result: Result): void {
  const stableAlready = CommandSlot.at(engine, result.id).stable != 0;
  const errno = result.errno;
  const head = closeCommand(engine, result.id);
  const first = Slot.at(engine, head);
  // A failed stable write is in an unknown state, so it counts as volatile (flush.ts, F5).
  if (isWriteClass(first.op) && (!stableAlready || errno != 0)) noteVolatileWrite(engine);
  const merged = first.next != NONE;
  for (let index = head; index != NONE;) {
    const slot = Slot.at(engine, index);
    const next = slot.next;
    slot.value = result.value;
    if (errno == 0 && slot.stable && !stableAlready) awaitStable(engine, index);
    else if (errno != 0 && merged) sendAgainAlone(engine, index);
    else finish(engine, index, statusOf(errno), errnoShown(errno));
    index = next;
  }
}

/** A part of a failed merged command gets a status of its own. */
function sendAgainAlone(engine: usize, index: u32): void {
  Slot.at(engine, index).alone = 1;
  count(engine, COUNT_REISSUED, 1);
  enqueue(engine, index);
}

/** Takes requests until the ring is empty or the engine full; true when trying again may help. */
function takeRequests(engine: usize): bool {
  const state = changetype<Engine>(engine);
  const before = state.requestHead;
  for (let index = takeRequest(engine); index != NONE; index = takeRequest(engine)) {
    admit(engine, index);
  }
  return state.requestHead != before && state.requestHead != state.requestTail;
}

/** A request that has been checked finds its way. */
function admit(engine: usize, index: u32): void {
  const slot = Slot.at(engine, index);
  if (slot.status != STATUS_OK) {
    finish(engine, index, slot.status, 0);
    return;
  }
  switch (slot.op) {
    case OP_FLUSH:
      takeFlush(engine, index);
      return;
    case OP_SET_WCE:
      changetype<Engine>(engine).wce = <u32>slot.length;
      if (slot.length != 0) finish(engine, index, STATUS_OK, 0);
      else takeFlush(engine, index);
      return;
    default:
      if (isWriteClass(slot.op)) classify(engine, index);
      if (slot.length == 0) finish(engine, index, STATUS_OK, 0);
      else if (enterHazards(engine, index)) enqueue(engine, index);
  }
}

/** Publishes what has finished; what it was blocking goes to the elevator. */
function settle(engine: usize): void {
  for (let index = takeDone(engine); index != NONE; index = takeDone(engine)) {
    declassify(engine, index);
    for (let freed = leaveHazards(engine, index); freed != 0; freed--) {
      enqueue(engine, takeUnblocked(engine));
    }
    publish(engine, index);
  }
}

/** Sorts, merges, maps and emits as much as the host takes. */
function dispatch(engine: usize): void {
  const room = commandRoom(engine);
  if (room == 0) return;
  const runs = collectRuns(engine);
  if (runs <= room) {
    for (let i: u32 = 0; i < runs; i++) send(engine, takeRunInPlace(engine, i));
  } else {
    for (let i: u32 = 0; i < room; i++) send(engine, takeOldestRun(engine));
  }
  keepRest(engine);
}

/** Maps a run and emits its command. */
function send(engine: usize, head: u32): void {
  const first = Slot.at(engine, head);
  const parts = chainLength(engine, head);
  const length = chainBytes(engine, head);
  const extent = mapRaw(engine, first.offset, length);
  const direct = first.op == OP_WRITE && first.stable != 0 && !sharesSync(engine, parts);
  emitChain(engine, head, parts, extent.file, extent.hostOffset, extent.length, direct);
}
