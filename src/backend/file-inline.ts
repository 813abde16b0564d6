/**
 * Transfers on the calling thread: one system call each, no loop and no exception.
 *
 * The answer is the number of bytes moved, or a negative errno. Whatever is not the full length
 * (a short count, EAGAIN, EINTR) is for the caller to finish elsewhere, so that these stay
 * straight. Two implementations: libc through koffi, which can ask not to wait for the disk and
 * needs no views (4 KiB cached reads take 0.9 times what fs.readSync takes, runs of 16 segments
 * 0.6 times), and node:fs.
 */
import { readSync, readvSync, writeSync, writevSync } from 'node:fs';

import type { DataCommand, EngineMemory } from './engine-memory.ts';
import { EFAULT, errnoOf } from './errno.ts';
import { type Native, RWF_NOWAIT } from './native.ts';

/** Moves bytes between a descriptor and the engine's memory, synchronously. */
export interface InlineIo {
  /** `nowait`: rather -EAGAIN or a short count than waiting for the disk, where that is known. */
  read(fd: number, command: DataCommand, nowait: boolean): number;
  write(fd: number, command: DataCommand): number;
}

/** The best implementation at hand. The caller has checked each command with holds(). */
export function createInlineIo(memory: EngineMemory, native: Native | null): InlineIo {
  return native === null ? new NodeInlineIo(memory) : new NativeInlineIo(memory, native);
}

/** The kernel's limit of a vector (IOV_MAX); what is beyond it comes out as a short count. */
const VECTOR_ENTRIES = 1024;
/** struct iovec on 64-bit systems, in 32-bit words: address low, high, length low, high. */
const IOVEC_WORDS = 4;
const TWO_POW_32 = 4294967296;

class NativeInlineIo implements InlineIo {
  readonly #memory: EngineMemory;
  readonly #native: Native;
  /** What `#base` is the address of: other views after the memory has grown. */
  #bytes: Uint8Array;
  #base: number;
  readonly #vector = new Uint32Array(new ArrayBuffer(VECTOR_ENTRIES * IOVEC_WORDS * 4));
  readonly #vectorAddress: number;

  constructor(memory: EngineMemory, native: Native) {
    this.#memory = memory;
    this.#native = native;
    this.#bytes = memory.bytes;
    this.#base = native.addressOf(this.#bytes);
    this.#vectorAddress = native.addressOf(new Uint8Array(this.#vector.buffer));
  }

  read(fd: number, command: DataCommand, nowait: boolean): number {
    const count = this.#gather(command);
    if (count < 0) return count;
    const flags = nowait ? RWF_NOWAIT : 0;
    return this.#answer(
      this.#native.preadv2(fd, this.#vectorAddress, count, command.offset, flags),
    );
  }

  write(fd: number, command: DataCommand): number {
    const { offset, length, segments, data } = command;
    if (segments === 1) {
      this.#locate();
      return this.#answer(this.#native.pwrite(fd, this.#base + data, length, offset));
    }
    const count = this.#gather(command);
    if (count < 0) return count;
    return this.#answer(this.#native.pwritev2(fd, this.#vectorAddress, count, offset, 0));
  }

  #locate(): void {
    const { bytes } = this.#memory;
    if (bytes === this.#bytes) return;
    this.#bytes = bytes;
    this.#base = this.#native.addressOf(bytes);
  }

  #answer(moved: number): number {
    return moved < 0 ? -this.#native.errno() : moved;
  }

  /**
   * Fills the vector and returns its number of entries. The table is read again here, and what
   * is read now is only followed inside the memory.
   */
  #gather({ length, segments, data }: DataCommand): number {
    this.#locate();
    if (segments === 1) {
      this.#setEntry(0, data, length);
      return 1;
    }
    const memory = this.#memory;
    const count = Math.min(segments, VECTOR_ENTRIES);
    for (let index = 0; index < count; index++) {
      const address = memory.segmentAddress(data, index);
      const segmentBytes = memory.segmentLength(data, index);
      if (!memory.contains(address, segmentBytes)) return -EFAULT;
      this.#setEntry(index, address, segmentBytes);
    }
    return count;
  }

  #setEntry(index: number, address: number, length: number): void {
    const word = index * IOVEC_WORDS;
    const native = this.#base + address;
    this.#vector[word] = native;
    this.#vector[word + 1] = native / TWO_POW_32;
    this.#vector[word + 2] = length;
  }
}

class NodeInlineIo implements InlineIo {
  readonly #memory: EngineMemory;

  constructor(memory: EngineMemory) {
    this.#memory = memory;
  }

  read(fd: number, command: DataCommand): number {
    const { offset, length, segments, data } = command;
    try {
      if (segments === 1) return readSync(fd, this.#memory.bytes, data, length, offset);
      return readvSync(fd, this.#memory.views(command), offset);
    } catch (error) {
      return -errnoOf(error);
    }
  }

  write(fd: number, command: DataCommand): number {
    const { offset, length, segments, data } = command;
    try {
      if (segments === 1) return writeSync(fd, this.#memory.bytes, data, length, offset);
      return writevSync(fd, this.#memory.views(command), offset);
    } catch (error) {
      return -errnoOf(error);
    }
  }
}
