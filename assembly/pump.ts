// The story of a batch: results in, requests in, commands out, completions out.
//
// P1  One call takes everything that waits in both input rings, as far as there is room, and leaves
//     nothing undone that could be done.
// P2  Same bytes in, same bytes out: there is no clock, no randomness and no host call in here.
//     Time is what the caller says.

import { emitSync } from './command/emit.ts';
import { resultsWaiting, takeResult } from './command/result.ts';
import { Device, hasDevice } from './device.ts';
import { dispatch, takeAnswer } from './dispatch.ts';
import { Engine, NONE, setClock } from './engine.ts';
import { sendOrders, stepMapping, takeOrderAnswer, waitOfMapping, forgetProof } from './mapped.ts';
import { hasRequests, writeStatus } from './request/blk-answer.ts';
import { submitChain } from './request/blk.ts';
import { publish } from './request/complete.ts';
import { keepHeld, takeHeld } from './request/hold.ts';
import {
  abort,
  concerns,
  enterQueue,
  finishResets,
  isResetting,
  takeReset,
} from './request/reset.ts';
import {
  PLACE_ALONE,
  PLACE_BLOCKED,
  PLACE_FREE,
  PLACE_READY,
  PLACE_UNWRITTEN,
  PLACE_WAITING,
  Slot,
  SlotPool,
  finish,
  takeDone,
} from './request/slot.ts';
import { canTake, isReset, isWriteClass, takeRequest } from './request/take.ts';
import { beginTaking, canTakeChain, takeChain } from './ring/take.ts';
import { publishUsed, returnChain } from './ring/used.ts';
import {
  barrierStands,
  drainedBarrier,
  isBarrier,
  noteOutcome,
  resumes,
  startBarrier,
  takeBarrier,
} from './schedule/barrier.ts';
import { canOpenFlight } from './command/flight.ts';
import { commandRoom } from './command/slot.ts';
import { enqueue, hasFresh, withdrawReady } from './schedule/elevator.ts';
import {
  awaitStable,
  companionDelay,
  delaySync,
  endSync,
  needsSync,
  startSync,
  takeFlush,
  withdrawWaiter,
} from './schedule/flush.ts';
import {
  countConflicts,
  enterHazards,
  leaveHazards,
  measure,
  takeUnblocked,
  withdrawBlocked,
} from './schedule/hazard.ts';
import { classify, declassify } from './schedule/stability.ts';
import { supersede } from './schedule/supersede.ts';
import {
  AFTER_BARRIER,
  AFTER_FLUSH,
  AFTER_STABLE,
  withdrawUnwritten,
} from './schedule/unwritten.ts';
import { failUnwritten, mustBeWritten, nextWritten, writeForWaiters } from './written.ts';
import { COMMAND_SLOTS, METADATA_IDS, REQUEST_SLOTS } from '../src/abi/limits.ts';
import { OP_FLUSH, OP_SET_WCE, OP_WRITE, STATUS_OK, OP_CLEAR_LATCH } from '../src/abi/request.ts';

/** Runs the engine over one batch at `now` microseconds. Returns the commands for the host. */
export function run(engine: usize, now: f64): u32 {
  setClock(engine, now);
  const state = changetype<Engine>(engine);
  const guest = hasDevice(engine);
  if (guest) beginTaking(engine);
  takeResults(engine);
  settle(engine);
  do {
    do {
      if (guest) takeChains(engine);
      takeRequests(engine);
      settle(engine);
      if (finishResets(engine)) settle(engine);
      passBarrier(engine);
    } while (hasMore(engine));
    dispatch(engine);
  } while (state.map != 0 && goesRound(engine));
  startSyncs(engine);
  if (guest) publishUsed(engine);
  return state.commandTail - state.commandHead;
}

/** True while something waits that can be taken now. */
function hasMore(engine: usize): bool {
  if (barrierStands(engine)) return false;
  return canTake(engine) || (hasDevice(engine) && canTakeChain(engine));
}

/** Answers of the host become statuses, new rounds, or a wait for a sync. */
function takeResults(engine: usize): void {
  for (let left = resultsWaiting(engine); left != 0; left--) {
    const result = takeResult(engine);
    if (result.id < <u32>COMMAND_SLOTS) takeAnswer(engine, result);
    else if (result.id >= <u32>METADATA_IDS) takeOrderAnswer(engine, result);
    else endSync(engine, result.id - COMMAND_SLOTS, result.errno);
  }
}

/** Sends again what errors have stopped. */
export function resume(engine: usize): void {
  for (let index = takeHeld(engine); index != NONE; index = takeHeld(engine)) {
    enqueue(engine, index);
  }
}

/** Ends what errors have stopped in a queue that is about to be reset; the rest stays held. */
export function abortHeld(engine: usize, queue: u32): void {
  for (let left = Device.of(engine).held; left != 0; left--) {
    const index = takeHeld(engine);
    const slot = Slot.at(engine, index);
    if (<u32>slot.queue == queue) abort(engine, index);
    else keepHeld(engine, index);
  }
}

/** Turns the chains of the guest's queues into requests, as far as there is room. */
function takeChains(engine: usize): void {
  for (let index = takeChain(engine); index != NONE; index = takeChain(engine)) {
    submitChain(engine, index);
    if (hasRequests(engine, index)) continue;
    writeStatus(engine, index);
    returnChain(engine, index);
  }
}

/** Takes requests until the ring is empty, the engine full, or a barrier stands. */
function takeRequests(engine: usize): void {
  while (!barrierStands(engine)) {
    const index = takeRequest(engine);
    if (index == NONE) return;
    enterQueue(engine, index);
    admit(engine, index);
  }
}

/** A request that has been checked is refused, held as a barrier, or goes its way. */
function admit(engine: usize, index: u32): void {
  const slot = Slot.at(engine, index);
  if (slot.status != STATUS_OK) finish(engine, index, slot.status, 0);
  else if (isReset(slot.op)) resetQueues(engine, index);
  else if (isResetting(engine, index)) abort(engine, index);
  else if (isBarrier(slot)) takeBarrier(engine, index);
  else start(engine, index);
}

/** A request that nothing holds back finds its way. */
function start(engine: usize, index: u32): void {
  const slot = Slot.at(engine, index);
  if (isWriteClass(slot.op)) classify(engine, index);
  switch (slot.op) {
    case OP_FLUSH:
      flush(engine, index);
      return;
    case OP_SET_WCE:
      changetype<Engine>(engine).wce = <u32>slot.length;
      if (slot.length != 0) finish(engine, index, STATUS_OK, 0);
      else flush(engine, index);
      return;
    default:
      if (slot.length == 0) finish(engine, index, STATUS_OK, 0);
      else order(engine, index);
  }
}

/** A flush makes tables stable, too, where there are any. */
function flush(engine: usize, index: u32): void {
  if (!mustBeWritten(engine, index, AFTER_FLUSH)) takeFlush(engine, index);
}

/** True when a mapping has set something free, or has failed what is to be sent again alone. */
function goesRound(engine: usize): bool {
  const any = workMapping(engine);
  if (any || SlotPool.of(engine).doneHead != NONE) return true;
  return hasFresh(engine) && commandRoom(engine) != 0 && canOpenFlight(engine);
}

/** A mapping's own work; true when somebody who waited for tables goes on. */
function workMapping(engine: usize): bool {
  let any: bool = false;
  for (let goes: bool = true; goes;) {
    goes = stepMapping(engine);
    for (let index = nextWritten(engine); index != NONE; index = nextWritten(engine)) {
      goes = true;
      any = true;
      goOnWritten(engine, index);
    }
    if (failUnwritten(engine)) goes = true;
    if (writeForWaiters(engine)) goes = true;
  }
  sendOrders(engine);
  return any;
}

/** Goes on with a request for which the tables are written now (unwritten.ts). */
function goOnWritten(engine: usize, index: u32): void {
  switch (Slot.at(engine, index).after) {
    case AFTER_FLUSH:
      takeFlush(engine, index);
      return;
    case AFTER_STABLE:
      awaitStable(engine, index);
      return;
    default:
      beginBarrier(engine, index);
  }
}

/** A request with a range waits for those it conflicts with, or goes to the elevator. */
function order(engine: usize, index: u32): void {
  const slot = Slot.at(engine, index);
  let conflicts = measure(engine, index);
  if (conflicts != 0 && slot.op == OP_WRITE) {
    supersede(engine, index);
    conflicts = countConflicts(engine, slot);
  }
  if (enterHazards(engine, index, conflicts)) enqueue(engine, index);
}

/** A barrier goes on when everything before it has been published. */
function passBarrier(engine: usize): void {
  const index = drainedBarrier(engine);
  if (index == NONE) return;
  if (Slot.at(engine, index).place != PLACE_ALONE) return;
  if (!mustBeWritten(engine, index, AFTER_BARRIER)) beginBarrier(engine, index);
  settle(engine);
}

function beginBarrier(engine: usize, index: u32): void {
  if (startBarrier(engine, index)) start(engine, index);
  if (Slot.at(engine, index).op == OP_CLEAR_LATCH) forgetProof(engine);
}

/** Takes a reset, and ends what the host has not got (reset.ts, R1). */
function resetQueues(engine: usize, reset: u32): void {
  takeReset(engine, reset);
  for (let index: u32 = 0; index < <u32>REQUEST_SLOTS; index++) {
    if (Slot.at(engine, index).place == PLACE_FREE || !concerns(engine, reset, index)) continue;
    switch (Slot.at(engine, index).place) {
      case PLACE_BLOCKED:
        withdrawBlocked(engine, index);
        break;
      case PLACE_READY:
        withdrawReady(engine, index);
        break;
      case PLACE_WAITING:
        withdrawWaiter(engine, index);
        break;
      case PLACE_UNWRITTEN:
        withdrawUnwritten(engine, index);
        break;
      default:
        continue;
    }
    abort(engine, index);
  }
}

/** Publishes what has finished; what it was blocking goes to the elevator. */
function settle(engine: usize): void {
  for (let index = takeDone(engine); index != NONE; index = takeDone(engine)) {
    if (resumes(engine, index)) {
      start(engine, index);
      continue;
    }
    declassify(engine, index);
    for (let freed = leaveHazards(engine, index); freed != 0; freed--) {
      enqueue(engine, takeUnblocked(engine));
    }
    publishSuperseded(engine, index);
    noteOutcome(engine, index);
    answer(engine, index);
  }
}

/** Publishes a request; a chain that is decided by it goes back to its queue. */
function answer(engine: usize, index: u32): void {
  const chain = publish(engine, index);
  if (chain != NONE) returnChain(engine, chain);
}

/** Publishes the writes that the one at `index` has taken over (supersede.ts, U2). */
function publishSuperseded(engine: usize, index: u32): void {
  const slot = Slot.at(engine, index);
  for (let older = slot.superseded; older != NONE;) {
    const taken = Slot.at(engine, older);
    const next = taken.next;
    taken.status = slot.status;
    taken.errno = slot.errno;
    answer(engine, older);
    older = next;
  }
}

/** Starts the syncs that somebody waits for, or says for how long they are put off. */
function startSyncs(engine: usize): void {
  const state = changetype<Engine>(engine);
  // Nobody can join a barrier.
  const delay = barrierStands(engine) ? 0 : companionDelay(engine);
  state.wait = waitOfMapping(engine);
  for (let file: u32 = 0; file < state.files; file++) {
    if (!needsSync(engine, file)) continue;
    if (delay != 0) {
      state.wait = min(state.wait, delay);
      delaySync(engine);
    } else {
      startSync(engine, file);
      emitSync(engine, file);
    }
  }
}
