// Hazards: requests that overlap complete in the order in which they were submitted when at least
// one of them writes (RAW, WAR, WAW).
//
// H1  Two requests conflict when their ranges, rounded out to the granule, overlap and at least
//     one is a write, write zeroes or discard.
// H2  A request goes to the elevator only after every earlier request that it conflicts with has
//     finished. So no two requests in the elevator or at the host conflict, and the elevator may
//     sort and merge them in any way.
// H3  A blocked request blocks later ones too: order is submission order, not luck.
//
// The extents of all unfinished requests stand in four arrays (starts and ends, writes and reads)
// so that a new one is compared with two of them at a time.

import { OP_BLOCK_STATUS, OP_READ } from '../../src/abi/request.ts';
import { COUNT_ORDERED } from '../../src/abi/region.ts';
import { count, Engine, NONE } from '../engine.ts';
import {
  BLOCKED,
  HAZARD_STATE,
  READ_ENDS,
  READ_OWNERS,
  READ_STARTS,
  WRITE_ENDS,
  WRITE_OWNERS,
  WRITE_STARTS,
} from '../memory.ts';
import { PLACE_ALONE, PLACE_BLOCKED, Slot } from '../request/slot.ts';
import { countOverlaps } from '../simd/overlap.ts';
import { VERIFY, verify } from '../verify.ts';

@unmanaged
class Hazards {
  writes: u32;
  reads: u32;
  blocked: u32;

  static of(engine: usize): Hazards {
    return changetype<Hazards>(engine + HAZARD_STATE);
  }
}

export function initHazards(engine: usize): void {
  const hazards = Hazards.of(engine);
  hazards.writes = 0;
  hazards.reads = 0;
  hazards.blocked = 0;
}

/** Works out what a request with a range covers; returns how many requests it must follow. */
export function measure(engine: usize, index: u32): u32 {
  const slot = Slot.at(engine, index);
  const granule = <u64>changetype<Engine>(engine).blockSize;
  slot.start = slot.offset & ~(granule - 1);
  slot.end = (slot.offset + slot.length + granule - 1) & ~(granule - 1);
  return countConflicts(engine, slot);
}

/** Unfinished requests that a new one conflicts with (H1). */
export function countConflicts(engine: usize, slot: Slot): u32 {
  const hazards = Hazards.of(engine);
  const conflicts = overlaps(engine, WRITE_STARTS, WRITE_ENDS, hazards.writes, slot);
  if (reads(slot)) return conflicts;
  return conflicts + overlaps(engine, READ_STARTS, READ_ENDS, hazards.reads, slot);
}

/** Enters a request that conflicts with `conflicts` others; true when it may go at once (H2). */
export function enterHazards(engine: usize, index: u32, conflicts: u32): bool {
  const hazards = Hazards.of(engine);
  const slot = Slot.at(engine, index);
  if (reads(slot)) {
    append(engine, READ_STARTS, READ_ENDS, READ_OWNERS, hazards.reads, index);
    hazards.reads += 1;
  } else {
    append(engine, WRITE_STARTS, WRITE_ENDS, WRITE_OWNERS, hazards.writes, index);
    hazards.writes += 1;
  }
  slot.blockers = conflicts;
  if (conflicts == 0) return true;
  store<u32>(engine + BLOCKED + ((<usize>hazards.blocked) << 2), index);
  hazards.blocked += 1;
  slot.place = PLACE_BLOCKED;
  count(engine, COUNT_ORDERED, 1);
  return false;
}

/** Unfinished requests that write. */
export function writesOpen(engine: usize): u32 {
  return Hazards.of(engine).writes;
}

/** The request in place `at` of those. */
export function writeAt(engine: usize, at: u32): u32 {
  return load<u32>(engine + WRITE_OWNERS + ((<usize>at) << 2));
}

/** True when an unfinished request that came after the write at `index` conflicts with it. */
export function conflictsAfter(engine: usize, index: u32): bool {
  const hazards = Hazards.of(engine);
  return (
    followed(engine, WRITE_OWNERS, hazards.writes, index) ||
    followed(engine, READ_OWNERS, hazards.reads, index)
  );
}

/** Takes a finished request out of the arrays; returns how many blocked ones this set free. */
export function leaveHazards(engine: usize, index: u32): u32 {
  const hazards = Hazards.of(engine);
  const slot = Slot.at(engine, index);
  if (slot.position == NONE) return 0;
  if (reads(slot)) {
    hazards.reads -= 1;
    remove(engine, READ_STARTS, READ_ENDS, READ_OWNERS, hazards.reads, slot.position);
  } else {
    hazards.writes -= 1;
    remove(engine, WRITE_STARTS, WRITE_ENDS, WRITE_OWNERS, hazards.writes, slot.position);
  }
  slot.position = NONE;
  let freed: u32 = 0;
  for (let i: u32 = 0; i < hazards.blocked; i++) {
    const waiter = Slot.at(engine, blockedAt(engine, i));
    if (waiter.sequence > slot.sequence && conflict(slot, waiter)) {
      if (VERIFY) verify(waiter.blockers > 0);
      waiter.blockers -= 1;
      freed += u32(waiter.blockers == 0);
    }
  }
  return freed;
}

/** Takes the first request off the list of the blocked that is free to go; one is. */
export function takeUnblocked(engine: usize): u32 {
  let at: u32 = 0;
  while (Slot.at(engine, blockedAt(engine, at)).blockers != 0) at += 1;
  const index = blockedAt(engine, at);
  unlist(engine, at);
  return index;
}

/** Takes a request off the list of the blocked. */
export function withdrawBlocked(engine: usize, index: u32): void {
  let at: u32 = 0;
  while (blockedAt(engine, at) != index) at += 1;
  unlist(engine, at);
}

function blockedAt(engine: usize, at: u32): u32 {
  if (VERIFY) verify(Hazards.of(engine).blocked > at);
  return load<u32>(engine + BLOCKED + ((<usize>at) << 2));
}

/** Closes the gap that the blocked request in place `at` leaves. */
function unlist(engine: usize, at: u32): void {
  const hazards = Hazards.of(engine);
  const place = engine + BLOCKED + ((<usize>at) << 2);
  Slot.at(engine, load<u32>(place)).place = PLACE_ALONE;
  hazards.blocked -= 1;
  memory.copy(place, place + 4, (<usize>(hazards.blocked - at)) << 2);
}

function reads(slot: Slot): bool {
  return slot.op == OP_READ || slot.op == OP_BLOCK_STATUS;
}

/** H1. */
function conflict(a: Slot, b: Slot): bool {
  return a.start < b.end && b.start < a.end && !(reads(a) && reads(b));
}

/** True when one of `entries` owners came after the request at `index` and conflicts with it. */
function followed(engine: usize, owners: usize, entries: u32, index: u32): bool {
  const slot = Slot.at(engine, index);
  for (let at: u32 = 0; at < entries; at++) {
    const other = Slot.at(engine, load<u32>(engine + owners + ((<usize>at) << 2)));
    if (other.sequence > slot.sequence && conflict(slot, other)) return true;
  }
  return false;
}

function overlaps(engine: usize, starts: usize, ends: usize, entries: u32, slot: Slot): u32 {
  return countOverlaps(engine + starts, engine + ends, <i32>entries, slot.start, slot.end);
}

function append(
  engine: usize,
  starts: usize,
  ends: usize,
  owners: usize,
  at: u32,
  index: u32,
): void {
  const slot = Slot.at(engine, index);
  store<u64>(engine + starts + ((<usize>at) << 3), slot.start);
  store<u64>(engine + ends + ((<usize>at) << 3), slot.end);
  store<u32>(engine + owners + ((<usize>at) << 2), index);
  slot.position = at;
}

/** Moves the entry at `last` into the hole at `at`. */
function remove(
  engine: usize,
  starts: usize,
  ends: usize,
  owners: usize,
  last: u32,
  at: u32,
): void {
  if (at == last) return;
  const moved = load<u32>(engine + owners + ((<usize>last) << 2));
  append(engine, starts, ends, owners, at, moved);
}
