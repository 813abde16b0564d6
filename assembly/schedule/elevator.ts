// The elevator: what may go to the host now, sorted by place and cut into runs of neighbours.
//
// E1  Only requests without conflicts are here (hazard.ts, H2), so any order is right.
// E2  Requests join a run, at its back or its front, when they are of one kind, one ends where the
//     next begins, and the run stays within the byte and segment limits. A stable write never
//     joins a volatile one. Zeroes and discards of both classes do: only a sync makes them stable
//     (flush.ts, F8).
// E3  When the host takes fewer commands than there are runs, the run with the oldest request goes
//     first, or the one that the deadline elevator picks (deadline.ts): nothing starves, and what
//     waits goes on merging with what arrives. A flush is not here: merges pass it on both sides.
//
// A request stands here as a sort key; the slot in its low bits makes keys distinct:
//
//     63    60 59  56 55                         12 11           0
//    |   0    | kind | first sector                | slot         |

import {
  MERGE_RANGE_BYTES,
  MERGE_SEGMENTS,
  REQUEST_SLOTS,
  SECTOR_SIZE,
} from '../../src/abi/limits.ts';
import {
  OP_BLOCK_STATUS,
  OP_DISCARD,
  OP_READ,
  OP_WRITE,
  REQUEST_FAST_ZERO,
  REQUEST_MAY_UNMAP,
} from '../../src/abi/request.ts';
import { Engine, NONE } from '../engine.ts';
import { ELEVATOR_STATE, KEYS, RUN_SIZE, RUNS, SORT_SCRATCH } from '../memory.ts';
import { PLACE_ALONE, PLACE_READY, Slot } from '../request/slot.ts';
import { sortKeys } from '../simd/sort.ts';
import { VERIFY, verify } from '../verify.ts';

const KIND_READ = 0;
const KIND_BLOCK_STATUS = 1;
const KIND_WRITE = 2;
const KIND_STABLE_WRITE = 3;
/** Plus 1 when it may unmap, plus 2 when it must be fast. */
const KIND_WRITE_ZEROES = 4;
const KIND_DISCARD = 8;

const KIND_SHIFT: u64 = 56;
const SECTOR_SHIFT: u64 = 12;
const SLOT_MASK: u64 = 0xfff;
const SECTOR_BITS: u64 = 9;

if ((<u64>1) << SECTOR_BITS != <u64>SECTOR_SIZE) ERROR('SECTOR_BITS');
if (REQUEST_SLOTS - 1 > <i32>SLOT_MASK) ERROR('REQUEST_SLOTS');

@unmanaged
class Elevator {
  /** Keys waiting. */
  waiting: u32;
  /** Runs that `collectRuns` found and `takeRun` has not taken. */
  runs: u32;
  /** Runs found in all; the table's length. */
  found: u32;
  /** 1: something has come that was not there when runs were collected last. */
  fresh: u32;

  static of(engine: usize): Elevator {
    return changetype<Elevator>(engine + ELEVATOR_STATE);
  }
}

/** A run: its requests are chained by `next`, in ascending order. */
@unmanaged
export class Run {
  /** First request. */
  head: u32;
  /** Requests, or 0 once the run is taken. */
  parts: u32;
  bytes: u64;
  /** The greatest age of its requests (E3): a small number; and when that one was taken. */
  oldest: u64;
  arrival: u64;

  static at(engine: usize, index: u32): Run {
    return changetype<Run>(engine + RUNS + <usize>index * RUN_SIZE);
  }

  /** First byte. */
  offset(engine: usize): u64 {
    return Slot.at(engine, this.head).offset;
  }

  /** True for reads and block status. */
  reads(engine: usize): bool {
    return <i32>Slot.at(engine, this.head).kind <= KIND_BLOCK_STATUS;
  }
}

if (offsetof<Run>() != RUN_SIZE) ERROR('Run');

export function initElevator(engine: usize): void {
  const elevator = Elevator.of(engine);
  elevator.waiting = 0;
  elevator.runs = 0;
  elevator.found = 0;
  elevator.fresh = 0;
}

/** True when something has come since runs were collected. */
export function hasFresh(engine: usize): bool {
  return Elevator.of(engine).fresh != 0;
}

/** Puts a request without conflicts into the elevator (E1). */
export function enqueue(engine: usize, index: u32): void {
  const elevator = Elevator.of(engine);
  const slot = Slot.at(engine, index);
  slot.kind = <u8>kindOf(slot);
  const key =
    ((<u64>slot.kind) << KIND_SHIFT) | ((slot.offset >> SECTOR_BITS) << SECTOR_SHIFT) | <u64>index;
  if (VERIFY) verify(elevator.waiting < <u32>REQUEST_SLOTS);
  store<u64>(engine + KEYS + ((<usize>elevator.waiting) << 3), key);
  elevator.waiting += 1;
  elevator.fresh = 1;
  slot.place = PLACE_READY;
}

/** Takes a request out of the elevator. */
export function withdrawReady(engine: usize, index: u32): void {
  const elevator = Elevator.of(engine);
  const keys = engine + KEYS;
  let at: u32 = 0;
  while (slotOf(keys, at) != index) at += 1;
  elevator.waiting -= 1;
  store<u64>(keys + ((<usize>at) << 3), load<u64>(keys + ((<usize>elevator.waiting) << 3)));
  Slot.at(engine, index).place = PLACE_ALONE;
}

/** Sorts what waits and cuts it into runs; returns how many there are. */
export function collectRuns(engine: usize): u32 {
  const elevator = Elevator.of(engine);
  const keys = engine + KEYS;
  const waiting = elevator.waiting;
  elevator.runs = 0;
  elevator.fresh = 0;
  if (waiting != 0) {
    sortKeys(keys, engine + SORT_SCRATCH, <i32>waiting);
    for (let at: u32 = 0; at < waiting;) at += cutRun(engine, elevator, at);
  }
  elevator.found = elevator.runs;
  // What comes meanwhile, because a run has failed, waits for the next time.
  elevator.waiting = 0;
  return elevator.runs;
}

/** Runs that `collectRuns` found. */
export function runsFound(engine: usize): u32 {
  return Elevator.of(engine).found;
}

/** The run that holds the oldest request (E3). The caller has seen that one waits. */
export function oldestRun(engine: usize): Run {
  const found = Elevator.of(engine).found;
  let oldest = changetype<Run>(0);
  for (let i: u32 = 0; i < found; i++) {
    const run = Run.at(engine, i);
    if (run.parts == 0) continue;
    if (changetype<usize>(oldest) == 0 || run.oldest < oldest.oldest) oldest = run;
  }
  return oldest;
}

/** Takes a run; its requests leave the elevator. */
export function takeRun(engine: usize, run: Run): void {
  if (VERIFY) verify(run.parts != 0);
  run.parts = 0;
  Elevator.of(engine).runs -= 1;
}

/** Puts the requests of runs that were not taken back to wait, in order. */
export function keepRest(engine: usize): void {
  const elevator = Elevator.of(engine);
  const fresh = elevator.fresh;
  for (let i: u32 = 0; elevator.runs != 0 && i < elevator.found; i++) {
    const run = Run.at(engine, i);
    if (run.parts == 0) continue;
    elevator.runs -= 1;
    for (let index = run.head; index != NONE; index = Slot.at(engine, index).next) {
      enqueue(engine, index);
    }
  }
  elevator.fresh = fresh;
}

/** Makes a run of the keys from `at` on; returns how many it took. */
function cutRun(engine: usize, elevator: Elevator, at: u32): u32 {
  const keys = engine + KEYS;
  const head = slotOf(keys, at);
  let last = Slot.at(engine, head);
  const run = Run.at(engine, elevator.runs);
  run.head = head;
  run.parts = 1;
  run.bytes = last.length;
  run.oldest = last.age;
  run.arrival = last.arrival;
  let segments = last.segments;
  for (let next = at + 1; next < elevator.waiting; next++) {
    const index = slotOf(keys, next);
    const slot = Slot.at(engine, index);
    if (!joins(engine, last, slot, run.bytes, segments)) break;
    last.next = index;
    last = slot;
    segments += slot.segments;
    run.bytes += slot.length;
    run.parts += 1;
    if (slot.age < run.oldest) {
      run.oldest = slot.age;
      run.arrival = slot.arrival;
    }
  }
  last.next = NONE;
  elevator.runs += 1;
  return run.parts;
}

/** E2, for `slot` after a run that ends in `last` and has `bytes` and `segments`. */
function joins(engine: usize, last: Slot, slot: Slot, bytes: u64, segments: u32): bool {
  if (slot.kind != last.kind || slot.offset != last.offset + last.length) return false;
  if ((slot.alone | last.alone) != 0 || slot.kind == KIND_BLOCK_STATUS) return false;
  if (<i32>slot.kind >= KIND_WRITE_ZEROES) return bytes + slot.length <= <u64>MERGE_RANGE_BYTES;
  return (
    bytes + slot.length <= <u64>changetype<Engine>(engine).mergeBytes &&
    segments + slot.segments <= <u32>MERGE_SEGMENTS
  );
}

function slotOf(keys: usize, at: u32): u32 {
  return <u32>(load<u64>(keys + ((<usize>at) << 3)) & SLOT_MASK);
}

function kindOf(slot: Slot): i32 {
  switch (slot.op) {
    case OP_READ:
      return KIND_READ;
    case OP_BLOCK_STATUS:
      return KIND_BLOCK_STATUS;
    case OP_WRITE:
      return slot.stable ? KIND_STABLE_WRITE : KIND_WRITE;
    case OP_DISCARD:
      return KIND_DISCARD;
    default:
      return (
        KIND_WRITE_ZEROES +
        i32((slot.flags & REQUEST_MAY_UNMAP) != 0) +
        (i32((slot.flags & REQUEST_FAST_ZERO) != 0) << 1)
      );
  }
}
