/**
 * Client slots: how many may be in transmission, with the server and with each export.
 *
 * S1  A slot is taken when transmission begins and free when everything is executed.
 * S2  Who finds none waits, and whoever has waited longest for a slot that is free gets it: those
 *     that wait for one export do not hold up those that wait for another.
 */
import type { Export } from './export.ts';
import { MAX_PARKED } from './limits.ts';

/** Who needs a slot. */
export interface SlotUser {
  /** The export that it has chosen. */
  readonly chosen: Export | undefined;
  /** It waited for a slot, and has one now. */
  admitted(): void;
}

export class Slots<User extends SlotUser> {
  readonly #maxClients: number;
  readonly #taken = new Set<User>();
  readonly #parked = new Set<User>();

  /** @param maxClients of the server; 0: no limit */
  constructor(maxClients: number) {
    this.#maxClients = maxClients;
  }

  /** Who waits, the oldest first. */
  get parked(): ReadonlySet<User> {
    return this.#parked;
  }

  /** @returns false when it has to wait, or when even that has no room: see `parked` */
  take(user: User): boolean {
    if (this.#hasRoom(user)) {
      this.#taken.add(user);
      return true;
    }
    if (this.#parked.size < MAX_PARKED) this.#parked.add(user);
    return false;
  }

  /** It needs no slot any more; another one gets it. */
  give(user: User): void {
    this.#parked.delete(user);
    if (!this.#taken.delete(user)) return;
    for (const next of this.#parked) {
      if (!this.#hasRoom(next)) continue;
      this.#parked.delete(next);
      this.#taken.add(next);
      return next.admitted();
    }
  }

  /** Of those with a slot, each would make room for it by leaving. */
  inTheWayOf({ chosen }: User): User[] {
    const most = chosen?.maxClients ?? 0;
    const rivals = [...this.#taken].filter((user) => user.chosen === chosen);
    return most !== 0 && rivals.length >= most ? rivals : [...this.#taken];
  }

  /** Nobody gets a slot from here on. */
  close(): void {
    this.#parked.clear();
  }

  #hasRoom({ chosen }: User): boolean {
    if (this.#maxClients !== 0 && this.#taken.size >= this.#maxClients) return false;
    const most = chosen?.maxClients ?? 0;
    if (most === 0) return true;
    let taken = 0;
    for (const user of this.#taken) taken += Number(user.chosen === chosen);
    return taken < most;
  }
}
