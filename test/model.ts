/**
 * The engine in plain TypeScript: slow, obvious, and written from the invariants (S, T, H, U, E, D,
 * F, W, B, R, L, M in assembly/) and from the durability rules, not from the AssemblyScript.
 *
 * The same requests, results and times predict the same commands and completions, in the same
 * order and with the same ids; segment tables are equal entry by entry. Two things may differ:
 * where the engine keeps the table of a gathered command (the model says 0), and what stands in
 * `segments` and `data` of commands that carry no bytes (WRITE_ZEROES, DISCARD).
 *
 * Ids and slots are taken from a pile: the one that was freed last is used next. A slot's number
 * is visible where several requests begin in one sector (the lower number is merged first), and in
 * the order in which a reset ends requests.
 */

import { COMMAND_STABLE, COMMAND_SYNC } from '../src/abi/command.ts';
import { COMMAND_SLOTS, REQUEST_SLOTS, RING_ENTRIES } from '../src/abi/limits.ts';
import * as abi from '../src/abi/request.ts';
import {
  type BlockEngine,
  type CommandRecord,
  complete,
  type CompletionRecord,
  COUNTERS,
  type Counters,
  type EngineConfig,
  type FullConfig,
  type Generations,
  type RequestRecord,
  SYNC_ID,
} from './driver.ts';
import { cutRuns, Deadline, type Run, takeOldest } from './model/elevator.ts';
import { Flight } from './model/flight.ts';
import { Flushes } from './model/flush.ts';
import {
  conflict,
  type Entry,
  isBarrier,
  isReset,
  isStableWrite,
  isWriteClass,
  refusalOf,
  statusOf,
  tally,
} from './model/request.ts';

export { isReset, isWriteClass, refusalOf };

interface Finished {
  readonly entry: Entry;
  readonly status: number;
  readonly errno: number;
}

/** The model of one engine. */
export class ModelEngine implements BlockEngine {
  readonly #config: FullConfig;
  readonly #memory: DataView;

  readonly #requests: RequestRecord[] = [];
  readonly #results: { id: number; errno: number; value: number }[] = [];
  readonly #commands: CommandRecord[] = [];
  readonly #completions: CompletionRecord[] = [];

  readonly #freeSlots = pile(REQUEST_SLOTS);
  readonly #freeIds = pile(COMMAND_SLOTS);
  #sequence = 0;
  #now = 0;
  /** Everything taken and not published. */
  readonly #open = new Set<Entry>();
  /** H2: those of them that have a range and have not been taken over. */
  readonly #unfinished = new Set<Entry>();
  /** E1: without conflicts, waiting to be sent. */
  #ready: Entry[] = [];
  /** By command id. */
  readonly #flights = new Map<number, Flight>();
  #stalled: Flight | undefined;
  /** R3: resets that are not done. */
  #resets: Entry[] = [];
  #barrier: Entry | undefined;
  /** B5: a request since the last barrier has failed. */
  #failed = false;
  readonly #finished: Finished[] = [];

  readonly #flushes: Flushes;
  readonly #deadline: Deadline;
  #wce: boolean;
  readonly #counters = Object.fromEntries(
    Object.keys(COUNTERS).map((name) => [name, 0]),
  ) as Counters;

  /** @param memory where the segment tables of requests lie */
  constructor(config: EngineConfig, memory: DataView) {
    this.#config = complete(config);
    this.#memory = memory;
    this.#wce = config.wce;
    this.#flushes = new Flushes(this.#config);
    this.#deadline = new Deadline(this.#config);
  }

  submit(request: RequestRecord): boolean {
    if (this.#requests.length >= RING_ENTRIES) return false;
    this.#requests.push(request);
    return true;
  }

  result(id: number, errno: number, value = 0): void {
    this.#results.push({ id, errno, value });
  }

  takeCommands(): CommandRecord[] {
    return this.#commands.splice(0);
  }

  takeCompletions(limit = RING_ENTRIES): CompletionRecord[] {
    return this.#completions.splice(0, limit);
  }

  counters(): Counters {
    const { expired } = this.#deadline;
    return { ...this.#counters, expired, syncsDelayed: this.#flushes.syncsDelayed };
  }

  wait(): number {
    return this.#flushes.wait;
  }

  generations(): Generations {
    const { completed, latched } = this.#flushes;
    return { completed, files: this.#flushes.domains(), wce: this.#wce, latched };
  }

  pump(now = 0): void {
    this.#now = Math.max(this.#now, now);
    for (const { id, errno, value } of this.#results.splice(0)) {
      if (id >= SYNC_ID) this.#syncAnswered(id - SYNC_ID, errno);
      else this.#dataAnswered(id, errno, value);
    }
    this.#publish();
    // What is done at once frees its slot, and a fence that falls lets others through (P1).
    do {
      while (this.#mayTake()) this.#take(this.#requests.shift()!);
      this.#publish();
      this.#endResets();
      this.#publish();
      this.#passBarrier();
      this.#publish();
    } while (this.#mayTake());
    this.#dispatch();
    const mayWait = this.#barrier === undefined; // F10: nobody can join a fence
    for (const file of this.#flushes.start(this.#now, mayWait)) {
      this.#counters.syncs += 1;
      this.#commands.push({ ...NO_BYTES, id: SYNC_ID + file, op: COMMAND_SYNC, file });
    }
  }

  /** T1, T3: a free slot, room for the completions of all that is open, and no barrier. */
  #mayTake(): boolean {
    const room = this.#open.size + this.#completions.length < RING_ENTRIES;
    const waits = this.#requests.length > 0 && this.#barrier === undefined;
    return waits && room && this.#freeSlots.length > 0;
  }

  #take(request: RequestRecord): void {
    const entry = this.#entryOf(request);
    const { op } = entry;
    this.#open.add(entry);
    const refusal = refusalOf(this.#config, request, this.#memory);
    if (refusal !== abi.STATUS_OK) {
      this.#counters.refused += 1;
      this.#finish(entry, refusal);
      return;
    }
    tally(this.#counters, entry);
    if (isReset(op)) this.#takeReset(entry);
    else if (this.#isResetting(entry)) this.#abort(entry);
    else if (isBarrier(entry)) this.#takeBarrier(entry);
    else this.#start(entry);
  }

  #entryOf(request: RequestRecord): Entry {
    const offset = Number(request.offset);
    const length = Number(request.length);
    const granule = this.#config.blockSize;
    return {
      ...request,
      queue: request.queue ?? 0,
      offset,
      length,
      slot: this.#freeSlots.pop()!,
      sequence: this.#sequence,
      age: this.#sequence++,
      taken: this.#now,
      start: Math.floor(offset / granule) * granule,
      end: Math.ceil((offset + length) / granule) * granule,
      place: 'new',
      blockers: 0,
      blocks: [],
      superseded: [],
      stable: false,
      alone: false,
      flushesFirst: false,
      need: 0,
      waitingSince: 0,
      value: 0,
    };
  }

  /** W1, W2. */
  #isStable({ op, flags }: Entry): boolean {
    if (!isWriteClass(op) || this.#config.noFlush) return false;
    const isFence = (flags & abi.REQUEST_BARRIER) !== 0 && this.#config.barrierDurable;
    return !this.#wce || (flags & abi.REQUEST_FUA) !== 0 || isFence;
  }

  /** A request that nothing holds back goes its way. */
  #start(entry: Entry): void {
    const { op, length } = entry;
    entry.stable = this.#isStable(entry);
    if (op === abi.OP_SET_WCE) this.#wce = length === 1;
    const flushes = op === abi.OP_FLUSH || (op === abi.OP_SET_WCE && length === 0);
    if (flushes) this.#takeFlush(entry);
    else if (op === abi.OP_SET_WCE || length === 0) this.#finish(entry, abi.STATUS_OK);
    else this.#order(entry);
  }

  /** H2, H3, after U1. */
  #order(entry: Entry): void {
    if (entry.op === abi.OP_WRITE) this.#supersede(entry);
    for (const earlier of this.#unfinished) {
      if (!conflict(earlier, entry)) continue;
      earlier.blocks.push(entry);
      entry.blockers += 1;
    }
    this.#unfinished.add(entry);
    if (entry.blockers > 0) {
      entry.place = 'blocked';
      this.#counters.ordered += 1;
    } else this.#makeReady(entry);
  }

  #makeReady(entry: Entry): void {
    entry.place = 'ready';
    this.#ready.push(entry);
  }

  /** U1, U2; the newest first, since it may be what stands in an older one's way. */
  #supersede(write: Entry): void {
    const end = write.offset + write.length;
    for (const older of [...this.#unfinished].toReversed()) {
      const isUnsent = older.place === 'ready' || older.place === 'blocked';
      if (!isUnsent || older.alone || older.queue !== write.queue) continue;
      if (older.op !== abi.OP_WRITE || older.stable) continue;
      if (older.offset < write.offset || older.offset + older.length > end) continue;
      const isNewer = (other: Entry): boolean => other.sequence > older.sequence;
      if ([...this.#unfinished].some((other) => isNewer(other) && conflict(older, other))) continue;
      this.#counters.superseded += 1;
      this.#withdraw(older);
      this.#unfinished.delete(older);
      older.place = 'superseded';
      write.superseded.push(...older.superseded.splice(0), older);
      if (older.age < write.age) {
        write.age = older.age;
        write.taken = older.taken;
      }
    }
    write.superseded.sort((a, b) => a.sequence - b.sequence);
  }

  /** Takes a request out of whatever it waits in. */
  #withdraw(entry: Entry): void {
    if (entry.place === 'ready') this.#ready = this.#ready.filter((other) => other !== entry);
    if (entry.place === 'waiting') this.#flushes.withdraw(entry);
  }

  #takeFlush(entry: Entry): void {
    this.#counters.flushes += 1;
    const need = this.#flushes.completed; // F1
    if (this.#config.noFlush) this.#finish(entry, abi.STATUS_OK);
    else if (this.#flushes.latched) this.#finish(entry, abi.STATUS_FLUSH_LATCHED); // F6
    else if (this.#flushes.isProven(need)) {
      this.#counters.flushesElided += 1; // F3
      this.#finish(entry, abi.STATUS_OK);
    } else this.#flushes.await(entry, need, this.#now);
  }

  /** R1. */
  #takeReset(reset: Entry): void {
    this.#resets.push(reset);
    const concerned = [...this.#open].filter((entry) => concerns(reset, entry));
    for (const entry of concerned.toSorted((a, b) => a.slot - b.slot)) {
      if (!['ready', 'blocked', 'waiting'].includes(entry.place)) continue;
      this.#withdraw(entry);
      this.#abort(entry);
    }
  }

  /** R3. */
  #isResetting(entry: Entry): boolean {
    return this.#resets.some((reset) => concerns(reset, entry));
  }

  #abort(entry: Entry): void {
    this.#counters.aborted += 1;
    this.#finish(entry, abi.STATUS_ABORTED);
  }

  /** R3, R4: resets that have nothing to wait for. */
  #endResets(): void {
    for (const reset of this.#resets) {
      if ([...this.#open].some((entry) => concerns(reset, entry))) continue;
      if (reset.op === abi.OP_RESET) this.#wce = this.#config.wce;
      this.#finish(reset, abi.STATUS_OK);
    }
    this.#resets = this.#resets.filter(({ place }) => place !== 'done');
  }

  /** B1. */
  #takeBarrier(entry: Entry): void {
    entry.place = 'standing';
    this.#barrier = entry;
    if (entry.op !== abi.OP_CLEAR_LATCH) this.#counters.barriers += 1;
  }

  /** B2: a barrier that is alone starts. */
  #passBarrier(): void {
    const barrier = this.#barrier;
    if (barrier?.place !== 'standing' || this.#open.size > 1) return;
    const { op } = barrier;
    const { latched, completed } = this.#flushes;
    const isDurable = this.#config.barrierDurable && !this.#config.noFlush;
    if (op === abi.OP_CLEAR_LATCH) {
      this.#flushes.clearLatch(); // F9
      this.#finish(barrier, abi.STATUS_OK);
    } else if (this.#failed && this.#config.barrierFails) {
      this.#finish(barrier, abi.STATUS_IO_ERROR); // B5
    } else if (op === abi.OP_FLUSH || !isDurable) this.#start(barrier);
    else if (latched) this.#finish(barrier, abi.STATUS_FLUSH_LATCHED); // B3
    else if (this.#flushes.isProven(completed)) this.#start(barrier);
    else {
      this.#counters.barrierFlushes += 1;
      barrier.flushesFirst = true;
      this.#flushes.await(barrier, completed, this.#now);
    }
  }

  #syncAnswered(file: number, errno: number): void {
    if (errno !== 0) this.#counters.syncsFailed += 1;
    const decided = this.#flushes.end(file, errno);
    if (errno === 0) this.#counters.flushesCoalesced += Math.max(decided.length - 1, 0);
    for (const entry of decided) {
      if (errno !== 0) this.#finish(entry, abi.STATUS_IO_ERROR, errno);
      else if (entry.flushesFirst) {
        entry.flushesFirst = false;
        this.#start(entry);
      } else this.#finish(entry, abi.STATUS_OK);
    }
  }

  #dataAnswered(id: number, errno: number, value: number): void {
    const flight = this.#flights.get(id)!;
    this.#flights.delete(id);
    this.#freeIds.push(id);
    const file = flight.answer(id, errno, value);
    const changedTheDisk = isWriteClass(flight.parts[0]!.op);
    if (changedTheDisk && (!flight.direct || errno !== 0)) this.#flushes.noteVolatile(file); // F5
    if (flight.isDecided) this.#land(flight);
  }

  /** L1: a flight that is decided decides for everybody who rode in it. */
  #land({ parts, errno, value, direct }: Flight): void {
    for (const entry of parts) {
      entry.value = value;
      if (errno !== 0 && parts.length > 1) {
        if (this.#isResetting(entry)) this.#abort(entry);
        else {
          entry.alone = true;
          this.#counters.reissued += 1;
          this.#makeReady(entry);
        }
      } else if (errno === 0 && entry.stable && !direct) this.#awaitSync(entry);
      else this.#finish(entry, statusOf(errno), errno);
    }
  }

  /** F8. */
  #awaitSync(entry: Entry): void {
    if (this.#flushes.latched) {
      this.#finish(entry, abi.STATUS_FLUSH_LATCHED);
      return;
    }
    if (entry.op === abi.OP_WRITE) this.#counters.groupCommits += 1;
    this.#flushes.await(entry, this.#flushes.completed, this.#now);
  }

  #finish(entry: Entry, status: number, errno = 0): void {
    entry.place = 'done';
    const told = status === abi.STATUS_IO_ERROR || status === abi.STATUS_NO_SPACE;
    this.#finished.push({ entry, status, errno: told ? errno : 0 });
  }

  /** S2, U2; whoever waited for these alone becomes ready. */
  #publish(): void {
    for (const { entry, status, errno } of this.#finished.splice(0)) {
      this.#unfinished.delete(entry);
      for (const later of entry.blocks) {
        later.blockers -= 1;
        if (later.blockers === 0 && later.place === 'blocked') this.#makeReady(later);
      }
      if (this.#barrier === entry) {
        this.#barrier = undefined;
        // B5: what a barrier answers concerns no later one.
        if (entry.op !== abi.OP_CLEAR_LATCH) this.#failed = false;
      } else if (FAILURES.includes(status)) this.#failed = true;
      for (const { tag, value, slot } of [...entry.superseded, entry]) {
        this.#completions.push({ tag, status, value, errno });
        this.#freeSlots.push(slot);
      }
      for (const gone of [...entry.superseded, entry]) this.#open.delete(gone);
    }
  }

  /** E2, E3, D1; a flight that the host has not taken whole goes first. */
  #dispatch(): void {
    if (this.#stalled !== undefined && !this.#advance(this.#stalled)) return;
    const room = this.#room();
    if (room === 0) return;
    const runs = cutRuns(this.#config, this.#ready);
    const allFit = runs.length <= room && this.#config.files === 1;
    while (runs.length > 0 && this.#room() > 0) {
      const run = allFit ? runs.shift()! : this.#choose(runs);
      this.#ready = this.#ready.filter((entry) => !run.includes(entry));
      if (!this.#advance(this.#launch(run))) break;
    }
  }

  #room(): number {
    return this.#config.depth - this.#flights.size;
  }

  #choose(runs: Run[]): Run {
    return this.#config.deadline ? this.#deadline.take(runs, this.#now) : takeOldest(runs);
  }

  #launch(run: Run): Flight {
    const canBeDirect = isStableWrite(run[0]!) && this.#config.fua;
    const alone = !this.#flushes.latched && !this.#othersAreStable(run); // W3, W4
    const direct = canBeDirect && alone && this.#isOneCommand(run);
    this.#counters.merged += run.length - 1;
    for (const entry of run) entry.place = 'sent';
    return new Flight(this.#config, this.#memory, run, direct);
  }

  #isOneCommand(run: Run): boolean {
    const { files, chunkBytes } = this.#config;
    const bytes = run.reduce((sum, { length }) => sum + length, 0);
    return files === 1 || (run[0]!.offset % chunkBytes) + bytes <= chunkBytes;
  }

  #othersAreStable(run: Run): boolean {
    return [...this.#open].filter(isStableWrite).length > run.length;
  }

  /** L1-L3: sends as much of a flight as may go; false when some of it is left. */
  #advance(flight: Flight): boolean {
    this.#stalled = undefined;
    const { op, flags } = flight.parts[0]!;
    const zeroFlags = flags & (abi.REQUEST_MAY_UNMAP | abi.REQUEST_FAST_ZERO);
    while (!flight.isSent) {
      const id = this.#freeIds.at(-1);
      const sent = id === undefined || this.#room() === 0 ? undefined : flight.send(id);
      if (id === undefined || sent === undefined) {
        this.#stalled = flight;
        return false;
      }
      this.#freeIds.pop();
      this.#flights.set(id, flight);
      this.#counters.commands += 1;
      const { transfer, ...place } = sent;
      const commandFlags = flight.direct ? COMMAND_STABLE : zeroFlags;
      this.#commands.push({ id, op, flags: commandFlags, ...place, ...transfer });
    }
    return true;
  }
}

/** R1, R3: what a reset ends. */
function concerns(reset: Entry, { op, queue }: Entry): boolean {
  return !isReset(op) && (reset.op === abi.OP_RESET || queue === reset.queue);
}

/** B5. */
const FAILURES: readonly number[] = [
  abi.STATUS_IO_ERROR,
  abi.STATUS_NO_SPACE,
  abi.STATUS_FLUSH_LATCHED,
];

const NO_BYTES = { flags: 0, file: 0, segments: 0, data: 0, offset: 0, length: 0, table: [] };

/** 0 on top. */
function pile(size: number): number[] {
  return Array.from({ length: size }, (_, index) => size - 1 - index);
}
