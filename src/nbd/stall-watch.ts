/**
 * Finds clients that sit on memory which others wait for: those that neither send the rest of a
 * WRITE nor read their replies. While nobody waits, a slow client harms nobody and is left alone.
 */
import type { Arena } from '../arena.ts';
import {
  LEAST_STALL_MS,
  STALL_BYTES,
  STALL_CALM_MS,
  STALL_CHECK_MS,
  STALL_MS,
  STALL_PART,
} from './limits.ts';

/** What is watched of a connection. */
export interface Watched {
  /** In the line for a buffer of the arena. */
  readonly waiting: boolean;
  /** Holds memory until its client sends or reads. */
  readonly stalling: boolean;
  /** Bytes that moved in either direction so far. */
  readonly movedBytes: number;
  /** Bytes of the arena that it holds. */
  readonly heldBytes: number;
}

/** How long a connection has been watched, and where it was then. */
interface Mark {
  checks: number;
  movedBytes: number;
}

const CHECKS = STALL_MS / STALL_CHECK_MS;
const LEAST_CHECKS = LEAST_STALL_MS / STALL_CHECK_MS;
const CALM_CHECKS = STALL_CALM_MS / STALL_CHECK_MS;

export class StallWatch<T extends Watched> {
  readonly #arena: Arena;
  #marks = new Map<T, Mark>();
  /** Checks without movement that are too many. */
  #patience = CHECKS;
  /** Checks since somebody was dropped. */
  #calm = 0;

  constructor(arena: Arena) {
    this.#arena = arena;
  }

  /** Called every STALL_CHECK_MS; returns those to drop. */
  check(connections: Iterable<T>): T[] {
    const all = [...connections];
    const marks = new Map<T, Mark>();
    if (this.#arena.contended) {
      const waiting = all.filter((connection) => connection.waiting).length;
      for (const connection of all) {
        // Who waits for itself alone keeps nobody from anything.
        const alone = connection.waiting && waiting === 1;
        if (connection.stalling && !alone) marks.set(connection, this.#advance(connection));
      }
    }
    this.#marks = marks;
    const stalled = all.filter((connection) => this.#stalled(connection));
    this.#adapt(stalled.length);
    return stalled;
  }

  /** Where one has to be dropped there may be more, and each would hold up the others in turn. */
  #adapt(dropped: number): void {
    this.#calm += 1;
    if (dropped > 0) {
      this.#calm = 0;
      this.#patience = Math.max(LEAST_CHECKS, Math.floor(this.#patience / 2));
    } else if (this.#calm >= CALM_CHECKS) this.#patience = CHECKS;
  }

  #advance(connection: T): Mark {
    const mark = this.#marks.get(connection);
    const moved = mark === undefined ? 0 : connection.movedBytes - mark.movedBytes;
    const enough = Math.max(STALL_BYTES, connection.heldBytes / STALL_PART);
    if (mark === undefined || moved >= enough) {
      return { checks: 0, movedBytes: connection.movedBytes };
    }
    mark.checks += 1;
    return mark;
  }

  #stalled(connection: T): boolean {
    return (this.#marks.get(connection)?.checks ?? 0) >= this.#patience;
  }
}
