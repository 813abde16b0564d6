/**
 * One connection's way to buffers of the arena: its share first, then the line.
 *
 * A connection that holds nothing may take one buffer of any size; beyond that it stays within a
 * part of the arena, for small and for large buffers apart, so that others always find room. Who
 * stands in the line for something that changes the disk stays there until it is served, even when
 * its client has gone: what was received completely is executed.
 */
import { type Arena, isSmall } from '../arena.ts';
import { LARGE_SHARE, SMALL_SHARE } from './limits.ts';

/** A place in the line. */
interface Wait {
  readonly lengthBytes: number;
  /** It was served, or given up: then the buffer goes back as soon as it comes. */
  isOver: boolean;
}

export class ArenaShare {
  readonly #arena: Arena;
  readonly #smallBudgetBytes: number;
  readonly #largeBudgetBytes: number;
  readonly #granted: () => void;
  /** The place in the line. */
  #wait: Wait | undefined;
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
    return this.#wait?.isOver === false;
  }

  /**
   * The address of a buffer, or 0: not now. Ask again with the same length, when `granted` was
   * called or less is held.
   * @param heldSmallBytes what the connection holds of small buffers
   * @param heldLargeBytes and of large ones
   */
  take(lengthBytes: number, heldSmallBytes: number, heldLargeBytes: number): number {
    if (this.#address !== 0) return this.#takeGranted();
    if (this.waiting) return 0;
    const small = isSmall(lengthBytes);
    const heldBytes = small ? heldSmallBytes : heldLargeBytes;
    const budgetBytes = small ? this.#smallBudgetBytes : this.#largeBudgetBytes;
    if (heldBytes > 0 && heldBytes + lengthBytes > budgetBytes) return 0;
    const address = this.#arena.allocate(lengthBytes);
    if (address !== 0) return address;
    const wait = { lengthBytes, isOver: false };
    this.#wait = wait;
    this.#arena.whenFree(lengthBytes, (granted) => this.#grant(wait, granted));
    return this.#takeGranted();
  }

  /** Nobody wants the buffer any more that is waited for, if one is. */
  giveUp(): void {
    const wait = this.#wait;
    if (wait === undefined) return;
    const address = this.#takeGranted();
    if (address !== 0) this.#arena.release(address, wait.lengthBytes);
    wait.isOver = true;
  }

  #takeGranted(): number {
    const address = this.#address;
    this.#address = 0;
    return address;
  }

  #grant(wait: Wait, address: number): void {
    if (wait.isOver) return this.#arena.release(address, wait.lengthBytes);
    wait.isOver = true;
    this.#address = address;
    this.#granted();
  }
}
