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
import { COMMAND_SLOTS, RING_ENTRIES } from '../src/abi/limits.ts';
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
  REQUEST_SEGMENTS,
  REQUEST_SIZE,
  REQUEST_TAG,
  SEGMENT_ADDRESS,
  SEGMENT_LENGTH,
  SEGMENT_SIZE,
} from '../src/abi/request.ts';
import { type Build, type EngineExports, instantiate } from './support/engine.ts';

/** The id of the sync command (assembly/command/slot.ts). */
export const SYNC_ID = COMMAND_SLOTS;
/** The region of a test's engine: not at 0, so that a forgotten base is a visible bug. */
export const ENGINE_BASE = 65536;
/** Where tests keep transfer buffers: after the region, on a page boundary. */
export const DATA_BASE = 720896;

/** What an engine is made for. */
export interface EngineConfig {
  readonly capacity: number;
  readonly blockSize: number;
  readonly depth: number;
  readonly mergeBytes: number;
  readonly readOnly: boolean;
  readonly noFlush: boolean;
  readonly wce: boolean;
}

/** A request; offset and length are bigint where a number would not be exact. */
export interface RequestRecord {
  readonly tag: number;
  readonly op: number;
  readonly flags: number;
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
} as const;

/** Every counter by name. */
export type Counters = Record<keyof typeof COUNTERS, number>;

/** The state of the stability domain (assembly/schedule/flush.ts), and the latch. */
export interface Generations {
  readonly completed: number;
  readonly stable: number;
  /** What the running or the last sync proves. */
  readonly cover: number;
  readonly syncRunning: boolean;
  readonly wce: boolean;
  readonly latched: boolean;
}

/** What the engine, the model and the pair of both have in common. */
export interface BlockEngine {
  /** False when the request ring is full. */
  submit(request: RequestRecord): boolean;
  result(id: number, errno: number, value?: number): void;
  pump(): void;
  takeCommands(): CommandRecord[];
  /** At most `limit` of the completions that wait. */
  takeCompletions(limit?: number): CompletionRecord[];
  counters(): Counters;
  generations(): Generations;
}

/** assembly/memory.ts: the state of the stability domain, after those of three other stages. */
const FLUSH_STATE = region.ENGINE_STATE + 3 * 64;
const FLUSH_COMPLETED = FLUSH_STATE;
const FLUSH_STABLE = FLUSH_STATE + 8;
const FLUSH_COVER = FLUSH_STATE + 16;
const FLUSH_RUNNING = FLUSH_STATE + 24;

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
    const { view, base } = this;
    view.setBigUint64(base + region.CONFIG_CAPACITY, BigInt(config.capacity), true);
    view.setUint32(base + region.CONFIG_BLOCK_SIZE, config.blockSize, true);
    const flags =
      (config.readOnly ? region.CONFIG_READ_ONLY : 0) |
      (config.noFlush ? region.CONFIG_NO_FLUSH : 0) |
      (config.wce ? region.CONFIG_WCE : 0);
    view.setUint32(base + region.CONFIG_FLAGS, flags, true);
    view.setUint32(base + region.CONFIG_DEPTH, config.depth, true);
    view.setUint32(base + region.CONFIG_MERGE_BYTES, config.mergeBytes, true);
    return this.#exports.init(base) === 1;
  }

  submit(request: RequestRecord): boolean {
    const tail = this.#load(region.REQUEST_TAIL);
    if (distance(this.#load(region.REQUEST_HEAD), tail) >= RING_ENTRIES) return false;
    const at = this.#record(region.REQUEST_RING, tail, REQUEST_SIZE);
    const { view } = this;
    view.setUint32(at + REQUEST_TAG, request.tag, true);
    view.setUint8(at + REQUEST_OP, request.op);
    view.setUint8(at + REQUEST_FLAGS, request.flags);
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

  pump(): void {
    const waiting = this.#exports.pump(this.base) >>> 0;
    const head = this.#load(region.COMMAND_HEAD);
    const commands = distance(head, this.#load(region.COMMAND_TAIL));
    if (waiting !== commands) throw new Error(`pump said ${waiting}, ${commands} commands wait`);
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
    return {
      completed: this.#pair(FLUSH_COMPLETED),
      stable: this.#pair(FLUSH_STABLE),
      cover: this.#pair(FLUSH_COVER),
      syncRunning: this.#load(FLUSH_RUNNING) !== 0,
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
