/** A call that is made later: after this turn of the event loop, or after a time. */

/** Runs `callback` after the callbacks of this turn of the event loop. */
const afterTurn: (callback: () => void) => void =
  typeof setImmediate === 'function' ? setImmediate : (callback) => setTimeout(callback, 0);

/** Longer waits than this sleep; shorter ones go round the event loop, as timers are too coarse. */
const SHORTEST_SLEEP_MICROS = 2000;
const MICROS_PER_MS = 1000;

/** One call, asked for any number of times. */
export class Later {
  readonly #call: () => void;
  readonly #callOnce: () => void;
  #scheduled = false;
  #stopped = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(call: () => void) {
    this.#call = call;
    this.#callOnce = () => {
      this.#scheduled = false;
      call();
    };
  }

  /** Calls once, after the callbacks of this turn. */
  soon(): void {
    if (this.#scheduled || this.#stopped) return;
    this.#scheduled = true;
    afterTurn(this.#callOnce);
  }

  /** Is not called any more. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  /** Calls after so long instead of when it was to be called before; Infinity: not at all. */
  after(waitMicros: number): void {
    clearTimeout(this.#timer);
    if (waitMicros === Infinity || this.#stopped) return;
    if (waitMicros < SHORTEST_SLEEP_MICROS) this.soon();
    else this.#timer = setTimeout(this.#call, Math.floor(waitMicros / MICROS_PER_MS));
  }
}
