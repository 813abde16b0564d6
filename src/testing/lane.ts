/**
 * An engine whose state can be put back: the explorer's way to be in many places at once.
 *
 * The rings are words of the region, read and written here as engine.ts does it for a device, less
 * what an explorer has no use for. All state of an engine lies in its region, most of which a short
 * stream never touches; so a fork copies the blocks that are known to be touched and no others.
 * They are learnt: whoever has a new kind of stream lets it run with a check at every step
 * (`learning`). That the known blocks are all is checked ever after: the rest of the region must
 * be as it was after `init`. That costs more than a fork, so it is done at every step after a new
 * block was found and more rarely then; whoever misses one starts over (ForkMiss).
 */
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
} from '../abi/command.ts';
import { RING_ENTRIES } from '../abi/limits.ts';
import * as region from '../abi/region.ts';
import {
  COMPLETION_SIZE,
  COMPLETION_STATUS,
  COMPLETION_TAG,
  OP_SET_WCE,
  REQUEST_DATA,
  REQUEST_LENGTH,
  REQUEST_OFFSET,
  REQUEST_OP,
  REQUEST_SEGMENTS,
  REQUEST_SIZE,
  REQUEST_TAG,
} from '../abi/request.ts';
import { SluiceError } from '../errors.ts';
import { type EngineSetup, type GuestRequest, SECTOR_BYTES } from './stream.ts';

/** Where the data of request 1 would lie; each request has PAGE bytes, which nobody reads. */
export const DATA_BASE = region.REGION_SIZE;
export const PAGE = 8192;
/** Longest stream whose addresses lie inside the memory. */
export const LANE_REQUESTS = 64;

const WASM_PAGE = 65_536;
const WORDS = region.REGION_SIZE / 4;
const RING_MASK = RING_ENTRIES - 1;
const BLOCK_WORDS = 32;
/** Blocks that are learnt together. */
const LEARNT_BLOCKS = 4;
/** Steps between two checks at most. */
const CHECK_RARELY = 4096;
/** Configurations whose engine after `init` is kept. */
const MOST_HOMES = 64;

/** A block was touched that no fork had copied: what came since the last check does not count. */
export class ForkMiss extends Error {}

/** A copy of the region or of its touched blocks, and views of those blocks. */
interface Copy {
  readonly words: Uint32Array;
  parts: readonly Uint32Array[];
}

/** Words of the region. */
interface Gap {
  readonly from: number;
  readonly to: number;
}

interface Exports {
  init(base: number): number;
  pump(base: number, now: number): number;
}

/** See the head of the file. */
export class Lane {
  readonly words: Uint32Array;
  /** The command that `takeCommand` took. */
  readonly command = { id: 0, op: 0, flags: 0, file: 0, segments: 0, data: 0, from: 0, to: 0 };
  /** The completion that `takeCompletion` took. */
  readonly completion = { tag: 0, status: 0 };
  /** Check at every step. */
  learning = false;
  readonly #memory: Uint32Array;
  readonly #exports: Exports;
  /** The engine after `init`, for each configuration. */
  readonly #homes = new Map<EngineSetup, Copy>();
  readonly #touched = new Uint8Array(Math.ceil(WORDS / BLOCK_WORDS));
  #home: Copy = { words: new Uint32Array(0), parts: [] };
  #live: Uint32Array[] = [];
  /** What no fork copies. */
  #gaps: readonly Gap[] = [];
  #forks: Copy[] = [];
  #interval = 1;
  #untilCheck = 1;

  /** @throws {SluiceError} when the module is not an engine */
  constructor(module: WebAssembly.Module) {
    const pages = Math.ceil((DATA_BASE + (LANE_REQUESTS + 1) * PAGE) / WASM_PAGE);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const { exports } = new WebAssembly.Instance(module, { env: { memory } });
    this.#exports = exports as unknown as Exports;
    this.#memory = new Uint32Array(memory.buffer);
    this.words = this.#memory.subarray(0, WORDS);
    // The configuration, the ring positions, the counters and the state of the stages.
    this.#touched.fill(1, 0, region.REQUEST_RING / 4 / BLOCK_WORDS);
    this.#live = this.#partsOf(this.words);
    this.#gaps = this.#findGaps();
  }

  /** A new engine with this configuration: every byte of its region is put back. */
  begin(setup: EngineSetup): void {
    let home = this.#homes.get(setup);
    if (home === undefined) {
      this.words.fill(0);
      this.#configure(setup);
      const words = this.words.slice();
      home = { words, parts: this.#partsOf(words) };
      this.#homes.set(setup, home);
      if (this.#homes.size > MOST_HOMES) this.#forgetHome();
    } else this.words.set(home.words);
    this.#home = home;
  }

  /** The same engine as after `begin`, as far as blocks are known to be touched. */
  reset(): void {
    copy(this.#home.parts, this.#live);
  }

  /** Remembers the state as that of `depth`. */
  save(depth: number): void {
    while (this.#forks.length <= depth) this.#forks.push(this.#newFork());
    copy(this.#live, this.#forks[depth]?.parts ?? []);
  }

  /** Back to what was saved at `depth`. */
  restore(depth: number): void {
    copy(this.#forks[depth]?.parts ?? [], this.#live);
  }

  /** Appends request `number` (from 1). */
  submit(request: GuestRequest, number: number): void {
    const { words } = this;
    const tail = words[region.REQUEST_TAIL >>> 2] ?? 0;
    const at = (region.REQUEST_RING + (tail & RING_MASK) * REQUEST_SIZE) >>> 2;
    const { op, flags, queue, from, to } = request;
    words[at + REQUEST_TAG / 4] = number;
    words[at + REQUEST_OP / 4] = op | (flags << 8) | (queue << 16);
    words[at + REQUEST_SEGMENTS / 4] = 1;
    words[at + REQUEST_DATA / 4] = DATA_BASE + number * PAGE;
    words[at + REQUEST_OFFSET / 4] = from * SECTOR_BYTES;
    words[at + REQUEST_OFFSET / 4 + 1] = 0;
    words[at + REQUEST_LENGTH / 4] = op === OP_SET_WCE ? to : (to - from) * SECTOR_BYTES;
    words[at + REQUEST_LENGTH / 4 + 1] = 0;
    words[region.REQUEST_TAIL >>> 2] = tail + 1;
  }

  /** Appends the answer to a command. */
  answer(id: number, errno: number): void {
    const { words } = this;
    const tail = words[region.RESULT_TAIL >>> 2] ?? 0;
    const at = (region.RESULT_RING + (tail & RING_MASK) * RESULT_SIZE) >>> 2;
    words[at + RESULT_ID / 4] = id;
    words[at + RESULT_ERRNO / 4] = errno;
    words[at + RESULT_VALUE / 4] = 0;
    words[region.RESULT_TAIL >>> 2] = tail + 1;
  }

  /** Runs the engine at this time, in microseconds. */
  pump(now: number): void {
    this.#exports.pump(0, now);
    if (--this.#untilCheck <= 0 || this.learning) this.check();
  }

  /** Requests that the engine has taken. */
  get taken(): number {
    return this.words[region.REQUEST_HEAD >>> 2] ?? 0;
  }

  /** After how many microseconds the engine wants to be called again, or STATE_WAIT_NEVER. */
  get wait(): number {
    return this.words[region.STATE_WAIT >>> 2] ?? 0;
  }

  /** Takes the next command into `command`; false when there is none. Offsets become sectors. */
  takeCommand(): boolean {
    const { words, command } = this;
    const head = words[region.COMMAND_HEAD >>> 2] ?? 0;
    if (head === words[region.COMMAND_TAIL >>> 2]) return false;
    const at = (region.COMMAND_RING + (head & RING_MASK) * COMMAND_SIZE) >>> 2;
    const packed = words[at + COMMAND_OP / 4] ?? 0;
    command.id = words[at + COMMAND_ID / 4] ?? 0;
    command.op = packed & 0xff;
    command.flags = (packed >>> ((COMMAND_FLAGS - COMMAND_OP) * 8)) & 0xff;
    command.file = packed >>> 16;
    command.segments = words[at + COMMAND_SEGMENTS / 4] ?? 0;
    command.data = words[at + COMMAND_DATA / 4] ?? 0;
    command.from = (words[at + COMMAND_OFFSET / 4] ?? 0) / SECTOR_BYTES;
    command.to = command.from + (words[at + COMMAND_LENGTH / 4] ?? 0) / SECTOR_BYTES;
    words[region.COMMAND_HEAD >>> 2] = head + 1;
    return true;
  }

  /** Takes the next completion into `completion`; false when there is none. */
  takeCompletion(): boolean {
    const { words, completion } = this;
    const head = words[region.COMPLETION_HEAD >>> 2] ?? 0;
    if (head === words[region.COMPLETION_TAIL >>> 2]) return false;
    const at = (region.COMPLETION_RING + (head & RING_MASK) * COMPLETION_SIZE) >>> 2;
    completion.tag = words[at + COMPLETION_TAG / 4] ?? 0;
    completion.status = words[at + COMPLETION_STATUS / 4] ?? 0;
    words[region.COMPLETION_HEAD >>> 2] = head + 1;
    return true;
  }

  /** A word of the memory, at a byte address that is a multiple of 4. */
  word(address: number): number {
    return this.#memory[address >>> 2] ?? 0;
  }

  /** Compares what no fork copies with what it was at first. @throws {ForkMiss} */
  check(): void {
    const { words } = this;
    const home = this.#home.words;
    let missed = false;
    for (const gap of this.#gaps) {
      if (isSame(words, home, gap)) continue;
      this.#touch(gap);
      missed = true;
    }
    if (missed) this.#interval = 1;
    else if (!this.learning) this.#interval = Math.min(this.#interval * 1.25 + 1, CHECK_RARELY);
    this.#untilCheck = this.#interval;
    if (!missed) return;
    words.set(home);
    this.#live = this.#partsOf(words);
    this.#gaps = this.#findGaps();
    this.#forks = [];
    for (const copy of this.#homes.values()) copy.parts = this.#partsOf(copy.words);
    throw new ForkMiss('a block of the region was touched that forks do not copy');
  }

  /** Views of the touched blocks, neighbours as one. */
  #partsOf(words: Uint32Array): Uint32Array[] {
    const parts: Uint32Array[] = [];
    for (let block = 0; block < this.#touched.length; block++) {
      if (this.#touched[block] === 0) continue;
      const start = block * BLOCK_WORDS;
      while (this.#touched[block + 1] === 1) block++;
      parts.push(words.subarray(start, Math.min(WORDS, (block + 1) * BLOCK_WORDS)));
    }
    return parts;
  }

  /** Blocks of a gap that are not as they were: from now on they are known. */
  #touch({ from, to }: Gap): void {
    for (let at = from; at < to; at++) {
      if (this.words[at] === this.#home.words[at]) continue;
      const block = Math.floor(at / BLOCK_WORDS);
      // Its neighbours are likely to be next.
      const first = block - (block % LEARNT_BLOCKS);
      this.#touched.fill(1, first, first + LEARNT_BLOCKS);
    }
  }

  /** Runs of blocks that are not known to be touched. */
  #findGaps(): Gap[] {
    const gaps: Gap[] = [];
    for (let block = 0; block < this.#touched.length; block++) {
      if (this.#touched[block] === 1) continue;
      const from = block * BLOCK_WORDS;
      while (this.#touched[block + 1] === 0) block++;
      gaps.push({ from, to: Math.min(WORDS, (block + 1) * BLOCK_WORDS) });
    }
    return gaps;
  }

  #newFork(): Copy {
    const size = this.#live.reduce((sum, { length }) => sum + length, 0);
    const words = new Uint32Array(size);
    let at = 0;
    const parts = this.#live.map(({ length }) => words.subarray(at, (at += length)));
    return { words, parts };
  }

  /** Random configurations are seen once: the oldest that is not in use goes. */
  #forgetHome(): void {
    const [oldest] = this.#homes.keys();
    if (oldest !== undefined) this.#homes.delete(oldest);
  }

  #configure(setup: EngineSetup): void {
    const { words } = this;
    const set = (offset: number, value: number): void => {
      words[offset >>> 2] = value;
    };
    set(region.CONFIG_CAPACITY, setup.sectors * SECTOR_BYTES);
    set(region.CONFIG_BLOCK_SIZE, setup.granuleSectors * SECTOR_BYTES);
    set(region.CONFIG_FLAGS, flagsOf(setup));
    set(region.CONFIG_DEPTH, setup.depth);
    set(region.CONFIG_MERGE_BYTES, setup.mergeBytes);
    set(region.CONFIG_FILES, setup.files);
    set(region.CONFIG_CHUNK_BYTES, setup.chunkSectors * SECTOR_BYTES);
    set(region.CONFIG_READ_EXPIRY, setup.readExpiry);
    set(region.CONFIG_WRITE_EXPIRY, setup.writeExpiry);
    set(region.CONFIG_BATCH, setup.batch);
    set(region.CONFIG_WRITES_STARVED, setup.writesStarved);
    set(region.CONFIG_FLUSH_WAIT, setup.flushWait);
    if (this.#exports.init(0) === 1) return;
    throw new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', 'the engine refuses a configuration');
  }
}

function flagsOf(setup: EngineSetup): number {
  return (
    (setup.noFlush ? region.CONFIG_NO_FLUSH : 0) |
    (setup.wce ? region.CONFIG_WCE : 0) |
    (setup.deadline ? region.CONFIG_DEADLINE : 0) |
    (setup.fua ? region.CONFIG_FUA : 0) |
    (setup.barrier === 'off' ? 0 : region.CONFIG_BARRIER) |
    (setup.barrier === 'durable' ? region.CONFIG_BARRIER_DURABLE : 0) |
    (setup.barrierFails ? region.CONFIG_BARRIER_FAILS : 0)
  );
}

/** Whether the words of a gap are the same in both; Node compares them many at once. */
function isSame(one: Uint32Array, other: Uint32Array, { from, to }: Gap): boolean {
  if (typeof Buffer === 'function') {
    return Buffer.compare(bytesOf(one, from, to), bytesOf(other, from, to)) === 0;
  }
  for (let at = from; at < to; at++) if (one[at] !== other[at]) return false;
  return true;
}

function bytesOf({ buffer, byteOffset }: Uint32Array, from: number, to: number): Uint8Array {
  return new Uint8Array(buffer, byteOffset + from * 4, (to - from) * 4);
}

function copy(from: readonly Uint32Array[], to: readonly Uint32Array[]): void {
  for (let part = 0; part < from.length; part++) {
    const source = from[part];
    if (source !== undefined) to[part]?.set(source);
  }
}
