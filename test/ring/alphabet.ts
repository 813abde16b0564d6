/**
 * Every short chain of a small alphabet. A tree: a descriptor that ends its chain, or breaks it, is
 * a leaf, so what lies behind it in the table is not varied; one that goes on well has all others
 * behind it.
 */

import * as ring from '../../src/abi/virtio-ring.ts';

/** A descriptor as it is in memory; `address` is an offset into the guest's memory. */
export interface Letter {
  readonly address: bigint;
  readonly length: number;
  readonly flags: number;
  /** Split: what `next` says. */
  readonly next: number;
}

/** How a table of descriptors is spelled. */
export interface Spelling {
  readonly packed: boolean;
  /** Entries of the ring or of the indirect table. */
  readonly entries: number;
  /** The most descriptors of a chain. */
  readonly most: number;
  /** It is an indirect table of a packed ring, in which every descriptor counts (2.8.7). */
  readonly consecutive?: boolean;
  /** Offset of the buffer of a descriptor, and of an indirect table; both of at least 513 bytes. */
  readonly bufferOf: (index: number) => number;
  readonly table: number;
  /** Bytes of guest memory. */
  readonly ramBytes: number;
}

const LENGTHS = [0, 1, 16, 512, 513];
const { VIRTQ_DESC_F_NEXT: NEXT, VIRTQ_DESC_F_WRITE: WRITE } = ring;
const INDIRECT = ring.VIRTQ_DESC_F_INDIRECT;

/** Calls `visit` with each chain; its descriptors stand in the table from the first on. */
export function forEachChain(spelling: Spelling, visit: (chain: readonly Letter[]) => void): void {
  const chain: Letter[] = [];
  const descend = (index: number, wasWritable: boolean): void => {
    for (const letter of lettersAt(spelling, index)) {
      chain.push(letter);
      if (goesOn(spelling, letter, index, wasWritable)) {
        descend(index + 1, (letter.flags & WRITE) !== 0);
      } else visit(chain);
      chain.pop();
    }
  };
  descend(0, false);
}

function lettersAt(spelling: Spelling, index: number): Letter[] {
  const { ramBytes, bufferOf, table } = spelling;
  const end = BigInt(ramBytes);
  const letters: Letter[] = [];
  for (const { flags, next } of linksAt(spelling, index)) {
    const inside = BigInt((flags & INDIRECT) === 0 ? bufferOf(index) : table);
    // In memory, at its end (16 bytes fit), behind it, and so that the sum wraps.
    for (const address of [inside, end - 16n, end, -8n]) {
      for (const length of LENGTHS) letters.push({ address, length, flags, next });
    }
  }
  return letters;
}

function linksAt({ packed, entries, consecutive }: Spelling, index: number) {
  const kinds = [0, WRITE];
  if (consecutive === true) {
    return [...kinds, NEXT | INDIRECT].map((flags) => ({ flags, next: 0 }));
  }
  const ends = [...kinds, INDIRECT, INDIRECT | WRITE, INDIRECT | NEXT];
  const last = ends.map((flags) => ({ flags, next: 0xffff }));
  // On, to itself, and past the table.
  const targets = packed ? [0] : [index + 1, index, entries, 0xffff];
  const more = kinds.flatMap((kind) => targets.map((next) => ({ flags: kind | NEXT, next })));
  return [...last, ...more];
}

/** True when the descriptors behind this one matter. */
function goesOn(spelling: Spelling, letter: Letter, index: number, wasWritable: boolean): boolean {
  const { packed, entries, most, consecutive, ramBytes } = spelling;
  const { address, length, flags, next } = letter;
  if (index + 1 >= Math.min(entries, most)) return false;
  if (wasWritable && (flags & WRITE) === 0) return false;
  const isInside = address >= 0n && address + BigInt(length) <= BigInt(ramBytes);
  // Of the addresses of empty buffers one stands for all.
  const isKind = address < BigInt(ramBytes - 16) ? isInside : isInside && length === 16;
  if (!isKind || address < 0n) return false;
  if (consecutive === true) return true;
  const isLinked = (flags & INDIRECT) === 0 && (flags & NEXT) !== 0;
  return isLinked && (packed || next === index + 1);
}
