/**
 * What the disks in memory share: the calls of a Backend as records, their checks, and the way of
 * their bytes between the engine's memory and a disk. When a record takes effect, with what answer
 * and what of it survives, each disk decides for itself.
 */
import { ERRNO_ENOTSUP } from '../abi/command.ts';
import { COMMAND_SLOTS } from '../abi/limits.ts';
import { EXTENT_HOLE, EXTENT_SIZE, EXTENT_TABLE_ENTRIES, EXTENT_ZERO } from '../abi/request.ts';
import type { Backend, Done } from './backend.ts';
import { EngineMemory, noMemory, refuseBeforeAttach } from './engine-memory.ts';
import { EFAULT, EINVAL, EROFS } from './errno.ts';
import { ExtentBuilder, writeExtents } from './extent-table.ts';

/** What a command asks for: the names of the methods. */
export type MemoryOperation =
  | 'read'
  | 'write'
  | 'writeZeroes'
  | 'discard'
  | 'blockStatus'
  | 'sync'
  | 'extend';

/** One command as it came in. What does not apply to its operation is 0 or false. */
export interface MemoryCommand {
  readonly id: number;
  readonly op: MemoryOperation;
  /** Bytes. */
  readonly offset: number;
  /** Bytes; of an extend the size that is asked for. */
  readonly length: number;
  readonly segments: number;
  /** Address of the bytes, or of the table, in the attached memory. */
  readonly data: number;
  readonly stable: boolean;
  readonly mayUnmap: boolean;
  readonly fast: boolean;
}

/** What every disk in memory is made of. */
export interface MemoryDiskOptions {
  /** Capacity in bytes. */
  readonly sizeBytes: number;
  /** The granule that the engine has to respect; default 1. */
  readonly blockSizeBytes?: number;
  readonly readOnly?: boolean;
  /** Default: all the commands that an engine has. */
  readonly depth?: number;
  /** WRITE_ZEROES with `fast` is possible; default true. */
  readonly fastZeroes?: boolean;
  /** Writes can be stable when they are answered; default true. Without, the engine syncs. */
  readonly fua?: boolean;
}

const STATUS_GRANULE = 4096;
const NO_DATA = { offset: 0, length: 0, segments: 0, data: 0 };
const NO_FLAGS = { stable: false, mayUnmap: false, fast: false };

/** A Backend whose calls arrive as records in accept(). */
export abstract class MemoryDisk implements Backend {
  sizeBytes: number;
  readonly blockSizeBytes: number;
  readonly readOnly: boolean;
  readonly depth: number;
  readonly fua: boolean;
  /**
   * Pairs of commands that were in flight together although they share a granule and do not both
   * read. The engine promises that there are none (backend.ts).
   */
  readonly conflicts: (readonly [MemoryCommand, MemoryCommand])[] = [];
  /** True after close(). */
  closed = false;

  protected readonly fastZeroes: boolean;
  protected memory = noMemory();
  protected done: Done = refuseBeforeAttach;

  constructor(options: MemoryDiskOptions) {
    this.sizeBytes = options.sizeBytes;
    this.blockSizeBytes = options.blockSizeBytes ?? 1;
    this.readOnly = options.readOnly ?? false;
    this.depth = options.depth ?? COMMAND_SLOTS;
    this.fua = options.fua ?? true;
    this.fastZeroes = options.fastZeroes ?? true;
  }

  attach(memory: WebAssembly.Memory, done: Done): void {
    this.memory = new EngineMemory(memory);
    this.done = done;
  }

  read(id: number, offset: number, length: number, segments: number, data: number): void {
    this.accept({ ...NO_FLAGS, id, op: 'read', offset, length, segments, data });
  }

  write(
    id: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    stable: boolean,
  ): void {
    this.accept({ ...NO_FLAGS, id, op: 'write', offset, length, segments, data, stable });
  }

  writeZeroes(id: number, offset: number, length: number, mayUnmap: boolean, fast: boolean): void {
    const flags = { stable: false, mayUnmap, fast };
    this.accept({ ...NO_DATA, ...flags, id, op: 'writeZeroes', offset, length });
  }

  discard(id: number, offset: number, length: number): void {
    this.accept({ ...NO_DATA, ...NO_FLAGS, id, op: 'discard', offset, length });
  }

  blockStatus(id: number, offset: number, length: number, data: number): void {
    this.accept({ ...NO_FLAGS, id, op: 'blockStatus', offset, length, segments: 0, data });
  }

  sync(id: number): void {
    this.accept({ ...NO_DATA, ...NO_FLAGS, id, op: 'sync' });
  }

  extend(id: number, sizeBytes: number): void {
    this.accept({ ...NO_DATA, ...NO_FLAGS, id, op: 'extend', length: sizeBytes });
  }

  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }

  /** A command has come in. */
  protected abstract accept(command: MemoryCommand): void;

  /** Adds to `conflicts` what `command` must not be in flight with. */
  protected noteConflicts(command: MemoryCommand, inFlight: Iterable<MemoryCommand>): void {
    for (const earlier of inFlight) {
      if (this.#collide(earlier, command)) this.conflicts.push([earlier, command]);
    }
  }

  /** The errno for a command that no disk of this shape can do, or 0. */
  protected refusalOf(command: MemoryCommand): number {
    const { op, offset, length, data } = command;
    if (op === 'sync') return 0;
    if (op === 'extend') return this.readOnly ? EROFS : 0;
    if (offset < 0 || length < 0 || offset + length > this.sizeBytes) return EINVAL;
    if ((op === 'read' || op === 'write') && !this.memory.holds(command)) return EFAULT;
    if (op === 'blockStatus') {
      if (length === 0) return EINVAL;
      return this.memory.contains(data, EXTENT_TABLE_ENTRIES * EXTENT_SIZE) ? 0 : EFAULT;
    }
    if (this.readOnly && op !== 'read') return EROFS;
    return op === 'writeZeroes' && command.fast && !this.fastZeroes ? ERRNO_ENOTSUP : 0;
  }

  /** Copies the first bytes that a WRITE carries to `target`, until that is full. */
  protected gather(command: MemoryCommand, target: Uint8Array): void {
    let position = 0;
    for (const view of this.memory.views(command)) {
      const part = view.subarray(0, target.length - position);
      target.set(part, position);
      position += part.length;
    }
  }

  /** Answers a READ: `bytes` are the command's range of the disk. */
  protected scatter(command: MemoryCommand, bytes: Uint8Array): void {
    let position = 0;
    for (const view of this.memory.views(command)) {
      view.set(bytes.subarray(position, position + view.length));
      position += view.length;
    }
  }

  /**
   * Answers a BLOCK_STATUS, and returns its value: pages of zeroes are holes. `read` gives bytes
   * of the disk.
   */
  protected writeStatus(
    { offset, length, data }: MemoryCommand,
    read: (offset: number, length: number) => Uint8Array,
  ): number {
    const builder = new ExtentBuilder(offset, offset + length);
    while (!builder.isFull) {
      const start = builder.position - (builder.position % STATUS_GRANULE);
      const pageBytes = Math.min(STATUS_GRANULE, this.sizeBytes - start);
      const isZero = read(start, pageBytes).every((byte) => byte === 0);
      builder.add(start + STATUS_GRANULE, isZero ? EXTENT_HOLE | EXTENT_ZERO : 0);
    }
    writeExtents(this.memory.view, data, builder.extents);
    return builder.extents.length;
  }

  #collide(a: MemoryCommand, b: MemoryCommand): boolean {
    if ([a, b].every(({ op }) => op === 'read' || op === 'blockStatus')) return false;
    if (a.op === 'extend' || b.op === 'extend') return false;
    if (a.length === 0 || b.length === 0) return false;
    const granule = this.blockSizeBytes;
    const first = (command: MemoryCommand): number => Math.floor(command.offset / granule);
    const end = ({ offset, length }: MemoryCommand): number =>
      Math.ceil((offset + length) / granule);
    return first(a) < end(b) && first(b) < end(a);
  }
}
