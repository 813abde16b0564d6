/**
 * What sectors of a guest hold in an exploration: bytes that tell who wrote them, and where.
 *
 *   word     0        1        2        3 to 127
 *            | magic  | code   | sector | a mixture of the two and the word's place |
 *
 * A code is the number of a write; what the disk holds at first has codes as well. Zeroes have
 * code 0. A host's free space holds words of its own, so that nobody reads it without being found.
 */
import { SECTOR_BYTES } from '../stream.ts';

/** Words of a sector. */
export const SECTOR_WORDS = SECTOR_BYTES / 4;

/** Code of bytes that are no sector of a guest. */
export const GARBAGE = -10;
/** Code of what lay in the host's free space. */
export const STALE = -11;
/** Code of what was written to another sector. */
export const FOREIGN = -12;

const MAGIC = 0x5ec70123;
const POISON = 0xdeadbeef | 0;
const MIX = 0x9e3779b1 | 0;

/** Fills the sectors of `bytes` with what a write with this code puts there, from `sector` on. */
export function fillSectors(bytes: Uint8Array, code: number, sector: number): void {
  const words = wordsOf(bytes);
  for (let at = 0; at < words.length; at += SECTOR_WORDS) {
    const number = sector + at / SECTOR_WORDS;
    words[at] = MAGIC;
    words[at + 1] = code;
    words[at + 2] = number;
    const mixture = mixtureOf(code, number);
    for (let word = 3; word < SECTOR_WORDS; word++) words[at + word] = mixture + word;
  }
}

/** Makes the bytes free space. */
export function poison(bytes: Uint8Array): void {
  wordsOf(bytes).fill(POISON);
}

/** The code of the sector that begins at word `at`: what `sector` of the guest holds. */
export function codeOf(words: Int32Array, at: number, sector: number): number {
  const first = words[at];
  if (first === 0) return isFilled(words, at, 0) ? 0 : GARBAGE;
  if (first === POISON) return isFilled(words, at, POISON) ? STALE : GARBAGE;
  if (first !== MAGIC) return GARBAGE;
  const code = words[at + 1] ?? 0;
  const number = words[at + 2] ?? 0;
  const mixture = mixtureOf(code, number);
  for (let word = 3; word < SECTOR_WORDS; word++) {
    if (words[at + word] !== ((mixture + word) | 0)) return GARBAGE;
  }
  return number === sector ? code : FOREIGN;
}

/** The words of bytes that begin on a border of words. */
export function wordsOf(bytes: Uint8Array): Int32Array {
  return new Int32Array(bytes.buffer, bytes.byteOffset, Math.floor(bytes.length / 4));
}

function isFilled(words: Int32Array, at: number, value: number): boolean {
  for (let word = at; word < at + SECTOR_WORDS; word++) if (words[word] !== value) return false;
  return true;
}

function mixtureOf(code: number, sector: number): number {
  return Math.imul(code ^ Math.imul(sector + 1, MIX), MIX);
}
