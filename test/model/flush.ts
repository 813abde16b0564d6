/** The model's flushes: generations, one domain for each file, the latch, companions (F1-F10). */

import { STATE_WAIT_NEVER } from '../../src/abi/region.ts';
import type { DomainState, FullConfig } from '../driver.ts';
import type { Entry } from './request.ts';

interface Domain {
  unproven: number | undefined;
  late: number | undefined;
  running: boolean;
}

/** Who waits for syncs, and for what. */
export class Flushes {
  completed = 1; // F7
  latched = false;
  /** STATE_WAIT: when a sync that was put off is to start at the latest. */
  wait = STATE_WAIT_NEVER;
  /** Syncs that were put off. */
  syncsDelayed = 0;
  readonly #config: FullConfig;
  readonly #domains: Domain[];
  /** First come first. */
  #waiters: Entry[] = [];
  /** F10: how many the sync that ended last has served. */
  #served = 0;
  #delayed = false;

  constructor(config: FullConfig) {
    this.#config = config;
    this.#domains = Array.from({ length: config.files }, () => ({
      unproven: 1, // F7
      late: undefined,
      running: false,
    }));
  }

  domains(): DomainState[] {
    return this.#domains.map(({ unproven, late, running }) => ({ unproven, late, running }));
  }

  /** F3: no file holds a volatile write of a generation up to `need`. */
  isProven(need: number): boolean {
    return this.#domains.every(({ unproven }) => unproven === undefined || unproven > need);
  }

  /** F5: the host has answered a write into `file` that is not stable by itself. */
  noteVolatile(file: number): void {
    this.completed += 1;
    this.#soil(this.#domains[file]!);
  }

  /** F9. */
  clearLatch(): void {
    this.latched = false;
    this.completed += 1;
    for (const domain of this.#domains) this.#soil(domain);
  }

  /** A request waits until what it needs is stable. */
  await(entry: Entry, need: number, now: number): void {
    entry.need = need;
    entry.waitingSince = now;
    entry.place = 'waiting';
    this.#waiters.push(entry);
  }

  /** A request is taken out of the line. */
  withdraw(entry: Entry): void {
    this.#waiters = this.#waiters.filter((waiter) => waiter !== entry);
  }

  /** F4, F10: the files whose sync starts now. */
  start(now: number, mayWait: boolean): number[] {
    this.wait = STATE_WAIT_NEVER;
    const due = [...this.#domains.keys()].filter((file) => this.#isDue(this.#domains[file]!));
    if (this.#waiters.length === 0) this.#delayed = false;
    if (due.length === 0) return [];
    const delay = mayWait ? this.#delay(now) : 0;
    if (delay > 0) {
      this.wait = delay;
      this.#delayed = true;
      return [];
    }
    if (this.#delayed) this.syncsDelayed += 1;
    this.#delayed = false;
    for (const file of due) {
      this.#domains[file]!.running = true;
      this.#domains[file]!.late = undefined; // F2
    }
    return due;
  }

  /** F4, F6: a sync has ended; returns whom it decides, and they are no longer in line. */
  end(file: number, errno: number): Entry[] {
    const domain = this.#domains[file]!;
    domain.running = false;
    if (errno === 0) domain.unproven = domain.late;
    else this.latched = true;
    domain.late = undefined;
    const decided = this.#waiters.filter((waiter) => errno !== 0 || this.isProven(waiter.need));
    this.#waiters = this.#waiters.filter((waiter) => !decided.includes(waiter));
    this.#served = errno === 0 ? decided.length : 0;
    return decided;
  }

  #soil(domain: Domain): void {
    domain.unproven ??= this.completed;
    if (domain.running) domain.late ??= this.completed; // F2
  }

  #isDue({ running, unproven }: Domain): boolean {
    if (running || unproven === undefined) return false;
    return this.#waiters.some((waiter) => waiter.need >= unproven);
  }

  /** F10: for how long a sync that could start waits for companions. */
  #delay(now: number): number {
    if (this.#served <= 1 || this.#waiters.length >= this.#served) return 0;
    const until = this.#waiters[0]!.waitingSince + this.#config.flushWait;
    return Math.max(until - now, 0);
  }
}
