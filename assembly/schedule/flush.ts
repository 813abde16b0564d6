// Flushes: a generation counter says which completed writes a flush owes, and one sync serves all
// flushes that wait when it starts.
//
// F1  Need at submission: a flush owes exactly the volatile writes that completed before it was
//     taken: need = completed.
// F2  Cover at dispatch: a sync proves nothing about a write that completed after the sync was
//     handed to the host: cover = completed at that moment, never at its end.
// F3  Elision: with stable >= need nothing that the flush owes is volatile; it is done at once.
// F4  One sync runs at a time; when it succeeds, stable rises to its cover and every waiter with
//     need <= stable is done. Those that came too late share the next one.
// F5  Bump before publish: the generation rises when the host's answer to a volatile write is
//     taken, failed or not, before its completion can be seen.
// F6  Latch: a failed sync leaves stable where it is, fails whoever waits, and fails all flushes
//     after it: the kernel may have dropped the pages and would report success next time.
// F7  A disk starts dirty: what an earlier process wrote through this disk and acknowledged, but
//     never flushed, belongs to the first flush.
// F8  A stable write that did not go to the O_DSYNC descriptor, a stable zeroing and a stable
//     discard are done when a sync covers them, exactly like a flush that was taken at the moment
//     the host answered (group commit).
//
//      taken ──F3──▶ done
//        └──▶ waiting ──dispatchSync──▶ [one sync runs] ──syncDone──▶ done (F4) or failed (F6)

import {
  CONFIG_NO_FLUSH,
  COUNT_FLUSHES,
  COUNT_FLUSHES_COALESCED,
  COUNT_FLUSHES_ELIDED,
  COUNT_GROUP_COMMITS,
  COUNT_SYNCS,
  COUNT_SYNCS_FAILED,
} from '../../src/abi/region.ts';
import {
  OP_WRITE,
  STATUS_FLUSH_LATCHED,
  STATUS_IO_ERROR,
  STATUS_OK,
} from '../../src/abi/request.ts';
import { count, Engine, NONE } from '../engine.ts';
import { FLUSH_STATE } from '../memory.ts';
import { finish, Slot } from '../request/slot.ts';
import { VERIFY, verify } from '../verify.ts';

/** State of one stability domain (one file or device). */
@unmanaged
class Domain {
  /** Generation: volatile writes that have completed. */
  completed: u64;
  /** Highest generation known to be on stable storage. */
  stable: u64;
  /** What the running sync will prove. */
  cover: u64;
  /** 1 while a sync is at the host. */
  running: u32;
  /** Who waits for a sync, first come first. */
  head: u32;
  tail: u32;

  static of(engine: usize): Domain {
    return changetype<Domain>(engine + FLUSH_STATE);
  }
}

export function initFlush(engine: usize): void {
  const domain = Domain.of(engine);
  domain.completed = 1; // F7
  domain.stable = 0;
  domain.cover = 0;
  domain.running = 0;
  domain.head = NONE;
  domain.tail = NONE;
}

/** Takes a flush, or a change of the write cache that implies one. */
export function takeFlush(engine: usize, index: u32): void {
  const state = changetype<Engine>(engine);
  const domain = Domain.of(engine);
  const slot = Slot.at(engine, index);
  count(engine, COUNT_FLUSHES, 1);
  slot.need = domain.completed; // F1
  if ((state.flags & CONFIG_NO_FLUSH) != 0) finish(engine, index, STATUS_OK, 0);
  else if (state.latched) finish(engine, index, STATUS_FLUSH_LATCHED, 0);
  else if (domain.stable >= slot.need) {
    count(engine, COUNT_FLUSHES_ELIDED, 1); // F3
    finish(engine, index, STATUS_OK, 0);
  } else wait(engine, domain, index);
}

/** The host has answered a write that is not stable by itself (F5). */
export function noteVolatileWrite(engine: usize): void {
  Domain.of(engine).completed += 1;
}

/** A stable request whose I/O has succeeded waits for a sync that covers it (F8). */
export function awaitStable(engine: usize, index: u32): void {
  const domain = Domain.of(engine);
  const slot = Slot.at(engine, index);
  slot.need = domain.completed;
  if (changetype<Engine>(engine).latched) {
    finish(engine, index, STATUS_FLUSH_LATCHED, 0);
    return;
  }
  if (slot.op == OP_WRITE) count(engine, COUNT_GROUP_COMMITS, 1);
  wait(engine, domain, index);
}

/** Starts a sync when somebody waits and none runs; true when the caller must emit it. */
export function startSync(engine: usize): bool {
  const domain = Domain.of(engine);
  if (domain.running || domain.head == NONE) return false;
  domain.running = 1;
  domain.cover = domain.completed; // F2
  count(engine, COUNT_SYNCS, 1);
  return true;
}

/** The host has answered the sync: F4, or F6 when `errno` is not 0. */
export function endSync(engine: usize, errno: u32): void {
  const domain = Domain.of(engine);
  if (VERIFY) verify(domain.running == 1);
  domain.running = 0;
  if (errno != 0) {
    changetype<Engine>(engine).latched = 1;
    count(engine, COUNT_SYNCS_FAILED, 1);
  } else if (domain.cover > domain.stable) domain.stable = domain.cover;
  settleWaiters(engine, domain, errno);
}

/** Finishes every waiter that the last sync decided and keeps the others in line. */
function settleWaiters(engine: usize, domain: Domain, errno: u32): void {
  let index = domain.head;
  domain.head = NONE;
  domain.tail = NONE;
  let served: u64 = 0;
  while (index != NONE) {
    const slot = Slot.at(engine, index);
    const next = slot.next;
    if (errno != 0) finish(engine, index, STATUS_IO_ERROR, errno);
    else if (slot.need <= domain.stable) {
      served += 1;
      finish(engine, index, STATUS_OK, 0);
    } else wait(engine, domain, index);
    index = next;
  }
  if (served > 1) count(engine, COUNT_FLUSHES_COALESCED, served - 1);
}

function wait(engine: usize, domain: Domain, index: u32): void {
  Slot.at(engine, index).next = NONE;
  if (domain.tail == NONE) domain.head = index;
  else Slot.at(engine, domain.tail).next = index;
  domain.tail = index;
}
