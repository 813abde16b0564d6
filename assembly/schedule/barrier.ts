// Barriers: requests that everything earlier completes before, and nothing later starts before.
//
// B1  From when a barrier is taken until it is published no other request is taken: what comes
//     later waits in the request ring, flushes too.
// B2  A barrier starts when it is the only open request: everything earlier has been published.
// B3  A durable barrier starts with a flush, unless nothing is volatile (flush.ts, F3), and its
//     own write is stable (stability.ts, W1). When the flush fails, so does the barrier; after a
//     failed sync no durable barrier succeeds.
// B4  Which steps there are follows from what the disk offers:
//
//       write cache   FUA descriptor    steps                        also called
//       -             -                 drain                        NONE: barriers are not offered
//       off           -                 drain, write (stable)        DRAIN
//       on            yes               drain, flush, FUA write      DRAIN_FLUSH, DRAIN_FUA
//       on            no                drain, flush, write, flush   DRAIN_FLUSH
//
//     A barrier that is not durable is DRAIN always; so is every barrier when flushes are ignored.
// B5  Where that is asked for, a barrier fails when a request since the last barrier has failed;
//     its own failure does not count for the next.
//
// Opening the latch is a barrier without I/O (flush.ts, F9).

import {
  CONFIG_BARRIER_DURABLE,
  CONFIG_BARRIER_FAILS,
  CONFIG_NO_FLUSH,
  COUNT_BARRIER_FLUSHES,
  COUNT_BARRIERS,
} from '../../src/abi/region.ts';
import {
  OP_CLEAR_LATCH,
  OP_FLUSH,
  REQUEST_BARRIER,
  STATUS_FLUSH_LATCHED,
  STATUS_IO_ERROR,
  STATUS_NO_SPACE,
  STATUS_OK,
} from '../../src/abi/request.ts';
import { count, Engine, NONE } from '../engine.ts';
import { BARRIER_STATE } from '../memory.ts';
import { finish, PLACE_ALONE, Slot, SlotPool } from '../request/slot.ts';
import { awaitFlush, clearLatch, isDirty } from './flush.ts';

@unmanaged
class Barrier {
  /** The barrier that was taken and is not published, or NONE. */
  standing: u32;
  /** 1: it has started (B2). */
  started: u32;
  /** 1: a request since the last barrier has failed (B5). */
  failed: u32;

  static of(engine: usize): Barrier {
    return changetype<Barrier>(engine + BARRIER_STATE);
  }
}

export function initBarrier(engine: usize): void {
  const barrier = Barrier.of(engine);
  barrier.standing = NONE;
  barrier.started = 0;
  barrier.failed = 0;
}

/** True for a request that is a fence. */
export function isBarrier(slot: Slot): bool {
  return (slot.flags & REQUEST_BARRIER) != 0 || slot.op == OP_CLEAR_LATCH;
}

/** Takes a barrier (B1). */
export function takeBarrier(engine: usize, index: u32): void {
  const barrier = Barrier.of(engine);
  barrier.standing = index;
  barrier.started = 0;
  if (Slot.at(engine, index).op != OP_CLEAR_LATCH) count(engine, COUNT_BARRIERS, 1);
}

/** B1: true while nothing may be taken. */
export function barrierStands(engine: usize): bool {
  return Barrier.of(engine).standing != NONE;
}

/** The barrier that may start now (B2), or NONE. */
export function drainedBarrier(engine: usize): u32 {
  const barrier = Barrier.of(engine);
  if (barrier.standing == NONE || barrier.started) return NONE;
  return SlotPool.of(engine).open == 1 ? barrier.standing : NONE;
}

/**
 * Does what comes before the I/O of a drained barrier. True when the caller may go on with it; else
 * it has finished or waits for a flush, and `resumes` says when that is done.
 */
export function startBarrier(engine: usize, index: u32): bool {
  const state = changetype<Engine>(engine);
  const barrier = Barrier.of(engine);
  const slot = Slot.at(engine, index);
  const durable = state.has(CONFIG_BARRIER_DURABLE) && !state.has(CONFIG_NO_FLUSH);
  const failed = barrier.failed != 0 && state.has(CONFIG_BARRIER_FAILS);
  barrier.started = 1;
  if (slot.op == OP_CLEAR_LATCH) {
    clearLatch(engine);
    finish(engine, index, STATUS_OK, 0);
    return false;
  }
  barrier.failed = 0;
  if (failed) finish(engine, index, STATUS_IO_ERROR, 0); // B5
  else if (slot.op == OP_FLUSH || !durable) return true;
  else if (state.latched) finish(engine, index, STATUS_FLUSH_LATCHED, 0); // B3
  else if (!isDirty(engine)) return true;
  else {
    count(engine, COUNT_BARRIER_FLUSHES, 1);
    slot.preFlush = 1;
    awaitFlush(engine, index);
  }
  return false;
}

/** True when a request that has finished is a barrier whose flush is done: its I/O comes now. */
export function resumes(engine: usize, index: u32): bool {
  const slot = Slot.at(engine, index);
  if (!slot.preFlush || slot.status != STATUS_OK) return false;
  slot.preFlush = 0;
  slot.place = PLACE_ALONE;
  return true;
}

/** A request is about to be published (B1, B5). */
export function noteOutcome(engine: usize, index: u32): void {
  const barrier = Barrier.of(engine);
  const status = Slot.at(engine, index).status;
  if (barrier.standing == index) barrier.standing = NONE;
  else if (status == STATUS_IO_ERROR || status == STATUS_NO_SPACE) barrier.failed = 1;
  else if (status == STATUS_FLUSH_LATCHED) barrier.failed = 1;
}
