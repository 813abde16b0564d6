/**
 * Requests to a device as promises: in the order of the calls, with a transfer buffer for those
 * that carry data, kicked once at the end of each turn.
 *
 *   called ─▶ [line: first come, first served] ─▶ buffer ─▶ filled ─▶ submitted ─▶ completed
 *
 * Q1  Requests are submitted in the order of the calls, whatever each of them waits for, so that
 *     overlapping ones and changes of the write cache take effect in that order.
 * Q2  A buffer goes back when its request has completed, never before, aborted or not.
 */
import { STATUS_OK } from './abi/request.ts';
import type { CompletionTarget, Device } from './device.ts';
import type { SluiceError } from './errors.ts';
import { Later } from './later.ts';
import { corruptionOf } from './corruption.ts';
import { requestError } from './request-error.ts';

/** What is asked of the device; see `Device.submit` for the numbers. */
export interface Ask {
  readonly op: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  /** What the caller asked for, for the error message. */
  readonly operation: string;
  /** Segments of data: 1 with the buffer as data, or 0. */
  readonly segments?: number;
  /** Size of the transfer buffer; 0 or left out: none is needed. */
  readonly bufferBytes?: number;
  /** Puts the data of a write into the buffer, just before it is submitted. */
  readonly fill?: (address: number) => void;
  readonly signal?: AbortSignal | undefined;
  /** The engine's queue; default 0. */
  readonly queue?: number;
}

/** A call between its beginning and its completion. */
interface Call {
  readonly ask: Ask;
  /** The buffer, 0: none yet. */
  address: number;
  aborted: boolean;
  /** The request has completed; settles the promise. */
  complete(status: number, value: number, errno: number): void;
}

/** Kicks of one turn of the event loop that come right after the calls. */
const KICKS_OF_A_TURN = 256;
/** Calls that may stand in front of the first in line until they are dropped together. */
const LINE_SLACK = 4096;

export class PromisedRequests implements CompletionTarget {
  readonly #device: Device;
  /** Submitted calls by token; its length is the most that were ever submitted at once. */
  readonly #submitted: (Call | undefined)[] = [];
  readonly #freeTokens: number[] = [];
  /** Calls that are not submitted, from `#first` on (Q1). */
  readonly #line: Call[] = [];
  #first = 0;
  /** The first in line waits for a buffer or for room in the device. */
  #waiting = false;
  /** Calls whose requests have not completed. */
  #open = 0;
  #drainWaiters: (() => void)[] = [];
  #kickQueued = false;
  /** Kicks in this turn of the event loop. */
  #kicks = 0;
  readonly #turn = new Later(() => (this.#kicks = 0));
  readonly #nextKick = new Later(() => this.#kick());

  constructor(device: Device) {
    this.#device = device;
  }

  /**
   * Asks the device; resolves with what `take` makes of the completion's value and the buffer.
   * @throws SluiceError by the completion's status, or the signal's reason
   */
  request<T>(ask: Ask, take: (value: number, address: number) => T): Promise<T> {
    const { signal } = ask;
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    return new Promise<T>((resolve, reject) => {
      const abort = (): void => {
        call.aborted = true;
        reject(signal?.reason as Error);
      };
      const call: Call = {
        ask,
        address: 0,
        aborted: false,
        complete: (status, value, errno) => {
          signal?.removeEventListener('abort', abort);
          if (status === STATUS_OK) resolve(take(value, call.address));
          else reject(this.#errorOf(ask, status, errno));
        },
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#open += 1;
      this.#line.push(call);
      this.#advance();
    });
  }

  /** Resolves when every request has completed. */
  async drained(): Promise<void> {
    if (this.#open > 0) await new Promise<void>((resolve) => this.#drainWaiters.push(resolve));
  }

  /** Called by the device, once for each request. */
  completed(token: number, status: number, value: number, errno: number): void {
    const call = this.#submitted[token];
    if (call === undefined) throw new Error(`the engine completed request ${token} twice`);
    this.#submitted[token] = undefined;
    this.#freeTokens.push(token);
    if (!call.aborted) call.complete(status, value, errno);
    this.#leave(call);
  }

  /** Submits from the front of the line until one has to wait. */
  #advance(): void {
    if (this.#waiting) return;
    for (let call = this.#line[this.#first]; call !== undefined; call = this.#line[this.#first]) {
      if (!call.aborted && !this.#start(call)) return;
      this.#first += 1;
      if (call.aborted) this.#leave(call);
      else if (this.#first === LINE_SLACK) this.#forget();
    }
    this.#forget();
  }

  /** Drops the calls in front of `#first`. */
  #forget(): void {
    this.#line.splice(0, this.#first);
    this.#first = 0;
  }

  /** False when the call has to wait, and `#advance` will come again. */
  #start(call: Call): boolean {
    const { op, flags, offset, length, segments = 0, bufferBytes = 0, fill, queue } = call.ask;
    if (bufferBytes > 0 && call.address === 0 && !this.#allocate(call, bufferBytes)) return false;
    fill?.(call.address);
    const token = this.#freeTokens.pop() ?? this.#submitted.length;
    this.#submitted[token] = call;
    this.#queueKick();
    const at = call.address;
    if (this.#device.submit(op, flags, offset, length, segments, at, this, token, queue))
      return true;
    this.#submitted[token] = undefined;
    this.#freeTokens.push(token);
    this.#giveBack(call);
    this.#waiting = true;
    this.#device.whenSpace(() => this.#goOn());
    return false;
  }

  #allocate(call: Call, bufferBytes: number): boolean {
    const { arena } = this.#device;
    call.address = arena.allocate(bufferBytes);
    if (call.address !== 0) return true;
    this.#waiting = true;
    arena.whenFree(bufferBytes, (address) => {
      call.address = address;
      this.#goOn();
    });
    return false;
  }

  #goOn(): void {
    this.#waiting = false;
    this.#advance();
  }

  /** Gives the buffer of a call back, if it has one. */
  #giveBack(call: Call): void {
    if (call.address === 0) return;
    this.#device.arena.release(call.address, call.ask.bufferBytes ?? 0);
    call.address = 0;
  }

  /** The call is over: its buffer goes back (Q2). */
  #errorOf(ask: Ask, status: number, errno: number): SluiceError {
    const { engine, sizeBytes } = this.#device;
    const hasTables = engine !== undefined && engine.mapAt !== 0;
    const corruption = hasTables ? corruptionOf(engine) : undefined;
    return requestError(status, errno, { ...ask, sizeBytes, hasTables, corruption });
  }

  #leave(call: Call): void {
    this.#giveBack(call);
    this.#open -= 1;
    if (this.#open > 0) return;
    const waiters = this.#drainWaiters;
    this.#drainWaiters = [];
    for (const wake of waiters) wake();
  }

  /**
   * Kicks when those who are called now have returned. Who awaits one call after another, each
   * answered at once, would never let timers and sockets have their turn: every so often they do.
   */
  #queueKick(): void {
    if (this.#kickQueued) return;
    this.#kickQueued = true;
    if (this.#kicks === 0) this.#turn.soon();
    this.#kicks += 1;
    if (this.#kicks > KICKS_OF_A_TURN) this.#nextKick.soon();
    else queueMicrotask(() => this.#kick());
  }

  #kick(): void {
    this.#kickQueued = false;
    this.#device.kick();
  }
}
