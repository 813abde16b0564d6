/**
 * The device: an engine, an arena and backends in one memory, on the calling thread.
 *
 * `kick` alternates between the engine and the backends until neither has anything to do. Answers
 * that come later from the event loop are taken one batch at a time: the last one that is awaited
 * at once, others together after the callbacks of the current turn.
 */
import { COMMAND_SLOTS, REQUEST_SLOTS } from './abi/limits.ts';
import { REGION_SIZE } from './abi/region.ts';
import { Arena, PAGE_SIZE } from './arena.ts';
import type { Backend, Done } from './backend/backend.ts';
import type { CompletionTarget, Device } from './device.ts';
import {
  type CommandRecord,
  type CompletionRecord,
  createEngine,
  type Engine,
  type SchedulingOptions,
} from './engine.ts';
import { execute } from './executor.ts';
import type { Tracer } from './trace/tracer.ts';

/** How a device is set up over its backends. */
export interface DeviceOptions extends SchedulingOptions {
  /** Flushes and stable writes are acknowledged without a sync. */
  readonly noFlush: boolean;
  /** Writes start in the volatile class. */
  readonly wce: boolean;
  /** Bytes of transfer buffers, a power of two of at least 64 KiB. */
  readonly arenaBytes: number;
  /** Largest merged transfer in bytes. */
  readonly mergeBytes: number;
  /** A build of the engine; default: the inlined release build. */
  readonly module?: WebAssembly.Module | undefined;
  /** Is told of every request. */
  readonly tracer?: Tracer | undefined;
}

/** Runs `callback` after the callbacks of this turn of the event loop. */
const later: (callback: () => void) => void =
  typeof setImmediate === 'function' ? setImmediate : (callback) => setTimeout(callback, 0);

/** Longer waits than this sleep; shorter ones go round the event loop, as timers are too coarse. */
const SHORTEST_SLEEP_MICROS = 2000;
const MICROS_PER_MS = 1000;

const REGION_PAGES_BYTES = Math.ceil(REGION_SIZE / PAGE_SIZE) * PAGE_SIZE;
const WASM_PAGE_SIZE = 65536;

export class EngineDevice implements Device {
  readonly bytes: Uint8Array;
  readonly arena: Arena;
  readonly engine: Engine;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly blockSizeBytes: number;

  readonly #backends: readonly Backend[];
  /** The engine looks at the clock. */
  readonly #timed: boolean;
  readonly #tracer: Tracer | undefined;
  readonly #command: CommandRecord;
  readonly #completion: CompletionRecord;
  /** Who gets the completion of a tag, and which token it asked for. */
  readonly #targets: (CompletionTarget | undefined)[] = [];
  readonly #tokens = new Uint32Array(REQUEST_SLOTS);
  readonly #freeTags: number[] = [];
  #spaceWaiters: (() => void)[] = [];
  #idleWaiters: (() => void)[] = [];
  /** Commands at the backend. */
  #inFlight = 0;
  #kicking = false;
  #again = false;
  #scheduled = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #scheduledKick = (): void => {
    this.#scheduled = false;
    this.kick();
  };

  /** Several backends make one disk, striped over them in chunks of `options.chunkBytes`. */
  constructor(backends: readonly [Backend, ...Backend[]], options: DeviceOptions) {
    const pages = Math.ceil((REGION_PAGES_BYTES + options.arenaBytes) / WASM_PAGE_SIZE);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const disk = diskOver(backends);
    this.#backends = backends;
    this.#timed = (options.elevator ?? 'none') !== 'none' || (options.flushWaitMicros ?? 0) > 0;
    this.#tracer = options.tracer;
    this.bytes = new Uint8Array(memory.buffer);
    this.arena = new Arena(REGION_PAGES_BYTES, options.arenaBytes);
    this.sizeBytes = disk.sizeBytes;
    this.readOnly = disk.readOnly;
    this.blockSizeBytes = disk.blockSizeBytes;
    this.#command = { id: 0, op: 0, flags: 0, file: 0, segments: 0, data: 0, offset: 0, length: 0 };
    this.#completion = { tag: 0, status: 0, value: 0, errno: 0 };
    for (let tag = REQUEST_SLOTS - 1; tag >= 0; tag--) this.#freeTags.push(tag);
    this.engine = createEngine({
      ...options,
      memory,
      capacityBytes: disk.sizeBytes,
      blockSizeBytes: disk.blockSizeBytes,
      depth: disk.depth,
      readOnly: disk.readOnly,
      fua: disk.fua,
      files: backends.length,
    });
    this.#tracer?.opened(this.sizeBytes, this.blockSizeBytes, this.readOnly);
    const done: Done = (id, errno, value) => this.#answered(id, errno, value);
    for (const backend of backends) backend.attach(memory, done);
  }

  submit(
    op: number,
    flags: number,
    offset: number,
    length: number,
    segments: number,
    data: number,
    target: CompletionTarget,
    token: number,
  ): boolean {
    const tag = this.#freeTags.pop();
    if (tag === undefined) return false;
    this.#targets[tag] = target;
    this.#tokens[tag] = token;
    this.#tracer?.submitted(tag, op, flags, offset, length);
    this.engine.submit(tag, op, flags, offset, length, segments, data);
    return true;
  }

  kick(): void {
    if (this.#kicking) {
      this.#again = true;
      return;
    }
    this.#kicking = true;
    try {
      do {
        this.#again = false;
        this.engine.pump(this.#timed ? performance.now() * MICROS_PER_MS : 0);
        this.#executeCommands();
        this.#deliverCompletions();
      } while (this.#again);
    } finally {
      this.#kicking = false;
    }
    if (this.#timed) this.#kickAfter(this.engine.waitMicros);
    if (this.#idle && this.#idleWaiters.length > 0) this.#wake('idle');
  }

  whenSpace(callback: () => void): void {
    this.#spaceWaiters.push(callback);
  }

  /** Resolves when no request is open and nothing is at a backend. */
  async drained(): Promise<void> {
    this.kick();
    if (!this.#idle) await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
  }

  /** No request is open, and no command is at a backend: a sync may outlive who asked for it. */
  get #idle(): boolean {
    return this.#freeTags.length === REQUEST_SLOTS && this.#inFlight === 0;
  }

  #executeCommands(): void {
    const { engine } = this;
    while (engine.takeCommand(this.#command)) {
      this.#inFlight += 1;
      execute(this.#backends, this.#command);
    }
  }

  #deliverCompletions(): void {
    const { engine } = this;
    let any = false;
    while (engine.takeCompletion(this.#completion)) {
      const { tag, status, value, errno } = this.#completion;
      const target = this.#targets[tag];
      const token = this.#tokens[tag] ?? 0;
      this.#tracer?.completed(tag, status, errno);
      this.#targets[tag] = undefined;
      this.#freeTags.push(tag);
      any = true;
      target?.completed(token, status, value, errno);
    }
    if (any && this.#spaceWaiters.length > 0) this.#wake('space');
  }

  #wake(what: 'space' | 'idle'): void {
    const waiters = what === 'space' ? this.#spaceWaiters : this.#idleWaiters;
    if (what === 'space') this.#spaceWaiters = [];
    else this.#idleWaiters = [];
    for (const wake of waiters) wake();
  }

  #answered(id: number, errno: number, value: number): void {
    this.engine.result(id, errno, value);
    this.#inFlight -= 1;
    if (this.#kicking) this.#again = true;
    else if (this.#inFlight === 0) this.kick();
    else this.#kickSoon();
  }

  #kickSoon(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    later(this.#scheduledKick);
  }

  /** The engine wants to be called again after that long; Infinity: not for the time's sake. */
  #kickAfter(waitMicros: number): void {
    clearTimeout(this.#timer);
    if (waitMicros === Infinity) return;
    if (waitMicros < SHORTEST_SLEEP_MICROS) this.#kickSoon();
    else this.#timer = setTimeout(() => this.kick(), Math.floor(waitMicros / MICROS_PER_MS));
  }
}

/** What the backends are together. */
interface Together {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly blockSizeBytes: number;
  readonly depth: number;
  readonly fua: boolean;
}

/** Several files have one size, which is whole chunks (scheduling-options.ts). */
function diskOver(backends: readonly Backend[]): Together {
  const depth = backends.reduce((sum, backend) => sum + backend.depth, 0);
  return {
    sizeBytes: backends.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    readOnly: backends.some(({ readOnly }) => readOnly),
    blockSizeBytes: Math.max(...backends.map(({ blockSizeBytes }) => blockSizeBytes)),
    depth: Math.min(depth, COMMAND_SLOTS),
    fua: backends.every(({ fua = true }) => fua),
  };
}
