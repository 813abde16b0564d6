/**
 * What the disk reads as, byte by byte. A request that conflicts with an earlier one waits for it
 * (H2): so what completes is done in the order of the completions.
 */

import * as abi from '../../../src/abi/request.ts';
import { Violation } from '../ledger.ts';
import type { Io } from './input.ts';
import type { BuiltImage } from './image.ts';

/** A byte that is known; one that was discarded: old or zero; one that may be anything. */
const KNOWN = 0;
const DISCARDED = 1;
const ANYTHING = 2;

/** See the head of the file. */
export class Shadow {
  #bytes: Uint8Array = new Uint8Array(0);
  #states = new Uint8Array(0);
  #backing: Uint8Array = new Uint8Array(0);
  /** True while some byte is not known. */
  #hasUnknown = false;

  /** The disk as it is at first. */
  reset({ disk, backing }: BuiltImage): void {
    if (this.#bytes.length === disk.length) this.#bytes.set(disk);
    else {
      this.#bytes = Uint8Array.from(disk);
      this.#states = new Uint8Array(disk.length);
    }
    if (this.#hasUnknown) this.#states.fill(KNOWN);
    this.#hasUnknown = false;
    this.#backing = backing;
  }

  /** A request that changes the disk has completed. `data`: what it has written. */
  change({ op, offset, length }: Io, status: number, data: Uint8Array): void {
    const end = offset + length;
    if (status !== abi.STATUS_OK) return this.#mark(offset, end, ANYTHING);
    if (op === abi.OP_DISCARD) return this.#mark(offset, end, DISCARDED);
    this.#states.fill(KNOWN, offset, end);
    if (op === abi.OP_WRITE) this.#bytes.set(data, offset);
    else this.#bytes.fill(0, offset, end);
  }

  #mark(offset: number, end: number, state: number): void {
    this.#hasUnknown = true;
    const states = this.#states;
    if (state === ANYTHING) states.fill(state, offset, end);
    else for (let at = offset; at < end; at++) states[at] = Math.max(states[at]!, state);
  }

  /** Bytes that were read at `offset`: what is not known is known from now on. */
  read(offset: number, found: Uint8Array): void {
    const expected = this.#bytes.subarray(offset, offset + found.length);
    if (Buffer.compare(expected, found) === 0) {
      if (this.#hasUnknown) this.#states.fill(KNOWN, offset, offset + found.length);
      return;
    }
    for (let at = 0; at < found.length; at++) {
      const place = offset + at;
      const state = this.#states[place]!;
      const byte = found[at]!;
      const isDiscarded = byte === 0 || byte === (this.#backing[place] ?? 0);
      const isFine =
        byte === expected[at] || state === ANYTHING || (state === DISCARDED && isDiscarded);
      if (!isFine) {
        throw new Violation(`data: byte ${place} reads ${byte}, not ${expected[at]}`);
      }
      expected[at] = byte;
      this.#states[place] = KNOWN;
    }
  }

  /** A block status says that a range reads as zeroes. */
  checkZero(offset: number, length: number): void {
    for (let at = offset; at < offset + length; at++) {
      if (this.#bytes[at] === 0 || this.#states[at] !== KNOWN) continue;
      throw new Violation(`status: byte ${at} is ${this.#bytes[at]}, and is said to be zero`);
    }
  }
}
