/**
 * The crash oracle: what a disk may hold after a power cut, and how its requests may complete. It
 * sees requests as they are submitted, completions, and contents; files, commands, generations and
 * syncs are none of its business, so it serves every engine that takes such requests.
 *
 * Requests have numbers, from 1 in submission order; a write's number is the value of its sectors.
 * Of requests that overlap the later number counts (A1), so "newer" is "with a larger number".
 *
 * A1 order      Requests that overlap, one of them writing, complete in submission order. A
 *               barrier completes after all earlier ones and before all later ones.
 * A2 reads      A read sees the last write before it; of failed and aborted ones it may see a part.
 * A3 durability After a power cut a sector holds the last write that was promised to be stable, or
 *               any write submitted after it, never anything older, never what was not submitted.
 *               What promises: a write of the stable class that succeeds promises itself; a flush
 *               that succeeds, and turning the write cache off, promises all that had succeeded
 *               when it was submitted; a barrier that succeeds (durable, or a flush) all before it.
 *               What an earlier process wrote counts as a write before all others (number 0).
 *               A flush settles what failed before it: old or new, but one of the two for good.
 * A4 barrier    While a durable barrier's write can be found after a power cut, everything before
 *               the barrier is stable: its content implies the others'.
 * A5 kill       When the process is killed, the disk holds what A3 demands if everything that
 *               succeeded had been promised: it has left the process.
 * A6 once       Each request completes once.
 * A7 status     OK, or an error that something explains: the host failed it, its queue was reset,
 *               a sync failed. After a failed sync no flush succeeds before CLEAR_LATCH does.
 *
 * A discard leaves anything until the next write; a failed or aborted write old, new or mixed.
 */
import {
  OP_CLEAR_LATCH,
  OP_READ,
  OP_WRITE,
  STATUS_ABORTED,
  STATUS_FLUSH_LATCHED,
  STATUS_IO_ERROR,
  STATUS_NO_SPACE,
  STATUS_OK,
} from '../abi/request.ts';
import { History, type HistoryOptions, INITIAL, touches } from './history.ts';
import { RuleBroken } from './rule-broken.ts';
import {
  type BarrierMode,
  type GuestRequest,
  isBarrier,
  isFlush,
  isOrdered,
  isWriteClass,
  resets,
} from './stream.ts';

/** What the oracle must know of the disk. */
export interface OracleOptions extends HistoryOptions {
  readonly sectors: number;
  /** The unit in which requests overlap; default 1. */
  readonly granuleSectors?: number;
  /** Default 'off'; `barrierFails`: a barrier fails when a request since the last one has. */
  readonly barrier?: BarrierMode;
  readonly barrierFails?: boolean;
}

/** Puts what a sector may hold into the array, each value once; returns how many there are. */
export type Survivors = (sector: number, values: number[]) => number;

// Words before the tables.
const LATCHED = 0;
/** 1: a request has failed since the last barrier. */
const FAILED = 1;
const OPEN_BARRIERS = 2;
const HEADER = 3;

// What explains an error of a request.
const SAW_FAILED_SYNC = 1;
const HOST_FAILED = 2;
const HOST_FULL = 4;
const WAS_RESET = 8;

/** See the head of the file. Broken rules are thrown as RuleBroken. */
export class Oracle {
  readonly history: History;
  readonly #options: Required<Omit<OracleOptions, 'zeroAtFirst'>>;
  readonly #words: Int32Array;
  // Where the tables begin. A word for each request: what explains its error.
  readonly #excuse = HEADER;
  // A word for each sector: the last write that has succeeded; that has been promised, and by which
  // request; that has completed at all; the last of those when the last flush was submitted.
  readonly #done: number;
  readonly #floor: number;
  readonly #promise: number;
  readonly #seen: number;
  readonly #settled: number;
  /** For each request the tables `done` and `seen` when it was submitted. */
  readonly #need: number;
  readonly #values: number[] = [];

  constructor(options: OracleOptions) {
    const { sectors, requests = 64 } = options;
    this.history = new History(options);
    this.#options = {
      requests,
      granuleSectors: 1,
      noFlush: false,
      barrier: 'off',
      barrierFails: false,
      ...options,
    };
    this.#done = this.#excuse + requests;
    this.#floor = this.#done + sectors;
    this.#promise = this.#floor + sectors;
    this.#seen = this.#promise + sectors;
    this.#settled = this.#seen + sectors;
    this.#need = this.#settled + sectors;
    this.#words = new Int32Array(this.#need + requests * sectors * 2);
    this.#words.fill(-1, this.#floor, this.#promise);
    this.#words.fill(-1, this.#settled, this.#need);
  }

  /** Becomes a copy of an oracle with the same options, over the same requests. */
  copyFrom(other: Oracle): void {
    this.history.copyFrom(other.history);
    this.#words.set(other.#words);
  }

  /** True after a failed sync until CLEAR_LATCH. */
  get latched(): boolean {
    return this.#get(LATCHED) !== 0;
  }

  /** The next request is submitted; returns its number. */
  submit(request: GuestRequest): number {
    const { history } = this;
    const { sectors } = this.#options;
    const number = history.submit(request);
    let excuse = this.latched ? SAW_FAILED_SYNC : 0;
    for (let other = 1; other < number; other++) {
      if (!history.isOpen(other)) continue;
      const earlier = history.request(other);
      if (resets(earlier, request.queue)) excuse |= WAS_RESET;
      if (resets(request, earlier.queue)) this.#explain(other, WAS_RESET);
    }
    this.#set(this.#excuse + number - 1, excuse);
    if (isFlush(request)) {
      const need = this.#needOf(number);
      this.#words.copyWithin(need, this.#done, this.#done + sectors);
      this.#words.copyWithin(need + sectors, this.#seen, this.#seen + sectors);
    }
    if (isBarrier(request)) this.#set(OPEN_BARRIERS, this.#get(OPEN_BARRIERS) + 1);
    return number;
  }

  /** The host reported an error for this request; `full`: that there is no room. */
  hostFailed(number: number, full: boolean): void {
    this.#explain(number, full ? HOST_FULL : HOST_FAILED);
  }

  /** What explains an error of `other` explains it of this request, too: they were one. */
  failedAs(number: number, other: number): void {
    this.#explain(number, this.#get(this.#excuse + other - 1));
  }

  /** A sync has failed: that is why open requests may fail now (A7). */
  syncFailed(): void {
    const { history } = this;
    for (let number = 1; number <= history.count; number++) {
      if (history.isOpen(number)) this.#explain(number, SAW_FAILED_SYNC);
    }
  }

  /** After a sync has failed: from now on no flush may succeed (A7). */
  latch(): void {
    this.#set(LATCHED, 1);
  }

  /** A request completes; `values` are what a read has found, sector by sector. */
  complete(number: number, status: number, values?: ArrayLike<number>): void {
    const { history } = this;
    const request = history.request(number);
    if (!history.isOpen(number)) {
      throw new RuleBroken('once', `${history.describe(number)} completes a second time`);
    }
    this.#checkOrder(number, request, status);
    this.#checkStatus(number, request, status);
    history.complete(number, status);
    if (isWriteClass(request.op) && status !== STATUS_ABORTED) {
      for (let sector = request.from; sector < request.to; sector++) {
        this.#raise(this.#seen, sector, number);
      }
    }
    if (status === STATUS_OK) this.#succeed(number, request, values ?? []);
    this.#noteFailures(request, status);
  }

  /** Every request has been submitted and every answer given: none may be open (A6). */
  checkIdle(): void {
    const { history } = this;
    for (let number = 1; number <= history.count; number++) {
      if (!history.isOpen(number)) continue;
      throw new RuleBroken('lost', `${history.describe(number)} is never completed`);
    }
  }

  /**
   * The power is cut (A3, A4). `survivors` puts what a sector may hold into the array and returns
   * how many values there are. Returns how many contents of the disk these make.
   */
  checkCut(survivors: Survivors): number {
    const { sectors, noFlush } = this.#options;
    const values = this.#values;
    const floors = !noFlush && this.#barrierIsVisible(survivors) ? this.#done : this.#floor;
    let contents = 1;
    for (let sector = 0; sector < sectors; sector++) {
      const count = survivors(sector, values);
      contents *= count;
      for (let at = 0; at < count; at++) {
        const value = values[at] ?? 0;
        if (!this.history.mayHold(sector, value, Math.max(-1, this.#get(floors + sector)))) {
          this.#refuse('durability', 'after the power cut', sector, value, floors);
        }
      }
      if (count > 1) this.#checkSettled(sector, values, count);
    }
    return contents;
  }

  /** The process is killed: the disk holds `now`, or what was in flight (A5). */
  checkKill(survivors: Survivors): void {
    const values = this.#values;
    for (let sector = 0; sector < this.#options.sectors; sector++) {
      const count = survivors(sector, values);
      for (let at = 0; at < count; at++) {
        const value = values[at] ?? 0;
        if (this.history.mayHold(sector, value, this.#get(this.#done + sector))) continue;
        this.#refuse('kill', 'after the kill', sector, value, this.#done);
      }
    }
  }

  #succeed(number: number, request: GuestRequest, values: ArrayLike<number>): void {
    if (request.op === OP_READ) this.#checkRead(number, request, values);
    if (isWriteClass(request.op)) {
      const stable = this.history.isStable(number);
      for (let sector = request.from; sector < request.to; sector++) {
        this.#raise(this.#done, sector, number);
        if (stable) this.#promiseUpTo(sector, number, number);
      }
    }
    if (request.op === OP_CLEAR_LATCH) this.#set(LATCHED, 0);
    const { sectors, noFlush } = this.#options;
    if (noFlush || !this.#promises(request)) return;
    // A barrier waits for all that came before it, a flush owes what had completed before it.
    const need = this.#needOf(number);
    const done = isBarrier(request) ? this.#done : need;
    const seen = isBarrier(request) ? this.#seen : need + sectors;
    for (let sector = 0; sector < sectors; sector++) {
      this.#promiseUpTo(sector, this.#get(done + sector), number);
      this.#raise(this.#settled, sector, this.#get(seen + sector));
    }
  }

  /** True for what promises more than itself when it succeeds. */
  #promises(request: GuestRequest): boolean {
    return isFlush(request) || (isBarrier(request) && this.#options.barrier === 'durable');
  }

  #promiseUpTo(sector: number, number: number, by: number): void {
    if (number > this.#get(this.#floor + sector)) this.#set(this.#promise + sector, by);
    this.#raise(this.#floor, sector, number);
  }

  #noteFailures(request: GuestRequest, status: number): void {
    const failed =
      status === STATUS_IO_ERROR || status === STATUS_NO_SPACE || status === STATUS_FLUSH_LATCHED;
    if (isBarrier(request)) {
      this.#set(OPEN_BARRIERS, this.#get(OPEN_BARRIERS) - 1);
      if (status !== STATUS_ABORTED) this.#set(FAILED, 0);
    } else if (failed) this.#set(FAILED, 1);
  }

  /** A1. What is aborted has not happened, so it has no place in the order. */
  #checkOrder(number: number, request: GuestRequest, status: number): void {
    if (status === STATUS_ABORTED) return;
    const { history } = this;
    const { granuleSectors } = this.#options;
    for (let other = 1; other < number; other++) {
      if (!history.isOpen(other) || !isOrdered(history.request(other), request, granuleSectors))
        continue;
      const text = `${history.describe(number)} completes before ${history.describe(other)}`;
      throw new RuleBroken('order', text);
    }
  }

  /** A7. */
  #checkStatus(number: number, request: GuestRequest, status: number): void {
    const excuse = this.#get(this.#excuse + number - 1);
    const { barrierFails, noFlush } = this.#options;
    const mustFail = barrierFails && isBarrier(request) && this.#get(FAILED) !== 0;
    if (status === STATUS_OK) {
      if (this.latched && !noFlush && this.#promises(request)) {
        const text = `${this.history.describe(number)} succeeds although a sync has failed`;
        throw new RuleBroken('latch', `${text} and nobody has cleared the latch`);
      }
      if (!mustFail) return;
      const text = `${this.history.describe(number)} succeeds although a request before it failed`;
      throw new RuleBroken('status', text);
    }
    const explained =
      (status === STATUS_IO_ERROR && (excuse & (HOST_FAILED | SAW_FAILED_SYNC)) !== 0) ||
      (status === STATUS_IO_ERROR && mustFail) ||
      (status === STATUS_NO_SPACE && (excuse & HOST_FULL) !== 0) ||
      (status === STATUS_FLUSH_LATCHED && (excuse & SAW_FAILED_SYNC) !== 0) ||
      (status === STATUS_ABORTED && (excuse & WAS_RESET) !== 0);
    if (explained) return;
    const name = this.history.describe(number);
    const text = `${name} completes with status ${status} and nothing explains it`;
    throw new RuleBroken('status', text);
  }

  /** A2. */
  #checkRead(number: number, request: GuestRequest, values: ArrayLike<number>): void {
    const { history } = this;
    for (let sector = request.from; sector < request.to; sector++) {
      const value = values[sector - request.from] ?? 0;
      if (history.mayRead(number, sector, value)) continue;
      const text = `${history.describe(number)} finds ${history.valueName(value)}`;
      const where = `${text} in sector ${sector}`;
      throw new RuleBroken('read', `${where}, which submission order does not allow`);
    }
  }

  /** A3: of what had completed when a flush was submitted that has succeeded, one is left. */
  #checkSettled(sector: number, values: readonly number[], count: number): void {
    const { history } = this;
    const settled = this.#get(this.#settled + sector);
    if (settled < 0) return;
    let old: number | undefined;
    for (let at = 0; at < count; at++) {
      const value = values[at] ?? 0;
      if (history.hasWritten(sector, value, settled + 1)) continue;
      if (old !== undefined) {
        const both = `${history.valueName(old)} or ${history.valueName(value)}`;
        const text = `sector ${sector} may hold ${both} after the power cut`;
        throw new RuleBroken('durability', `${text}, although a flush has settled it`);
      }
      old = value;
    }
  }

  /** A4: the write of an open durable barrier can be found. */
  #barrierIsVisible(survivors: Survivors): boolean {
    const { history } = this;
    if (this.#options.barrier !== 'durable' || this.#get(OPEN_BARRIERS) === 0) return false;
    for (let number = 1; number <= history.count; number++) {
      const request = history.request(number);
      if (!isBarrier(request) || !history.isOpen(number)) continue;
      // Zeroes say nothing about who wrote them.
      if (request.op !== OP_WRITE) return false;
      const count = survivors(request.from, this.#values);
      return this.#values.slice(0, count).includes(number);
    }
    return false;
  }

  #refuse(rule: string, when: string, sector: number, value: number, floors: number): never {
    const { history } = this;
    const floor = this.#get(floors + sector);
    const allowed = floor <= 0 ? [history.valueName(INITIAL)] : [];
    for (let number = Math.max(1, floor); number <= history.count; number++) {
      if (touches(history.request(number), sector)) allowed.push(history.name(number));
    }
    const by = this.#get(this.#promise + sector);
    let why = 'it had succeeded';
    if (rule === 'durability') {
      why = by > 0 ? `${history.describe(by)} has promised so` : 'nobody wrote anything else';
      if (floors === this.#done) why = 'a durable barrier after it can be found';
    }
    const found = `sector ${sector} may hold ${history.valueName(value)} ${when}`;
    throw new RuleBroken(rule, `${found}; allowed: ${allowed.join(', ')}, because ${why}`);
  }

  #needOf(number: number): number {
    return this.#need + (number - 1) * this.#options.sectors * 2;
  }

  #explain(number: number, excuse: number): void {
    const at = this.#excuse + number - 1;
    this.#set(at, this.#get(at) | excuse);
  }

  #raise(table: number, sector: number, number: number): void {
    if (number > this.#get(table + sector)) this.#set(table + sector, number);
  }

  #get(at: number): number {
    return this.#words[at] ?? 0;
  }

  #set(at: number, value: number): void {
    this.#words[at] = value;
  }
}
