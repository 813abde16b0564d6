/**
 * An image that no engine has open is emptied: its disk shows its backing file only.
 *
 *     looked at ─▶ an L1 table of zeroes ─▶ its refcounts ─▶ HEADER ─▶ refcounts lowered ─▶ space
 *
 * E1 One sector of the header makes the change, and what it names is stable before. A cut leaves
 *    the disk as it was, or empty, and leaks at worst.
 * E2 Space is given back to the host when refcounts that say so are stable, and never that of a
 *    cluster that something may refer to.
 * E3 An image with snapshots is not for this: flags of what they share would have to change.
 */
import type { FileBackend } from '../../backend/file.ts';
import { Disk } from '../../disk.ts';
import { type ImageFile, isFailedSync } from '../image-file.ts';
import { refusal, takeBackPromises } from './begin-edit.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import { repairImage } from './repair.ts';
import { switchDisk, type SnapshotEditOptions } from './snapshot-edit.ts';
import { examine } from './snapshot-examine.ts';
import { addReferences, type Counts } from './snapshot-references.ts';

const ENTRY_BYTES = 8;

/**
 * Empties the image; that is stable. Its file is cut behind its last cluster; answers what is free
 * before that, for `makeHoles`.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED, ERR_SLUICE_CORRUPT, ERR_SLUICE_NO_SPACE
 */
export async function emptyImage(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  options: SnapshotEditOptions,
): Promise<FreeRange[]> {
  refuseSnapshots(header, path);
  await dropTables(file, header, path, options);
  // The table lies behind what was in use: a second one finds room at the front.
  await dropTables(file, await readHeader(file, path), path, options);
  const what = whatOf(path);
  const { change } = await examine(file, await readHeader(file, path), path, what, options);
  const { refcounts } = change;
  let used = refcounts.length;
  while (used > 0 && refcounts[used - 1] === 0) used--;
  const endOffset = used * header.clusterBytes;
  if (!options.isBlockDevice && file.sizeBytes > endOffset) await file.truncate(endOffset);
  return freeRanges(refcounts, used, header.clusterBytes);
}

/** A range of the file that nothing uses. */
export interface FreeRange {
  readonly offset: number;
  readonly length: number;
}

/** E2: makes holes of what is free, and closes the image. */
export async function makeHoles(backend: FileBackend, ranges: readonly FreeRange[]): Promise<void> {
  if (ranges.length === 0) return;
  await using disk = new Disk(backend.twin());
  for (const { offset, length } of ranges) await disk.discard(offset, length);
}

/** Another L1 table of zeroes, and nothing of what the old one refers to. */
async function dropTables(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  options: SnapshotEditOptions,
): Promise<void> {
  const what = whatOf(path);
  const { header: found, change } = await examine(file, header, path, what, options);
  const { l1Entries, clusterBytes, l1Offset } = found;
  await addReferences(file, found, found, change.removed, options.signal);
  change.remove(l1Offset, l1Entries * ENTRY_BYTES);
  options.signal?.throwIfAborted();
  let isOld = true;
  try {
    await takeBackPromises(file, found, path);
    const clusters = Math.ceil((l1Entries * ENTRY_BYTES) / clusterBytes);
    const offset = await change.place(file, clusters, options.isBlockDevice);
    await file.write(offset, new Uint8Array(clusters * clusterBytes));
    await file.sync();
    await change.raise(file);
    isOld = false;
    await switchDisk(file, found, found.sizeBytes, { l1Offset: offset, l1Entries });
    await change.lower(file);
  } catch (error) {
    // The refcounts that belong to what the header names.
    if (isOld && !isFailedSync(error)) {
      const asFound = await readHeader(file, path);
      await Promise.allSettled([repairImage(file, asFound, 'leaks')]);
    }
    throw error;
  }
}

function whatOf(path: string): string {
  return `cannot empty ${JSON.stringify(path)}`;
}

/** E3. */
function refuseSnapshots({ snapshots }: Qcow2Header, path: string): void {
  if (snapshots === 0) return;
  const found = `it has snapshots (${snapshots})`;
  throw refusal('ERR_SLUICE_UNSUPPORTED', 'commit', path, found, 'delete them first');
}

function freeRanges(counts: Counts, end: number, clusterBytes: number): FreeRange[] {
  const ranges: FreeRange[] = [];
  for (let cluster = 0; cluster < end;) {
    const isFree = counts[cluster] === 0;
    let last = cluster;
    while (last < end && (counts[last] === 0) === isFree) last++;
    if (isFree) {
      ranges.push({ offset: cluster * clusterBytes, length: (last - cluster) * clusterBytes });
    }
    cluster = last;
  }
  return ranges;
}
