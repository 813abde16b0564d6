/**
 * Whether an image counts more clusters than the host has set aside for it: then its data clusters
 * may be holes of the file, which read as zeroes and were never written.
 */
import type { ImageFile } from '../image-file.ts';
import { entryOffset } from './check-scan.ts';
import type { Qcow2Header } from './header.ts';

const ENTRY_BYTES = 8;
/** More of them than this is no rounding of the host's. */
const SPARE_CLUSTERS = 2;
const SPARE_SHARE = 10 / 9;

/** True when a tenth of its clusters at least, and more than two, are not there. */
export async function hasPreallocation(
  file: ImageFile,
  header: Qcow2Header,
  allocatedBytes: number,
): Promise<boolean> {
  const real = Math.floor(allocatedBytes / header.clusterBytes);
  const threshold = Math.max(Math.floor(real * SPARE_SHARE), real + SPARE_CLUSTERS);
  // Also if all clusters of the file were in use.
  if (Math.ceil(file.sizeBytes / header.clusterBytes) < threshold) return false;
  return (await countUsed(file, header, threshold)) >= threshold;
}

/** Clusters with a refcount, or `most` when there are more. */
async function countUsed(file: ImageFile, header: Qcow2Header, most: number): Promise<number> {
  const { refcountTableOffset, refcountTableClusters, clusterBytes, refcountBits } = header;
  const table = viewOf(await file.read(refcountTableOffset, refcountTableClusters * clusterBytes));
  let used = 0;
  for (let at = 0; at < table.byteLength && used < most; at += ENTRY_BYTES) {
    const offset = entryOffset(table.getInt32(at), table.getInt32(at + 4));
    if (offset === 0 || offset + clusterBytes > file.sizeBytes) continue;
    used += countNonZero(await file.read(offset, clusterBytes), refcountBits);
  }
  return Math.min(used, most);
}

function countNonZero(block: Uint8Array, bits: number): number {
  let count = 0;
  if (bits >= 8) {
    const bytes = bits / 8;
    for (let at = 0; at < block.length; at += bytes) {
      if (block.subarray(at, at + bytes).some((byte) => byte !== 0)) count++;
    }
    return count;
  }
  for (const byte of block) {
    for (let rest = byte; rest !== 0; rest >>= bits)
      count += (rest & (2 ** bits - 1)) === 0 ? 0 : 1;
  }
  return count;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
