// What a disk with a mapping (map/qcow2) does beside: flights ask the mapping piece by piece, and
// are parked while it does not know; its orders go to the host; flushes wait for its tables.

import { emitNew, emitOrder, emitPiece } from './command/emit.ts';
import { Flight, failFlight } from './command/flight.ts';
import { bytesThatFit, scatter } from './command/gather.ts';
import { Result } from './command/result.ts';
import { commandRoom } from './command/slot.ts';
import { Engine, NONE } from './engine.ts';
import { land } from './land.ts';
import {
  EXTENT_ERROR,
  EXTENT_HOST,
  EXTENT_MEMORY,
  EXTENT_NEW,
  EXTENT_NOTHING,
  EXTENT_WAIT,
  EXTENT_ZEROES,
  Extent,
} from './map/extent.ts';
import { noteChange } from './map/qcow2/granules.ts';
import {
  answered,
  changesFile,
  isWritten,
  nextCycle,
  plan,
  step,
  wantedFence,
} from './map/qcow2/index.ts';
import { Io, takeOrder } from './map/qcow2/io.ts';
import {
  JOB_FILLING,
  Job,
  WAIT_ROOM,
  isParked,
  openJob,
  park,
  renewJob,
  restJob,
  rouse,
  takeWoken,
  wake,
} from './map/qcow2/job.ts';
import { Qcow2 } from './map/qcow2/state.ts';
import { deepen } from './map/qcow2/status.ts';
import { beginAsking, endTurn, noteWait } from './map/qcow2/turns.ts';
import { abandonJob, jobAnswered } from './map/qcow2/write.ts';
import { Slot } from './request/slot.ts';
import { isWriteClass } from './request/take.ts';
import { generationOf, noteVolatileWrite, provenGeneration, setFence } from './schedule/flush.ts';
import { METADATA_IDS } from '../src/abi/limits.ts';
import { FILE_BACKING, FILE_CIPHERED, FILE_IMAGE } from '../src/abi/map.ts';
import { CONFIG_NO_FLUSH, STATE_WAIT_NEVER } from '../src/abi/region.ts';
import { OP_BLOCK_STATUS, OP_READ, OP_WRITE } from '../src/abi/request.ts';

/** The stability domain of a host file. */
export function domainOf(engine: usize, file: u32): u32 {
  // Without a mapping a number is a stripe's.
  const isMapped = changetype<Engine>(engine).map != 0;
  return isMapped && file == <u32>FILE_CIPHERED ? <u32>FILE_IMAGE : file;
}

/** A flight has been opened. */
export function openMapped(engine: usize, id: u32): void {
  const map = Qcow2.of(engine);
  const flight = Flight.at(engine, id);
  if (isWriteClass(Slot.at(engine, flight.head).op)) {
    noteChange(map, flight.offset, flight.length);
  }
  openJob(map, id);
}

/** The write of a job has been answered: its entries change, or not. */
export function endJob(engine: usize, id: u32, errno: u32): void {
  const map = tell(engine);
  jobAnswered(map, id, errno);
}

/** What the backing disk has said about itself is said about a deeper one. */
export function noteSource(engine: usize, file: u32, flight: Flight, entries: u32): void {
  const first = Slot.at(engine, flight.head);
  if (first.op != OP_BLOCK_STATUS || file != <u32>FILE_BACKING) return;
  if (changetype<Engine>(engine).map != 0) deepen(<usize>first.data, entries);
}

/** After an answer: true when the flight itself goes on, and nothing is decided yet. */
export function goesOn(engine: usize, id: u32, isDecided: bool, isJob: bool): bool {
  const map = Qcow2.of(engine);
  if (isDecided && !isParked(map, id)) return false;
  if (isDecided || isJob) rouse(map, id);
  return true;
}

/** The answer to an order of the mapping. */
export function takeOrderAnswer(engine: usize, result: Result): void {
  const map = Qcow2.of(engine);
  const id = result.id - METADATA_IDS;
  if (changesFile(map, id)) noteVolatileWrite(engine, FILE_IMAGE);
  tell(engine);
  answered(map, id, result.errno);
}

/** Does what the mapping does by itself, and lets parked flights go on; true when one has. */
export function stepMapping(engine: usize): bool {
  const map = tell(engine);
  if (commandRoom(engine) != 0) wake(map, WAIT_ROOM, 0);
  step(map);
  let any: bool = false;
  for (let id = takeWoken(map); id != NONE; id = takeWoken(map)) {
    any = true;
    resumeMapped(engine, map, id);
  }
  return any;
}

/** Hands the orders of the mapping to the host; what it wants stable is synced. */
export function sendOrders(engine: usize): void {
  const map = Qcow2.of(engine);
  emitOrders(engine, map);
  setFence(engine, wantedFence(map));
}

/** True when all tables are stable, so that a write in place can be stable by itself. */
export function tablesAreStable(engine: usize): bool {
  const map = Qcow2.of(engine);
  return isWritten(map) && map.writtenGeneration <= provenGeneration(engine);
}

/** The latch was opened: nothing is known to be stable (schedule/flush.ts, F9). */
export function forgetProof(engine: usize): void {
  if (changetype<Engine>(engine).map != 0)
    Qcow2.of(engine).writtenGeneration = generationOf(engine);
}

/** Microseconds after which the mapping wants to be called, or STATE_WAIT_NEVER. */
export function waitOfMapping(engine: usize): u32 {
  if (changetype<Engine>(engine).map == 0) return <u32>STATE_WAIT_NEVER;
  return nextCycle(Qcow2.of(engine), <u32>STATE_WAIT_NEVER);
}

/** Asks the mapping for the next piece of a flight, and the next, until it waits or all is out. */
export function advanceMapped(engine: usize, id: u32): void {
  const map = Qcow2.of(engine);
  const flight = Flight.at(engine, id);
  while (flight.sent != flight.length) {
    if (commandRoom(engine) == 0) return wait(engine, map, id, WAIT_ROOM);
    beginAsking(map, id);
    const extent = ask(engine, map, id, flight);
    if (extent.kind == EXTENT_WAIT) return wait(engine, map, id, extent.wait);
    endTurn(map, id);
    send(engine, id, flight, extent);
    // The rest is asked for when the entries of this piece have changed.
    if (extent.kind == EXTENT_NEW) return;
  }
  if (flight.outstanding == 0) land(engine, id);
}

/** A flight asks again when the reason is gone. */
function wait(engine: usize, map: Qcow2, id: u32, reason: u32): void {
  noteWait(map, id, reason);
  if (Slot.at(engine, Flight.at(engine, id).head).op != OP_READ) restJob(map, id);
  park(map, id, reason);
}

function ask(engine: usize, map: Qcow2, id: u32, flight: Flight): Extent {
  const first = Slot.at(engine, flight.head);
  const extent = Extent.of(engine);
  const left = flight.length - flight.sent;
  const bytes = first.op <= OP_WRITE ? bytesThatFit(engine, flight, left) : left;
  const guest = flight.offset + flight.sent;
  if (first.op != OP_READ) renewJob(map, id);
  plan(map, extent, id, first.op, first.flags, guest, bytes, <usize>first.data);
  return extent;
}

/** Does with a piece what the mapping has answered. */
function send(engine: usize, id: u32, flight: Flight, extent: Extent): void {
  const isStatus = Slot.at(engine, flight.head).op == OP_BLOCK_STATUS;
  // An answer about what lies where may be shorter than the question.
  if (isStatus && extent.kind != EXTENT_ERROR) flight.length = extent.length;
  switch (extent.kind) {
    case EXTENT_HOST:
      // It may have waited, and tables have changed since it was sent.
      if (flight.direct && !tablesAreStable(engine)) flight.direct = 0;
      emitPiece(engine, id, extent.file, extent.hostOffset, extent.length);
      return;
    case EXTENT_NEW:
      flight.direct = 0;
      emitNew(engine, id, extent);
      return;
    case EXTENT_ZEROES:
      scatter(engine, flight, 0, extent.length);
      break;
    case EXTENT_MEMORY:
      scatter(engine, flight, <usize>extent.head, extent.length);
      break;
    case EXTENT_NOTHING:
      flight.value = extent.value;
      flight.direct = 0;
      break;
    default:
      failFlight(engine, id, extent.errno);
      return;
  }
  flight.sent += extent.length;
}

/** A parked flight goes on, or fails with what it waited for. */
function resumeMapped(engine: usize, map: Qcow2, id: u32): void {
  const flight = Flight.at(engine, id);
  const job = Job.at(map, id);
  if (flight.errno != 0 || job.errno != 0) endTurn(map, id);
  if (flight.errno != 0) abandonJob(map, id);
  else if (job.errno != 0 && job.state != JOB_FILLING) failFlight(engine, id, job.errno);
  if (flight.errno == 0) advanceMapped(engine, id);
  else if (flight.outstanding == 0) land(engine, id);
}

function emitOrders(engine: usize, map: Qcow2): void {
  for (let id = takeOrder(map); id != NONE; id = takeOrder(map)) {
    const io = Io.at(map, id);
    const address = map.place(io.at);
    emitOrder(engine, id, io.op, io.flags, io.file, io.offset, io.length, address);
  }
}

/** Tells the mapping what the rest of the engine knows. */
function tell(engine: usize): Qcow2 {
  const state = changetype<Engine>(engine);
  const map = Qcow2.of(engine);
  map.generation = generationOf(engine);
  map.proven = provenGeneration(engine);
  map.now = state.now;
  map.latched = state.latched;
  map.noFlush = u32(state.has(CONFIG_NO_FLUSH));
  return map;
}
