/**
 * Turns: connections that have something to do are attended together, and the device is kicked
 * once for all that they submitted.
 *
 *   bytes came ─▶ run ─▶ attend all woken ─▶ kick ─▶ (completions wake) ─▶ attend ... until quiet
 *   completion, buffer or room from elsewhere ─▶ wake ─▶ the same, in a microtask
 *
 * Nothing is submitted from inside a completion: the device is never entered twice.
 */
import type { Device } from '../device.ts';
import { BurstClock } from './stats/clock.ts';

/** Somebody who takes part in turns. */
export interface Attended {
  /** In the list of the next round; set by the turn. */
  woken: boolean;
  /**
   * Sends, parses, submits: whatever can be done now.
   * @returns true when something was submitted
   */
  attend(): boolean;
}

export class Turn {
  /** Of those who take part. */
  readonly clock = new BurstClock();
  readonly #device: Device;
  #woken: Attended[] = [];
  #spare: Attended[] = [];
  #running = false;
  #scheduled = false;
  readonly #soon = (): void => {
    this.#scheduled = false;
    this.#run();
  };

  constructor(device: Device) {
    this.#device = device;
  }

  /** Attends `who` now, unless a turn is running that will come to it. */
  run(who: Attended): void {
    this.#add(who);
    this.#run();
  }

  /** Attends `who` after the present burst of completions. */
  wake(who: Attended): void {
    this.#add(who);
    if (this.#running || this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(this.#soon);
  }

  #add(who: Attended): void {
    if (who.woken) return;
    who.woken = true;
    this.#woken.push(who);
  }

  #run(): void {
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.#woken.length > 0) {
        this.clock.expire();
        if (!this.#round()) continue;
        this.clock.expire();
        this.#device.kick();
      }
    } finally {
      this.clock.expire();
      this.#running = false;
    }
  }

  /** Attends everybody in the list; who is woken meanwhile comes in the next round. */
  #round(): boolean {
    const round = this.#woken;
    this.#woken = this.#spare;
    let submitted = false;
    // Emptied by pop, which keeps the array's memory, where a length of 0 gives it back.
    for (let who = round.pop(); who !== undefined; who = round.pop()) {
      who.woken = false;
      if (who.attend()) submitted = true;
    }
    this.#spare = round;
    return submitted;
  }
}
