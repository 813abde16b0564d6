/**
 * Small qcow2 images to begin an exploration with: each cluster of the disk in the state that a
 * letter names, free clusters that hold what nobody may ever read.
 */
import { deflateRawSync } from 'node:zlib';

import {
  ENTRY_COMPRESSED_BIT,
  ENTRY_COPIED_BIT,
  ENTRY_ZERO_BIT,
  HEADER_NB_SNAPSHOTS,
  HEADER_SNAPSHOTS_OFFSET,
  SUBCLUSTERS,
} from '../../abi/qcow2.ts';
import { invalid } from '../../arguments.ts';
import { MemoryFile } from '../../image/image-file.ts';
import { createImage, type CreateOptions } from '../../image/qcow2/create.ts';
import { parseHeader, type Qcow2Header } from '../../image/qcow2/header.ts';
import { fillSectors, poison } from './guest-sectors.ts';

/** How an exploration's image begins. */
export interface ImageShape {
  /** For people. */
  readonly name: string;
  /**
   * A letter for each cluster of the disk: `.` unallocated, `d` data, `z` zeroes, `p` zeroes that
   * have a place, `c` compressed. The compressed ones lie one behind the other.
   */
  readonly clusters: string;
  /** What has a place is a snapshot's, too. Default false. */
  readonly snapshot?: boolean;
  /** Clusters of the file that are free, and poisoned. Default 0. */
  readonly freeClusters?: number;
  /**
   * The first so many clusters have something behind them, the last one in part if this is no whole
   * number. Default: there is no backing file.
   */
  readonly backingClusters?: number;
  /**
   * The first refcount block, or the refcount table, has room for so many clusters more: an L1
   * table of a snapshot, all empty, takes the rest. Default: a block covers all that there is.
   */
  readonly room?: { readonly of: 'block' | 'table'; readonly clusters: number };
  /** Data lies in another file. */
  readonly dataFile?: 'plain' | 'raw';
  /** Version, clusters, refcounts, subclusters. */
  readonly format?: Omit<CreateOptions, 'sizeBytes' | 'backing' | 'dataFile'>;
}

/** The files of such an image, and the code that each sector of the disk has. */
export interface BuiltImage {
  readonly image: Uint8Array;
  readonly data: Uint8Array | undefined;
  readonly backing: Uint8Array | undefined;
  readonly codes: Int32Array;
  /** The codes that the image's snapshot keeps. */
  readonly frozen?: Int32Array | undefined;
}

/** Codes of what is there at first. */
export const FIRST_DATA = -101;
export const FIRST_BACKING = -102;

const SECTOR_BYTES = 512;
const WINDOW_BITS = 12;
const SNAPSHOT_BYTES = 64;
const SNAPSHOT_EXTRA_BYTES = 16;
const SMALLEST_CLUSTER_BITS = 9;

/** Builds the image. @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT for a shape that cannot be */
export async function buildImage(shape: ImageShape): Promise<BuiltImage> {
  const { clusters, dataFile, backingClusters, format = {} } = shape;
  const clusterBits = format.clusterBits ?? SMALLEST_CLUSTER_BITS;
  const file = new MemoryFile();
  await createImage(file, {
    ...format,
    clusterBits,
    sizeBytes: clusters.length * 2 ** clusterBits,
    ...(backingClusters === undefined ? {} : { backing: { name: 'back', format: 'raw' } }),
    ...(dataFile === undefined ? {} : { dataFile: { name: 'data', raw: dataFile === 'raw' } }),
  });
  return new Builder(file.bytes, shape).build();
}

class Builder {
  readonly #shape: ImageShape;
  readonly #header: Qcow2Header;
  readonly #data: Uint8Array | undefined;
  readonly #codes: Int32Array;
  /** Of each cluster of the file. */
  readonly #refcounts: number[];
  #bytes: Uint8Array;

  constructor(bytes: Uint8Array, shape: ImageShape) {
    const header = parseHeader(bytes, shape.name);
    this.#shape = shape;
    this.#header = header;
    this.#bytes = bytes;
    this.#refcounts = Array.from({ length: bytes.length / header.clusterBytes }, () => 1);
    this.#codes = new Int32Array(header.sizeBytes / SECTOR_BYTES);
    if (shape.dataFile !== undefined) this.#data = new Uint8Array(header.sizeBytes);
  }

  build(): BuiltImage {
    const { clusters, snapshot = false, freeClusters = 0, room } = this.#shape;
    const backing = this.#buildBacking();
    for (const [cluster, letter] of Array.from(clusters).entries()) this.#place(cluster, letter);
    this.#placeCompressed();
    if (snapshot) this.#takeSnapshot();
    if (room !== undefined) this.#fillUp(room);
    if (freeClusters > 0) {
      const from = this.#append(freeClusters, 0);
      poison(this.#bytes.subarray(from));
    }
    this.#writeRefcounts();
    const frozen = snapshot ? this.#codes.slice() : undefined;
    return { image: this.#bytes, data: this.#data, backing, codes: this.#codes, frozen };
  }

  #buildBacking(): Uint8Array | undefined {
    const { backingClusters } = this.#shape;
    if (backingClusters === undefined) return undefined;
    const backing = new Uint8Array(backingClusters * this.#header.clusterBytes);
    fillSectors(backing, FIRST_BACKING, 0);
    this.#codes.fill(FIRST_BACKING, 0, backing.length / SECTOR_BYTES);
    return backing;
  }

  #place(cluster: number, letter: string): void {
    const { extendedL2 } = this.#header;
    if (letter === 'c' || (letter === '.' && this.#shape.dataFile !== 'raw')) return;
    const hasPlace = letter === 'd' || letter === 'p' || this.#shape.dataFile === 'raw';
    const offset = hasPlace ? this.#newCluster(cluster) : 0;
    const copied = hasPlace ? 1n << BigInt(ENTRY_COPIED_BIT) : 0n;
    const isZero = letter === 'z' || letter === 'p';
    const zero = isZero && !extendedL2 ? 1n << BigInt(ENTRY_ZERO_BIT) : 0n;
    const at = this.#entryOf(cluster);
    this.#setU64(at, BigInt(offset) | copied | zero);
    if (extendedL2) this.#setU64(at + 8, isZero ? ALL_SUBCLUSTERS << 32n : ALL_SUBCLUSTERS);
    if (letter === 'd') this.#fill(cluster, this.#data ?? this.#bytes, offset);
    else this.#note(cluster, 0);
    if (letter === 'p' && this.#data === undefined) {
      poison(this.#bytes.subarray(offset, offset + this.#header.clusterBytes));
    }
  }

  /** Where the data of a cluster lies from now on. */
  #newCluster(cluster: number): number {
    return this.#data === undefined ? this.#append(1) : cluster * this.#header.clusterBytes;
  }

  /** They share clusters of the file where they are small enough, and straddle them. */
  #placeCompressed(): void {
    const { clusterBytes, clusterBits } = this.#header;
    const compressed: { cluster: number; bytes: Uint8Array; offset: number }[] = [];
    let used = 0;
    for (const [cluster, letter] of Array.from(this.#shape.clusters).entries()) {
      if (letter !== 'c') continue;
      const plain = new Uint8Array(clusterBytes);
      this.#fill(cluster, plain, 0);
      const bytes = deflateRawSync(plain, { windowBits: WINDOW_BITS, level: 9 });
      if (bytes.length >= clusterBytes) throw invalid(`clusters of ${clusterBytes} are too small`);
      compressed.push({ cluster, bytes, offset: used });
      used += bytes.length;
    }
    if (used === 0) return;
    const start = this.#append(Math.ceil(used / clusterBytes), 0);
    for (const { cluster, bytes, offset } of compressed) {
      const from = start + offset;
      const end = from + bytes.length;
      this.#bytes.set(bytes, from);
      const sectors = Math.floor((end - 1) / SECTOR_BYTES) - Math.floor(from / SECTOR_BYTES);
      const count = BigInt(sectors) << BigInt(62 - (clusterBits - 8));
      const entry = (1n << BigInt(ENTRY_COMPRESSED_BIT)) | count | BigInt(from);
      this.#setU64(this.#entryOf(cluster), entry);
      for (let at = from - (from % clusterBytes); at < end; at += clusterBytes) this.#refer(at);
    }
  }

  /** A second L1 table with the same L2 tables; no cluster is the disk's alone any more. */
  #takeSnapshot(): void {
    const { clusterBytes, l1Entries, l1Offset, l2Entries } = this.#header;
    const copied = 1n << BigInt(ENTRY_COPIED_BIT);
    const entryBytes = clusterBytes / l2Entries;
    for (let index = 0; index < l1Entries; index++) {
      const table = this.#drop(l1Offset + 8 * index, copied);
      if (table === 0) continue;
      this.#refer(table);
      for (let at = table; at < table + clusterBytes; at += entryBytes) this.#share(at, copied);
    }
    const l1Bytes = l1Entries * 8;
    const copy = this.#append(Math.ceil(l1Bytes / clusterBytes));
    this.#bytes.copyWithin(copy, l1Offset, l1Offset + l1Bytes);
    this.#writeSnapshot(copy, l1Entries);
  }

  /** Leaves only some room for clusters. */
  #fillUp(room: NonNullable<ImageShape['room']>): void {
    const { clusterBytes, refcountTableClusters, refcountTableOffset } = this.#header;
    const perBlock = this.#perBlock;
    const tableEntries = (refcountTableClusters * clusterBytes) / 8;
    const clusters = perBlock * (room.of === 'block' ? 1 : tableEntries) - room.clusters;
    const blocks = Math.ceil(clusters / perBlock) - 1;
    const first = this.#append(blocks);
    for (let block = 0; block < blocks; block++) {
      const offset = BigInt(first + block * clusterBytes);
      this.#setU64(refcountTableOffset + 8 * (block + 1), offset);
    }
    const left = clusters - this.#refcounts.length - 1;
    this.#writeSnapshot(this.#append(left), (left * clusterBytes) / 8);
  }

  #writeSnapshot(l1Offset: number, l1Entries: number): void {
    const at = this.#append(1);
    const view = this.#view();
    view.setUint32(HEADER_NB_SNAPSHOTS, 1);
    view.setBigUint64(HEADER_SNAPSHOTS_OFFSET, BigInt(at));
    view.setBigUint64(at, BigInt(l1Offset));
    view.setUint32(at + 8, l1Entries);
    view.setUint16(at + 12, 1);
    view.setUint16(at + 14, 1);
    view.setUint32(at + 36, SNAPSHOT_EXTRA_BYTES);
    view.setBigUint64(at + 48, BigInt(this.#header.sizeBytes));
    this.#bytes.set([0x31, 0x61], at + 40 + SNAPSHOT_EXTRA_BYTES);
    if (SNAPSHOT_BYTES > this.#header.clusterBytes) throw invalid('a snapshot does not fit');
  }

  /** One more reference for what an L2 entry names. */
  #share(at: number, copied: bigint): void {
    const { clusterBytes } = this.#header;
    const entry = this.#view().getBigUint64(at);
    if ((entry >> BigInt(ENTRY_COMPRESSED_BIT)) & 1n) {
      const bits = BigInt(62 - (this.#header.clusterBits - 8));
      const from = Number(entry & ((1n << bits) - 1n));
      const sectors = Number((entry & ((1n << BigInt(ENTRY_COMPRESSED_BIT)) - 1n)) >> bits) + 1;
      const end = from - (from % SECTOR_BYTES) + sectors * SECTOR_BYTES;
      for (let at = from - (from % clusterBytes); at < end; at += clusterBytes) this.#refer(at);
      return;
    }
    const offset = this.#drop(at, copied);
    if (offset !== 0) this.#refer(offset);
  }

  /** Clears COPIED; returns the offset of the entry. */
  #drop(at: number, copied: bigint): number {
    const entry = this.#view().getBigUint64(at) & ~copied;
    this.#setU64(at, entry);
    return Number(entry & OFFSET_MASK);
  }

  /** The offset of a cluster's L2 entry; its table is made where there is none. */
  #entryOf(cluster: number): number {
    const { l1Offset, l2Entries, clusterBytes } = this.#header;
    const at = l1Offset + 8 * Math.floor(cluster / l2Entries);
    let table = Number(this.#view().getBigUint64(at) & OFFSET_MASK);
    if (table === 0) {
      table = this.#append(1);
      this.#setU64(at, BigInt(table) | (1n << BigInt(ENTRY_COPIED_BIT)));
    }
    return table + (cluster % l2Entries) * (clusterBytes / l2Entries);
  }

  #fill(cluster: number, target: Uint8Array, offset: number): void {
    const { clusterBytes } = this.#header;
    const sector = (cluster * clusterBytes) / SECTOR_BYTES;
    fillSectors(target.subarray(offset, offset + clusterBytes), FIRST_DATA, sector);
    this.#note(cluster, FIRST_DATA);
  }

  #note(cluster: number, code: number): void {
    const sectors = this.#header.clusterBytes / SECTOR_BYTES;
    this.#codes.fill(code, cluster * sectors, (cluster + 1) * sectors);
  }

  /** Appends clusters to the file; returns where. */
  #append(clusters: number, refcount = 1): number {
    const offset = this.#bytes.length;
    const bytes = new Uint8Array(offset + clusters * this.#header.clusterBytes);
    bytes.set(this.#bytes);
    this.#bytes = bytes;
    for (let index = 0; index < clusters; index++) this.#refcounts.push(refcount);
    return offset;
  }

  #refer(offset: number): void {
    const cluster = Math.floor(offset / this.#header.clusterBytes);
    this.#refcounts[cluster] = (this.#refcounts[cluster] ?? 0) + 1;
  }

  /** There are as many blocks as it takes: one, but for `room`. */
  #writeRefcounts(): void {
    const { refcountTableOffset, refcountBits } = this.#header;
    for (const [index, count] of this.#refcounts.entries()) {
      if (count === 0) continue;
      const entry = refcountTableOffset + 8 * Math.floor(index / this.#perBlock);
      const block = Number(this.#view().getBigUint64(entry) & OFFSET_MASK);
      if (block === 0) throw invalid(`${this.#refcounts.length} clusters are too many`);
      if (count >= 2 ** refcountBits) throw invalid(`${count} references in ${refcountBits} bits`);
      const bit = (index % this.#perBlock) * refcountBits;
      const byte = refcountBits < 8 ? Math.floor(bit / 8) : (bit + refcountBits) / 8 - 1;
      const shift = refcountBits < 8 ? bit % 8 : 0;
      const mask = ((2 ** Math.min(refcountBits, 8) - 1) << shift) & 0xff;
      const old = (this.#bytes[block + byte] ?? 0) & ~mask;
      this.#bytes[block + byte] = old | (count << shift);
    }
  }

  get #perBlock(): number {
    return (this.#header.clusterBytes * 8) / this.#header.refcountBits;
  }

  #setU64(at: number, value: bigint): void {
    this.#view().setBigUint64(at, value);
  }

  #view(): DataView {
    return new DataView(this.#bytes.buffer);
  }
}

const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
const ALL_SUBCLUSTERS = 2n ** BigInt(SUBCLUSTERS) - 1n;
