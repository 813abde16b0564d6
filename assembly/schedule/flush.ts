// Flushes: a generation counter says which completed writes a flush owes, and one sync serves all
// flushes that wait when it starts.
//
// F1  Need at submission: a flush owes exactly the volatile writes that completed before it was
//     taken: need = completed.
// F2  Cover at dispatch: a sync proves nothing about a write that completed after the sync was
//     handed to the host. Such a write is late: it stays unproven when the sync succeeds.
// F3  Elision: when no file has an unproven write with a generation up to need, nothing that the
//     flush owes is volatile; it is done at once.
// F4  Each host file is a stability domain: one sync of it runs at a time, and starts only when
//     somebody waits for an unproven write in it. A waiter is done when no file has an unproven
//     write up to its need. Those that came too late share the next sync.
// F5  Bump before publish: the generation rises when the host's answer to a volatile write is
//     taken, failed or not, before its completion can be seen.
// F6  Latch: a failed sync leaves its writes unproven, fails whoever waits, and fails all flushes
//     after it: the kernel may have dropped the pages and would report success next time.
// F7  A disk starts dirty: what an earlier process wrote through this disk and acknowledged, but
//     never flushed, belongs to the first flush.
// F8  A stable write that did not go to the O_DSYNC descriptor, a stable zeroing and a stable
//     discard are done when syncs cover them, exactly like a flush that was taken at the moment
//     the host answered (group commit).
// F9  When the latch is opened by hand every file is dirty again, as at first, also while a sync of
//     it runs. The opening is a barrier: what raced with the failed sync has completed before.
// F10 Companions: when the last sync served several, the next one may wait until as many wait
//     again, for a bounded time since the first of them came. A delay is never unsafe. While a
//     barrier stands nobody can come, so nobody is waited for.
// F11 A mapping may want a generation stable before it writes what points to it: a waiter without
//     a request. After a failed sync none is started for it.
//
//      taken ──F3──▶ done
//        └──▶ waiting ──startSync──▶ [one sync a file runs] ──endSync──▶ done (F4) or failed (F6)

import { FILES } from '../../src/abi/limits.ts';
import {
  CONFIG_NO_FLUSH,
  COUNT_FLUSHES,
  COUNT_FLUSHES_COALESCED,
  COUNT_FLUSHES_ELIDED,
  COUNT_GROUP_COMMITS,
  COUNT_SYNCS,
  COUNT_SYNCS_DELAYED,
  COUNT_SYNCS_FAILED,
  STATE_WAIT_NEVER,
} from '../../src/abi/region.ts';
import {
  OP_WRITE,
  STATUS_FLUSH_LATCHED,
  STATUS_IO_ERROR,
  STATUS_OK,
} from '../../src/abi/request.ts';
import { count, Engine, NONE } from '../engine.ts';
import { DOMAIN_SIZE, DOMAINS, FLUSH_STATE } from '../memory.ts';
import { finish, PLACE_ALONE, PLACE_WAITING, Slot } from '../request/slot.ts';
import { VERIFY, verify } from '../verify.ts';

/** No generation: nothing is unproven, nothing is late. */
const NEVER: u64 = u64.MAX_VALUE;

/** STATE_WAIT_NEVER is no wait. */
const LONGEST_WAIT: u32 = <u32>STATE_WAIT_NEVER - 1;

/** What is common to all files. */
@unmanaged
class Flushes {
  /** Generation: answers to volatile writes, of all files. */
  completed: u64;
  /** Who waits for syncs, first come first; needs never fall along the line. */
  head: u32;
  tail: u32;
  waiting: u32;
  /** How many the sync that ended last has served. */
  served: u32;
  /** 1: a sync could have started and waits for companions (F10). */
  delayed: u32;
  /** Generation that a mapping wants stable, or 0 (F11). */
  fence: u64;

  static of(engine: usize): Flushes {
    return changetype<Flushes>(engine + FLUSH_STATE);
  }
}

/** The stability domain of one host file. */
@unmanaged
class Domain {
  /** Generation of the first volatile write that no sync has proven. */
  unproven: u64;
  /** Generation of the first that was answered while the running sync was at the host. */
  late: u64;
  /** 1 while a sync is at the host. */
  running: u32;

  static at(engine: usize, file: u32): Domain {
    return changetype<Domain>(engine + DOMAINS + <usize>file * DOMAIN_SIZE);
  }
}

if (offsetof<Domain>() > DOMAIN_SIZE) ERROR('Domain');

export function initFlush(engine: usize): void {
  const flushes = Flushes.of(engine);
  flushes.completed = 1; // F7
  flushes.head = NONE;
  flushes.tail = NONE;
  flushes.waiting = 0;
  flushes.served = 0;
  flushes.delayed = 0;
  flushes.fence = 0;
  for (let file: u32 = 0; file < <u32>FILES; file++) {
    const domain = Domain.at(engine, file);
    domain.unproven = 1; // F7
    domain.late = NEVER;
    domain.running = 0;
  }
}

/** Takes a flush, or a change of the write cache that implies one. */
export function takeFlush(engine: usize, index: u32): void {
  const state = changetype<Engine>(engine);
  const slot = Slot.at(engine, index);
  count(engine, COUNT_FLUSHES, 1);
  slot.need = Flushes.of(engine).completed; // F1
  if (state.has(CONFIG_NO_FLUSH)) finish(engine, index, STATUS_OK, 0);
  else if (state.latched) finish(engine, index, STATUS_FLUSH_LATCHED, 0);
  else if (isProven(engine, slot.need)) {
    count(engine, COUNT_FLUSHES_ELIDED, 1); // F3
    finish(engine, index, STATUS_OK, 0);
  } else wait(engine, index);
}

/** True while a flush that is taken now would need a sync. */
export function isDirty(engine: usize): bool {
  return !isProven(engine, Flushes.of(engine).completed);
}

/** Lets a request wait until all that has completed is stable. */
export function awaitFlush(engine: usize, index: u32): void {
  Slot.at(engine, index).need = Flushes.of(engine).completed;
  wait(engine, index);
}

/** The host has answered a write to `file` that is not stable by itself (F5). */
export function noteVolatileWrite(engine: usize, file: u32): void {
  const flushes = Flushes.of(engine);
  flushes.completed += 1;
  soil(engine, file, flushes.completed);
}

/** A stable request whose I/O has succeeded waits for the syncs that cover it (F8). */
export function awaitStable(engine: usize, index: u32): void {
  if (changetype<Engine>(engine).latched) {
    finish(engine, index, STATUS_FLUSH_LATCHED, 0);
    return;
  }
  const noFlush = changetype<Engine>(engine).has(CONFIG_NO_FLUSH);
  if (noFlush || isProven(engine, Flushes.of(engine).completed)) {
    // It changed nothing, or a mapping's writes are stable already.
    finish(engine, index, STATUS_OK, 0);
    return;
  }
  if (Slot.at(engine, index).op == OP_WRITE) count(engine, COUNT_GROUP_COMMITS, 1);
  awaitFlush(engine, index);
}

/** True when somebody waits for a sync of `file` and none runs (F4). */
export function needsSync(engine: usize, file: u32): bool {
  const flushes = Flushes.of(engine);
  const domain = Domain.at(engine, file);
  if (domain.running) return false;
  const need = flushes.tail == NONE ? 0 : Slot.at(engine, flushes.tail).need;
  return domain.unproven <= max(need, flushes.fence);
}

/** F11: the generation that a mapping wants stable, or 0. */
export function setFence(engine: usize, need: u64): void {
  Flushes.of(engine).fence = changetype<Engine>(engine).latched ? 0 : need;
}

/** The generation of now. */
export function generationOf(engine: usize): u64 {
  return Flushes.of(engine).completed;
}

/** The last generation up to which no file has an unproven write. */
export function provenGeneration(engine: usize): u64 {
  const files = changetype<Engine>(engine).files;
  let first = NEVER;
  for (let file: u32 = 0; file < files; file++)
    first = min(first, Domain.at(engine, file).unproven);
  return first - 1;
}

/** F10: microseconds for which a sync that could start is to wait for companions, or 0. */
export function companionDelay(engine: usize): u32 {
  const state = changetype<Engine>(engine);
  const flushes = Flushes.of(engine);
  if (state.flushWait == 0 || flushes.served <= 1) return 0;
  if (flushes.waiting >= flushes.served) return 0;
  if (flushes.head == NONE || flushes.fence != 0) return 0;
  const waited = state.now - Slot.at(engine, flushes.head).since;
  if (waited >= <u64>state.flushWait) return 0;
  return min(state.flushWait - <u32>waited, LONGEST_WAIT);
}

/** A sync that could start is put off (F10). */
export function delaySync(engine: usize): void {
  Flushes.of(engine).delayed = 1;
}

/** A sync of `file` is handed to the host (F2). */
export function startSync(engine: usize, file: u32): void {
  const flushes = Flushes.of(engine);
  const domain = Domain.at(engine, file);
  domain.running = 1;
  domain.late = NEVER;
  count(engine, COUNT_SYNCS, 1);
  count(engine, COUNT_SYNCS_DELAYED, flushes.delayed);
  flushes.delayed = 0;
}

/** The host has answered the sync of `file`: F4, or F6 when `errno` is not 0. */
export function endSync(engine: usize, file: u32, errno: u32): void {
  const domain = Domain.at(engine, file);
  if (VERIFY) verify(domain.running == 1);
  domain.running = 0;
  if (errno != 0) {
    changetype<Engine>(engine).latched = 1;
    count(engine, COUNT_SYNCS_FAILED, 1);
  } else domain.unproven = domain.late;
  settleWaiters(engine, errno);
}

/** F9. */
export function clearLatch(engine: usize): void {
  const state = changetype<Engine>(engine);
  const flushes = Flushes.of(engine);
  state.latched = 0;
  flushes.completed += 1;
  for (let file: u32 = 0; file < state.files; file++) soil(engine, file, flushes.completed);
}

/** Takes a request out of the line. */
export function withdrawWaiter(engine: usize, index: u32): void {
  const flushes = Flushes.of(engine);
  let before = NONE;
  for (let at = flushes.head; at != index; at = Slot.at(engine, at).next) before = at;
  const slot = Slot.at(engine, index);
  if (before == NONE) flushes.head = slot.next;
  else Slot.at(engine, before).next = slot.next;
  if (flushes.tail == index) flushes.tail = before;
  flushes.waiting -= 1;
  if (flushes.waiting == 0) flushes.delayed = 0;
  slot.place = PLACE_ALONE;
}

/** Generation `generation` is a volatile write into `file`. */
function soil(engine: usize, file: u32, generation: u64): void {
  const domain = Domain.at(engine, file);
  if (domain.unproven == NEVER) domain.unproven = generation;
  if (domain.late == NEVER) domain.late = generation;
}

/** F3, F4: no file has an unproven write with a generation up to `need`. */
function isProven(engine: usize, need: u64): bool {
  const files = changetype<Engine>(engine).files;
  for (let file: u32 = 0; file < files; file++) {
    if (Domain.at(engine, file).unproven <= need) return false;
  }
  return true;
}

/** Finishes every waiter that the last sync decided and keeps the others in line. */
function settleWaiters(engine: usize, errno: u32): void {
  const flushes = Flushes.of(engine);
  let index = flushes.head;
  flushes.head = NONE;
  flushes.tail = NONE;
  flushes.waiting = 0;
  flushes.served = 0;
  while (index != NONE) {
    const slot = Slot.at(engine, index);
    const next = slot.next;
    slot.place = PLACE_ALONE;
    if (errno != 0) finish(engine, index, STATUS_IO_ERROR, errno);
    else if (isProven(engine, slot.need)) {
      flushes.served += 1;
      finish(engine, index, STATUS_OK, 0);
    } else append(engine, index);
    index = next;
  }
  if (flushes.served > 1) count(engine, COUNT_FLUSHES_COALESCED, flushes.served - 1);
}

function wait(engine: usize, index: u32): void {
  Slot.at(engine, index).since = changetype<Engine>(engine).now;
  append(engine, index);
}

/** Adds to the end of the line. */
function append(engine: usize, index: u32): void {
  const flushes = Flushes.of(engine);
  const slot = Slot.at(engine, index);
  if (VERIFY) verify(flushes.tail == NONE || Slot.at(engine, flushes.tail).need <= slot.need);
  slot.place = PLACE_WAITING;
  slot.next = NONE;
  if (flushes.tail == NONE) flushes.head = index;
  else Slot.at(engine, flushes.tail).next = index;
  flushes.tail = index;
  flushes.waiting += 1;
}
