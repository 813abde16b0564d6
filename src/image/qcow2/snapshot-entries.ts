/** The entries of the snapshot table as they are written; what is not known of one is kept. */
import {
  SNAPSHOT_DATE_NANOSECONDS,
  SNAPSHOT_DATE_SECONDS,
  SNAPSHOT_ENTRY_BYTES,
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
  SNAPSHOTS_MAX,
} from '../../abi/qcow2.ts';
import { SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import type { Qcow2Header } from './header.ts';
import { readSnapshotTable, type Snapshot } from './snapshot-table.ts';

/** A snapshot, and the bytes of its entry with their padding. */
export interface SnapshotEntry {
  readonly snapshot: Snapshot;
  readonly bytes: Uint8Array;
}

/** QEMU: of a name, without the final NUL. */
const NAME_BYTES_MAX = 255;
const ENTRY_ALIGNMENT = 8;
/** Machine state, disk size, instructions: what QEMU writes, in version 2 as well. */
const EXTRA_BYTES = SNAPSHOT_EXTRA_ICOUNT + 8;
const SECONDS_MAX = 2 ** 32 - 1;
/** In an error. */
const NAMED_MAX = 5;
/** Also halves of surrogate pairs, which UTF-8 does not have. */
const NOT_IN_NAMES = /[\p{Cc}\p{Cs}\uFFFD]/u;

/**
 * Reads the table, to write another one from it.
 * @throws SluiceError ERR_SLUICE_CORRUPT when a part of it is not as it must be
 */
export async function readSnapshotEntries(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
): Promise<SnapshotEntry[]> {
  const { snapshots, lengthBytes, problem } = await readSnapshotTable(file, header, path);
  if (problem !== undefined) {
    const message = `cannot change the snapshots of ${JSON.stringify(path)}: ${problem}`;
    throw new SluiceError('ERR_SLUICE_CORRUPT', `${message}; check and repair the image`, { path });
  }
  const offset = header.snapshotsOffset;
  const table = new Uint8Array(lengthBytes);
  // The padding of the last entry may not be in the file.
  const thereBytes = Math.max(0, Math.min(lengthBytes, file.sizeBytes - offset));
  if (thereBytes > 0) table.set(await file.read(offset, thereBytes));
  let at = 0;
  return snapshots.map((snapshot) => {
    const bytes = table.subarray(at, at + entryBytes(table, at));
    at += bytes.length;
    return { snapshot, bytes };
  });
}

function entryBytes(table: Uint8Array, at: number): number {
  const entry = new DataView(table.buffer, at, SNAPSHOT_ENTRY_BYTES);
  const texts = entry.getUint16(SNAPSHOT_ID_SIZE) + entry.getUint16(SNAPSHOT_NAME_SIZE);
  return padded(SNAPSHOT_ENTRY_BYTES + entry.getUint32(SNAPSHOT_EXTRA_SIZE) + texts);
}

function padded(lengthBytes: number): number {
  return Math.ceil(lengthBytes / ENTRY_ALIGNMENT) * ENTRY_ALIGNMENT;
}

/** The entry of a snapshot that says nothing but what is in `snapshot`. */
export function entryOf(snapshot: Snapshot): SnapshotEntry {
  const id = new TextEncoder().encode(snapshot.id);
  const name = new TextEncoder().encode(snapshot.name);
  const textAt = SNAPSHOT_ENTRY_BYTES + EXTRA_BYTES;
  const bytes = new Uint8Array(padded(textAt + id.length + name.length));
  const entry = new DataView(bytes.buffer);
  entry.setBigUint64(SNAPSHOT_L1_OFFSET, BigInt(snapshot.l1Offset));
  entry.setUint32(SNAPSHOT_L1_SIZE, snapshot.l1Entries);
  entry.setUint16(SNAPSHOT_ID_SIZE, id.length);
  entry.setUint16(SNAPSHOT_NAME_SIZE, name.length);
  entry.setUint32(SNAPSHOT_DATE_SECONDS, snapshot.dateSeconds);
  entry.setUint32(SNAPSHOT_DATE_NANOSECONDS, snapshot.dateNanoseconds);
  entry.setBigUint64(SNAPSHOT_VM_CLOCK, snapshot.vmClockNanoseconds);
  entry.setUint32(SNAPSHOT_EXTRA_SIZE, EXTRA_BYTES);
  const extra = new DataView(bytes.buffer, SNAPSHOT_ENTRY_BYTES, EXTRA_BYTES);
  extra.setBigUint64(SNAPSHOT_EXTRA_VM_STATE_SIZE, BigInt(snapshot.vmStateBytes));
  extra.setBigUint64(SNAPSHOT_EXTRA_DISK_SIZE, BigInt(snapshot.diskBytes));
  extra.setBigInt64(SNAPSHOT_EXTRA_ICOUNT, snapshot.instructions);
  bytes.set(id, textAt);
  bytes.set(name, textAt + id.length);
  return { snapshot, bytes };
}

/** A snapshot of the disk as it is, without the state of a machine; its L1 table has no place. */
export function newSnapshot(
  entries: readonly SnapshotEntry[],
  { l1Entries, sizeBytes }: Qcow2Header,
  { name, date = new Date() }: { readonly name: string; readonly date?: Date | undefined },
): Snapshot {
  refuseName(name);
  const ms = date.getTime();
  const dateSeconds = Math.floor(ms / 1000);
  if (!(dateSeconds >= 0 && dateSeconds <= SECONDS_MAX)) {
    throw invalid(`the date of a snapshot must be from 1970 to 2106, not ${String(ms)} ms`);
  }
  return {
    id: nextId(entries),
    name,
    l1Offset: 0,
    l1Entries,
    dateSeconds,
    dateNanoseconds: (ms - dateSeconds * 1000) * 1_000_000,
    vmClockNanoseconds: 0n,
    vmStateBytes: 0,
    diskBytes: sizeBytes,
    // As qemu-img: nobody has counted, and it says 0.
    instructions: 0n,
    extraBytes: EXTRA_BYTES,
  };
}

/** One more than the highest; a text that begins with no digit counts as 0. */
function nextId(entries: readonly SnapshotEntry[]): string {
  let highest = 0n;
  for (const { snapshot } of entries) {
    const id = BigInt(/^\d+/.exec(snapshot.id)?.[0] ?? 0);
    if (id > highest) highest = id;
  }
  return String(highest + 1n);
}

function refuseName(name: string): void {
  const { length } = new TextEncoder().encode(name);
  if (length === 0 || length > NAME_BYTES_MAX) {
    const rule = `it must have 1 to ${NAME_BYTES_MAX}`;
    throw invalid(`the name of a snapshot has ${length} bytes of UTF-8; ${rule}`);
  }
  if (!NOT_IN_NAMES.test(name)) return;
  throw invalid('the name of a snapshot has control characters, or is not a text; leave them out');
}

/** The length of a table; one that QEMU would not read is refused. */
export function refuseLongTable(entries: readonly SnapshotEntry[], path: string): number {
  const bytes = tableBytesOf(entries);
  if (entries.length <= SNAPSHOTS_MAX && bytes <= SNAPSHOT_TABLE_BYTES_MAX) return bytes;
  const found = `its table would have ${entries.length} snapshots in ${bytes} bytes`;
  const rule = `at most ${SNAPSHOTS_MAX} in ${SNAPSHOT_TABLE_BYTES_MAX} are allowed`;
  const message = `cannot take a snapshot of ${JSON.stringify(path)}: ${found}; ${rule}`;
  const advice = 'delete some that are not needed any more';
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${message}; ${advice}`, { path });
}

/** The length of a table of these entries. */
export function tableBytesOf(entries: readonly SnapshotEntry[]): number {
  return entries.reduce((sum, { bytes }) => sum + bytes.length, 0);
}

/** What a snapshot is looked for by. */
export type SnapshotKey = 'id' | 'name';

/**
 * The first snapshot with the first key, or else with the next one.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT when there is none
 */
export function findSnapshot(
  entries: readonly SnapshotEntry[],
  wanted: string,
  keys: readonly SnapshotKey[],
  path: string,
): SnapshotEntry {
  for (const key of keys) {
    const found = entries.find(({ snapshot }) => snapshot[key] === wanted);
    if (found !== undefined) return found;
  }
  const by = keys.map((key) => `${key} ${JSON.stringify(wanted)}`).join(' or ');
  const names = entries.slice(0, NAMED_MAX).map(({ snapshot: { id, name } }) => `${id} (${name})`);
  const more = entries.length > names.length ? ', ...' : '';
  const there = names.length === 0 ? 'it has none' : `it has ${names.join(', ')}${more}`;
  throw invalid(`${JSON.stringify(path)} has no snapshot with the ${by}; ${there}`);
}

function invalid(message: string): SluiceError {
  return new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', message);
}
