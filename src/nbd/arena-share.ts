/**
 * One connection's way to buffers of the arena: its share first, then the line.
 *
 * A connection that holds nothing may take one buffer of any size; beyond that it stays within a
 * part of the arena, for small and for large buffers apart, so that others always find room. Who
 * stands in the line stays there until it is served, even when its client has gone: what was
 * received completely is executed.
 */
import { type Arena, isSmall } from '../arena.ts';
import { LARGE_SHARE, SMALL_SHARE } from './limits.ts';

export class ArenaShare {
  readonly #arena: Arena;
  readonly #smallBudgetBytes: number;
  readonly #largeBudgetBytes: number;
  readonly #granted: () => void;
  #waiting = false;
  /** A buffer that was waited for, 0: none. */
  #address = 0;

  /** @param granted called when a buffer that was waited for is there; ask again then */
  constructor(arena: Arena, granted: () => void) {
    this.#arena = arena;
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
   */
  take(lengthBytes: number, heldSmallBytes: number, heldLargeBytes: number): number {
    if (this.#address !== 0) return this.#takeGranted();
    if (this.#waiting) return 0;
    const small = isSmall(lengthBytes);
    const heldBytes = small ? heldSmallBytes : heldLargeBytes;
    const budgetBytes = small ? this.#smallBudgetBytes : this.#largeBudgetBytes;
    if (heldBytes > 0 && heldBytes + lengthBytes > budgetBytes) return 0;
    const address = this.#arena.allocate(lengthBytes);
    if (address !== 0) return address;
    this.#waiting = true;
    this.#arena.whenFree(lengthBytes, this.#grant);
    return this.#takeGranted();
  }

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
