/**
 * What the tables of an image say of the disk, range by range: for what is told of an image and for
 * work on it that moves no data. The disk itself is read and written by the engine.
 *
 * X1 Tables are read one at a time and in the order of the disk; memory does not grow with it.
 * X2 An entry that cannot be is refused with its place, never taken for something else.
 */
import { SECTOR_SIZE } from '../../abi/limits.ts';
import {
  ENTRY_COMPRESSED_BIT,
  EXTENDED_L2_ENTRY_BYTES,
  L2_ENTRY_BYTES,
  SUBCLUSTERS,
} from '../../abi/qcow2.ts';
import { SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { mergeExtents } from '../merge-extents.ts';
import { entryOffset } from './check-scan.ts';
import { hex } from './fields.ts';
import type { Qcow2Header } from './header.ts';

/** Bytes of the disk that the tables say one thing of. */
export interface TableExtent {
  /** Byte offset on the disk. */
  readonly start: number;
  readonly length: number;
  /**
   * `none`: nothing, so the backing file or zeroes are read; `zero`: zeroes without a place;
   * `zero-allocated`: zeroes, with a place kept for data; `data`; `compressed`: one cluster.
   */
  readonly kind: 'none' | 'zero' | 'zero-allocated' | 'data' | 'compressed';
  /**
   * Where the bytes lie in the image or in its data file; for others than `data` the place that is
   * kept for them, if there is one.
   */
  readonly offset?: number;
  /** `compressed`: where the stream begins in the image, and the bytes that it has at most. */
  readonly stream?: { readonly offset: number; readonly length: number };
}

type Kind = TableExtent['kind'];

const COMPRESSED_HIGH = 2 ** (ENTRY_COMPRESSED_BIT - 32);
const ZERO_LOW = 1;
/** Entries of the L1 table that are in memory. */
const L1_PIECE_ENTRIES = 8192;

/** All of the disk from `from` to `to`, in order; neighbours of one kind are one extent. */
export function tableExtents(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  from = 0,
  to = header.sizeBytes,
): AsyncGenerator<TableExtent, void, void> {
  const extents = singleExtents(file, header, path, from, to);
  return mergeExtents(extents, isAlike);
}

async function* singleExtents(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  from: number,
  to: number,
): AsyncGenerator<TableExtent, void, void> {
  const l1 = new L1Table(file, header, path);
  const tableBytes = header.clusterBytes * header.l2Entries;
  for (let at = from; at < to;) {
    const index = Math.floor(at / tableBytes);
    const end = Math.min(to, (index + 1) * tableBytes);
    const table = await l1.l2Table(index);
    if (table === undefined) {
      yield { start: at, length: end - at, kind: 'none' };
    } else {
      yield* tableEntries(table, header, path, at, end);
    }
    at = end;
  }
}

interface L2Table {
  readonly view: DataView;
  /** Of the table in the file. */
  readonly offset: number;
}

/** An L1 table, of which a piece is in memory. */
class L1Table {
  readonly #file: ImageFile;
  readonly #header: Qcow2Header;
  readonly #path: string;
  #piece: DataView = new DataView(new ArrayBuffer(0));
  #pieceIndex = 0;

  constructor(file: ImageFile, header: Qcow2Header, path: string) {
    this.#file = file;
    this.#header = header;
    this.#path = path;
  }

  /** The L2 table of an entry; undefined where there is none. */
  async l2Table(index: number): Promise<L2Table | undefined> {
    const { l1Offset, l1Entries, clusterBytes } = this.#header;
    if (index >= l1Entries) return undefined;
    const first = index - (index % L1_PIECE_ENTRIES);
    if (this.#piece.byteLength === 0 || first !== this.#pieceIndex) {
      const length = Math.min(L1_PIECE_ENTRIES, l1Entries - first) * L2_ENTRY_BYTES;
      this.#piece = viewOf(await this.#file.read(l1Offset + first * L2_ENTRY_BYTES, length));
      this.#pieceIndex = first;
    }
    const at = (index - first) * L2_ENTRY_BYTES;
    const offset = entryOffset(this.#piece.getInt32(at), this.#piece.getInt32(at + 4));
    if (offset === 0) return undefined;
    if (offset % clusterBytes !== 0 || offset + clusterBytes > this.#file.sizeBytes) {
      const place = hex(l1Offset + index * L2_ENTRY_BYTES);
      throw damaged(this.#path, `the L1 entry at ${place} names an L2 table at ${hex(offset)}`);
    }
    return { view: viewOf(await this.#file.read(offset, clusterBytes)), offset };
  }
}

function* tableEntries(
  table: L2Table,
  header: Qcow2Header,
  path: string,
  from: number,
  to: number,
): Generator<TableExtent, void, void> {
  const { clusterBytes, l2Entries, extendedL2 } = header;
  const entryBytes = extendedL2 ? EXTENDED_L2_ENTRY_BYTES : L2_ENTRY_BYTES;
  for (let at = from; at < to;) {
    const cluster = Math.floor(at / clusterBytes);
    const start = cluster * clusterBytes;
    const position = (cluster % l2Entries) * entryBytes;
    const clusters = Math.ceil((to - start) / clusterBytes);
    for (const extent of entryExtents(table, position, clusters, header, path)) {
      const first = Math.max(at, start + extent.start);
      const last = Math.min(to, start + extent.start + extent.length);
      if (first >= last) continue;
      const skipped = first - start - extent.start;
      const place = extent.offset === undefined ? {} : { offset: extent.offset + skipped };
      yield { ...extent, start: first, length: last - first, ...place };
      at = last;
    }
  }
}

/**
 * How many entries from `position` on, `most` at most, say the same of places that lie `step` bytes
 * apart. What crosses 4 GiB of the file is two runs.
 */
function alikeEntries(view: DataView, position: number, most: number, step: number): number {
  const high = view.getInt32(position);
  let low = view.getUint32(position + 4);
  for (let count = 1; count < most; count++) {
    const next = position + count * L2_ENTRY_BYTES;
    low += step;
    if (view.getInt32(next) !== high || view.getUint32(next + 4) !== low) return count;
  }
  return most;
}

/**
 * What an entry says, and those behind it that say the same, of `clusters` at most; `start` counts
 * from the cluster.
 */
function* entryExtents(
  { view, offset: tableOffset }: L2Table,
  position: number,
  clusters: number,
  header: Qcow2Header,
  path: string,
): Generator<TableExtent, void, void> {
  const { clusterBytes, extendedL2, dataFile } = header;
  const high = view.getInt32(position);
  const low = view.getInt32(position + 4);
  if ((high & COMPRESSED_HIGH) !== 0) {
    if (dataFile !== undefined) throw badEntry(path, tableOffset + position, high, low);
    const stream = streamOf(high, low, header.clusterBits);
    return yield { start: 0, length: clusterBytes, kind: 'compressed', stream };
  }
  const offset = entryOffset(high, low);
  if (offset % clusterBytes !== 0) throw badEntry(path, tableOffset + position, high, low);
  // Offset 0 is a place in a data file, where COPIED says that there is one.
  const hasPlace = offset !== 0 || (dataFile !== undefined && high < 0);
  if (!extendedL2) {
    const kind = kindOf(hasPlace, (low & ZERO_LOW) !== 0);
    const count = alikeEntries(view, position, clusters, hasPlace ? clusterBytes : 0);
    return yield extentOf(0, count * clusterBytes, kind, hasPlace ? offset : undefined);
  }
  const allocated = view.getUint32(position + 12);
  const zeroes = view.getUint32(position + 8);
  if ((allocated & zeroes) !== 0 || (!hasPlace && allocated !== 0)) {
    throw badEntry(path, tableOffset + position, high, low);
  }
  const bytes = clusterBytes / SUBCLUSTERS;
  for (let index = 0; index < SUBCLUSTERS; index++) {
    const isZero = ((zeroes >>> index) & 1) === 1;
    const isAllocated = ((allocated >>> index) & 1) === 1;
    const kind = isZero ? kindOf(hasPlace, true) : isAllocated ? 'data' : 'none';
    yield extentOf(index * bytes, bytes, kind, hasPlace ? offset + index * bytes : undefined);
  }
}

/** A stream ends inside its last sector. */
function streamOf(high: number, low: number, clusterBits: number) {
  const sectorBits = clusterBits - 8;
  const entry = (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
  const offset = Number(entry & ((1n << BigInt(62 - sectorBits)) - 1n));
  const sectors = Number((entry >> BigInt(62 - sectorBits)) & ((1n << BigInt(sectorBits)) - 1n));
  return { offset, length: (sectors + 1) * SECTOR_SIZE - (offset % SECTOR_SIZE) };
}

/** Every stream is one extent. */
function isAlike(one: TableExtent, other: TableExtent): boolean {
  return one.kind === other.kind && one.kind !== 'compressed';
}

function kindOf(hasPlace: boolean, isZero: boolean): Kind {
  if (isZero) return hasPlace ? 'zero-allocated' : 'zero';
  return hasPlace ? 'data' : 'none';
}

function extentOf(
  start: number,
  length: number,
  kind: Kind,
  offset: number | undefined,
): TableExtent {
  return offset === undefined ? { start, length, kind } : { start, length, kind, offset };
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function badEntry(path: string, at: number, high: number, low: number): SluiceError {
  const value = (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
  return damaged(path, `the L2 entry at ${hex(at)} is ${hex(value)}, which none can be`);
}

function damaged(path: string, found: string): SluiceError {
  const message = `${JSON.stringify(path)}: ${found}; check the image`;
  return new SluiceError('ERR_SLUICE_CORRUPT', message, { path });
}
