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
 * M4 An extend changes the size when it is answered. The size becomes stable as bytes do, and M3
 *    does not apply to it: a power cut may leave a shorter disk.
 */
import { SluiceError } from '../errors.ts';
import {
  type MemoryCommand,
  MemoryDisk,
  type MemoryDiskOptions,
  type MemoryOperation,
} from './memory-command.ts';
import { StableImage, type SyncCover } from './memory-stable.ts';

export type { MemoryCommand, MemoryOperation } from './memory-command.ts';

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
export interface MemoryBackendOptions extends MemoryDiskOptions {
  /** Start with commands held back; default false. */
  readonly hold?: boolean;
  /** What discarded bytes are filled with; default 0. */
  readonly discardFill?: number;
}

interface Held {
  readonly command: MemoryCommand;
  readonly fault: Required<MemoryFault> | undefined;
  readonly cover: SyncCover | undefined;
}

const EIO = 5;

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
export class MemoryBackend extends MemoryDisk {
  /** Every command in the order it came in. */
  readonly log: MemoryCommand[] = [];
  /** While true, commands wait for release(); setting it to false releases nothing by itself. */
  hold: boolean;

  readonly #image: StableImage;
  readonly #discardFill: number;
  readonly #held: Held[] = [];
  readonly #faults: (Required<MemoryFault> & { readonly op: MemoryOperation; left: number })[] = [];

  constructor(options: MemoryBackendOptions) {
    super(options);
    this.hold = options.hold ?? false;
    this.#discardFill = options.discardFill ?? 0;
    this.#image = new StableImage(options.sizeBytes);
  }

  /** What reads see. Tests may look and write. */
  get volatile(): Uint8Array {
    return this.#image.volatile;
  }

  /** What a power cut leaves. Tests may look and write. */
  get stable(): Uint8Array {
    return this.#image.stable;
  }

  /** Commands that wait, oldest first. */
  get held(): readonly MemoryCommand[] {
    return this.#held.map(({ command }) => command);
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

  /** Cuts or extends the disk, in a way that survives a power cut. */
  resize(sizeBytes: number): Promise<void> {
    this.#image.resize(sizeBytes);
    this.sizeBytes = sizeBytes;
    return Promise.resolve();
  }

  /** The host loses power: what is not stable is gone, held commands are never answered. */
  cutPower(): void {
    this.#held.length = 0;
    this.#image.cutPower();
    this.sizeBytes = this.volatile.length;
  }

  protected override accept(command: MemoryCommand): void {
    this.log.push(command);
    this.noteConflicts(command, this.held);
    const cover = command.op === 'sync' ? this.#image.beginSync() : undefined;
    const held: Held = { command, fault: this.#takeFault(command.op), cover };
    if (this.hold) this.#held.push(held);
    else this.#execute(held);
  }

  /** Counts the command towards every waiting fault of its kind; the first that is due applies. */
  #takeFault(op: MemoryOperation): Required<MemoryFault> | undefined {
    for (const fault of this.#faults) if (fault.op === op) fault.left--;
    const index = this.#faults.findIndex((fault) => fault.op === op && fault.left <= 0);
    return index < 0 ? undefined : this.#faults.splice(index, 1)[0];
  }

  #execute({ command, fault, cover }: Held): void {
    const refusal = this.refusalOf(command);
    const errno = refusal === 0 ? (fault?.errno ?? 0) : refusal;
    if (cover !== undefined) this.#image.endSync(cover, errno === 0);
    if (refusal === 0) this.#change(command, fault?.appliedBytes ?? command.length);
    const value = errno === 0 ? this.#look(command) : 0;
    this.done(command.id, errno, value);
  }

  /** The write side of a command, as far as `count` bytes. */
  #change(command: MemoryCommand, count: number): void {
    const { op, offset, stable } = command;
    if (op === 'extend') this.#extend(Math.min(count, command.length));
    if (op !== 'write' && op !== 'writeZeroes' && op !== 'discard') return;
    const target = this.volatile.subarray(offset, offset + Math.min(count, command.length));
    if (op === 'write') this.gather(command, target);
    else target.fill(op === 'discard' ? this.#discardFill : 0);
    this.#image.changed(offset, target.length, stable);
  }

  #extend(sizeBytes: number): void {
    if (sizeBytes <= this.sizeBytes) return;
    this.#image.extend(sizeBytes);
    this.sizeBytes = sizeBytes;
  }

  /** The read side of a command; answers its value. */
  #look(command: MemoryCommand): number {
    const read = (offset: number, length: number): Uint8Array =>
      this.volatile.subarray(offset, offset + length);
    if (command.op === 'blockStatus') return this.writeStatus(command, read);
    if (command.op === 'read') this.scatter(command, read(command.offset, command.length));
    return 0;
  }
}
