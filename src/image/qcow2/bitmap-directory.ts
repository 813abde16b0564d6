/**
 * The directory of persistent bitmaps. The disk does not need it: what makes it or a bitmap
 * unusable is reported as a `problem`, and nothing is thrown for it.
 */
import {
  BITMAP_BYTES_MAX,
  BITMAP_ENTRY_BYTES,
  BITMAP_EXTRA_SIZE,
  BITMAP_FLAG_AUTO_BIT,
  BITMAP_FLAG_EXTRA_COMPATIBLE_BIT,
  BITMAP_FLAG_IN_USE_BIT,
  BITMAP_FLAGS,
  BITMAP_GRANULARITY_BITS,
  BITMAP_GRANULARITY_BITS_MAX,
  BITMAP_GRANULARITY_BITS_MIN,
  BITMAP_NAME_BYTES_MAX,
  BITMAP_NAME_SIZE,
  BITMAP_TABLE_OFFSET,
  BITMAP_TABLE_SIZE,
  BITMAP_TYPE,
  BITMAP_TYPE_DIRTY,
  L2_ENTRY_BYTES,
} from '../../abi/qcow2.ts';
import type { ImageFile } from '../image-file.ts';
import { Fields, hasBit, hex } from './fields.ts';
import type { Qcow2Header } from './header.ts';

/** One persistent bitmap. */
export interface Bitmap {
  readonly name: string;
  /** Where its entry begins in the file. */
  readonly offset: number;
  /** Inexact when it is past 2^53; `problem` says so. */
  readonly tableOffset: number;
  readonly tableEntries: number;
  /** It was not stored since it was last opened for writing: its bits mean nothing. */
  readonly inUse: boolean;
  /** It is to be kept up to date by whoever writes to the disk. */
  readonly auto: boolean;
  readonly granularityBits: number;
  /** Why it cannot be used. */
  readonly problem?: string;
}

/** The bitmaps of an image, in the order of the directory. */
export interface BitmapDirectory {
  readonly bitmaps: readonly Bitmap[];
  /** The first thing that is wrong: of the directory, or of a bitmap. */
  readonly problem?: string;
}

const KNOWN_FLAGS =
  (1 << BITMAP_FLAG_IN_USE_BIT) |
  (1 << BITMAP_FLAG_AUTO_BIT) |
  (1 << BITMAP_FLAG_EXTRA_COMPATIBLE_BIT);
const BITS_PER_BYTE = 8;

/** Reads the directory, if the image has one that is consistent. */
export async function readBitmapDirectory(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
): Promise<BitmapDirectory> {
  const { count, directoryOffset, directoryBytes } = header.bitmaps ?? NO_BITMAPS;
  if (count === 0) return { bitmaps: [] };
  const thereBytes = Math.max(0, Math.min(file.sizeBytes - directoryOffset, directoryBytes));
  const bytes = thereBytes === 0 ? NOTHING : await file.read(directoryOffset, thereBytes);
  return parseBitmapDirectory(bytes, header, file.sizeBytes, path);
}

/** The directory in these bytes of a file of `fileBytes`; it is cut off where they end. */
export function parseBitmapDirectory(
  bytes: Uint8Array,
  header: Qcow2Header,
  fileBytes: number,
  path: string,
): BitmapDirectory {
  const { count, directoryOffset, directoryBytes } = header.bitmaps ?? NO_BITMAPS;
  const source = { path, what: 'the bitmap directory', offset: directoryOffset };
  const directory = new Fields(bytes.subarray(0, directoryBytes), source);
  const bitmaps: Bitmap[] = [];
  let at = 0;
  while (bitmaps.length < count) {
    const end = entryEnd(directory, at);
    if (end > directory.bytes.length) {
      const found = `it ends inside entry ${bitmaps.length} of ${count}`;
      return { bitmaps, problem: directory.describe(at, found) };
    }
    bitmaps.push(bitmapAt(directory, at, header, fileBytes));
    at = Math.ceil(end / 8) * 8;
  }
  const problem =
    at === directoryBytes
      ? bitmaps.find((bitmap) => bitmap.problem !== undefined)?.problem
      : directory.describe(at, `its entries end here, and it has ${directoryBytes} bytes`);
  return { bitmaps, ...(problem === undefined ? {} : { problem }) };
}

const NOTHING = new Uint8Array(0);
const NO_BITMAPS = { count: 0, directoryOffset: 0, directoryBytes: 0 };

/** Where the entry ends, without its padding; past the directory's end when it is cut off. */
function entryEnd(directory: Fields, at: number): number {
  const fixedEnd = at + BITMAP_ENTRY_BYTES;
  if (fixedEnd > directory.bytes.length) return fixedEnd;
  return fixedEnd + directory.u32(at + BITMAP_EXTRA_SIZE) + directory.u16(at + BITMAP_NAME_SIZE);
}

function bitmapAt(directory: Fields, at: number, header: Qcow2Header, fileBytes: number): Bitmap {
  const extraBytes = directory.u32(at + BITMAP_EXTRA_SIZE);
  const nameBytes = directory.u16(at + BITMAP_NAME_SIZE);
  const name = directory.label(at + BITMAP_ENTRY_BYTES + extraBytes, nameBytes);
  const flags = directory.u32(at + BITMAP_FLAGS);
  const bitmap = {
    name: name.text,
    offset: (header.bitmaps?.directoryOffset ?? 0) + at,
    tableOffset: Number(directory.u64(at + BITMAP_TABLE_OFFSET)),
    tableEntries: directory.u32(at + BITMAP_TABLE_SIZE),
    inUse: hasBit(flags, BITMAP_FLAG_IN_USE_BIT),
    auto: hasBit(flags, BITMAP_FLAG_AUTO_BIT),
    granularityBits: directory.u8(at + BITMAP_GRANULARITY_BITS),
  };
  const found =
    entryProblem(flags, directory.u8(at + BITMAP_TYPE), extraBytes) ??
    nameProblem(nameBytes, name.isWhole) ??
    granularityProblem(bitmap) ??
    tableProblem(bitmap, header, fileBytes);
  if (found === undefined) return bitmap;
  return {
    ...bitmap,
    problem: directory.describe(at, `bitmap ${JSON.stringify(name.text)}: ${found}`),
  };
}

function entryProblem(flags: number, type: number, extraBytes: number): string | undefined {
  const unknown = (flags & ~KNOWN_FLAGS) >>> 0;
  if (unknown !== 0) return `its flags ${hex(unknown)} are not known`;
  if (type !== BITMAP_TYPE_DIRTY) return `its type is ${type}, not ${BITMAP_TYPE_DIRTY}`;
  const isKnown = extraBytes === 0 || hasBit(flags, BITMAP_FLAG_EXTRA_COMPATIBLE_BIT);
  return isKnown ? undefined : `its ${extraBytes} bytes of extra data are not known`;
}

function nameProblem(nameBytes: number, isWhole: boolean): string | undefined {
  if (nameBytes === 0 || nameBytes > BITMAP_NAME_BYTES_MAX) {
    return `its name has ${nameBytes} bytes; it must be 1 to ${BITMAP_NAME_BYTES_MAX}`;
  }
  return isWhole ? undefined : 'its name is not a text';
}

function granularityProblem({ granularityBits }: Bitmap): string | undefined {
  const isPossible =
    granularityBits >= BITMAP_GRANULARITY_BITS_MIN &&
    granularityBits <= BITMAP_GRANULARITY_BITS_MAX;
  if (isPossible) return undefined;
  const range = `2^${BITMAP_GRANULARITY_BITS_MIN} to 2^${BITMAP_GRANULARITY_BITS_MAX}`;
  return `a bit stands for 2^${granularityBits} bytes; it must be ${range}`;
}

function tableProblem(bitmap: Bitmap, header: Qcow2Header, fileBytes: number): string | undefined {
  const { tableOffset, tableEntries, granularityBits } = bitmap;
  const { clusterBytes, sizeBytes } = header;
  const name = `its table at ${hex(tableOffset)} has ${tableEntries} entries`;
  const bits = Math.ceil(sizeBytes / 2 ** granularityBits);
  const needed = Math.ceil(Math.ceil(bits / BITS_PER_BYTE) / clusterBytes);
  if (tableEntries !== needed) return `${name}; the disk needs ${needed}`;
  if (tableEntries * clusterBytes > BITMAP_BYTES_MAX) {
    return `${name}; its bits may have at most ${BITMAP_BYTES_MAX} bytes`;
  }
  if (tableOffset % clusterBytes !== 0) {
    return `${name}; it must begin at a multiple of the cluster size, ${clusterBytes}`;
  }
  if (tableOffset + tableEntries * L2_ENTRY_BYTES <= fileBytes) return undefined;
  return `${name} and passes the end of the file, which has ${fileBytes} bytes`;
}
