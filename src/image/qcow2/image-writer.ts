/**
 * A new image, written from its first guest byte to its last: data and tables in the order in which
 * they become known, and the header when all is there.
 *
 *     | header | LUKS area | L1 | data, an L2 table behind what it maps, refcount blocks ... |
 *     | refcount table |
 *
 * G1 Memory does not grow with the disk but for the L1 table and the refcount table: an L2 table is
 *    written when the next one begins, a refcount block when it is full.
 * G2 The header comes last, so that a file that was not finished is no image.
 */
import { ENTRY_COMPRESSED_BIT, EXTENDED_L2_ENTRY_BYTES, L2_ENTRY_BYTES } from '../../abi/qcow2.ts';
import { headerOf } from './create-header.ts';
import { layoutOf } from './create-layout.ts';
import type { NewImage } from './create-options.ts';
import { type Emit, NewRefcounts } from './new-refcounts.ts';

const SECTOR_BYTES = 512;
const TWO_POW_32 = 2 ** 32;
const COPIED_HIGH = 0x80000000;
const ZERO_LOW = 1;
const ALL_SUBCLUSTERS = 0xffffffff;
/** Of the bitmaps of an extended entry. */
const ZEROES_AT = 8;
const ALLOCATED_AT = 12;

/** Clusters of the disk, and where the data of the first one goes. */
export interface DataRun {
  readonly cluster: number;
  readonly count: number;
  readonly offset: number;
}

/**
 * What a cluster that has its place reads as: what is written there, zeroes, or what the backing
 * file has.
 */
export type PlaceKind = 'data' | 'zero' | 'left';

/** Takes clusters of the disk in order, and answers where they go. */
export class ImageWriter {
  readonly #image: NewImage;
  readonly #emit: Emit;
  readonly #refcounts: NewRefcounts;
  readonly #l1: DataView;
  readonly #l1Offset: number;
  readonly #luksOffset: number;
  readonly #entryBytes: number;
  readonly #l2Entries: number;
  /** The L2 table that is being filled. */
  #table: DataView | undefined;
  #tableIndex = -1;
  /** Free bytes at the end of the last cluster with streams. */
  #room = 0;

  /**
   * `emit` writes what is neither data nor streams; it may do so later. `luks` is the area of an
   * encrypted image, whose data the caller encrypts.
   */
  constructor(image: NewImage, emit: Emit, luks?: Uint8Array) {
    const { clusterBytes, refcountOrder } = image;
    this.#image = image;
    this.#emit = emit;
    this.#refcounts = new NewRefcounts(clusterBytes, 2 ** refcountOrder, emit);
    const { l1Entries, l1Clusters, l2Entries, luksClusters } = layoutOf(image);
    this.#l2Entries = l2Entries;
    this.#entryBytes = image.extendedL2 ? EXTENDED_L2_ENTRY_BYTES : L2_ENTRY_BYTES;
    this.#refcounts.take(1);
    this.#luksOffset = this.#refcounts.take(luksClusters);
    if (luks !== undefined) emit(this.#luksOffset, padded(luks, luksClusters * clusterBytes));
    this.#l1Offset = l1Entries === 0 ? 0 : this.#refcounts.take(l1Clusters);
    this.#l1 = new DataView(new ArrayBuffer(l1Clusters * clusterBytes));
  }

  /** Bytes of the file so far. */
  get endBytes(): number {
    return this.#refcounts.endBytes;
  }

  /**
   * Places for `count` clusters from `cluster` on, and what they read as; answers where they are,
   * in as many runs as they have to be split into: what an L2 table maps lies together.
   */
  *addPlaces(cluster: number, count: number, reads: PlaceKind): Generator<DataRun, void, void> {
    const { clusterBytes, dataFile } = this.#image;
    const flags = this.#placeFlags(reads);
    for (let at = cluster; at < cluster + count;) {
      const tableEnd = (Math.floor(at / this.#l2Entries) + 1) * this.#l2Entries;
      const run = Math.min(cluster + count, tableEnd) - at;
      const table = this.#tableOf(at);
      this.#room = 0;
      const offset = dataFile === undefined ? this.#refcounts.take(run) : at * clusterBytes;
      for (let index = 0; index < run; index++) {
        const position = this.#positionOf(at + index);
        setOffset(table, position, offset + index * clusterBytes + flags.zero);
        if (!this.#image.extendedL2) continue;
        table.setUint32(position + ZEROES_AT, flags.zeroes);
        table.setUint32(position + ALLOCATED_AT, flags.allocated);
      }
      yield { cluster: at, count: run, offset };
      at += run;
    }
  }

  /** Clusters that read as zeroes, whatever the backing file has; not in version 2. */
  addZeroes(cluster: number, count: number): void {
    for (let at = cluster; at < cluster + count; at++) {
      const table = this.#tableOf(at);
      const position = this.#positionOf(at);
      if (this.#image.extendedL2) table.setUint32(position + ZEROES_AT, ALL_SUBCLUSTERS);
      else table.setUint32(position + 4, ZERO_LOW);
    }
  }

  /** A compressed cluster of `length` bytes; answers where the stream goes, in one piece. */
  addStream(cluster: number, length: number): number {
    const { clusterBytes, clusterBits } = this.#image;
    const table = this.#tableOf(cluster);
    const refcounts = this.#refcounts;
    const fits = length <= this.#room || refcounts.goesOn;
    if (this.#room === 0 || refcounts.isLastFull || !fits) {
      refcounts.take(1);
      this.#room = clusterBytes;
    } else {
      refcounts.useLastAgain();
    }
    const offset = refcounts.endBytes - this.#room;
    if (length > this.#room) {
      refcounts.take(1);
      this.#room += clusterBytes;
    }
    this.#room -= length;
    const sectors = ((offset % SECTOR_BYTES) + length - 1) >> 9;
    const shift = 62 - (clusterBits - 8);
    const entry = (BigInt(sectors) << BigInt(shift)) | BigInt(offset);
    const position = this.#positionOf(cluster);
    table.setBigUint64(position, entry | (1n << BigInt(ENTRY_COMPRESSED_BIT)));
    return offset;
  }

  /** The tables that are left; afterwards all of the file is known but the header. */
  finish(): Uint8Array {
    this.#finishTable();
    if (this.#l1.byteLength > 0) this.#emit(this.#l1Offset, new Uint8Array(this.#l1.buffer));
    const { tableOffset, tableClusters } = this.#refcounts.finish();
    return headerOf(this.#image, {
      l1Offset: this.#l1Offset,
      l1Entries: layoutOf(this.#image).l1Entries,
      refcountTableOffset: tableOffset,
      refcountTableClusters: tableClusters,
      luksOffset: this.#luksOffset,
    });
  }

  /** Places that are zeroes are holes, but for what the cipher would make of them. */
  #placeFlags(reads: PlaceKind) {
    const { extendedL2, encryption, dataFile } = this.#image;
    if (!extendedL2) {
      const isNoise = reads === 'zero' && encryption !== undefined;
      return { zero: isNoise ? ZERO_LOW : 0, zeroes: 0, allocated: 0 };
    }
    const isData = reads === 'data' || dataFile?.raw === true;
    const isZero = reads === 'zero' && !isData;
    return {
      zero: 0,
      zeroes: isZero ? ALL_SUBCLUSTERS : 0,
      allocated: isData ? ALL_SUBCLUSTERS : 0,
    };
  }

  #positionOf(cluster: number): number {
    return (cluster % this.#l2Entries) * this.#entryBytes;
  }

  /** The table with a cluster's entry; the one before it is written. */
  #tableOf(cluster: number): DataView {
    const index = Math.floor(cluster / this.#l2Entries);
    if (this.#table !== undefined && index === this.#tableIndex) return this.#table;
    if (index < this.#tableIndex) throw new Error('clusters are added in the order of the disk');
    this.#finishTable();
    this.#tableIndex = index;
    this.#table = new DataView(new ArrayBuffer(this.#image.clusterBytes));
    return this.#table;
  }

  #finishTable(): void {
    if (this.#table === undefined) return;
    const offset = this.#refcounts.take(1);
    this.#room = 0;
    setOffset(this.#l1, this.#tableIndex * L2_ENTRY_BYTES, offset);
    this.#emit(offset, new Uint8Array(this.#table.buffer));
    this.#table = undefined;
  }
}

function padded(bytes: Uint8Array, length: number): Uint8Array {
  const whole = new Uint8Array(length);
  whole.set(bytes);
  return whole;
}

/** With COPIED: whatever is used once is used by this. */
function setOffset(view: DataView, position: number, offset: number): void {
  view.setUint32(position, Math.floor(offset / TWO_POW_32) + COPIED_HIGH);
  view.setUint32(position + 4, offset % TWO_POW_32);
}
