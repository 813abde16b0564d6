/**
 * Seeded damage to the metadata of an image: bits and bytes of tables, refcounts and the header,
 * and files that are cut off.
 */

import { Random } from '../../src/testing/random.ts';

/** A piece of metadata, by what it is made of. */
interface Region {
  readonly what: 'L1' | 'L2' | 'refcount table' | 'refcounts' | 'snapshots' | 'bitmaps';
  readonly offset: number;
  readonly length: number;
}

/** A damaged image and what was done to it. */
export interface Damaged {
  readonly bytes: Uint8Array;
  readonly deeds: readonly string[];
}

const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;

/** Another array with one to four deeds of damage. */
export function damage(image: Uint8Array, seed: number): Damaged {
  const random = new Random(seed);
  const state = new Damage(new Uint8Array(image), random);
  const deeds: string[] = [];
  for (let left = 1 + random.below(4); left > 0; left--) deeds.push(state.next());
  return { bytes: state.bytes, deeds };
}

/** Another array with damage to refcounts, the refcount table and COPIED flags only. */
export function damageRefcounts(image: Uint8Array, seed: number): Damaged {
  const random = new Random(seed);
  const state = new Damage(new Uint8Array(image), random);
  const deeds: string[] = [];
  for (let left = 1 + random.below(4); left > 0; left--) deeds.push(state.nextRefcount());
  return { bytes: state.bytes, deeds };
}

class Damage {
  bytes: Uint8Array;
  readonly #random: Random;
  readonly #regions: readonly Region[];
  readonly #clusterBytes: number;

  constructor(bytes: Uint8Array, random: Random) {
    this.bytes = bytes;
    this.#random = random;
    this.#clusterBytes = 2 ** view(bytes).getUint32(20);
    this.#regions = regionsOf(bytes);
  }

  next(): string {
    const choice = this.#random.below(100);
    if (choice < 4) return this.#cut();
    if (choice < 6) return this.#header();
    const region = this.#pick(this.#regions);
    if (region.offset + region.length > this.bytes.length) return 'nothing: it is cut off';
    if (region.what === 'refcounts') return this.#refcounts(region);
    return choice < 20 ? this.#bit(region) : this.#entry(region);
  }

  /** What a repair can put right. */
  nextRefcount(): string {
    const region = this.#pick(this.#regions.filter(({ what }) => what !== 'L2' && what !== 'L1'));
    if (region.what === 'refcounts') return this.#refcounts(region);
    const tables = this.#regions.filter(({ what }) => what === 'L2');
    if (region.what === 'refcount table' || tables.length === 0) return this.#refcountTable();
    return this.#copied(this.#pick(tables));
  }

  /** An entry that names nothing, nothing that can be, or what is past the end. */
  #refcountTable(): string {
    const entries = view(this.bytes);
    const at = Number(entries.getBigUint64(48));
    const block = entries.getBigUint64(at);
    const past = BigInt(Math.ceil(this.bytes.length / this.#clusterBytes) * this.#clusterBytes);
    const unaligned = this.#clusterBytes === 512 ? 0n : block ^ 0x200n;
    const value = this.#pick([0n, block | 1n, unaligned, past, block | (1n << 63n)]);
    entries.setBigUint64(at, value);
    return `refcount table: entry ${at} = 0x${value.toString(16)}`;
  }

  #copied({ offset, length }: Region): string {
    const entries = view(this.bytes);
    const step = (entries.getBigUint64(72) & 16n) === 0n || entries.getUint32(4) === 2 ? 8 : 16;
    let flipped = 0;
    for (let at = offset; at < offset + length; at += step) {
      const entry = entries.getBigUint64(at);
      if ((entry & OFFSET_MASK) === 0n || this.#random.chance(0.5)) continue;
      entries.setBigUint64(at, entry ^ COPIED);
      flipped++;
    }
    return `L2: ${flipped} COPIED flags`;
  }

  #pick<T>(list: readonly T[]): T {
    return list[this.#random.below(list.length)]!;
  }

  #cut(): string {
    const length = Math.floor(this.#random.below(this.bytes.length) / 512) * 512;
    this.bytes = this.bytes.slice(0, Math.max(length, this.#clusterBytes));
    return `cut to ${length}`;
  }

  /** A field that says where something is or how large. */
  #header(): string {
    const at = this.#pick([36, 40, 48, 56, 60, 64]) + this.#random.below(4);
    return this.#flip(at, 'header');
  }

  #flip(at: number, what: string): string {
    const bit = this.#random.below(8);
    this.bytes[at]! ^= 1 << bit;
    return `${what}: flip bit ${bit} of byte ${at}`;
  }

  #bit({ what, offset, length }: Region): string {
    return this.#flip(offset + this.#random.below(length), what);
  }

  #refcounts(region: Region): string {
    const at = region.offset + this.#random.below(Math.min(region.length, 96));
    const value = this.#pick([0, 1, 2, 3, 0x11, 0xff, this.#random.below(256)]);
    this.bytes[at] = value;
    return `refcounts: byte ${at} = ${value}`;
  }

  #entry({ what, offset, length }: Region): string {
    const entries = view(this.bytes);
    const inUse: number[] = [];
    for (let at = offset; at < offset + length; at += 8) {
      if (entries.getBigUint64(at) !== 0n) inUse.push(at);
    }
    const isInUse = inUse.length > 0 && this.#random.chance(0.8);
    const at = isInUse ? this.#pick(inUse) : offset + 8 * this.#random.below(length / 8);
    const other = inUse.length > 0 ? entries.getBigUint64(this.#pick(inUse)) : COPIED;
    const value = this.#value(entries.getBigUint64(at), other);
    entries.setBigUint64(at, value);
    return `${what}: entry ${at} = 0x${value.toString(16)}`;
  }

  #value(old: bigint, other: bigint): bigint {
    const clusters = Math.ceil(this.bytes.length / this.#clusterBytes);
    const cluster = BigInt(this.#random.below(clusters + 2) * this.#clusterBytes);
    const past = BigInt(this.bytes.length) * BigInt(1 + this.#random.below(5000));
    switch (this.#random.below(10)) {
      case 0:
        return 0n;
      case 1:
      case 2:
        return other;
      case 3:
        return (old & ~OFFSET_MASK) | cluster;
      case 4:
        return (old & ~OFFSET_MASK) | (past & OFFSET_MASK);
      case 5:
        return old ^ COPIED;
      case 6:
        return old ^ COMPRESSED;
      case 7:
        return old ^ 1n;
      case 8:
        return old ^ (1n << BigInt(this.#random.below(64)));
      default:
        return old ^ 0x200n;
    }
  }
}

/** The metadata of an intact image, found by the header and the tables that it names. */
function regionsOf(image: Uint8Array): readonly Region[] {
  const bytes = view(image);
  const clusterBytes = 2 ** bytes.getUint32(20);
  const regions: Region[] = [];
  const add = (what: Region['what'], offset: number, length: number): void => {
    if (length > 0 && offset + length <= image.length) regions.push({ what, offset, length });
  };
  const entries = (offset: number, count: number): number[] => {
    const offsets: number[] = [];
    for (let at = offset; at < Math.min(offset + count * 8, image.length - 7); at += 8) {
      offsets.push(Number(bytes.getBigUint64(at) & OFFSET_MASK));
    }
    return offsets.filter((entry) => entry !== 0);
  };
  const l1 = (offset: number, count: number): void => {
    add('L1', offset, count * 8);
    for (const table of new Set(entries(offset, count))) add('L2', table, clusterBytes);
  };
  l1(Number(bytes.getBigUint64(40)), bytes.getUint32(36));
  const tableOffset = Number(bytes.getBigUint64(48));
  const tableEntries = (bytes.getUint32(56) * clusterBytes) / 8;
  add('refcount table', tableOffset, Math.min(tableEntries * 8, 64));
  for (const block of entries(tableOffset, tableEntries)) add('refcounts', block, clusterBytes);
  const snapshots = Number(bytes.getBigUint64(64));
  if (bytes.getUint32(60) > 0) {
    add('snapshots', snapshots, 48);
    l1(Number(bytes.getBigUint64(snapshots)), bytes.getUint32(snapshots + 8));
  }
  const bitmaps = bitmapDirectoryOf(image);
  if (bitmaps !== undefined) {
    add('bitmaps', bitmaps, 48);
    add('bitmaps', Number(bytes.getBigUint64(bitmaps)), bytes.getUint32(bitmaps + 8) * 8);
  }
  return regions;
}

function bitmapDirectoryOf(image: Uint8Array): number | undefined {
  const bytes = view(image);
  if (bytes.getUint32(4) === 2) return undefined;
  for (let at = bytes.getUint32(100); bytes.getUint32(at) !== 0;) {
    const length = bytes.getUint32(at + 4);
    if (bytes.getUint32(at) === 0x23852875) return Number(bytes.getBigUint64(at + 24));
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return undefined;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
