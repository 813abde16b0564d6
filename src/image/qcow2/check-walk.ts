/**
 * From the L1 tables to everything that they refer to.
 *
 * W1 Every L1 and L2 table is read once, however often it is referred to; what it refers to is
 *    counted as often as it is in use. So the work is bounded by the size of the file.
 * W2 A table that does not begin at a cluster of the file is not followed.
 * W3 COPIED is judged in active tables only, by the refcounts that the image has (QEMU does so).
 */

import { USED_DATA, USED_L1, USED_L2 } from './check-counts.ts';
import {
  entryOffset,
  forEachEntry,
  type L2Use,
  readPadded,
  type Scan,
  type Steps,
} from './check-scan.ts';

const ENTRY_BYTES = 8;
// Halves of entries; the high ones as signed numbers, as DataView and `|` make them.
const L1_RESERVED_HIGH = 0x7f000000;
const L2_RESERVED_HIGH = 0x3f000000;
const L1_RESERVED_LOW = 0x1ff;
const L2_RESERVED_LOW = 0x1fe;
const COMPRESSED_HIGH = 0x40000000;
const ZERO_LOW = 1;
/** Of a compressed entry: bits from `62 - (clusterBits - 8)` on count sectors. */
const COMPRESSED_HIGH_BITS = 62 + 8 - 32;
const SECTOR_BYTES = 512;

/** Counts what an L1 table refers to, up to the L2 tables; walkL2Tables follows them. */
export function* walkL1(
  scan: Scan,
  offset: number,
  entries: number,
  isActive: boolean,
): Steps<void> {
  const { counts, findings, fileBytes } = scan;
  const lengthBytes = entries * ENTRY_BYTES;
  // A second table in the same place is neither counted nor walked (W1).
  if (!isActive && counts.isUsed(offset, lengthBytes)) {
    return findings.range('table-overlap', offset, lengthBytes);
  }
  counts.refer(offset, lengthBytes, USED_L1);
  counts.expectWhole(offset, lengthBytes);
  yield* forEachEntry(fileBytes, offset, entries, (high, low, at, index) => {
    visitL1Entry(scan, { high, low, at, index }, isActive);
  });
}

interface Entry {
  readonly high: number;
  readonly low: number;
  /** Its offset in the file. */
  readonly at: number;
  readonly index: number;
}

function visitL1Entry(scan: Scan, { high, low, at, index }: Entry, isActive: boolean): void {
  const { header, counts, findings } = scan;
  if ((high & L1_RESERVED_HIGH) !== 0 || (low & L1_RESERVED_LOW) !== 0) {
    findings.entry('l1-reserved', at, high, low);
  }
  const offset = entryOffset(high, low);
  if (offset === 0) return findings.entry('l1-no-table', at, high, low);
  counts.refer(offset, header.clusterBytes, USED_L2);
  if (isActive && !isCopiedRight(scan, high, offset)) {
    findings.entry('l1-copied', at, high, low);
  }
  if (offset % header.clusterBytes !== 0) findings.entry('l1-unaligned', at, high, low);
  else noteL2(scan, offset, index, isActive);
}

function noteL2(scan: Scan, offset: number, l1Index: number, isActive: boolean): void {
  const { l2Tables, fileBytes } = scan;
  if (offset >= fileBytes) return;
  const use = l2Tables.get(offset);
  const active = isActive ? 1 : 0;
  if (use === undefined) {
    l2Tables.set(offset, { active, total: 1, l1Index });
  } else {
    use.active += active;
    use.total += 1;
  }
}

/** Whether COPIED says that the refcount is 1; true where the refcount cannot be read. */
function isCopiedRight({ counts }: Scan, high: number, offset: number): boolean {
  const refcount = counts.refcountAt(offset);
  return refcount === undefined || (refcount === 1) === high < 0;
}

/** Counts what every L2 table refers to. */
export function* walkL2Tables(scan: Scan): Steps<void> {
  const { header, fileBytes, counts } = scan;
  for (const [offset, use] of scan.l2Tables) {
    counts.expectWhole(offset, header.clusterBytes, use.total);
    const table = yield* readPadded(fileBytes, offset, header.clusterBytes);
    new L2Walk(scan, table, offset, use).run();
  }
}

/** One L2 table. */
class L2Walk {
  readonly #scan: Scan;
  readonly #table: DataView;
  readonly #offset: number;
  readonly #use: L2Use;
  /** Where the next cluster lies if the disk is not fragmented; 0 before the first. */
  #nextOffset = 0;

  constructor(scan: Scan, table: DataView, offset: number, use: L2Use) {
    this.#scan = scan;
    this.#table = table;
    this.#offset = offset;
    this.#use = use;
  }

  run(): void {
    const { extendedL2, clusterBytes } = this.#scan.header;
    const step = extendedL2 ? ENTRY_BYTES * 2 : ENTRY_BYTES;
    for (let at = 0; at < clusterBytes; at += step) {
      const high = this.#table.getInt32(at);
      const low = this.#table.getInt32(at + 4);
      const zeroes = extendedL2 ? this.#table.getInt32(at + 8) : 0;
      const allocated = extendedL2 ? this.#table.getInt32(at + 12) : 0;
      if ((high | low | zeroes | allocated) === 0) continue;
      if ((high & COMPRESSED_HIGH) !== 0) this.#compressed(at, high, low, zeroes | allocated);
      else this.#standard(at, high, low, zeroes, allocated);
    }
  }

  #compressed(at: number, high: number, low: number, subclusters: number): void {
    const { header, counts } = this.#scan;
    const { active, total } = this.#use;
    if (high < 0) this.#find('compressed-copied', at, high, low);
    if (header.dataFile !== undefined) return this.#find('compressed-data-file', at, high, low);
    if (subclusters !== 0) return this.#find('compressed-subclusters', at, high, low);
    const offsetHighBits = COMPRESSED_HIGH_BITS - header.clusterBits;
    const offset = (high & (2 ** offsetHighBits - 1)) * 2 ** 32 + (low >>> 0);
    const sectors = ((high & (COMPRESSED_HIGH - 1)) >>> offsetHighBits) + 1;
    const lengthBytes = sectors * SECTOR_BYTES - (offset % SECTOR_BYTES);
    counts.refer(offset, lengthBytes, USED_DATA, total);
    this.#scan.allocatedClusters += active;
    this.#scan.compressedClusters += active;
    this.#scan.fragmentedClusters += active;
  }

  #standard(at: number, high: number, low: number, zeroes: number, allocated: number): void {
    const { header } = this.#scan;
    const hasZeroFlag = (low & ZERO_LOW) !== 0;
    if ((high & L2_RESERVED_HIGH) !== 0 || (low & L2_RESERVED_LOW) !== 0) {
      this.#find('l2-reserved', at, high, low);
    }
    if (hasZeroFlag && header.extendedL2) this.#find('zero-extended', at, high, low);
    if (hasZeroFlag && header.version === 2) this.#find('zero-version-2', at, high, low);
    const isZero = hasZeroFlag && !header.extendedL2;
    const offset = entryOffset(high, low);
    // In an external data file a cluster may lie at offset 0; COPIED says that it does.
    const isMapped = offset !== 0 || (header.dataFile !== undefined && high < 0 && !isZero);
    if (isMapped) this.#mapped(at, high, low, { offset, isZero, zeroes, allocated });
    else if (allocated !== 0) this.#find('subcluster-no-cluster', at, high, low);
  }

  #mapped(at: number, high: number, low: number, cluster: Mapped): void {
    const scan = this.#scan;
    const { header } = scan;
    const { offset, zeroes, allocated } = cluster;
    if ((zeroes & allocated) !== 0) this.#find('subcluster-both', at, high, low);
    if (offset % header.clusterBytes !== 0) this.#find('l2-unaligned', at, high, low);
    scan.allocatedClusters += this.#use.active;
    if (this.#nextOffset !== 0 && offset !== this.#nextOffset) {
      scan.fragmentedClusters += this.#use.active;
    }
    this.#nextOffset = offset + header.clusterBytes;
    if (header.dataFile === undefined) this.#hosted(at, high, low, cluster);
    else this.#external(at, high, low, offset);
  }

  /** A cluster in the image file. */
  #hosted(at: number, high: number, low: number, { offset, isZero, allocated }: Mapped): void {
    const { header, counts } = this.#scan;
    const { active, total } = this.#use;
    counts.refer(offset, header.clusterBytes, USED_DATA, total);
    const dataBytes = header.extendedL2
      ? (32 - Math.clz32(allocated)) * header.subclusterBytes
      : header.clusterBytes;
    if (!isZero) counts.expectWhole(offset, dataBytes, total);
    if (active > 0 && !isCopiedRight(this.#scan, high, offset)) {
      this.#find('l2-copied', at, high, low, active);
    }
  }

  /** A cluster in the external data file: its refcount counts as 1. */
  #external(at: number, high: number, low: number, offset: number): void {
    const { header } = this.#scan;
    const { active, l1Index } = this.#use;
    if (active > 0 && high >= 0) this.#find('l2-copied', at, high, low, active);
    const index = l1Index * header.l2Entries + at / (header.clusterBytes / header.l2Entries);
    if (offset !== index * header.clusterBytes) this.#find('data-file-offset', at, high, low);
  }

  #find(
    kind: Parameters<Scan['findings']['entry']>[0],
    at: number,
    high: number,
    low: number,
    times = this.#use.total,
  ): void {
    this.#scan.findings.entry(kind, this.#offset + at, high, low, times);
  }
}

interface Mapped {
  readonly offset: number;
  readonly isZero: boolean;
  readonly zeroes: number;
  readonly allocated: number;
}
