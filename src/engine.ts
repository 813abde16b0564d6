/**
 * The engine as the host sees it: a WebAssembly module over a region of memory, four rings and a
 * `pump`. The only file that names the loader, and the only one that knows where a ring lies.
 */
import { instantiateSync } from '@assemblyscript/loader';
import {
  COMMAND_DATA,
  COMMAND_FLAGS,
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
import {
  COMMAND_HEAD,
  COMMAND_RING,
  COMMAND_TAIL,
  COMPLETION_HEAD,
  COMPLETION_RING,
  COMPLETION_TAIL,
  CONFIG_BLOCK_SIZE,
  CONFIG_CAPACITY,
  CONFIG_DEPTH,
  CONFIG_FLAGS,
  CONFIG_MERGE_BYTES,
  CONFIG_NO_FLUSH,
  CONFIG_READ_ONLY,
  CONFIG_WCE,
  REGION_SIZE,
  REQUEST_HEAD,
  REQUEST_RING,
  REQUEST_TAIL,
  RESULT_RING,
  RESULT_TAIL,
  STATE_LATCHED,
  STATE_WCE,
} from './abi/region.ts';
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
} from './abi/request.ts';
import { ENGINE_WASM_BASE64 } from './engine-wasm.ts';

/** What the module exports (assembly/index.ts). */
// A type and not an interface: the loader wants an index signature.
export type EngineExports = {
  regionSize(): number;
  init(base: number): number;
  pump(base: number): number;
};

/** What an engine is made for. */
export interface EngineOptions {
  /** The memory to live in; it must hold REGION_SIZE bytes from `base` on and never grow. */
  readonly memory: WebAssembly.Memory;
  /** Start of the region, on a 64-byte boundary. Default 0. */
  readonly base?: number;
  /** A build of the engine; default: the release build that is inlined in the package. */
  readonly module?: WebAssembly.Module;
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
}

/** A command as `takeCommand` fills it; reused by the caller. */
export interface CommandRecord {
  id: number;
  op: number;
  flags: number;
  segments: number;
  data: number;
  offset: number;
  length: number;
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

let inlined: WebAssembly.Module | undefined;

/** The release build that is inlined in the package, compiled once. */
export function inlinedModule(): WebAssembly.Module {
  if (inlined === undefined) {
    const binary = atob(ENGINE_WASM_BASE64);
    inlined = new WebAssembly.Module(Uint8Array.from(binary, (char) => char.charCodeAt(0)));
  }
  return inlined;
}

/** Instantiates the engine over a memory. */
export function createEngine(options: EngineOptions): Engine {
  const module = options.module ?? inlinedModule();
  const { instance } = instantiateSync<EngineExports>(module, { env: { memory: options.memory } });
  // The loader's own wrappers cost five times a raw call.
  return new Engine(instance.exports as EngineExports, options);
}

/** One engine: requests and results in, commands and completions out. */
export class Engine {
  readonly #exports: EngineExports;
  readonly #base: number;
  readonly #words: Uint32Array;
  readonly #view: DataView;

  /** Use `createEngine`. */
  constructor(exports: EngineExports, options: EngineOptions) {
    const { memory, base = 0 } = options;
    if (base + REGION_SIZE > memory.buffer.byteLength) {
      throw new RangeError(`an engine at ${base} needs ${REGION_SIZE} bytes of memory`);
    }
    this.#exports = exports;
    this.#base = base;
    this.#words = new Uint32Array(memory.buffer, base, REGION_SIZE / 4);
    this.#view = new DataView(memory.buffer, base, REGION_SIZE);
    this.#configure(options);
  }

  /** True while completed writes need a flush to be stable. */
  get wce(): boolean {
    return this.#load(STATE_WCE) !== 0;
  }

  /** True once a sync has failed: no flush succeeds any more. */
  get latched(): boolean {
    return this.#load(STATE_LATCHED) !== 0;
  }

  /** Requests that the engine has not taken yet. */
  get requestsWaiting(): number {
    return (this.#load(REQUEST_TAIL) - this.#load(REQUEST_HEAD)) >>> 0;
  }

  /** A counter (COUNT_* of abi/region.ts). */
  counter(offset: number): number {
    return this.#load(offset) + this.#load(offset + 4) * HIGH_WORD;
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
  ): void {
    const words = this.#words;
    const tail = this.#load(REQUEST_TAIL);
    const at = (REQUEST_RING + (tail & RING_MASK) * REQUEST_SIZE) >>> 2;
    words[at + REQUEST_TAG / 4] = tag;
    words[at + REQUEST_OP / 4] = op | (flags << ((REQUEST_FLAGS - REQUEST_OP) * 8));
    words[at + REQUEST_SEGMENTS / 4] = segments;
    words[at + REQUEST_DATA / 4] = data;
    words[at + REQUEST_OFFSET / 4] = offset;
    words[at + REQUEST_OFFSET / 4 + 1] = offset / HIGH_WORD;
    words[at + REQUEST_LENGTH / 4] = length;
    words[at + REQUEST_LENGTH / 4 + 1] = length / HIGH_WORD;
    words[REQUEST_TAIL >>> 2] = tail + 1;
  }

  /** Appends the answer to a command. */
  result(id: number, errno: number, value: number): void {
    const words = this.#words;
    const tail = this.#load(RESULT_TAIL);
    const at = (RESULT_RING + (tail & RING_MASK) * RESULT_SIZE) >>> 2;
    words[at + RESULT_ID / 4] = id;
    words[at + RESULT_ERRNO / 4] = errno;
    words[at + RESULT_VALUE / 4] = value;
    words[RESULT_TAIL >>> 2] = tail + 1;
  }

  /** Runs the engine over what is in its input rings; returns the commands that wait. */
  pump(): number {
    return this.#exports.pump(this.#base);
  }

  /** Takes the next command into `command`; false when there is none. */
  takeCommand(command: CommandRecord): boolean {
    const words = this.#words;
    const head = this.#load(COMMAND_HEAD);
    if (head === this.#load(COMMAND_TAIL)) return false;
    const at = (COMMAND_RING + (head & RING_MASK) * COMMAND_SIZE) >>> 2;
    const opAndFlags = words[at + COMMAND_OP / 4] ?? 0;
    command.id = words[at + COMMAND_ID / 4] ?? 0;
    command.op = opAndFlags & 0xff;
    command.flags = (opAndFlags >>> ((COMMAND_FLAGS - COMMAND_OP) * 8)) & 0xff;
    command.segments = words[at + COMMAND_SEGMENTS / 4] ?? 0;
    command.data = words[at + COMMAND_DATA / 4] ?? 0;
    command.offset = this.#pair(at + COMMAND_OFFSET / 4);
    command.length = this.#pair(at + COMMAND_LENGTH / 4);
    words[COMMAND_HEAD >>> 2] = head + 1;
    return true;
  }

  /** Takes the next completion into `completion`; false when there is none. */
  takeCompletion(completion: CompletionRecord): boolean {
    const words = this.#words;
    const head = this.#load(COMPLETION_HEAD);
    if (head === this.#load(COMPLETION_TAIL)) return false;
    const at = (COMPLETION_RING + (head & RING_MASK) * COMPLETION_SIZE) >>> 2;
    completion.tag = words[at + COMPLETION_TAG / 4] ?? 0;
    completion.status = words[at + COMPLETION_STATUS / 4] ?? 0;
    completion.value = words[at + COMPLETION_VALUE / 4] ?? 0;
    completion.errno = words[at + COMPLETION_ERRNO / 4] ?? 0;
    words[COMPLETION_HEAD >>> 2] = head + 1;
    return true;
  }

  #configure(options: EngineOptions): void {
    const view = this.#view;
    const flags =
      (options.readOnly ? CONFIG_READ_ONLY : 0) |
      (options.noFlush ? CONFIG_NO_FLUSH : 0) |
      (options.wce ? CONFIG_WCE : 0);
    view.setBigUint64(CONFIG_CAPACITY, BigInt(options.capacityBytes), true);
    view.setUint32(CONFIG_BLOCK_SIZE, options.blockSizeBytes, true);
    view.setUint32(CONFIG_FLAGS, flags, true);
    view.setUint32(CONFIG_DEPTH, options.depth, true);
    view.setUint32(CONFIG_MERGE_BYTES, options.mergeBytes, true);
    if (this.#exports.init(this.#base) !== 1) {
      throw new RangeError(
        `the engine refuses capacity ${options.capacityBytes}, block size ` +
          `${options.blockSizeBytes}, depth ${options.depth} at ${this.#base}`,
      );
    }
  }

  #load(offset: number): number {
    return this.#words[offset >>> 2] ?? 0;
  }

  #pair(at: number): number {
    return (this.#words[at] ?? 0) + (this.#words[at + 1] ?? 0) * HIGH_WORD;
  }
}
