// Between the elevator and the host: runs become flights, flights become commands, answers decide
// flights, and flights decide requests.

import { emitPiece } from './command/emit.ts';
import {
  Flight,
  canOpenFlight,
  mustWait,
  noteAnswer,
  openFlight,
  setStalled,
  stalledFlight,
} from './command/flight.ts';
import { Result } from './command/result.ts';
import { CommandSlot, closeCommand, commandRoom } from './command/slot.ts';
import { Engine, NONE, count } from './engine.ts';
import { land } from './land.ts';
import { mapStripe } from './map/stripe.ts';
import {
  advanceMapped,
  domainOf,
  endJob,
  goesOn,
  noteSource,
  openMapped,
  tablesAreStable,
} from './mapped.ts';
import { Slot } from './request/slot.ts';
import { isWriteClass } from './request/take.ts';
import { dueRun } from './schedule/deadline.ts';
import { Run, collectRuns, keepRest, oldestRun, takeRun } from './schedule/elevator.ts';
import { noteVolatileWrite } from './schedule/flush.ts';
import { goesDirect } from './schedule/stability.ts';
import { CONFIG_DEADLINE, COUNT_MERGED } from '../src/abi/region.ts';
import { OP_BLOCK_STATUS } from '../src/abi/request.ts';

/** The answer to a data command, which may be the last that its flight waits for. */
export function takeAnswer(engine: usize, result: Result): void {
  const errno = result.errno;
  const command = CommandSlot.at(engine, result.id);
  const file = domainOf(engine, command.file);
  const isJob = command.job != 0;
  const id = closeCommand(engine, result.id);
  const flight = Flight.at(engine, id);
  // A failed stable write is in an unknown state, so it counts as volatile (flush.ts, F5).
  if (isWriteClass(Slot.at(engine, flight.head).op) && (!flight.direct || errno != 0)) {
    noteVolatileWrite(engine, file);
  }
  if (isJob) endJob(engine, id, errno);
  if (errno == 0) noteSource(engine, command.file, flight, result.value);
  const isDecided = noteAnswer(engine, id, errno, result.value);
  if (changetype<Engine>(engine).map != 0 && goesOn(engine, id, isDecided, isJob)) return;
  if (isDecided) land(engine, id);
}

/** Sorts, merges and sends as much as the host takes. */
export function dispatch(engine: usize): void {
  const stalled = stalledFlight(engine);
  if (stalled != NONE && !advance(engine, stalled)) return;
  const room = commandRoom(engine);
  if (room == 0) return;
  const runs = collectRuns(engine);
  const state = changetype<Engine>(engine);
  // A run on several files may take several commands: whether all find room is not known.
  const chooses = runs > room || state.files > 1 || state.map != 0;
  const deadline = state.has(CONFIG_DEADLINE);
  let sent = canOpenFlight(engine);
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
  const mapped = changetype<Engine>(engine).map != 0;
  const direct =
    goesDirect(engine, first, next.parts, next.bytes) && (!mapped || tablesAreStable(engine));
  count(engine, COUNT_MERGED, next.parts - 1);
  const flight = openFlight(engine, next.head, next.parts, next.bytes, direct);
  takeRun(engine, next);
  if (mapped) {
    openMapped(engine, flight);
    advanceMapped(engine, flight);
    return canOpenFlight(engine) && commandRoom(engine) != 0;
  }
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
