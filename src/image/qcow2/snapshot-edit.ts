/**
 * Internal snapshots of an image that no engine has open: taken, applied and deleted.
 *
 *     looked at ─▶ new tables, flags ─▶ refcounts raised ─▶ HEADER ─▶ refcounts lowered ─▶ flags
 *
 * S1 Before the first write the whole image is checked, and all that is going to be changed is
 *    known: what is damaged, and what a refcount cannot count, is refused with nothing changed.
 *    Flags alone that are missing where a refcount is 1 are no damage: a cut leaves them.
 * S2 One sector of the header makes the change: the place and number of the snapshots, or the place
 *    and length of the L1 table with the size of the disk. What it names is stable before.
 * S3 What the header names is not written but for COPIED flags and refcounts: a new table is put
 *    into free clusters. So a guest and a list see what was before the sector, or what is after it.
 * S4 References are counted before they are there, and until they are gone: refcounts are raised,
 *    and that is stable, before the sector; they are lowered when it is stable.
 * S5 A COPIED flag is never there where the refcount is not 1: flags are cleared, and that is
 *    stable, before refcounts are raised; they are set when lowered refcounts are stable.
 * S6 So a cut at any time leaves leaks, and flags that are missing, at worst: repair.ts mends both.
 *    An error before the sector leaves neither, if the file can still be written.
 */
import {
  HEADER_L1_SIZE,
  HEADER_L1_TABLE_OFFSET,
  HEADER_NB_SNAPSHOTS,
  HEADER_SIZE,
  HEADER_SNAPSHOTS_OFFSET,
  L1_BYTES_MAX,
} from '../../abi/qcow2.ts';
import { SluiceError } from '../../errors.ts';
import { type ImageFile, isFailedSync } from '../image-file.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import { l1EntriesFor } from './header-layout.ts';
import { makeWritable } from './make-writable.ts';
import { repairImage } from './repair.ts';
import {
  entryOf,
  findSnapshot,
  newSnapshot,
  refuseLongTable,
  type SnapshotEntry,
  tableBytesOf,
} from './snapshot-entries.ts';
import { examine, type Examined } from './snapshot-examine.ts';
import { addReferences, copyL1, writeCopied } from './snapshot-references.ts';
import type { Snapshot } from './snapshot-table.ts';

/** What every change of snapshots is told. */
export interface SnapshotEditOptions {
  readonly isBlockDevice: boolean;
  /** Rejects with its reason when aborted before the first write of the change. */
  readonly signal?: AbortSignal | undefined;
  /** Told what was found and mended before. */
  readonly notice?: ((text: string) => unknown) | undefined;
}

/** What a new snapshot is. */
export interface SnapshotCreateOptions extends SnapshotEditOptions {
  /** 1 to 255 bytes of UTF-8. Other snapshots may have it as well. */
  readonly name: string;
  /** Default: now. */
  readonly date?: Date | undefined;
}

const ENTRY_BYTES = 8;

/**
 * Takes a snapshot of the disk, the last one of the list; it has no state of a machine.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED for an external data file, refcounts that cannot count
 *   it, and more snapshots than there may be; ERR_SLUICE_CORRUPT
 */
export async function createSnapshot(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  options: SnapshotCreateOptions,
): Promise<Snapshot> {
  const what = `cannot take a snapshot of ${JSON.stringify(path)}`;
  const image = await examine(file, header, path, what, options);
  const found = image.header;
  const taken = newSnapshot(image.entries, found, options);
  const tableBytes = refuseLongTable([...image.entries, entryOf(taken)], path);
  await addReferences(file, found, found, image.change.added, options.signal);
  image.change.refuseOverflow(what);
  return changing(file, path, options, async (stillOld) => {
    const l1Clusters = clustersOf(found, found.l1Entries * ENTRY_BYTES);
    const tableClusters = clustersOf(found, tableBytes);
    const { isBlockDevice } = options;
    const offset = await image.change.place(file, l1Clusters + tableClusters, isBlockDevice);
    const snapshot = { ...taken, l1Offset: l1Clusters === 0 ? 0 : offset };
    const entries = [...image.entries, entryOf(snapshot)];
    const tableOffset = offset + l1Clusters * found.clusterBytes;
    await copyL1(file, found, found, offset, found.l1Entries);
    await writeTable(file, found, entries, tableOffset);
    await writeCopied(file, found, found, () => false);
    await file.sync();
    await image.change.raise(file);
    stillOld.is = false;
    await switchSnapshots(file, entries.length, tableOffset);
    removeTable(image);
    await image.change.lower(file);
    return snapshot;
  });
}

/**
 * Makes the disk what it was when a snapshot was taken, of that size; it remains a snapshot. What
 * the disk was until now is lost. As with `qemu-img snapshot -a`, an id counts before a name, and
 * of several snapshots of one name it is the first.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT when there is none; ERR_SLUICE_UNSUPPORTED for an
 *   image with bitmaps, as with QEMU, and where refcounts cannot count it; ERR_SLUICE_CORRUPT
 */
export async function applySnapshot(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  idOrName: string,
  options: SnapshotEditOptions,
): Promise<Snapshot> {
  const what = `cannot apply a snapshot to ${JSON.stringify(path)}`;
  refuseBitmaps(header, what);
  const image = await examine(file, header, path, what, options);
  const { change, header: found } = image;
  const { snapshot } = findSnapshot(image.entries, idOrName, ['id', 'name'], path);
  const l1Entries = refuseSize(snapshot, found, what);
  await addReferences(file, found, snapshot, change.added, options.signal);
  await addReferences(file, found, found, change.removed, options.signal);
  change.cancel();
  change.refuseOverflow(what);
  change.remove(found.l1Offset, found.l1Entries * ENTRY_BYTES);
  return changing(file, path, options, async (stillOld) => {
    const clusters = clustersOf(found, l1Entries * ENTRY_BYTES);
    const l1Offset = await change.place(file, clusters, options.isBlockDevice);
    await copyL1(file, found, snapshot, l1Offset, l1Entries);
    await writeCopied(file, found, snapshot, () => false);
    await file.sync();
    await change.raise(file);
    stillOld.is = false;
    await switchDisk(file, found, snapshot.diskBytes, { l1Offset, l1Entries });
    await change.lower(file);
    return snapshot;
  });
}

/**
 * Deletes the first snapshot with this name; as with `qemu-img snapshot -d`, an id is no name.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT when there is none; ERR_SLUICE_CORRUPT
 */
export async function deleteSnapshot(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  name: string,
  options: SnapshotEditOptions,
): Promise<Snapshot> {
  const what = `cannot delete a snapshot of ${JSON.stringify(path)}`;
  const image = await examine(file, header, path, what, options);
  const { change, header: found } = image;
  const deleted = findSnapshot(image.entries, name, ['name'], path);
  const { snapshot } = deleted;
  await addReferences(file, found, snapshot, change.removed, options.signal);
  change.remove(snapshot.l1Offset, snapshot.l1Entries * ENTRY_BYTES);
  return changing(file, path, options, async (stillOld) => {
    const entries = image.entries.filter((entry) => entry !== deleted);
    const clusters = clustersOf(found, tableBytesOf(entries));
    const tableOffset = await change.place(file, clusters, options.isBlockDevice);
    await writeTable(file, found, entries, tableOffset);
    await file.sync();
    await change.raise(file);
    stillOld.is = false;
    await switchSnapshots(file, entries.length, tableOffset);
    removeTable(image);
    await change.lower(file);
    await writeCopied(file, found, found, (cluster) => change.refcounts[cluster] === 1);
    await file.sync();
    return snapshot;
  });
}

/** From the first write on. */
async function changing(
  file: ImageFile,
  path: string,
  options: SnapshotEditOptions,
  work: (stillOld: { is: boolean }) => Promise<Snapshot>,
): Promise<Snapshot> {
  options.signal?.throwIfAborted();
  const stillOld = { is: true };
  try {
    await makeWritable(file, await readHeader(file, path), path, options.notice ?? ignore);
    return await work(stillOld);
  } catch (error) {
    if (stillOld.is && !isFailedSync(error)) await Promise.allSettled([undo(file, path)]);
    throw error;
  }
}

function ignore(): void {}

/** S6: the refcounts and flags that belong to what the header names. */
async function undo(file: ImageFile, path: string): Promise<void> {
  await repairImage(file, await readHeader(file, path), 'leaks');
}

/** QEMU refuses it as well: nothing says what of the disk has changed. */
function refuseBitmaps({ bitmaps }: Qcow2Header, what: string): void {
  if (bitmaps?.consistent !== true) return;
  const found = `it has ${bitmaps.count} bitmaps, which would not say what has changed`;
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${what}: ${found}; remove them first`);
}

/** The entries of the L1 table afterwards: it does not become shorter. */
function refuseSize({ l1Entries, diskBytes }: Snapshot, header: Qcow2Header, what: string): number {
  if (header.version === 2 && diskBytes !== header.sizeBytes) {
    const sizes = `it has ${diskBytes} bytes, the disk ${header.sizeBytes}`;
    const rule = 'the disk of an image of version 2 keeps its size while it has snapshots';
    throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${what}: ${sizes}; ${rule}`);
  }
  const entries = Math.max(header.l1Entries, l1Entries, l1EntriesFor(header, diskBytes));
  if (entries * ENTRY_BYTES <= L1_BYTES_MAX) return entries;
  const found = `its disk of ${diskBytes} bytes needs an L1 table of ${entries * ENTRY_BYTES}`;
  throw new SluiceError('ERR_SLUICE_CORRUPT', `${what}: ${found}, more than ${L1_BYTES_MAX}`);
}

function clustersOf({ clusterBytes }: Qcow2Header, lengthBytes: number): number {
  return Math.ceil(lengthBytes / clusterBytes);
}

/** Writes a snapshot table with what is left of its last cluster. */
async function writeTable(
  file: ImageFile,
  header: Qcow2Header,
  entries: readonly SnapshotEntry[],
  offset: number,
): Promise<void> {
  const clusters = clustersOf(header, tableBytesOf(entries));
  const table = new Uint8Array(clusters * header.clusterBytes);
  let at = 0;
  for (const { bytes } of entries) {
    table.set(bytes, at);
    at += bytes.length;
  }
  if (clusters > 0) await file.write(offset, table);
}

/** The table that there was is not needed any more. */
function removeTable({ header, entries, change }: Examined): void {
  change.remove(header.snapshotsOffset, tableBytesOf(entries));
}

/** S2. The two fields stand beside each other in one sector. */
async function switchSnapshots(file: ImageFile, count: number, offset: number): Promise<void> {
  const length = HEADER_SNAPSHOTS_OFFSET + ENTRY_BYTES - HEADER_NB_SNAPSHOTS;
  const fields = new DataView(new ArrayBuffer(length));
  fields.setUint32(0, count);
  fields.setBigUint64(HEADER_SNAPSHOTS_OFFSET - HEADER_NB_SNAPSHOTS, BigInt(offset));
  await file.write(HEADER_NB_SNAPSHOTS, new Uint8Array(fields.buffer));
  await file.sync();
}

/** S2. From the size of the disk to the offset of its L1 table; stable. */
export async function switchDisk(
  file: ImageFile,
  { sizeBytes }: Qcow2Header,
  diskBytes: number,
  { l1Offset, l1Entries }: { readonly l1Offset: number; readonly l1Entries: number },
): Promise<void> {
  const length = HEADER_L1_TABLE_OFFSET + ENTRY_BYTES - HEADER_SIZE;
  const bytes = await file.read(HEADER_SIZE, length);
  const fields = new DataView(bytes.buffer, bytes.byteOffset, length);
  // A part of a sector at the end does not count, and stays.
  if (diskBytes !== sizeBytes) fields.setBigUint64(0, BigInt(diskBytes));
  fields.setUint32(HEADER_L1_SIZE - HEADER_SIZE, l1Entries);
  fields.setBigUint64(HEADER_L1_TABLE_OFFSET - HEADER_SIZE, BigInt(l1Offset));
  await file.write(HEADER_SIZE, bytes);
  await file.sync();
}
