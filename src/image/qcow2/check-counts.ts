/**
 * What a check knows of every cluster of an image file: its refcount, its references, and what it
 * is used for.
 *
 * K1 Memory is bounded by the size of the file, whatever the image claims: at most ten bytes for
 *    each of its clusters, and a bounded map for refcounts of clusters past its end.
 * K2 Like QEMU, a range may reach past the end of the file by less than a cluster (the last
 *    cluster may be cut), and the file ends at a whole sector.
 */

import type { Qcow2Header } from './header.ts';
import { SluiceError } from '../../errors.ts';
import type { Findings } from './check-findings.ts';

/** What a cluster of the file is used for: bits. */
export const USED_HEADER = 1;
export const USED_L1 = 2;
export const USED_L2 = 4;
export const USED_DATA = 8;
export const USED_REFCOUNT_TABLE = 16;
export const USED_REFCOUNT_BLOCK = 32;
export const USED_SNAPSHOTS = 64;
export const USED_BITMAPS = 128;
export const USED_LUKS = 256;
const UNREADABLE_REFCOUNT = 512;
/** These may be referred to from two places. */
const SHAREABLE = USED_L2 | USED_DATA;

const SECTOR_BYTES = 512;
/** Ours: of the refcounts that stand past the end of the file. */
const PAST_END_MAX = 65536;
/** Ours: 16 TiB in clusters of 64 KiB. */
const CLUSTERS_MAX = 2 ** 28;

type Counts = Uint8Array | Uint16Array | Uint32Array;

/** The refcounts and references of one image file. */
export class ClusterCounts {
  /** Clusters of the file, the last one perhaps cut. */
  readonly clusters: number;
  readonly findings: Findings;
  /** Refcounts as they are in the image; counts past 2^32 are that. */
  readonly refcounts: Counts;
  /** References that were found, at most as many as a refcount can count. */
  readonly references: Counts;
  /** One more cluster than the file has, where a range has reached into it. */
  usedClusters: number;

  readonly #clusterBytes: number;
  readonly #endOffset: number;
  readonly #fileBytes: number;
  readonly #maximum: number;
  readonly #uses: Uint16Array;
  readonly #pastEnd = new Map<number, number>();

  constructor(header: Qcow2Header, fileBytes: number, findings: Findings) {
    this.#clusterBytes = header.clusterBytes;
    this.#fileBytes = fileBytes;
    this.#endOffset = Math.ceil(fileBytes / SECTOR_BYTES) * SECTOR_BYTES;
    this.clusters = Math.ceil(fileBytes / header.clusterBytes);
    this.usedClusters = this.clusters;
    this.findings = findings;
    this.#maximum = Math.min(2 ** header.refcountBits, 2 ** 32) - 1;
    refuseTooLarge(this.clusters);
    const size = this.clusters + 1;
    this.refcounts = newCounts(size, header.refcountBits);
    this.references = newCounts(size, header.refcountBits);
    this.#uses = new Uint16Array(size);
  }

  /** Whether clusters of this range may be counted (K2); a finding where not. */
  #isInside(offset: number, lengthBytes: number, times: number): boolean {
    if (offset + lengthBytes - this.#endOffset < this.#clusterBytes) return true;
    this.findings.range('past-end', offset, lengthBytes, times);
    return false;
  }

  /** Counts `times` references to every cluster that the range touches. */
  refer(offset: number, lengthBytes: number, use: number, times = 1): void {
    if (lengthBytes === 0 || !this.#isInside(offset, lengthBytes, times)) return;
    const first = Math.floor(offset / this.#clusterBytes);
    const last = Math.floor((offset + lengthBytes - 1) / this.#clusterBytes);
    for (let cluster = first; cluster <= last; cluster++) this.#referOnce(cluster, use, times);
  }

  /** A finding when the file ends inside the range; what is wholly past its end is one already. */
  expectWhole(offset: number, lengthBytes: number, times = 1): void {
    const missing = offset + lengthBytes - this.#fileBytes;
    if (missing <= 0 || offset + lengthBytes - this.#endOffset >= this.#clusterBytes) return;
    this.findings.range('cut-off', offset, lengthBytes, times);
  }

  #referOnce(cluster: number, use: number, times: number): void {
    const uses = this.#uses[cluster] as number;
    if ((uses & ~(use & SHAREABLE) & ~UNREADABLE_REFCOUNT) !== 0) {
      this.findings.range('overlap', cluster * this.#clusterBytes, this.#clusterBytes);
    }
    this.#uses[cluster] = uses | use;
    if (cluster >= this.usedClusters) this.usedClusters = cluster + 1;
    const references = (this.references[cluster] as number) + times;
    if (references > this.#maximum) this.#overflow(cluster, references - this.#maximum);
    this.references[cluster] = Math.min(references, this.#maximum);
  }

  #overflow(cluster: number, times: number): void {
    const offset = cluster * this.#clusterBytes;
    this.findings.range('too-many-references', offset, this.#clusterBytes, times);
  }

  /** The refcount of the cluster with this byte in it; undefined where it cannot be read. */
  refcountAt(offset: number): number | undefined {
    const cluster = Math.floor(offset / this.#clusterBytes);
    if (cluster > this.clusters) return this.#pastEnd.get(cluster) ?? 0;
    return this.isReadable(cluster) ? this.refcounts[cluster] : undefined;
  }

  /** Records a refcount that the image has. */
  setRefcount(cluster: number, refcount: number): void {
    if (cluster <= this.clusters) this.refcounts[cluster] = refcount;
    else if (refcount !== 0 && this.#pastEnd.size < PAST_END_MAX) {
      this.#pastEnd.set(cluster, refcount);
    }
  }

  /** The refcounts of these clusters cannot be read. */
  setUnreadable(firstCluster: number, clusters: number): void {
    const end = Math.min(firstCluster + clusters, this.#uses.length);
    for (let cluster = firstCluster; cluster < end; cluster++) {
      this.#uses[cluster] = (this.#uses[cluster] as number) | UNREADABLE_REFCOUNT;
    }
  }

  /** False after setUnreadable. */
  isReadable(cluster: number): boolean {
    return ((this.#uses[cluster] as number) & UNREADABLE_REFCOUNT) === 0;
  }

  /** True when every cluster of the range is in the file and used for nothing else than `use`. */
  isOnly(offset: number, lengthBytes: number, use: number): boolean {
    const first = Math.floor(offset / this.#clusterBytes);
    const end = Math.ceil((offset + lengthBytes) / this.#clusterBytes);
    if (end > this.clusters) return false;
    for (let cluster = first; cluster < end; cluster++) {
      if (((this.#uses[cluster] as number) & ~UNREADABLE_REFCOUNT) !== use) return false;
    }
    return true;
  }

  /** True when something in the range has been referred to. */
  isUsed(offset: number, lengthBytes: number): boolean {
    const first = Math.floor(offset / this.#clusterBytes);
    const end = Math.min(Math.ceil((offset + lengthBytes) / this.#clusterBytes), this.usedClusters);
    for (let cluster = first; cluster < end; cluster++) {
      if (((this.#uses[cluster] as number) & ~UNREADABLE_REFCOUNT) !== 0) return true;
    }
    return false;
  }
}

function newCounts(size: number, refcountBits: number): Counts {
  if (refcountBits <= 8) return new Uint8Array(size);
  return refcountBits === 16 ? new Uint16Array(size) : new Uint32Array(size);
}

function refuseTooLarge(clusters: number): void {
  if (clusters <= CLUSTERS_MAX) return;
  const found = `the file has ${clusters} clusters, and at most ${CLUSTERS_MAX} can be checked`;
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `cannot check the image: ${found}`);
}
