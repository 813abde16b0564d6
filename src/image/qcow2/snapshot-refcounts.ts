/**
 * The refcounts of an image while its snapshots change: what is added and taken away, and clusters
 * for what is new. All of it is known before the first of it is written.
 */
import { SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { refcountsPerBlock } from './check-refcounts.ts';
import type { Scan } from './check-scan.ts';
import { hex } from './fields.ts';
import { ImageClusters } from './image-clusters.ts';
import { setRefcount } from './repair-refcounts.ts';
import { type Counts, noCounts } from './snapshot-references.ts';

/** Refcounts of 64 bits are counted as far as this. */
const BITS_MAX = 32;

/** What is to become of the refcounts of an image that a check has found to be sound. */
export class RefcountChange {
  readonly #scan: Scan;
  /** How much each refcount goes up before the change, and down after it. */
  readonly added: Counts;
  readonly removed: Counts;

  constructor(scan: Scan) {
    this.#scan = scan;
    this.added = noCounts(scan.counts.refcounts);
    this.removed = noCounts(scan.counts.refcounts);
  }

  /** The refcounts as they are in the file, as far as it is known. */
  get refcounts(): Counts {
    return this.#scan.counts.refcounts;
  }

  /** What is added and removed need not be written at all. */
  cancel(): void {
    const { added, removed } = this;
    for (let cluster = 0; cluster < added.length; cluster++) {
      const both = Math.min(added[cluster] as number, removed[cluster] as number);
      if (both === 0) continue;
      added[cluster] = (added[cluster] as number) - both;
      removed[cluster] = (removed[cluster] as number) - both;
    }
  }

  /** One reference less to each cluster of the range. */
  remove(offset: number, lengthBytes: number): void {
    const { clusterBytes } = this.#scan.header;
    const end = Math.ceil((offset + lengthBytes) / clusterBytes);
    for (let cluster = Math.floor(offset / clusterBytes); cluster < end; cluster++) {
      this.removed[cluster] = (this.removed[cluster] as number) + 1;
    }
  }

  /** @throws SluiceError ERR_SLUICE_UNSUPPORTED when a refcount would be more than it can be */
  refuseOverflow(what: string): void {
    const { clusterBytes, refcountBits } = this.#scan.header;
    const most = 2 ** Math.min(refcountBits, BITS_MAX) - 1;
    const { refcounts, added } = this;
    const end = added.length;
    let cluster = firstCounted(added, 0, end);
    while (cluster < end && (refcounts[cluster] as number) + (added[cluster] as number) <= most) {
      cluster = firstCounted(added, cluster + 1, end);
    }
    if (cluster === end) return;
    const place = `the cluster at offset ${hex(cluster * clusterBytes)}`;
    const wanted = (refcounts[cluster] as number) + (added[cluster] as number);
    const found = `${place} would be in use ${wanted} times; its refcount counts to ${most}`;
    const advice = 'delete snapshots, or convert the image to one with longer refcounts';
    throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${what}: ${found}; ${advice}`);
  }

  /**
   * Clusters in a row to write to, asked for once; they are in use when `raise` is stable, at the
   * latest. Nothing refers to those that are free, or the check would have found it; where there
   * are none in a row, others are taken (image-clusters.ts).
   */
  async place(file: ImageFile, clusters: number, isBlockDevice: boolean): Promise<number> {
    if (clusters === 0) return 0;
    const { header } = this.#scan;
    const first = this.#freeRun(clusters);
    if (first === undefined) {
      const image = await ImageClusters.of(file, header, isBlockDevice);
      return image.takeRun(clusters);
    }
    this.added.fill(1, first, first + clusters);
    return first * header.clusterBytes;
  }

  /** The first free clusters whose refcounts have a place. */
  #freeRun(wanted: number): number | undefined {
    const { counts, refcountTable, header, fileBytes } = this.#scan;
    const perBlock = refcountsPerBlock(this.#scan);
    // A device has no room for what is missing of its last cluster.
    const whole = Math.floor(fileBytes / header.clusterBytes);
    let free = 0;
    let next = 0;
    for (const { index } of refcountTable) {
      if (index * perBlock !== next) free = 0;
      next = Math.min((index + 1) * perBlock, whole);
      for (let cluster = index * perBlock; cluster < next; cluster++) {
        const isFree = counts.refcounts[cluster] === 0 && this.added[cluster] === 0;
        free = isFree ? free + 1 : 0;
        if (free === wanted) return cluster + 1 - wanted;
      }
    }
    return undefined;
  }

  /** Adds what is to be added; that is stable afterwards. */
  async raise(file: ImageFile): Promise<void> {
    await this.#write(file, this.added, 1);
  }

  /** Takes away what is to be removed; that is stable afterwards. */
  async lower(file: ImageFile): Promise<void> {
    await this.#write(file, this.removed, -1);
  }

  /** Every block that changes is written once. */
  async #write(file: ImageFile, counts: Counts, sign: 1 | -1): Promise<void> {
    const { header, refcountTable } = this.#scan;
    const perBlock = refcountsPerBlock(this.#scan);
    for (const { index, offset } of refcountTable) {
      const first = index * perBlock;
      const end = Math.min(first + perBlock, counts.length);
      const changed = firstCounted(counts, first, end);
      if (changed === end) continue;
      const block = new Uint8Array(await file.read(offset, header.clusterBytes));
      const entries = new DataView(block.buffer);
      for (let cluster = changed; cluster < end;) {
        const refcount = (this.refcounts[cluster] as number) + sign * (counts[cluster] as number);
        this.refcounts[cluster] = refcount;
        setRefcount(entries, cluster - first, header.refcountBits, refcount);
        cluster = firstCounted(counts, cluster + 1, end);
      }
      await file.write(offset, block);
    }
    await file.sync();
  }
}

/** The first cluster from there on that is counted; `end` when there is none. */
function firstCounted(counts: Counts, from: number, end: number): number {
  let cluster = from;
  while (cluster < end && counts[cluster] === 0) cluster++;
  return cluster;
}
