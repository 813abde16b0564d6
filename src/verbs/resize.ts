/** Another size for the disk of an image that nobody has open. */
import { invalid, toNumber } from '../arguments.ts';
import type { Disk } from '../disk.ts';
import type { ByteCount } from '../disk-types.ts';
import { SluiceError } from '../errors.ts';
import { isPolicy, type NamedFilePolicy } from '../image/chain.ts';
import { type ImageFormat, isReadOnlyFormat, readOnlyFormat } from '../image/format.ts';
import { IMAGE_OPTIONS, type ImageOptions, openImageAt, qcow2HeaderOf } from '../image/image-at.ts';
import { bitmapsToResize } from '../image/qcow2/bitmap-resize.ts';
import { isPreallocation, type Preallocation } from '../image/qcow2/create-options.ts';
import { type EncryptionOptions, isEncryption } from '../image/qcow2/encryption.ts';
import { toSectors } from '../image/sectors.ts';
import { openDisk, openToResize } from '../open-disk.ts';
import {
  type Check,
  checkOptions,
  type Checks,
  isSwitch,
  isText,
  isWhole,
  objectOf,
} from '../options.ts';

/** Options of `resize`. */
export interface ResizeImageOptions extends ImageOptions {
  /** The disk may become smaller: what lies behind its new end is lost. Default false. */
  readonly shrink?: boolean | undefined;
  /**
   * Of a disk that grows, for what is new: `falloc` lets the host set space aside, `full` writes
   * zeroes; `metadata`, of qcow2 alone, gives it clusters that may be holes. Default off.
   */
  readonly preallocation?: Preallocation | undefined;
  /** Which files the image may name; default none. */
  readonly backing?: NamedFilePolicy | undefined;
  /** The key of an encrypted image. */
  readonly encryption?: EncryptionOptions | undefined;
}

const RESIZE_OPTIONS: Checks<ResizeImageOptions> = {
  ...IMAGE_OPTIONS,
  shrink: isSwitch,
  preallocation: isPreallocation,
  backing: isPolicy,
  encryption: isEncryption,
};

/** The size of a disk: in bytes, or what is to be added to it; less than 0: taken away. */
export type NewSize = ByteCount | { readonly by: number | bigint };

const isBy: Check = (value, name) =>
  isWhole(Number.MIN_SAFE_INTEGER)(typeof value === 'bigint' ? Number(value) : value, name);

const isChange = objectOf({ by: isBy }, ['by']);

const PIECE_BYTES = 4 * 1024 * 1024;
const FALLOCATE_BYTES = 2 ** 30;
const SECTOR_BYTES = 512;

/**
 * Changes the size of the disk in an image; answers it, in bytes. What is new reads as zeroes. It
 * is stable, and a cut leaves one size or the other.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT when it would shrink without `shrink`;
 *   ERR_SLUICE_UNSUPPORTED for a bitmap that was not closed, snapshots of version 2, and what
 *   cannot be preallocated; ERR_SLUICE_NO_SPACE
 */
export async function resize(
  path: string,
  size: NewSize,
  options: ResizeImageOptions = {},
): Promise<number> {
  isText(path, 'path');
  checkOptions(options, RESIZE_OPTIONS, 'resize');
  if (typeof size === 'object') isChange(size, 'size');
  else toNumber(size, 'size');
  const format = await formatOf(path, options);
  refusePreallocation(path, format, options.preallocation ?? 'off');
  const wanted = (found: number): number => {
    const bytes = typeof size === 'object' ? found + Number(size.by) : Number(size);
    const isSize = Number.isSafeInteger(bytes) && bytes > 0;
    if (!isSize) throw invalid(`a disk has 1 byte at least; ${bytes} were asked for`);
    return bytes;
  };
  return resizeAt(path, format, wanted, options);
}

/** The size is asked for when the image is open, and locked. */
export async function resizeAt(
  path: string,
  format: ImageFormat,
  wanted: (foundBytes: number) => number,
  options: ResizeImageOptions,
): Promise<number> {
  const { signal, shrink, preallocation = 'off' } = options;
  await using disk = await openAs(path, format, wanted, options);
  const found = disk.size;
  const bytes = wanted(toSectors(found));
  if (format === 'qcow2' && bytes % SECTOR_BYTES !== 0) {
    throw invalid(`${bytes} bytes are no whole sectors of ${SECTOR_BYTES}; round them`);
  }
  if (preallocation !== 'off' && bytes < found) {
    throw invalid(`preallocation '${preallocation}' is for a disk that grows; leave it out`);
  }
  signal?.throwIfAborted();
  await disk.resize(bytes, { shrink });
  if (preallocation === 'off' || format === 'qcow2') return bytes;
  try {
    await preallocate(disk, found, preallocation, signal);
  } catch (error) {
    await disk.resize(found, { shrink: true });
    throw error;
  }
  return bytes;
}

async function openAs(
  path: string,
  format: ImageFormat,
  wanted: (foundBytes: number) => number,
  options: ResizeImageOptions,
): Promise<Disk> {
  const { lock, cache, signal, backing, encryption, preallocation = 'off' } = options;
  const shared = { lock, cache, signal };
  if (format === 'raw') return openDisk(path, { ...shared, format, writable: true });
  const maxSizeBytes = await roomFor(path, wanted, options);
  const qcow2 = { ...shared, backing, encryption, maxSizeBytes };
  return openToResize(path, qcow2, { preallocation, signal });
}

async function formatOf(path: string, options: ResizeImageOptions): Promise<ImageFormat> {
  await using image = await openImageAt(path, options, false);
  if (isReadOnlyFormat(image.format)) throw readOnlyFormat(path, image.format);
  return image.format;
}

/**
 * The room for tables is that of the size, so it is known before the disk is open. Bitmaps that
 * would be given up then are refused now.
 */
async function roomFor(
  path: string,
  wanted: (foundBytes: number) => number,
  options: ResizeImageOptions,
): Promise<number> {
  await using image = await openImageAt(path, options, true);
  const header = qcow2HeaderOf(image, 'tables');
  const sizeBytes = wanted(header.sizeBytes);
  if (header.bitmaps?.consistent !== true) return sizeBytes;
  const { isBlockDevice } = image.backend;
  await bitmapsToResize(image.file, header, path, sizeBytes, { isBlockDevice });
  return sizeBytes;
}

function refusePreallocation(path: string, format: ImageFormat, mode: Preallocation): void {
  if (format === 'qcow2' || mode !== 'metadata') return;
  const what = `cannot resize ${JSON.stringify(path)} with preallocation 'metadata'`;
  const message = `${what}: a raw image has none; use falloc or full`;
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'resize', path });
}

/** What is behind `from` takes space on the host, and reads as zeroes. */
async function preallocate(
  disk: Disk,
  from: number,
  mode: Preallocation,
  signal: AbortSignal | undefined,
): Promise<void> {
  const most = mode === 'full' ? PIECE_BYTES : FALLOCATE_BYTES;
  const zeroes = new Uint8Array(mode === 'full' ? PIECE_BYTES : 0);
  for (let at = from; at < disk.size; at += most) {
    signal?.throwIfAborted();
    const length = Math.min(most, disk.size - at);
    if (mode === 'full') await disk.write(at, zeroes.subarray(0, length));
    else await disk.writeZeroes(at, length);
  }
  await disk.flush();
}
