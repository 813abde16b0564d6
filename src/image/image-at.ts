/**
 * An image that a verb works on, as a file: for what is done to it beside reading and writing the
 * disk in it.
 *
 * I1 Without a format an image is taken for what it begins as; a format that cannot be opened is
 *    refused by its name. Backing files are never guessed.
 * I2 The locks are those of an open disk, so that nobody's image is changed while it is in use.
 */
import { stat } from 'node:fs/promises';

import { type FileBackend, openFileBackend } from '../backend/file.ts';
import { isCacheMode, resolveCacheMode, type CacheModeName } from '../cache-mode.ts';
import { SluiceError } from '../errors.ts';
import { type Checks, isOneOf, isSignal } from '../options.ts';
import { hasProtocol } from './chain.ts';
import {
  formatOf,
  isReadOnlyFormat,
  MAGIC_BYTES,
  readOnlyFormat,
  type SourceFormat,
} from './format.ts';
import { BackendFile } from './image-file.ts';
import { type Qcow2Header, readHeader } from './qcow2/header.ts';
import { hasPreallocation } from './qcow2/preallocated.ts';
import { openReadOnlyDisk, type ReadOnlyDisk } from './read-only-disk.ts';
import { toSectors } from './sectors.ts';

/** How a verb opens its image. */
export interface ImageOptions {
  /** Format of the image; without it the image is what it begins as. */
  readonly format?: SourceFormat | undefined;
  /**
   * `auto` (default) takes the locks that QEMU takes; `none` takes none: what is read of an image
   * that somebody writes may be no state that it ever had.
   */
  readonly lock?: 'auto' | 'none' | undefined;
  /** Cache mode of the host's I/O; default writeback. */
  readonly cache?: CacheModeName | undefined;
  /** Stops the work with its reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Checks of ImageOptions. */
export const IMAGE_OPTIONS: Checks<ImageOptions> = {
  format: isOneOf('raw', 'qcow2', 'vpc', 'vmdk'),
  lock: isOneOf('auto', 'none'),
  cache: isCacheMode,
  signal: isSignal,
};

/** An open image; `header` is that of a qcow2 image, `disk` is in one that is only read. */
export interface ImageAt extends AsyncDisposable {
  readonly path: string;
  /** What it is called: the path that was passed, or the name in the image above, beside that. */
  readonly name: string;
  readonly format: SourceFormat;
  readonly file: BackendFile;
  readonly backend: FileBackend;
  readonly header: Qcow2Header | undefined;
  readonly disk: ReadOnlyDisk | undefined;
  /** Bytes that the host has set aside for it. */
  allocatedBytes(): Promise<number>;
  /** True where data clusters may be holes of the file (preallocated.ts). */
  hasPreallocation(): Promise<boolean>;
}

const BLOCK_BYTES = 512;

/** Opens the image at a path. */
export async function openImageAt(
  path: string,
  options: ImageOptions,
  writable: boolean,
): Promise<ImageAt> {
  const { signal, lock } = options;
  const { direct, noFlush } = resolveCacheMode(options.cache).axes;
  signal?.throwIfAborted();
  refuseUri(path);
  const files = { direct, noFlush, writable, lock, discard: 'unmap', anySize: true } as const;
  const backend = await openFileBackend(path, { ...files, lock: lock ?? 'auto' });
  try {
    const file = new BackendFile(backend, path);
    const format = options.format ?? (await probe(file, path));
    const header = format === 'qcow2' ? await readHeader(file, path) : undefined;
    const disk = isReadOnlyFormat(format) ? await openReadOnlyDisk(format, file, path) : undefined;
    const allocatedBytes = async (): Promise<number> => (await stat(path)).blocks * BLOCK_BYTES;
    return {
      path,
      name: path,
      format,
      file,
      backend,
      header,
      disk,
      allocatedBytes,
      hasPreallocation: async () =>
        header === undefined
          ? disk !== undefined && disk.clusterBytes === undefined
          : header.dataFile === undefined &&
            !backend.isBlockDevice &&
            (await hasPreallocation(file, header, await allocatedBytes())),
      [Symbol.asyncDispose]: () => backend.close(),
    };
  } catch (error) {
    await backend.close();
    throw error;
  }
}

/** A file of that name is more likely to be an accident than to be meant. */
export function refuseUri(path: string): void {
  if (!hasProtocol(path)) return;
  const [scheme = ''] = path.split(':', 1);
  const what = path.startsWith(`${scheme}://`) ? 'is a URI' : 'begins with a protocol';
  const found = `${JSON.stringify(path)} ${what} (${scheme}), and images are named by their paths`;
  const advice = 'convert, compare, dd, info, map and measure take nbd://; write ./ before a file';
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${found}; ${advice}`, { path });
}

/** I1. */
async function probe(file: BackendFile, path: string): Promise<SourceFormat> {
  const format = formatOf(await file.read(0, Math.min(MAGIC_BYTES, file.sizeBytes))) ?? 'raw';
  if (format === 'raw' || format === 'qcow2' || isReadOnlyFormat(format)) return format;
  const found = `${JSON.stringify(path)} looks like a ${format} image, which cannot be opened`;
  const advice = "pass format: 'raw' (-f raw) to use its bytes as they are";
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${found}; ${advice}`, {
    operation: 'open',
    path,
  });
}

/** The header of an image that must be qcow2; `what` is what only qcow2 has. */
export function qcow2HeaderOf({ header, format, path }: ImageAt, what: string): Qcow2Header {
  if (header !== undefined) return header;
  if (isReadOnlyFormat(format)) throw readOnlyFormat(path, format);
  const message = `${JSON.stringify(path)} is a raw image, which has no ${what}`;
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { path });
}

/** Bytes of the disk in an image: of a raw one whole sectors, of which the file has a part. */
export function diskBytesOf({ header, disk, file }: ImageAt): number {
  return (header ?? disk)?.sizeBytes ?? toSectors(file.sizeBytes);
}
