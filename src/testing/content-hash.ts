/** Numbers for contents, so that equal ones are known without a look at every byte. */

const FNV_PRIME = 0x0100_0193;
const OTHER_PRIME = 0x85eb_ca6b;

/** 64 bits: enough that no two contents of a run meet. */
export class Hash {
  one: number;
  other: number;

  /** @param seed a number that equal contents share, such as their length */
  constructor(seed: number) {
    this.one = seed | 0;
    this.other = ~this.one;
  }

  /** Goes on with a word. */
  add(word: number): void {
    const one = Math.imul(this.one ^ word, FNV_PRIME);
    this.one = one ^ (one >>> 15);
    const other = Math.imul(this.other + word, OTHER_PRIME);
    this.other = other ^ (other >>> 13);
  }

  /** Goes on with bytes that begin on a border of words, and are whole words. */
  addBytes(bytes: Uint8Array): this {
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    for (const word of words) this.add(word);
    return this;
  }

  toString(): string {
    return `${this.one} ${this.other}`;
  }
}
