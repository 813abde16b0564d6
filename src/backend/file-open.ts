/**
 * Opening an image: which descriptors, with which flags, of what kind and size, in which blocks.
 *
 *     opened for          plain descriptor        stable descriptor
 *     reading             O_RDONLY                -
 *     writing             O_RDWR                  O_RDWR | O_DSYNC
 *     writing, noFlush    O_RDWR                  -
 *     direct              each with O_DIRECT too
 *
 * libuv adds O_CLOEXEC to every open. Nothing falls back in silence: where O_DIRECT is not to be
 * had the open fails; where O_DSYNC is not, a stable write is a write and then a sync
 * (durability section 2). macOS counts as without: its O_DSYNC leaves the drive's cache alone,
 * while fdatasync by libuv is F_FULLFSYNC.
 */
import { close, constants, fstat, open, read, readFile, stat, statfs, type Stats } from 'node:fs';
import { type FileHandle, open as openHandle } from 'node:fs/promises';
import process from 'node:process';
import { promisify } from 'node:util';

import { type ErrorCode, SluiceError } from '../errors.ts';
import { EINVAL, errnoOf } from './errno.ts';
import type { Native } from './native.ts';

const openFile = promisify(open);
const closeFile = promisify(close);
const statFile = promisify(stat);
const statDescriptor = promisify(fstat);
const statFileSystem = promisify(statfs);
const readWholeFile = promisify(readFile);

/** How an image is to be opened. */
export interface OpenMode {
  readonly direct: boolean;
  readonly noFlush: boolean;
  readonly writable: boolean;
}

/** The open files of one image. */
export interface Descriptors {
  readonly plain: number;
  /** O_DSYNC; undefined when it is not needed or not to be had. */
  readonly stable: number | undefined;
  readonly isBlockDevice: boolean;
  /** tmpfs: the page cache is all there is, and reading it never waits. */
  readonly isInMemory: boolean;
}

/** What O_DIRECT asks of a transfer, in bytes. */
export interface Alignment {
  /** Of offsets and lengths. 1 in page-cache mode. */
  readonly blockBytes: number;
  /** Of addresses. */
  readonly memoryBytes: number;
}

// Not every system has every flag, whatever the types say.
const FLAGS: Readonly<Record<string, number | undefined>> = { ...constants };
const { O_DIRECT } = FLAGS;
const O_DSYNC = process.platform === 'darwin' ? undefined : FLAGS['O_DSYNC'];
const O_NONBLOCK = FLAGS['O_NONBLOCK'] ?? 0;

const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;

/** Opens what the mode needs. The image must be a regular file or a block device. */
export async function openDescriptors(path: string, mode: OpenMode): Promise<Descriptors> {
  const named = await statFile(path).catch((error: unknown) => {
    throw openError(path, mode, error);
  });
  refuseOtherKinds(path, named);
  const isInMemory = await isInMemoryFile(path, named);
  if (mode.direct) refuseWithoutDirect(path, isInMemory);
  const isBlockDevice = named.isBlockDevice();
  if (isBlockDevice && mode.writable) await refuseReadOnlyDevice(path, named);
  const flags = flagsFor(mode, isBlockDevice);
  const plain = await openOne(path, mode, flags, named);
  const stable = await openStable(path, mode, flags, named).catch(async (error: unknown) => {
    await closeFile(plain);
    throw error;
  });
  return { plain, stable, isBlockDevice, isInMemory };
}

/** Another descriptor of a file that is open already, for transfers of many bytes at once. */
export function openToRead(path: string, direct: boolean): Promise<FileHandle> {
  return openHandle(path, constants.O_RDONLY | (direct ? (O_DIRECT ?? 0) : 0));
}

/** Closes every descriptor, then fails with the first error. The lock goes with the plain one. */
export async function closeDescriptors({ plain, stable }: Descriptors): Promise<void> {
  const open = stable === undefined ? [plain] : [stable, plain];
  const results = await Promise.allSettled(open.map((fd) => closeFile(fd)));
  for (const result of results) {
    if (result.status === 'rejected') throw result.reason;
  }
}

/**
 * O_NONBLOCK keeps the open from hanging should the file be replaced by a FIFO just now; it means
 * nothing for a regular file, but something for devices, so they are opened without.
 */
function flagsFor({ writable, direct }: OpenMode, isBlockDevice: boolean): number {
  const access = writable ? constants.O_RDWR : constants.O_RDONLY;
  return access | (direct ? (O_DIRECT ?? 0) : 0) | (isBlockDevice ? 0 : O_NONBLOCK);
}

async function openStable(
  path: string,
  mode: OpenMode,
  flags: number,
  named: Stats,
): Promise<number | undefined> {
  if (!mode.writable || mode.noFlush || O_DSYNC === undefined) return undefined;
  return openOne(path, mode, flags | O_DSYNC, named);
}

/** Opens the path and makes sure that it is still the file that was looked at. */
async function openOne(path: string, mode: OpenMode, flags: number, named: Stats): Promise<number> {
  const fd = await openFile(path, flags).catch((error: unknown) => {
    throw openError(path, mode, error);
  });
  const opened = await statDescriptor(fd);
  if (opened.ino === named.ino && opened.dev === named.dev) return fd;
  await closeFile(fd);
  throw refuse('ERR_SLUICE_OPEN', path, 'it was replaced by another file meanwhile; try again');
}

function refuseOtherKinds(path: string, found: Stats): void {
  if (found.isFile() || found.isBlockDevice()) return;
  const advice = 'a disk is a regular file or a block device';
  throw refuse('ERR_SLUICE_NOT_A_DISK', path, `it is ${kindOf(found)}; ${advice}`);
}

function kindOf(found: Stats): string {
  if (found.isDirectory()) return 'a directory';
  if (found.isFIFO()) return 'a FIFO';
  if (found.isSocket()) return 'a socket';
  if (found.isCharacterDevice()) return 'a character device';
  return 'of an unknown kind';
}

/** Newer kernels take O_DIRECT on tmpfs and then use the page cache: that is not what was asked. */
function refuseWithoutDirect(path: string, isInMemory: boolean): void {
  if (O_DIRECT === undefined) throw noDirect(path, `${process.platform} has no O_DIRECT`);
  if (isInMemory) throw noDirect(path, 'its file system keeps files in memory only');
}

async function isInMemoryFile(path: string, found: Stats): Promise<boolean> {
  if (process.platform !== 'linux' || !found.isFile()) return false;
  const { type } = await statFileSystem(path);
  return type === TMPFS_MAGIC || type === RAMFS_MAGIC;
}

/** Capacity in bytes. The size is looked at once: later growth is none of the disk's business. */
export async function sizeOf(fd: number, path: string, native: Native | null): Promise<number> {
  const found = await statDescriptor(fd);
  if (found.isFile()) return found.size;
  if (native !== null) return blockDeviceSize(fd, path, native);
  try {
    return 512 * Number(await readDeviceFile(found, 'size'));
  } catch (cause) {
    const reason = 'the size of the device cannot be found; install the optional package koffi';
    throw refuse('ERR_SLUICE_OPEN', path, reason, cause);
  }
}

/** BLKGETSIZE64 of linux/fs.h: the size of a block device in bytes, as a u64. */
const BLKGETSIZE64 = 0x80081272;

function blockDeviceSize(fd: number, path: string, native: Native): number {
  const bytes = new BigUint64Array(1);
  if (native.ioctl(fd, BLKGETSIZE64, native.addressOf(new Uint8Array(bytes.buffer))) === 0) {
    return Number(bytes[0]);
  }
  const reason = `the device does not tell its size (BLKGETSIZE64: errno ${native.errno()})`;
  throw refuse('ERR_SLUICE_OPEN', path, reason);
}

/** The kernel opens a read-only device for writing and fails the writes; nobody wants that. */
async function refuseReadOnlyDevice(path: string, found: Stats): Promise<void> {
  if ((await readDeviceFile(found, 'ro').catch(() => '0')).trim() !== '1') return;
  throw refuse('ERR_SLUICE_READ_ONLY', path, 'the device is read-only; open it read-only');
}

/** A file of the device's folder in sysfs. */
function readDeviceFile({ rdev }: Stats, name: string): Promise<string> {
  return readWholeFile(`/sys/dev/block/${majorOf(rdev)}:${minorOf(rdev)}/${name}`, 'latin1');
}

// dev_t as glibc packs it (sys/sysmacros.h); the parts above 32 bits are not in use.
const majorOf = (device: number): number => (device >>> 8) & 0xfff;
const minorOf = (device: number): number => (device & 0xff) | ((device >>> 12) & 0xfff00);

const SMALLEST_BLOCK = 512;
const LARGEST_BLOCK = 65536;
const STATX_BYTES = 256;
const STATX_DIOALIGN = 0x2000;
const STX_MASK = 0;
const STX_DIO_MEM_ALIGN = 152;
const STX_DIO_OFFSET_ALIGN = 156;

/** What the file asks of direct transfers: what statx says, else the smallest read that works. */
export async function probeAlignment(
  fd: number,
  path: string,
  native: Native | null,
): Promise<Alignment> {
  const stated = native === null ? undefined : statedAlignment(fd, path, native);
  const { buffer } = new WebAssembly.Memory({ initial: 1 });
  const page = new Uint8Array(buffer);
  for (let size = stated?.blockBytes ?? SMALLEST_BLOCK; size <= LARGEST_BLOCK; size *= 2) {
    if (await canRead(fd, page, size)) {
      return { blockBytes: size, memoryBytes: stated?.memoryBytes ?? size };
    }
  }
  throw noDirect(path, 'direct reads of every block size were refused');
}

/** STATX_DIOALIGN (Linux 6.1). The file may also say that it would use the page cache. */
function statedAlignment(fd: number, path: string, native: Native): Alignment | undefined {
  const bytes = new Uint8Array(STATX_BYTES);
  const view = new DataView(bytes.buffer);
  if (native.statxDescriptor(fd, STATX_DIOALIGN, native.addressOf(bytes)) !== 0) return undefined;
  if ((view.getUint32(STX_MASK, true) & STATX_DIOALIGN) === 0) return undefined;
  const blockBytes = view.getUint32(STX_DIO_OFFSET_ALIGN, true);
  if (blockBytes === 0) throw noDirect(path, 'its file system would use the page cache');
  return { blockBytes, memoryBytes: view.getUint32(STX_DIO_MEM_ALIGN, true) };
}

/** Errors other than EINVAL are for the first real read to report. */
async function canRead(fd: number, buffer: Uint8Array, length: number): Promise<boolean> {
  return new Promise((resolve) => {
    read(fd, buffer, 0, length, 0, (error) => {
      resolve(error === null || errnoOf(error) !== EINVAL);
    });
  });
}

/** Direct mode needs whole blocks: QEMU would read past the end and hide the rest. */
export function refuseOddSize(path: string, sizeBytes: number, blockBytes: number): void {
  if (sizeBytes % blockBytes === 0) return;
  const found = `its size of ${sizeBytes} bytes is not a multiple of ${blockBytes}`;
  const advice = `use a page-cache mode, or enlarge it (truncate -s %${blockBytes} FILE)`;
  throw refuse('ERR_SLUICE_ALIGNMENT', path, `${found}, the block size of O_DIRECT; ${advice}`);
}

function openError(path: string, mode: OpenMode, cause: unknown): SluiceError {
  if (mode.direct && errnoOf(cause) === EINVAL) {
    return noDirect(path, 'its file system refuses O_DIRECT', cause);
  }
  const { code = 'unknown error' } = cause as NodeJS.ErrnoException;
  return refuse('ERR_SLUICE_OPEN', path, ADVICE[code] ?? code, cause);
}

const ADVICE: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file; check its name, or create it first (ENOENT)',
  EACCES: 'permission denied; change its mode, or open it read-only (EACCES)',
  EPERM: 'operation not permitted; open it read-only (EPERM)',
  EROFS: 'its file system is read-only; open it read-only (EROFS)',
  ETXTBSY: 'it is a program that is running (ETXTBSY)',
  EMFILE: 'this process has too many open files; raise ulimit -n (EMFILE)',
};

function noDirect(path: string, reason: string, cause?: unknown): SluiceError {
  const advice = 'use a page-cache mode (writeback, writethrough) or another file system';
  return refuse('ERR_SLUICE_DIRECT_UNSUPPORTED', path, `${reason}; ${advice}`, cause);
}

function refuse(code: ErrorCode, path: string, reason: string, cause?: unknown): SluiceError {
  const message = `cannot open ${JSON.stringify(path)}: ${reason}`;
  return new SluiceError(code, message, { operation: 'open', path, cause });
}
