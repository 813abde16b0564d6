/**
 * The engine as the host sees it: a WebAssembly module over a region of memory, four rings and a
 * `pump`. The only file that names the loader, and the only one that knows where a ring lies.
 */
import { instantiateSync } from '@assemblyscript/loader';
import {
  COMMAND_DATA,
  COMMAND_FILE,
  COMMAND_FLAGS,
  COMMAND_GUEST,
  COMMAND_ID,
  COMMAND_LENGTH,
  COMMAND_OFFSET,
  COMMAND_OP,
  COMMAND_SEGMENTS,
  COMMAND_SIZE,
  RESULT_ERRNO,
  RESULT_ID,
  RESULT_SIZE,
  RESULT_VALUE,
} from './abi/command.ts';
import { RING_ENTRIES } from './abi/limits.ts';
import * as region from './abi/region.ts';
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
} from './abi/request.ts';
import { type EngineExports, inlinedModuleFor } from './engine-modules.ts';
import type { Mapping } from './mapping.ts';

export { type EngineExports, inlinedModule, missingExports } from './engine-modules.ts';

/** How requests are ordered and made stable. */
export interface SchedulingOptions {
  /** Whether barriers are taken, and what they promise. Default 'off'. */
  readonly barrier?: BarrierPromise | undefined;
  /** A barrier fails when I/O of a request since the last one has failed. Default false. */
  readonly barrierFailsAfterError?: boolean | undefined;
  /** Order in which runs go when the host takes fewer. Default 'none'. */
  readonly elevator?: Elevator | undefined;
  /** Microseconds that a sync may wait for companions after a shared one, to 1 s. Default 0. */
  readonly flushWaitMicros?: number | undefined;
  /**
   * Several files, and then required: bytes in one file before the next one's turn, a power of two
   * of which the files are multiples. Chunk c is chunk floor(c / files) of file c mod files.
   */
  readonly chunkBytes?: number | undefined;
}

/** What an engine is made for. */
export interface EngineOptions extends SchedulingOptions {
  /** The memory to live in; it must hold region.REGION_SIZE bytes from `base` on. It may grow. */
  readonly memory: WebAssembly.Memory;
  /** Start of the region, on a 64-byte boundary. Default 0. */
  readonly base?: number;
  /** A build of the engine; default: the inlined release build that fits the memory. */
  readonly module?: WebAssembly.Module | undefined;
  readonly capacityBytes: number;
  /** Granule of hazards, a power of two. */
  readonly blockSizeBytes: number;
  /** Data commands in flight at once. */
  readonly depth: number;
  /** Largest merged transfer. */
  readonly mergeBytes: number;
  readonly readOnly: boolean;
  readonly noFlush: boolean;
  /** Writes start in the volatile class. */
  readonly wce: boolean;
  /** The host can write stably at once (COMMAND_STABLE). Default true. */
  readonly fua?: boolean;
  /** Host files over which the disk is striped, or that a mapping writes. Default 1. */
  readonly files?: number;
  /** A mapping, and where its region begins, from the base. */
  readonly map?: { readonly at: number; readonly mapping: Mapping } | undefined;
}

/** `order`: a fence between requests; `durable`: and stable, with what came before it. */
export type BarrierPromise = 'off' | 'order' | 'durable';

/** `none`: oldest first. `deadline`: sweeps by place, with deadlines. */
export type Elevator = 'none' | 'deadline' | DeadlineOptions;

/** The deadline elevator in numbers; the defaults are Linux's. */
export interface DeadlineOptions {
  /** A read that has waited this long must not be passed over. Default 500 ms. */
  readonly readExpiryMs?: number;
  /** The same for writes. Default 5 s. */
  readonly writeExpiryMs?: number;
  /** Runs of one direction in a row, at least 1. Default 16. */
  readonly batch?: number;
  /** Batches of reads that may go before waiting writes, at least 1. Default 2. */
  readonly writesStarved?: number;
}

const DEFAULT_READ_EXPIRY_MS = 500;
const DEFAULT_WRITE_EXPIRY_MS = 5000;
const DEFAULT_BATCH = 16;
const DEFAULT_WRITES_STARVED = 2;
const MICROS_PER_MS = 1000;

/** A command as `takeCommand` fills it; reused by the caller. */
export interface CommandRecord {
  id: number;
  op: number;
  flags: number;
  file: number;
  segments: number;
  data: number;
  offset: number;
  length: number;
  /** Where its first byte lies on the disk, if it carries a request's data. */
  guest: number;
}

/** A completion as `takeCompletion` fills it; reused by the caller. */
export interface CompletionRecord {
  tag: number;
  status: number;
  value: number;
  errno: number;
}

const RING_MASK = RING_ENTRIES - 1;
const HIGH_WORD = 0x1_0000_0000;

/** Instantiates the engine over a memory. */
export function createEngine(options: EngineOptions): Engine {
  const { memory, base = 0 } = options;
  const engine = resumeEngine(memory, base, options.module);
  engine.configure(options);
  return engine;
}

/**
 * An engine over a region that another one has worked on, as it left it.
 * @param queues virtqueues beside the region; their device is off until `initDevice`
 */
export function resumeEngine(
  memory: WebAssembly.Memory,
  base: number,
  module = inlinedModuleFor(memory),
  queues = 0,
): Engine {
  const { instance } = instantiateSync<EngineExports>(module, { env: { memory } });
  // The loader's own wrappers cost five times a raw call.
  return new Engine(instance.exports as EngineExports, memory, base, queues);
}

/** One engine: requests and results in, commands and completions out. */
export class Engine {
  /** The calls of the module. */
  readonly exports: EngineExports;
  /** Where the engine lives. It may grow: then the views of an unshared memory go empty. */
  readonly memory: WebAssembly.Memory;
  /** Where its region starts. */
  readonly base: number;
  /** Virtqueues of the device beside it. */
  readonly queues: number;
  readonly #lengthBytes: number;
  #region: Uint32Array;

  /** Where the region of its mapping begins, from the base; 0: it has none. */
  get mapAt(): number {
    return this.load(region.CONFIG_MAP);
  }

  /** A u32 of the mapping's region (abi/map.ts). */
  loadMap(offset: number): number {
    const words = new Uint32Array(this.memory.buffer, this.base + this.mapAt + offset, 1);
    return words[0] ?? 0;
  }

  /** A u64 of it. */
  loadMap64(offset: number): bigint {
    return BigInt(this.loadMap(offset)) + (BigInt(this.loadMap(offset + 4)) << 32n);
  }

  /** Sets a u32 of it. */
  storeMap(offset: number, value: number): void {
    new Uint32Array(this.memory.buffer, this.base + this.mapAt + offset, 1)[0] = value;
  }

  /** Use `createEngine`. */
  constructor(exports: EngineExports, memory: WebAssembly.Memory, base: number, queues: number) {
    this.#lengthBytes = region.REGION_SIZE + (queues === 0 ? 0 : exports.deviceSize(queues));
    if (base + this.#lengthBytes > memory.buffer.byteLength) {
      throw new RangeError(`an engine at ${base} needs ${this.#lengthBytes} bytes of memory`);
    }
    this.exports = exports;
    this.memory = memory;
    this.base = base;
    this.queues = queues;
    this.#region = new Uint32Array(memory.buffer, base, this.#lengthBytes / 4);
  }

  /** True while completed writes need a flush to be stable. */
  get wce(): boolean {
    return this.load(region.STATE_WCE) !== 0;
  }

  /** True once a sync has failed: no flush succeeds any more. */
  get latched(): boolean {
    return this.load(region.STATE_LATCHED) !== 0;
  }

  /** Capacity of the disk: what requests are checked against when they are taken. */
  set capacityBytes(bytes: number) {
    this.store(region.CONFIG_CAPACITY, bytes);
    this.store(region.CONFIG_CAPACITY + 4, bytes / HIGH_WORD);
  }

  /** Requests that the engine has not taken yet. */
  get requestsWaiting(): number {
    return (this.load(region.REQUEST_TAIL) - this.load(region.REQUEST_HEAD)) >>> 0;
  }

  /** A counter (COUNT_* of abi/region.ts). */
  counter(offset: number): number {
    return this.load(offset) + this.load(offset + 4) * HIGH_WORD;
  }

  /** Appends a request. The caller keeps at most RING_ENTRIES waiting. */
  submit(
    tag: number,
    op: number,
    flags: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    queue = 0,
  ): void {
    const words = this.#words();
    const tail = this.load(region.REQUEST_TAIL);
    const at = (region.REQUEST_RING + (tail & RING_MASK) * REQUEST_SIZE) >>> 2;
    words[at + REQUEST_TAG / 4] = tag;
    words[at + REQUEST_OP / 4] =
      op |
      (flags << ((REQUEST_FLAGS - REQUEST_OP) * 8)) |
      (queue << ((REQUEST_QUEUE - REQUEST_OP) * 8));
    words[at + REQUEST_SEGMENTS / 4] = segments;
    words[at + REQUEST_DATA / 4] = data;
    words[at + REQUEST_OFFSET / 4] = offset;
    words[at + REQUEST_OFFSET / 4 + 1] = offset / HIGH_WORD;
    words[at + REQUEST_LENGTH / 4] = length;
    words[at + REQUEST_LENGTH / 4 + 1] = length / HIGH_WORD;
    words[region.REQUEST_TAIL >>> 2] = tail + 1;
  }

  /** Appends the answer to a command. */
  result(id: number, errno: number, value: number): void {
    const words = this.#words();
    const tail = this.load(region.RESULT_TAIL);
    const at = (region.RESULT_RING + (tail & RING_MASK) * RESULT_SIZE) >>> 2;
    words[at + RESULT_ID / 4] = id;
    words[at + RESULT_ERRNO / 4] = errno;
    words[at + RESULT_VALUE / 4] = value;
    words[region.RESULT_TAIL >>> 2] = tail + 1;
  }

  /**
   * Runs the engine over what is in its input rings; returns the commands that wait.
   * @param nowMicros time since any moment; only deadlines and companion waits look at it
   */
  pump(nowMicros: number): number {
    return this.exports.pump(this.base, nowMicros);
  }

  /** Microseconds after which to pump again though nothing has happened; Infinity: never. */
  get waitMicros(): number {
    const wait = this.load(region.STATE_WAIT);
    return wait === region.STATE_WAIT_NEVER ? Infinity : wait;
  }

  /** Takes the next command into `command`; false when there is none. */
  takeCommand(command: CommandRecord): boolean {
    const words = this.#words();
    const head = this.load(region.COMMAND_HEAD);
    if (head === this.load(region.COMMAND_TAIL)) return false;
    const at = (region.COMMAND_RING + (head & RING_MASK) * COMMAND_SIZE) >>> 2;
    const opAndFlags = words[at + COMMAND_OP / 4] ?? 0;
    command.id = words[at + COMMAND_ID / 4] ?? 0;
    command.op = opAndFlags & 0xff;
    command.flags = (opAndFlags >>> ((COMMAND_FLAGS - COMMAND_OP) * 8)) & 0xff;
    command.file = (opAndFlags >>> ((COMMAND_FILE - COMMAND_OP) * 8)) & 0xffff;
    command.segments = words[at + COMMAND_SEGMENTS / 4] ?? 0;
    command.data = words[at + COMMAND_DATA / 4] ?? 0;
    command.offset = pair(words, at + COMMAND_OFFSET / 4);
    command.length = pair(words, at + COMMAND_LENGTH / 4);
    command.guest = pair(words, at + COMMAND_GUEST / 4);
    words[region.COMMAND_HEAD >>> 2] = head + 1;
    return true;
  }

  /** Takes the next completion into `completion`; false when there is none. */
  takeCompletion(completion: CompletionRecord): boolean {
    const words = this.#words();
    const head = this.load(region.COMPLETION_HEAD);
    if (head === this.load(region.COMPLETION_TAIL)) return false;
    const at = (region.COMPLETION_RING + (head & RING_MASK) * COMPLETION_SIZE) >>> 2;
    completion.tag = words[at + COMPLETION_TAG / 4] ?? 0;
    completion.status = words[at + COMPLETION_STATUS / 4] ?? 0;
    completion.value = words[at + COMPLETION_VALUE / 4] ?? 0;
    completion.errno = words[at + COMPLETION_ERRNO / 4] ?? 0;
    words[region.COMPLETION_HEAD >>> 2] = head + 1;
    return true;
  }

  /** Starts it anew. Use `createEngine`. */
  configure(options: EngineOptions): void {
    const elevator = options.elevator ?? 'none';
    const deadline = typeof elevator === 'string' ? {} : elevator;
    const word = (at: number, value: number): void => this.store(at, value);
    this.capacityBytes = options.capacityBytes;
    word(region.CONFIG_BLOCK_SIZE, options.blockSizeBytes);
    word(region.CONFIG_FLAGS, flagsOf(options));
    word(region.CONFIG_DEPTH, options.depth);
    word(region.CONFIG_MERGE_BYTES, options.mergeBytes);
    word(region.CONFIG_FILES, options.files ?? 1);
    word(region.CONFIG_CHUNK_BYTES, options.chunkBytes ?? 0);
    const readExpiryMs = deadline.readExpiryMs ?? DEFAULT_READ_EXPIRY_MS;
    const writeExpiryMs = deadline.writeExpiryMs ?? DEFAULT_WRITE_EXPIRY_MS;
    word(region.CONFIG_READ_EXPIRY, readExpiryMs * MICROS_PER_MS);
    word(region.CONFIG_WRITE_EXPIRY, writeExpiryMs * MICROS_PER_MS);
    word(region.CONFIG_BATCH, deadline.batch ?? DEFAULT_BATCH);
    word(region.CONFIG_WRITES_STARVED, deadline.writesStarved ?? DEFAULT_WRITES_STARVED);
    word(region.CONFIG_FLUSH_WAIT, options.flushWaitMicros ?? 0);
    word(region.CONFIG_MAP, options.map?.at ?? 0);
    if (this.exports.init(this.base) !== 1) {
      throw new RangeError(`the engine refuses ${JSON.stringify(options)} at ${this.base}`);
    }
    if (options.map !== undefined) this.startMapping(options.map.mapping);
  }

  /** Begins with the tables of a mapping. Nothing may be in flight. */
  startMapping(mapping: Mapping): void {
    const { buffer } = this.memory;
    new Uint32Array(buffer, this.base + this.mapAt, mapping.config.length).set(mapping.config);
    this.exports.measureMap(this.base);
    mapping.install(this);
  }

  /** The region; anew when its buffer has detached because the memory grew. */
  #words(): Uint32Array {
    if (this.#region.length === 0) {
      this.#region = new Uint32Array(this.memory.buffer, this.base, this.#lengthBytes / 4);
    }
    return this.#region;
  }

  /** A u32 of the region, or of the device behind it. */
  load(offset: number): number {
    return this.#words()[offset >>> 2] ?? 0;
  }

  /** Sets a u32 of the region, or of the device behind it. */
  store(offset: number, value: number): void {
    this.#words()[offset >>> 2] = value;
  }
}

function pair(words: Uint32Array, at: number): number {
  return (words[at] ?? 0) + (words[at + 1] ?? 0) * HIGH_WORD;
}

function flagsOf(options: EngineOptions): number {
  const { barrier = 'off', elevator = 'none' } = options;
  const flags: readonly (readonly [boolean, number])[] = [
    [options.readOnly, region.CONFIG_READ_ONLY],
    [options.noFlush, region.CONFIG_NO_FLUSH],
    [options.wce, region.CONFIG_WCE],
    [options.fua ?? true, region.CONFIG_FUA],
    [elevator !== 'none', region.CONFIG_DEADLINE],
    [barrier !== 'off', region.CONFIG_BARRIER],
    [barrier === 'durable', region.CONFIG_BARRIER_DURABLE],
    [options.barrierFailsAfterError ?? false, region.CONFIG_BARRIER_FAILS],
  ];
  return flags.reduce((word, [on, flag]) => (on ? word | flag : word), 0);
}
