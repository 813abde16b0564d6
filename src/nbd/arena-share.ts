/**
 * One connection's way to buffers of the arena: its share first, then the line.
 *
 * A connection that holds nothing may take one buffer of any size; beyond that it stays within a
 * part of the arena, for small and for large buffers apart, so that others always find room. A
 * large WRITE is in the reception as well until its data is here. Who stands in a line stays there
 * until it is served, even when its client has gone: what was received completely is executed.
 */
import { type Arena, isSmall } from '../arena.ts';
import { LARGE_SHARE, SMALL_SHARE } from './limits.ts';
import type { Reception } from './reception.ts';

export class ArenaShare {
  readonly #arena: Arena;
  readonly #reception: Reception;
  readonly #smallBudgetBytes: number;
  readonly #largeBudgetBytes: number;
  readonly #granted: () => void;
  #waiting = false;
  /** A buffer that was waited for, 0: none. */
  #address = 0;
  /** Bytes of the reception that it holds. */
  #receivingBytes = 0;
  /** Of what it waits for there. */
  #announcedBytes = 0;

  /** @param granted called when a buffer that was waited for is there; ask again then */
  constructor(arena: Arena, reception: Reception, granted: () => void) {
    this.#arena = arena;
    this.#reception = reception;
    this.#smallBudgetBytes = Math.floor(arena.smallBytes / SMALL_SHARE);
    this.#largeBudgetBytes = Math.floor(arena.largestBytes / LARGE_SHARE);
    this.#granted = granted;
  }

  /** In the line for a buffer. */
  get waiting(): boolean {
    return this.#waiting;
  }

  /**
   * The address of a buffer, or 0: not now. Ask again with the same length, when `granted` was
   * called or less is held.
   * @param heldSmallBytes what the connection holds of small buffers
   * @param heldLargeBytes and of large ones
   * @param receives data is to come into it; `received` says when it has, or never will
   */
  take(
    lengthBytes: number,
    heldSmallBytes: number,
    heldLargeBytes: number,
    receives: boolean,
  ): number {
    if (this.#address !== 0) return this.#takeGranted();
    if (this.#waiting) return 0;
    const small = isSmall(lengthBytes);
    const heldBytes = small ? heldSmallBytes : heldLargeBytes;
    const budgetBytes = small ? this.#smallBudgetBytes : this.#largeBudgetBytes;
    if (heldBytes > 0 && heldBytes + lengthBytes > budgetBytes) return 0;
    if (receives && !small && !this.#enter(lengthBytes)) return 0;
    const address = this.#arena.allocate(lengthBytes);
    if (address !== 0) return address;
    this.#waiting = true;
    this.#arena.whenFree(lengthBytes, this.#grant);
    return this.#takeGranted();
  }

  /** Nothing more comes into the buffer that was taken last. */
  received(): void {
    const bytes = this.#receivingBytes;
    this.#receivingBytes = 0;
    if (bytes > 0) this.#reception.leave(bytes);
  }

  /** Through the reception: its line first, then that of the arena. */
  #enter(lengthBytes: number): boolean {
    if (this.#receivingBytes > 0) return true;
    this.#announcedBytes = lengthBytes;
    if (this.#reception.enter(lengthBytes, this.#entered)) this.#receivingBytes = lengthBytes;
    else this.#waiting = true;
    return !this.#waiting;
  }

  readonly #entered = (): void => {
    this.#waiting = false;
    this.#receivingBytes = this.#announcedBytes;
    this.#granted();
  };

  #takeGranted(): number {
    const address = this.#address;
    this.#address = 0;
    return address;
  }

  readonly #grant = (address: number): void => {
    this.#waiting = false;
    this.#address = address;
    this.#granted();
  };
}
