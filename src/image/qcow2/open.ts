/**
 * Opening a qcow2 image as a disk: its header is judged, its other files are opened, and the engine
 * gets its tables.
 *
 * O1 An image that cannot be handled as it asks to be is refused here, never misread.
 * O2 What the format wants done before the first write is done, and stable, before the disk opens.
 */
import {
  FILE_BACKING,
  FILE_CIPHERED,
  FILE_COMPRESSED,
  FILE_DATA,
  FILE_IMAGE,
} from '../../abi/map.ts';
import type { Backend } from '../../backend/backend.ts';
import { type FileBackend, type FileBackendOptions, openFileBackend } from '../../backend/file.ts';
import { Disk } from '../../disk.ts';
import type { DiskOptions } from '../../disk-types.ts';
import type { Engine } from '../../engine.ts';
import { SluiceError } from '../../errors.ts';
import type { Mapping } from '../../mapping.ts';
import { backingFormatOf, type BackingFormat, type Chain, resolveNamed } from '../chain.ts';
import type { NamedFilePolicy } from '../chain.ts';
import { DiskBackend } from '../disk-backend.ts';
import { BackendFile } from '../image-file.ts';
import { granulesFor, markInUse } from './bitmaps.ts';
import { storeBitmaps } from './bitmap-store.ts';
import { openCompressedView } from './compressed-view.ts';
import { CryptView } from './crypt-view.ts';
import { readDirtyBits } from './dirty-bits.ts';
import { type EncryptionOptions, unlock } from './encryption.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import { refuseDamagedLayout } from './header-layout.ts';
import { mappingOf, roomFor } from './image-mapping.ts';
import { endWithCluster, makeWritable } from './make-writable.ts';
import { writtenGranules } from './map-region.ts';
import { makeRoomForData, Qcow2Resizing, type ResizeWork } from './resizing.ts';

const GROWTH = 4;

/** How a qcow2 image is opened. */
export interface Qcow2Options {
  /** How its files are opened; `lock` and `writable` are those of the image itself. */
  readonly file: FileBackendOptions;
  readonly disk: DiskOptions;
  /** Which files its names may stand for. */
  readonly backing: NamedFilePolicy;
  readonly backingFormat?: BackingFormat | undefined;
  /** The key of those of its files that are encrypted. */
  /** `isUsed`: an image above this one is encrypted. */
  readonly encryption?: (EncryptionOptions & { readonly isUsed?: boolean }) | undefined;
  /** Bytes of tables to keep in memory. */
  readonly metadataCacheBytes: number;
  /** Bytes to which the disk may grow; default GROWTH times what it has. */
  readonly maxSizeBytes?: number | undefined;
  /** Told what was found and done before the first write. */
  readonly notice: (text: string) => unknown;
  /** Greatest age of tables that were not written, in milliseconds; 0: no limit. */
  readonly flushIntervalMs: number;
  /** Nobody is going to write to the disk: its bitmaps are not told of writes. */
  readonly resize?: ResizeWork | undefined;
}

/** Opens the image at a path as a disk. The files of the chain so far are in `chain`. */
export async function openQcow2(path: string, options: Qcow2Options, chain: Chain): Promise<Disk> {
  // What is wrong with the first of them is said as it is said of every image.
  const isFirst = chain.isEmpty;
  if (!isFirst) await chain.add(path);
  const opened: Backend[] = [];
  try {
    const image = await openFileBackend(path, { ...options.file, anySize: true });
    opened.push(image);
    if (isFirst) await chain.add(path);
    return await overImage(path, image, options, chain, opened);
  } catch (error) {
    await Promise.allSettled(opened.map((backend) => backend.close()));
    throw error;
  }
}

async function overImage(
  path: string,
  image: FileBackend,
  options: Qcow2Options,
  chain: Chain,
  opened: Backend[],
): Promise<Disk> {
  const file = new BackendFile(image, path);
  const writable = options.file.writable === true;
  const notice = (text: string): unknown => options.notice(`${JSON.stringify(path)}: ${text}`);
  const found = await readHeader(file, path);
  refuseMarkedCorrupt(found, path, writable);
  refuseDamagedLayout(found, { fileBytes: file.sizeBytes, path, writable });
  const cipher = await unlock(file, found, path, writable, options.encryption);
  const asFound = { header: found, bitmaps: [] };
  const { header, bitmaps } = writable ? await makeWritable(file, found, path, notice) : asFound;
  const files: (Backend | undefined)[] = [];
  const add = (index: number, backend: Backend): Backend => {
    opened.push(backend);
    files[index] = backend;
    return backend;
  };
  files[FILE_IMAGE] = image;
  let data: FileBackend | undefined;
  if (header.dataFile !== undefined) {
    data = await openDataFile(path, header, options, chain);
    add(FILE_DATA, cipher === undefined ? data : new CryptView(data, cipher));
  } else {
    const inner = await openFileBackend(path, secondOpen(options.file));
    opened.push(inner);
    const { clusterBytes, compression } = header;
    add(FILE_COMPRESSED, await openCompressedView(inner, { clusterBytes, compression }));
    // A twin: what is metadata and what is data may share a block of O_DIRECT.
    if (cipher !== undefined) add(FILE_CIPHERED, new CryptView(image.twin(), cipher));
  }
  if (header.backing !== undefined) {
    const { encryption: key } = options;
    const encryption = cipher === undefined || key === undefined ? key : { ...key, isUsed: true };
    add(FILE_BACKING, await openBacking(path, header.backing, { ...options, encryption }, chain));
  }
  const granules = options.resize === undefined ? granulesFor(bitmaps, header) : undefined;
  const maxSizeBytes = maxSizeOf(header, options);
  const room = roomFor(header, file.sizeBytes, maxSizeBytes, options.metadataCacheBytes);
  const mapping = {
    ...(await mappingOf(file, header, path, files, options, granules, room)),
    readBitmap: bitmapReader(path, options.file, files[FILE_BACKING]),
  };
  if (writable && !image.isBlockDevice) await endWithCluster(file, header);
  if (granules === undefined) {
    const open = { path, image, data, cipher, files, options, room, maxSizeBytes };
    const resizing = new Qcow2Resizing(open, header);
    return new Disk(files, { ...options.disk, mapping: { ...mapping, resizing } });
  }
  const finish = (engine: Engine): Promise<void> => {
    const written = { bits: granules.bits, map: writtenGranules(engine, granules) };
    const end = new BackendFile(image, path);
    return storeBitmaps(end, path, bitmaps, written, image.isBlockDevice);
  };
  await markInUse(file, bitmaps, true);
  try {
    return new Disk(files, { ...options.disk, mapping: { ...mapping, finish } });
  } catch (error) {
    await markInUse(new BackendFile(image, path), bitmaps, false);
    throw error;
  }
}

/** A disk that is only read does not grow. */
function maxSizeOf({ sizeBytes }: Qcow2Header, options: Qcow2Options): number {
  if (options.file.writable !== true) return sizeBytes;
  return Math.max(sizeBytes, options.maxSizeBytes ?? sizeBytes * GROWTH);
}

/** O1: a writer would make it worse. */
function refuseMarkedCorrupt(header: Qcow2Header, path: string, writable: boolean): void {
  if (!header.corrupt || !writable) return;
  const found = `cannot open ${JSON.stringify(path)}: the image is marked corrupt`;
  const advice = 'open it read-only, or check and repair it';
  const place = { operation: 'open', path };
  throw new SluiceError('ERR_SLUICE_CORRUPT', `${found}; ${advice}`, place);
}

/** The image once more, read-only, beside the engine. */
function secondOpen(options: FileBackendOptions): FileBackendOptions {
  return { ...options, writable: false, lock: 'none', anySize: true };
}

/** Bitmaps are read when they are asked for, while the image itself is in use. */
function bitmapReader(
  path: string,
  options: FileBackendOptions,
  below: Backend | undefined,
): NonNullable<Mapping['readBitmap']> {
  return async (name) => {
    const backend = await openFileBackend(path, secondOpen(options));
    try {
      const file = new BackendFile(backend, path);
      const header = await readHeader(file, path);
      const found = await readDirtyBits(file, header, path, name, options.writable === true);
      if (found !== undefined) return found;
    } finally {
      await backend.close();
    }
    return below instanceof DiskBackend ? below.disk.device.readBitmap?.(name) : undefined;
  };
}

async function openDataFile(
  path: string,
  header: Qcow2Header,
  options: Qcow2Options,
  chain: Chain,
): Promise<FileBackend> {
  const name = header.dataFile?.name;
  if (name === undefined) {
    const message = `cannot open ${JSON.stringify(path)}: it does not name its data file`;
    throw new SluiceError('ERR_SLUICE_FILE_REFUSED', message, { operation: 'open', path });
  }
  const dataPath = await resolveNamed('data', name, path, options.backing);
  await chain.add(dataPath);
  const data = await openFileBackend(dataPath, { ...options.file, anySize: true });
  try {
    if (options.file.writable === true) await makeRoomForData(data, header, header.sizeBytes);
    return data;
  } catch (error) {
    await data.close();
    throw error;
  }
}

async function openBacking(
  path: string,
  backing: { readonly name: string; readonly format?: string },
  options: Qcow2Options,
  chain: Chain,
): Promise<Backend> {
  const format = backingFormatOf(backing, path, options.backingFormat);
  const backingPath = await resolveNamed('backing', backing.name, path, options.backing);
  const file = { ...options.file, writable: false, anySize: true };
  try {
    if (format === 'raw') {
      await chain.add(backingPath);
      return await openFileBackend(backingPath, file);
    }
    const { backingFormat: _, ...rest } = options;
    const disk = { ...options.disk, tracer: undefined, bufferBytes: BACKING_BUFFER_BYTES };
    return new DiskBackend(await openQcow2(backingPath, { ...rest, file, disk }, chain));
  } catch (error) {
    throw error instanceof SluiceError ? ofBacking(error, path) : error;
  }
}

/** Whose fault it is: the user has named another file. */
function ofBacking({ code, message, cause, path }: SluiceError, image: string): SluiceError {
  const what = `${message} (it is the backing file of ${JSON.stringify(image)})`;
  return new SluiceError(code, what, { operation: 'open', path: path ?? image, cause });
}

/** Reads of a backing disk are as large as a request at most. */
const BACKING_BUFFER_BYTES = 8 * 1024 * 1024;
