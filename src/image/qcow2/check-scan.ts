/**
 * What the parts of a check share: the image, what is known of it, and how its bytes are read.
 *
 * The check is written once, as generators that yield the ranges they need; a driver answers them
 * from memory (checkBytes) or from a file (checkImage). Reading is the only thing it waits for.
 */

import { ENTRY_OFFSET_LAST_BIT } from '../../abi/qcow2.ts';
import { ClusterCounts } from './check-counts.ts';
import { Findings } from './check-findings.ts';
import type { Qcow2Header } from './header.ts';

/** Bytes that lie inside the file; at most a cluster, PIECE_BYTES, or the bitmap directory. */
export interface FileRange {
  readonly offset: number;
  readonly length: number;
}

/** Work that has to read: it yields what it needs and is resumed with the bytes. */
export type Steps<T> = Generator<FileRange, T, Uint8Array>;

/** How often an L2 table is referred to, and from where first. */
export interface L2Use {
  /** By the active L1 table. */
  active: number;
  /** By it and by the L1 tables of snapshots. */
  total: number;
  /** The first entry of the active L1 table that names it, or of a snapshot's. */
  readonly l1Index: number;
}

/** An entry of the refcount table that is not 0; `offset` has no reserved bits. */
export interface RefcountTableEntry {
  readonly index: number;
  readonly offset: number;
  readonly high: number;
  readonly low: number;
}

/** The state of one check. */
export class Scan {
  readonly header: Qcow2Header;
  readonly fileBytes: number;
  readonly findings = new Findings();
  readonly counts: ClusterCounts;
  readonly refcountTable: RefcountTableEntry[] = [];
  /** By the offset of the table; only tables that begin at a cluster of the file. */
  readonly l2Tables = new Map<number, L2Use>();
  allocatedClusters = 0;
  fragmentedClusters = 0;
  compressedClusters = 0;

  constructor(header: Qcow2Header, fileBytes: number) {
    this.header = header;
    this.fileBytes = fileBytes;
    this.counts = new ClusterCounts(header, fileBytes, this.findings);
  }
}

/** Called with the two halves of an entry, its offset in the file and its index. */
type VisitEntry = (high: number, low: number, offset: number, index: number) => void;

const ENTRY_BYTES = 8;
const PIECE_BYTES = 65536;
const OFFSET_HIGH_MASK = 2 ** (ENTRY_OFFSET_LAST_BIT + 1 - 32) - 1;

/** The offset that an entry of an L1, L2 or bitmap table names. */
export function entryOffset(high: number, low: number): number {
  return (high & OFFSET_HIGH_MASK) * 2 ** 32 + clearReserved(low);
}

/** The low half of an entry without bits 0 to 8. */
export function clearReserved(low: number): number {
  return (low & ~0x1ff) >>> 0;
}

/** These bytes of the file; zeroes past its end. */
export function* readPadded(fileBytes: number, offset: number, length: number): Steps<DataView> {
  const inside = Math.max(0, Math.min(length, fileBytes - offset));
  let bytes = inside === 0 ? new Uint8Array(0) : yield { offset, length: inside };
  if (inside < length) {
    const padded = new Uint8Array(length);
    padded.set(bytes);
    bytes = padded;
  }
  return new DataView(bytes.buffer, bytes.byteOffset, length);
}

/** Visits the entries of a table that are not 0; past the end of the file there are none. */
export function* forEachEntry(
  fileBytes: number,
  tableOffset: number,
  entries: number,
  visit: VisitEntry,
): Steps<void> {
  const end = Math.min(tableOffset + entries * ENTRY_BYTES, fileBytes);
  for (let offset = tableOffset; offset < end; offset += PIECE_BYTES) {
    const length = Math.ceil(Math.min(PIECE_BYTES, end - offset) / ENTRY_BYTES) * ENTRY_BYTES;
    const piece = yield* readPadded(fileBytes, offset, length);
    for (let at = 0; at < length; at += ENTRY_BYTES) {
      const high = piece.getInt32(at);
      const low = piece.getInt32(at + 4);
      if ((high | low) === 0) continue;
      visit(high, low, offset + at, (offset + at - tableOffset) / ENTRY_BYTES);
    }
  }
}
