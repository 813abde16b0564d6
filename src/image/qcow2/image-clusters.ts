/**
 * Refcounts of an image that no engine has open or is at work on, and new clusters for it.
 *
 * F1 Clusters are taken past the end of the file: no data can be there, whatever refcounts say.
 *    A block device has no such place; there it is the first ones that are free.
 * F2 The refcounts of what was taken, and the file's new size, are stable before it is handed out.
 * F3 A refcount block is stable before the table names it, and a table before the header does.
 */
import { REFCOUNT_TABLE_BYTES_MAX } from '../../abi/qcow2.ts';
import { SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { refcountOf } from './check-refcounts.ts';
import { hex } from './fields.ts';
import type { Qcow2Header } from './header.ts';
import { setRefcount, switchTable } from './repair-refcounts.ts';

const ENTRY_BYTES = 8;
const ENTRIES_PER_SECTOR = 512 / ENTRY_BYTES;
const ENTRY_RESERVED = 0x1ffn;

/** Where the refcounts of an image stand, and what lies past its end. */
export class ImageClusters {
  readonly #file: ImageFile;
  readonly #clusterBytes: number;
  readonly #refcountBits: number;
  /** Clusters that one block describes. */
  readonly #perBlock: number;
  /** Clusters to which the refcount table may grow. */
  readonly #tableClustersMax: number;
  #tableOffset: number;
  #table: DataView;
  /** The block that was used last. */
  #group = -1;
  #block: DataView = new DataView(new ArrayBuffer(0));
  #isBlockChanged = false;
  /** No cluster before it is taken. */
  #next: number;

  private constructor(
    file: ImageFile,
    header: Qcow2Header,
    table: Uint8Array,
    next: number,
    tableEntriesMax: number,
  ) {
    this.#file = file;
    this.#clusterBytes = header.clusterBytes;
    this.#refcountBits = header.refcountBits;
    this.#perBlock = (header.clusterBytes * 8) / header.refcountBits;
    this.#tableClustersMax = Math.floor((tableEntriesMax * ENTRY_BYTES) / header.clusterBytes);
    this.#tableOffset = header.refcountTableOffset;
    this.#table = viewOf(table);
    this.#next = next;
  }

  /** Those of an image whose tables are all in the file; its refcount table has a limit. */
  static async of(
    file: ImageFile,
    header: Qcow2Header,
    isBlockDevice = false,
    tableEntriesMax = REFCOUNT_TABLE_BYTES_MAX / ENTRY_BYTES,
  ): Promise<ImageClusters> {
    const { refcountTableOffset, refcountTableClusters, clusterBytes } = header;
    const table = await file.read(refcountTableOffset, refcountTableClusters * clusterBytes);
    const next = isBlockDevice ? 0 : Math.ceil(file.sizeBytes / clusterBytes);
    return new ImageClusters(file, header, table, next, tableEntriesMax);
  }

  /** The refcount of the cluster that begins at an offset. */
  async refcount(offset: number): Promise<number> {
    const cluster = Math.floor(offset / this.#clusterBytes);
    if (!(await this.#load(Math.floor(cluster / this.#perBlock)))) return 0;
    return refcountOf(this.#block, cluster % this.#perBlock, this.#refcountBits);
  }

  /** Takes new clusters; their offsets (F1, F2). */
  async take(count: number): Promise<number[]> {
    const offsets: number[] = [];
    while (offsets.length < count) {
      const cluster = this.#next++;
      if (await this.#isTaken(cluster)) continue;
      await this.#set(cluster, 1);
      offsets.push(cluster * this.#clusterBytes);
    }
    await this.#finish();
    return offsets;
  }

  /** Takes new clusters in a row; the offset of the first (F1, F2). */
  async takeRun(count: number): Promise<number> {
    const first = await (count < this.#perBlock ? this.#findRun(count) : this.#makeRun(count));
    this.#next = first + count;
    await this.#finish();
    return first * this.#clusterBytes;
  }

  /** Gives a cluster that was just taken this many references in all; stable afterwards. */
  async share(offset: number, references: number): Promise<void> {
    await this.#set(offset / this.#clusterBytes, references);
    await this.#writeBlock();
    await this.#file.sync();
  }

  /** Drops a reference to each of some clusters. That it is gone must be stable. */
  async release(offset: number, count: number): Promise<void> {
    const first = offset / this.#clusterBytes;
    for (let cluster = first; cluster < first + count; cluster++) {
      const refcount = await this.refcount(cluster * this.#clusterBytes);
      await this.#set(cluster, Math.max(refcount - 1, 0));
    }
    await this.#writeBlock();
  }

  /** The first run of free clusters; their refcounts are set. */
  async #findRun(count: number): Promise<number> {
    let first = this.#next;
    for (let cluster = first; cluster < first + count; cluster++) {
      if (await this.#isTaken(cluster)) first = cluster + 1;
    }
    for (let cluster = first; cluster < first + count; cluster++) await this.#set(cluster, 1);
    return first;
  }

  /** A run that is longer than a block can describe, behind new blocks for itself and them. */
  async #makeRun(count: number): Promise<number> {
    const perBlock = this.#perBlock;
    const blocks = Math.ceil(count / (perBlock - 1));
    let group = this.#groupBehind();
    while (group + blocks > this.#table.byteLength / ENTRY_BYTES) {
      await this.#growTable(group * perBlock);
      group = this.#groupBehind();
    }
    const first = group * perBlock;
    const end = first + blocks + count;
    for (let index = 0; index < blocks; index++) {
      const offset = (first + index) * this.#clusterBytes;
      await this.#file.write(offset, this.#blockOf(group + index, first, end));
      this.#table.setBigUint64((group + index) * ENTRY_BYTES, BigInt(offset));
    }
    await this.#file.sync();
    await this.#nameBlocks(group, group + blocks);
    return first + blocks;
  }

  /** Sector by sector: what counts a block is named before it, or with it (F3). */
  async #nameBlocks(group: number, end: number): Promise<void> {
    for (let from = group; from < end;) {
      const sectorEnd = (Math.floor(from / ENTRIES_PER_SECTOR) + 1) * ENTRIES_PER_SECTOR;
      const to = Math.min(end, sectorEnd);
      const length = (to - from) * ENTRY_BYTES;
      const entries = new Uint8Array(this.#table.buffer, from * ENTRY_BYTES, length);
      await this.#file.write(this.#tableOffset + from * ENTRY_BYTES, entries);
      if (to < end) await this.#file.sync();
      from = to;
    }
  }

  /** The first group of clusters behind all that are described, and behind the file. */
  #groupBehind(): number {
    let group = this.#table.byteLength / ENTRY_BYTES;
    while (group > 0 && this.#blockOffset(group - 1) === 0) group -= 1;
    return Math.max(group, Math.ceil(this.#next / this.#perBlock));
  }

  async #finish(): Promise<void> {
    await this.#writeBlock();
    const endOffset = this.#next * this.#clusterBytes;
    if (endOffset > this.#file.sizeBytes) await this.#file.truncate(endOffset);
    await this.#file.sync();
  }

  /** Makes sure that the cluster has a refcount; it may be taken for the block itself. */
  async #isTaken(cluster: number): Promise<boolean> {
    const group = Math.floor(cluster / this.#perBlock);
    if (!(await this.#load(group))) {
      await (group < this.#table.byteLength / ENTRY_BYTES
        ? this.#addBlock(group, cluster)
        : this.#growTable(cluster));
      await this.#load(group);
    }
    return refcountOf(this.#block, cluster % this.#perBlock, this.#refcountBits) !== 0;
  }

  async #addBlock(group: number, cluster: number): Promise<void> {
    const offset = cluster * this.#clusterBytes;
    await this.#file.write(offset, this.#blockOf(group, cluster, cluster + 1));
    await this.#file.sync();
    this.#table.setBigUint64(group * ENTRY_BYTES, BigInt(offset));
    const entry = new Uint8Array(this.#table.buffer, group * ENTRY_BYTES, ENTRY_BYTES);
    await this.#file.write(this.#tableOffset + group * ENTRY_BYTES, entry);
  }

  /** A longer table, with blocks for itself before it, from a cluster on that none describes. */
  async #growTable(first: number): Promise<void> {
    const { blocks, tableClusters } = this.#sizesOfTable(first);
    const firstGroup = Math.floor(first / this.#perBlock);
    const tableOffset = (first + blocks) * this.#clusterBytes;
    const end = first + blocks + tableClusters;
    const table = new Uint8Array(tableClusters * this.#clusterBytes);
    table.set(new Uint8Array(this.#table.buffer));
    const entries = new DataView(table.buffer);
    for (let index = 0; index < blocks; index++) {
      const offset = (first + index) * this.#clusterBytes;
      entries.setBigUint64((firstGroup + index) * ENTRY_BYTES, BigInt(offset));
      await this.#file.write(offset, this.#blockOf(firstGroup + index, first, end));
    }
    await this.#file.write(tableOffset, table);
    await this.#file.sync();
    await switchTable(this.#file, tableOffset, tableClusters);
    const oldFirst = this.#tableOffset / this.#clusterBytes;
    const oldEnd = oldFirst + this.#table.byteLength / this.#clusterBytes;
    this.#table = entries;
    this.#tableOffset = tableOffset;
    for (let cluster = oldFirst; cluster < oldEnd; cluster++) await this.#set(cluster, 0);
  }

  /** Twice what it was, as far as there may be, or more when that is needed. */
  #sizesOfTable(first: number): { blocks: number; tableClusters: number } {
    const firstGroup = Math.floor(first / this.#perBlock);
    const found = this.#table.byteLength / this.#clusterBytes;
    let tableClusters = Math.min(2 * found, this.#tableClustersMax);
    let blocks = 1;
    for (let described = 0; described < first + blocks + tableClusters;) {
      const groups = Math.ceil((first + blocks + tableClusters) / this.#perBlock);
      const needed = Math.ceil((groups * ENTRY_BYTES) / this.#clusterBytes);
      blocks = groups - firstGroup;
      tableClusters = Math.max(tableClusters, needed);
      described = groups * this.#perBlock;
    }
    const isLonger = tableClusters > found;
    if (isLonger && tableClusters <= this.#tableClustersMax) return { blocks, tableClusters };
    const most = this.#tableClustersMax * this.#clusterBytes;
    const reason = `its refcount table cannot have more than ${most} bytes`;
    throw new SluiceError('ERR_SLUICE_NO_SPACE', `the image cannot grow: ${reason}`);
  }

  /** A new block, with the clusters from `first` to `end` in use, as far as it describes them. */
  #blockOf(group: number, first: number, end: number): Uint8Array {
    const block = new DataView(new ArrayBuffer(this.#clusterBytes));
    const start = group * this.#perBlock;
    for (let index = 0; index < this.#perBlock; index++) {
      const isUsed = start + index >= first && start + index < end;
      if (isUsed) setRefcount(block, index, this.#refcountBits, 1);
    }
    return new Uint8Array(block.buffer);
  }

  async #set(cluster: number, refcount: number): Promise<void> {
    if (!(await this.#load(Math.floor(cluster / this.#perBlock)))) return;
    setRefcount(this.#block, cluster % this.#perBlock, this.#refcountBits, refcount);
    this.#isBlockChanged = true;
  }

  /** False when there is no such block: all of its refcounts are 0. */
  async #load(group: number): Promise<boolean> {
    if (group === this.#group) return true;
    const offset = this.#blockOffset(group);
    if (offset === 0) return false;
    await this.#writeBlock();
    this.#block = viewOf(await this.#file.read(offset, this.#clusterBytes));
    this.#group = group;
    return true;
  }

  async #writeBlock(): Promise<void> {
    if (!this.#isBlockChanged) return;
    const offset = this.#blockOffset(this.#group);
    await this.#file.write(offset, new Uint8Array(this.#block.buffer));
    this.#isBlockChanged = false;
  }

  #blockOffset(group: number): number {
    if (group >= this.#table.byteLength / ENTRY_BYTES) return 0;
    const entry = this.#table.getBigUint64(group * ENTRY_BYTES);
    const isBlock = (entry & ENTRY_RESERVED) === 0n && entry % BigInt(this.#clusterBytes) === 0n;
    if (isBlock && entry <= BigInt(this.#file.sizeBytes)) return Number(entry);
    const found = `entry ${group} of the refcount table is ${hex(entry)}`;
    const advice = 'no refcount block can be there; check and repair the image';
    throw new SluiceError('ERR_SLUICE_CORRUPT', `${found}: ${advice}`);
  }
}

/** A copy of the bytes: they may be a part of something. */
function viewOf(bytes: Uint8Array): DataView {
  return new DataView(new Uint8Array(bytes).buffer);
}
