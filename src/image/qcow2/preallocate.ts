/**
 * Clusters for what a disk is to have more, before it has it (resizing.ts).
 *
 *     a run of clusters, counted ─▶ room for its data ─▶ stable ─▶ tables in it, entries of the
 *         last table ─▶ stable ─▶ the L1 entries ─▶ stable ─▶ tables of snapshots are let go
 *
 * N1 A cluster reads as zeroes before an entry names it: the run lies behind the end of the file,
 *    or it is written. What is not, and may be noise, is said to read as zeroes.
 * N2 Entries are written behind the end of the disk, so a cut changes nothing that is seen. What
 *    has a cluster there already keeps it.
 * N3 A table that a snapshot has too is copied.
 * N4 Where there is no room for the data, the file is cut to what it was.
 */
import {
  ENTRY_COPIED_BIT,
  ENTRY_ZERO_BIT,
  EXTENDED_L2_ENTRY_BYTES,
  L2_ENTRY_BYTES,
} from '../../abi/qcow2.ts';
import { type ImageFile, isFailedSync } from '../image-file.ts';
import type { Qcow2Header } from './header.ts';
import { ImageClusters } from './image-clusters.ts';

/** What is preallocated, and how. */
export interface PreallocateOptions {
  /** Of the disk as it will be; its L1 table is long enough. */
  readonly sizeBytes: number;
  /** The data is written, encrypted where the image is. */
  readonly isWritten: boolean;
  readonly isBlockDevice: boolean;
  readonly refcountTableEntriesMax?: number;
  /** Makes room in the file of the data, from an offset to another, and makes it stable. */
  fill(from: number, to: number): Promise<void>;
}

/** A table of which entries get clusters, as it is. */
interface Table {
  readonly l1Index: number;
  /** 0: there is none. */
  readonly offset: number;
  /** It is this disk's alone. */
  readonly isOwn: boolean;
  readonly bytes: DataView;
  /** Guest clusters from `from` up to `to`. */
  readonly from: number;
  readonly to: number;
}

const COPIED = 1n << BigInt(ENTRY_COPIED_BIT);
const ZERO = 1n << BigInt(ENTRY_ZERO_BIT);
const OFFSET = 0x00ff_ffff_ffff_fe00n;
/** Subclusters of an extended entry: all data, all zeroes. */
const ALL_DATA = 0x0000_0000_ffff_ffffn;
const ALL_ZERO = 0xffff_ffff_0000_0000n;

/** Gives clusters to what lies between the disk's end and that of the new size. */
export async function preallocate(
  file: ImageFile,
  header: Qcow2Header,
  options: PreallocateOptions,
): Promise<void> {
  const { clusterBytes, dataFile } = header;
  const { isBlockDevice, refcountTableEntriesMax } = options;
  const range = clustersBetween(header, options.sizeBytes);
  let wanted = 0;
  let tables = 0;
  for await (const table of tablesOf(file, header, range)) {
    if (!table.isOwn) tables += 1;
    if (dataFile === undefined) wanted += missingIn(header, table).length;
  }
  const clusters = await ImageClusters.of(file, header, isBlockDevice, refcountTableEntriesMax);
  const count = tables + wanted;
  const run = count === 0 ? 0 : await clusters.takeRun(count);
  const data = run + tables * clusterBytes;
  try {
    if (dataFile === undefined) await options.fill(data, data + wanted * clusterBytes);
    else await options.fill(range.from * clusterBytes, range.to * clusterBytes);
  } catch (error) {
    if (!isBlockDevice && count > 0 && !isFailedSync(error)) await file.truncate(run);
    throw error;
  }
  await link(file, header, range, { tables: run, data, isWritten: options.isWritten }, clusters);
}

/** The first clusters of the run, by what they are for. */
interface Run {
  readonly tables: number;
  readonly data: number;
  readonly isWritten: boolean;
}

/** N1 to N3. */
async function link(
  file: ImageFile,
  header: Qcow2Header,
  range: Clusters,
  run: Run,
  clusters: ImageClusters,
): Promise<void> {
  const { clusterBytes, dataFile, l1Offset } = header;
  const pointers: { readonly l1Index: number; readonly offset: number }[] = [];
  const shared: number[] = [];
  let { tables: nextTable, data: nextData } = run;
  for await (const table of tablesOf(file, header, range)) {
    const { l1Index, offset: found, isOwn, bytes } = table;
    for (const guest of missingIn(header, table)) {
      setEntry(header, table, guest, dataFile === undefined ? nextData : guest * clusterBytes, run);
      nextData += clusterBytes;
    }
    const offset = isOwn ? found : nextTable;
    // Of a table in use what lies before stays as it is.
    const first = isOwn ? placeIn(header, table.from) : 0;
    await file.write(offset + first, new Uint8Array(bytes.buffer, first));
    if (isOwn) continue;
    nextTable += clusterBytes;
    pointers.push({ l1Index, offset });
    if (found !== 0) shared.push(found);
  }
  await file.sync();
  for (const { l1Index, offset } of pointers) {
    const entry = new DataView(new ArrayBuffer(L2_ENTRY_BYTES));
    entry.setBigUint64(0, BigInt(offset) | COPIED);
    await file.write(l1Offset + l1Index * L2_ENTRY_BYTES, new Uint8Array(entry.buffer));
  }
  if (pointers.length > 0) await file.sync();
  for (const offset of shared) await clusters.release(offset, 1);
  if (shared.length > 0) await file.sync();
}

/** Guest clusters, from one up to another. */
interface Clusters {
  readonly from: number;
  readonly to: number;
}

/** The cluster that the old end goes through is new where it shows nothing but zeroes. */
function clustersBetween(header: Qcow2Header, sizeBytes: number): Clusters {
  const { clusterBytes, backing, dataFile } = header;
  const end = header.sizeBytes / clusterBytes;
  const showsMore = backing !== undefined || dataFile !== undefined;
  return {
    from: showsMore ? Math.ceil(end) : Math.floor(end),
    to: Math.ceil(sizeBytes / clusterBytes),
  };
}

/** The tables with entries in the range that have no cluster. */
async function* tablesOf(
  file: ImageFile,
  header: Qcow2Header,
  { from, to }: Clusters,
): AsyncGenerator<Table> {
  const { clusterBytes, l2Entries, l1Offset } = header;
  for (let at = from; at < to;) {
    const l1Index = Math.floor(at / l2Entries);
    const end = Math.min(to, (l1Index + 1) * l2Entries);
    const pointer = viewOf(await file.read(l1Offset + l1Index * L2_ENTRY_BYTES, L2_ENTRY_BYTES));
    const entry = pointer.getBigUint64(0);
    const offset = Number(entry & OFFSET);
    const there =
      offset === 0 ? new Uint8Array(clusterBytes) : await file.read(offset, clusterBytes);
    const isOwn = offset !== 0 && (entry & COPIED) !== 0n;
    const table = { l1Index, offset, isOwn, bytes: viewOf(there), from: at, to: end };
    if (missingIn(header, table).length > 0) yield table;
    at = end;
  }
}

function missingIn(header: Qcow2Header, table: Table): number[] {
  const missing: number[] = [];
  for (let guest = table.from; guest < table.to; guest++) {
    const entry = table.bytes.getBigUint64(placeIn(header, guest));
    if ((entry & ~ZERO) === 0n) missing.push(guest);
  }
  return missing;
}

function setEntry(
  header: Qcow2Header,
  { bytes }: Table,
  guest: number,
  offset: number,
  { isWritten }: Run,
): void {
  const { extendedL2, encryption, dataFile } = header;
  const at = placeIn(header, guest);
  const isZero = dataFile?.raw !== true && (extendedL2 || (encryption !== undefined && !isWritten));
  const flag = isZero && !extendedL2 ? ZERO : 0n;
  bytes.setBigUint64(at, BigInt(offset) | COPIED | flag);
  if (extendedL2) bytes.setBigUint64(at + L2_ENTRY_BYTES, isZero ? ALL_ZERO : ALL_DATA);
}

/** Where the entry of a guest cluster stands in its table. */
function placeIn({ extendedL2, l2Entries }: Qcow2Header, guest: number): number {
  return (guest % l2Entries) * (extendedL2 ? EXTENDED_L2_ENTRY_BYTES : L2_ENTRY_BYTES);
}

/** A copy of the bytes: they may be a part of something. */
function viewOf(bytes: Uint8Array): DataView {
  return new DataView(new Uint8Array(bytes).buffer);
}
