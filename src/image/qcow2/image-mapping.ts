/** The mapping of an opened image: limits, and the tables that the engine begins with. */
import * as abi from '../../abi/map.ts';
import { L1_BYTES_MAX, L2_ENTRY_BYTES, REFCOUNT_TABLE_BYTES_MAX } from '../../abi/qcow2.ts';
import type { Backend } from '../../backend/backend.ts';
import { diskOver } from '../../disk-geometry.ts';
import type { Mapping } from '../../mapping.ts';
import type { ImageFile } from '../image-file.ts';
import { readBitmapDirectory } from './bitmap-directory.ts';
import type { Qcow2Header } from './header.ts';
import { l1EntriesFor } from './header-layout.ts';
import { type ByteRange, createMapping, type Granules } from './map-region.ts';
import type { Qcow2Options } from './open.ts';
import { readSnapshotTable } from './snapshot-table.ts';

const HEADER_COPY_BYTES = 512;
const L1_ENTRIES_MAX = L1_BYTES_MAX / L2_ENTRY_BYTES;
/** What is kept of refcount blocks: an eighth of what is kept of L2 tables, and at least this. */
const REFCOUNT_SLICES_MIN = 32;
const L2_SLICES_MIN = 64;
const REFCOUNT_SHARE = 8;
const BUFFER_BYTES = 4 * 1024 * 1024;
const BUFFERS_MIN = 4;
const BUFFERS_MAX = 64;
const RESERVE_BYTES = 64 * 1024 * 1024;
const RESERVE_CLUSTERS_MIN = 16;
const RESERVE_CLUSTERS_MAX = 4096;
const MICROS_PER_MS = 1000;
const BITS_PER_BYTE = 8;

/** Room for the tables of an image in memory, for as long as it is open. */
export interface TableRoom {
  readonly l1Entries: number;
  readonly refcountTableEntries: number;
  readonly l2Slices: number;
  readonly refcountSlices: number;
}

/** Room for the tables when the disk has grown to `sizeBytes`. */
export function roomFor(
  header: Qcow2Header,
  fileBytes: number,
  sizeBytes: number,
  cacheBytes: number,
): TableRoom {
  const grown = { ...header, sizeBytes };
  return {
    l1Entries: Math.max(
      header.l1Entries,
      Math.min(l1EntriesFor(header, sizeBytes), L1_ENTRIES_MAX),
    ),
    refcountTableEntries: tableRoom(grown, fileBytes),
    ...cacheOf(grown, cacheBytes),
  };
}

/** Reads the tables of an image, and says what the engine is to keep of it in memory. */
export async function mappingOf(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  files: readonly (Backend | undefined)[],
  options: Qcow2Options,
  granules: Granules | undefined,
  room: TableRoom,
): Promise<Mapping> {
  const { clusterBits, clusterBytes, l1Offset, l1Entries } = header;
  const { refcountTableOffset, refcountTableClusters } = header;
  const image = files[abi.FILE_IMAGE];
  const data = files[abi.FILE_DATA];
  const backingBytes = files[abi.FILE_BACKING]?.sizeBytes ?? 0;
  const written = diskOver(data === undefined ? [image] : [image, data]);
  const blockSizeBytes = Math.max(
    written.blockSizeBytes,
    files[abi.FILE_CIPHERED]?.blockSizeBytes ?? 1,
  );
  const geometry = { ...written, blockSizeBytes, sizeBytes: header.sizeBytes };
  const map = {
    clusterBits,
    flags: flagsOf(header, files, written.readOnly, written.unmaps),
    refcountOrder: header.refcountOrder,
    l1Offset,
    refcountTableOffset,
    refcountTableRoom: room.refcountTableEntries,
    l1Room: room.l1Entries,
    fileBytes: file.sizeBytes,
    backingBytes,
    l2Slices: room.l2Slices,
    refcountSlices: room.refcountSlices,
    buffers: clamp(Math.floor(BUFFER_BYTES / clusterBytes), BUFFERS_MIN, BUFFERS_MAX),
    flushIntervalMicros: options.flushIntervalMs * MICROS_PER_MS,
    reserveClusters: clamp(
      Math.floor(RESERVE_BYTES / clusterBytes),
      RESERVE_CLUSTERS_MIN,
      RESERVE_CLUSTERS_MAX,
    ),
    header: await file.read(0, HEADER_COPY_BYTES),
    l1: await file.read(l1Offset, l1Entries * L2_ENTRY_BYTES),
    refcountTable: await readTable(file, refcountTableOffset, refcountTableClusters * clusterBytes),
    ranges: await rangesOf(file, header, path),
    granules,
  };
  return createMapping(map, geometry, data === undefined ? 1 : 2, options.disk.module);
}

function flagsOf(
  { version, extendedL2, dataFile }: Qcow2Header,
  files: readonly (Backend | undefined)[],
  readOnly: boolean,
  unmaps: boolean,
): number {
  const flags: readonly (readonly [boolean, number])[] = [
    [version === 2, abi.MAP_VERSION_2],
    [extendedL2, abi.MAP_EXTENDED_L2],
    [files[abi.FILE_BACKING] !== undefined, abi.MAP_BACKING],
    [dataFile !== undefined, abi.MAP_DATA_FILE],
    [dataFile?.raw === true, abi.MAP_RAW_DATA_FILE],
    [files[abi.FILE_CIPHERED] !== undefined, abi.MAP_CIPHERED],
    [unmaps, abi.MAP_PUNCH],
    [readOnly, abi.MAP_READ_ONLY],
  ];
  return flags.reduce((word, [on, flag]) => (on ? word | flag : word), 0);
}

/** A reader may open an image whose refcount table is cut: it reads none of it. */
async function readTable(file: ImageFile, offset: number, length: number): Promise<Uint8Array> {
  const there = clamp(file.sizeBytes - offset, 0, length);
  const bytes = new Uint8Array(length);
  bytes.set(await file.read(Math.min(offset, file.sizeBytes), there));
  return bytes;
}

/** Slices to keep: as many as the disk has, within the budget. */
function cacheOf(header: Qcow2Header, budgetBytes: number) {
  const { clusterBytes, sizeBytes } = header;
  const sliceBytes = Math.min(clusterBytes, abi.SLICE_BYTES);
  const all = Math.ceil((l1EntriesFor(header, sizeBytes) * clusterBytes) / sliceBytes);
  const l2Slices = clamp(
    Math.floor(budgetBytes / sliceBytes),
    L2_SLICES_MIN,
    Math.max(all, L2_SLICES_MIN),
  );
  const refcountSlices = Math.max(REFCOUNT_SLICES_MIN, Math.floor(l2Slices / REFCOUNT_SHARE));
  return { l2Slices, refcountSlices };
}

/** Entries for a file that holds the whole disk twice, and what it is now. */
function tableRoom(header: Qcow2Header, fileBytes: number): number {
  const { clusterBytes, refcountBits, sizeBytes, refcountTableClusters } = header;
  const perBlock = (clusterBytes * BITS_PER_BYTE) / refcountBits;
  const bytes = 2 * sizeBytes + fileBytes;
  const perCluster = clusterBytes / L2_ENTRY_BYTES;
  const blocks = Math.ceil(bytes / (clusterBytes * perBlock)) + 2 * perCluster;
  const now = refcountTableClusters * perCluster;
  const wanted = Math.ceil(Math.max(blocks, 2 * now) / perCluster) * perCluster;
  return Math.max(now, Math.min(wanted, REFCOUNT_TABLE_BYTES_MAX / L2_ENTRY_BYTES));
}

/** Metadata that the engine does not know by itself. */
async function rangesOf(file: ImageFile, header: Qcow2Header, path: string): Promise<ByteRange[]> {
  const { snapshotsOffset, encryption, bitmaps } = header;
  const table = await readSnapshotTable(file, header, path);
  const directory = await readBitmapDirectory(file, header, path);
  const sound = directory.bitmaps.filter(({ problem }) => problem === undefined);
  const ranges = [
    { offset: snapshotsOffset, length: table.lengthBytes },
    ...table.snapshots
      .filter(({ problem }) => problem === undefined)
      .map(({ l1Offset, l1Entries }) => ({ offset: l1Offset, length: l1Entries * L2_ENTRY_BYTES })),
    ...(encryption === undefined ? [] : [encryption]),
    ...(bitmaps === undefined
      ? []
      : [{ offset: bitmaps.directoryOffset, length: bitmaps.directoryBytes }]),
    ...sound.map(({ tableOffset, tableEntries }) => ({
      offset: tableOffset,
      length: tableEntries * L2_ENTRY_BYTES,
    })),
  ];
  return ranges.filter(({ length }) => length > 0);
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(Math.max(value, least), most);
}
