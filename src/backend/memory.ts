/**
 * A disk in memory, for tests: it records what it is asked, waits when told to, fails on cue, and
 * knows what a power cut would leave.
 *
 * Two images are kept. `volatile` is what reads see; `stable` is what a power cut leaves behind.
 *
 * M1 A write changes `volatile` when it is answered, never before; a stable one changes `stable`
 *    in the same instant.
 * M2 A sync that succeeds makes stable what had been answered when it was *called*, and nothing
 *    that was answered while it ran. (A real disk may keep more; a test that passes with less
 *    passes with more.)
 * M3 A sync that fails makes nothing stable and forgets what it should have synced, as Linux
 *    does: the next sync succeeds although those bytes are not stable.
 */
import { ERRNO_ENOTSUP } from '../abi/command.ts';
import { COMMAND_SLOTS } from '../abi/limits.ts';
import { EXTENT_HOLE, EXTENT_SIZE, EXTENT_TABLE_ENTRIES, EXTENT_ZERO } from '../abi/request.ts';
import { SluiceError } from '../errors.ts';
import type { Backend, Done } from './backend.ts';
import { EngineMemory } from './engine-memory.ts';
import { ExtentBuilder, writeExtents } from './extent-table.ts';
import { EFAULT, EINVAL, EROFS } from './errno.ts';
import { StableImage, type SyncCover } from './memory-stable.ts';

/** What a command asks for: the names of the methods. */
export type MemoryOperation = 'read' | 'write' | 'writeZeroes' | 'discard' | 'blockStatus' | 'sync';

/** One command as it came in. What does not apply to its operation is 0 or false. */
export interface MemoryCommand {
  readonly id: number;
  readonly op: MemoryOperation;
  /** Bytes. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  readonly segments: number;
  /** Address of the bytes, or of the table, in the attached memory. */
  readonly data: number;
  readonly stable: boolean;
  readonly mayUnmap: boolean;
  readonly fast: boolean;
}

/** How a scripted fault behaves. */
export interface MemoryFault {
  /** Positive errno to answer with; default EIO (5). */
  readonly errno?: number;
  /** Which command of the operation fails, counted from now on; default 1, the next. */
  readonly nth?: number;
  /** WRITE, WRITE_ZEROES, DISCARD: bytes that are changed all the same; default 0. */
  readonly appliedBytes?: number;
}

/** How a MemoryBackend is made. */
export interface MemoryBackendOptions {
  /** Capacity in bytes. */
  readonly sizeBytes: number;
  /** The granule that the engine has to respect; default 1. */
  readonly blockSizeBytes?: number;
  readonly readOnly?: boolean;
  /** Default: all the commands that an engine has. */
  readonly depth?: number;
  /** Start with commands held back; default false. */
  readonly hold?: boolean;
  /** WRITE_ZEROES with `fast` is possible; default true. */
  readonly fastZeroes?: boolean;
  /** What discarded bytes are filled with; default 0. */
  readonly discardFill?: number;
}

interface Held {
  readonly command: MemoryCommand;
  readonly fault: Required<MemoryFault> | undefined;
  readonly cover: SyncCover | undefined;
}

const EIO = 5;
const STATUS_GRANULE = 4096;
const NO_DATA = { offset: 0, length: 0, segments: 0, data: 0 };
const NO_FLAGS = { stable: false, mayUnmap: false, fast: false };

/**
 * An in-memory disk.
 *
 * ```ts
 * const backend = new MemoryBackend({ sizeBytes: 1 << 20, hold: true });
 * // ... commands come in and wait ...
 * backend.fail('sync', { errno: 5 });       // the next sync will fail
 * for (const { id } of [...backend.held].reverse()) backend.release(id);
 * backend.log.map(({ op, offset }) => [op, offset]);
 * backend.cutPower();                       // volatile is now what was stable
 * ```
 */
export class MemoryBackend implements Backend {
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  readonly readOnly: boolean;
  readonly depth: number;
  /** What reads see. Tests may look and write. */
  readonly volatile: Uint8Array;
  /** What a power cut leaves. Tests may look and write. */
  readonly stable: Uint8Array;
  /** Every command in the order it came in. */
  readonly log: MemoryCommand[] = [];
  /**
   * Pairs of commands that were in flight together although they share a granule and do not both
   * read. The engine promises that there are none (backend.ts).
   */
  readonly conflicts: (readonly [MemoryCommand, MemoryCommand])[] = [];
  /** While true, commands wait for release(); setting it to false releases nothing by itself. */
  hold: boolean;
  /** True after close(). */
  closed = false;

  readonly #image: StableImage;
  readonly #fastZeroes: boolean;
  readonly #discardFill: number;
  readonly #held: Held[] = [];
  readonly #faults: (Required<MemoryFault> & { readonly op: MemoryOperation; left: number })[] = [];
  #memory = new EngineMemory(new ArrayBuffer(0));
  #done: Done = refuseBeforeAttach;

  constructor(options: MemoryBackendOptions) {
    this.sizeBytes = options.sizeBytes;
    this.blockSizeBytes = options.blockSizeBytes ?? 1;
    this.readOnly = options.readOnly ?? false;
    this.depth = options.depth ?? COMMAND_SLOTS;
    this.hold = options.hold ?? false;
    this.#fastZeroes = options.fastZeroes ?? true;
    this.#discardFill = options.discardFill ?? 0;
    this.#image = new StableImage(options.sizeBytes);
    this.volatile = this.#image.volatile;
    this.stable = this.#image.stable;
  }

  /** Commands that wait, oldest first. */
  get held(): readonly MemoryCommand[] {
    return this.#held.map(({ command }) => command);
  }

  attach(memory: WebAssembly.Memory, done: Done): void {
    this.#memory = new EngineMemory(memory.buffer);
    this.#done = done;
  }

  read(id: number, offset: number, length: number, segments: number, data: number): void {
    this.#accept({ ...NO_FLAGS, id, op: 'read', offset, length, segments, data });
  }

  write(
    id: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    stable: boolean,
  ): void {
    this.#accept({ ...NO_FLAGS, id, op: 'write', offset, length, segments, data, stable });
  }

  writeZeroes(id: number, offset: number, length: number, mayUnmap: boolean, fast: boolean): void {
    const flags = { stable: false, mayUnmap, fast };
    this.#accept({ ...NO_DATA, ...flags, id, op: 'writeZeroes', offset, length });
  }

  discard(id: number, offset: number, length: number): void {
    this.#accept({ ...NO_DATA, ...NO_FLAGS, id, op: 'discard', offset, length });
  }

  blockStatus(id: number, offset: number, length: number, data: number): void {
    this.#accept({ ...NO_FLAGS, id, op: 'blockStatus', offset, length, segments: 0, data });
  }

  sync(id: number): void {
    this.#accept({ ...NO_DATA, ...NO_FLAGS, id, op: 'sync' });
  }

  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }

  /** Executes and answers one held command: the oldest, or the one with this id. */
  release(id?: number): MemoryCommand {
    const index = id === undefined ? 0 : this.#held.findIndex(({ command }) => command.id === id);
    const [held] = index < 0 ? [] : this.#held.splice(index, 1);
    if (held === undefined) {
      const message = `there is no held command${id === undefined ? '' : ` with id ${id}`}`;
      throw new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', message);
    }
    this.#execute(held);
    return held.command;
  }

  /** Releases until nothing is held, oldest first; also what comes in meanwhile. */
  releaseAll(): void {
    while (this.#held.length > 0) this.release();
  }

  /** Makes a coming command of this kind fail. Several faults may wait at once. */
  fail(op: MemoryOperation, { errno = EIO, nth = 1, appliedBytes = 0 }: MemoryFault = {}): void {
    this.#faults.push({ op, errno, nth, appliedBytes, left: nth });
  }

  /** The host loses power: what is not stable is gone, held commands are never answered. */
  cutPower(): void {
    this.#held.length = 0;
    this.#image.cutPower();
  }

  #accept(command: MemoryCommand): void {
    this.log.push(command);
    for (const { command: earlier } of this.#held) {
      if (this.#collide(earlier, command)) this.conflicts.push([earlier, command]);
    }
    const cover = command.op === 'sync' ? this.#image.beginSync() : undefined;
    const held: Held = { command, fault: this.#takeFault(command.op), cover };
    if (this.hold) this.#held.push(held);
    else this.#execute(held);
  }

  #collide(a: MemoryCommand, b: MemoryCommand): boolean {
    if ([a, b].every(({ op }) => op === 'read' || op === 'blockStatus')) return false;
    if (a.length === 0 || b.length === 0) return false;
    const granule = this.blockSizeBytes;
    const first = (command: MemoryCommand): number => Math.floor(command.offset / granule);
    const end = ({ offset, length }: MemoryCommand): number =>
      Math.ceil((offset + length) / granule);
    return first(a) < end(b) && first(b) < end(a);
  }

  /** Counts the command towards every waiting fault of its kind; the first that is due applies. */
  #takeFault(op: MemoryOperation): Required<MemoryFault> | undefined {
    for (const fault of this.#faults) if (fault.op === op) fault.left--;
    const index = this.#faults.findIndex((fault) => fault.op === op && fault.left <= 0);
    return index < 0 ? undefined : this.#faults.splice(index, 1)[0];
  }

  #execute({ command, fault, cover }: Held): void {
    const refusal = this.#refusalOf(command);
    const errno = refusal === 0 ? (fault?.errno ?? 0) : refusal;
    if (cover !== undefined) this.#image.endSync(cover, errno === 0);
    if (refusal === 0) this.#change(command, fault?.appliedBytes ?? command.length);
    const value = errno === 0 ? this.#look(command) : 0;
    this.#done(command.id, errno, value);
  }

  #refusalOf(command: MemoryCommand): number {
    const { op, offset, length, data } = command;
    if (op === 'sync') return 0;
    if (offset < 0 || length < 0 || offset + length > this.sizeBytes) return EINVAL;
    if ((op === 'read' || op === 'write') && !this.#memory.holds(command)) return EFAULT;
    if (op === 'blockStatus') {
      if (length === 0) return EINVAL;
      return this.#memory.contains(data, EXTENT_TABLE_ENTRIES * EXTENT_SIZE) ? 0 : EFAULT;
    }
    if (this.readOnly && op !== 'read') return EROFS;
    return op === 'writeZeroes' && command.fast && !this.#fastZeroes ? ERRNO_ENOTSUP : 0;
  }

  /** The write side of a command, as far as `count` bytes. */
  #change(command: MemoryCommand, count: number): void {
    const { op, offset, stable } = command;
    if (op !== 'write' && op !== 'writeZeroes' && op !== 'discard') return;
    const target = this.volatile.subarray(offset, offset + Math.min(count, command.length));
    if (op === 'write') {
      let position = 0;
      for (const view of this.#memory.views(command)) {
        const part = view.subarray(0, target.length - position);
        target.set(part, position);
        position += part.length;
      }
    } else {
      target.fill(op === 'discard' ? this.#discardFill : 0);
    }
    this.#image.changed(offset, target.length, stable);
  }

  /** The read side of a command; answers its value. */
  #look(command: MemoryCommand): number {
    if (command.op === 'blockStatus') return this.#writeStatus(command);
    if (command.op !== 'read') return 0;
    let position = command.offset;
    for (const view of this.#memory.views(command)) {
      view.set(this.volatile.subarray(position, position + view.length));
      position += view.length;
    }
    return 0;
  }

  /** Pages of zeroes are holes. */
  #writeStatus({ offset, length, data }: MemoryCommand): number {
    const builder = new ExtentBuilder(offset, offset + length);
    while (!builder.isFull) {
      const start = builder.position - (builder.position % STATUS_GRANULE);
      const page = this.volatile.subarray(start, start + STATUS_GRANULE);
      const isZero = page.every((byte) => byte === 0);
      builder.add(start + STATUS_GRANULE, isZero ? EXTENT_HOLE | EXTENT_ZERO : 0);
    }
    writeExtents(this.#memory.view, data, builder.extents);
    return builder.extents.length;
  }
}

function refuseBeforeAttach(): never {
  const message = 'a command was sent to a backend before attach(); attach an engine first';
  throw new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', message);
}
