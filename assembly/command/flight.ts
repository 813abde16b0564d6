// A flight: a run on its way to the host, as one command or as several.
//
// L1  A flight is decided when every command of it has been answered; its errno is that of the
//     first failure.
// L2  After a failure nothing more of it is sent.
// L3  Commands that share a granule are not at the host together: a backend may have to read,
//     modify and write a whole granule. Until the first is answered no other run is sent.

import { PLACE_SENT, Slot } from '../request/slot.ts';
import { Engine, NONE } from '../engine.ts';
import { FLIGHT_SIZE, FLIGHT_SLOTS, FLIGHT_STATE, FLIGHTS } from '../memory.ts';
import { VERIFY, verify } from '../verify.ts';

@unmanaged
export class Flight {
  /** First request of its chain, or NONE while the slot is free. */
  head: u32;
  parts: u32;
  /** Next free slot. */
  next: u32;
  /** Commands at the host. */
  outstanding: u32;
  errno: u32;
  value: u32;
  /** 1: its commands are stable when the host answers them. */
  direct: u32;
  /** Where the bytes that are not sent begin: request, segment in it, byte in that. */
  part: u32;
  segment: u32;
  skip: u32;
  offset: u64;
  length: u64;
  /** Bytes handed to the host. */
  sent: u64;

  static at(engine: usize, id: u32): Flight {
    if (VERIFY) verify(id < FLIGHT_SLOTS);
    return changetype<Flight>(engine + FLIGHTS + <usize>id * FLIGHT_SIZE);
  }
}

if (offsetof<Flight>() > FLIGHT_SIZE) ERROR('Flight');

@unmanaged
class FlightPool {
  freeHead: u32;
  /** The flight that the host has taken in part only, or NONE. */
  stalled: u32;

  static of(engine: usize): FlightPool {
    return changetype<FlightPool>(engine + FLIGHT_STATE);
  }
}

export function initFlights(engine: usize): void {
  const pool = FlightPool.of(engine);
  for (let id: u32 = 0; id < FLIGHT_SLOTS; id++) {
    const flight = Flight.at(engine, id);
    flight.head = NONE;
    flight.next = id + 1 < FLIGHT_SLOTS ? id + 1 : NONE;
  }
  pool.freeHead = 0;
  pool.stalled = NONE;
}

/** Opens a flight for the chain of `parts` requests that starts at `head`. */
export function openFlight(engine: usize, head: u32, parts: u32, bytes: u64, direct: bool): u32 {
  const pool = FlightPool.of(engine);
  const id = pool.freeHead;
  const flight = Flight.at(engine, id);
  if (VERIFY) verify(flight.head == NONE);
  pool.freeHead = flight.next;
  flight.head = head;
  flight.parts = parts;
  flight.outstanding = 0;
  flight.errno = 0;
  flight.value = 0;
  flight.direct = <u32>direct;
  flight.part = head;
  flight.segment = 0;
  flight.skip = 0;
  flight.offset = Slot.at(engine, head).offset;
  flight.length = bytes;
  flight.sent = 0;
  for (let at = head; at != NONE; at = Slot.at(engine, at).next) {
    Slot.at(engine, at).place = PLACE_SENT;
  }
  return id;
}

/** True when one more can be opened: those that wait for a mapping have no command. */
export function canOpenFlight(engine: usize): bool {
  return FlightPool.of(engine).freeHead != NONE;
}

/** Nothing more of a flight is sent (L2); true when it is decided. */
export function failFlight(engine: usize, id: u32, errno: u32): bool {
  const flight = Flight.at(engine, id);
  if (flight.errno == 0) flight.errno = errno;
  flight.length = flight.sent;
  return flight.outstanding == 0;
}

/** Gives a flight back. */
export function closeFlight(engine: usize, id: u32): void {
  const pool = FlightPool.of(engine);
  const flight = Flight.at(engine, id);
  flight.head = NONE;
  flight.next = pool.freeHead;
  pool.freeHead = id;
}

/** The flight that is to go on before others start, or NONE. */
export function stalledFlight(engine: usize): u32 {
  return FlightPool.of(engine).stalled;
}

/** Says which flight that is. */
export function setStalled(engine: usize, id: u32): void {
  FlightPool.of(engine).stalled = id;
}

/** L3: true when the next command would share a granule with one that is at the host. */
export function mustWait(engine: usize, flight: Flight): bool {
  const granule = <u64>changetype<Engine>(engine).blockSize;
  const at = flight.offset + flight.sent;
  return flight.outstanding != 0 && (at & (granule - 1)) != 0;
}

/** Counts an answer; true when the flight is decided (L1). */
export function noteAnswer(engine: usize, id: u32, errno: u32, value: u32): bool {
  const flight = Flight.at(engine, id);
  flight.outstanding -= 1;
  flight.value = value;
  if (errno != 0) {
    failFlight(engine, id, errno);
    if (stalledFlight(engine) == id) setStalled(engine, NONE);
  }
  return flight.outstanding == 0 && flight.sent == flight.length;
}
