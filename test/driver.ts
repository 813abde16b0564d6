/**
 * A host without a disk: typed access to the four rings of one engine in a memory. It decides
 * nothing; tests, the model and the simulator speak in the records that are declared here.
 */

import { createHash } from 'node:crypto';
import {
  COMMAND_DATA,
  COMMAND_FILE,
  COMMAND_FLAGS,
  COMMAND_ID,
  COMMAND_LENGTH,
  COMMAND_OFFSET,
  COMMAND_OP,
  COMMAND_SEGMENTS,
  COMMAND_SIZE,
  COMMAND_WRITE,
  RESULT_ERRNO,
  RESULT_ID,
  RESULT_SIZE,
  RESULT_VALUE,
} from '../src/abi/command.ts';
import { COMMAND_SLOTS, REQUEST_SLOTS, RING_ENTRIES } from '../src/abi/limits.ts';
import * as region from '../src/abi/region.ts';
import {
  COMPLETION_ERRNO,
  COMPLETION_SIZE,
  COMPLETION_STATUS,
  COMPLETION_TAG,
  COMPLETION_VALUE,
  REQUEST_DATA,
  REQUEST_FLAGS,
  REQUEST_LENGTH,
  REQUEST_OFFSET,
  REQUEST_OP,
  REQUEST_QUEUE,
  REQUEST_SEGMENTS,
  REQUEST_SIZE,
  REQUEST_TAG,
  SEGMENT_ADDRESS,
  SEGMENT_LENGTH,
  SEGMENT_SIZE,
} from '../src/abi/request.ts';
import { type Build, type EngineExports, instantiate } from './support/engine.ts';

/** The id of the sync of the first file; the others follow (src/abi/limits.ts). */
export const SYNC_ID = COMMAND_SLOTS;
/** The region of a test's engine: not at 0, so that a forgotten base is a visible bug. */
export const ENGINE_BASE = 65536;
/** Where tests keep transfer buffers: after the region, on a page boundary. */
export const DATA_BASE = 720896;

/** What an engine is made for. What may be left out is as in DEFAULTS. */
export interface EngineConfig {
  readonly capacity: number;
  readonly blockSize: number;
  readonly depth: number;
  readonly mergeBytes: number;
  readonly readOnly: boolean;
  readonly noFlush: boolean;
  readonly wce: boolean;
  readonly files?: number;
  readonly chunkBytes?: number;
  readonly deadline?: boolean;
  /** Microseconds. */
  readonly readExpiry?: number;
  /** Microseconds. */
  readonly writeExpiry?: number;
  readonly batch?: number;
  readonly writesStarved?: number;
  /** Microseconds. */
  readonly flushWait?: number;
  readonly fua?: boolean;
  readonly barrier?: boolean;
  readonly barrierDurable?: boolean;
  readonly barrierFails?: boolean;
}

/** A configuration in which nothing is left out. */
export type FullConfig = Required<EngineConfig>;

/** One file with a stable write of its own, no deadlines, no barriers, no waiting. */
const DEFAULTS = {
  files: 1,
  chunkBytes: 65536,
  deadline: false,
  readExpiry: 500_000,
  writeExpiry: 5_000_000,
  batch: 16,
  writesStarved: 2,
  flushWait: 0,
  fua: true,
  barrier: false,
  barrierDurable: false,
  barrierFails: false,
} as const;

/** The configuration with what it leaves out. */
export function complete(config: EngineConfig): FullConfig {
  return { ...DEFAULTS, ...config };
}

/** A request; offset and length are bigint where a number would not be exact. */
export interface RequestRecord {
  readonly tag: number;
  readonly op: number;
  readonly flags: number;
  /** 0 when it is left out. */
  readonly queue?: number;
  readonly segments: number;
  readonly data: number;
  readonly offset: number | bigint;
  readonly length: number | bigint;
}

/** One piece of memory. */
export interface Segment {
  readonly address: number;
  readonly length: number;
}

/** A command, with the memory that it transfers (READ and WRITE; else empty). */
export interface CommandRecord {
  readonly id: number;
  readonly op: number;
  readonly flags: number;
  readonly file: number;
  readonly segments: number;
  readonly data: number;
  readonly offset: number;
  readonly length: number;
  readonly table: readonly Segment[];
}

/** A completion. */
export interface CompletionRecord {
  readonly tag: number;
  readonly status: number;
  readonly value: number;
  readonly errno: number;
}

/** COUNT_* of src/abi/region.ts, in the order in which they lie there. */
export const COUNTERS = {
  reads: region.COUNT_READS,
  writes: region.COUNT_WRITES,
  writeZeroes: region.COUNT_WRITE_ZEROES,
  discards: region.COUNT_DISCARDS,
  blockStatuses: region.COUNT_BLOCK_STATUSES,
  bytesRead: region.COUNT_BYTES_READ,
  bytesWritten: region.COUNT_BYTES_WRITTEN,
  refused: region.COUNT_REFUSED,
  ordered: region.COUNT_ORDERED,
  merged: region.COUNT_MERGED,
  commands: region.COUNT_COMMANDS,
  reissued: region.COUNT_REISSUED,
  flushes: region.COUNT_FLUSHES,
  flushesElided: region.COUNT_FLUSHES_ELIDED,
  flushesCoalesced: region.COUNT_FLUSHES_COALESCED,
  syncs: region.COUNT_SYNCS,
  syncsFailed: region.COUNT_SYNCS_FAILED,
  groupCommits: region.COUNT_GROUP_COMMITS,
  superseded: region.COUNT_SUPERSEDED,
  barriers: region.COUNT_BARRIERS,
  barrierFlushes: region.COUNT_BARRIER_FLUSHES,
  aborted: region.COUNT_ABORTED,
  syncsDelayed: region.COUNT_SYNCS_DELAYED,
  expired: region.COUNT_EXPIRED,
} as const;

/** Every counter by name. */
export type Counters = Record<keyof typeof COUNTERS, number>;

/** One host file as a stability domain (assembly/schedule/flush.ts). */
export interface DomainState {
  /** The generation of the first volatile write into it that no sync has proven. */
  readonly unproven: number | undefined;
  /** The first such since the running sync was handed to the host. */
  readonly late: number | undefined;
  readonly running: boolean;
}

/** What is volatile, what is being synced, and the latch. */
export interface Generations {
  readonly completed: number;
  readonly files: readonly DomainState[];
  readonly wce: boolean;
  readonly latched: boolean;
}

/** What the engine, the model and the pair of both have in common. */
export interface BlockEngine {
  /** False when the request ring is full. */
  submit(request: RequestRecord): boolean;
  result(id: number, errno: number, value?: number): void;
  /** @param now microseconds; a smaller value counts as the last one */
  pump(now?: number): void;
  /** After how many microseconds to pump again even if nothing happens. */
  wait(): number;
  takeCommands(): CommandRecord[];
  /** At most `limit` of the completions that wait. */
  takeCompletions(limit?: number): CompletionRecord[];
  counters(): Counters;
  generations(): Generations;
}

// assembly/memory.ts: the state of the flush stage, and its table of files, which lies behind the
// slots, the arrays of the hazards, the keys of the elevator and its runs.
const FLUSH_COMPLETED = region.ENGINE_STATE + 3 * 64;
const HAZARD_BYTES = 8 + 8 + 4 + 8 + 8 + 4 + 4;
const DOMAINS = region.ENGINE_TABLES + REQUEST_SLOTS * (128 + HAZARD_BYTES + 8 + 8 + 32) + 4096;
const DOMAIN_SIZE = 32;
const DOMAIN_UNPROVEN = 0;
const DOMAIN_LATE = 8;
const DOMAIN_RUNNING = 16;
/** A generation of none. */
const NO_GENERATION = 2 ** 64;

const HIGH_WORD = 0x1_0000_0000;

/** A memory that holds one engine at ENGINE_BASE and `dataBytes` at DATA_BASE. */
export function createMemory(dataBytes: number): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: Math.ceil((DATA_BASE + dataBytes) / 65536) });
}

/** The segments of a READ or WRITE record: its one piece, or what its table says. */
export function segmentsOf(
  view: DataView,
  segments: number,
  data: number,
  length: number,
): Segment[] {
  if (segments === 1) return [{ address: data, length }];
  return Array.from({ length: segments }, (_, index) => {
    const entry = data + index * SEGMENT_SIZE;
    return {
      address: view.getUint32(entry + SEGMENT_ADDRESS, true),
      length: view.getUint32(entry + SEGMENT_LENGTH, true),
    };
  });
}

/** One engine in a memory. */
export class EngineDriver implements BlockEngine {
  readonly view: DataView;
  readonly base: number;
  readonly #exports: EngineExports;
  readonly #bytes: Uint8Array;
  #files = 1;

  constructor(exports: EngineExports, memory: WebAssembly.Memory, base = ENGINE_BASE) {
    this.#exports = exports;
    this.base = base;
    this.view = new DataView(memory.buffer);
    this.#bytes = new Uint8Array(memory.buffer, base, region.REGION_SIZE);
  }

  /** A driver over an engine of its own. */
  static over(build: Build, memory: WebAssembly.Memory, base = ENGINE_BASE): EngineDriver {
    return new EngineDriver(instantiate(build, memory), memory, base);
  }

  /** Writes the configuration and calls `init`; false when the engine refuses it. */
  init(config: Omit<EngineConfig, 'capacity'> & { readonly capacity: number | bigint }): boolean {
    const { capacity, ...rest } = config;
    const full = complete({ ...rest, capacity: 0 });
    this.view.setBigUint64(this.base + region.CONFIG_CAPACITY, BigInt(capacity), true);
    this.#store(region.CONFIG_FLAGS, flagsOf(full));
    for (const [name, offset] of Object.entries(WORDS)) {
      this.#store(offset, full[name as keyof typeof WORDS]);
    }
    this.#files = full.files;
    if (this.#exports.init(this.base) !== 1) return false;
    // F7; it also notices when the tables of assembly/memory.ts have moved.
    const isAtFirst = this.generations().files.every(({ unproven }) => unproven === 1);
    if (!isAtFirst)
      throw new Error('the files of a new engine are not dirty, or not where they were');
    return true;
  }

  submit(request: RequestRecord): boolean {
    const tail = this.#load(region.REQUEST_TAIL);
    if (distance(this.#load(region.REQUEST_HEAD), tail) >= RING_ENTRIES) return false;
    const at = this.#record(region.REQUEST_RING, tail, REQUEST_SIZE);
    const { view } = this;
    view.setUint32(at + REQUEST_TAG, request.tag, true);
    view.setUint8(at + REQUEST_OP, request.op);
    view.setUint8(at + REQUEST_FLAGS, request.flags);
    view.setUint16(at + REQUEST_QUEUE, request.queue ?? 0, true);
    view.setUint32(at + REQUEST_SEGMENTS, request.segments, true);
    view.setUint32(at + REQUEST_DATA, request.data, true);
    setU64(view, at + REQUEST_OFFSET, request.offset);
    setU64(view, at + REQUEST_LENGTH, request.length);
    this.#store(region.REQUEST_TAIL, tail + 1);
    return true;
  }

  result(id: number, errno: number, value = 0): void {
    const tail = this.#load(region.RESULT_TAIL);
    const at = this.#record(region.RESULT_RING, tail, RESULT_SIZE);
    this.view.setUint32(at + RESULT_ID, id, true);
    this.view.setUint32(at + RESULT_ERRNO, errno, true);
    this.view.setUint32(at + RESULT_VALUE, value, true);
    this.#store(region.RESULT_TAIL, tail + 1);
  }

  pump(now = 0): void {
    const waiting = this.#exports.pump(this.base, now) >>> 0;
    const head = this.#load(region.COMMAND_HEAD);
    const commands = distance(head, this.#load(region.COMMAND_TAIL));
    if (waiting !== commands) throw new Error(`pump said ${waiting}, ${commands} commands wait`);
  }

  wait(): number {
    return this.#load(region.STATE_WAIT);
  }

  takeCommands(): CommandRecord[] {
    const commands: CommandRecord[] = [];
    const tail = this.#load(region.COMMAND_TAIL);
    for (let head = this.#load(region.COMMAND_HEAD); head !== tail; head = (head + 1) >>> 0) {
      commands.push(this.#commandAt(this.#record(region.COMMAND_RING, head, COMMAND_SIZE)));
    }
    this.#store(region.COMMAND_HEAD, tail);
    return commands;
  }

  takeCompletions(limit = RING_ENTRIES): CompletionRecord[] {
    const { view } = this;
    const completions: CompletionRecord[] = [];
    const tail = this.#load(region.COMPLETION_TAIL);
    let head = this.#load(region.COMPLETION_HEAD);
    for (; head !== tail && completions.length < limit; head = (head + 1) >>> 0) {
      const at = this.#record(region.COMPLETION_RING, head, COMPLETION_SIZE);
      completions.push({
        tag: view.getUint32(at + COMPLETION_TAG, true),
        status: view.getUint32(at + COMPLETION_STATUS, true),
        value: view.getUint32(at + COMPLETION_VALUE, true),
        errno: view.getUint32(at + COMPLETION_ERRNO, true),
      });
    }
    this.#store(region.COMPLETION_HEAD, head);
    return completions;
  }

  counters(): Counters {
    const entries = Object.entries(COUNTERS).map(([name, offset]) => [name, this.#pair(offset)]);
    return Object.fromEntries(entries) as Counters;
  }

  generations(): Generations {
    const files = Array.from({ length: this.#files }, (_, file) => {
      const at = DOMAINS + file * DOMAIN_SIZE;
      const running = this.#load(at + DOMAIN_RUNNING) !== 0;
      return {
        unproven: this.#generation(at + DOMAIN_UNPROVEN),
        late: running ? this.#generation(at + DOMAIN_LATE) : undefined,
        running,
      };
    });
    return {
      completed: this.#pair(FLUSH_COMPLETED),
      files,
      wce: this.#load(region.STATE_WCE) !== 0,
      latched: this.#load(region.STATE_LATCHED) !== 0,
    };
  }

  /** Starts every ring at `position`; for an engine that is empty. */
  setRingPositions(position: number): void {
    for (let at = region.REQUEST_HEAD; at <= region.COMPLETION_TAIL; at += 4) {
      this.#store(at, position);
    }
  }

  /** Requests that the engine has not taken. */
  requestsWaiting(): number {
    return distance(this.#load(region.REQUEST_HEAD), this.#load(region.REQUEST_TAIL));
  }

  /** The whole state of the engine. */
  snapshot(): Uint8Array {
    return this.#bytes.slice();
  }

  /** Puts back what `snapshot` returned: from then on nothing since has happened. */
  restore(snapshot: Uint8Array): void {
    this.#bytes.set(snapshot);
  }

  /** A digest of the whole region. */
  digest(): string {
    return createHash('sha256').update(this.#bytes).digest('hex');
  }

  #commandAt(at: number): CommandRecord {
    const { view } = this;
    const op = view.getUint8(at + COMMAND_OP);
    const segments = view.getUint32(at + COMMAND_SEGMENTS, true);
    const data = view.getUint32(at + COMMAND_DATA, true);
    const length = getU64(view, at + COMMAND_LENGTH);
    return {
      id: view.getUint32(at + COMMAND_ID, true),
      op,
      flags: view.getUint8(at + COMMAND_FLAGS),
      file: view.getUint16(at + COMMAND_FILE, true),
      segments,
      data,
      offset: getU64(view, at + COMMAND_OFFSET),
      length,
      table: op <= COMMAND_WRITE ? segmentsOf(view, segments, data, length) : [],
    };
  }

  #record(ring: number, position: number, size: number): number {
    return this.base + ring + (position % RING_ENTRIES) * size;
  }

  #load(offset: number): number {
    return this.view.getUint32(this.base + offset, true);
  }

  #store(offset: number, value: number): void {
    this.view.setUint32(this.base + offset, value, true);
  }

  #pair(offset: number): number {
    return getU64(this.view, this.base + offset);
  }

  #generation(offset: number): number | undefined {
    const generation = this.#pair(offset);
    return generation === NO_GENERATION ? undefined : generation;
  }
}

/** The words of a configuration. */
const WORDS = {
  blockSize: region.CONFIG_BLOCK_SIZE,
  depth: region.CONFIG_DEPTH,
  mergeBytes: region.CONFIG_MERGE_BYTES,
  files: region.CONFIG_FILES,
  chunkBytes: region.CONFIG_CHUNK_BYTES,
  readExpiry: region.CONFIG_READ_EXPIRY,
  writeExpiry: region.CONFIG_WRITE_EXPIRY,
  batch: region.CONFIG_BATCH,
  writesStarved: region.CONFIG_WRITES_STARVED,
  flushWait: region.CONFIG_FLUSH_WAIT,
} as const;

/** The flags of a configuration. */
const FLAGS = {
  readOnly: region.CONFIG_READ_ONLY,
  noFlush: region.CONFIG_NO_FLUSH,
  wce: region.CONFIG_WCE,
  deadline: region.CONFIG_DEADLINE,
  fua: region.CONFIG_FUA,
  barrier: region.CONFIG_BARRIER,
  barrierDurable: region.CONFIG_BARRIER_DURABLE,
  barrierFails: region.CONFIG_BARRIER_FAILS,
} as const;

function flagsOf(config: FullConfig): number {
  const set = Object.entries(FLAGS).filter(([name]) => config[name as keyof typeof FLAGS]);
  return set.reduce((flags, [, flag]) => flags | flag, 0);
}

/** From `head` to `tail`, both free-running 32-bit counters. */
function distance(head: number, tail: number): number {
  return (tail - head) >>> 0;
}

function getU64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * HIGH_WORD;
}

function setU64(view: DataView, at: number, value: number | bigint): void {
  if (typeof value === 'bigint') view.setBigUint64(at, value, true);
  else {
    view.setUint32(at, value % HIGH_WORD, true);
    view.setUint32(at + 4, Math.floor(value / HIGH_WORD), true);
  }
}
