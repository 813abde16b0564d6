/**
 * Which syncs an engine may send (command-check.ts, K5), from the order of events alone.
 *
 * A clock counts what the host has answered. Each file knows the first write that no sync has
 * proven and the first that was answered while its sync ran; whoever waits knows up to which moment
 * it owes what had been written. A sync is in place when somebody waits who owes the first unproven
 * write.
 */
import { COMMAND_SLOTS } from '../abi/limits.ts';
import type { HostCommand } from './host-commands.ts';
import type { Oracle } from './oracle.ts';
import { RuleBroken } from './rule-broken.ts';
import { type EngineSetup, isBarrier, isFlush, isWriteClass } from './stream.ts';

// Words before the tables.
const CLOCK = 0;
const TAKEN = 1;
const HEADER = 2;

// Words of a file: clocks, or 0.
const UNPROVEN = 0;
const LATE = 1;
const RUNNING = 2;
const FILE = 3;

// Words of a request: up to which clock it owes, and when it was taken.
const NEED = 0;
const SINCE = 1;
const REQUEST = 2;

/** See the head of the file. Broken rules are thrown as RuleBroken. */
export class SyncCheck {
  readonly #setup: EngineSetup;
  readonly #oracle: Oracle;
  readonly #words: Int32Array;
  readonly #requests: number;

  constructor(setup: EngineSetup, oracle: Oracle, requests: number) {
    this.#setup = setup;
    this.#oracle = oracle;
    this.#requests = HEADER + setup.files * FILE;
    this.#words = new Int32Array(this.#requests + requests * REQUEST);
    this.#words[CLOCK] = 1;
    // An earlier process has left every file dirty (F7).
    for (let file = 0; file < setup.files; file++) this.#words[fileAt(file) + UNPROVEN] = 1;
  }

  /** Becomes a copy of a check of the same setup. */
  copyFrom(other: SyncCheck): void {
    this.#words.set(other.#words);
  }

  /** The engine has taken the requests up to this number by this time. */
  taken(count: number, now: number): void {
    for (let number = this.#get(TAKEN) + 1; number <= count; number++) {
      const at = this.#request(number);
      this.#words[at + NEED] = this.#get(CLOCK);
      this.#words[at + SINCE] = now;
    }
    this.#words[TAKEN] = count;
  }

  /** Since when the engine has had this request. */
  takenAt(number: number): number {
    return this.#get(this.#request(number) + SINCE);
  }

  /** The host has answered something. */
  tick(): void {
    this.#words[CLOCK] = this.#get(CLOCK) + 1;
  }

  /** The host has written a part of the request: it owes that, should it have to be stable. */
  wrote(number: number): void {
    this.#words[this.#request(number) + NEED] = this.#get(CLOCK);
  }

  /** What the host has answered now has made the file dirty. */
  dirty(file: number): void {
    const at = fileAt(file);
    if (this.#get(at + UNPROVEN) === 0) this.#words[at + UNPROVEN] = this.#get(CLOCK);
    if (this.isSyncing(file) && this.#get(at + LATE) === 0)
      this.#words[at + LATE] = this.#get(CLOCK);
  }

  /** CLEAR_LATCH: every file is dirty again (F9). */
  clearLatch(): void {
    this.tick();
    for (let file = 0; file < this.#setup.files; file++) this.dirty(file);
    // Whoever was taken in the same call came after it or has failed.
    for (let number = 1; number <= this.#get(TAKEN); number++) {
      if (this.#oracle.history.isOpen(number)) this.wrote(number);
    }
  }

  /** True while a sync of the file is at the host. */
  isSyncing(file: number): boolean {
    return this.#get(fileAt(file) + RUNNING) !== 0;
  }

  /** A sync is sent; `isWritten` says of a request whether all its sectors are. */
  begin({ id, file }: HostCommand, isWritten: (number: number) => boolean): void {
    const at = fileAt(file);
    if (id !== COMMAND_SLOTS + file) refuse(`the sync of file ${file} has the id ${id}`);
    if (this.#setup.noFlush) refuse('a sync is sent although flushes are ignored');
    if (this.isSyncing(file)) refuse(`two syncs of file ${file} at a time`);
    if (this.#oracle.latched) refuse('a sync is sent although the latch is shut');
    const unproven = this.#get(at + UNPROVEN);
    if (unproven === 0) refuse(`file ${file} is synced although nothing in it is volatile`);
    if (!this.#isOwed(unproven, isWritten)) {
      refuse(`file ${file} is synced although nobody waits who owes it anything`);
    }
    this.#words[at + RUNNING] = this.#get(CLOCK);
    this.#words[at + LATE] = 0;
  }

  /** The sync of the file has ended. */
  end(file: number, succeeded: boolean): void {
    const at = fileAt(file);
    if (succeeded) this.#words[at + UNPROVEN] = this.#get(at + LATE);
    this.#words[at + RUNNING] = 0;
    this.#words[at + LATE] = 0;
  }

  /** True when a flush has waited for this long, nothing holds it up, and no sync runs. */
  isOverdue(now: number, limit: number): boolean {
    const { history } = this.#oracle;
    for (let file = 0; file < this.#setup.files; file++) if (this.isSyncing(file)) return false;
    for (let number = 1; number <= this.#get(TAKEN); number++) {
      const request = history.request(number);
      if (!history.isOpen(number) || !isFlush(request) || isBarrier(request)) continue;
      if (now - this.takenAt(number) >= limit) return true;
    }
    return false;
  }

  /** Somebody waits whose duty reaches as far back as this clock. */
  #isOwed(unproven: number, isWritten: (number: number) => boolean): boolean {
    const { history } = this.#oracle;
    const { barrier, files } = this.#setup;
    for (let number = 1; number <= this.#get(TAKEN); number++) {
      if (!history.isOpen(number)) continue;
      const request = history.request(number);
      const mustBeStable = isWriteClass(request.op) && !history.isVolatile(number);
      if (isBarrier(request) && (isFlush(request) || barrier === 'durable' || mustBeStable)) {
        // Its duty is all that came before it, from when that has completed.
        return this.#isFirstOpen(number);
      }
      if (isFlush(request)) {
        if (this.#get(this.#request(number) + NEED) >= unproven) return true;
      } else if (mustBeStable && isWritten(number)) {
        // On a stripe it is done when its neighbours in the same flight are.
        if (files > 1 || this.#get(this.#request(number) + NEED) >= unproven) return true;
      }
    }
    return false;
  }

  #isFirstOpen(number: number): boolean {
    for (let other = 1; other < number; other++) {
      if (this.#oracle.history.isOpen(other)) return false;
    }
    return true;
  }

  #request(number: number): number {
    return this.#requests + (number - 1) * REQUEST;
  }

  #get(at: number): number {
    return this.#words[at] ?? 0;
  }
}

function fileAt(file: number): number {
  return HEADER + file * FILE;
}

function refuse(message: string): never {
  throw new RuleBroken('sync', message);
}
