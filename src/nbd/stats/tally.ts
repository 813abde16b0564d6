/**
 * The requests of one connection, counted when they are answered: three additions to typed arrays
 * and a share of a look at the clock each.
 */
import { commandName } from '../commands.ts';
import { MAX_REQUESTS } from '../limits.ts';
import type { RequestTable } from '../requests.ts';
import { errorChannel, type NbdRequestEvent, requestChannel } from './channels.ts';
import type { BurstClock } from './clock.ts';
import { Counts, errorName } from './counts.ts';
import type { NbdClientInfo } from './types.ts';

export class Tally {
  readonly client: NbdClientInfo;
  readonly counts = new Counts();
  readonly beganAtMs = performance.now();
  readonly #clock: BurstClock;
  readonly #startedMs = new Float64Array(MAX_REQUESTS);

  constructor(client: NbdClientInfo, clock: BurstClock) {
    this.client = client;
    this.#clock = clock;
  }

  /** The header of a request is there. */
  started(slot: number): void {
    this.#startedMs[slot] = this.#clock.read();
  }

  /** The request has its reply; its entries in the table are still there. */
  answered(table: RequestTable, slot: number, error: number): void {
    const type = table.type[slot] ?? 0;
    const elapsedMs = this.#clock.read() - (this.#startedMs[slot] ?? 0);
    this.counts.count(type, table.length[slot] ?? 0, error, elapsedMs);
    if (requestChannel.hasSubscribers || (error !== 0 && errorChannel.hasSubscribers)) {
      this.#publish(table, slot, error, elapsedMs);
    }
  }

  #publish(table: RequestTable, slot: number, error: number, elapsedMs: number): void {
    const type = table.type[slot] ?? 0;
    const event: NbdRequestEvent = {
      client: this.client,
      command: commandName(type),
      type,
      flags: table.flags[slot] ?? 0,
      offset: table.offset[slot] ?? 0,
      length: table.length[slot] ?? 0,
      error: error === 0 ? undefined : errorName(error),
      seconds: elapsedMs / 1000,
    };
    if (requestChannel.hasSubscribers) requestChannel.publish(event);
    if (error !== 0 && errorChannel.hasSubscribers) errorChannel.publish(event);
  }
}
