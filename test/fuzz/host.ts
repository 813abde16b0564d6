/**
 * A host that does what an input says: it fills the request ring, pumps, answers commands in any
 * order, and looks at everything that comes out. Beside the rules of the ledger it checks
 *
 *   (g) (h) the commands (commands.ts);
 *   (i) pump's return value and the ring positions; that the engine neither traps nor stops: what
 *       waits has a reason (P1), and when all is answered everything ends;
 *   (j) that the engine writes nothing but its region.
 */

import { RESULT_ERRNO, RESULT_ID, RESULT_SIZE, RESULT_VALUE } from '../../src/abi/command.ts';
import { COMMAND_SLOTS, REQUEST_SLOTS, RING_ENTRIES } from '../../src/abi/limits.ts';
import * as region from '../../src/abi/region.ts';
import * as abi from '../../src/abi/request.ts';
import { Commands, Digest } from './commands.ts';
import {
  actionAt,
  actionCount,
  answerOf,
  burstCount,
  controlOf,
  delayOf,
  hostileOf,
  type Io,
  ioOf,
  kindOf,
  type RequestFields,
  type Setup,
  setupOf,
  STRIDES,
} from './input.ts';
import * as layout from './layout.ts';
import { Ledger, OPEN, REQUESTS_MAX, Violation } from './ledger.ts';
import { refusalOf, refusesSetup } from './refusal.ts';

/** What the module exports (assembly/index.ts). */
export interface EngineExports {
  init(base: number): number;
  pump(base: number, now: number): number;
}

const { REGION } = layout;
const HIGH_WORD = 0x1_0000_0000;
/** An input that is longer has been long enough. */
const PUMPS_MAX = 700;
/** Every request needs a command or two, each of them one pump at most; and there are waits. */
const DRAIN_PUMPS = 8 * REQUESTS_MAX;
const WAITS_MAX = 64;
/** Chunks of one request. */
const CHUNKS_MAX = 1024;

/** One engine in one memory, for many runs. */
export class Host {
  readonly ledger = new Ledger();
  /** Calls of `pump` so far, in all runs. */
  pumps = 0;
  readonly #digest = new Digest();
  readonly #commands: Commands;
  readonly #exports: EngineExports;
  readonly #view: DataView;
  readonly #bytes: Buffer;
  /** What lies outside of the region, as it must be. */
  readonly #outside: Buffer;
  readonly #outsideView: DataView;
  #setup!: Setup;
  #now = 0;
  /** The latest time that the engine was told. */
  #latest = 0;
  #tablesEnd = layout.TABLES_FREE;
  /** Completions that have been looked at, and not necessarily taken. */
  #completionsSeen = 0;

  /** @param memory from layout.createMemory */
  constructor(exports: EngineExports, memory: WebAssembly.Memory) {
    this.#exports = exports;
    this.#view = new DataView(memory.buffer);
    this.#commands = new Commands(this.#view, this.ledger, this.#digest);
    this.#bytes = Buffer.from(memory.buffer);
    const fresh = layout.createMemory().buffer;
    this.#outside = Buffer.from(fresh);
    this.#outsideView = new DataView(fresh);
  }

  /** Requests of the last run. */
  get submitted(): number {
    return this.ledger.submitted;
  }

  /** A number that depends on all commands and completions of the last run. */
  get digest(): number {
    return this.#digest.value;
  }

  /** Runs an input to its end. Throws a Violation, or what the engine throws when it traps. */
  run(bytes: Uint8Array): void {
    if (this.#init(setupOf(bytes))) this.#play(bytes);
    this.#checkOutside();
  }

  #play(bytes: Uint8Array): void {
    const enough = this.pumps + PUMPS_MAX;
    const actions = actionCount(bytes);
    for (let index = 0; index < actions && this.pumps < enough; index++) {
      this.#perform(actionAt(bytes, index));
    }
    this.#end();
  }

  #init(setup: Setup): boolean {
    this.#digest.reset();
    this.#setup = setup;
    const view = this.#view;
    const base = REGION + setup.misalign;
    view.setBigUint64(base + region.CONFIG_CAPACITY, setup.capacity, true);
    view.setUint32(base + region.CONFIG_BLOCK_SIZE, setup.blockSize, true);
    view.setUint32(base + region.CONFIG_FLAGS, setup.flags, true);
    view.setUint32(base + region.CONFIG_DEPTH, setup.depth, true);
    view.setUint32(base + region.CONFIG_MERGE_BYTES, setup.mergeBytes, true);
    view.setUint32(base + region.CONFIG_FILES, setup.files, true);
    view.setUint32(base + region.CONFIG_CHUNK_BYTES, setup.chunkBytes, true);
    view.setUint32(base + region.CONFIG_READ_EXPIRY, setup.readExpiry, true);
    view.setUint32(base + region.CONFIG_WRITE_EXPIRY, setup.writeExpiry, true);
    view.setUint32(base + region.CONFIG_BATCH, setup.batch, true);
    view.setUint32(base + region.CONFIG_WRITES_STARVED, setup.writesStarved, true);
    view.setUint32(base + region.CONFIG_FLUSH_WAIT, setup.flushWait, true);
    view.setUint32(base + region.CONFIG_MAP, 0, true);
    // A hostile table may lie in the request ring: what is there should not depend on earlier runs.
    this.#bytes.fill(0, REGION + region.REQUEST_RING, REGION + region.COMMAND_RING);
    const taken = this.#exports.init(base) === 1;
    if (taken === refusesSetup(setup)) throw new Violation(`init says ${taken}`);
    if (!taken) return false;
    for (let at = region.REQUEST_HEAD; at <= region.COMPLETION_TAIL; at += 4) {
      this.#store(at, setup.position);
    }
    this.ledger.reset(setup);
    this.#now = setup.now;
    this.#latest = setup.now;
    this.#tablesEnd = layout.TABLES_FREE;
    this.#completionsSeen = setup.position;
    this.#commands.reset(setup);
    return true;
  }

  #perform(action: Uint8Array): void {
    const kind = kindOf(action);
    switch (kind) {
      case 'io':
        this.#submit(this.#fieldsOf(ioOf(action), 0));
        return;
      case 'burst':
        this.#burst(ioOf(action), burstCount(action));
        return;
      case 'flush':
      case 'control':
        this.#submit(controlOf(action, kind));
        return;
      case 'hostile':
        this.#submit(hostileOf(action));
        return;
      case 'pump':
        this.#now += delayOf(action);
        this.#pump((action[2] ?? 0) < 0xe0, (action[3] ?? 0) < 0xe0);
        return;
      case 'answer':
        this.#answerSome(action);
        return;
      case 'take':
        this.#takeCommands();
        this.#takeCompletions(action[1] ?? 0);
        return;
      case 'wait':
        this.#wait();
        return;
      case 'drain':
        this.#drain();
    }
  }

  #burst(io: Io, count: number): void {
    const stride = STRIDES[io.apart & 7]!;
    for (let index = 0; index < count; index++) this.#submit(this.#fieldsOf(io, index * stride));
  }

  #fieldsOf(io: Io, cellsOn: number): RequestFields {
    const { cellBytes, cells, origin } = this.#setup;
    const at = (((io.at + cellsOn) % cells) + cells) % cells;
    const offset = origin + at * cellBytes + io.shift[0];
    const length = Math.max(0, Math.min(io.cells, cells - at) * cellBytes + io.shift[1]);
    const near = (at * cellBytes) % (2 * 65536);
    const address = layout.BUFFERS + (io.apart === 0 ? near : (io.apart * 1031) % 65536);
    const { op, flags, queue, pieces } = io;
    const isSplit = op <= abi.OP_WRITE && pieces > 1 && length >= pieces;
    const table = isSplit ? this.#writeTable(address, length, pieces, io.apart & 1) : 0;
    return {
      op,
      flags,
      queue,
      segments: table === 0 ? 1 : pieces,
      data: table === 0 ? address : table,
      offset: Math.max(0, offset),
      length,
    };
  }

  /** Splits a transfer into `pieces` segments; 0 when there is no room for a table. */
  #writeTable(address: number, length: number, pieces: number, gap: number): number {
    const table = this.#tablesEnd;
    const end = table + pieces * abi.SEGMENT_SIZE;
    if (end > layout.BUFFERS) return 0;
    this.#tablesEnd = end;
    const part = Math.floor(length / pieces);
    for (let piece = 0; piece < pieces; piece++) {
      const entry = table + piece * abi.SEGMENT_SIZE;
      const bytes = piece === pieces - 1 ? length - part * piece : part;
      for (const view of [this.#view, this.#outsideView]) {
        view.setUint32(entry + abi.SEGMENT_ADDRESS, address + piece * (part + gap), true);
        view.setUint32(entry + abi.SEGMENT_LENGTH, bytes, true);
      }
    }
    return table;
  }

  /** Puts a request into the ring, if there is room for it. */
  #submit(request: RequestFields): void {
    const { ledger } = this;
    const tail = this.#load(region.REQUEST_TAIL);
    if (distance(this.#load(region.REQUEST_HEAD), tail) >= RING_ENTRIES) return;
    if (ledger.submitted >= REQUESTS_MAX) return;
    const refusal = refusalOf(this.#setup, request, this.#view);
    if (refusal !== abi.STATUS_INVALID && this.#isEndless(request)) return;
    const tag = ledger.submit(request, refusal);
    const view = this.#view;
    const at = REGION + region.REQUEST_RING + (tail % RING_ENTRIES) * abi.REQUEST_SIZE;
    view.setUint32(at + abi.REQUEST_TAG, tag, true);
    view.setUint8(at + abi.REQUEST_OP, request.op);
    view.setUint8(at + abi.REQUEST_FLAGS, request.flags);
    view.setUint16(at + abi.REQUEST_QUEUE, request.queue, true);
    view.setUint32(at + abi.REQUEST_SEGMENTS, request.segments, true);
    view.setUint32(at + abi.REQUEST_DATA, request.data, true);
    setU64(view, at + abi.REQUEST_OFFSET, request.offset);
    setU64(view, at + abi.REQUEST_LENGTH, request.length);
    this.#store(region.REQUEST_TAIL, (tail + 1) >>> 0);
  }

  /** A striped range of more chunks than a run should have commands (M1). */
  #isEndless({ op, length }: RequestFields): boolean {
    const { files, chunkBytes, capacityBytes } = this.#setup;
    const isRange = op < abi.OP_FLUSH && Number(length) <= capacityBytes;
    return isRange && files > 1 && Number(length) > CHUNKS_MAX * chunkBytes;
  }

  #pump(takesCommands: boolean, takesCompletions: boolean): void {
    const { ledger } = this;
    ledger.beginPump();
    this.pumps += 1;
    const commandsBefore = this.#load(region.COMMAND_TAIL);
    this.#latest = Math.max(this.#latest, this.#now);
    const returned = this.#exports.pump(REGION, this.#now) >>> 0;
    const commandTail = this.#load(region.COMMAND_TAIL);
    const waiting = distance(this.#load(region.COMMAND_HEAD), commandTail);
    if (returned !== waiting)
      throw new Violation(`pump says ${returned}, ${waiting} commands wait`);
    if (waiting > RING_ENTRIES) throw new Violation('the command ring overflows');
    if (this.#load(region.RESULT_HEAD) !== this.#load(region.RESULT_TAIL)) {
      throw new Violation('P1: results are left');
    }
    const untaken = distance(this.#load(region.REQUEST_HEAD), this.#load(region.REQUEST_TAIL));
    if (untaken > ledger.submitted - ledger.taken) throw new Violation('REQUEST_HEAD falls');
    ledger.take(ledger.submitted - untaken);
    this.#readCompletions();
    for (let at = commandsBefore; at !== commandTail; at = (at + 1) >>> 0) this.#commands.read(at);
    ledger.endPump(this.#load(region.STATE_WCE) !== 0);
    this.#checkRest(untaken);
    if (takesCommands) this.#takeCommands();
    if (takesCompletions) this.#takeCompletions(RING_ENTRIES);
  }

  /** Looks at the completions that are new. */
  #readCompletions(): void {
    const view = this.#view;
    const tail = this.#load(region.COMPLETION_TAIL);
    if (distance(this.#load(region.COMPLETION_HEAD), tail) > RING_ENTRIES) {
      throw new Violation('T1: the completion ring overflows');
    }
    for (
      ;
      this.#completionsSeen !== tail;
      this.#completionsSeen = (this.#completionsSeen + 1) >>> 0
    ) {
      const place = (this.#completionsSeen % RING_ENTRIES) * abi.COMPLETION_SIZE;
      const at = REGION + region.COMPLETION_RING + place;
      const tag = view.getUint32(at + abi.COMPLETION_TAG, true);
      const status = view.getUint32(at + abi.COMPLETION_STATUS, true);
      const errno = view.getUint32(at + abi.COMPLETION_ERRNO, true);
      this.#digest.add(tag);
      this.#digest.add(status);
      this.#digest.add(errno);
      this.#digest.add(view.getUint32(at + abi.COMPLETION_VALUE, true));
      if (status >= OPEN) throw new Violation(`(a): request ${tag} ends with status ${status}`);
      this.ledger.complete(tag, status, errno);
    }
  }

  /** P1, T1: what is left over has a reason. */
  #checkRest(untaken: number): void {
    const { ledger } = this;
    const completions = distance(
      this.#load(region.COMPLETION_HEAD),
      this.#load(region.COMPLETION_TAIL),
    );
    if (ledger.open > REQUEST_SLOTS) throw new Violation('T1: more requests than slots');
    const room = ledger.open < REQUEST_SLOTS && completions + ledger.open < RING_ENTRIES;
    if (untaken > 0 && room && ledger.barrier < 0) throw new Violation('P1: requests are left');
    const wait = this.#load(region.STATE_WAIT);
    if (ledger.open > 0 && this.#commands.out.length === 0 && wait === region.STATE_WAIT_NEVER) {
      throw new Violation(`P1: request ${ledger.firstOpen} waits for nothing`);
    }
  }

  #takeCommands(): void {
    this.#store(region.COMMAND_HEAD, this.#load(region.COMMAND_TAIL));
  }

  #takeCompletions(limit: number): void {
    const head = this.#load(region.COMPLETION_HEAD);
    const waiting = distance(head, this.#load(region.COMPLETION_TAIL));
    this.#store(region.COMPLETION_HEAD, (head + Math.min(waiting, limit)) >>> 0);
  }

  #answerSome(action: Uint8Array): void {
    const { pick, errno, syncErrno, count, backwards, value, pump } = answerOf(action);
    this.#takeCommands();
    for (let left = Math.min(count, this.#commands.out.length); left > 0; left--) {
      const from = pick % this.#commands.out.length;
      const at = backwards ? this.#commands.out.length - 1 - from : from;
      const id = this.#commands.out[at]!;
      this.#answer(at, id < COMMAND_SLOTS ? errno : syncErrno, value);
    }
    if (pump) this.#pump(true, true);
  }

  /** Answers the command at place `at` of those at the host. */
  #answer(at: number, errno: number, value: number): void {
    const id = this.#commands.answer(at, errno);
    const view = this.#view;
    const tail = this.#load(region.RESULT_TAIL);
    const record = REGION + region.RESULT_RING + (tail % RING_ENTRIES) * RESULT_SIZE;
    view.setUint32(record + RESULT_ID, id, true);
    view.setUint32(record + RESULT_ERRNO, errno, true);
    view.setUint32(record + RESULT_VALUE, value, true);
    this.#store(region.RESULT_TAIL, (tail + 1) >>> 0);
  }

  /** Lets the time pass that the engine asks for. */
  #wait(): void {
    const wait = this.#load(region.STATE_WAIT);
    this.#now = this.#latest;
    if (wait !== region.STATE_WAIT_NEVER) this.#now += wait;
    this.#pump(true, true);
  }

  /** Answers everything with success until nothing is at the host. */
  #drain(): void {
    this.#takeCommands();
    for (let left = DRAIN_PUMPS; this.#commands.out.length > 0 && left > 0; left--) {
      while (this.#commands.out.length > 0) this.#answer(0, 0, 0);
      this.#pump(true, true);
    }
  }

  /** (i): all is answered, time passes, and nothing is left. */
  #end(): void {
    const { ledger } = this;
    this.#takeCompletions(RING_ENTRIES);
    this.#pump(true, true);
    this.#drain();
    for (let left = WAITS_MAX; ledger.taken < ledger.submitted || ledger.open > 0; left--) {
      if (left === 0) throw new Violation(`(i): request ${ledger.firstOpen} never ends`);
      this.#wait();
      this.#drain();
    }
    if (this.#commands.out.length > 0) throw new Violation('(i): commands never end');
  }

  #checkOutside(): void {
    this.#checkSame(0, layout.COUNTERS);
    this.#checkSame(layout.REGION_END, layout.MEMORY_BYTES);
  }

  #checkSame(start: number, end: number): void {
    if (this.#bytes.compare(this.#outside, start, end, start, end) === 0) return;
    let at = start;
    while (this.#bytes[at] === this.#outside[at]) at += 1;
    const found = this.#bytes[at];
    // The next run starts from what is right.
    this.#outside.copy(this.#bytes, start, start, end);
    throw new Violation(`(j): byte ${at} is ${found}, not ${this.#outside[at]}`);
  }

  #load(offset: number): number {
    return this.#view.getUint32(REGION + offset, true);
  }

  #store(offset: number, value: number): void {
    this.#view.setUint32(REGION + offset, value, true);
  }
}

/** From `head` to `tail`, both free-running 32-bit counters. */
function distance(head: number, tail: number): number {
  return (tail - head) >>> 0;
}

function setU64(view: DataView, at: number, value: number | bigint): void {
  if (typeof value === 'bigint') {
    view.setBigUint64(at, value, true);
    return;
  }
  view.setUint32(at, value % HIGH_WORD, true);
  view.setUint32(at + 4, Math.floor(value / HIGH_WORD), true);
}
