/**
 * The header of a hosted sparse extent (VMware, Virtual Disk Format 5.0, Hosted Sparse Extents),
 * and the footer that takes its place at the end of a stream-optimized one.
 *
 * Sizes and offsets in it are sectors, and bytes here. The redundant directory is not used, as in
 * QEMU: what the primary one says is what every writer keeps up.
 */
import { SECTOR_SIZE } from '../../abi/limits.ts';
import type { EntryTablePlace, FileRange } from '../entry-table.ts';
import type { ImageFile } from '../image-file.ts';
import { Fields, hasBit } from '../qcow2/fields.ts';

// SparseExtentHeader: fields, little-endian and packed.
const MAGIC = 0;
const VERSION = 4;
const FLAGS = 8;
const CAPACITY = 12;
const GRAIN_SIZE = 20;
const DESCRIPTOR_OFFSET = 28;
const DESCRIPTOR_SIZE = 36;
const NUM_GTES_PER_GT = 44;
const GD_OFFSET = 56;
const OVERHEAD = 64;
const COMPRESS_ALGORITHM = 77;

const SPARSE_MAGIC = 0x564d444b;
const VERSION_MAX = 3;
const FLAG_ZEROED_GRAIN_BIT = 2;
const FLAG_MARKERS_BIT = 17;
const COMPRESSION_NONE = 0;
const COMPRESSION_DEFLATE = 1;
/** gdOffset of a header that a footer takes the place of (GD_AT_END). */
const DIRECTORY_AT_END = 0xffff_ffff_ffff_ffffn;

// A footer lies between its marker and the end-of-stream marker, at the end of the file.
const FOOTER_SECTORS = 3;
const MARKER_VALUE = 0;
const MARKER_SIZE = 8;
const MARKER_TYPE = 12;
const MARKER_FOOTER = 3;
const MARKER_END_OF_STREAM = 0;

// Limits of QEMU: 1 GiB, 32 Mi entries.
const GRAIN_SECTORS_MAX = 2 ** 21;
const DIRECTORY_ENTRIES_MAX = 2 ** 25;
const TABLE_ENTRIES_MAX = 512;
/** Ours: a grain is inflated as a whole. */
const COMPRESSED_GRAIN_BYTES_MAX = 2 ** 21;
const ENTRY_BYTES = 4;

/** A header that keeps the rules; sizes and offsets are bytes. */
export interface VmdkHeader {
  /** Of the disk. */
  readonly sizeBytes: number;
  readonly grainBytes: number;
  /** Entries of a grain table. */
  readonly tableEntries: number;
  readonly directory: EntryTablePlace;
  /** Where neither grain tables nor grains can be: the header and the directory. */
  readonly metadata: readonly FileRange[];
  /** Entries of 1 are grains of zeroes. */
  readonly hasZeroedGrains: boolean;
  readonly isCompressed: boolean;
  readonly descriptor: FileRange;
}

/** Reads and checks the header, or the footer that it names. */
export async function readVmdkHeader(file: ImageFile, path: string): Promise<VmdkHeader> {
  const length = Math.min(SECTOR_SIZE, file.sizeBytes);
  const header = fieldsOf(await file.read(0, length), path, 'the header', 0);
  if (length < SECTOR_SIZE) throw header.refusal(0, `the file has ${length} bytes, and ends in it`);
  checkMagic(header);
  const isAtEnd = header.u64(GD_OFFSET) === DIRECTORY_AT_END;
  return headerOf(isAtEnd ? await readFooter(file, path, header) : header, file);
}

/** True for bytes that begin as a hosted sparse extent does. */
export function isSparseExtent(start: Uint8Array): boolean {
  return String.fromCharCode(...start.subarray(0, 4)) === 'KDMV';
}

function fieldsOf(bytes: Uint8Array, path: string, what: string, offset: number): Fields {
  return new Fields(bytes, { path, what, offset }, true);
}

function checkMagic(header: Fields): void {
  if (header.u32(MAGIC) === SPARSE_MAGIC) return;
  throw header.refusal(MAGIC, 'it does not begin with "KDMV"; the image is damaged or cut off');
}

async function readFooter(file: ImageFile, path: string, header: Fields): Promise<Fields> {
  const length = FOOTER_SECTORS * SECTOR_SIZE;
  const offset = file.sizeBytes - length;
  if (offset < SECTOR_SIZE || offset % SECTOR_SIZE !== 0) {
    const found = `its directory is at the end, and the file has ${file.sizeBytes} bytes`;
    throw header.refusal(GD_OFFSET, `${found}, which leaves no footer; it is cut off`);
  }
  const bytes = await file.read(offset, length);
  const end = fieldsOf(bytes, path, 'the end of the stream', offset);
  checkMarker(end, 0, MARKER_FOOTER);
  checkMarker(end, 2 * SECTOR_SIZE, MARKER_END_OF_STREAM);
  if (end.u64(2 * SECTOR_SIZE + MARKER_VALUE) !== 0n) {
    throw end.refusal(2 * SECTOR_SIZE, 'the end-of-stream marker has a value; it must be 0');
  }
  const place = bytes.subarray(SECTOR_SIZE, 2 * SECTOR_SIZE);
  const footer = fieldsOf(place, path, 'the footer', offset + SECTOR_SIZE);
  checkMagic(footer);
  return footer;
}

function checkMarker(end: Fields, at: number, type: number): void {
  const found = end.u32(at + MARKER_TYPE);
  const size = end.u32(at + MARKER_SIZE);
  if (found === type && size === 0) return;
  const rule = `type ${type} and size 0 must be there; the image is damaged or cut off`;
  throw end.refusal(at, `a marker has type ${found} and size ${size}; ${rule}`);
}

function headerOf(header: Fields, file: ImageFile): VmdkHeader {
  checkVersion(header);
  const isCompressed = compressionOf(header);
  const grainBytes = grainBytesOf(header, isCompressed);
  const tableEntries = header.u32(NUM_GTES_PER_GT);
  if (tableEntries < 1 || tableEntries > TABLE_ENTRIES_MAX) {
    const rule = `it must be 1 to ${TABLE_ENTRIES_MAX}`;
    throw header.refusal(NUM_GTES_PER_GT, `a grain table has ${tableEntries} entries; ${rule}`);
  }
  const sizeBytes = sectors(header, CAPACITY, 'the size of the disk');
  const overhead = sectors(header, OVERHEAD, 'the size of the metadata');
  if (overhead > file.sizeBytes) {
    const found = `the metadata has ${overhead} bytes, and the file ${file.sizeBytes}`;
    throw header.refusal(OVERHEAD, `${found}; it is cut off`);
  }
  const entries = Math.ceil(sizeBytes / (tableEntries * grainBytes));
  const directory = directoryOf(header, file, entries);
  return {
    sizeBytes,
    grainBytes,
    tableEntries,
    directory,
    metadata: [
      { offset: 0, length: SECTOR_SIZE },
      { offset: directory.offset, length: entries * ENTRY_BYTES },
    ],
    hasZeroedGrains: hasBit(header.u32(FLAGS), FLAG_ZEROED_GRAIN_BIT),
    isCompressed,
    descriptor: {
      offset: sectors(header, DESCRIPTOR_OFFSET, 'the offset of the descriptor'),
      length: sectors(header, DESCRIPTOR_SIZE, 'the size of the descriptor'),
    },
  };
}

function checkVersion(header: Fields): void {
  const version = header.u32(VERSION);
  if (version >= 1 && version <= VERSION_MAX) return;
  const found = `version ${version}; this release reads versions 1 to ${VERSION_MAX}`;
  throw header.refusal(VERSION, found, 'ERR_SLUICE_UNSUPPORTED');
}

function compressionOf(header: Fields): boolean {
  const algorithm = header.u16(COMPRESS_ALGORITHM);
  if (algorithm === COMPRESSION_NONE) return false;
  if (algorithm !== COMPRESSION_DEFLATE) {
    const found = `compression ${algorithm}; this release reads none (0) and deflate (1)`;
    throw header.refusal(COMPRESS_ALGORITHM, found, 'ERR_SLUICE_UNSUPPORTED');
  }
  if (hasBit(header.u32(FLAGS), FLAG_MARKERS_BIT)) return true;
  const found = 'its grains are compressed and have no markers; those with markers are read';
  throw header.refusal(FLAGS, found, 'ERR_SLUICE_UNSUPPORTED');
}

function grainBytesOf(header: Fields, isCompressed: boolean): number {
  const grainSectors = header.u64(GRAIN_SIZE);
  const grain = Number(grainSectors);
  if (grain < 1 || grain > GRAIN_SECTORS_MAX || !Number.isInteger(Math.log2(grain))) {
    const rule = `it must be a power of two, 1 to ${GRAIN_SECTORS_MAX}`;
    throw header.refusal(GRAIN_SIZE, `a grain has ${grainSectors} sectors; ${rule}`);
  }
  const grainBytes = grain * SECTOR_SIZE;
  if (!isCompressed || grainBytes <= COMPRESSED_GRAIN_BYTES_MAX) return grainBytes;
  const rule = `compressed ones have ${COMPRESSED_GRAIN_BYTES_MAX} here at most`;
  const found = `a grain has ${grainBytes} bytes; ${rule}`;
  throw header.refusal(GRAIN_SIZE, found, 'ERR_SLUICE_UNSUPPORTED');
}

function directoryOf(header: Fields, file: ImageFile, entries: number): EntryTablePlace {
  if (entries > DIRECTORY_ENTRIES_MAX) {
    const rule = `it has ${DIRECTORY_ENTRIES_MAX} at most`;
    throw header.refusal(CAPACITY, `its grain directory would have ${entries} entries; ${rule}`);
  }
  const offset = sectors(header, GD_OFFSET, 'the offset of the grain directory');
  const length = entries * ENTRY_BYTES;
  const isInside = offset >= SECTOR_SIZE && offset + length <= file.sizeBytes;
  if (!isInside && entries > 0) {
    const rule = `its ${length} bytes must lie behind the header and in the file's`;
    const found = `the grain directory is at offset ${offset}; ${rule} ${file.sizeBytes}`;
    throw header.refusal(GD_OFFSET, found);
  }
  return { offset, entries, littleEndian: true, blank: 0 };
}

/** A number of sectors, in bytes: below 2^53. */
function sectors(header: Fields, offset: number, name: string): number {
  const value = header.u64(offset);
  const bytes = value * BigInt(SECTOR_SIZE);
  if (bytes <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(bytes);
  const found = `${name} is ${value} sectors; nothing past 2^53 bytes can be opened`;
  throw header.refusal(offset, found);
}
