/** What the format wants done before the first write (open.ts, O2). */
import {
  AUTOCLEAR_BITMAPS_BIT,
  HEADER_AUTOCLEAR_FEATURES,
  L2_ENTRY_BYTES,
} from '../../abi/qcow2.ts';
import type { ImageFile } from '../image-file.ts';
import type { Bitmap } from './bitmap-directory.ts';
import { bitmapsToKeep } from './bitmaps.ts';
import { entryOffset } from './check-scan.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import { repairDirty } from './repair.ts';
import { KNOWN_AUTOCLEAR, writeU64 } from './write-field.ts';

/** An image as it is before its first write. */
export interface WritableImage {
  readonly header: Qcow2Header;
  /** Bitmaps to keep up to date (bitmaps.ts). */
  readonly bitmaps: readonly Bitmap[];
}

/**
 * Repairs an image that was not closed, and takes back what it promises to those who know features
 * that are not kept up to date here; `notice` is told. The header is as it is then; all of it is
 * stable.
 */
export async function makeWritable(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  notice: (text: string) => unknown,
): Promise<WritableImage> {
  const repaired = await repairDirty(file, header, path, notice);
  const bitmaps = await bitmapsToKeep(file, repaired, path, notice);
  const keeps =
    bitmaps === undefined
      ? KNOWN_AUTOCLEAR & ~(1n << BigInt(AUTOCLEAR_BITMAPS_BIT))
      : KNOWN_AUTOCLEAR;
  const autoclear = repaired.autoclear & keeps;
  if (autoclear === repaired.autoclear) return { header: repaired, bitmaps: bitmaps ?? [] };
  await writeU64(file, HEADER_AUTOCLEAR_FEATURES, autoclear);
  return { header: await readHeader(file, path), bitmaps: bitmaps ?? [] };
}

/**
 * With subclusters a file may end inside its last cluster, where nobody has written the rest; a
 * write there needs the room. The engine goes on to take what was missing for missing. Without them
 * it is damage, and so is a table that is cut: those stay as they are, to be found.
 */
export async function endWithCluster(file: ImageFile, header: Qcow2Header): Promise<void> {
  const { clusterBytes, extendedL2 } = header;
  const cut = Math.floor(file.sizeBytes / clusterBytes) * clusterBytes;
  if (!extendedL2 || cut === file.sizeBytes || (await hasTableAt(file, header, cut))) return;
  await file.truncate(cut + clusterBytes);
}

/** True when an L2 table or a refcount block begins there. */
async function hasTableAt(file: ImageFile, header: Qcow2Header, offset: number): Promise<boolean> {
  const { l1Offset, l1Entries, refcountTableOffset, refcountTableClusters } = header;
  const tables = [
    await file.read(l1Offset, l1Entries * L2_ENTRY_BYTES),
    await file.read(refcountTableOffset, refcountTableClusters * header.clusterBytes),
  ];
  return tables.some((table) => {
    const view = new DataView(table.buffer, table.byteOffset, table.length);
    for (let at = 0; at < table.length; at += L2_ENTRY_BYTES) {
      if (entryOffset(view.getUint32(at), view.getUint32(at + 4)) === offset) return true;
    }
    return false;
  });
}
