/**
 * What an L1 table refers to, in an image that a check has found to be sound: counted, and its
 * COPIED flags changed. One L2 table is in memory at a time.
 */
import type { ImageFile } from '../image-file.ts';
import { entryOffset } from './check-scan.ts';
import type { Qcow2Header } from './header.ts';

/** By cluster of the file, and one more. */
export type Counts = Uint8Array | Uint16Array | Uint32Array;

/** An L1 table: of the disk, or of a snapshot. */
export interface L1Table {
  readonly l1Offset: number;
  readonly l1Entries: number;
}

/** What becomes of a table of entries. */
type VisitTable = (table: DataView, entryBytes: number) => boolean;

const ENTRY_BYTES = 8;
const PIECE_BYTES = 65536;
const SECTOR_BYTES = 512;
const COMPRESSED_HIGH = 0x40000000;
const COPIED_HIGH = 0x80000000;
/** Of a compressed entry: bits from `62 - (clusterBits - 8)` on count sectors. */
const COMPRESSED_HIGH_BITS = 62 + 8 - 32;

/** As many as there are clusters, none of them counted; like the refcounts that they belong to. */
export function noCounts(refcounts: Counts): Counts {
  if (refcounts instanceof Uint8Array) return new Uint8Array(refcounts.length);
  const isShort = refcounts instanceof Uint16Array;
  return isShort ? new Uint16Array(refcounts.length) : new Uint32Array(refcounts.length);
}

/** Adds to `counts` the references to L2 tables, and to what those refer to. */
export async function addReferences(
  file: ImageFile,
  header: Qcow2Header,
  l1: L1Table,
  counts: Counts,
  signal?: AbortSignal,
): Promise<void> {
  const count = (cluster: number): void => {
    counts[cluster] = (counts[cluster] as number) + 1;
  };
  const visit: VisitTable = (table, entryBytes) => {
    forEachEntry(table, entryBytes, (high, low) => forEachCluster(header, high, low, count));
    return false;
  };
  await visitTables(file, header, l1, visit, signal);
}

/** The first cluster of a set COPIED flag whose refcount is not 1; undefined: there is none. */
export async function findWrongCopied(
  file: ImageFile,
  header: Qcow2Header,
  l1: L1Table,
  refcounts: Counts,
  signal?: AbortSignal,
): Promise<number | undefined> {
  let found: number | undefined;
  const visit: VisitTable = (table, entryBytes) => {
    forEachEntry(table, entryBytes, (high, low) => {
      if (high >= 0) return;
      forEachCluster(header, high, low, (cluster) => {
        if (refcounts[cluster] !== 1) found ??= cluster;
      });
    });
    return false;
  };
  await visitTables(file, header, l1, visit, signal);
  return found;
}

/** Writes the flags of the table, and of those that it names; compressed clusters have none. */
export async function writeCopied(
  file: ImageFile,
  header: Qcow2Header,
  l1: L1Table,
  isCopied: (cluster: number) => boolean,
): Promise<void> {
  const visit: VisitTable = (table, entryBytes) => {
    let hasChanged = false;
    forEachEntry(table, entryBytes, (high, low, at) => {
      const offset = entryOffset(high, low);
      const isData = (high & COMPRESSED_HIGH) === 0 && offset !== 0;
      const isWanted = isData && isCopied(offset / header.clusterBytes);
      if (isWanted === high < 0) return;
      table.setInt32(at, high ^ COPIED_HIGH);
      hasChanged = true;
    });
    return hasChanged;
  };
  await visitTables(file, header, l1, visit);
}

/** Writes the L1 table without flags at an offset, filled up with zeroes to whole clusters. */
export async function copyL1(
  file: ImageFile,
  { clusterBytes }: Qcow2Header,
  { l1Offset, l1Entries }: L1Table,
  offset: number,
  entries: number,
): Promise<void> {
  const fromBytes = l1Entries * ENTRY_BYTES;
  const toBytes = Math.ceil((entries * ENTRY_BYTES) / clusterBytes) * clusterBytes;
  for (let at = 0; at < toBytes; at += PIECE_BYTES) {
    const piece = new Uint8Array(Math.min(PIECE_BYTES, toBytes - at));
    const length = Math.min(piece.length, fromBytes - at);
    if (length > 0) piece.set(await file.read(l1Offset + at, length));
    const table = new DataView(piece.buffer);
    forEachEntry(table, ENTRY_BYTES, (high, _low, entry) => {
      if (high < 0) table.setInt32(entry, high ^ COPIED_HIGH);
    });
    await file.write(offset + at, piece);
  }
}

/** Visits the L1 table, by pieces, and its L2 tables; one that has changed is written. */
async function visitTables(
  file: ImageFile,
  header: Qcow2Header,
  { l1Offset, l1Entries }: L1Table,
  visit: VisitTable,
  signal?: AbortSignal,
): Promise<void> {
  const endOffset = l1Offset + l1Entries * ENTRY_BYTES;
  const entryBytes = header.clusterBytes / header.l2Entries;
  for (let offset = l1Offset; offset < endOffset; offset += PIECE_BYTES) {
    const length = Math.min(PIECE_BYTES, endOffset - offset);
    const piece = await visitTable(file, offset, length, ENTRY_BYTES, visit);
    const tables: number[] = [];
    forEachEntry(piece, ENTRY_BYTES, (high, low) => tables.push(entryOffset(high, low)));
    for (const table of tables) {
      signal?.throwIfAborted();
      await visitTable(file, table, header.clusterBytes, entryBytes, visit);
    }
  }
}

async function visitTable(
  file: ImageFile,
  offset: number,
  length: number,
  entryBytes: number,
  visit: VisitTable,
): Promise<DataView> {
  const bytes = await file.read(offset, length);
  const table = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (visit(table, entryBytes)) await file.write(offset, bytes);
  return table;
}

/** Those that are not 0. */
function forEachEntry(
  table: DataView,
  entryBytes: number,
  visit: (high: number, low: number, at: number) => void,
): void {
  for (let at = 0; at < table.byteLength; at += entryBytes) {
    const high = table.getInt32(at);
    const low = table.getInt32(at + 4);
    if ((high | low) !== 0) visit(high, low, at);
  }
}

/** The clusters of the file that an entry refers to. */
function forEachCluster(
  { clusterBits, clusterBytes }: Qcow2Header,
  high: number,
  low: number,
  visit: (cluster: number) => void,
): void {
  if ((high & COMPRESSED_HIGH) === 0) {
    const offset = entryOffset(high, low);
    if (offset !== 0) visit(offset / clusterBytes);
    return;
  }
  const offsetHighBits = COMPRESSED_HIGH_BITS - clusterBits;
  const offset = (high & (2 ** offsetHighBits - 1)) * 2 ** 32 + (low >>> 0);
  const sectors = ((high & (COMPRESSED_HIGH - 1)) >>> offsetHighBits) + 1;
  const endOffset = (Math.floor(offset / SECTOR_BYTES) + sectors) * SECTOR_BYTES;
  const last = Math.floor((endOffset - 1) / clusterBytes);
  for (let cluster = Math.floor(offset / clusterBytes); cluster <= last; cluster++) visit(cluster);
}
