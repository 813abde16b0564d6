/**
 * A simulated host under an engine: it executes commands on an image, answers them in any order
 * and with any error, and checks on the fly
 *
 *   (a) that each request completes exactly once, conflicting ones in submission order (H2);
 *   (b) that a read returns what submission order demands (durability, section 7);
 *   (c) that no two conflicting commands are at the host together (H2);
 *   (d) the power cut: at the completion of a flush or a stable write, all that it covers survives
 *       (durability, section 9);
 *   (e) that after a failed sync no sync is trusted (F6; section 6);
 *   (f) that one sync runs at a time and none when flushes are ignored (F4, W1);
 *   (g) the limits: depth, bytes and segments of a merged command (E2);
 *   (h) that nothing starves (E3).
 *
 * It knows nothing of generations, groups or runs: it looks at requests and contents only. The
 * number of syncs is checked by the model (lockstep.ts).
 */

import {
  COMMAND_BLOCK_STATUS,
  COMMAND_DISCARD,
  COMMAND_READ,
  COMMAND_STABLE,
  COMMAND_SYNC,
  COMMAND_WRITE,
} from '../../src/abi/command.ts';
import { MERGE_SEGMENTS } from '../../src/abi/limits.ts';
import * as abi from '../../src/abi/request.ts';
import {
  type BlockEngine,
  type CommandRecord,
  type CompletionRecord,
  DATA_BASE,
  type EngineConfig,
  type RequestRecord,
  type Segment,
  segmentsOf,
} from '../driver.ts';
import { isWriteClass, refusalOf } from '../model.ts';
import { Image, type SyncedCells } from './image.ts';
import { Random } from './random.ts';

/** An engine and the disk below it. */
export interface Setup extends EngineConfig {
  /** The unit of contents and of the streams: divides all offsets and lengths. */
  readonly cellBytes: number;
  /** Where the cells begin: far from 0, numbers are large. A multiple of the granule. */
  readonly origin: number;
  /** For what the disk decides: what a failed write leaves, what a discard does. */
  readonly seed: number;
}

/** A request with a range, in cells. */
export interface Io {
  readonly op: number;
  readonly flags: number;
  readonly at: number;
  readonly cells: number;
  /** Segments, and whether they lie apart in memory. */
  readonly pieces: number;
  readonly gap: boolean;
}

/** A request that was submitted and has not completed. */
interface Tracked {
  readonly record: RequestRecord;
  readonly refusal: number;
  /** Cells, and the same in granules. */
  readonly from: number;
  readonly to: number;
  readonly start: number;
  readonly end: number;
  /** Must be stable when it completes. */
  readonly stable: boolean;
  readonly segments: readonly Segment[];
  /** The last write-class request that was submitted before, cell by cell. */
  readonly before: readonly (Tracked | undefined)[];
  /** A flush: the version of each cell that it must find stable. */
  readonly owes: Uint32Array | undefined;
  /** Submitted when a sync had already failed. */
  readonly afterFailure: boolean;
  status: number | undefined;
}

interface InFlight {
  readonly command: CommandRecord;
  readonly start: number;
  readonly end: number;
  readonly synced: SyncedCells;
}

/** Memory that no read has filled. */
const POISON = 0xdead_beef;
const GARBAGE = 0xbad0_0000;

/** See the head of the file. Every broken rule is an Error. */
export class Simulator {
  readonly image: Image;
  /** Completions in the order in which they were taken. */
  readonly completed: CompletionRecord[] = [];
  readonly #engine: BlockEngine;
  readonly #view: DataView;
  readonly #setup: Setup;
  readonly #random: Random;
  readonly #open = new Map<number, Tracked>();
  readonly #lastWriter: (Tracked | undefined)[];
  /** The version of each cell that a flush submitted now would owe. */
  readonly #owed: Uint32Array;
  readonly #inFlight: InFlight[] = [];
  /** What BLOCK_STATUS was answered, by the address of its result table. */
  readonly #extents = new Map<number, number>();
  #free = DATA_BASE;
  #nextTag = 1;
  #wce: boolean;
  #syncFailed = false;
  /** The engine has seen that a sync failed. */
  #latched = false;
  /** Completions are taken late. */
  #late = false;

  constructor(engine: BlockEngine, view: DataView, setup: Setup) {
    const cells = Math.floor((setup.capacity - setup.origin) / setup.cellBytes);
    this.image = new Image(cells);
    this.#engine = engine;
    this.#view = view;
    this.#setup = setup;
    this.#random = new Random(setup.seed);
    this.#lastWriter = Array.from({ length: cells });
    // F7: an earlier process has left everything dirty.
    for (let cell = 0; cell < cells; cell++) this.image.write(cell, 0);
    this.#owed = this.image.nowVersion.slice();
    this.#wce = setup.wce;
  }

  /** Submits a request with a range; false when the ring is full. */
  submit(io: Io): boolean {
    const { cellBytes, origin, capacity } = this.#setup;
    const segments = io.op <= abi.OP_WRITE ? this.#place(io) : this.#resultTable();
    const value = io.op === abi.OP_WRITE ? this.#nextTag : POISON;
    for (const address of this.#cellsOf(segments)) this.#view.setUint32(address, value, true);
    const offset = origin + io.at * cellBytes;
    return this.submitRecord({
      op: io.op,
      flags: io.flags,
      segments: segments.length,
      data: segments.length === 1 ? segments[0]!.address : this.#tableOf(segments),
      offset,
      length: Math.max(0, Math.min(io.cells * cellBytes, capacity - offset)),
    });
  }

  /** Submits a record that the engine must refuse; one that it need not is left out. */
  submitHostile(fields: Omit<RequestRecord, 'tag'>): void {
    const refusal = refusalOf(this.#setup, { ...fields, tag: 0 }, this.#view);
    if (refusal !== abi.STATUS_OK) this.submitRecord(fields);
  }

  /** Submits a record as it is, with a tag of its own. */
  submitRecord(fields: Omit<RequestRecord, 'tag'>): boolean {
    const record = { ...fields, tag: this.#nextTag };
    if (!this.#engine.submit(record)) return false;
    this.#nextTag += 1;
    const tracked = this.#track(record);
    this.#open.set(record.tag, tracked);
    if (tracked.refusal !== abi.STATUS_OK) return true;
    if (isWriteClass(record.op)) this.#lastWriter.fill(tracked, tracked.from, tracked.to);
    if (record.op === abi.OP_SET_WCE) this.#wce = Number(record.length) === 1;
    return true;
  }

  /**
   * Runs the engine; takes its commands, and at most `limit` completions. With a limit, contents
   * have moved on before a completion is seen, and are compared at the end only.
   */
  pump(limit?: number): void {
    this.#engine.pump();
    if (this.#syncFailed) this.#latched = true;
    if (limit !== undefined) this.#late = true;
    for (const command of this.#engine.takeCommands()) this.#receive(command);
    for (const completion of this.#engine.takeCompletions(limit)) this.#complete(completion);
  }

  /** Executes and answers one command at the host; `pick` chooses which. */
  answer(pick: number, errno = 0, syncErrno = 0): void {
    if (this.#inFlight.length === 0) return;
    const [flight] = this.#inFlight.splice(pick % this.#inFlight.length, 1);
    const { command, synced } = flight!;
    if (command.op === COMMAND_SYNC) {
      this.#endSync(synced, syncErrno);
      this.#engine.result(command.id, syncErrno);
      return;
    }
    this.#engine.result(command.id, errno, this.#execute(command, errno));
  }

  /** Answers everything until the engine is idle: (h), and the contents are what they must be. */
  finish(): void {
    this.pump();
    for (let turn = 0; this.#open.size > 0; turn++) {
      const open = this.#open.size;
      if (this.#inFlight.length === 0 || turn > 100_000) this.#fail('h', `${open} requests starve`);
      for (let some = this.#random.below(this.#inFlight.length); some >= 0; some--) {
        this.answer(this.#random.below(this.#inFlight.length));
      }
      this.pump();
    }
    if (this.#inFlight.length > 0) this.#fail('a', 'commands outlive their requests');
    for (const [cell, value] of this.image.now.entries()) {
      const writer = this.#lastWriter[cell];
      if (!allowed(value, cell, writer)) this.#fail('b', `cell ${cell} holds ${value} at the end`);
    }
  }

  #track(record: RequestRecord): Tracked {
    const { cellBytes, origin, blockSize } = this.#setup;
    const { op } = record;
    const refusal = refusalOf(this.#setup, record, this.#view);
    const hasRange = refusal === abi.STATUS_OK && op <= abi.OP_BLOCK_STATUS;
    const offset = hasRange ? Number(record.offset) : 0;
    const length = hasRange ? Number(record.length) : 0;
    const from = Math.max(0, Math.floor((offset - origin) / cellBytes));
    const to = from + Math.ceil(length / cellBytes);
    const flushes = op === abi.OP_FLUSH || op === abi.OP_SET_WCE;
    const inClass = !this.#wce || (record.flags & abi.REQUEST_FUA) !== 0;
    return {
      record,
      refusal,
      from,
      to,
      start: Math.floor(offset / blockSize) * blockSize,
      end: length === 0 ? 0 : Math.ceil((offset + length) / blockSize) * blockSize,
      stable: hasRange && isWriteClass(op) && inClass && !this.#setup.noFlush,
      segments:
        hasRange && op <= abi.OP_WRITE
          ? segmentsOf(this.#view, record.segments, record.data, length)
          : [],
      before: this.#lastWriter.slice(from, to),
      owes: flushes ? this.#owed.slice() : undefined,
      afterFailure: this.#latched,
      status: undefined,
    };
  }

  /** The memory of a request: pieces of one cell, and the last takes the rest. */
  #place({ cells, pieces, gap }: Io): Segment[] {
    const { cellBytes } = this.#setup;
    const segments: Segment[] = [];
    for (let left = cells; left > 0 || segments.length === 0;) {
      const isLast = segments.length + 1 >= Math.min(pieces, cells);
      const length = (isLast ? left : 1) * cellBytes;
      segments.push({ address: this.#allocate(length), length });
      if (gap) this.#allocate(cellBytes);
      left -= length / cellBytes;
    }
    return segments;
  }

  /** The memory of a BLOCK_STATUS; write zeroes and discard ignore theirs. */
  #resultTable(): Segment[] {
    const address = this.#free;
    // Overlapping tables have addresses of their own: nothing is written into them.
    this.#free += abi.EXTENT_SIZE;
    return [{ address, length: 0 }];
  }

  #tableOf(segments: readonly Segment[]): number {
    const table = this.#allocate(segments.length * abi.SEGMENT_SIZE);
    for (const [index, { address, length }] of segments.entries()) {
      const entry = table + index * abi.SEGMENT_SIZE;
      this.#view.setUint32(entry + abi.SEGMENT_ADDRESS, address, true);
      this.#view.setUint32(entry + abi.SEGMENT_LENGTH, length, true);
    }
    return table;
  }

  #allocate(bytes: number): number {
    const address = this.#free;
    this.#free += bytes;
    if (this.#free > this.#view.byteLength) throw new Error('the test needs more memory');
    return address;
  }

  /** The address of each cell in these segments. */
  #cellsOf(segments: readonly Segment[]): number[] {
    const { cellBytes } = this.#setup;
    return segments.flatMap(({ address, length }) =>
      Array.from({ length: length / cellBytes }, (_, index) => address + index * cellBytes),
    );
  }

  #receive(command: CommandRecord): void {
    const { blockSize } = this.#setup;
    const { op, offset, length } = command;
    if (this.#inFlight.some((other) => other.command.id === command.id)) {
      this.#fail('a', `id ${command.id} names two commands`);
    }
    if (op === COMMAND_SYNC) {
      this.#receiveSync(command);
      return;
    }
    const flight: InFlight = {
      command,
      start: Math.floor(offset / blockSize) * blockSize,
      end: Math.ceil((offset + length) / blockSize) * blockSize,
      synced: [],
    };
    const rival = this.#inFlight.find((other) => conflict(flight, other));
    if (rival !== undefined) this.#fail('c', `${text(command)} beside ${text(rival.command)}`);
    this.#inFlight.push(flight);
    this.#checkLimits(command);
  }

  #receiveSync(command: CommandRecord): void {
    if (this.#setup.noFlush) this.#fail('f', 'a sync although flushes are ignored');
    if (this.#latched) this.#fail('e', 'a sync after a failed one');
    if (this.#inFlight.some((other) => other.command.op === COMMAND_SYNC)) {
      this.#fail('f', 'two syncs together');
    }
    this.#inFlight.push({ command, start: 0, end: 0, synced: this.image.startSync() });
  }

  #checkLimits(command: CommandRecord): void {
    const { depth, mergeBytes, noFlush } = this.#setup;
    const { op, flags, length, table } = command;
    const data = this.#inFlight.filter((other) => other.command.op !== COMMAND_SYNC);
    if (data.length > depth) this.#fail('g', `${data.length} commands at depth ${depth}`);
    const isStable = op === COMMAND_WRITE && (flags & COMMAND_STABLE) !== 0;
    if (isStable && noFlush) this.#fail('f', 'a stable write although flushes are ignored');
    if (op > COMMAND_WRITE) return;
    const carried = table.reduce((sum, segment) => sum + segment.length, 0);
    if (carried !== length) this.#fail('g', `${text(command)} carries ${carried} bytes`);
    if (length <= mergeBytes && table.length <= MERGE_SEGMENTS) return;
    const alone = [...this.#open.values()].some(
      ({ record }) =>
        record.op === op && record.offset === command.offset && record.length === length,
    );
    if (!alone) this.#fail('g', `${text(command)} was merged past the limits`);
  }

  /** Does what the command says; returns the value of the answer. */
  #execute(command: CommandRecord, errno: number): number {
    const { cellBytes, origin } = this.#setup;
    this.#checkTable(command);
    if (command.op === COMMAND_BLOCK_STATUS) {
      const extents = errno === 0 ? 1 + this.#random.below(9) : 0;
      this.#extents.set(command.data, extents);
      return extents;
    }
    const from = (command.offset - origin) / cellBytes;
    const cells = Math.ceil(command.length / cellBytes);
    const addresses = this.#cellsOf(command.table);
    const kept = this.#kept(command, errno, cells);
    for (let index = 0; index < cells; index++) {
      const cell = from + index;
      const address = addresses[index];
      if (command.op === COMMAND_READ) {
        if (errno === 0) this.#view.setUint32(address!, this.image.now[cell]!, true);
      } else if (kept(index)) {
        const value = address === undefined ? 0 : this.#view.getUint32(address, true);
        this.image.write(cell, command.op === COMMAND_DISCARD ? this.#discarded(cell) : value);
        const isStable = command.op === COMMAND_WRITE && (command.flags & COMMAND_STABLE) !== 0;
        if (isStable && errno === 0) this.image.makeStable(cell);
      }
    }
    return 0;
  }

  /** Which cells of a write reach the disk: all, or what a failure leaves. */
  #kept(command: CommandRecord, errno: number, cells: number): (index: number) => boolean {
    const discardsNothing = command.op === COMMAND_DISCARD && this.#random.chance(0.3);
    if (discardsNothing) return () => false;
    if (errno === 0) return () => true;
    const prefix = this.#random.below(cells + 1);
    if (this.#random.chance(0.5)) return (index) => index < prefix;
    return () => this.#random.chance(0.5);
  }

  #discarded(cell: number): number {
    return this.#random.pick([0, this.image.now[cell]!, GARBAGE]);
  }

  #checkTable(command: CommandRecord): void {
    const { op, segments, data, length, table } = command;
    // The model keeps no table in memory.
    if (op > COMMAND_WRITE || segments === 1 || data === 0) return;
    const found = segmentsOf(this.#view, segments, data, length);
    const same = found.every(
      ({ address, length: bytes }, index) =>
        address === table[index]!.address && bytes === table[index]!.length,
    );
    if (!same) this.#fail('g', `the table of ${text(command)} changed while it was at the host`);
  }

  #endSync(synced: SyncedCells, errno: number): void {
    if (errno !== 0) this.#syncFailed = true;
    this.image.endSync(synced, () => errno === 0 || this.#random.chance(0.3));
  }

  #complete(completion: CompletionRecord): void {
    const { tag, status } = completion;
    const request = this.#open.get(tag);
    if (request === undefined) this.#fail('a', `request ${tag} completes again or never was`);
    for (const earlier of this.#open.values()) {
      if (earlier === request) break;
      if (earlier.refusal === abi.STATUS_OK && conflictOf(earlier, request)) {
        this.#fail('a', `request ${tag} completes before ${earlier.record.tag}`);
      }
    }
    this.#open.delete(tag);
    request.status = status;
    this.completed.push(completion);
    if (request.refusal !== abi.STATUS_OK) {
      if (status !== request.refusal) this.#fail('a', `request ${tag} is refused with ${status}`);
    } else if (status === abi.STATUS_OK && !this.#late) this.#succeed(request, completion.value);
  }

  #succeed(request: Tracked, value: number): void {
    const { op, data, length } = request.record;
    if (request.owes !== undefined) this.#checkFlush(request, request.owes);
    else if (op === abi.OP_READ) this.#checkRead(request);
    else if (isWriteClass(op)) this.#checkWrite(request);
    else if (Number(length) > 0 && value !== this.#extents.get(data)) {
      this.#fail('a', `request ${request.record.tag} answers ${value} extents`);
    }
  }

  #checkRead({ record, segments, from, before }: Tracked): void {
    for (const [index, address] of this.#cellsOf(segments).entries()) {
      const value = this.#view.getUint32(address, true);
      if (!allowed(value, from + index, before[index])) {
        this.#fail('b', `request ${record.tag} reads ${value} in cell ${from + index}`);
      }
    }
  }

  /** The contents are those of the write, and survive when the write is stable. */
  #checkWrite({ record, from, to, stable }: Tracked): void {
    const { now, stable: survivors, nowVersion, stableVersion } = this.image;
    for (let cell = from; cell < to; cell++) {
      if (record.op === abi.OP_DISCARD) {
        this.#owed[cell] = 0;
        continue;
      }
      const value = record.op === abi.OP_WRITE ? record.tag : 0;
      if (now[cell] !== value) this.#fail('b', `request ${record.tag} is not in cell ${cell}`);
      const survives = survivors[cell] === value && stableVersion[cell] === nowVersion[cell];
      if (stable && !survives) this.#fail('d', `stable request ${record.tag} is lost`);
      this.#owed[cell] = nowVersion[cell]!;
    }
  }

  #checkFlush({ record, afterFailure }: Tracked, owes: Uint32Array): void {
    const flushes = record.op === abi.OP_FLUSH || Number(record.length) === 0;
    if (this.#setup.noFlush || !flushes) return;
    if (afterFailure) this.#fail('e', `flush ${record.tag} succeeds after a failed sync`);
    for (const [cell, version] of owes.entries()) {
      if (this.image.stableVersion[cell]! < version) {
        this.#fail('d', `flush ${record.tag} completes and cell ${cell} is lost`);
      }
    }
  }

  #fail(rule: string, what: string): never {
    throw new Error(`rule (${rule}): ${what}`);
  }
}

/** True when submission order allows `value` in a cell last written by `writer`. */
function allowed(value: number, cell: number, writer: Tracked | undefined): boolean {
  let last = writer;
  while (last !== undefined) {
    const { op, tag } = last.record;
    if (op === abi.OP_DISCARD || value === (op === abi.OP_WRITE ? tag : 0)) return true;
    // A failed write may have left what was there before.
    if (last.status === abi.STATUS_OK || last.status === undefined) return false;
    last = last.before[cell - last.from];
  }
  return value === 0;
}

function conflict(a: InFlight, b: InFlight): boolean {
  const overlap = a.start < b.end && b.start < a.end;
  return overlap && (isWriteClass(a.command.op) || isWriteClass(b.command.op));
}

function conflictOf(a: Tracked, b: Tracked): boolean {
  const overlap = a.start < b.end && b.start < a.end;
  return overlap && (isWriteClass(a.record.op) || isWriteClass(b.record.op));
}

function text({ op, offset, length }: CommandRecord): string {
  return `command ${op} at ${offset}+${length}`;
}
