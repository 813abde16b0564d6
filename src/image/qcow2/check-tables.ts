/** The tables of an image beside L1, L2 and refcounts: snapshots, bitmaps, the LUKS header. */

import {
  L1_BYTES_MAX,
  SNAPSHOT_ENTRY_BYTES,
  SNAPSHOT_EXTRA_BYTES_MAX,
  SNAPSHOT_EXTRA_DISK_SIZE,
  SNAPSHOT_EXTRA_SIZE,
  SNAPSHOT_ID_SIZE,
  SNAPSHOT_L1_OFFSET,
  SNAPSHOT_L1_SIZE,
  SNAPSHOT_NAME_SIZE,
  SNAPSHOT_TABLE_BYTES_MAX,
} from '../../abi/qcow2.ts';
import { parseBitmapDirectory } from './bitmap-directory.ts';
import { USED_BITMAPS, USED_LUKS, USED_SNAPSHOTS } from './check-counts.ts';
import { entryOffset, forEachEntry, readPadded, type Scan, type Steps } from './check-scan.ts';
import { walkL1 } from './check-walk.ts';

const ENTRY_BYTES = 8;
/** Version 3: the size of the VM state and of the disk. */
const SNAPSHOT_EXTRA_BYTES_V3 = SNAPSHOT_EXTRA_DISK_SIZE + 8;
const BITMAP_RESERVED_HIGH = 0xff000000 | 0;
const BITMAP_RESERVED_LOW = 0x1fe;
const ALL_ONES_LOW = 1;
const NOTHING = new Uint8Array(0);

/** Counts the snapshot table, and everything that snapshots refer to but their L2 tables. */
export function* walkSnapshots(scan: Scan): Steps<void> {
  const { header, fileBytes, counts, findings } = scan;
  const { snapshots, snapshotsOffset } = header;
  if (snapshots === 0) return;
  const limit = snapshotsOffset + SNAPSHOT_TABLE_BYTES_MAX;
  const found: SnapshotL1[] = [];
  let end = snapshotsOffset;
  for (let index = 0; index < snapshots; index++) {
    const offset = snapshotsOffset + Math.ceil((end - snapshotsOffset) / 8) * 8;
    const entry = yield* readPadded(fileBytes, offset, SNAPSHOT_ENTRY_BYTES);
    const extraBytes = entry.getUint32(SNAPSHOT_EXTRA_SIZE);
    const textBytes = entry.getUint16(SNAPSHOT_ID_SIZE) + entry.getUint16(SNAPSHOT_NAME_SIZE);
    end = offset + SNAPSHOT_ENTRY_BYTES + extraBytes + textBytes;
    if (extraBytes > SNAPSHOT_EXTRA_BYTES_MAX || end > limit) {
      findings.range('snapshot-table', offset, SNAPSHOT_ENTRY_BYTES);
      break;
    }
    if (header.version === 3 && extraBytes < SNAPSHOT_EXTRA_BYTES_V3) {
      findings.range('snapshot-extra', offset, SNAPSHOT_ENTRY_BYTES);
    }
    found.push(snapshotL1(entry, offset));
  }
  for (const snapshot of found) yield* walkSnapshotL1(scan, snapshot);
  counts.refer(snapshotsOffset, end - snapshotsOffset, USED_SNAPSHOTS);
  counts.expectWhole(snapshotsOffset, end - snapshotsOffset);
}

interface SnapshotL1 {
  /** Where the snapshot table says so. */
  readonly at: number;
  readonly offset: number;
  /** The low half of the offset: past 2^53 the whole is not exact. */
  readonly low: number;
  readonly entries: number;
}

function snapshotL1(entry: DataView, at: number): SnapshotL1 {
  const high = entry.getUint32(SNAPSHOT_L1_OFFSET);
  const low = entry.getUint32(SNAPSHOT_L1_OFFSET + 4);
  return { at, offset: high * 2 ** 32 + low, low, entries: entry.getUint32(SNAPSHOT_L1_SIZE) };
}

function* walkSnapshotL1(scan: Scan, { at, offset, low, entries }: SnapshotL1): Steps<void> {
  const isRight = low % scan.header.clusterBytes === 0 && entries * ENTRY_BYTES <= L1_BYTES_MAX;
  if (!isRight) scan.findings.range('snapshot-l1', at, SNAPSHOT_ENTRY_BYTES);
  else yield* walkL1(scan, offset, entries, false);
}

/** Counts the LUKS header with its key slots. */
export function referToLuks({ header, counts }: Scan): void {
  if (header.encryption === undefined) return;
  const { offset, length } = header.encryption;
  counts.refer(offset, length, USED_LUKS);
  counts.expectWhole(offset, length);
}

/** Counts the bitmap directory, the bitmap tables, and what they refer to. */
export function* walkBitmaps(scan: Scan): Steps<void> {
  const { header, fileBytes, counts, findings } = scan;
  if (header.bitmaps === undefined || !header.bitmaps.consistent) return;
  const { directoryOffset, directoryBytes } = header.bitmaps;
  counts.refer(directoryOffset, directoryBytes, USED_BITMAPS);
  counts.expectWhole(directoryOffset, directoryBytes);
  const insideBytes = Math.max(0, Math.min(directoryBytes, fileBytes - directoryOffset));
  const bytes =
    insideBytes === 0 ? NOTHING : yield { offset: directoryOffset, length: insideBytes };
  const directory = parseBitmapDirectory(bytes, header, fileBytes, 'the image');
  if (directory.problem !== undefined) findings.text('bitmap-directory', directory.problem);
  for (const bitmap of directory.bitmaps) {
    const isTable = bitmap.tableOffset % header.clusterBytes === 0;
    if (isTable) yield* walkBitmapTable(scan, bitmap.tableOffset, bitmap.tableEntries);
  }
}

function* walkBitmapTable(scan: Scan, offset: number, entries: number): Steps<void> {
  const { header, fileBytes, counts, findings } = scan;
  const lengthBytes = entries * ENTRY_BYTES;
  // As with L1 tables: a second table in the same place is neither counted nor walked.
  if (counts.isUsed(offset, lengthBytes))
    return findings.range('table-overlap', offset, lengthBytes);
  counts.refer(offset, lengthBytes, USED_BITMAPS);
  counts.expectWhole(offset, lengthBytes);
  yield* forEachEntry(fileBytes, offset, entries, (high, low, at) => {
    const data = entryOffset(high, low);
    const isWrong =
      (high & BITMAP_RESERVED_HIGH) !== 0 ||
      (low & BITMAP_RESERVED_LOW) !== 0 ||
      data % header.clusterBytes !== 0 ||
      (data !== 0 && (low & ALL_ONES_LOW) !== 0);
    if (isWrong) findings.entry('bitmap-entry', at, high, low);
    else if (data !== 0) counts.refer(data, header.clusterBytes, USED_BITMAPS);
  });
}
