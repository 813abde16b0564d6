/**
 * The backend on a regular file or a block device.
 *
 *     command            page cache                            O_DIRECT
 *     read               preadv2 NOWAIT here, the rest pooled  pooled; here when alone
 *     write              here                                  pooled; here when alone
 *     write, stable      O_DSYNC, pooled; here when alone      the same
 *     unaligned          -                                     bounced (file-bounce.ts)
 *     write zeroes,
 *     discard            fallocate, pooled (file-zero.ts)      the same
 *     block status       lseek (file-extents.ts)               the same
 *     sync               fdatasync, pooled                     the same
 *     extend             ftruncate, pooled, one at a time      the same
 *
 * "Here" is one system call on the calling thread (file-inline.ts); "pooled" is the libuv pool,
 * with every irregularity taken care of (file-transfer.ts). A command that does not go through
 * in one call here is finished there, so both ways give the same answers.
 */
import process from 'node:process';

import { ERRNO_ENOTSUP } from '../abi/command.ts';
import { COMMAND_SLOTS } from '../abi/limits.ts';
import { EXTENT_SIZE, EXTENT_TABLE_ENTRIES } from '../abi/request.ts';
import { SluiceError } from '../errors.ts';
import type { Backend, Done } from './backend.ts';
import { type DataCommand, EngineMemory, noMemory, refuseBeforeAttach } from './engine-memory.ts';
import { writeExtents } from './extent-table.ts';
import { readBounced, writeBounced } from './file-bounce.ts';
import { EBADF, EFAULT, EINVAL, EROFS, isTransient } from './errno.ts';
import { newCounters } from './file-counters.ts';
import { ExtentScanner } from './file-extents.ts';
import { createInlineIo } from './file-inline.ts';
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
import { readPooled, type Settle, syncData, type Views, writePooled } from './file-transfer.ts';
import { Zeroes } from './file-zero.ts';
import { lockImage } from './lock.ts';
import { loadNative } from './native.ts';
import { Patience } from './patience.ts';

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
  const files = await openDescriptors(path, { direct, noFlush, writable });
  try {
    if (lock !== 'none') lockImage({ fd: files.plain, path, writable, native });
    const found = await sizeOf(files.plain, path, native);
    const alignment = direct ? await probeAlignment(files.plain, path, native) : BYTEWISE;
    const image = { path, files, native };
    const policy = { writable, anySize };
    const sizeBytes = await fitToBlocks(image, found, alignment.blockBytes, policy);
    return new FileBackend({ ...image, options, alignment, state: newFileState(sizeBytes) });
  } catch (error) {
    await closeDescriptors(files);
    throw error;
  }
}

const BYTEWISE: Alignment = { blockBytes: 1, memoryBytes: 1 };
const DEFAULT_INLINE_BYTES = 4 * 1024 * 1024;
/** A disk that takes longer than a change of threads by far is waited for elsewhere. */
const PATIENCE = { slowMs: 1, firstRest: 32, longestRest: 4096 };
/** Longer transfers take their time on any disk. */
const WAITED_BYTES = 128 * 1024;
const DEFAULT_POOL_THREADS = 4;

function defaultDepth(direct: boolean): number {
  if (!direct) return COMMAND_SLOTS;
  const threads = Number(process.env['UV_THREADPOOL_SIZE']) || DEFAULT_POOL_THREADS;
  return Math.min(COMMAND_SLOTS, Math.max(1, 2 * Math.floor(threads)));
}

/** An opened image; made by openFileBackend(). */
interface OpenImage extends ExtendTarget {
  readonly options: FileBackendOptions;
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
  /**
   * Short direct and stable transfers run on the calling thread then, while the disk is fast: no
   * change of threads. For a command that is not alone it is the worse way.
   */
  alone = false;

  readonly #image: OpenImage;
  readonly #files: Descriptors;
  readonly #alignment: Alignment;
  readonly #direct: boolean;
  readonly #noFlush: boolean;
  readonly #inlineBytes: number;
  readonly #waits: boolean;
  readonly #zeroes: Zeroes;
  readonly #scanner: ExtentScanner;
  readonly #state: FileState;
  readonly #patience = new Patience(PATIENCE);
  #nowait: boolean;
  /** Cached reads would wait for the disk, and the file does not know RWF_NOWAIT. */
  #readsPooled = false;
  #memory = noMemory();
  #io = createInlineIo(this.#memory, null);
  #done: Done = refuseBeforeAttach;

  constructor(image: OpenImage) {
    const { options, files, native, alignment, state } = image;
    this.#state = state;
    this.blockSizeBytes = alignment.blockBytes;
    this.readOnly = options.writable !== true;
    this.#direct = options.direct === true;
    this.depth = options.depth ?? defaultDepth(this.#direct);
    this.fua = files.stable !== undefined;
    this.unmaps = options.discard === 'unmap';
    this.#image = image;
    this.#files = files;
    this.#alignment = alignment;
    this.#noFlush = options.noFlush === true;
    this.#inlineBytes = options.inlineBytes ?? DEFAULT_INLINE_BYTES;
    this.#waits = options.aio !== 'threads';
    this.#nowait = native !== null && !this.#direct && !files.isInMemory;
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

  get sizeBytes(): number {
    return this.#state.sizeBytes;
  }

  /** The same open file once more, for another memory (file-state.ts). Closing one closes both. */
  twin(): FileBackend {
    return new FileBackend(this.#image);
  }

  attach(memory: WebAssembly.Memory, done: Done): void {
    this.#memory = new EngineMemory(memory);
    this.#io = createInlineIo(this.#memory, this.#image.native);
    this.#done = done;
  }

  read(id: number, offset: number, length: number, segments: number, data: number): void {
    const command: DataCommand = { id, offset, length, segments, data };
    this.counters.reads++;
    this.counters.bytesRead += length;
    const refusal = this.#refusalOf(command);
    if (refusal !== 0 || length === 0) this.#done(id, refusal, 0);
    else if (!this.#isAligned(command)) this.#bounceRead(command);
    else if (this.#isPooledRead(length)) this.#readRest(command, 0);
    else this.#readHere(command);
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
    else if (!this.#isAligned(command)) this.#bounceWrite(command, isStable);
    else if (this.#isPooledWrite(length, isStable)) this.#writeRest(command, isStable, 0);
    else this.#writeHere(command, isStable);
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
    syncData(this.#files.plain, this.#image.path, this.#settle(id));
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

  #isAligned(command: DataCommand): boolean {
    if (!this.#direct) return true;
    const { blockBytes, memoryBytes } = this.#alignment;
    if (command.offset % blockBytes !== 0) return false;
    return this.#memory.isAligned(command, memoryBytes, blockBytes);
  }

  #isPooledRead(length: number): boolean {
    if (length > this.#inlineBytes) return true;
    return this.#direct ? !this.#isWaitedFor(length) : this.#readsPooled;
  }

  #isPooledWrite(length: number, isStable: boolean): boolean {
    if (length > this.#inlineBytes) return true;
    return (this.#direct || isStable) && !this.#isWaitedFor(length);
  }

  #isWaitedFor(length: number): boolean {
    return this.alone && this.#waits && length <= WAITED_BYTES && this.#patience.ask();
  }

  #readHere(command: DataCommand): void {
    const start = this.#direct ? performance.now() : 0;
    const moved = this.#io.read(this.#files.plain, command, this.#nowait);
    if (this.#direct) this.#patience.took(performance.now() - start);
    if (moved === command.length) this.#done(command.id, 0, 0);
    else if (moved >= 0) this.#readRest(command, this.#wholeBlocks(moved));
    else this.#readRefused(command, -moved);
  }

  #readRefused(command: DataCommand, errno: number): void {
    if (errno === ERRNO_ENOTSUP && this.#nowait) {
      this.#nowait = false;
      this.#readsPooled = true;
      this.#readRest(command, 0);
    } else if (isTransient(errno)) this.#readRest(command, 0);
    else this.#done(command.id, errno, 0);
  }

  #readRest(command: DataCommand, skip: number): void {
    this.counters.offThread++;
    const request = this.#transferOf(this.#files.plain, command, skip);
    readPooled(request, this.#settle(command.id));
  }

  #bounceRead(command: DataCommand): void {
    this.counters.offThread++;
    this.counters.bounced++;
    const request = this.#bounceOf(this.#files.plain, command);
    readBounced(this.#state.buffers, request, this.#viewsOf(command), this.#settle(command.id));
  }

  #writeHere(command: DataCommand, isStable: boolean): void {
    const waits = this.#direct || isStable;
    const start = waits ? performance.now() : 0;
    const moved = this.#io.write(this.#writeDescriptor(isStable), command);
    if (waits) this.#patience.took(performance.now() - start);
    if (moved === command.length) this.#done(command.id, 0, 0);
    else if (moved >= 0) this.#writeRest(command, isStable, this.#wholeBlocks(moved));
    else if (isTransient(-moved)) this.#writeRest(command, isStable, 0);
    else this.#done(command.id, -moved, 0);
  }

  #writeRest(command: DataCommand, isStable: boolean, skip: number): void {
    this.counters.offThread++;
    const request = this.#transferOf(this.#writeDescriptor(isStable), command, skip);
    writePooled(request, this.#settle(command.id));
  }

  #bounceWrite(command: DataCommand, isStable: boolean): void {
    this.counters.offThread++;
    this.counters.bounced++;
    const request = this.#bounceOf(this.#writeDescriptor(isStable), command);
    writeBounced(this.#state.buffers, request, this.#viewsOf(command), this.#settle(command.id));
  }

  #writeDescriptor(isStable: boolean): number {
    return (isStable ? this.#files.stable : undefined) ?? this.#files.plain;
  }

  #wholeBlocks(moved: number): number {
    return moved - (moved % this.blockSizeBytes);
  }

  #transferOf(fd: number, command: DataCommand, skip: number) {
    const { offset, length } = command;
    const views = this.#viewsOf(command, skip);
    const granuleBytes = this.blockSizeBytes;
    return { fd, offset: offset + skip, length: length - skip, views, granuleBytes };
  }

  #viewsOf(command: DataCommand, from = 0): Views {
    return (skip) => this.#memory.views(command, from + skip);
  }

  #bounceOf(fd: number, { offset, length }: DataCommand) {
    return { fd, blockBytes: this.blockSizeBytes, offset, length };
  }
}
