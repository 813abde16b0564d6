/**
 * The ways that the data of a file goes, and which of them a command takes.
 *
 *     here      one system call on the calling thread (file-inline.ts)
 *     ring      io_uring (uring.ts)
 *     pooled    libuv's pool, with every irregularity taken care of (file-transfer.ts)
 *     bounced   the pool, by way of aligned buffers (file-bounce.ts)
 *
 *                     page cache                            O_DIRECT
 *     read            here, not waiting; the rest by ring   here when alone, else ring
 *     write           here                                  the same
 *     write, stable   here when alone, else pooled          the same
 *     unaligned       -                                     bounced
 *
 * Without a ring the pool takes its place. What does not go through in one call, here or in the
 * ring, is finished in the pool, so all of them give the same answers.
 */
import { ERRNO_ENOTSUP } from '../abi/command.ts';
import type { Done } from './backend.ts';
import { mayWait } from './company.ts';
import {
  type DataCommand,
  type EngineMemory,
  noMemory,
  refuseBeforeAttach,
} from './engine-memory.ts';
import { readBounced, writeBounced } from './file-bounce.ts';
import { isTransient } from './errno.ts';
import type { FileCounters } from './file-counters.ts';
import { createInlineIo } from './file-inline.ts';
import type { Alignment, Descriptors } from './file-open.ts';
import type { FileBackendOptions } from './file-options.ts';
import type { FileState } from './file-state.ts';
import { readPooled, type Views, writePooled } from './file-transfer.ts';
import { IoVectors, VECTOR_ENTRIES } from './file-vectors.ts';
import type { Native } from './native.ts';
import { DISK_PATIENCE, Patience, WAITED_BYTES } from './patience.ts';
import { type Uring, URING_READ, URING_READV, URING_WRITE, URING_WRITEV } from './uring.ts';

const DEFAULT_INLINE_BYTES = 4 * 1024 * 1024;
/** The part of io_uring that is used. */
export type Ring = Pick<Uring, 'transfer' | 'submit' | 'submissions'>;

/** What the data of a file goes through. */
export interface FileDataParts {
  readonly files: Descriptors;
  readonly native: Native | null;
  /** Asked when it is needed for the first time; null: there is none. */
  readonly ring: () => Ring | null;
  readonly alignment: Alignment;
  readonly state: FileState;
  readonly options: FileBackendOptions;
  readonly counters: FileCounters;
}

/** Moves the data of commands that were checked: inside the file, inside the memory, not empty. */
export class FileData {
  /**
   * Short direct and stable transfers run on the calling thread then, while the disk is fast: no
   * change of threads. For a command that is not alone it is the worse way.
   */
  alone = false;
  readonly #parts: FileDataParts;
  readonly #counters: FileCounters;
  readonly #direct: boolean;
  readonly #inlineBytes: number;
  readonly #waits: boolean;
  readonly #patience = new Patience(DISK_PATIENCE);
  #nowait: boolean;
  /** Cached reads would wait for the disk, and the file does not know RWF_NOWAIT. */
  #readsPooled = false;
  #memory = noMemory();
  #io = createInlineIo(this.#memory, null);
  #ring: Ring | null | undefined;
  #vectors: IoVectors | undefined;
  /** Entries of vectors that the ring has not been handed yet, as of this submission. */
  #vectorsUsed = 0;
  #submission = 0;
  #done: Done = refuseBeforeAttach;

  constructor(parts: FileDataParts) {
    const { files, native, options } = parts;
    this.#parts = parts;
    this.#counters = parts.counters;
    this.#direct = options.direct === true;
    this.#inlineBytes = options.inlineBytes ?? DEFAULT_INLINE_BYTES;
    this.#waits = options.aio !== 'threads';
    this.#nowait = native !== null && !this.#direct && !files.isInMemory;
  }

  /** Where the data lies from here on, and who is told. */
  attach(memory: EngineMemory, done: Done): void {
    const { native } = this.#parts;
    this.#memory = memory;
    this.#io = createInlineIo(memory, native);
    this.#vectors = native === null ? undefined : new IoVectors(memory, native);
    this.#done = done;
  }

  read(command: DataCommand): void {
    if (!this.#isAligned(command)) this.#bounceRead(command);
    else if (this.#isReadHere(command.length)) this.#readHere(command);
    else this.#readLater(command);
  }

  write(command: DataCommand, isStable: boolean): void {
    if (!this.#isAligned(command)) this.#bounceWrite(command, isStable);
    else if (this.#isWrittenHere(command.length, isStable)) this.#writeHere(command, isStable);
    else this.#writeLater(command, isStable);
  }

  #isAligned(command: DataCommand): boolean {
    if (!this.#direct) return true;
    const { blockBytes, memoryBytes } = this.#parts.alignment;
    if (command.offset % blockBytes !== 0) return false;
    return this.#memory.isAligned(command, memoryBytes, blockBytes);
  }

  #isReadHere(length: number): boolean {
    if (length > this.#inlineBytes) return false;
    return this.#direct ? this.#isWaitedFor(length) : !this.#readsPooled;
  }

  #isWrittenHere(length: number, isStable: boolean): boolean {
    if (length > this.#inlineBytes) return false;
    return (!this.#direct && !isStable) || this.#isWaitedFor(length);
  }

  #isWaitedFor(length: number): boolean {
    if (!this.alone || !this.#waits || length > WAITED_BYTES || !mayWait()) return false;
    return this.#patience.ask();
  }

  #readHere(command: DataCommand): void {
    const start = this.#direct ? performance.now() : 0;
    const moved = this.#io.read(this.#parts.files.plain, command, this.#nowait);
    if (this.#direct) this.#patience.took(performance.now() - start);
    if (moved === command.length) this.#done(command.id, 0, 0);
    else if (moved >= 0) this.#readPooled(command, this.#wholeBlocks(moved));
    else this.#readRefused(command, -moved);
  }

  #readRefused(command: DataCommand, errno: number): void {
    if (errno === ERRNO_ENOTSUP && this.#nowait) {
      this.#nowait = false;
      this.#readsPooled = true;
      this.#readLater(command);
    } else if (isTransient(errno)) this.#readLater(command);
    else this.#done(command.id, errno, 0);
  }

  #readLater(command: DataCommand): void {
    if (!this.#takesRing(command, false)) this.#readPooled(command, 0);
  }

  #readPooled(command: DataCommand, skip: number): void {
    this.#counters.offThread++;
    const request = this.#transferOf(this.#parts.files.plain, command, skip);
    readPooled(request, (errno) => this.#done(command.id, errno, 0));
  }

  #writeHere(command: DataCommand, isStable: boolean): void {
    const waits = this.#direct || isStable;
    const start = waits ? performance.now() : 0;
    const moved = this.#io.write(this.#writeDescriptor(isStable), command);
    if (waits) this.#patience.took(performance.now() - start);
    if (moved === command.length) this.#done(command.id, 0, 0);
    else if (moved >= 0) this.#writePooled(command, isStable, this.#wholeBlocks(moved));
    else if (isTransient(-moved)) this.#writePooled(command, isStable, 0);
    else this.#done(command.id, -moved, 0);
  }

  #writeLater(command: DataCommand, isStable: boolean): void {
    // The kernel has threads of its own make those that wait for a sync: no better than the pool.
    const byRing = this.#direct && !isStable && this.#takesRing(command, true);
    if (!byRing) this.#writePooled(command, isStable, 0);
  }

  #writePooled(command: DataCommand, isStable: boolean, skip: number): void {
    this.#counters.offThread++;
    const request = this.#transferOf(this.#writeDescriptor(isStable), command, skip);
    writePooled(request, (errno) => this.#done(command.id, errno, 0));
  }

  /** Starts the transfer in the ring; false: there is none, or no room in it. */
  #takesRing(command: DataCommand, isWrite: boolean): boolean {
    const { files, ring: open } = this.#parts;
    const vectors = this.#vectors;
    if (this.#ring === undefined) this.#ring = open();
    const ring = this.#ring;
    if (ring === null || vectors === undefined) return false;
    const { offset, length, segments, data } = command;
    const settle = (result: number): void => this.#transferred(command, isWrite, result);
    if (segments === 1) {
      const op = isWrite ? URING_WRITE : URING_READ;
      return this.#counted(
        ring.transfer(op, files.plain, offset, vectors.addressOf(data), length, settle),
      );
    }
    const first = this.#vectorEntries(ring, segments);
    if (first + segments > VECTOR_ENTRIES) return false;
    const count = vectors.fill(command, first);
    if (count < 0) return false;
    this.#vectorsUsed += count;
    const op = isWrite ? URING_WRITEV : URING_READV;
    const address = vectors.entryAddress(first);
    return this.#counted(ring.transfer(op, files.plain, offset, address, count, settle));
  }

  #counted(taken: boolean): boolean {
    if (taken) this.#counters.offThread++;
    if (taken) this.#counters.inRing++;
    return taken;
  }

  /** The first of so many entries that the ring does not need any more, if there are as many. */
  #vectorEntries(ring: Ring, count: number): number {
    if (this.#vectorsUsed + count > VECTOR_ENTRIES) ring.submit();
    if (ring.submissions !== this.#submission) {
      this.#submission = ring.submissions;
      this.#vectorsUsed = 0;
    }
    return this.#vectorsUsed;
  }

  #transferred(command: DataCommand, isWrite: boolean, result: number): void {
    if (result === command.length) this.#done(command.id, 0, 0);
    else if (result < 0 && !isTransient(-result)) this.#done(command.id, -result, 0);
    else {
      const skip = this.#wholeBlocks(Math.max(result, 0));
      if (isWrite) this.#writePooled(command, false, skip);
      else this.#readPooled(command, skip);
    }
  }

  #bounceRead(command: DataCommand): void {
    this.#counters.offThread++;
    this.#counters.bounced++;
    const { files, state } = this.#parts;
    const request = this.#bounceOf(files.plain, command);
    readBounced(state.buffers, request, this.#viewsOf(command), (errno) =>
      this.#done(command.id, errno, 0),
    );
  }

  #bounceWrite(command: DataCommand, isStable: boolean): void {
    this.#counters.offThread++;
    this.#counters.bounced++;
    const request = this.#bounceOf(this.#writeDescriptor(isStable), command);
    writeBounced(this.#parts.state.buffers, request, this.#viewsOf(command), (errno) =>
      this.#done(command.id, errno, 0),
    );
  }

  #writeDescriptor(isStable: boolean): number {
    const { plain, stable } = this.#parts.files;
    return (isStable ? stable : undefined) ?? plain;
  }

  #wholeBlocks(moved: number): number {
    return moved - (moved % this.#parts.alignment.blockBytes);
  }

  #transferOf(fd: number, command: DataCommand, skip: number) {
    const { offset, length } = command;
    const views = this.#viewsOf(command, skip);
    const granuleBytes = this.#parts.alignment.blockBytes;
    return { fd, offset: offset + skip, length: length - skip, views, granuleBytes };
  }

  #viewsOf(command: DataCommand, from = 0): Views {
    return (skip) => this.#memory.views(command, from + skip);
  }

  #bounceOf(fd: number, { offset, length }: DataCommand) {
    return { fd, blockBytes: this.#parts.alignment.blockBytes, offset, length };
  }
}
