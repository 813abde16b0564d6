/** The header of a new image, with its extensions and the name of its backing file. */
import {
  AUTOCLEAR_BITMAPS_BIT,
  AUTOCLEAR_RAW_DATA_FILE_BIT,
  COMPATIBLE_LAZY_REFCOUNTS_BIT,
  COMPRESSION_DEFLATE,
  COMPRESSION_ZSTD,
  CRYPT_LUKS,
  EXTENSION_BACKING_FORMAT,
  EXTENSION_DATA_FILE,
  EXTENSION_ENCRYPTION,
  EXTENSION_FEATURE_NAMES,
  HEADER_AUTOCLEAR_FEATURES,
  HEADER_BACKING_FILE_OFFSET,
  HEADER_BACKING_FILE_SIZE,
  HEADER_BYTES_V2,
  HEADER_CLUSTER_BITS,
  HEADER_COMPATIBLE_FEATURES,
  HEADER_COMPRESSION_TYPE,
  HEADER_CRYPT_METHOD,
  HEADER_INCOMPATIBLE_FEATURES,
  HEADER_L1_SIZE,
  HEADER_L1_TABLE_OFFSET,
  HEADER_LENGTH,
  HEADER_MAGIC,
  HEADER_REFCOUNT_ORDER,
  HEADER_REFCOUNT_TABLE_CLUSTERS,
  HEADER_REFCOUNT_TABLE_OFFSET,
  HEADER_SIZE,
  HEADER_VERSION,
  INCOMPATIBLE_COMPRESSION_BIT,
  INCOMPATIBLE_CORRUPT_BIT,
  INCOMPATIBLE_DATA_FILE_BIT,
  INCOMPATIBLE_DIRTY_BIT,
  INCOMPATIBLE_EXTENDED_L2_BIT,
  QCOW2_MAGIC,
} from '../../abi/qcow2.ts';
import { invalid } from '../../arguments.ts';
import type { NewImage } from './create-options.ts';
import { luksAreaBytes } from './luks-options.ts';

/** With the compression type, to a multiple of 8. */
const HEADER_BYTES_V3 = 112;
const EXTENSION_HEAD_BYTES = 8;

/** Where the header says that tables and areas begin, in bytes of the file. */
export interface HeaderPlaces {
  readonly l1Offset: number;
  readonly l1Entries: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  /** Of an encrypted image. */
  readonly luksOffset: number;
}

/** The first cluster. @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT when names do not fit */
export function headerOf(image: NewImage, places: HeaderPlaces): Uint8Array {
  const bytes = new Uint8Array(image.clusterBytes);
  const view = new DataView(bytes.buffer);
  writeFixed(view, image, places);
  if (image.version === 3) writeVersion3(view, image);
  const start = image.version === 3 ? HEADER_BYTES_V3 : HEADER_BYTES_V2;
  const name = utf8(image.backing?.name ?? '');
  const end = writeExtensions(bytes, start, extensionsOf(image, places), name.length);
  if (name.length === 0) return bytes;
  view.setBigUint64(HEADER_BACKING_FILE_OFFSET, BigInt(end));
  view.setUint32(HEADER_BACKING_FILE_SIZE, name.length);
  bytes.set(name, end);
  return bytes;
}

function writeFixed(view: DataView, image: NewImage, places: HeaderPlaces): void {
  const { l1Entries, l1Offset, refcountTableOffset, refcountTableClusters } = places;
  view.setUint32(HEADER_MAGIC, QCOW2_MAGIC);
  view.setUint32(HEADER_VERSION, image.version);
  view.setUint32(HEADER_CLUSTER_BITS, image.clusterBits);
  view.setBigUint64(HEADER_SIZE, BigInt(image.sizeBytes));
  if (image.encryption !== undefined) view.setUint32(HEADER_CRYPT_METHOD, CRYPT_LUKS);
  view.setUint32(HEADER_L1_SIZE, l1Entries);
  view.setBigUint64(HEADER_L1_TABLE_OFFSET, BigInt(l1Entries === 0 ? 0 : l1Offset));
  view.setBigUint64(HEADER_REFCOUNT_TABLE_OFFSET, BigInt(refcountTableOffset));
  view.setUint32(HEADER_REFCOUNT_TABLE_CLUSTERS, refcountTableClusters);
}

function writeVersion3(view: DataView, image: NewImage): void {
  const { compression, dataFile } = image;
  const isZstd = compression === 'zstd';
  const incompatible =
    flag(INCOMPATIBLE_DATA_FILE_BIT, dataFile !== undefined) |
    flag(INCOMPATIBLE_COMPRESSION_BIT, isZstd) |
    flag(INCOMPATIBLE_EXTENDED_L2_BIT, image.extendedL2);
  const compatible = flag(COMPATIBLE_LAZY_REFCOUNTS_BIT, image.lazyRefcounts);
  const autoclear = flag(AUTOCLEAR_RAW_DATA_FILE_BIT, dataFile?.raw === true);
  view.setBigUint64(HEADER_INCOMPATIBLE_FEATURES, incompatible);
  view.setBigUint64(HEADER_COMPATIBLE_FEATURES, compatible);
  view.setBigUint64(HEADER_AUTOCLEAR_FEATURES, autoclear);
  view.setUint32(HEADER_REFCOUNT_ORDER, image.refcountOrder);
  view.setUint32(HEADER_LENGTH, HEADER_BYTES_V3);
  view.setUint8(HEADER_COMPRESSION_TYPE, isZstd ? COMPRESSION_ZSTD : COMPRESSION_DEFLATE);
}

function flag(bit: number, isSet: boolean): bigint {
  return isSet ? 1n << BigInt(bit) : 0n;
}

interface Extension {
  readonly type: number;
  readonly data: Uint8Array;
}

function extensionsOf(image: NewImage, { luksOffset }: HeaderPlaces): Extension[] {
  const { version, clusterBytes, backing, dataFile, encryption } = image;
  const extensions: Extension[] = [];
  if (backing !== undefined) {
    extensions.push({ type: EXTENSION_BACKING_FORMAT, data: utf8(backing.format) });
  }
  if (dataFile !== undefined) {
    extensions.push({ type: EXTENSION_DATA_FILE, data: utf8(dataFile.name) });
  }
  if (encryption !== undefined) {
    const area = new DataView(new ArrayBuffer(16));
    area.setBigUint64(0, BigInt(luksOffset));
    area.setBigUint64(8, BigInt(luksAreaBytes(encryption)));
    extensions.push({ type: EXTENSION_ENCRYPTION, data: new Uint8Array(area.buffer) });
  }
  if (version === 3 && clusterBytes > FEATURE_NAMES_ABOVE_BYTES) {
    extensions.push({ type: EXTENSION_FEATURE_NAMES, data: featureNames() });
  }
  return extensions;
}

/** Returns where the end marker ends. */
function writeExtensions(
  bytes: Uint8Array,
  start: number,
  extensions: readonly Extension[],
  nameBytes: number,
): number {
  const view = new DataView(bytes.buffer);
  const room = bytes.length - EXTENSION_HEAD_BYTES - nameBytes;
  let at = start;
  for (const { type, data } of extensions) {
    const next = at + EXTENSION_HEAD_BYTES + Math.ceil(data.length / 8) * 8;
    if (next > room) throw noRoom(bytes.length);
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    bytes.set(data, at + EXTENSION_HEAD_BYTES);
    at = next;
  }
  if (at > room) throw noRoom(bytes.length);
  return at + EXTENSION_HEAD_BYTES;
}

function noRoom(clusterBytes: number): Error {
  const advice = 'use shorter names or larger clusters (clusterBits)';
  return invalid(`the names do not fit into a header of ${clusterBytes} bytes; ${advice}`);
}

type FeatureName = readonly [kind: number, bit: number, name: string];

const INCOMPATIBLE = 0;
const COMPATIBLE = 1;
const AUTOCLEAR = 2;
/** Programs that do not know a bit tell its name from here. */
const FEATURES: readonly FeatureName[] = [
  [INCOMPATIBLE, INCOMPATIBLE_DIRTY_BIT, 'dirty bit'],
  [INCOMPATIBLE, INCOMPATIBLE_CORRUPT_BIT, 'corrupt bit'],
  [INCOMPATIBLE, INCOMPATIBLE_DATA_FILE_BIT, 'external data file'],
  [INCOMPATIBLE, INCOMPATIBLE_COMPRESSION_BIT, 'compression type'],
  [INCOMPATIBLE, INCOMPATIBLE_EXTENDED_L2_BIT, 'extended L2 entries'],
  [COMPATIBLE, COMPATIBLE_LAZY_REFCOUNTS_BIT, 'lazy refcounts'],
  [AUTOCLEAR, AUTOCLEAR_BITMAPS_BIT, 'bitmaps'],
  [AUTOCLEAR, AUTOCLEAR_RAW_DATA_FILE_BIT, 'raw external data'],
];
const FEATURE_ROW_BYTES = 48;
/** In a smaller header the room is left to the names of files, as QEMU does. */
export const FEATURE_NAMES_ABOVE_BYTES = 4096;

/** The data of the feature name table. */
export function featureNames(): Uint8Array {
  const rows = new Uint8Array(FEATURES.length * FEATURE_ROW_BYTES);
  for (const [index, [kind, bit, name]] of FEATURES.entries()) {
    rows.set([kind, bit, ...utf8(name)], index * FEATURE_ROW_BYTES);
  }
  return rows;
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
