// Superseding: a queued write that a later one covers is never sent.
//
// U1  A volatile write that the host has never seen is superseded by a later write of its queue
//     that covers all its bytes, when no unfinished request that came after it conflicts with it
//     (a read between the two must see it). Both are in flight, so nobody is owed the older bytes.
// U2  It is published right before the write that took its place, with the same status.
//     It takes over its age too, or who rewrites a place again and again would never be served.
// U3  The later write may be of any class: covering a volatile write with a stable one is safe. A
//     stable write is not superseded: its answer may not depend on a volatile one.

import { COUNT_SUPERSEDED } from '../../src/abi/region.ts';
import { OP_WRITE } from '../../src/abi/request.ts';
import { count, NONE } from '../engine.ts';
import { PLACE_BLOCKED, PLACE_READY, PLACE_SUPERSEDED, Slot } from '../request/slot.ts';
import { VERIFY, verify } from '../verify.ts';
import { withdrawReady } from './elevator.ts';
import { conflictsAfter, leaveHazards, withdrawBlocked, writeAt, writesOpen } from './hazard.ts';

/** Lets the write at `index`, not yet entered in the hazards, take over what it can (U1). */
export function supersede(engine: usize, index: u32): void {
  // Taking one over may free another one from a conflict: from the start, until none is found.
  for (let at: u32 = 0; at < writesOpen(engine);) {
    const older = writeAt(engine, at);
    if (isCovered(engine, older, index)) {
      takeOver(engine, older, index);
      at = 0;
    } else at += 1;
  }
}

/** U1. */
function isCovered(engine: usize, older: u32, index: u32): bool {
  const slot = Slot.at(engine, older);
  const later = Slot.at(engine, index);
  if (slot.op != OP_WRITE || slot.stable || slot.alone || slot.queue != later.queue) return false;
  if (slot.place != PLACE_READY && slot.place != PLACE_BLOCKED) return false;
  if (slot.offset < later.offset) return false;
  if (slot.offset + slot.length > later.offset + later.length) return false;
  return !conflictsAfter(engine, older);
}

function takeOver(engine: usize, older: u32, index: u32): void {
  const slot = Slot.at(engine, older);
  if (slot.place == PLACE_READY) withdrawReady(engine, older);
  else withdrawBlocked(engine, older);
  const freed = leaveHazards(engine, older);
  if (VERIFY) verify(freed == 0);
  count(engine, COUNT_SUPERSEDED, 1);
  // All that it had taken over is older than itself, and in order already.
  let tail = slot.superseded;
  while (tail != NONE && Slot.at(engine, tail).next != NONE) tail = Slot.at(engine, tail).next;
  const head = tail == NONE ? older : slot.superseded;
  if (tail != NONE) Slot.at(engine, tail).next = older;
  slot.superseded = NONE;
  slot.next = NONE;
  slot.place = PLACE_SUPERSEDED;
  const later = Slot.at(engine, index);
  later.superseded = merge(engine, head, later.superseded);
  if (slot.age >= later.age) return;
  later.age = slot.age;
  later.arrival = slot.arrival;
}

/** Joins two lists into one, in the order of submission (U2). */
function merge(engine: usize, first: u32, second: u32): u32 {
  let head = NONE;
  let tail = NONE;
  let a = first;
  let b = second;
  while (a != NONE || b != NONE) {
    const takesA =
      b == NONE || (a != NONE && Slot.at(engine, a).sequence < Slot.at(engine, b).sequence);
    const next = takesA ? a : b;
    if (tail == NONE) head = next;
    else Slot.at(engine, tail).next = next;
    tail = next;
    if (a == NONE || b == NONE) break;
    if (takesA) a = Slot.at(engine, a).next;
    else b = Slot.at(engine, b).next;
  }
  return head;
}
