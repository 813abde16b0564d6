/**
 * What a host can know of the requests that it has submitted, and what it must see in the
 * completions. It looks at requests, commands and answers only; it has no idea of generations,
 * runs or flights. The clock is the number of pumps.
 *
 *   (a) each request that is taken completes exactly once, with a status that has a cause;
 *   (b) conflicting requests complete in submission order (H2), and all of them complete before or
 *       after a barrier (B1, B2) and the opening of the latch (F9), as they were submitted;
 *   (c) a transfer that succeeds was at the host, every byte of it;
 *   (d) a flush or a stable request that succeeds: a sync began after what it covers was answered
 *       and succeeded, file by file (F1 to F4, F8; durability 9);
 *   (e) after a failed sync no flush succeeds until the latch is cleared (F6);
 *   (f) a barrier fails after a failure, where that is asked for (B5); a reset ends when nothing of
 *       its queue is open, and nothing is aborted without one (R1, R3).
 */

import { FILES } from '../../src/abi/limits.ts';
import * as region from '../../src/abi/region.ts';
import * as abi from '../../src/abi/request.ts';
import type { RequestFields, Setup } from './input.ts';
import { isWriteClass, UNKNOWN } from './refusal.ts';

/** Requests of one run; more are not submitted. */
export const REQUESTS_MAX = 3072;
/** The status of a request that has none yet. */
export const OPEN = 255;

/** A broken rule. */
export class Violation extends Error {
  override readonly name = 'Violation';
}

const FAILURES: readonly number[] = [
  abi.STATUS_IO_ERROR,
  abi.STATUS_NO_SPACE,
  abi.STATUS_FLUSH_LATCHED,
];
const NEVER = -1;
/** Every file starts dirty (F7), and no sync has begun. */
const AT_START = 0;

/** See the head of the file. One for many runs. */
export class Ledger {
  /** Requests submitted, and how many of these the engine has taken. */
  submitted = 0;
  taken = 0;
  /** Taken and not completed. */
  open = 0;
  /** The oldest request that has not completed, or later ones. */
  firstOpen = 0;
  /** The open barrier, or -1. */
  barrier = -1;
  /** Some request has a segment table that may change. */
  wild = false;
  /** Pumps so far. */
  clock = 0;

  readonly op = new Uint8Array(REQUESTS_MAX);
  readonly queue = new Uint16Array(REQUESTS_MAX);
  readonly refusal = new Uint8Array(REQUESTS_MAX);
  readonly status = new Uint8Array(REQUESTS_MAX);
  /** Bytes on the disk, and the same in granules. */
  readonly from = new Float64Array(REQUESTS_MAX);
  readonly to = new Float64Array(REQUESTS_MAX);
  readonly start = new Float64Array(REQUESTS_MAX);
  readonly end = new Float64Array(REQUESTS_MAX);
  readonly #barriers = new Uint8Array(REQUESTS_MAX);
  readonly #stable = new Uint8Array(REQUESTS_MAX);
  /** SET_WCE to 0, which is a flush too. */
  readonly #turnsOff = new Uint8Array(REQUESTS_MAX);
  readonly #latched = new Uint8Array(REQUESTS_MAX);
  /** Bytes of successful commands in its range, and whether one has failed. */
  readonly #moved = new Float64Array(REQUESTS_MAX);
  readonly #failed = new Uint8Array(REQUESTS_MAX);
  /** By request and file: the pump that took the last answer that a sync must cover. */
  readonly #plain = new Float64Array(REQUESTS_MAX * FILES);
  /** By request and file: what a flush or a barrier must find proven. */
  readonly #need = new Float64Array(REQUESTS_MAX * FILES);

  /** By file: the pump that took the last volatile answer; and with what the next will take. */
  readonly #dirty = new Float64Array(FILES);
  readonly #dirtyNext = new Float64Array(FILES);
  /** By file: the pump that began the last sync that succeeded. */
  readonly #proven = new Float64Array(FILES);
  #syncFailed = false;
  /** A request has failed since the last barrier. */
  #hasFailure = false;
  #isLatched = false;
  #wce = false;
  /** False after a reset, until nothing is open. */
  #knowsWce = true;
  #resets = 0;
  #setup!: Setup;

  /** Forgets everything. */
  reset(setup: Setup): void {
    this.#setup = setup;
    this.submitted = 0;
    this.taken = 0;
    this.open = 0;
    this.firstOpen = 0;
    this.barrier = -1;
    this.wild = false;
    this.clock = 0;
    this.#dirty.fill(AT_START);
    this.#dirtyNext.fill(AT_START);
    this.#proven.fill(NEVER);
    this.#syncFailed = false;
    this.#hasFailure = false;
    this.#isLatched = false;
    this.#wce = (setup.flags & region.CONFIG_WCE) !== 0;
    this.#knowsWce = true;
    this.#resets = 0;
  }

  /** Notes a request; its index is its tag. */
  submit(request: RequestFields, refusal: number): number {
    const index = this.submitted++;
    const { op, flags } = request;
    const granule = this.#setup.blockSize;
    const from = op < abi.OP_FLUSH ? Number(request.offset) : 0;
    const to = op < abi.OP_FLUSH ? from + Number(request.length) : 0;
    this.op[index] = op;
    this.queue[index] = request.queue;
    this.refusal[index] = refusal;
    this.status[index] = OPEN;
    this.from[index] = from;
    this.to[index] = to;
    // What is empty conflicts with nothing.
    this.start[index] = to === from ? 0 : Math.floor(from / granule) * granule;
    this.end[index] = to === from ? 0 : Math.ceil(to / granule) * granule;
    this.#moved[index] = 0;
    this.#failed[index] = 0;
    this.#plain.fill(NEVER, index * FILES, (index + 1) * FILES);
    this.#need.set(this.#dirty, index * FILES);
    this.#latched[index] = Number(this.#isLatched);
    const accepted = Number(refusal === abi.STATUS_OK);
    if (refusal === UNKNOWN) this.wild = true;
    const isBarrier = (flags & abi.REQUEST_BARRIER) !== 0 || op === abi.OP_CLEAR_LATCH;
    this.#barriers[index] = accepted & Number(isBarrier);
    this.#stable[index] = accepted & Number(this.#isStable(op, flags));
    this.#turnsOff[index] = Number(op === abi.OP_SET_WCE && Number(request.length) === 0);
    if (refusal === abi.STATUS_OK) this.#noteControl(request);
    return index;
  }

  #isStable(op: number, flags: number): boolean {
    const config = this.#setup.flags;
    if (!isWriteClass(op) || (config & region.CONFIG_NO_FLUSH) !== 0) return false;
    const durable = (config & region.CONFIG_BARRIER_DURABLE) !== 0;
    if ((flags & abi.REQUEST_BARRIER) !== 0 && durable) return true;
    return (flags & abi.REQUEST_FUA) !== 0 || (this.#knowsWce && !this.#wce);
  }

  #noteControl({ op, length }: RequestFields): void {
    if (op === abi.OP_SET_WCE) this.#wce = Number(length) === 1;
    else if (op === abi.OP_RESET || op === abi.OP_RESET_QUEUE) {
      this.#knowsWce = false;
      this.#resets += 1;
    } else if (op === abi.OP_CLEAR_LATCH) this.#isLatched = false;
  }

  /** A pump begins. */
  beginPump(): void {
    this.clock += 1;
    this.#dirty.set(this.#dirtyNext);
  }

  /** The engine has taken requests up to `taken`. */
  take(taken: number): void {
    for (let index = this.taken; index < taken; index++) {
      this.open += 1;
      if (this.#barriers[index] === 1) this.barrier = index;
    }
    this.taken = taken;
  }

  /** After a pump: what the completions leave open must make sense. `wce`: what the engine says. */
  endPump(wce: boolean): void {
    const { barrier } = this;
    if (barrier >= 0 && this.status[barrier] !== OPEN) this.barrier = -1;
    else if (barrier >= 0 && this.taken > barrier + 1) {
      throw new Violation(`B1: request ${barrier + 1} is taken before barrier ${barrier} is done`);
    }
    if (this.taken === this.submitted && this.open === 0 && !this.#knowsWce) {
      this.#knowsWce = true;
      this.#wce = wce;
    }
  }

  /** A sync of `file` goes to the host. */
  beginSync(file: number): void {
    if (this.#isLatched) throw new Violation(`F6: a sync of file ${file} after a failed one`);
    if (this.#dirty[file]! <= this.#proven[file]!) {
      throw new Violation(`F3: a sync of file ${file}, which is clean`);
    }
  }

  /** The host answers the sync of `file` that pump `began` has emitted. */
  endSync(file: number, began: number, errno: number): void {
    if (errno === 0) this.#proven[file] = Math.max(this.#proven[file]!, began);
    else {
      this.#syncFailed = true;
      this.#isLatched = !this.#isClearOpen();
    }
  }

  /** True while a CLEAR_LATCH is submitted and not done: what fails now may be cleared by it. */
  #isClearOpen(): boolean {
    for (let index = this.firstOpen; index < this.submitted; index++) {
      if (this.op[index] === abi.OP_CLEAR_LATCH && this.status[index] === OPEN) return true;
    }
    return false;
  }

  /** The host answers a data command that moved [from, to) for `index`. */
  answer(index: number, bytes: number, file: number, stable: boolean, errno: number): void {
    if (errno !== 0) this.#failed[index] = 1;
    else this.#moved[index]! += bytes;
    const plain = index * FILES;
    if (stable && errno === 0) this.#plain.fill(NEVER, plain, plain + FILES);
    else this.#plain[plain + file] = this.clock + 1;
  }

  /** The host answers a command that has changed `file`, and that is not stable by itself. */
  dirty(file: number): void {
    this.#dirtyNext[file] = this.clock + 1;
  }

  /** A completion has been published. */
  complete(index: number, status: number, errno: number): void {
    if (index >= this.taken) throw new Violation(`(a): request ${index} completes untaken`);
    if (this.status[index] !== OPEN) throw new Violation(`(a): request ${index} completes twice`);
    this.status[index] = status;
    this.open -= 1;
    this.#checkStatus(index, status, errno);
    this.#noteOutcome(index, status);
    while (this.firstOpen < this.taken && this.status[this.firstOpen] !== OPEN) this.firstOpen += 1;
    if (this.refusal[index] !== abi.STATUS_OK || status === abi.STATUS_ABORTED) return;
    this.#checkOrder(index);
    if (status === abi.STATUS_OK) this.#succeed(index);
  }

  /** B5: a barrier fails after a failure, where that is asked for. */
  #noteOutcome(index: number, status: number): void {
    const isBarrier = this.#barriers[index] === 1 && this.op[index] !== abi.OP_CLEAR_LATCH;
    if (isBarrier && status !== abi.STATUS_ABORTED) {
      const fails = (this.#setup.flags & region.CONFIG_BARRIER_FAILS) !== 0;
      if (fails && this.#hasFailure && status === abi.STATUS_OK) {
        throw new Violation(`B5: barrier ${index} succeeds after a failure`);
      }
      // Its own failure does not count for the next.
      this.#hasFailure = false;
    } else this.#hasFailure ||= FAILURES.includes(status);
  }

  #checkStatus(index: number, status: number, errno: number): void {
    const fail = (why: string): never => {
      throw new Violation(
        `(a): request ${index} ends with status ${status}, errno ${errno}: ${why}`,
      );
    };
    if (errno !== 0 && status !== abi.STATUS_IO_ERROR && status !== abi.STATUS_NO_SPACE) {
      fail('no host error');
    }
    if (status === abi.STATUS_ABORTED) {
      if (!this.#isReset(index)) fail('no reset is open (R1)');
      return;
    }
    const refusal = this.refusal[index]!;
    if (refusal === UNKNOWN) return;
    if (refusal !== abi.STATUS_OK) {
      if (status !== refusal) fail(`it must be refused with ${refusal} (T2)`);
      return;
    }
    this.#checkCause(index, status, fail);
  }

  /** A failure has a cause: an answer, a sync, or an earlier failure when it is a barrier. */
  #checkCause(index: number, status: number, fail: (why: string) => never): void {
    switch (status) {
      case abi.STATUS_OK:
        return;
      case abi.STATUS_NO_SPACE:
      case abi.STATUS_UNSUPPORTED:
        if (!this.#hasFailed(index)) fail('no command of it has failed');
        return;
      case abi.STATUS_FLUSH_LATCHED:
        if (!this.#syncFailed) fail('no sync has failed (F6)');
        return;
      case abi.STATUS_IO_ERROR: {
        const fails = (this.#setup.flags & region.CONFIG_BARRIER_FAILS) !== 0;
        const isBarrier = fails && this.#barriers[index] === 1;
        if (!this.#syncFailed && !isBarrier && !this.#hasFailed(index)) fail('nothing has failed');
        return;
      }
      default:
        fail('it need not be refused');
    }
  }

  /** A command of it has failed, or one of the write that has superseded it (U2). */
  #hasFailed(index: number): boolean {
    if (this.#failed[index] === 1) return true;
    if (this.op[index] !== abi.OP_WRITE) return false;
    for (let later = index + 1; later < this.taken; later++) {
      if (this.status[later] !== OPEN || this.#failed[later] === 0) continue;
      const covers = this.from[later]! <= this.from[index]! && this.to[later]! >= this.to[index]!;
      if (covers && this.op[later] === abi.OP_WRITE) return true;
    }
    return false;
  }

  #isReset(index: number): boolean {
    if (this.#resets === 0) return false;
    const queue = this.queue[index];
    for (let other = this.firstOpen; other < this.taken; other++) {
      if (this.status[other] !== OPEN || this.refusal[other] !== abi.STATUS_OK) continue;
      const op = this.op[other];
      if (op === abi.OP_RESET || (op === abi.OP_RESET_QUEUE && this.queue[other] === queue)) {
        return true;
      }
    }
    return false;
  }

  #checkOrder(index: number): void {
    const isBarrier = this.#barriers[index] === 1;
    const op = this.op[index]!;
    const resets = op === abi.OP_RESET || op === abi.OP_RESET_QUEUE;
    for (let earlier = this.firstOpen; earlier < index; earlier++) {
      if (this.status[earlier] !== OPEN || this.refusal[earlier] !== abi.STATUS_OK) continue;
      const why = isBarrier
        ? 'B2: a barrier'
        : this.#barriers[earlier] === 1
          ? 'B1: something later'
          : this.conflict(earlier, index)
            ? 'H2: a conflicting request'
            : resets && this.#isResetBy(earlier, index)
              ? 'R3: a reset'
              : undefined;
      if (why !== undefined)
        throw new Violation(`${why} (${index}) ends before request ${earlier}`);
    }
  }

  /** H1. */
  conflict(a: number, b: number): boolean {
    const overlap = this.start[a]! < this.end[b]! && this.start[b]! < this.end[a]!;
    return overlap && (isWriteClass(this.op[a]!) || isWriteClass(this.op[b]!));
  }

  #isResetBy(earlier: number, index: number): boolean {
    const op = this.op[earlier];
    if (op === abi.OP_RESET || op === abi.OP_RESET_QUEUE) return false;
    return this.op[index] === abi.OP_RESET || this.queue[earlier] === this.queue[index];
  }

  #succeed(index: number): void {
    const op = this.op[index]!;
    const bytes = this.to[index]! - this.from[index]!;
    if (op < abi.OP_BLOCK_STATUS && this.#moved[index]! < bytes) {
      throw new Violation(
        `(c): request ${index} succeeds: ${this.#moved[index]} of ${bytes} bytes`,
      );
    }
    if (op === abi.OP_CLEAR_LATCH) {
      this.#dirty.fill(this.clock); // F9
      this.#dirtyNext.fill(this.clock);
    }
    const config = this.#setup.flags;
    if ((config & region.CONFIG_NO_FLUSH) !== 0) return;
    if (this.#stable[index] === 1 && bytes > 0) this.#checkProven(index, this.#plain, 'F8');
    const durable = op !== abi.OP_CLEAR_LATCH && this.#isDurable(index);
    if (op === abi.OP_FLUSH || this.#turnsOff[index] === 1 || durable) {
      if (this.#latched[index] === 1) throw new Violation(`F6: flush ${index} succeeds`);
      this.#checkProven(index, this.#need, durable ? 'B3' : 'F4');
    }
  }

  #isDurable(index: number): boolean {
    const durable = (this.#setup.flags & region.CONFIG_BARRIER_DURABLE) !== 0;
    return durable && this.#barriers[index] === 1;
  }

  #checkProven(index: number, times: Float64Array, rule: string): void {
    for (let file = 0; file < this.#setup.files; file++) {
      if (times[index * FILES + file]! <= this.#proven[file]!) continue;
      throw new Violation(`${rule}: request ${index} succeeds and file ${file} is not proven`);
    }
  }
}
