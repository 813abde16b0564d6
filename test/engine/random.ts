/** A small seeded generator (xorshift32): the same seed gives the same numbers everywhere. */
export class Random {
  #state: number;

  /** @param seed any number; its low 32 bits count */
  constructor(seed: number) {
    // Neighbouring seeds start far apart, and the state is never 0.
    this.#state = Math.imul((seed ^ 0x9e3779b9) >>> 0, 0x85ebca6b) >>> 0 || 1;
    for (let i = 0; i < 4; i++) this.#next();
  }

  /** A whole number from 0 to `bound` - 1. */
  below(bound: number): number {
    return this.#next() % bound;
  }

  /** One of `items`. */
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  /** True with probability `probability`. */
  chance(probability: number): boolean {
    return this.#next() < probability * 0x1_0000_0000;
  }

  /** The same items in any order. */
  shuffle<T>(items: readonly T[]): T[] {
    const shuffled = [...items];
    for (let last = shuffled.length - 1; last > 0; last--) {
      const at = this.below(last + 1);
      [shuffled[at], shuffled[last]] = [shuffled[last]!, shuffled[at]!];
    }
    return shuffled;
  }

  #next(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state >>> 0;
    return this.#state;
  }
}
