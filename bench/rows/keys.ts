import type { Random } from '../random.ts';

const KIND_WRITE = 2n;
/** A terabyte of blocks of 4 KiB. */
const BLOCK_BITS = 28;

/** A key of a random block, to be read or written, by the request in `slot`. */
function randomKey(random: Random, slot: number): bigint {
  const block = BigInt(random.u32() >>> (32 - BLOCK_BITS));
  const kind = random.below(2) === 0 ? 0n : KIND_WRITE;
  // A block is 8 sectors.
  return (kind << 56n) | ((block << 3n) << 12n) | BigInt(slot);
}

/** `count` keys in the order in which requests with shuffled slots arrive. */
export function randomKeys(random: Random, count: number): bigint[] {
  const slots = shuffledSlots(random, count);
  return slots.map((slot) => randomKey(random, slot));
}

/** The numbers from 0 to `count` - 1 in random order. */
function shuffledSlots(random: Random, count: number): number[] {
  const slots = Array.from({ length: count }, (_, slot) => slot);
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [slots[i], slots[j]] = [slots[j]!, slots[i]!];
  }
  return slots;
}
