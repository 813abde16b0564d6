/**
 * The table of internal snapshots.
 *
 * The disk itself does not need it. So what makes a snapshot unusable is reported as a `problem`,
 * with which the disk opens and snapshot operations are refused; only what breaks a limit that
 * keeps the reading itself bounded is thrown.
 */
import {
  L1_BYTES_MAX,
  L2_ENTRY_BYTES,
  SNAPSHOT_DATE_NANOSECONDS,
  SNAPSHOT_DATE_SECONDS,
  SNAPSHOT_ENTRY_BYTES,
  SNAPSHOT_EXTRA_BYTES_MAX,
  SNAPSHOT_EXTRA_DISK_SIZE,
  SNAPSHOT_EXTRA_ICOUNT,
  SNAPSHOT_EXTRA_SIZE,
  SNAPSHOT_EXTRA_VM_STATE_SIZE,
  SNAPSHOT_ID_SIZE,
  SNAPSHOT_L1_OFFSET,
  SNAPSHOT_L1_SIZE,
  SNAPSHOT_NAME_SIZE,
  SNAPSHOT_TABLE_BYTES_MAX,
  SNAPSHOT_VM_CLOCK,
  SNAPSHOT_VM_STATE_SIZE,
} from '../../abi/qcow2.ts';
import type { ImageFile } from '../image-file.ts';
import { Fields, hex } from './fields.ts';
import type { Qcow2Header } from './header.ts';

/** One internal snapshot. */
export interface Snapshot {
  readonly id: string;
  readonly name: string;
  /** Inexact when it is past 2^53; `problem` says so. */
  readonly l1Offset: number;
  readonly l1Entries: number;
  readonly dateSeconds: number;
  readonly dateNanoseconds: number;
  readonly vmClockNanoseconds: bigint;
  readonly vmStateBytes: number;
  /** Of the disk when it was taken; the image's own where the table does not say. */
  readonly diskBytes: number;
  /** Instructions that the guest had executed; -1: not counted. */
  readonly instructions: bigint;
  /** Of the extra data; version 3 wants at least 16. */
  readonly extraBytes: number;
  /** Why it cannot be used. */
  readonly problem?: string;
}

/** The snapshots of an image, in the order of the table. */
export interface SnapshotTable {
  /** Those before the end of the file, if it comes too early. */
  readonly snapshots: readonly Snapshot[];
  /** Of the entries in `snapshots`, with their padding. */
  readonly lengthBytes: number;
  /** The first thing that is wrong: of the table, or of a snapshot. */
  readonly problem?: string;
}

const FIRST_READ_BYTES = 65536;
const READ_GROWTH = 4;
const NOT_COUNTED = -1n;
const NOTHING = new Uint8Array(0);

/**
 * Reads the table; at most SNAPSHOT_TABLE_BYTES_MAX of it.
 * @throws SluiceError ERR_SLUICE_IMAGE
 */
export async function readSnapshotTable(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
): Promise<SnapshotTable> {
  const { snapshotsOffset: offset } = header;
  const thereBytes = header.snapshots === 0 ? 0 : bytesThere(file.sizeBytes, offset);
  for (let length = FIRST_READ_BYTES; ; length *= READ_GROWTH) {
    const bytes =
      thereBytes === 0 ? NOTHING : await file.read(offset, Math.min(length, thereBytes));
    const table = parseSnapshotTable(bytes, header, file.sizeBytes, path);
    if (table.snapshots.length === header.snapshots || length >= thereBytes) return table;
  }
}

/**
 * The table in these bytes of a file of `fileBytes`: they begin at `header.snapshotsOffset`, and
 * the table is cut off where they end.
 */
export function parseSnapshotTable(
  bytes: Uint8Array,
  header: Qcow2Header,
  fileBytes: number,
  path: string,
): SnapshotTable {
  const source = { path, what: 'the snapshot table', offset: header.snapshotsOffset };
  const table = new Fields(bytes, source);
  const snapshots: Snapshot[] = [];
  let at = 0;
  while (snapshots.length < header.snapshots) {
    const end = entryEnd(table, at, snapshots.length);
    if (end > bytes.length) {
      const found = `it ends inside entry ${snapshots.length} of ${header.snapshots}`;
      return { snapshots, lengthBytes: at, problem: table.describe(at, found) };
    }
    snapshots.push(snapshotAt(table, at, header, fileBytes));
    at = Math.ceil(end / 8) * 8;
  }
  const problem = snapshots.find((snapshot) => snapshot.problem !== undefined)?.problem;
  return { snapshots, lengthBytes: at, ...(problem === undefined ? {} : { problem }) };
}

/** Bytes that the table can have: of the file, and by the limit. */
function bytesThere(fileBytes: number, offset: number): number {
  return Math.max(0, Math.min(fileBytes - offset, SNAPSHOT_TABLE_BYTES_MAX));
}

/** Where the entry ends, without its padding; past the table's end when it is cut off. */
function entryEnd(table: Fields, at: number, index: number): number {
  const fixedEnd = at + SNAPSHOT_ENTRY_BYTES;
  if (fixedEnd > table.bytes.length) return fixedEnd;
  const extraBytes = table.u32(at + SNAPSHOT_EXTRA_SIZE);
  if (extraBytes > SNAPSHOT_EXTRA_BYTES_MAX) {
    const found = `entry ${index} has ${extraBytes} bytes of extra data`;
    const rule = `at most ${SNAPSHOT_EXTRA_BYTES_MAX} can be read`;
    throw table.refusal(at + SNAPSHOT_EXTRA_SIZE, `${found}; ${rule}`);
  }
  const texts = table.u16(at + SNAPSHOT_ID_SIZE) + table.u16(at + SNAPSHOT_NAME_SIZE);
  return fixedEnd + extraBytes + texts;
}

function snapshotAt(table: Fields, at: number, header: Qcow2Header, fileBytes: number): Snapshot {
  const extraBytes = table.u32(at + SNAPSHOT_EXTRA_SIZE);
  const idAt = at + SNAPSHOT_ENTRY_BYTES + extraBytes;
  const idBytes = table.u16(at + SNAPSHOT_ID_SIZE);
  const id = table.label(idAt, idBytes);
  const name = table.label(idAt + idBytes, table.u16(at + SNAPSHOT_NAME_SIZE));
  const l1Offset = Number(table.u64(at + SNAPSHOT_L1_OFFSET));
  const l1Entries = table.u32(at + SNAPSHOT_L1_SIZE);
  const extra = extraOf(table, at, extraBytes, header.sizeBytes);
  const found =
    l1Problem(l1Offset, l1Entries * L2_ENTRY_BYTES, header.clusterBytes, fileBytes) ??
    sizeProblem(extra) ??
    (id.isWhole && name.isWhole ? undefined : 'its id or name is not a text');
  const problem = found && table.describe(at, `snapshot ${JSON.stringify(name.text)}: ${found}`);
  return {
    id: id.text,
    name: name.text,
    l1Offset,
    l1Entries,
    dateSeconds: table.u32(at + SNAPSHOT_DATE_SECONDS),
    dateNanoseconds: table.u32(at + SNAPSHOT_DATE_NANOSECONDS),
    vmClockNanoseconds: table.u64(at + SNAPSHOT_VM_CLOCK),
    ...extra,
    ...(problem === undefined ? {} : { problem }),
  };
}

/** What the extra data says, each field where it is long enough. */
function extraOf(table: Fields, at: number, extraBytes: number, sizeBytes: number) {
  const from = at + SNAPSHOT_ENTRY_BYTES;
  const has = (offset: number): boolean => extraBytes >= offset + 8;
  const field = (offset: number): bigint => table.u64(from + offset);
  return {
    vmStateBytes: has(SNAPSHOT_EXTRA_VM_STATE_SIZE)
      ? Number(field(SNAPSHOT_EXTRA_VM_STATE_SIZE))
      : table.u32(at + SNAPSHOT_VM_STATE_SIZE),
    diskBytes: has(SNAPSHOT_EXTRA_DISK_SIZE) ? Number(field(SNAPSHOT_EXTRA_DISK_SIZE)) : sizeBytes,
    instructions: has(SNAPSHOT_EXTRA_ICOUNT)
      ? BigInt.asIntN(64, field(SNAPSHOT_EXTRA_ICOUNT))
      : NOT_COUNTED,
    extraBytes,
  };
}

function sizeProblem({ vmStateBytes, diskBytes }: { vmStateBytes: number; diskBytes: number }) {
  if (Number.isSafeInteger(vmStateBytes) && Number.isSafeInteger(diskBytes)) return undefined;
  return `its disk has ${diskBytes} bytes, its machine state ${vmStateBytes}; 2^53 is too much`;
}

function l1Problem(offset: number, length: number, clusterBytes: number, fileBytes: number) {
  const name = `its L1 table at ${hex(offset)} has ${length} bytes`;
  if (length > L1_BYTES_MAX) return `${name}, more than ${L1_BYTES_MAX}`;
  if (offset % clusterBytes !== 0) {
    return `${name}; it must begin at a multiple of the cluster size, ${clusterBytes}`;
  }
  if (offset + length <= fileBytes) return undefined;
  return `${name} and passes the end of the file, which has ${fileBytes} bytes`;
}
