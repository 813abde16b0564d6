/** The COPIED flags of the active tables, made to say what the refcounts will say. */

import type { ImageFile } from '../image-file.ts';
import { USED_L1, USED_L2 } from './check-counts.ts';
import { entryOffset, type Scan } from './check-scan.ts';
import type { TargetRefcount } from './repair-refcounts.ts';

const ENTRY_BYTES = 8;
const PIECE_BYTES = 65536;
const COMPRESSED_HIGH = 0x40000000;
const COPIED_HIGH = 0x80000000;
const ZERO_LOW = 1;

/** What COPIED is to be; undefined: as it is. */
type WantCopied = (high: number, low: number) => boolean | undefined;

/**
 * Tables that something else uses as well are left alone; with `leaks` so is COPIED of compressed
 * clusters, which says nothing of a refcount.
 */
export async function fixCopied(
  file: ImageFile,
  scan: Scan,
  target: TargetRefcount,
  what: 'leaks' | 'all',
): Promise<void> {
  const { header, counts } = scan;
  const { l1Offset, l1Entries, clusterBytes } = header;
  const l1Bytes = l1Entries * ENTRY_BYTES;
  const isL1Sound = counts.isOnly(l1Offset, l1Bytes, USED_L1);
  if (!isL1Sound) return;
  const wantL1: WantCopied = (high, low) => isOnlyOne(scan, target, entryOffset(high, low));
  await fixTable(file, { offset: l1Offset, lengthBytes: l1Bytes, entryBytes: 8 }, wantL1);
  const entryBytes = clusterBytes / header.l2Entries;
  for (const [offset, { active }] of scan.l2Tables) {
    if (!counts.isOnly(offset, clusterBytes, USED_L2)) continue;
    // Of a snapshot's table, COPIED means nothing; but with compressed clusters it is forbidden.
    const wantOthers = active > 0 ? wantActive(scan, target) : () => undefined;
    const wantL2: WantCopied = (high, low) => {
      if ((high & COMPRESSED_HIGH) === 0) return wantOthers(high, low);
      return what === 'leaks' ? undefined : false;
    };
    await fixTable(file, { offset, lengthBytes: clusterBytes, entryBytes }, wantL2);
  }
}

function wantActive(scan: Scan, target: TargetRefcount): WantCopied {
  const { extendedL2, dataFile } = scan.header;
  return (high, low) => {
    const offset = entryOffset(high, low);
    if (dataFile === undefined) return isOnlyOne(scan, target, offset);
    const isZero = !extendedL2 && (low & ZERO_LOW) !== 0;
    return offset !== 0 || (!isZero && high < 0) ? true : undefined;
  };
}

/** Nothing is wanted of an entry that names no cluster of the file. */
function isOnlyOne(scan: Scan, target: TargetRefcount, offset: number): boolean | undefined {
  const cluster = offset / scan.header.clusterBytes;
  const isCluster = offset !== 0 && Number.isInteger(cluster) && cluster < scan.counts.clusters;
  return isCluster ? target(cluster) === 1 : undefined;
}

interface Table {
  readonly offset: number;
  readonly lengthBytes: number;
  readonly entryBytes: number;
}

async function fixTable(file: ImageFile, table: Table, want: WantCopied): Promise<void> {
  const end = Math.min(table.offset + table.lengthBytes, file.sizeBytes);
  for (let offset = table.offset; offset < end; offset += PIECE_BYTES) {
    const bytes = new Uint8Array(await file.read(offset, Math.min(PIECE_BYTES, end - offset)));
    if (fixPiece(new DataView(bytes.buffer), table.entryBytes, want)) {
      await file.write(offset, bytes);
    }
  }
}

/** True when something has changed. */
function fixPiece(entries: DataView, entryBytes: number, want: WantCopied): boolean {
  let hasChanged = false;
  for (let at = 0; at + entryBytes <= entries.byteLength; at += entryBytes) {
    const high = entries.getInt32(at);
    const wanted = want(high, entries.getInt32(at + 4));
    if (wanted === undefined || wanted === high < 0) continue;
    entries.setInt32(at, high ^ COPIED_HIGH);
    hasChanged = true;
  }
  return hasChanged;
}
