/** Damage: what an image's tables say is changed before the engine sees it. */

import { clusterOf, parameter } from './input.ts';
import { type BuiltImage, setRefcount } from './image.ts';
import type { ImageShape } from './shape.ts';

const OFFSETS = 0x00ff_ffff_ffff_fe00n;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;
const TABLES = ['l1', 'l2', 'l2', 'bitmap', 'table', 'count', 'count', 'l2'] as const;
const COUNTS = [0, 1, 2, 3, 0xffff];
const BITMAPS = [
  0n,
  0xffff_ffffn,
  0xffff_ffff_0000_0000n,
  0xffff_ffff_ffff_ffffn,
  1n,
  0x1_0000_0000n,
  0x8000_0000n,
  0x8000_0000_0000_0000n,
  0x5555_5555n,
  0x5555_5555_aaaa_aaaan,
  0xffff_0000n,
  0x1_0000_0001n,
];

/**
 * A change that a `poke` action names, in the copy of an image in `view`: which table, which entry,
 * and what becomes of it.
 */
export function poke(
  view: DataView,
  sizeBytes: number,
  built: BuiltImage,
  shape: ImageShape,
  action: Uint8Array,
): void {
  const table = TABLES[parameter(action, 1) & 7] ?? 'l1';
  const at = parameter(action, 2);
  if (table === 'count') {
    const cluster = Math.floor(
      placeOf(built, shape, parameter(action, 4), at) / clusterBytes(shape),
    );
    const count = COUNTS[parameter(action, 5) % COUNTS.length] ?? 0;
    pokeCount(view, built, shape, cluster, count);
    return;
  }
  const entry = entryOf(view, built, shape, table, at);
  if (entry === 0 || entry + 8 > sizeBytes) return;
  const old = view.getBigUint64(entry);
  view.setBigUint64(
    entry,
    table === 'bitmap' ? bitmapOf(old, action) : changed(old, built, shape, action),
  );
}

const clusterBytes = (shape: ImageShape): number => 2 ** shape.clusterBits;

function pokeCount(
  view: DataView,
  { tableOffset }: BuiltImage,
  shape: ImageShape,
  cluster: number,
  count: number,
): void {
  const perBlock = (clusterBytes(shape) * 8) / 2 ** shape.refcountOrder;
  const block = Math.floor(cluster / perBlock);
  if (block >= clusterBytes(shape) / 8) return;
  const offset = Number(view.getBigUint64(tableOffset + block * 8) & OFFSETS);
  const isThere = offset !== 0 && offset + clusterBytes(shape) <= view.byteLength;
  if (isThere) setRefcount(view, offset, shape.refcountOrder, cluster % perBlock, count);
}

/** Where an entry stands; 0: nowhere. */
function entryOf(
  view: DataView,
  { l1Offset, l1Entries, l2Entries, tableOffset }: BuiltImage,
  shape: ImageShape,
  table: 'l1' | 'l2' | 'bitmap' | 'table',
  at: number,
): number {
  if (table === 'l1') return l1Offset + (at % l1Entries) * 8;
  if (table === 'table') return tableOffset + (at % (clusterBytes(shape) / 8)) * 8;
  const cluster = clusterOf(at, shape.clusters);
  const l2 = view.getBigUint64(l1Offset + Math.floor(cluster / l2Entries) * 8) & OFFSETS;
  const entryBytes = clusterBytes(shape) / l2Entries;
  if (l2 === 0n || l2 > BigInt(view.byteLength) || (table === 'bitmap' && !shape.extended))
    return 0;
  return Number(l2) + (cluster % l2Entries) * entryBytes + (table === 'bitmap' ? 8 : 0);
}

function bitmapOf(old: bigint, action: Uint8Array): bigint {
  const value = parameter(action, 5);
  if ((parameter(action, 4) & 1) !== 0) return old ^ (1n << BigInt(value & 63));
  return BITMAPS[value % BITMAPS.length] ?? 0n;
}

/** What an entry becomes. */
function changed(old: bigint, built: BuiltImage, shape: ImageShape, action: Uint8Array): bigint {
  const how = parameter(action, 3) & 15;
  const argument = parameter(action, 5);
  const copied = (parameter(action, 6) & 1) === 0 ? COPIED : 0n;
  const place = BigInt(placeOf(built, shape, parameter(action, 4), argument));
  const end = BigInt(Math.ceil(built.image.length / clusterBytes(shape)) * clusterBytes(shape));
  switch (how) {
    case 0:
      return place | copied;
    case 1:
      return 0n;
    case 2:
      return old ^ (1n << BigInt(argument & 63));
    case 3:
      return old ^ COPIED;
    case 4:
      return (end + BigInt(argument * clusterBytes(shape))) | copied;
    case 5:
      return (old & ~OFFSETS) | ((old & OFFSETS) + 512n * BigInt(argument));
    case 6:
      return (1n << 55n) | copied;
    case 7:
      return 0xffff_ffff_ffff_ffffn;
    case 8: {
      const bits = BigInt(62 - (shape.clusterBits - 8));
      return COMPRESSED | (BigInt(argument & 7) << bits) | (place + BigInt(argument));
    }
    case 9:
      return copied;
    case 10:
      return copied | 1n;
    case 11:
      return (end - 1n - ((end - 1n) % BigInt(clusterBytes(shape)))) | copied;
    case 12:
      return OFFSETS | copied;
    default:
      return place | copied | (BigInt(argument >> 6) & 1n);
  }
}

/** A place that means something: metadata, data of a cluster, any cluster of the file. */
function placeOf(built: BuiltImage, shape: ImageShape, which: number, at: number): number {
  const { l1Offset, l1Entries, tableOffset, ranges } = built;
  const view = new DataView(built.image.buffer);
  const pointed = (place: number): number => Number(view.getBigUint64(place) & OFFSETS);
  switch (which & 7) {
    case 0:
      return at * clusterBytes(shape);
    case 1:
      return l1Offset;
    case 2:
      return tableOffset;
    case 3:
      return pointed(tableOffset + (at % (clusterBytes(shape) / 8)) * 8);
    case 4:
      return pointed(l1Offset + (at % l1Entries) * 8);
    case 5:
      return ranges[at & 1]?.offset ?? 0;
    case 6: {
      const entry = entryOf(view, built, shape, 'l2', at);
      return entry === 0 ? 0 : pointed(entry);
    }
    default:
      return 0;
  }
}
