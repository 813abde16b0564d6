// The story of a batch: results in, requests in, commands out, completions out.
//
// P1  One call takes everything that waits in both input rings, as far as there is room, and leaves
//     nothing undone that could be done.
// P2  Same bytes in, same bytes out: there is no clock, no randomness and no host call in here.
//     Time is what the caller says.

import { COMMAND_SLOTS, REQUEST_SLOTS } from '../src/abi/limits.ts';
import {
  CONFIG_DEADLINE,
  COUNT_MERGED,
  COUNT_REISSUED,
  STATE_WAIT_NEVER,
} from '../src/abi/region.ts';
import { ON_ERROR_REPORT, ON_ERROR_STOP } from '../src/abi/virtio-device.ts';
import { OP_BLOCK_STATUS, OP_FLUSH, OP_SET_WCE, OP_WRITE, STATUS_OK } from '../src/abi/request.ts';
import { emitPiece, emitSync } from './command/emit.ts';
import {
  closeFlight,
  Flight,
  mustWait,
  noteAnswer,
  openFlight,
  setStalled,
  stalledFlight,
} from './command/flight.ts';
import { errnoShown, Result, resultsWaiting, statusOf, takeResult } from './command/result.ts';
import { closeCommand, commandRoom, CommandSlot } from './command/slot.ts';
import { Device, hasDevice } from './device.ts';
import { count, Engine, NONE, setClock } from './engine.ts';
import { mapStripe } from './map/stripe.ts';
import { submitChain } from './request/blk.ts';
import { hasRequests, writeStatus } from './request/blk-answer.ts';
import { publish } from './request/complete.ts';
import { actionOf, hold, keepHeld, takeHeld } from './request/hold.ts';
import {
  abort,
  concerns,
  enterQueue,
  finishResets,
  isResetting,
  takeReset,
} from './request/reset.ts';
import {
  finish,
  PLACE_BLOCKED,
  PLACE_FREE,
  PLACE_READY,
  PLACE_WAITING,
  Slot,
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
import { dueRun } from './schedule/deadline.ts';
import {
  collectRuns,
  enqueue,
  keepRest,
  oldestRun,
  Run,
  takeRun,
  withdrawReady,
} from './schedule/elevator.ts';
import {
  awaitStable,
  companionDelay,
  delaySync,
  endSync,
  needsSync,
  noteVolatileWrite,
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
import { classify, declassify, goesDirect } from './schedule/stability.ts';
import { supersede } from './schedule/supersede.ts';

/** Runs the engine over one batch at `now` microseconds. Returns the commands for the host. */
export function run(engine: usize, now: f64): u32 {
  setClock(engine, now);
  const guest = hasDevice(engine);
  if (guest) beginTaking(engine);
  takeResults(engine);
  settle(engine);
  do {
    if (guest) takeChains(engine);
    takeRequests(engine);
    settle(engine);
    if (finishResets(engine)) settle(engine);
    passBarrier(engine);
  } while (hasMore(engine));
  dispatch(engine);
  startSyncs(engine);
  if (guest) publishUsed(engine);
  const state = changetype<Engine>(engine);
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
    else endSync(engine, result.id - COMMAND_SLOTS, result.errno);
  }
}

/** The answer to a data command, which may be the last that its flight waits for. */
function takeAnswer(engine: usize, result: Result): void {
  const errno = result.errno;
  const file = CommandSlot.at(engine, result.id).file;
  const id = closeCommand(engine, result.id);
  const flight = Flight.at(engine, id);
  // A failed stable write is in an unknown state, so it counts as volatile (flush.ts, F5).
  if (isWriteClass(Slot.at(engine, flight.head).op) && (!flight.direct || errno != 0)) {
    noteVolatileWrite(engine, file);
  }
  if (noteAnswer(engine, id, errno, result.value)) land(engine, id);
}

/** A flight that is decided decides for every request that rode in it. */
function land(engine: usize, id: u32): void {
  const flight = Flight.at(engine, id);
  const errno = flight.errno;
  const merged = flight.parts > 1;
  for (let index = flight.head; index != NONE;) {
    const slot = Slot.at(engine, index);
    const next = slot.next;
    slot.value = flight.value;
    if (errno == 0 && slot.stable && !flight.direct) awaitStable(engine, index);
    else if (errno != 0 && merged) sendAgainAlone(engine, index);
    else if (errno != 0) fail(engine, index, errno);
    else finish(engine, index, STATUS_OK, 0);
    index = next;
  }
  closeFlight(engine, id);
}

/** A part of a failed merged flight gets a status of its own. */
function sendAgainAlone(engine: usize, index: u32): void {
  if (isResetting(engine, index)) {
    abort(engine, index);
    return;
  }
  Slot.at(engine, index).alone = 1;
  count(engine, COUNT_REISSUED, 1);
  enqueue(engine, index);
}

/** A request has failed: what that means is up to whoever it is from (hold.ts). */
function fail(engine: usize, index: u32, errno: u32): void {
  const action = actionOf(engine, index, errno);
  if (isResetting(engine, index) || action == ON_ERROR_REPORT) {
    finish(engine, index, statusOf(errno), errnoShown(errno));
  } else if (action == ON_ERROR_STOP) hold(engine, index, errno);
  else finish(engine, index, STATUS_OK, 0);
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
      takeFlush(engine, index);
      return;
    case OP_SET_WCE:
      changetype<Engine>(engine).wce = <u32>slot.length;
      if (slot.length != 0) finish(engine, index, STATUS_OK, 0);
      else takeFlush(engine, index);
      return;
    default:
      if (slot.length == 0) finish(engine, index, STATUS_OK, 0);
      else order(engine, index);
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
  if (startBarrier(engine, index)) start(engine, index);
  settle(engine);
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

/** Sorts, merges and sends as much as the host takes. */
function dispatch(engine: usize): void {
  const stalled = stalledFlight(engine);
  if (stalled != NONE && !advance(engine, stalled)) return;
  const room = commandRoom(engine);
  if (room == 0) return;
  const runs = collectRuns(engine);
  const state = changetype<Engine>(engine);
  // A run on several files may take several commands: whether all find room is not known.
  const chooses = runs > room || state.files > 1;
  const deadline = state.has(CONFIG_DEADLINE);
  let sent: bool = true;
  for (let i: u32 = 0; i < runs && sent; i++) {
    let next = Run.at(engine, i);
    if (chooses) next = deadline ? dueRun(engine) : oldestRun(engine);
    sent = send(engine, next);
  }
  keepRest(engine);
}

/** Opens a flight for a run; true when the host has taken it whole and takes more. */
function send(engine: usize, next: Run): bool {
  const first = Slot.at(engine, next.head);
  const direct = goesDirect(engine, first, next.parts, next.bytes);
  count(engine, COUNT_MERGED, next.parts - 1);
  const flight = openFlight(engine, next.head, next.parts, next.bytes, direct);
  takeRun(engine, next);
  return advance(engine, flight) && commandRoom(engine) != 0;
}

/** Maps and emits what is left of a flight, as far as the host takes it; true when all is out. */
function advance(engine: usize, id: u32): bool {
  const flight = Flight.at(engine, id);
  while (flight.sent != flight.length) {
    if (commandRoom(engine) == 0 || mustWait(engine, flight)) {
      setStalled(engine, id);
      return false;
    }
    const extent = mapStripe(engine, flight.offset + flight.sent, flight.length - flight.sent);
    // The answer may be shorter than the question.
    if (Slot.at(engine, flight.head).op == OP_BLOCK_STATUS) flight.length = extent.length;
    emitPiece(engine, id, extent.file, extent.hostOffset, extent.length);
  }
  setStalled(engine, NONE);
  return true;
}

/** Starts the syncs that somebody waits for, or says for how long they are put off. */
function startSyncs(engine: usize): void {
  const state = changetype<Engine>(engine);
  // Nobody can join a barrier.
  const delay = barrierStands(engine) ? 0 : companionDelay(engine);
  state.wait = <u32>STATE_WAIT_NEVER;
  for (let file: u32 = 0; file < state.files; file++) {
    if (!needsSync(engine, file)) continue;
    if (delay != 0) {
      state.wait = delay;
      delaySync(engine);
    } else {
      startSync(engine, file);
      emitSync(engine, file);
    }
  }
}
