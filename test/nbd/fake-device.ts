/**
 * A device for tests of faces: an array behind the real arena, without engine or backend. It
 * completes inside `kick`, or later from the event loop, or when the test says so, and keeps a log.
 */

import {
  EXTENT_FLAGS,
  EXTENT_HOLE,
  EXTENT_LENGTH,
  EXTENT_SIZE,
  EXTENT_TABLE_ENTRIES,
  EXTENT_ZERO,
  OP_BLOCK_STATUS,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  STATUS_OK,
} from '../../src/abi/request.ts';
import { Arena, PAGE_SIZE } from '../../src/arena.ts';
import type { CompletionTarget, Device } from '../../src/device.ts';

/** Extents are told apart in units of this size. */
const EXTENT_UNIT = 4096;

/** When requests complete: inside `kick`, in a later turn of the event loop, or by `release`. */
export type CompletionMode = 'inline' | 'later' | 'held';

/** One request as the device saw it. */
export interface Logged {
  readonly op: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
}

interface Pending extends Logged {
  readonly data: number;
  readonly target: CompletionTarget;
  readonly token: number;
}

/** How a fake device is made; everything has a default. */
export interface FakeDeviceOptions {
  readonly sizeBytes?: number;
  readonly readOnly?: boolean;
  readonly blockSizeBytes?: number;
  /** Room for large buffers; there is as much for small ones. */
  readonly arenaBytes?: number;
  readonly mode?: CompletionMode;
  /** Requests held at once. */
  readonly slots?: number;
  /** Without storage reads are zeroes and writes are forgotten. */
  readonly storage?: boolean;
}

/** The longest small buffer. */
const SMALL_BYTES = 32_768;
/** The longest one that is not among the largest. */
const USUAL_BYTES = 2_097_152;

export class FakeDevice implements Device {
  readonly bytes: Uint8Array;
  readonly arena: Arena;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly blockSizeBytes: number;
  readonly storage: Uint8Array;
  mode: CompletionMode;
  /** The status of a request; the default is that all goes well. */
  statusOf: (request: Logged) => number = () => STATUS_OK;
  /** Every request that was submitted, in order. */
  readonly log: Logged[] = [];
  kicks = 0;
  /** The largest number of requests that were held at once. */
  peak = 0;
  readonly #slots: number;
  #pending: Pending[] = [];
  readonly #ready: Pending[] = [];
  #waiters: (() => void)[] = [];
  #submitting = false;
  #scheduled = false;

  constructor(options: FakeDeviceOptions = {}) {
    const largeBytes = options.arenaBytes ?? 64 * 2 ** 20;
    this.bytes = new Uint8Array(PAGE_SIZE + 2 * largeBytes);
    this.arena = new Arena(PAGE_SIZE, 2 * largeBytes);
    this.sizeBytes = options.sizeBytes ?? 2 ** 20;
    this.readOnly = options.readOnly ?? false;
    this.blockSizeBytes = options.blockSizeBytes ?? 1;
    this.storage = new Uint8Array(options.storage === false ? 0 : this.sizeBytes);
    this.mode = options.mode ?? 'inline';
    this.#slots = options.slots ?? 1024;
  }

  /** Requests submitted and not completed. */
  get open(): number {
    return this.#pending.length + this.#ready.length;
  }

  /** True when every buffer of the arena was given back. */
  get arenaIsWhole(): boolean {
    const { arena } = this;
    const taken: [address: number, lengthBytes: number][] = [];
    const take = (lengthBytes: number): boolean => {
      const address = arena.allocate(lengthBytes);
      if (address !== 0) taken.push([address, lengthBytes]);
      return address !== 0;
    };
    let whole = take(arena.largestBytes);
    // A large arena has a part for the usual buffers besides.
    const usualBytes = arena.largestBytes < arena.smallBytes ? arena.usualBytes : 0;
    for (let at = 0; at < usualBytes; at += USUAL_BYTES) whole = take(USUAL_BYTES) && whole;
    for (let at = 0; at < arena.smallBytes; at += SMALL_BYTES) whole = take(SMALL_BYTES) && whole;
    for (const [address, lengthBytes] of taken) arena.release(address, lengthBytes);
    return whole;
  }

  /** Operations of the log. */
  ops(): number[] {
    return this.log.map(({ op }) => op);
  }

  submit(
    op: number,
    flags: number,
    offset: number,
    length: number,
    _segments: number,
    data: number,
    target: CompletionTarget,
    token: number,
  ): boolean {
    if (this.open >= this.#slots) return false;
    this.#submitting = true;
    const request = { op, flags, offset, length, data, target, token };
    this.log.push({ op, flags, offset, length });
    this.#pending.push(request);
    this.peak = Math.max(this.peak, this.open);
    this.#submitting = false;
    return true;
  }

  kick(): void {
    this.kicks += 1;
    this.#ready.push(...this.#pending);
    this.#pending = [];
    if (this.mode === 'inline') this.release();
    else if (this.mode === 'later') this.#schedule();
  }

  whenSpace(callback: () => void): void {
    this.#waiters.push(callback);
  }

  /** Completes what was kicked, or the first `count` of it. */
  release(count = this.#ready.length): void {
    const ready = this.#ready.splice(0, count);
    for (const request of ready) this.#complete(request);
    if (ready.length === 0) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }

  /** Completes what was kicked, last first. */
  releaseBackwards(): void {
    this.#ready.reverse();
    this.release();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.release();
    });
  }

  #complete(request: Pending): void {
    if (this.#submitting) throw new Error('completed from inside submit');
    const status = this.statusOf(request);
    const value = status === STATUS_OK ? this.#execute(request) : 0;
    request.target.completed(request.token, status, value, 0);
  }

  #execute({ op, offset, length, data }: Pending): number {
    const stored = this.storage.subarray(offset, offset + length);
    switch (op) {
      case OP_READ:
        this.bytes
          .subarray(data, data + length)
          .fill(0)
          .set(stored);
        return 0;
      case OP_WRITE:
        if (stored.length > 0) stored.set(this.bytes.subarray(data, data + length));
        return 0;
      case OP_WRITE_ZEROES:
      case OP_DISCARD:
        stored.fill(0);
        return 0;
      case OP_BLOCK_STATUS:
        return this.#extents(offset, length, data);
      case OP_FLUSH:
        return 0;
      default:
        throw new Error(`operation ${op}`);
    }
  }

  /** Units of zeroes are holes, in as many entries as there are units. */
  #extents(offset: number, length: number, data: number): number {
    const view = new DataView(this.bytes.buffer, data);
    let entry = 0;
    for (let at = offset; at < offset + length && entry < EXTENT_TABLE_ENTRIES; entry++) {
      const next = Math.min((Math.floor(at / EXTENT_UNIT) + 1) * EXTENT_UNIT, offset + length);
      const end = this.storage.length === 0 ? offset + length : next;
      const hole = this.storage.subarray(at, end).every((byte) => byte === 0);
      view.setBigUint64(entry * EXTENT_SIZE + EXTENT_LENGTH, BigInt(end - at), true);
      view.setUint32(
        entry * EXTENT_SIZE + EXTENT_FLAGS,
        hole ? EXTENT_HOLE | EXTENT_ZERO : 0,
        true,
      );
      at = end;
    }
    return entry;
  }
}
