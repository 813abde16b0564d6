/**
 * Small sound images:
 *
 *     | header | refcount table | refcount blocks | L1 | L2 tables and data | compressed |
 *     | snapshot's L1 | snapshot table | free |
 */

import { deflateRawSync } from 'node:zlib';
import * as format from '../../../src/abi/qcow2.ts';
import type { ImageShape } from './shape.ts';

/** An image with the files beside it, and what the disk reads as. */
export interface BuiltImage {
  readonly image: Uint8Array;
  readonly data: Uint8Array;
  readonly backing: Uint8Array;
  readonly disk: Uint8Array;
  /** Plain clusters by the place of the compressed ones. */
  readonly plain: ReadonlyMap<number, Uint8Array>;
  readonly l1Offset: number;
  readonly l1Entries: number;
  readonly l2Entries: number;
  readonly tableOffset: number;
  /** Other metadata. */
  readonly ranges: readonly { readonly offset: number; readonly length: number }[];
}

/** What encrypts a byte: exclusive or with this. */
export const CIPHER = 0x5a;
/** What lies where nobody may read. */
export const POISON = 0xee;
const COPIED = 1n << BigInt(format.ENTRY_COPIED_BIT);
const COMPRESSED = 1n << BigInt(format.ENTRY_COMPRESSED_BIT);
const ZERO = 1n << BigInt(format.ENTRY_ZERO_BIT);
/** Bits of an extended entry: low: data, high: zeroes. */
const BITMAPS: Readonly<Record<string, bigint>> = {
  d: 0xffff_ffffn,
  h: 0xffffn,
  s: 0x9249_2492_4924_9249n & 0x4924_9249_9249_2492n,
  z: 0xffff_ffff_0000_0000n,
  p: 0xffff_ffff_0000_0000n,
};
const SNAPSHOT_BYTES = 64;
const DATA_BIT = 1n << BigInt(format.INCOMPATIBLE_DATA_FILE_BIT);
const EXTENDED_BIT = 1n << BigInt(format.INCOMPATIBLE_EXTENDED_L2_BIT);
const RAW_BIT = 1n << BigInt(format.AUTOCLEAR_RAW_DATA_FILE_BIT);

/** Bytes that look like nothing else, from a place that `seed` says. */
export function noise(seed: number, length: number): Uint8Array {
  const at = ((seed * 2654435761) >>> 0) % NOISE_STARTS;
  return NOISE.subarray(at, at + length);
}

const NOISE_STARTS = 32768;
const NOISE = makeNoise(NOISE_STARTS + 131072);

function makeNoise(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = 12345;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    bytes[at] = 1 + ((state >>> 16) % 255);
  }
  return bytes;
}

const KNOWN = new Map<string, BuiltImage>();
const KNOWN_BYTES_MAX = 128 * 1048576;
let knownBytes = 0;

/** The image of a shape. Nobody may change it. */
export function imageOf(shape: ImageShape): BuiltImage {
  const key = JSON.stringify(shape);
  const known = KNOWN.get(key);
  if (known !== undefined) return known;
  if (knownBytes > KNOWN_BYTES_MAX) {
    KNOWN.clear();
    knownBytes = 0;
  }
  const { total, perBlock } = new Builder(shape, 1).count();
  let blocks = 1;
  const most = 2 ** shape.clusterBits / 8;
  while (blocks < most && blocks * perBlock < total - 1 + blocks) blocks += 1;
  const built = new Builder(shape, blocks).build();
  KNOWN.set(key, built);
  knownBytes += built.image.length + built.data.length + built.backing.length + built.disk.length;
  return built;
}

class Builder {
  readonly #shape: ImageShape;
  readonly #blocks: number;
  readonly #clusterBytes: number;
  readonly #l2Entries: number;
  readonly #l1Entries: number;
  readonly #perBlock: number;
  readonly #counts: number[] = [];
  readonly #tables: number[] = [];
  readonly #plain = new Map<number, Uint8Array>();
  readonly #disk: Uint8Array;
  readonly #data: Uint8Array;
  readonly #backing: Uint8Array;
  readonly #image: Uint8Array;
  readonly #view: DataView;
  readonly #l1Offset: number;
  /** Where the next compressed cluster goes. */
  #packedAt = 0;

  constructor(shape: ImageShape, blocks: number) {
    this.#shape = shape;
    this.#blocks = blocks;
    const cluster = 2 ** shape.clusterBits;
    this.#clusterBytes = cluster;
    this.#l2Entries = cluster / (shape.extended ? 16 : 8);
    this.#l1Entries = Math.ceil(shape.clusters / this.#l2Entries);
    this.#perBlock = (cluster * 8) / 2 ** shape.refcountOrder;
    const bytes = shape.clusters * cluster;
    this.#disk = new Uint8Array(bytes > shape.cutBytes ? bytes - shape.cutBytes : bytes);
    const { files } = shape;
    this.#data = new Uint8Array(files.includes('data') ? bytes : 0);
    const half = files === 'short backing' ? bytes / 2 - (bytes % 1024) / 2 : this.#disk.length;
    this.#backing = new Uint8Array(files.includes('backing') ? half : 0);
    this.#image = new Uint8Array((2 * shape.clusters + 128 + shape.free) * cluster);
    this.#view = new DataView(this.#image.buffer);
    this.#append(2 + blocks);
    this.#l1Offset = this.#append(Math.ceil((this.#l1Entries * 8) / cluster));
  }

  /** Clusters of the file, and how many one refcount block counts. */
  count(): { readonly total: number; readonly perBlock: number } {
    this.build();
    return { total: this.#counts.length, perBlock: this.#perBlock };
  }

  build(): BuiltImage {
    const { free, isCut } = this.#shape;
    this.#fillBacking();
    for (let cluster = 0; cluster < this.#shape.clusters; cluster++) this.#place(cluster);
    const ranges = this.#shape.snapshot ? this.#takeSnapshot() : [];
    if (free > 0) {
      const start = this.#append(free, 0);
      this.#image.fill(POISON, start, start + free * this.#clusterBytes);
    }
    this.#writeHeader(ranges[0]?.offset ?? 0);
    this.#writeRefcounts();
    const bytes = this.#counts.length * this.#clusterBytes;
    return {
      image: this.#image.slice(0, isCut && free > 0 ? bytes - this.#clusterBytes / 4 : bytes),
      data: this.#data,
      backing: this.#backing,
      disk: this.#disk,
      plain: this.#plain,
      l1Offset: this.#l1Offset,
      l1Entries: this.#l1Entries,
      l2Entries: this.#l2Entries,
      tableOffset: this.#clusterBytes,
      ranges,
    };
  }

  #fillBacking(): void {
    const backing = this.#backing;
    for (let at = 0; at < backing.length; at += 4096) {
      // Every third piece of it is zeroes.
      if (at % 12288 === 8192) continue;
      const bytes = noise(at + 77, Math.min(4096, backing.length - at));
      backing.set(bytes, at);
    }
    this.#disk.set(backing.subarray(0, this.#disk.length));
  }

  #letterOf(cluster: number): string {
    const { pattern, version, files, extended, isFull } = this.#shape;
    const hasTable = this.#tables[Math.floor(cluster / this.#l2Entries)] !== undefined;
    const needed = hasTable ? 1 : 2;
    if (isFull && this.#counts.length + needed > this.#perBlock * 64) return '.';
    let letter = pattern[cluster % pattern.length] ?? '.';
    if (letter === 'c' && (files.includes('data') || files.includes('ciphered'))) letter = 'd';
    if (!extended && letter === 'h') letter = 'd';
    if (!extended && letter === 's') letter = 'z';
    if (version === 2 && letter === 'z') letter = '.';
    if (version === 2 && letter === 'p') letter = 'd';
    if (files === 'raw data' && letter === '.') letter = 'd';
    return files === 'raw data' && letter === 'z' ? 'p' : letter;
  }

  #place(cluster: number): void {
    const letter = this.#letterOf(cluster);
    if (letter === '.') return;
    const entryAt = this.#entryOf(cluster);
    if (letter === 'c') return this.#placePacked(cluster, entryAt);
    const { extended, files } = this.#shape;
    const bitmap = extended ? (BITMAPS[letter] ?? 0n) : 0n;
    if (extended) this.#view.setBigUint64(entryAt + 8, bitmap);
    const zero = !extended && (letter === 'z' || letter === 'p') ? ZERO : 0n;
    let entry = zero;
    if (letter !== 'z') {
      const hasData = files.includes('data');
      const offset = hasData ? cluster * this.#clusterBytes : this.#append(1);
      entry |= BigInt(offset) | COPIED;
      const file = hasData ? this.#data : this.#image;
      if (letter === 'p') {
        file.fill(files === 'raw data' ? 0 : POISON, offset, offset + this.#clusterBytes);
      } else this.#fill(cluster, file, offset, extended ? bitmap : 0xffff_ffffn);
    }
    this.#view.setBigUint64(entryAt, entry);
    const zeroes = extended ? bitmap >> 32n : zero === 0n ? 0n : 0xffff_ffffn;
    this.#each(zeroes, (from, to) => this.#onDisk(cluster, from, to).fill(0));
  }

  /** Bytes of a cluster for the bits that are set. */
  #each(bits: bigint, fill: (from: number, to: number) => void): void {
    const unit = this.#clusterBytes / 32;
    if ((bits & 0xffff_ffffn) === 0xffff_ffffn) fill(0, this.#clusterBytes);
    else {
      for (let bit = 0; bit < 32; bit++) {
        if ((bits >> BigInt(bit)) & 1n) fill(bit * unit, (bit + 1) * unit);
      }
    }
  }

  #onDisk(cluster: number, from: number, to: number): Uint8Array {
    const start = cluster * this.#clusterBytes;
    return this.#disk.subarray(start + from, start + to);
  }

  #fill(cluster: number, file: Uint8Array, offset: number, bits: bigint): void {
    const bytes = noise(cluster + 3, this.#clusterBytes);
    const cipher = this.#shape.files.includes('ciphered') ? CIPHER : 0;
    file.fill(POISON, offset, offset + this.#clusterBytes);
    this.#each(bits, (from, to) => {
      const disk = this.#onDisk(cluster, from, to);
      disk.set(bytes.subarray(from, from + disk.length));
      for (let at = from; at < to; at++) file[offset + at] = bytes[at]! ^ cipher;
    });
  }

  /** Compressed clusters lie one behind the other, some of them in two clusters of the file. */
  #placePacked(cluster: number, entryAt: number): void {
    const size = this.#clusterBytes;
    const plain = new Uint8Array(size).fill(1 + (cluster % 250));
    plain.set(noise(cluster, 16));
    const packed = deflateRawSync(plain, { windowBits: 12, level: 9 });
    const inside = this.#packedAt % size;
    const isApart = this.#shape.refcountOrder < 3;
    if (inside === 0 || isApart) this.#packedAt = this.#append(1, 0);
    const from = this.#packedAt;
    if ((from % size) + packed.length > size) this.#packedAt = this.#append(1, 0);
    const end = from + packed.length;
    // It may have become two clusters that are not neighbours.
    if (this.#packedAt !== from && this.#packedAt !== from - (from % size) + size) {
      this.#packedAt = 0;
      return this.#placePacked(cluster, entryAt);
    }
    this.#image.set(packed, from);
    const sectors = Math.floor((end - 1) / 512) - Math.floor(from / 512);
    const bits = BigInt(62 - (this.#shape.clusterBits - 8));
    this.#view.setBigUint64(entryAt, COMPRESSED | (BigInt(sectors) << bits) | BigInt(from));
    for (let at = from - (from % size); at < end; at += size) this.#refer(at);
    this.#plain.set(from, plain);
    const disk = this.#onDisk(cluster, 0, size);
    disk.set(plain.subarray(0, disk.length));
    this.#packedAt = end + 180;
    if (Math.floor(this.#packedAt / size) !== Math.floor((end - 1) / size)) this.#packedAt = 0;
  }

  /** The place of a cluster's entry; its table is made where there is none. */
  #entryOf(cluster: number): number {
    const index = Math.floor(cluster / this.#l2Entries);
    let table = this.#tables[index] ?? 0;
    if (table === 0) {
      table = this.#append(1);
      this.#tables[index] = table;
      this.#view.setBigUint64(this.#l1Offset + index * 8, BigInt(table) | COPIED);
    }
    const entryBytes = this.#clusterBytes / this.#l2Entries;
    return table + (cluster % this.#l2Entries) * entryBytes;
  }

  /** Another reference to everything; nothing is the disk's alone any more. */
  #takeSnapshot(): { offset: number; length: number }[] {
    const view = this.#view;
    const entryBytes = this.#clusterBytes / this.#l2Entries;
    for (const table of this.#tables) {
      if (table === undefined) continue;
      this.#refer(table);
      for (let at = table; at < table + this.#clusterBytes; at += entryBytes) this.#share(at);
    }
    for (let index = 0; index < this.#l1Entries; index++) {
      const at = this.#l1Offset + index * 8;
      view.setBigUint64(at, view.getBigUint64(at) & ~COPIED);
    }
    const length = this.#l1Entries * 8;
    const l1 = this.#append(Math.ceil(length / this.#clusterBytes));
    this.#image.copyWithin(l1, this.#l1Offset, this.#l1Offset + length);
    const table = this.#append(1);
    view.setBigUint64(table, BigInt(l1));
    view.setUint32(table + format.SNAPSHOT_L1_SIZE, this.#l1Entries);
    view.setUint16(table + format.SNAPSHOT_ID_SIZE, 1);
    view.setUint16(table + format.SNAPSHOT_NAME_SIZE, 1);
    view.setUint32(table + format.SNAPSHOT_EXTRA_SIZE, 16);
    view.setBigUint64(table + 48, BigInt(this.#disk.length));
    this.#image.set([0x31, 0x61], table + 56);
    const ranges = [
      { offset: table, length: SNAPSHOT_BYTES },
      { offset: l1, length },
    ];
    return ranges;
  }

  #share(at: number): void {
    const entry = this.#view.getBigUint64(at);
    if ((entry & COMPRESSED) !== 0n) {
      const bits = BigInt(62 - (this.#shape.clusterBits - 8));
      const from = Number(entry & ((1n << bits) - 1n));
      const end = from - (from % 512) + (Number((entry & (COMPRESSED - 1n)) >> bits) + 1) * 512;
      const size = this.#clusterBytes;
      for (let place = from - (from % size); place < end; place += size) this.#refer(place);
      return;
    }
    this.#view.setBigUint64(at, entry & ~COPIED);
    const offset = Number(entry & 0x00ff_ffff_ffff_fe00n);
    if (offset !== 0) this.#refer(offset);
  }

  #append(clusters: number, refcount = 1): number {
    const offset = this.#counts.length * this.#clusterBytes;
    for (let index = 0; index < clusters; index++) this.#counts.push(refcount);
    return offset;
  }

  #refer(offset: number): void {
    const cluster = Math.floor(offset / this.#clusterBytes);
    this.#counts[cluster] = (this.#counts[cluster] ?? 0) + 1;
  }

  #writeHeader(snapshots: number): void {
    const view = this.#view;
    const { version, files, extended, clusterBits, refcountOrder } = this.#shape;
    const hasData = files.includes('data');
    view.setUint32(format.HEADER_MAGIC, format.QCOW2_MAGIC);
    view.setUint32(format.HEADER_VERSION, version);
    view.setUint32(format.HEADER_CLUSTER_BITS, clusterBits);
    view.setBigUint64(format.HEADER_SIZE, BigInt(this.#disk.length));
    view.setUint32(format.HEADER_L1_SIZE, this.#l1Entries);
    view.setBigUint64(format.HEADER_L1_TABLE_OFFSET, BigInt(this.#l1Offset));
    view.setBigUint64(format.HEADER_REFCOUNT_TABLE_OFFSET, BigInt(this.#clusterBytes));
    view.setUint32(format.HEADER_REFCOUNT_TABLE_CLUSTERS, 1);
    view.setUint32(format.HEADER_NB_SNAPSHOTS, snapshots === 0 ? 0 : 1);
    view.setBigUint64(format.HEADER_SNAPSHOTS_OFFSET, BigInt(snapshots));
    if (version === 2) return;
    const features = (hasData ? DATA_BIT : 0n) | (extended ? EXTENDED_BIT : 0n);
    view.setBigUint64(format.HEADER_INCOMPATIBLE_FEATURES, features);
    view.setBigUint64(format.HEADER_AUTOCLEAR_FEATURES, files === 'raw data' ? RAW_BIT : 0n);
    view.setUint32(format.HEADER_REFCOUNT_ORDER, refcountOrder);
    view.setUint32(format.HEADER_LENGTH, format.HEADER_BYTES_V3);
    if (!hasData) return;
    view.setUint32(104, format.EXTENSION_DATA_FILE);
    view.setUint32(108, 4);
    this.#image.set(Buffer.from('data'), 112);
  }

  #writeRefcounts(): void {
    const { refcountOrder } = this.#shape;
    const size = this.#clusterBytes;
    for (let block = 0; block < this.#blocks; block++) {
      this.#view.setBigUint64(size + block * 8, BigInt((2 + block) * size));
    }
    for (const [cluster, count] of this.#counts.entries()) {
      if (cluster >= this.#blocks * this.#perBlock) return;
      setRefcount(this.#view, 2 * size, refcountOrder, cluster, count);
    }
  }
}

/** Sets a refcount in blocks that lie one behind the other. */
export function setRefcount(
  view: DataView,
  blocks: number,
  order: number,
  cluster: number,
  count: number,
): void {
  const bit = cluster * 2 ** order;
  const at = blocks + Math.floor(bit / 8);
  if (order < 3) {
    const mask = (2 ** (2 ** order) - 1) << (bit % 8);
    view.setUint8(at, (view.getUint8(at) & ~mask) | ((count << (bit % 8)) & mask));
  } else if (order === 3) view.setUint8(at, count);
  else if (order === 4) view.setUint16(at, count);
  else if (order === 5) view.setUint32(at, count);
  else view.setBigUint64(at, BigInt(count));
}
