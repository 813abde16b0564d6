/**
 * Who goes first (command-check.ts, K6 and K7): the elevator's choice among the requests that
 * nothing keeps from going.
 *
 * Where nothing merges, a run is a request, and the deadline elevator's rules D1 to D4
 * (schedule/deadline.ts) say exactly which one goes next: they are followed here step by step.
 * Where runs cannot be told from outside, only the bound that follows from them is checked.
 */
import { OP_READ, OP_WRITE } from '../abi/request.ts';
import type { Oracle } from './oracle.ts';
import { RuleBroken } from './rule-broken.ts';
import type { EngineSetup } from './stream.ts';

// Words before the table. UNSURE: from here on it is not known what the elevator knows.
const UNSURE = 0;
const READS = 1;
const LEFT = 2;
const STARVED = 3;
const READ_PLACE = 4;
const WRITE_PLACE = 5;
/** For each request the commands that went before it once its time was up. */
const PASSED = 6;

/** See the head of the file. Broken rules are thrown as RuleBroken. */
export class ElevatorCheck {
  readonly #setup: EngineSetup;
  readonly #oracle: Oracle;
  readonly #words: Int32Array;
  /** The oldest request of each command of this call of the engine. */
  readonly #sent: number[] = [];
  readonly #waiting: number[] = [];
  #room = 0;

  constructor(setup: EngineSetup, oracle: Oracle, requests: number) {
    this.#setup = setup;
    this.#oracle = oracle;
    this.#words = new Int32Array(PASSED + requests);
    this.#words[READS] = 1;
    const isPlain = setup.mergeBytes === 0 && setup.files === 1;
    if (!setup.deadline || !isPlain) this.#words[UNSURE] = 1;
  }

  /** Becomes a copy of a check of the same setup. */
  copyFrom(other: ElevatorCheck): void {
    this.#words.set(other.#words);
  }

  /** Commands of one call follow; the host takes so many. */
  begin(room: number): void {
    this.#sent.length = 0;
    this.#waiting.length = 0;
    this.#room = room;
  }

  /** A command was sent whose oldest request is this one. */
  sent(oldest: number): void {
    this.#sent.push(oldest);
  }

  /** This request could go and was not sent. */
  waits(number: number): void {
    this.#waiting.push(number);
  }

  /** Somebody may or may not wait: runs cannot be told. */
  lose(): void {
    this.#words[UNSURE] = 1;
  }

  /** All commands have been sent, all who wait have been named; the host takes so many more. */
  end(now: number, takenAt: (number: number) => number, room: number): void {
    const { deadline, files } = this.#setup;
    if (this.#get(UNSURE) === 0 && this.#sent.length + this.#waiting.length > this.#room) {
      this.#follow(now, takenAt);
    }
    for (const number of this.#waiting) {
      if (deadline) this.#countPassed(number, now - takenAt(number));
      // On a stripe a request may wait for its part of a merged flight.
      else if (files === 1) this.#checkOldest(number, room);
    }
  }

  #checkOldest(number: number, room: number): void {
    const name = this.#oracle.history.name(number);
    if (this.#sent.some((oldest) => oldest > number)) {
      refuse('oldest', `${name} is passed over for a younger request`);
    }
    if (room > 0) {
      refuse('oldest', `${name} is held back although the host would take it`);
    }
  }

  /** Each command must be the one that D1 to D4 choose. */
  #follow(now: number, takenAt: (number: number) => number): void {
    const ready = [...this.#sent, ...this.#waiting].sort((a, b) => a - b);
    // Zeroes and discards merge without regard to the limit.
    const isPlain = ready.every((number) => this.#op(number) <= OP_WRITE);
    if (!isPlain) {
      this.lose();
      return;
    }
    for (const number of this.#sent) {
      const due = this.#due(ready, now, takenAt);
      const { history } = this.#oracle;
      if (due !== number) {
        refuse('deadline', `${history.name(number)} goes although ${history.name(due)} is due`);
      }
      ready.splice(ready.indexOf(number), 1);
      this.#words[LEFT] = this.#get(LEFT) - 1;
      const place = this.#get(READS) === 1 ? READ_PLACE : WRITE_PLACE;
      this.#words[place] = history.request(number).to;
    }
  }

  /** The request that goes next (D1). */
  #due(ready: readonly number[], now: number, takenAt: (number: number) => number): number {
    const inBatch = this.#get(LEFT) > 0 ? this.#nextInSweep(ready) : undefined;
    if (inBatch !== undefined) return inBatch;
    const { readExpiry, writeExpiry, batch, writesStarved } = this.#setup;
    const oldest = (reads: boolean): number | undefined =>
      ready.find((number) => this.#reads(number) === reads);
    const write = oldest(false);
    const starved = this.#get(STARVED);
    // D3
    const reads = oldest(true) !== undefined && !(write !== undefined && starved >= writesStarved);
    if (!reads) this.#words[STARVED] = 0;
    else if (write !== undefined) this.#words[STARVED] = starved + 1;
    this.#words[READS] = Number(reads);
    this.#words[LEFT] = batch;
    // D4
    const first = oldest(reads) ?? 0;
    const expired = now - takenAt(first) >= (reads ? readExpiry : writeExpiry);
    return expired ? first : (this.#nextInSweep(ready) ?? first);
  }

  /** D2. */
  #nextInSweep(ready: readonly number[]): number | undefined {
    const { history } = this.#oracle;
    const reads = this.#get(READS) === 1;
    const place = this.#get(reads ? READ_PLACE : WRITE_PLACE);
    const from = (number: number): number => history.request(number).from;
    const ours = ready.filter((number) => this.#reads(number) === reads);
    const sorted = ours.sort((a, b) => from(a) - from(b) || a - b);
    return sorted.find((number) => from(number) >= place) ?? sorted[0];
  }

  /**
   * The bound that follows: once its time is up, the batch that runs may end, and before each batch
   * of its direction `writesStarved` others may go; every older one may have a batch of its own.
   */
  #countPassed(number: number, age: number): void {
    const { readExpiry, writeExpiry, batch, writesStarved } = this.#setup;
    const reads = this.#reads(number);
    if (age < (reads ? readExpiry : writeExpiry)) return;
    let older = 0;
    for (let other = 1; other < number; other++) older += Number(this.#reads(other) === reads);
    const passed = this.#get(PASSED + number - 1) + this.#sent.length;
    this.#words[PASSED + number - 1] = passed;
    if (passed <= batch * (writesStarved + 2) * (older + 1)) return;
    const name = this.#oracle.history.name(number);
    refuse('deadline', `${name} has expired and ${passed} commands went before it`);
  }

  #reads(number: number): boolean {
    return this.#op(number) === OP_READ;
  }

  #op(number: number): number {
    return this.#oracle.history.request(number).op;
  }

  #get(at: number): number {
    return this.#words[at] ?? 0;
  }
}

function refuse(rule: string, message: string): never {
  throw new RuleBroken(rule, message);
}
