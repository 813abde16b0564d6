/**
 * Room for WRITEs of the usual sizes whose data is still coming, over all connections of a device.
 *
 * The data of some of them comes straight into the arena: what those hold is a part of it, so that
 * clients that are slow to send leave the rest to others. That of further ones comes into memory of
 * the heap, which the system provides as bytes come, and is copied into the arena when all of it is
 * here: nobody waits for somebody else's data.
 */
import { type Arena, isSmall, isUsual } from '../arena.ts';

/** Of the arena's space for them. */
const ARENA_PART = 1 / 2;
/** What may be announced to the heap together. */
const HEAP_BYTES = 268_435_456;

/** Where the data of a WRITE comes. */
export type Entrance = 'arena' | 'heap';

export class Reception {
  readonly #arena: Arena;
  readonly #heldBytes = { arena: 0, heap: 0 };

  constructor(arena: Arena) {
    this.#arena = arena;
  }

  /**
   * Where the data of a WRITE is to come, until `leave`; undefined: there are no rules for it, and
   * it waits for a buffer as everything else.
   */
  enter(lengthBytes: number): Entrance | undefined {
    if (isSmall(lengthBytes) || !isUsual(lengthBytes)) return undefined;
    const held = this.#heldBytes;
    const mostBytes = { arena: this.#arena.usualBytes * ARENA_PART, heap: HEAP_BYTES };
    for (const entrance of ['arena', 'heap'] as const) {
      if (held[entrance] + lengthBytes > mostBytes[entrance]) continue;
      held[entrance] += lengthBytes;
      return entrance;
    }
    return undefined;
  }

  /** The data has come, or never will. */
  leave(entrance: Entrance, lengthBytes: number): void {
    this.#heldBytes[entrance] -= lengthBytes;
  }
}
