/** What the first cluster is to say: fields, extensions and the name of the backing file. */
import {
  AUTOCLEAR_BITMAPS_BIT,
  AUTOCLEAR_RAW_DATA_FILE_BIT,
  BITMAPS_EXTENSION_BYTES,
  COMPATIBLE_LAZY_REFCOUNTS_BIT,
  EXTENSION_BACKING_FORMAT,
  EXTENSION_BITMAPS,
  EXTENSION_DATA_FILE,
  EXTENSION_ENCRYPTION,
  EXTENSION_FEATURE_NAMES,
  HEADER_AUTOCLEAR_FEATURES,
  HEADER_BACKING_FILE_OFFSET,
  HEADER_BACKING_FILE_SIZE,
  HEADER_BYTES_V2,
  HEADER_COMPATIBLE_FEATURES,
  HEADER_LENGTH,
  HEADER_REFCOUNT_ORDER,
  HEADER_SIZE,
  HEADER_VERSION,
} from '../../abi/qcow2.ts';
import { SluiceError } from '../../errors.ts';
import { FEATURE_NAMES_ABOVE_BYTES, featureNames } from './create-header.ts';
import type { BitmapsExtension } from './header-extensions.ts';
import type { HeaderStart } from './header-start.ts';

/** The image that another one is based on. */
export interface NewBacking {
  readonly name: string;
  readonly format: string;
}

/** What is to be another than before; what is left out stays. */
export interface HeaderChanges {
  readonly version?: 2 | 3;
  readonly lazyRefcounts?: boolean;
  readonly dataFileRaw?: false;
  readonly backing?: NewBacking | 'none';
  readonly bitmaps?: BitmapsExtension | 'none';
  /** Of the disk. */
  readonly sizeBytes?: number;
}

/** One extension. */
export interface ExtensionData {
  readonly type: number;
  readonly data: Uint8Array;
}

/** The parts of a header, without their places. */
export interface HeaderContent {
  /** The header's own structure, up to the extensions. */
  readonly fields: Uint8Array;
  readonly extensions: readonly ExtensionData[];
  /** Of the backing file; empty when there is none. */
  readonly name: Uint8Array;
}

/** With the compression type, to a multiple of 8. */
export const FIELDS_BYTES_V3 = 112;
const SECTOR_BYTES = 512;
/** Of a header that is being moved (rewrite-header.ts): this text, and its length when at rest. */
const MOVING = 0x736c_7569_6365_6864n;
const MOVING_AT = SECTOR_BYTES - 16;
const REFCOUNT_ORDER_V2 = 4;
const KNOWN_AUTOCLEAR =
  (1n << BigInt(AUTOCLEAR_BITMAPS_BIT)) | (1n << BigInt(AUTOCLEAR_RAW_DATA_FILE_BIT));
const ORDER = [EXTENSION_BACKING_FORMAT, EXTENSION_DATA_FILE, EXTENSION_ENCRYPTION] as const;
const UNDERSTOOD: ReadonlySet<number> = new Set([
  ...ORDER,
  EXTENSION_FEATURE_NAMES,
  EXTENSION_BITMAPS,
]);

/** The content that a header has with these changes; unknown extensions and fields are kept. */
export function contentOf(start: HeaderStart, path: string, changes: HeaderChanges): HeaderContent {
  return {
    fields: fieldsOf(start, path, changes),
    extensions: extensionsOf(start, changes),
    name: nameOf(start, changes),
  };
}

/** The fields for the time in which the extensions begin at `extensionsAt`. */
export function movingFields(fields: Uint8Array, extensionsAt: number): Uint8Array {
  const sector = new Uint8Array(SECTOR_BYTES);
  const view = new DataView(sector.buffer);
  sector.set(fields);
  if (fields.length < FIELDS_BYTES_V3) {
    view.setUint32(HEADER_VERSION, 3);
    view.setUint32(HEADER_REFCOUNT_ORDER, REFCOUNT_ORDER_V2);
  }
  view.setUint32(HEADER_LENGTH, extensionsAt);
  view.setBigUint64(MOVING_AT, MOVING);
  view.setUint32(MOVING_AT + 8, Math.max(fields.length, FIELDS_BYTES_V3));
  return sector;
}

function fieldsOf(start: HeaderStart, path: string, changes: HeaderChanges): Uint8Array {
  const version = changes.version ?? start.version;
  const length = version === 2 ? HEADER_BYTES_V2 : fieldBytes(start, path);
  const fields = new Uint8Array(length);
  const kept = start.version === 2 ? HEADER_BYTES_V2 : Math.min(start.headerBytes, length);
  fields.set(start.header.bytes.subarray(0, Math.min(kept, length)));
  const view = new DataView(fields.buffer);
  view.setUint32(HEADER_VERSION, version);
  view.setBigUint64(HEADER_BACKING_FILE_OFFSET, 0n);
  view.setUint32(HEADER_BACKING_FILE_SIZE, 0);
  const { sizeBytes } = changes;
  if (sizeBytes !== undefined) view.setBigUint64(HEADER_SIZE, BigInt(sizeBytes));
  if (version === 2) return fields;
  if (start.version === 2) view.setUint32(HEADER_REFCOUNT_ORDER, REFCOUNT_ORDER_V2);
  view.setUint32(HEADER_LENGTH, length);
  setFeatures(view, changes);
  return fields;
}

/** Fields that are not known are kept; what a header in motion has passed over are no fields. */
function fieldBytes({ version, header, headerBytes }: HeaderStart, path: string): number {
  if (version === 2) return FIELDS_BYTES_V3;
  if (headerBytes <= MOVING_AT) return Math.max(headerBytes, FIELDS_BYTES_V3);
  const restBytes = header.u32(MOVING_AT + 8);
  const isMoving = headerBytes > SECTOR_BYTES && header.u64(MOVING_AT) === MOVING;
  if (isMoving && restBytes <= MOVING_AT) return Math.max(restBytes, FIELDS_BYTES_V3);
  const found = `its header has ${headerBytes} bytes of fields that this release does not know`;
  const what = `cannot change the header of ${JSON.stringify(path)}: ${found}`;
  const advice = `it changes headers of at most ${MOVING_AT}; use the program that wrote it`;
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${what}; ${advice}`, { path });
}

function setFeatures(view: DataView, changes: HeaderChanges): void {
  const { lazyRefcounts, bitmaps, dataFileRaw } = changes;
  let autoclear = view.getBigUint64(HEADER_AUTOCLEAR_FEATURES) & KNOWN_AUTOCLEAR;
  if (bitmaps !== undefined) {
    autoclear = withBit(autoclear, AUTOCLEAR_BITMAPS_BIT, bitmaps !== 'none');
  }
  if (dataFileRaw === false) autoclear = withBit(autoclear, AUTOCLEAR_RAW_DATA_FILE_BIT, false);
  view.setBigUint64(HEADER_AUTOCLEAR_FEATURES, autoclear);
  if (lazyRefcounts === undefined) return;
  const compatible = view.getBigUint64(HEADER_COMPATIBLE_FEATURES);
  const wanted = withBit(compatible, COMPATIBLE_LAZY_REFCOUNTS_BIT, lazyRefcounts);
  view.setBigUint64(HEADER_COMPATIBLE_FEATURES, wanted);
}

function withBit(flags: bigint, bit: number, isSet: boolean): bigint {
  const mask = 1n << BigInt(bit);
  return isSet ? flags | mask : flags & ~mask;
}

/** In the order of QEMU, and the feature names where it has them. */
function extensionsOf(start: HeaderStart, changes: HeaderChanges): ExtensionData[] {
  const { header, extensions } = start;
  const there = extensions.list.map(({ type, offset, length }) => ({
    type,
    data: header.bytes.slice(offset, offset + length),
  }));
  const found = new Map(there.map((extension) => [extension.type, extension]));
  if (changes.backing !== undefined) found.delete(EXTENSION_BACKING_FORMAT);
  if (changes.backing !== undefined && changes.backing !== 'none') {
    const data = new TextEncoder().encode(changes.backing.format);
    found.set(EXTENSION_BACKING_FORMAT, { type: EXTENSION_BACKING_FORMAT, data });
  }
  const version = changes.version ?? start.version;
  const hasNames = version === 3 && start.clusterBytes > FEATURE_NAMES_ABOVE_BYTES;
  return [
    ...ORDER.flatMap((type) => found.get(type) ?? []),
    ...(hasNames ? [{ type: EXTENSION_FEATURE_NAMES, data: featureNames() }] : []),
    ...bitmapsOf(start, changes, found.get(EXTENSION_BITMAPS)),
    ...there.filter(({ type }) => !UNDERSTOOD.has(type)),
  ];
}

/** Bitmaps that are not said to be consistent are void, and not named any more. */
function bitmapsOf(
  { version, header }: HeaderStart,
  { bitmaps }: HeaderChanges,
  found: ExtensionData | undefined,
): ExtensionData[] {
  if (bitmaps === 'none') return [];
  if (bitmaps === undefined) {
    const autoclear = version === 3 ? header.u64(HEADER_AUTOCLEAR_FEATURES) : 0n;
    const isConsistent = ((autoclear >> BigInt(AUTOCLEAR_BITMAPS_BIT)) & 1n) === 1n;
    return found !== undefined && isConsistent ? [found] : [];
  }
  const data = new DataView(new ArrayBuffer(BITMAPS_EXTENSION_BYTES));
  data.setUint32(0, bitmaps.count);
  data.setBigUint64(8, BigInt(bitmaps.directoryBytes));
  data.setBigUint64(16, BigInt(bitmaps.directoryOffset));
  return [{ type: EXTENSION_BITMAPS, data: new Uint8Array(data.buffer) }];
}

function nameOf({ header }: HeaderStart, { backing }: HeaderChanges): Uint8Array {
  if (backing === 'none') return new Uint8Array(0);
  if (backing !== undefined) return new TextEncoder().encode(backing.name);
  const offset = Number(header.u64(HEADER_BACKING_FILE_OFFSET));
  const length = offset === 0 ? 0 : header.u32(HEADER_BACKING_FILE_SIZE);
  return header.bytes.slice(offset, offset + length);
}
