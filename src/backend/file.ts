/**
 * The backend on a regular file or a block device.
 *
 *     read, write        file-data.ts: here, by io_uring or on libuv's pool
 *     write zeroes,
 *     discard            fallocate, pooled (file-zero.ts)
 *     block status       lseek (file-extents.ts)
 *     sync               file-sync.ts: fdatasync, pooled or here
 *     extend             ftruncate, pooled, one at a time
 */
import process from 'node:process';

import { ERRNO_ENOTSUP } from '../abi/command.ts';
import { COMMAND_SLOTS } from '../abi/limits.ts';
import { EXTENT_SIZE, EXTENT_TABLE_ENTRIES } from '../abi/request.ts';
import { SluiceError } from '../errors.ts';
import type { Backend, Done } from './backend.ts';
import { type DataCommand, EngineMemory, noMemory, refuseBeforeAttach } from './engine-memory.ts';
import { writeExtents } from './extent-table.ts';
import { EBADF, EFAULT, EINVAL, EROFS } from './errno.ts';
import { newCounters } from './file-counters.ts';
import { FileData } from './file-data.ts';
import { ExtentScanner } from './file-extents.ts';
import {
  type Alignment,
  closeDescriptors,
  type Descriptors,
  openDescriptors,
  probeAlignment,
  sizeOf,
} from './file-open.ts';
import { extendFile, type ExtendTarget, fitToBlocks } from './file-extend.ts';
import type { FileBackendOptions } from './file-options.ts';
import { resizeFile } from './file-resize.ts';
import { type FileState, newFileState } from './file-state.ts';
import { FileSync } from './file-sync.ts';
import { type Settle, syncData, syncDataHere } from './file-transfer.ts';
import { Zeroes } from './file-zero.ts';
import { lockImage } from './lock.ts';
import { loadNative } from './native.ts';
import { threadUring, type Uring } from './uring.ts';

export type { FileBackendOptions } from './file-options.ts';

/**
 * Opens an image. Rejects with a SluiceError: ERR_SLUICE_OPEN, ERR_SLUICE_NOT_A_DISK,
 * ERR_SLUICE_DIRECT_UNSUPPORTED, ERR_SLUICE_ALIGNMENT, ERR_SLUICE_LOCKED or
 * ERR_SLUICE_LOCK_UNAVAILABLE; nothing stays open then.
 */
export async function openFileBackend(
  path: string,
  options: FileBackendOptions = {},
): Promise<FileBackend> {
  const { direct = false, noFlush = false, writable = false, lock = 'auto' } = options;
  const { anySize = false } = options;
  const native = loadNative();
  const ring = ringFor(path, options);
  const files = await openDescriptors(path, { direct, noFlush, writable });
  try {
    if (lock !== 'none') lockImage({ fd: files.plain, path, writable, native });
    const found = await sizeOf(files.plain, path, native);
    const alignment = direct ? await probeAlignment(files.plain, path, native) : BYTEWISE;
    const image = { path, files, native, ring };
    const policy = { writable, anySize };
    const sizeBytes = await fitToBlocks(image, found, alignment.blockBytes, policy);
    return new FileBackend({ ...image, options, alignment, state: newFileState(sizeBytes) });
  } catch (error) {
    await closeDescriptors(files);
    throw error;
  }
}

/** What transfers go by that wait for a disk. */
function ringFor(path: string, { aio = 'auto' }: FileBackendOptions): () => Uring | null {
  if (aio === 'threads') return () => null;
  if (aio === 'auto' || threadUring() !== null) return threadUring;
  throw new SluiceError(
    'ERR_SLUICE_UNSUPPORTED',
    `cannot open ${JSON.stringify(path)}: there is no io_uring here (it takes Linux 5.6, ` +
      'and koffi; kernel.io_uring_disabled or a seccomp filter may forbid it); use aio: auto',
    { operation: 'open', path },
  );
}

const BYTEWISE: Alignment = { blockBytes: 1, memoryBytes: 1 };
const DEFAULT_POOL_THREADS = 4;
/** Deeper disks are rare, and what has to queue is merged. */
const RING_DEPTH = 64;

function defaultDepth(direct: boolean, ring: () => Uring | null): number {
  if (!direct) return COMMAND_SLOTS;
  if (ring() !== null) return RING_DEPTH;
  const threads = Number(process.env['UV_THREADPOOL_SIZE']) || DEFAULT_POOL_THREADS;
  return Math.min(COMMAND_SLOTS, Math.max(1, 2 * Math.floor(threads)));
}

/** An opened image; made by openFileBackend(). */
interface OpenImage extends ExtendTarget {
  readonly options: FileBackendOptions;
  readonly ring: () => Uring | null;
  readonly alignment: Alignment;
  readonly state: FileState;
}

/** Commands on one file. See backend.ts for what each of them promises. */
export class FileBackend implements Backend {
  readonly blockSizeBytes: number;
  readonly readOnly: boolean;
  readonly depth: number;
  readonly fua: boolean;
  readonly unmaps: boolean;
  /** Live numbers, for statistics. */
  readonly counters = newCounters();
  readonly #image: OpenImage;
  readonly #files: Descriptors;
  readonly #direct: boolean;
  readonly #noFlush: boolean;
  readonly #data: FileData;
  readonly #sync: FileSync;
  readonly #zeroes: Zeroes;
  readonly #scanner: ExtentScanner;
  readonly #state: FileState;
  #memory = noMemory();
  #done: Done = refuseBeforeAttach;

  constructor(image: OpenImage) {
    const { options, files, native, ring, alignment, state } = image;
    this.#state = state;
    this.blockSizeBytes = alignment.blockBytes;
    this.readOnly = options.writable !== true;
    this.#direct = options.direct === true;
    this.depth = options.depth ?? defaultDepth(this.#direct, ring);
    this.fua = files.stable !== undefined;
    this.unmaps = options.discard === 'unmap';
    this.#image = image;
    this.#files = files;
    this.#noFlush = options.noFlush === true;
    this.#data = new FileData({ ...image, counters: this.counters });
    const { path } = image;
    const calls = {
      pooled: (settle: Settle): void => syncData(files.plain, path, settle),
      here: (): number => syncDataHere(files.plain, path),
    };
    this.#sync = new FileSync(calls, this.counters, options.aio !== 'threads');
    this.#scanner = new ExtentScanner(files.plain, state, native);
    this.#zeroes = new Zeroes({
      fd: files.plain,
      native,
      isBlockDevice: files.isBlockDevice,
      blockBytes: alignment.blockBytes,
      unmap: this.unmaps,
      buffers: state.buffers,
      counters: this.counters,
    });
  }

  /** Its size is the device's. */
  get isBlockDevice(): boolean {
    return this.#files.isBlockDevice;
  }

  /** file-data.ts. */
  get alone(): boolean {
    return this.#data.alone;
  }

  set alone(alone: boolean) {
    this.#data.alone = alone;
  }

  get sizeBytes(): number {
    return this.#state.sizeBytes;
  }

  /** The same open file once more, for another memory (file-state.ts). Closing one closes both. */
  twin(): FileBackend {
    return new FileBackend(this.#image);
  }

  attach(memory: WebAssembly.Memory, done: Done): void {
    this.#memory = new EngineMemory(memory);
    this.#data.attach(this.#memory, done);
    this.#done = done;
  }

  read(id: number, offset: number, length: number, segments: number, data: number): void {
    const command: DataCommand = { id, offset, length, segments, data };
    this.counters.reads++;
    this.counters.bytesRead += length;
    const refusal = this.#refusalOf(command);
    if (refusal !== 0 || length === 0) this.#done(id, refusal, 0);
    else this.#data.read(command);
  }

  write(
    id: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    stable: boolean,
  ): void {
    const command: DataCommand = { id, offset, length, segments, data };
    const isStable = stable && !this.#noFlush;
    this.counters.writes++;
    this.counters.bytesWritten += length;
    if (isStable) this.counters.stableWrites++;
    const cannot = isStable && !this.fua ? ERRNO_ENOTSUP : 0;
    const refusal = this.#refusalOf(command) || this.#refusalOfWrite() || cannot;
    if (refusal !== 0 || length === 0) this.#done(id, refusal, 0);
    else this.#data.write(command, isStable);
  }

  writeZeroes(id: number, offset: number, length: number, mayUnmap: boolean, fast: boolean): void {
    const refusal = this.#refusalOfRange(offset, length) || this.#refusalOfWrite();
    if (refusal !== 0 || length === 0) this.#done(id, refusal, 0);
    else this.#zeroes.write(offset, length, mayUnmap, fast, this.#settle(id));
  }

  discard(id: number, offset: number, length: number): void {
    const refusal = this.#refusalOfRange(offset, length) || this.#refusalOfWrite();
    if (refusal !== 0 || length === 0) this.#done(id, refusal, 0);
    else this.#zeroes.discard(offset, length, this.#settle(id));
  }

  blockStatus(id: number, offset: number, length: number, data: number): void {
    const isTableInside = this.#memory.contains(data, EXTENT_TABLE_ENTRIES * EXTENT_SIZE);
    const refusal = this.#refusalOfRange(offset, length) || (isTableInside ? 0 : EFAULT);
    if (refusal !== 0 || length === 0) {
      this.#done(id, refusal || EINVAL, 0);
      return;
    }
    void this.#answerStatus(id, offset, length, data);
  }

  sync(id: number): void {
    if (this.#state.closing !== undefined) return this.#done(id, EBADF, 0);
    if (this.#noFlush || this.readOnly) return this.#done(id, 0, 0);
    this.counters.syncs++;
    this.#sync.run(this.alone, this.#settle(id));
  }

  extend(id: number, sizeBytes: number): void {
    const refusal = this.#state.closing === undefined ? this.#refusalOfWrite() : EBADF;
    if (refusal !== 0) this.#done(id, refusal, 0);
    // One at a time: a smaller size that comes later would cut the file.
    else this.#state.growth = this.#state.growth.then(() => this.#grow(id, sizeBytes));
  }

  async resize(sizeBytes: number): Promise<void> {
    const { blockSizeBytes: blockBytes, readOnly } = this;
    await resizeFile({ ...this.#image, readOnly, blockBytes }, sizeBytes);
    this.#state.sizeBytes = sizeBytes;
  }

  close(): Promise<void> {
    this.#state.closing ??= closeDescriptors(this.#files).catch((cause: unknown) => {
      const { path } = this.#image;
      const message = `cannot close ${JSON.stringify(path)}: the system reported an error`;
      throw new SluiceError('ERR_SLUICE_IO', message, { operation: 'close', path, cause });
    });
    return this.#state.closing;
  }

  async #grow(id: number, sizeBytes: number): Promise<void> {
    const blockBytes = this.blockSizeBytes;
    const wholeBytes = Math.ceil(sizeBytes / blockBytes) * blockBytes;
    const state = this.#state;
    const isLarger = wholeBytes > state.sizeBytes;
    const errno = isLarger ? await extendFile(this.#image, state.sizeBytes, wholeBytes) : 0;
    if (isLarger && errno === 0) state.sizeBytes = wholeBytes;
    this.#done(id, errno, 0);
  }

  async #answerStatus(id: number, offset: number, length: number, data: number): Promise<void> {
    const { errno, extents } = await this.#scanner.scan(offset, length);
    writeExtents(this.#memory.view, data, extents);
    this.#done(id, errno, extents.length);
  }

  #settle(id: number): Settle {
    return (errno) => this.#done(id, errno, 0);
  }

  #refusalOf(command: DataCommand): number {
    const refusal = this.#refusalOfRange(command.offset, command.length);
    return refusal !== 0 || this.#memory.holds(command) ? refusal : EFAULT;
  }

  /** A closed descriptor's number may by now belong to another file: it is not used again. */
  #refusalOfRange(offset: number, length: number): number {
    const { closing, sizeBytes } = this.#state;
    if (closing !== undefined) return EBADF;
    return offset >= 0 && length >= 0 && offset + length <= sizeBytes ? 0 : EINVAL;
  }

  #refusalOfWrite(): number {
    return this.readOnly ? EROFS : 0;
  }
}
