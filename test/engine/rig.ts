/** One engine whose host is the test: commands are read and answered one by one, by name. */

import {
  COMMAND_BLOCK_STATUS,
  COMMAND_DISCARD,
  COMMAND_FAST_ZERO,
  COMMAND_MAY_UNMAP,
  COMMAND_READ,
  COMMAND_STABLE,
  COMMAND_SYNC,
  COMMAND_WRITE,
  COMMAND_WRITE_ZEROES,
  ERRNO_EIO,
} from '../../src/abi/command.ts';
import * as abi from '../../src/abi/request.ts';
import {
  type CommandRecord,
  type CompletionRecord,
  createMemory,
  DATA_BASE,
  EngineDriver,
  type EngineConfig,
  type RequestRecord,
} from '../driver.ts';
import type { Build } from '../support/engine.ts';

/** A disk of 1 MiB with a write cache; every test says what it wants otherwise. */
export const CONFIG: EngineConfig = {
  capacity: 1024 * 1024,
  blockSize: 512,
  depth: 32,
  mergeBytes: 65536,
  readOnly: false,
  noFlush: false,
  wce: true,
};

/** The names of STATUS_*, in order of their numbers. */
export const STATUS_NAMES = [
  'OK',
  'IO_ERROR',
  'NO_SPACE',
  'READ_ONLY',
  'OUT_OF_RANGE',
  'INVALID',
  'UNSUPPORTED',
  'FLUSH_LATCHED',
  'ABORTED',
] as const;

/** What a request may say besides its range. */
export interface Options {
  readonly flags?: number;
  readonly queue?: number;
  readonly segments?: number;
  readonly data?: number;
}

/** FUA, for `Options`. */
export const FUA: Options = { flags: abi.REQUEST_FUA };

/** A barrier, for `Options`. */
export const BARRIER: Options = { flags: abi.REQUEST_BARRIER };

/** See the head of the file. Requests are named by their tags: 1, 2, 3 ... */
export class Rig {
  readonly engine: EngineDriver;
  readonly memory: WebAssembly.Memory;
  /** Every command that the engine has emitted. */
  readonly log: string[] = [];
  /** Every completion, in order. */
  readonly completions: CompletionRecord[] = [];
  /** Commands that are not answered. */
  readonly inFlight: CommandRecord[] = [];
  /** Microseconds. */
  now = 0;
  #tags = 0;
  #free = DATA_BASE;

  constructor(build: Build, config: Partial<EngineConfig> = {}, dataBytes = 1024 * 1024) {
    this.memory = createMemory(dataBytes);
    this.engine = EngineDriver.over(build, this.memory);
    if (!this.engine.init({ ...CONFIG, ...config })) throw new Error('refused configuration');
  }

  read(offset: number, length: number, options: Options = {}): number {
    return this.#io(abi.OP_READ, offset, length, options);
  }

  write(offset: number, length: number, options: Options = {}): number {
    return this.#io(abi.OP_WRITE, offset, length, options);
  }

  writeZeroes(offset: number, length: number, options: Options = {}): number {
    return this.#io(abi.OP_WRITE_ZEROES, offset, length, options);
  }

  discard(offset: number, length: number, options: Options = {}): number {
    return this.#io(abi.OP_DISCARD, offset, length, options);
  }

  blockStatus(offset: number, length: number, options: Options = {}): number {
    return this.#io(abi.OP_BLOCK_STATUS, offset, length, options);
  }

  flush(options: Options = {}): number {
    return this.submit({ op: abi.OP_FLUSH, ...options });
  }

  setWce(on: 0 | 1, options: Options = {}): number {
    return this.submit({ op: abi.OP_SET_WCE, length: on, ...options });
  }

  /** Resets one queue, or all of them. */
  reset(queue: number | 'all'): number {
    if (queue === 'all') return this.submit({ op: abi.OP_RESET });
    return this.submit({ op: abi.OP_RESET_QUEUE, queue });
  }

  clearLatch(options: Options = {}): number {
    return this.submit({ op: abi.OP_CLEAR_LATCH, ...options });
  }

  /** Submits a record; what it does not say is 0. Returns its tag. */
  submit(record: Partial<RequestRecord>): number {
    const tag = ++this.#tags;
    const empty = { op: 0, flags: 0, queue: 0, segments: 0, data: 0, offset: 0, length: 0 };
    if (!this.engine.submit({ ...empty, ...record, tag })) throw new Error('the ring is full');
    return tag;
  }

  /** Bytes for one transfer, apart from all others. */
  allocate(bytes: number): number {
    const address = this.#free;
    this.#free += bytes + 64;
    return address;
  }

  /** Writes a segment table and returns its address. */
  table(segments: readonly (readonly [address: number, length: number])[]): number {
    const table = this.allocate(segments.length * abi.SEGMENT_SIZE);
    for (const [index, [address, length]] of segments.entries()) {
      this.engine.view.setUint32(table + index * abi.SEGMENT_SIZE, address, true);
      this.engine.view.setUint32(table + index * abi.SEGMENT_SIZE + 4, length, true);
    }
    return table;
  }

  /** Runs the engine; returns the commands that it has emitted, as text. */
  pump(): string[] {
    this.engine.pump(this.now);
    const commands = this.engine.takeCommands();
    this.inFlight.push(...commands);
    this.completions.push(...this.engine.takeCompletions());
    const texts = commands.map((command) => textOf(command));
    this.log.push(...texts);
    return texts;
  }

  /** Lets time pass, then pumps. */
  pumpAfter(micros: number): string[] {
    this.now += micros;
    return this.pump();
  }

  /** Answers the first command at the host with this text. */
  answer(text: string, errno = 0, value = 0): void {
    const index = this.inFlight.findIndex((command) => textOf(command) === text);
    if (index < 0) throw new Error(`no ${text} at the host`);
    const [command] = this.inFlight.splice(index, 1);
    this.engine.result(command!.id, errno, value);
  }

  /** Answers, then pumps. */
  answerAndPump(text: string, errno = 0, value = 0): string[] {
    this.answer(text, errno, value);
    return this.pump();
  }

  /** Pumps and answers with success until nothing is left; returns the commands of this run. */
  run(): string[] {
    const before = this.log.length;
    this.pump();
    for (let turn = 0; this.inFlight.length > 0; turn++) {
      if (turn === 10_000) throw new Error('the engine finds no end');
      for (const command of this.inFlight.splice(0)) this.engine.result(command.id, 0);
      this.pump();
    }
    return this.log.slice(before);
  }

  /** A disk on which nothing is dirty: the flush that every disk owes at first is done (F7). */
  clean(): this {
    this.flush();
    this.run();
    this.log.length = 0;
    return this;
  }

  /** A disk after a sync of its first file has failed. */
  latched(): this {
    this.flush();
    this.pump();
    for (const { op, id, file } of this.inFlight.splice(0)) {
      this.engine.result(id, op === COMMAND_SYNC && file === 0 ? ERRNO_EIO : 0);
    }
    this.pump();
    this.log.length = 0;
    return this;
  }

  /** The statuses of requests. */
  statuses(tags: readonly number[]): ReturnType<Rig['status']>[] {
    return tags.map((tag) => this.status(tag));
  }

  /** The status of a completed request, or 'open'. */
  status(tag: number): (typeof STATUS_NAMES)[number] | 'open' {
    const completion = this.completions.find((done) => done.tag === tag);
    return completion === undefined ? 'open' : STATUS_NAMES[completion.status]!;
  }

  #io(op: number, offset: number, length: number, options: Options): number {
    const data = options.data ?? this.allocate(op <= abi.OP_WRITE ? length : 0);
    return this.submit({ op, offset, length, segments: 1, ...options, data });
  }
}

const OP_NAMES = {
  [COMMAND_READ]: 'READ',
  [COMMAND_WRITE]: 'WRITE',
  [COMMAND_WRITE_ZEROES]: 'ZERO',
  [COMMAND_DISCARD]: 'DISCARD',
  [COMMAND_BLOCK_STATUS]: 'STATUS',
} as const;

/** A command as the tests name it: `WRITE 0+4096 STABLE`, `SYNC`, of the second file `SYNC @1`. */
export function textOf(command: CommandRecord): string {
  const { file } = command;
  return file === 0 ? actionOf(command) : `${actionOf(command)} @${file}`;
}

function actionOf({ op, flags, offset, length }: CommandRecord): string {
  if (op === COMMAND_SYNC) return flags === 0 && length === 0 ? 'SYNC' : `SYNC ${flags} ${length}`;
  const name = OP_NAMES[op as keyof typeof OP_NAMES] ?? `OP ${op}`;
  const text = `${name} ${offset}+${length}`;
  if (op === COMMAND_WRITE && flags === COMMAND_STABLE) return `${text} STABLE`;
  if (op !== COMMAND_WRITE_ZEROES) return flags === 0 ? text : `${text} flags ${flags}`;
  const mayUnmap = (flags & COMMAND_MAY_UNMAP) === 0 ? '' : ' MAY_UNMAP';
  const fastZero = (flags & COMMAND_FAST_ZERO) === 0 ? '' : ' FAST';
  return `${text}${mayUnmap}${fastZero}`;
}
