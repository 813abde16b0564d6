/**
 * What WRITEs whose data is still coming hold of a device's large buffers, over all connections.
 * So clients that announce data and are slow to send it leave room for what others ask for, and
 * wait for each other in lines of their own: one for those of the usual sizes, which get a quarter
 * of the space together, and one for still larger ones, which get half of it, or one its place.
 */
import type { Arena } from '../arena.ts';

/** Longest WRITE of the usual sizes, those of kernels and of copying programs. */
const USUAL_BYTES = 2_097_152;

/** A WRITE that waits to be received. */
interface Waiter {
  readonly lengthBytes: number;
  readonly enter: () => void;
}

class Lane {
  readonly #arena: Arena;
  readonly #part: number;
  readonly #waiters: Waiter[] = [];
  #heldBytes = 0;

  /** @param part of the space for large buffers */
  constructor(arena: Arena, part: number) {
    this.#arena = arena;
    this.#part = part;
  }

  get contended(): boolean {
    return this.#waiters.length > 0;
  }

  enter(lengthBytes: number, enter: () => void): boolean {
    if (!this.contended && this.#admits(lengthBytes)) return true;
    this.#waiters.push({ lengthBytes, enter });
    return false;
  }

  leave(lengthBytes: number): void {
    this.#heldBytes -= lengthBytes;
    for (;;) {
      const first = this.#waiters[0];
      if (first === undefined || !this.#admits(first.lengthBytes)) return;
      this.#waiters.shift();
      first.enter();
    }
  }

  #admits(lengthBytes: number): boolean {
    const heldBytes = this.#heldBytes + lengthBytes;
    if (this.#heldBytes > 0 && heldBytes > this.#arena.largestBytes * this.#part) return false;
    this.#heldBytes = heldBytes;
    return true;
  }
}

export class Reception {
  readonly #usual: Lane;
  readonly #larger: Lane;

  constructor(arena: Arena) {
    this.#usual = new Lane(arena, 1 / 4);
    this.#larger = new Lane(arena, 1 / 2);
  }

  /** True when somebody waits. */
  get contended(): boolean {
    return this.#usual.contended || this.#larger.contended;
  }

  /**
   * True: the data may come. False: not yet, `enter` is called then; in the order of the calls.
   * @param lengthBytes all the data, to be given to `leave` when it has come or never will
   */
  enter(lengthBytes: number, enter: () => void): boolean {
    return this.#laneOf(lengthBytes).enter(lengthBytes, enter);
  }

  leave(lengthBytes: number): void {
    this.#laneOf(lengthBytes).leave(lengthBytes);
  }

  #laneOf(lengthBytes: number): Lane {
    return lengthBytes <= USUAL_BYTES ? this.#usual : this.#larger;
  }
}
