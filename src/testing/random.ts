/**
 * A small seeded generator (xorshift32): the same seed gives the same numbers everywhere, which is
 * what makes a run of the explorer one that can be repeated.
 */
export class Random {
  #state: number;

  /** @param seed any whole number; its low 32 bits count */
  constructor(seed: number) {
    // Neighbouring seeds start far apart, and the state is never 0.
    this.#state = Math.imul((seed ^ 0x9e37_79b9) >>> 0, 0x85eb_ca6b) >>> 0 || 1;
    for (let turn = 0; turn < 4; turn++) this.next();
  }

  /** A whole number of 32 bits, never 0. */
  next(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state >>> 0;
    return this.#state;
  }

  /** A whole number from 0 to `bound` - 1; 0 when `bound` is 0. */
  below(bound: number): number {
    return bound <= 0 ? 0 : this.next() % bound;
  }

  /** True with probability `probability`. */
  chance(probability: number): boolean {
    return this.next() < probability * 0x1_0000_0000;
  }
}
