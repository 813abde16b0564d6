/** Whether calls that may wait for a disk are made on the calling thread. */

/** What is asked of it. */
export interface PatienceLimits {
  /** A call that takes longer was better made elsewhere. */
  readonly slowMs: number;
  /** So many calls after a slow one are made elsewhere, twice as many after the next one. */
  readonly firstRest: number;
  readonly longestRest: number;
}

/** A disk that takes longer than a change of threads by far is waited for elsewhere. */
export const DISK_PATIENCE: PatienceLimits = { slowMs: 1, firstRest: 32, longestRest: 4096 };
/** More than this takes its time on any disk. */
export const WAITED_BYTES = 128 * 1024;

/** Learns from how long calls take: it rests after a slow one, longer each time. */
export class Patience {
  readonly #limits: PatienceLimits;
  #rest = 0;
  #nextRest: number;

  constructor(limits: PatienceLimits) {
    this.#limits = limits;
    this.#nextRest = limits.firstRest;
  }

  /** The next call is made here; asked once for each. */
  ask(): boolean {
    if (this.#rest === 0) return true;
    this.#rest -= 1;
    return false;
  }

  /** A call was made here. */
  took(ms: number): void {
    const { slowMs, firstRest, longestRest } = this.#limits;
    if (ms <= slowMs) {
      this.#nextRest = firstRest;
      return;
    }
    this.#rest = this.#nextRest;
    this.#nextRest = Math.min(this.#nextRest * 2, longestRest);
  }
}
