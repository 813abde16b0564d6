/**
 * The header's extensions: {u32 type, u32 length, data, padding to 8} from the end of the header
 * to the end marker, the backing name or the end of the first cluster.
 *
 * The area is at most one cluster, so nothing here needs a bound of its own.
 */
import {
  BACKING_FORMAT_BYTES_MAX,
  BITMAP_DIRECTORY_BYTES_MAX,
  BITMAPS_EXTENSION_BYTES,
  BITMAPS_MAX,
  DATA_FILE_NAME_BYTES_MAX,
  ENCRYPTION_EXTENSION_BYTES,
  EXTENSION_BACKING_FORMAT,
  EXTENSION_BITMAPS,
  EXTENSION_DATA_FILE,
  EXTENSION_ENCRYPTION,
  EXTENSION_END,
  EXTENSION_FEATURE_NAMES,
  EXTENSION_HEADER_BYTES,
  FEATURE_NAME_ROW_BYTES,
  FEATURE_NAME_TEXT,
} from '../../abi/qcow2.ts';
import { type Fields, hex } from './fields.ts';

/** One extension: its data lies at `offset` of the file. */
export interface HeaderExtension {
  readonly type: number;
  readonly offset: number;
  readonly length: number;
}

/** What the area holds, as far as it can be walked. */
export interface HeaderExtensions {
  readonly list: readonly HeaderExtension[];
  /** Where the walk ended too early, and why. */
  readonly problem?: { readonly offset: number; readonly text: string };
}

/** One that is not understood. */
export interface UnknownExtension {
  readonly type: number;
  readonly bytes: Uint8Array;
}

/** Where the bitmaps are. */
export interface BitmapsExtension {
  readonly count: number;
  readonly directoryOffset: number;
  readonly directoryBytes: number;
}

/** Where the LUKS header and its key slots are. */
export interface EncryptionExtension {
  readonly offset: number;
  readonly length: number;
}

/** The types that are understood; each may stand there once. */
const KNOWN: ReadonlyMap<number, string> = new Map([
  [EXTENSION_BACKING_FORMAT, 'backing format'],
  [EXTENSION_FEATURE_NAMES, 'feature name table'],
  [EXTENSION_BITMAPS, 'bitmaps'],
  [EXTENSION_ENCRYPTION, 'encryption header'],
  [EXTENSION_DATA_FILE, 'data file name'],
]);

/** Walks the area from `from` to `end`. */
export function walkExtensions(header: Fields, from: number, end: number): HeaderExtensions {
  const list: HeaderExtension[] = [];
  let at = from;
  while (at < end) {
    const offset = at + EXTENSION_HEADER_BYTES;
    if (offset > end) return { list, problem: { offset: at, text: 'an extension is cut off' } };
    const type = header.u32(at);
    const length = header.u32(at + 4);
    if (length > end - offset) {
      const text = `extension ${hex(type)} has ${length} bytes, where ${end - offset} are left`;
      return { list, problem: { offset: at, text } };
    }
    if (type === EXTENSION_END) break;
    list.push({ type, offset, length });
    at = offset + Math.ceil(length / 8) * 8;
  }
  return { list };
}

function findExtension({ list }: HeaderExtensions, type: number): HeaderExtension | undefined {
  return list.find((extension) => extension.type === type);
}

/** Refuses an area that cannot be walked, or that has two of a kind. */
export function checkExtensions(header: Fields, { list, problem }: HeaderExtensions): void {
  if (problem !== undefined) throw header.refusal(problem.offset, problem.text);
  const seen = new Set<number>();
  for (const { type, offset, length } of list) {
    const name = KNOWN.get(type);
    if (name === undefined) continue;
    if (seen.has(type)) throw header.refusal(offset, `there is a second ${name} extension`);
    seen.add(type);
    if (type === EXTENSION_FEATURE_NAMES && length % FEATURE_NAME_ROW_BYTES !== 0) {
      const rule = `a feature name table has rows of ${FEATURE_NAME_ROW_BYTES} bytes`;
      throw header.refusal(offset, `${rule}, this one ${length} bytes`);
    }
  }
}

/** The extensions that are not understood: whoever rewrites the header keeps them. */
export function unknownExtensions(header: Fields, { list }: HeaderExtensions): UnknownExtension[] {
  return list
    .filter(({ type }) => !KNOWN.has(type))
    .map(({ type, offset, length }) => ({
      type,
      bytes: new Uint8Array(header.bytes.subarray(offset, offset + length)),
    }));
}

/** Names that the image gives to its incompatible features: bit -> name. */
export function incompatibleNames(
  header: Fields,
  extensions: HeaderExtensions,
): ReadonlyMap<number, string> {
  const names = new Map<number, string>();
  const table = findExtension(extensions, EXTENSION_FEATURE_NAMES);
  if (table === undefined) return names;
  const end = table.offset + table.length;
  for (let row = table.offset; row + FEATURE_NAME_ROW_BYTES <= end; row += FEATURE_NAME_ROW_BYTES) {
    const isIncompatible = header.u8(row) === 0;
    if (isIncompatible) names.set(header.u8(row + 1), rowText(header, row));
  }
  return names;
}

/** A name for a message: what is not printable ASCII shows as `?`. */
function rowText({ bytes }: Fields, row: number): string {
  const text = bytes.subarray(row + FEATURE_NAME_TEXT, row + FEATURE_NAME_ROW_BYTES);
  const nul = text.indexOf(0);
  const letters = nul < 0 ? text : text.subarray(0, nul);
  return String.fromCharCode(...letters).replaceAll(/[^ -~]/g, '?');
}

/** The name of the backing file's format. */
export function backingFormat(header: Fields, extensions: HeaderExtensions): string | undefined {
  return nameIn(header, extensions, EXTENSION_BACKING_FORMAT, BACKING_FORMAT_BYTES_MAX);
}

/** The name of the data file. */
export function dataFileName(header: Fields, extensions: HeaderExtensions): string | undefined {
  return nameIn(header, extensions, EXTENSION_DATA_FILE, DATA_FILE_NAME_BYTES_MAX);
}

function nameIn(
  header: Fields,
  extensions: HeaderExtensions,
  type: number,
  maximumBytes: number,
): string | undefined {
  const extension = findExtension(extensions, type);
  if (extension === undefined || extension.length === 0) return undefined;
  const { offset, length } = extension;
  const name = `the ${KNOWN.get(type)}`;
  if (length <= maximumBytes) return header.text(offset, length, name);
  throw header.refusal(offset, `${name} has ${length} bytes, more than ${maximumBytes}`);
}

/** The place of the LUKS area. */
export function encryptionExtension(
  header: Fields,
  extensions: HeaderExtensions,
  clusterBytes: number,
): EncryptionExtension | undefined {
  const extension = findExtension(extensions, EXTENSION_ENCRYPTION);
  if (extension === undefined) return undefined;
  const { offset: at } = extension;
  checkLength(header, extension, ENCRYPTION_EXTENSION_BYTES);
  const length = header.byteCount(at + 8, 'the length of the encryption header');
  const name = 'the offset of the encryption header';
  return { offset: header.tableOffset(at, name, clusterBytes, length), length };
}

/** There is a bitmaps extension, whatever it says. */
export function hasBitmaps(extensions: HeaderExtensions): boolean {
  return findExtension(extensions, EXTENSION_BITMAPS) !== undefined;
}

/** The place of the bitmap directory. */
export function bitmapsExtension(
  header: Fields,
  extensions: HeaderExtensions,
  clusterBytes: number,
): BitmapsExtension | undefined {
  const extension = findExtension(extensions, EXTENSION_BITMAPS);
  if (extension === undefined) return undefined;
  checkLength(header, extension, BITMAPS_EXTENSION_BYTES);
  const { offset: at } = extension;
  const count = header.u32(at);
  if (count === 0 || count > BITMAPS_MAX) {
    throw header.refusal(at, `there are ${count} bitmaps; it must be 1 to ${BITMAPS_MAX}`);
  }
  const reserved = header.u32(at + 4);
  if (reserved !== 0) throw header.refusal(at + 4, `a reserved field is ${hex(reserved)}, not 0`);
  const directoryBytes = header.byteCount(at + 8, 'the size of the bitmap directory');
  if (directoryBytes > BITMAP_DIRECTORY_BYTES_MAX) {
    const found = `the bitmap directory has ${directoryBytes} bytes`;
    throw header.refusal(at + 8, `${found}, more than ${BITMAP_DIRECTORY_BYTES_MAX}`);
  }
  const name = 'the offset of the bitmap directory';
  const directoryOffset = header.tableOffset(at + 16, name, clusterBytes, directoryBytes);
  return { count, directoryOffset, directoryBytes };
}

function checkLength(header: Fields, { type, offset, length }: HeaderExtension, bytes: number) {
  if (length === bytes) return;
  const found = `the ${KNOWN.get(type)} extension has ${length} bytes`;
  throw header.refusal(offset, `${found}; it must have ${bytes}`);
}
