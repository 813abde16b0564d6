/**
 * A clock that is looked at once for all that happens together: the requests of one burst have one
 * time, so that a deep queue pays for it once. Whoever begins something new says `expire`.
 */
export class BurstClock {
  #nowMs = 0;
  #expired = true;

  /** Milliseconds, as performance.now() counts them. */
  read(): number {
    if (this.#expired) {
      this.#expired = false;
      this.#nowMs = performance.now();
    }
    return this.#nowMs;
  }

  /** Time has passed. */
  expire(): void {
    this.#expired = true;
  }
}
