/**
 * A simulated host under an engine: it executes commands on an image, answers them in any order
 * and with any error, and checks on the fly
 *
 *   (a) that each request completes exactly once, conflicting ones in submission order (H2), and
 *       that no command carries what nobody asked for;
 *   (b) that a read returns what submission order demands (durability, section 7);
 *   (c) that no two conflicting commands are at the host together (H2, L3);
 *   (d) the power cut: at the completion of a flush or a stable write, all that it covers survives,
 *       and at the start of a durable barrier all that came before (durability, section 9);
 *   (e) that after a failed sync no sync is trusted until the latch is opened (F6; section 6);
 *   (f) that one sync of a file runs at a time, none where nothing is volatile, and none at all
 *       when flushes are ignored (F4, W1; section 8);
 *   (g) the limits: depth, chunks, bytes and segments of a merged command (E2, M1);
 *   (h) that nothing starves (E3, D3, F10);
 *   (i) that barriers are fences both ways (B1, B2, B5);
 *   (j) that resets end what they may and await the rest (R1-R3);
 *   (k) that a write which is never sent was covered by a later one (U1, U2).
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
import { MERGE_RANGE_BYTES, MERGE_SEGMENTS } from '../../src/abi/limits.ts';
import { STATE_WAIT_NEVER } from '../../src/abi/region.ts';
import * as abi from '../../src/abi/request.ts';
import {
  type BlockEngine,
  type CommandRecord,
  complete,
  type CompletionRecord,
  type EngineConfig,
  type FullConfig,
  type RequestRecord,
  segmentsOf,
  SYNC_ID,
} from '../driver.ts';
import { isWriteClass, refusalOf } from '../model.ts';
import { Image, type SyncedCells } from './image.ts';
import { fail, Order, type Ride } from './order.ts';
import { Random } from './random.ts';
import { type Shape, TransferMemory } from './transfer-memory.ts';
import {
  allowed,
  type Carried,
  carriersOf,
  conflict,
  keepsTable,
  textOf,
  type Tracked,
} from './tracked.ts';

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
export interface Io extends Shape {
  readonly op: number;
  readonly flags: number;
  /** 0 when it is left out. */
  readonly queue?: number;
  readonly at: number;
}

interface InFlight extends Ride {
  readonly synced: SyncedCells;
  /** A sync of its file failed meanwhile: it may have taken these bytes with it. */
  raced: boolean;
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
  readonly #setup: Setup & FullConfig;
  readonly #random: Random;
  readonly #order: Order;
  readonly #lastWriter: (Tracked | undefined)[];
  /** The version of each cell that a flush submitted now would owe. */
  readonly #owed: Uint32Array;
  readonly #inFlight: InFlight[] = [];
  /** Files that may hold something volatile. */
  readonly #dirtyFiles: Set<number>;
  /** What BLOCK_STATUS was answered, by the address of its result table. */
  readonly #extents = new Map<number, number>();
  readonly #memory: TransferMemory;
  #nextTag = 1;
  /** What the write cache may be for the next request: a reset may abort a change of it. */
  #wces: readonly boolean[];
  #syncFailed = false;
  /** The engine has seen that a sync failed. */
  #latched = false;
  /** Completions are taken late. */
  #late = false;
  #now = 0;
  #latest = 0;

  constructor(engine: BlockEngine, view: DataView, setup: Setup) {
    const cells = Math.floor((setup.capacity - setup.origin) / setup.cellBytes);
    this.image = new Image(cells);
    this.#engine = engine;
    this.#view = view;
    this.#setup = { ...setup, ...complete(setup) };
    this.#memory = new TransferMemory(view, setup.cellBytes);
    this.#random = new Random(setup.seed);
    this.#order = new Order(this.#setup);
    this.#lastWriter = Array.from({ length: cells });
    // F7: an earlier process has left everything dirty.
    for (let cell = 0; cell < cells; cell++) this.image.write(cell, 0);
    this.#dirtyFiles = new Set(Array.from({ length: this.#setup.files }, (_, file) => file));
    this.#owed = this.image.nowVersion.slice();
    this.#wces = [setup.wce];
  }

  /** Submits a request with a range; false when the ring is full. */
  submit(io: Io): boolean {
    const { cellBytes, origin, capacity } = this.#setup;
    const memory = this.#memory;
    const segments = io.op <= abi.OP_WRITE ? memory.place(io) : memory.resultTable();
    const value = io.op === abi.OP_WRITE ? this.#nextTag : POISON;
    for (const address of memory.cellsOf(segments)) this.#view.setUint32(address, value, true);
    const offset = origin + io.at * cellBytes;
    return this.submitRecord({
      op: io.op,
      flags: io.flags,
      queue: io.queue ?? 0,
      segments: segments.length,
      data: segments.length === 1 ? segments[0]!.address : memory.tableOf(segments),
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
    const { queue, refusal, from, to } = tracked;
    this.#order.add(tracked);
    if (refusal !== abi.STATUS_OK) return true;
    if (isWriteClass(record.op)) this.#lastWriter.fill(tracked, from, to);
    if (record.op === abi.OP_RESET) this.#wces = [this.#setup.wce];
    if (record.op === abi.OP_SET_WCE) {
      const change = Number(record.length) === 1;
      this.#wces = this.#order.isResetting(queue) ? [...this.#wces, change] : [change];
    }
    return true;
  }

  /** Lets time pass; it may seem to go back. */
  advance(micros: number): void {
    this.#now = Math.max(0, this.#now + micros);
    this.#latest = Math.max(this.#latest, this.#now);
  }

  /**
   * Runs the engine; takes its commands, and at most `limit` completions. With a limit, contents
   * have moved on before a completion is seen, and are compared at the end only.
   */
  pump(limit?: number): void {
    this.#engine.pump(this.#now);
    const wait = this.#engine.wait();
    if (wait !== STATE_WAIT_NEVER && (wait === 0 || wait > this.#setup.flushWait)) {
      fail('h', `the engine asks for a call in ${wait} microseconds`);
    }
    if (this.#syncFailed) this.#latched = true;
    if (limit !== undefined) this.#late = true;
    for (const completion of this.#engine.takeCompletions(limit)) this.#complete(completion);
    for (const command of this.#engine.takeCommands()) this.#receive(command);
  }

  /** Executes and answers one command at the host; `pick` chooses which. */
  answer(pick: number, errno = 0, syncErrno = 0): void {
    if (this.#inFlight.length === 0) return;
    const [flight] = this.#inFlight.splice(pick % this.#inFlight.length, 1);
    const { command } = flight!;
    if (command.op === COMMAND_SYNC) {
      this.#endSync(flight!, syncErrno);
      this.#engine.result(command.id, syncErrno);
      return;
    }
    this.#engine.result(command.id, errno, this.#execute(flight!, errno));
    const isProven = (command.flags & COMMAND_STABLE) !== 0 && errno === 0;
    if (isWriteClass(command.op) && !isProven) this.#dirtyFiles.add(command.file);
  }

  /** Answers everything until the engine is idle: (h), and the contents are what they must be. */
  finish(): void {
    this.pump();
    for (let turn = 0; this.#order.open.size > 0; turn++) {
      const open = this.#order.open.size;
      const wait = this.#engine.wait();
      if (this.#inFlight.length === 0 && wait === STATE_WAIT_NEVER) fail('h', `${open} starve`);
      if (turn > 100_000) fail('h', `${open} requests starve`);
      if (this.#inFlight.length === 0) this.advance(this.#latest - this.#now + wait);
      for (let some = this.#random.below(this.#inFlight.length + 1); some >= 0; some--) {
        this.answer(this.#random.below(this.#inFlight.length + 1));
      }
      this.pump();
    }
    const rest = this.#inFlight.filter(({ command }) => command.op !== COMMAND_SYNC);
    if (rest.length > 0) fail('a', 'commands outlive their requests');
    for (const [cell, value] of this.image.now.entries()) {
      const writer = this.#lastWriter[cell];
      if (!allowed(value, cell, writer)) fail('b', `cell ${cell} holds ${value} at the end`);
    }
  }

  #track(record: RequestRecord): Tracked {
    const { cellBytes, origin, blockSize, barrierDurable, noFlush } = this.#setup;
    const { op, flags } = record;
    const queue = record.queue ?? 0;
    const refusal = refusalOf(this.#setup, record, this.#view);
    const isGood = refusal === abi.STATUS_OK;
    const hasRange = isGood && op <= abi.OP_BLOCK_STATUS;
    const offset = hasRange ? Number(record.offset) : 0;
    const length = hasRange ? Number(record.length) : 0;
    const from = Math.max(0, Math.floor((offset - origin) / cellBytes));
    const to = from + Math.ceil(length / cellBytes);
    const isBarrier = isGood && (flags & abi.REQUEST_BARRIER) !== 0;
    const asks = (flags & abi.REQUEST_FUA) !== 0 || (isBarrier && barrierDurable);
    const isAlwaysStable = this.#wces.every((wce) => !wce);
    const carries = hasRange && op <= abi.OP_WRITE;
    const segments = carries ? segmentsOf(this.#view, record.segments, record.data, length) : [];
    return {
      record,
      queue,
      refusal,
      from,
      to,
      start: Math.floor(offset / blockSize) * blockSize,
      end: length === 0 ? 0 : Math.ceil((offset + length) / blockSize) * blockSize,
      isFence: isBarrier || (isGood && op === abi.OP_CLEAR_LATCH),
      stable: hasRange && isWriteClass(op) && (asks || isAlwaysStable) && !noFlush,
      addresses: this.#memory.cellsOf(segments),
      before: this.#lastWriter.slice(from, to),
      owes: op === abi.OP_FLUSH || op === abi.OP_SET_WCE ? this.#owed.slice() : undefined,
      afterFailure: this.#latched && !this.#order.isClearing,
      inReset: this.#order.isResetting(queue),
      isSent: false,
      status: undefined,
    };
  }

  #receive(command: CommandRecord): void {
    if (this.#inFlight.some((other) => other.command.id === command.id)) {
      fail('a', `id ${command.id} names two commands`);
    }
    if (command.op === COMMAND_SYNC) {
      this.#receiveSync(command);
      return;
    }
    const carried = this.#placeOf(command);
    const carriers = carriersOf(carried, this.#order.open.values());
    const riders = [...new Set(carriers)].filter((rider) => rider !== undefined);
    if (carriers.includes(undefined)) fail('a', `nobody asks for ${textOf(command)}`);
    const flight: InFlight = { ...carried, riders, synced: [], raced: false };
    const rival = this.#inFlight.find((other) =>
      conflict(flight, command.op, other, other.command.op),
    );
    if (rival !== undefined) fail('c', `${textOf(command)} beside ${textOf(rival.command)}`);
    this.#checkLimits(flight);
    if (!this.#late) this.#checkBarrier(flight);
    this.#inFlight.push(flight);
    for (const rider of riders) rider.isSent = true;
  }

  /** Where a data command goes, as a range of the disk (M1). */
  #placeOf(command: CommandRecord): Carried {
    const { blockSize, cellBytes, origin, files, chunkBytes } = this.#setup;
    const { file, offset, length, table } = command;
    let start = offset;
    if (files > 1) {
      const chunk = Math.floor(offset / chunkBytes);
      start = (chunk * files + file) * chunkBytes + (offset % chunkBytes);
      if ((offset % chunkBytes) + length > chunkBytes) {
        fail('g', `${textOf(command)} passes the end of its chunk`);
      }
    }
    const from = (start - origin) / cellBytes;
    return {
      command,
      from,
      to: from + Math.ceil(length / cellBytes),
      start: Math.floor(start / blockSize) * blockSize,
      end: Math.ceil((start + length) / blockSize) * blockSize,
      addresses: this.#memory.cellsOf(table),
    };
  }

  #receiveSync(command: CommandRecord): void {
    const { file } = command;
    if (this.#setup.noFlush) fail('f', 'a sync although flushes are ignored');
    const isCleared = this.#late && this.#order.isClearing;
    if (this.#latched && !isCleared) fail('e', 'a sync after a failed one');
    if (command.id !== SYNC_ID + file || file >= this.#setup.files) {
      fail('f', `sync ${command.id} is of file ${file}`);
    }
    if (!this.#dirtyFiles.delete(file) && !isCleared) fail('f', `file ${file} is clean`);
    const synced = this.image.startSync((cell) => this.#fileOf(cell) === file);
    const nowhere = { from: 0, to: 0, start: 0, end: 0, addresses: [] };
    this.#inFlight.push({ command, ...nowhere, riders: [], synced, raced: false });
  }

  #fileOf(cell: number): number {
    const { origin, cellBytes, chunkBytes, files } = this.#setup;
    return files === 1 ? 0 : Math.floor((origin + cell * cellBytes) / chunkBytes) % files;
  }

  #checkLimits({ command, riders }: InFlight): void {
    const { depth, mergeBytes, noFlush, fua } = this.#setup;
    const { op, flags, length, table } = command;
    const data = this.#inFlight.filter((other) => other.command.op !== COMMAND_SYNC);
    if (data.length >= depth) fail('g', `${data.length + 1} commands at depth ${depth}`);
    const isStable = op === COMMAND_WRITE && (flags & COMMAND_STABLE) !== 0;
    if (isStable && noFlush) fail('f', 'a stable write although flushes are ignored');
    if (isStable && !fua) fail('g', 'a stable write that the host does not offer');
    if (op > COMMAND_WRITE) {
      if (length > MERGE_RANGE_BYTES && riders.length > 1) fail('g', `${textOf(command)} merged`);
      return;
    }
    const carried = table.reduce((sum, segment) => sum + segment.length, 0);
    if (carried !== length) fail('g', `${textOf(command)} carries ${carried} bytes`);
    if (length > mergeBytes && riders.length > 1) fail('g', `${textOf(command)} is too long`);
    const isOwnTable = riders.length === 1 && riders[0]!.record.segments === table.length;
    if (table.length > MERGE_SEGMENTS && !isOwnTable) fail('g', `${table.length} segments`);
  }

  /** (i), and (d): a durable barrier starts when all that completed before it is stable. */
  #checkBarrier(flight: InFlight): void {
    const { barrierDurable, noFlush } = this.#setup;
    this.#order.checkFences(flight);
    const barrier = flight.riders.find(({ isFence }) => isFence);
    if (barrier === undefined) return;
    const others = this.#inFlight.filter(({ riders }) => riders.some((rider) => rider !== barrier));
    if (others.length > 0) fail('i', `barrier ${barrier.record.tag} is beside another request`);
    if (!barrierDurable || noFlush) return;
    if (this.#latched && !barrier.isSent) fail('e', 'a durable barrier after a failed sync');
    this.#checkStable(this.#owed, `barrier ${barrier.record.tag} starts`);
  }

  /** Does what the command says; returns the value of the answer. */
  #execute(flight: InFlight, errno: number): number {
    const { command, from, to, addresses } = flight;
    if (!keepsTable(this.#view, command)) fail('g', `${textOf(command)} has another table now`);
    if (command.op === COMMAND_BLOCK_STATUS) {
      const extents = errno === 0 ? 1 + this.#random.below(9) : 0;
      this.#extents.set(command.data, extents);
      return extents;
    }
    const kept = this.#kept(command, errno, to - from);
    const isStable = command.op === COMMAND_WRITE && (command.flags & COMMAND_STABLE) !== 0;
    for (let cell = from; cell < to; cell++) {
      const address = addresses[cell - from];
      if (command.op === COMMAND_READ) {
        if (errno === 0) this.#view.setUint32(address!, this.image.now[cell]!, true);
      } else if (kept(cell - from)) {
        const value = address === undefined ? 0 : this.#view.getUint32(address, true);
        const isLost = flight.raced && this.#random.chance(0.5);
        const content = command.op === COMMAND_DISCARD ? this.#discarded(cell) : value;
        this.image.write(cell, content, isLost);
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

  /** After a failure some cells got through, and nothing of them is dirty any more. */
  #endSync({ command, synced }: InFlight, errno: number): void {
    this.image.endSync(synced, () => errno === 0 || this.#random.chance(0.3));
    if (errno === 0) return;
    this.#syncFailed = true;
    this.#dirtyFiles.add(command.file);
    for (const other of this.#inFlight) {
      if (other.command.file === command.file) other.raced = true;
    }
  }

  #complete(completion: CompletionRecord): void {
    const request = this.#order.complete(completion, this.#inFlight);
    this.completed.push(completion);
    const { op } = request.record;
    if (request.refusal !== abi.STATUS_OK || completion.status !== abi.STATUS_OK) return;
    if (op === abi.OP_CLEAR_LATCH) this.#openLatch(request);
    if (!this.#late) this.#succeed(request, completion.value);
  }

  /** F9: what the failed sync lost is owed to nobody any more; every file is dirty again. */
  #openLatch({ record }: Tracked): void {
    this.#latched = false;
    this.#syncFailed = false;
    for (let file = 0; file < this.#setup.files; file++) this.#dirtyFiles.add(file);
    const debts = [this.#owed];
    for (const { record: later, owes } of this.#order.open.values()) {
      if (later.tag > record.tag && owes !== undefined) debts.push(owes);
    }
    for (const [cell, version] of this.image.stableVersion.entries()) {
      if (this.image.isDirty(cell)) continue;
      for (const debt of debts) if (debt[cell]! > version) debt[cell] = 0;
    }
  }

  #succeed(request: Tracked, value: number): void {
    const { op, data, length, tag } = request.record;
    const isBarrier = request.isFence && op !== abi.OP_CLEAR_LATCH;
    if (isBarrier && this.#setup.barrierDurable && !this.#setup.noFlush) {
      this.#checkStable(this.#owed, `barrier ${tag} completes`);
    }
    if (request.owes !== undefined) this.#checkFlush(request, request.owes);
    else if (op === abi.OP_READ) this.#checkRead(request);
    else if (isWriteClass(op)) this.#checkWrite(request);
    else if (op === abi.OP_BLOCK_STATUS && Number(length) > 0) {
      if (value !== this.#extents.get(data)) fail('a', `request ${tag} answers ${value} extents`);
    }
  }

  #checkRead({ record, addresses, from, before }: Tracked): void {
    for (const [index, address] of addresses.entries()) {
      const value = this.#view.getUint32(address, true);
      if (!allowed(value, from + index, before[index])) {
        fail('b', `request ${record.tag} reads ${value} in cell ${from + index}`);
      }
    }
  }

  /** The contents are those of the write, and survive when the write is stable. */
  #checkWrite({ record, from, to, stable, isSent }: Tracked): void {
    // What was never sent was covered by a later write (k), which is looked at when it completes.
    if (!isSent) return;
    const { now, stable: survivors, nowVersion, stableVersion } = this.image;
    for (let cell = from; cell < to; cell++) {
      if (record.op === abi.OP_DISCARD) {
        this.#owed[cell] = 0;
        continue;
      }
      const value = record.op === abi.OP_WRITE ? record.tag : 0;
      if (now[cell] !== value) fail('b', `request ${record.tag} is not in cell ${cell}`);
      const survives = survivors[cell] === value && stableVersion[cell] === nowVersion[cell];
      if (stable && !survives) fail('d', `stable request ${record.tag} is lost`);
      this.#owed[cell] = nowVersion[cell]!;
    }
  }

  #checkFlush({ record, afterFailure, isFence }: Tracked, owes: Uint32Array): void {
    const flushes = record.op === abi.OP_FLUSH || Number(record.length) === 0;
    if (this.#setup.noFlush || !flushes) return;
    if (afterFailure) fail('e', `flush ${record.tag} succeeds after a failed sync`);
    this.#checkStable(isFence ? this.#owed : owes, `flush ${record.tag} completes`);
  }

  #checkStable(owed: Uint32Array, event: string): void {
    for (const [cell, version] of owed.entries()) {
      if (this.image.stableVersion[cell]! < version) fail('d', `${event} and cell ${cell} is lost`);
    }
  }
}
