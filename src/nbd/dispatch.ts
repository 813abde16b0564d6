/**
 * The requests of one connection that the device has: submitted by slot, answered on completion.
 *
 * D1  Nothing is submitted from inside a completion; what is left of a CACHE waits for `proceed`.
 * D2  A CACHE is a hint: no more of it is read than is worth it, and nothing for a client that has
 *     gone.
 * D3  A piece of a CACHE, or a BLOCK_STATUS, may keep the thread for long. The device has one of
 *     them at a time from each connection, and gets the next in another turn of the event loop:
 *     whatever a client asks for of these, the others have their turns.
 */
import { STATUS_OK } from '../abi/request.ts';
import type { CompletionTarget, Device } from '../device.ts';
import type { Answers } from './answers.ts';
import { MAX_CACHED_BYTES } from './limits.ts';
import { deviceFlags, deviceOperation, transferBytes } from './operations.ts';
import { CMD_BLOCK_STATUS, CMD_CACHE, CMD_READ } from './protocol.ts';

export class Dispatch implements CompletionTarget {
  readonly #device: Device;
  readonly #answers: Answers;
  readonly #wake: () => void;
  #inFlight = 0;
  /** What waits for the long one before it (D3); a CACHE that was read in part comes first. */
  readonly #long: number[] = [];
  /** The device has a long one, or had it in this turn of the event loop. */
  #busy = false;
  #submitted = false;
  #spaceAwaited = false;
  #hasGone = false;
  readonly #rested = (): void => {
    this.#busy = false;
    if (this.#long.length > 0) this.#wake();
  };

  /** @param wake called when a reply is ready, or the device takes requests again */
  constructor(device: Device, answers: Answers, wake: () => void) {
    this.#device = device;
    this.#answers = answers;
    this.#wake = wake;
  }

  /** The device has nothing of this connection, and gets nothing more unless it is submitted. */
  get idle(): boolean {
    return this.#inFlight === 0 && this.#long.length === 0;
  }

  /** The client sends nothing more: what it only hinted at is ended where it is (D2). */
  endHints(): void {
    this.#hasGone = true;
  }

  /** Takes a request; false: not now, try again when woken. */
  submit(slot: number): boolean {
    const isLong = this.#isLong(slot);
    if (isLong && this.#busy) this.#long.push(slot);
    else if (!this.#give(slot)) return false;
    else if (isLong) this.#busy = true;
    return true;
  }

  /** Goes on with what waits. */
  proceed(): void {
    if (this.#hasGone) this.#forgo();
    const [slot] = this.#long;
    if (this.#busy || slot === undefined || !this.#give(slot)) return;
    this.#busy = true;
    this.#long.shift();
  }

  /** True when something was submitted since the last call: the device wants a kick. */
  takeSubmitted(): boolean {
    const submitted = this.#submitted;
    this.#submitted = false;
    return submitted;
  }

  completed(token: number, status: number, value: number, errno: number): void {
    const answers = this.#answers;
    const type = answers.table.type[token] ?? 0;
    this.#inFlight--;
    if (this.#isLong(token)) setImmediate(this.#rested);
    if (status !== STATUS_OK) answers.fail(token, status, errno);
    else if (type === CMD_READ) answers.data(token);
    else if (type === CMD_BLOCK_STATUS) answers.extents(token, value);
    else if (type === CMD_CACHE && this.#moreToRead(token)) this.#long.unshift(token);
    else answers.done(token);
    this.#wake();
  }

  #isLong(slot: number): boolean {
    const type = this.#answers.table.type[slot] ?? 0;
    return type === CMD_CACHE || type === CMD_BLOCK_STATUS;
  }

  /** Gives a request, or its next piece, to the device; false: it has no room. */
  #give(slot: number): boolean {
    const { table } = this.#answers;
    const type = table.type[slot] ?? 0;
    const done = table.done[slot] ?? 0;
    const taken = this.#device.submit(
      deviceOperation(type),
      deviceFlags(type, table.flags[slot] ?? 0),
      (table.offset[slot] ?? 0) + done,
      transferBytes(type, (table.length[slot] ?? 0) - done),
      1,
      table.address[slot] ?? 0,
      this,
      slot,
    );
    if (taken) {
      this.#inFlight++;
      this.#submitted = true;
    } else this.#awaitSpace();
    return taken;
  }

  /** No hints for a client that sends nothing more, no answers for one that hears nothing (D2). */
  #forgo(): void {
    const { table, sender } = this.#answers;
    for (const slot of this.#long.splice(0)) {
      const isHeard = table.type[slot] === CMD_BLOCK_STATUS && !sender.deaf;
      if (isHeard) this.#long.push(slot);
      else this.#answers.done(slot);
    }
  }

  #awaitSpace(): void {
    if (this.#spaceAwaited) return;
    this.#spaceAwaited = true;
    this.#device.whenSpace(() => {
      this.#spaceAwaited = false;
      this.#wake();
    });
  }

  /** Moves a CACHE past the piece that was read; false when it was the last. */
  #moreToRead(slot: number): boolean {
    const { table } = this.#answers;
    const wanted = Math.min(table.length[slot] ?? 0, MAX_CACHED_BYTES);
    const before = table.done[slot] ?? 0;
    const done = before + transferBytes(CMD_CACHE, (table.length[slot] ?? 0) - before);
    table.done[slot] = done;
    return done < wanted;
  }
}
