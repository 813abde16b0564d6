/** Long work of short calls on this thread. */
import { setImmediate } from 'node:timers/promises';

/** As long as it takes until others have their turn: timers, signals, other I/O. */
const TURN_MS = 8;

/** Lets others have their turn now and then. */
export class Turns {
  #since = performance.now();

  async give(): Promise<void> {
    if (performance.now() - this.#since < TURN_MS) return;
    await setImmediate();
    this.#since = performance.now();
  }
}
