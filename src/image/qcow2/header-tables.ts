/** Where the header says that the tables are. */
import {
  HEADER_L1_SIZE,
  HEADER_L1_TABLE_OFFSET,
  HEADER_NB_SNAPSHOTS,
  HEADER_REFCOUNT_TABLE_CLUSTERS,
  HEADER_REFCOUNT_TABLE_OFFSET,
  HEADER_SNAPSHOTS_OFFSET,
  L1_BYTES_MAX,
  L2_ENTRY_BYTES,
  REFCOUNT_TABLE_BYTES_MAX,
  SNAPSHOTS_MAX,
} from '../../abi/qcow2.ts';
import type { HeaderStart } from './header-start.ts';

/** The parts of Qcow2Header that name tables. */
export interface HeaderTables {
  readonly l1Entries: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  /** May be 0, in a damaged image. */
  readonly refcountTableClusters: number;
  /** How many there are. */
  readonly snapshots: number;
  readonly snapshotsOffset: number;
}

/** The tables of a disk that needs so many L1 entries. */
export function tablesOf(start: HeaderStart, neededEntries: number): HeaderTables {
  return { ...l1Of(start, neededEntries), ...refcountTableOf(start), ...snapshotsOf(start) };
}

function l1Of({ header, clusterBytes }: HeaderStart, neededEntries: number) {
  const l1Entries = header.u32(HEADER_L1_SIZE);
  const l1Bytes = l1Entries * L2_ENTRY_BYTES;
  if (l1Bytes > L1_BYTES_MAX) {
    const found = `the L1 table has ${l1Bytes} bytes, more than ${L1_BYTES_MAX}`;
    throw header.refusal(HEADER_L1_SIZE, found);
  }
  if (l1Entries < neededEntries) {
    const found = `the L1 table has ${l1Entries} entries; the disk needs ${neededEntries}`;
    throw header.refusal(HEADER_L1_SIZE, found);
  }
  const name = 'the offset of the L1 table';
  const l1Offset = header.tableOffset(HEADER_L1_TABLE_OFFSET, name, clusterBytes, l1Bytes);
  return { l1Entries, l1Offset };
}

function refcountTableOf({ header, clusterBytes }: HeaderStart) {
  const refcountTableClusters = header.u32(HEADER_REFCOUNT_TABLE_CLUSTERS);
  const bytes = refcountTableClusters * clusterBytes;
  if (bytes > REFCOUNT_TABLE_BYTES_MAX) {
    const found = `the refcount table has ${bytes} bytes, more than ${REFCOUNT_TABLE_BYTES_MAX}`;
    throw header.refusal(HEADER_REFCOUNT_TABLE_CLUSTERS, found);
  }
  const at = HEADER_REFCOUNT_TABLE_OFFSET;
  const name = 'the offset of the refcount table';
  const refcountTableOffset = header.tableOffset(at, name, clusterBytes, bytes);
  return { refcountTableOffset, refcountTableClusters };
}

function snapshotsOf({ header, clusterBytes }: HeaderStart) {
  const snapshots = header.u32(HEADER_NB_SNAPSHOTS);
  if (snapshots > SNAPSHOTS_MAX) {
    const found = `there are ${snapshots} snapshots, more than ${SNAPSHOTS_MAX}`;
    throw header.refusal(HEADER_NB_SNAPSHOTS, found);
  }
  const name = 'the offset of the snapshot table';
  const snapshotsOffset = header.tableOffset(HEADER_SNAPSHOTS_OFFSET, name, clusterBytes);
  return { snapshots, snapshotsOffset };
}
