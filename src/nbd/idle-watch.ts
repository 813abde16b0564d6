/**
 * Finds clients that sit on a slot which another one waits for: what was asked of the server is
 * done, and nothing has moved since. While nobody waits, an idle client harms nobody and is left
 * alone.
 */

/** What is watched of a connection. */
export interface Idler {
  /** Nothing is at the device or waits for it: the next move is the client's. */
  readonly awaitsClient: boolean;
  /** Bytes that moved in either direction so far. */
  readonly movedBytes: number;
  /** Those of replies; 0: nothing that it asked for was done so far. */
  readonly sentBytes: number;
}

/** Where a connection was, and since when. */
interface Mark {
  readonly movedBytes: number;
  readonly sinceMs: number;
}

/** What is less is no request on its way: a client that sends a byte now and then is silent. */
const FIRST_REQUEST_BYTES = 4096;

/** How long a client may be idle when others wait, in milliseconds; 0: for ever. */
export interface IdleLimits {
  /** One that has got a reply before. */
  readonly idleMs: number;
  /** One that never has: it may have come only to be there. */
  readonly silentMs: number;
}

export class IdleWatch<T extends Idler> {
  readonly #limits: IdleLimits;
  #marks = new Map<T, Mark>();

  constructor(limits: IdleLimits) {
    this.#limits = limits;
  }

  /** Called now and then with all connections. */
  look(connections: Iterable<T>, nowMs: number): void {
    const marks = new Map<T, Mark>();
    for (const connection of connections) {
      const { movedBytes, sentBytes, awaitsClient } = connection;
      const mark = this.#marks.get(connection);
      const mostBytes = sentBytes === 0 ? FIRST_REQUEST_BYTES : 0;
      const stays = mark !== undefined && awaitsClient && movedBytes - mark.movedBytes <= mostBytes;
      marks.set(connection, stays ? mark : { movedBytes, sinceMs: nowMs });
    }
    this.#marks = marks;
  }

  /** Of some, the one that has been idle for longest, if that is beyond its limit. */
  longest(connections: Iterable<T>, nowMs: number): T | undefined {
    let found: T | undefined;
    let longestMs = 0;
    for (const connection of connections) {
      const mark = this.#marks.get(connection);
      if (mark === undefined) continue;
      const { idleMs, silentMs } = this.#limits;
      const limitMs = connection.sentBytes === 0 ? silentMs : idleMs;
      const restedMs = nowMs - mark.sinceMs;
      if (limitMs === 0 || restedMs < limitMs || restedMs <= longestMs) continue;
      found = connection;
      longestMs = restedMs;
    }
    return found;
  }
}
