/** Opening images and block devices as disks. */
import { type FileBackend, type FileBackendOptions, openFileBackend } from './backend/file.ts';
import { invalid } from './arguments.ts';
import { type BackingFormat, Chain, isPolicy, type NamedFilePolicy } from './image/chain.ts';
import {
  formatOf,
  type ImageFormat,
  isReadOnlyFormat,
  MAGIC_BYTES,
  READ_ONLY_ADVICE,
} from './image/format.ts';
import {
  DEFAULT_FLUSH_INTERVAL_MS,
  DEFAULT_METADATA_CACHE_BYTES,
  MAX_FLUSH_INTERVAL_MS,
  MAX_METADATA_CACHE_BYTES,
} from './image/limits.ts';
import { type EncryptionOptions, isEncryption } from './image/qcow2/encryption.ts';
import { openQcow2, type Qcow2Options } from './image/qcow2/open.ts';
import type { ResizeWork } from './image/qcow2/resizing.ts';
import { type CacheAxes, resolveCacheMode } from './cache-mode.ts';
import { Disk } from './disk.ts';
import { DISK_OPTIONS, type DiskOptions } from './disk-types.ts';
import { SluiceError } from './errors.ts';
import {
  checkedInUse,
  checkOptions,
  type Checks,
  isCallback,
  isOneOf,
  isSignal,
  isSwitch,
  isWhole,
  pick,
  toPaths,
} from './options.ts';

/** How an image is opened. */
export interface OpenOptions extends DiskOptions {
  /**
   * Format of the image. Without it an image that begins like another known format is refused
   * rather than served as raw; nothing is ever guessed.
   */
  readonly format?: ImageFormat | undefined;
  /**
   * qcow2: which files the image may name as its backing or data file. `deny` (default): none;
   * `{ folders }`: those in these folders, also after links are followed.
   */
  readonly backing?: NamedFilePolicy | undefined;
  /** qcow2: the format of the backing file, where the image does not say it. */
  readonly backingFormat?: BackingFormat | undefined;
  /**
   * qcow2: the key of an encrypted image, and of the encrypted files of its chain. LUKS tells when
   * it is wrong; the old AES encryption, which is for reading only, cannot tell.
   */
  readonly encryption?: EncryptionOptions | undefined;
  /** qcow2: bytes of L2 tables to keep in memory; default 16 MiB. */
  readonly metadataCacheBytes?: number | undefined;
  /**
   * qcow2: bytes to which `resize` may let the disk grow: room for its tables is set aside when it
   * is opened. Default four times what it has.
   */
  readonly maxSizeBytes?: number | undefined;
  /**
   * qcow2: milliseconds after which changed tables are written though nobody flushes, so that a
   * process that is killed loses no more than that; 0: never. Default 5000.
   */
  readonly flushIntervalMs?: number | undefined;
  /**
   * qcow2: told, in a line each, what was found and mended before the disk opens for writing: an
   * image that was not closed, bitmaps that are out of date or damaged.
   */
  readonly onNotice?: ((text: string) => unknown) | undefined;
  /** Allow writes; default false. */
  readonly writable?: boolean | undefined;
  /**
   * `auto` takes the locks that QEMU takes, so that two writers never meet; `none` takes none.
   * Default `auto`.
   */
  readonly lock?: 'auto' | 'none' | undefined;
  /** `unmap` (default): discards, and zeroes that may be unmapped, make holes; `ignore`: never. */
  readonly discard?: 'unmap' | 'ignore' | undefined;
  /** I/O calls in flight at once with O_DIRECT; default 64, or by the size of libuv's pool. */
  readonly depth?: number | undefined;
  /**
   * Where calls are made that wait for a disk. `auto` (default): O_DIRECT and O_DSYNC on the
   * calling thread when a transfer is short and alone in flight and the disk answers within a
   * millisecond; other direct transfers, and cached reads that miss, by io_uring; the rest, and
   * where there is no io_uring, on libuv's pool. `io_uring`: the same, but opening fails where
   * there is none (ERR_SLUICE_UNSUPPORTED). `threads`: always on the pool.
   */
  readonly aio?: 'auto' | 'io_uring' | 'threads' | undefined;
  /** Stops the opening. */
  readonly signal?: AbortSignal | undefined;
}

/** Checks of OpenOptions. */
export const OPEN_OPTIONS: Checks<OpenOptions> = {
  ...DISK_OPTIONS,
  // There are more formats than these to speak of.
  format: checkedInUse,
  backing: isPolicy,
  backingFormat: isOneOf('raw', 'qcow2'),
  encryption: isEncryption,
  metadataCacheBytes: isWhole(0, MAX_METADATA_CACHE_BYTES),
  maxSizeBytes: isWhole(0),
  flushIntervalMs: isWhole(0, MAX_FLUSH_INTERVAL_MS),
  onNotice: isCallback,
  writable: isSwitch,
  lock: isOneOf('auto', 'none'),
  discard: isOneOf('unmap', 'ignore'),
  depth: isWhole(1),
  aio: isOneOf('auto', 'io_uring', 'threads'),
  signal: isSignal,
};

/**
 * Opens an image or a block device as a disk; or several, all of one size, as one disk that is
 * striped over them in chunks of `chunkBytes`.
 *
 * The disk lives on the calling thread: page-cache reads and writes run on it (a write can wait
 * there when the host throttles dirty pages); O_DIRECT, and reads that miss the page cache, go by
 * io_uring (but see `aio`); syncs, O_DSYNC and fallocate run on libuv's pool.
 * @throws SluiceError ERR_SLUICE_OPEN, ERR_SLUICE_LOCKED, ERR_SLUICE_DIRECT_UNSUPPORTED and others;
 *   the table is in the README
 */
export async function openDisk(
  path: string | readonly string[],
  options: OpenOptions = {},
): Promise<Disk> {
  checkOptions(options, OPEN_OPTIONS, 'openDisk');
  const { axes } = resolveCacheMode(options.cache);
  const paths = toPaths(path);
  if (options.format !== undefined) checkFormat(paths, options.format);
  options.signal?.throwIfAborted();
  const disk =
    options.format === 'qcow2'
      ? await openImage(paths, options, axes)
      : await overFiles(paths, options, axes);
  try {
    options.signal?.throwIfAborted();
    if (options.format === undefined) await refuseOtherFormats(paths, disk);
    return disk;
  } catch (error) {
    await disk.close();
    throw error;
  }
}

/** Opens a qcow2 image to give its disk another size, and for nothing else. */
export function openToResize(path: string, options: OpenOptions, work: ResizeWork): Promise<Disk> {
  const { axes } = resolveCacheMode(options.cache);
  return openImage([path], { ...options, format: 'qcow2', writable: true }, axes, work);
}

function backendOptions(
  options: OpenOptions,
  direct: boolean,
  noFlush: boolean,
): FileBackendOptions {
  return {
    direct,
    noFlush,
    writable: options.writable ?? false,
    lock: options.lock ?? 'auto',
    discard: options.discard ?? 'unmap',
    aio: options.aio ?? 'auto',
    ...(options.depth === undefined ? {} : { depth: options.depth }),
  };
}

async function overFiles(
  paths: readonly string[],
  options: OpenOptions,
  { direct, noFlush }: CacheAxes,
): Promise<Disk> {
  refuseQcow2Options(options);
  const backends: FileBackend[] = [];
  try {
    for (const path of paths) {
      backends.push(await openFileBackend(path, backendOptions(options, direct, noFlush)));
    }
    const [first, ...rest] = backends;
    if (first === undefined) throw invalid('a disk has at least one file');
    return new Disk([first, ...rest], pick(options, DISK_OPTIONS));
  } catch (error) {
    await Promise.all(backends.map((backend) => backend.close()));
    throw error;
  }
}

async function openImage(
  paths: readonly string[],
  options: OpenOptions,
  { direct, noFlush }: CacheAxes,
  resize?: ResizeWork,
): Promise<Disk> {
  const [path, ...others] = paths;
  if (path === undefined || others.length > 0) throw invalid('a qcow2 disk is one image');
  const qcow2: Qcow2Options = {
    file: backendOptions(options, direct, noFlush),
    disk: pick(options, DISK_OPTIONS),
    encryption: options.encryption,
    notice: options.onNotice ?? (() => undefined),
    backing: options.backing ?? 'deny',
    backingFormat: options.backingFormat,
    metadataCacheBytes: options.metadataCacheBytes ?? DEFAULT_METADATA_CACHE_BYTES,
    maxSizeBytes: options.maxSizeBytes,
    flushIntervalMs: options.flushIntervalMs ?? DEFAULT_FLUSH_INTERVAL_MS,
    resize,
  };
  return openQcow2(path, qcow2, new Chain());
}

/** Options that mean nothing to a raw disk. */
const QCOW2_OPTIONS = [
  'backing',
  'backingFormat',
  'encryption',
  'metadataCacheBytes',
  'maxSizeBytes',
  'flushIntervalMs',
] as const;

/** What would be passed over in silence may be what somebody relies on. */
function refuseQcow2Options(options: OpenOptions): void {
  const given = QCOW2_OPTIONS.find((name) => options[name] !== undefined);
  if (given === undefined) return;
  throw invalid(`${given} is for qcow2 images: pass format: 'qcow2' (-f qcow2)`);
}

function checkFormat(paths: readonly string[], format: string): void {
  if (format === 'raw' || format === 'qcow2') return;
  throw new SluiceError(
    'ERR_SLUICE_UNSUPPORTED',
    `cannot open '${paths[0]}' as ${format}: ` +
      (isReadOnlyFormat(format) ? READ_ONLY_ADVICE : 'this release opens raw and qcow2 images'),
    { operation: 'open', ...(paths[0] === undefined ? {} : { path: paths[0] }) },
  );
}

/** Refuses to take an image of another format for raw by accident. */
async function refuseOtherFormats(paths: readonly string[], disk: Disk): Promise<void> {
  const path = paths.join("', '");
  const start = await disk.read(0, Math.min(MAGIC_BYTES, disk.size));
  const format = formatOf(start);
  if (format === undefined) return;
  const advice =
    format === 'qcow2'
      ? "pass format: 'qcow2' (-f qcow2)"
      : isReadOnlyFormat(format)
        ? READ_ONLY_ADVICE
        : 'which this release cannot open';
  throw new SluiceError(
    'ERR_SLUICE_UNSUPPORTED',
    `'${path}' looks like a ${format} image: ${advice}; ` +
      "or pass format: 'raw' (-f raw) to use its bytes as they are",
    { operation: 'open', path },
  );
}
