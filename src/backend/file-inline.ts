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
import { errnoOf } from './errno.ts';
import { IoVectors } from './file-vectors.ts';
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

class NativeInlineIo implements InlineIo {
  readonly #native: Native;
  readonly #vectors: IoVectors;

  constructor(memory: EngineMemory, native: Native) {
    this.#native = native;
    this.#vectors = new IoVectors(memory, native);
  }

  read(fd: number, command: DataCommand, nowait: boolean): number {
    const count = this.#vectors.fill(command);
    if (count < 0) return count;
    const flags = nowait ? RWF_NOWAIT : 0;
    const vector = this.#vectors.entryAddress(0);
    return this.#answer(this.#native.preadv2(fd, vector, count, command.offset, flags));
  }

  write(fd: number, command: DataCommand): number {
    const { offset, length, segments, data } = command;
    if (segments === 1) {
      return this.#answer(this.#native.pwrite(fd, this.#vectors.addressOf(data), length, offset));
    }
    const count = this.#vectors.fill(command);
    if (count < 0) return count;
    const vector = this.#vectors.entryAddress(0);
    return this.#answer(this.#native.pwritev2(fd, vector, count, offset, 0));
  }

  #answer(moved: number): number {
    return moved < 0 ? -this.#native.errno() : moved;
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
