/** The refcounts of an image: what it says they are, and whether that is so. */

import { USED_REFCOUNT_BLOCK, USED_REFCOUNT_TABLE } from './check-counts.ts';
import {
  clearReserved,
  forEachEntry,
  readPadded,
  type RefcountTableEntry,
  type Scan,
  type Steps,
} from './check-scan.ts';

const ENTRY_BYTES = 8;
const RESERVED_LOW = 0x1ff;
/** More is counted as this. */
const REFCOUNT_MAX = 2 ** 32 - 1;

/** Reads all refcounts of clusters of the file, and what is kept past its end. */
export function* loadRefcounts(scan: Scan): Steps<void> {
  const { header, fileBytes, refcountTable } = scan;
  const entries = (header.refcountTableClusters * header.clusterBytes) / ENTRY_BYTES;
  const note = (high: number, low: number, _offset: number, index: number): void => {
    const offset = (high >>> 0) * 2 ** 32 + clearReserved(low);
    refcountTable.push({ index, offset, high, low });
  };
  yield* forEachEntry(fileBytes, header.refcountTableOffset, entries, note);
  let loaded = 0;
  for (const entry of refcountTable) {
    if (entry.offset === 0) continue;
    const firstCluster = entry.index * refcountsPerBlock(scan);
    // Blocks for what lies past the end are as many as the file can hold.
    if (firstCluster > scan.counts.clusters && loaded >= scan.counts.clusters) break;
    if (yield* loadBlock(scan, entry, firstCluster)) loaded++;
  }
}

/** How many clusters one refcount block describes. */
export function refcountsPerBlock({ header }: Scan): number {
  return (header.clusterBytes * 8) / header.refcountBits;
}

function* loadBlock(scan: Scan, entry: RefcountTableEntry, firstCluster: number): Steps<boolean> {
  const { header, fileBytes, counts } = scan;
  if (isUnaligned(entry, header.clusterBytes) || entry.high < 0) {
    counts.setUnreadable(firstCluster, refcountsPerBlock(scan));
    if (firstCluster < counts.clusters) {
      scan.findings.range('unreadable-refcounts', entry.offset, header.clusterBytes);
    }
    return false;
  }
  if (entry.offset >= fileBytes) return false;
  const block = yield* readPadded(fileBytes, entry.offset, header.clusterBytes);
  const length = refcountsPerBlock(scan);
  for (let index = 0; index < length; index++) {
    const refcount = refcountOf(block, index, header.refcountBits);
    if (refcount !== 0) counts.setRefcount(firstCluster + index, refcount);
  }
  return true;
}

/** Past 2^53 the offset is not exact, but its low half is. */
function isUnaligned({ low }: RefcountTableEntry, clusterBytes: number): boolean {
  return clearReserved(low) % clusterBytes !== 0;
}

/** An entry of a refcount block, at most 2^32 - 1; entries of less than a byte begin at bit 0. */
export function refcountOf(block: DataView, index: number, bits: number): number {
  switch (bits) {
    case 64:
      return block.getUint32(index * 8) === 0 ? block.getUint32(index * 8 + 4) : REFCOUNT_MAX;
    case 32:
      return block.getUint32(index * 4);
    case 16:
      return block.getUint16(index * 2);
    default: {
      const bit = index * bits;
      return (block.getUint8(bit >> 3) >> (bit & 7)) & (2 ** bits - 1);
    }
  }
}

/** Counts the references to refcount blocks; everything else has been counted before. */
export function referToRefcountBlocks({ header, counts, findings, refcountTable }: Scan): void {
  for (const entry of refcountTable) {
    const { index, offset, high, low } = entry;
    const at = header.refcountTableOffset + index * ENTRY_BYTES;
    if ((low & RESERVED_LOW) !== 0) {
      findings.entry('refcount-table-reserved', at, high, low);
    } else if (isUnaligned(entry, header.clusterBytes)) {
      findings.entry('refcount-block-unaligned', at, high, low);
    } else if (offset / header.clusterBytes >= counts.usedClusters) {
      findings.entry('refcount-block-past-end', at, high, low);
    } else {
      counts.refer(offset, header.clusterBytes, USED_REFCOUNT_BLOCK);
      counts.expectWhole(offset, header.clusterBytes);
      if (counts.references[offset / header.clusterBytes] === 1) continue;
      findings.entry('refcount-block-shared', at, high, low);
    }
  }
}

/** Counts the references to the refcount table. */
export function referToRefcountTable({ header, counts }: Scan): void {
  const lengthBytes = header.refcountTableClusters * header.clusterBytes;
  counts.refer(header.refcountTableOffset, lengthBytes, USED_REFCOUNT_TABLE);
  counts.expectWhole(header.refcountTableOffset, lengthBytes);
}

/** Compares refcounts with references; returns the end of the last cluster in use. */
export function compareRefcounts({ header, counts, findings }: Scan): number {
  const { refcounts, references, usedClusters } = counts;
  let end = 0;
  for (let cluster = 0; cluster < usedClusters; cluster++) {
    const refcount = refcounts[cluster] as number;
    const expected = references[cluster] as number;
    if (!counts.isReadable(cluster)) continue;
    if (refcount > 0 || expected > 0) end = cluster + 1;
    if (refcount === expected) continue;
    const kind = refcount < expected ? 'refcount-too-low' : 'leak';
    findings.refcount(kind, cluster * header.clusterBytes, refcount, expected);
  }
  return end * header.clusterBytes;
}
