/**
 * The device: an engine, an arena and backends in one memory, on the calling thread.
 *
 * `kick` alternates between the engine and the backends until neither has anything to do. Answers
 * that come later from the event loop are taken one batch at a time: the last one that is awaited
 * at once, others together after the callbacks of the current turn.
 */
import { CONFIG_DEVICE, CONFIG_FLAGS, CONFIG_MAP, REGION_SIZE } from './abi/region.ts';
import { OP_SET_WCE } from './abi/request.ts';
import * as virtio from './abi/virtio-device.ts';
import { Arena } from './arena.ts';
import type { Backend, Done } from './backend/backend.ts';
import { type CompletionTarget, type Device, passesGate } from './device.ts';
import type { DeviceOptions } from './device-options.ts';
import { type CompletionRecord, createEngine, type Engine, resumeEngine } from './engine.ts';
import { isShared } from './engine-modules.ts';
import { SluiceError } from './errors.ts';
import { Executor } from './executor.ts';
import { diskOver } from './disk-geometry.ts';
import { Later } from './later.ts';
import {
  type Layout,
  layOut,
  memoryOf,
  type Occupied,
  occupy,
  type Place,
  refuseOccupied,
  vacate,
} from './place.ts';
import { RequestTags } from './request-tags.ts';
import type { Tracer } from './trace/tracer.ts';

const MICROS_PER_MS = 1000;
/** Rounds of engine and backends in one call: a guest that never stops asking must not stop us. */
const ROUNDS_OF_A_KICK = 32;

export class EngineDevice implements Device {
  readonly arena: Arena;
  readonly readOnly: boolean;
  readonly blockSizeBytes: number;
  /** Discards, and zeroes that may be unmapped, can give space back. */
  readonly unmaps: boolean;
  readonly readBitmap: Device['readBitmap'];

  /** Is called before each pump: a copied guest's memory is brought up to date there. */
  beforePump: (() => void) | undefined;
  /** Is called after each pump, when the completions were delivered. May kick. */
  afterPump: (() => void) | undefined;
  /** A virtio device is being closed; the disk leaves its memory then. */
  leaving = false;
  /** Servers and the like that have agreed on sizes with their clients. */
  faces = 0;

  readonly #backends: readonly (Backend | undefined)[];
  /** Bytes of memory that the tables of its image take up. */
  readonly mapBytes: number;
  readonly #module: WebAssembly.Module | undefined;
  #engine: Engine;
  #bytes: Uint8Array;
  #arenaBytes: number;
  #sizeBytes: number;
  readonly #wishes: { owner: boolean; guest: boolean };
  readonly #homeArenaBytes: number;
  #part: Occupied | undefined;
  /** The virtio device is to take chains; it does unless a gate is shut. */
  #running = false;
  /** Who keeps the gate shut: requests are refused as if there were no room, no chain is taken. */
  #gates = 0;
  #gate: Promise<void> = Promise.resolve();
  /** The engine looks at the clock. */
  readonly #timed: boolean;
  readonly #tracer: Tracer | undefined;
  readonly #executor: Executor;
  readonly #completion: CompletionRecord;
  readonly #tags = new RequestTags();
  /** Calls of the engine that are to come. */
  readonly later = new Later(() => this.kick());
  #spaceWaiters: (() => void)[] = [];
  #idleWaiters: (() => void)[] = [];
  #kicking = false;
  #again = false;

  /** Several backends make one disk, striped over them in chunks of `options.chunkBytes`. */
  constructor(backends: readonly (Backend | undefined)[], options: DeviceOptions) {
    const { mapping } = options;
    this.mapBytes = mapping?.regionBytes ?? 0;
    const layout = layOut({ arenaBytes: options.arenaBytes, mapBytes: this.mapBytes });
    const memory = memoryOf(undefined, layout);
    const disk = mapping?.geometry ?? diskOver(backends);
    this.#backends = backends;
    this.#timed = looksAtClock(options);
    this.#tracer = options.tracer;
    this.#module = options.module;
    this.#bytes = new Uint8Array(memory.buffer);
    this.#arenaBytes = layout.arenaBytes;
    this.#homeArenaBytes = layout.arenaBytes;
    this.#wishes = { owner: options.wce, guest: true };
    this.arena = new Arena(layout.arenaAt, layout.arenaBytes);
    this.#sizeBytes = disk.sizeBytes;
    this.readOnly = disk.readOnly;
    this.blockSizeBytes = disk.blockSizeBytes;
    this.unmaps = disk.unmaps;
    this.readBitmap = mapping?.readBitmap;
    this.#executor = new Executor(backends);
    this.#completion = { tag: 0, status: 0, value: 0, errno: 0 };
    this.#engine = createEngine({
      ...options,
      memory,
      capacityBytes: disk.sizeBytes,
      blockSizeBytes: disk.blockSizeBytes,
      depth: disk.depth,
      readOnly: disk.readOnly,
      fua: disk.fua,
      files: mapping?.domains ?? backends.length,
      map: mapping && { at: layout.mapAt, mapping },
    });
    this.#tracer?.opened(this.sizeBytes, this.blockSizeBytes, this.readOnly);
    this.attachBackends();
  }

  get bytes(): Uint8Array {
    const { buffer } = this.#engine.memory;
    if (buffer !== this.#bytes.buffer) this.#bytes = new Uint8Array(buffer);
    return this.#bytes;
  }

  /** Commands handed to backends so far. */
  get commands(): number {
    return this.#executor.commands;
  }

  /** The engine; another one after `moveTo`. */
  get engine(): Engine {
    return this.#engine;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** The backends have another size now. Requests are checked against it from here on. */
  set sizeBytes(bytes: number) {
    this.#sizeBytes = bytes;
    this.#engine.capacityBytes = bytes;
  }

  /** Bytes of transfer buffers. */
  get arenaBytes(): number {
    return this.#arenaBytes;
  }

  /** The virtio device takes chains (DRIVER_OK). */
  get running(): boolean {
    return this.#running;
  }

  set running(on: boolean) {
    this.#running = on;
    this.#applyRunning();
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
    queue = 0,
  ): boolean {
    if (this.#gates > 0 && !passesGate(op, target)) return false;
    const tag = this.#tags.take(target, token);
    if (tag === undefined) return false;
    const { owner, guest } = this.#wishes;
    const size = op === OP_SET_WCE && !(owner && guest) ? 0 : length;
    this.#tracer?.submitted(tag, op, flags, offset, size);
    this.#engine.submit(tag, op, flags, offset, size, segments, data, queue);
    return true;
  }

  kick(): void {
    if (this.#kicking) {
      this.#again = true;
      return;
    }
    this.#kicking = true;
    let rounds = 0;
    try {
      do {
        this.#again = false;
        this.beforePump?.();
        this.#engine.pump(this.#timed ? performance.now() * MICROS_PER_MS : 0);
        this.#executor.run(this.#engine);
        this.#deliverCompletions();
        this.afterPump?.();
        rounds += 1;
      } while (this.#again && rounds < ROUNDS_OF_A_KICK);
    } finally {
      this.#kicking = false;
      // Others have their turn; or a callback has thrown.
      if (this.#again) this.kickSoon();
      if (this.#timed) this.later.after(this.#engine.waitMicros);
      if (this.#idle && this.#idleWaiters.length > 0) this.#wake('idle');
    }
  }

  /**
   * The write cache is on while neither the disk's owner nor its guest wants it off: an OP_SET_WCE
   * that is to turn it on does so only if both want that when it is submitted. True when they do.
   */
  wishCache(who: 'owner' | 'guest', on: boolean): boolean {
    this.#wishes[who] = on;
    return this.#wishes.owner && this.#wishes.guest;
  }

  whenSpace(callback: () => void): void {
    this.#spaceWaiters.push(callback);
  }

  /** Resolves when no request or chain is in flight and nothing is at a backend. */
  async drained(): Promise<void> {
    this.kick();
    if (!this.#idle) await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
  }

  /**
   * Moves the engine, as it is, to another memory or another base: nothing that it knows is lost.
   * The backends follow. With `virtqueues` a new virtio device lies beside it, all queues off.
   * @throws SluiceError ERR_SLUICE_BUSY when anything is in flight; ERR_SLUICE_INVALID_ARGUMENT
   *   when there is no room. Nothing has changed then.
   */
  moveTo(place: Place): void {
    const layout = layOut({ ...place, mapBytes: this.mapBytes });
    const reason = this.#reasonToStay(layout.arenaBytes);
    if (reason !== undefined) {
      throw new SluiceError('ERR_SLUICE_BUSY', `the disk cannot move to a memory now: ${reason}`);
    }
    this.#move(place, layout);
  }

  /** Lives in a memory of its own, where nobody else looks. */
  get isHome(): boolean {
    return this.#part === undefined;
  }

  /**
   * Moves to a memory of its own, at once. Nothing may be in flight. Servers keep the buffers that
   * they have agreed on with their clients.
   */
  leave(): void {
    const served = this.faces > 0 ? this.#arenaBytes : 0;
    const home = { arenaBytes: Math.max(this.#homeArenaBytes, served) };
    this.#move(home, layOut({ ...home, mapBytes: this.mapBytes }));
  }

  #move(place: Place, layout: Layout): void {
    const memory = memoryOf(place.memory, layout);
    refuseOccupied(memory, layout, this.#part);
    const module = place.module ?? (isShared(memory) ? undefined : this.#module);
    const engine = resumeEngine(memory, layout.base, module, layout.virtqueues);
    const from = this.#engine;
    const region = this.bytes.slice(from.base, from.base + REGION_SIZE);
    const map = this.bytes.slice(from.base + from.mapAt, from.base + from.mapAt + this.mapBytes);
    new Uint8Array(memory.buffer).set(region, layout.base);
    if (this.mapBytes > 0) {
      new Uint8Array(memory.buffer).set(map, layout.mapAt);
      engine.store(CONFIG_MAP, layout.mapAt - layout.base);
    }
    engine.store(CONFIG_FLAGS, engine.load(CONFIG_FLAGS) & ~CONFIG_DEVICE);
    if (layout.virtqueues > 0 && engine.exports.initDevice(layout.base, layout.virtqueues) !== 1) {
      throw new Error(`the engine refuses ${layout.virtqueues} virtqueues at ${layout.base}`);
    }
    this.#part =
      place.memory === undefined ? vacate(this.#part) : occupy(memory, layout, this.#part);
    this.#engine = engine;
    this.#running = false;
    this.#arenaBytes = layout.arenaBytes;
    this.arena.moveTo(layout.arenaAt, layout.arenaBytes);
    this.attachBackends();
  }

  /**
   * Runs `work` once nothing is in flight. Requests that come from this call on wait until it has
   * ended, chains stay in their rings.
   */
  quiesced<T>(work: () => Promise<T>): Promise<T> {
    this.#shutGate(1);
    const result = this.#gate.then(() => this.drained()).then(work);
    this.#gate = result.then(
      () => this.#shutGate(-1),
      () => this.#shutGate(-1),
    );
    return result;
  }

  /** Nothing is open, and nothing at a backend: a sync may outlive who asked for it. */
  get #idle(): boolean {
    return this.#requestsInFlight === 0 && this.#executor.inFlight === 0;
  }

  /** Requests of the host, and chains of guests. */
  get #requestsInFlight(): number {
    return this.#tags.open + this.#ofDevice(virtio.DEVICE_IN_FLIGHT);
  }

  /** Requests that an error policy has stopped. */
  get held(): number {
    return this.#ofDevice(virtio.DEVICE_HELD);
  }

  #ofDevice(word: number): number {
    return this.#engine.queues === 0 ? 0 : this.#engine.load(REGION_SIZE + word);
  }

  /** The backends work for this engine from here on. Nothing may be in flight. */
  attachBackends(): void {
    const done: Done = (id, errno, value) => this.#answered(id, errno, value);
    for (const backend of this.#backends) backend?.attach(this.#engine.memory, done);
  }

  #reasonToStay(arenaBytes: number): string | undefined {
    if (this.afterPump !== undefined) return 'it has a virtio device; close that first';
    if (this.leaving) return 'its virtio device is being closed; await that';
    if (this.#kicking) return 'one of its callbacks is running; move after that has returned';
    if (!this.#idle || this.#gates > 0) {
      return `${this.#requestsInFlight} of its requests are in flight; await them first`;
    }
    if (!this.arena.idle) return 'a client is in the middle of a request; close its server first';
    if (arenaBytes >= this.#arenaBytes || this.faces === 0) return undefined;
    return `a server shares its buffers; give arenaBytes: ${this.#arenaBytes}, or serve it later`;
  }

  #shutGate(more: 1 | -1): void {
    this.#gates += more;
    this.#applyRunning();
    if (this.#gates > 0) return;
    this.#wake('space');
    this.kick();
  }

  #applyRunning(): void {
    const engine = this.#engine;
    if (engine.queues === 0) return;
    const at = REGION_SIZE + virtio.DEVICE_FLAGS;
    const on = this.#running && this.#gates === 0;
    engine.store(at, (engine.load(at) & ~virtio.DEVICE_RUNNING) | (on ? virtio.DEVICE_RUNNING : 0));
  }

  #deliverCompletions(): void {
    const engine = this.#engine;
    let any = false;
    while (engine.takeCompletion(this.#completion)) {
      const { tag, status, value, errno } = this.#completion;
      this.#tracer?.completed(tag, status, errno);
      any = true;
      this.#tags.complete(tag, status, value, errno);
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
    this.#engine.result(id, errno, value);
    this.#executor.inFlight -= 1;
    if (this.#kicking) this.#again = true;
    else if (this.#executor.inFlight === 0) this.kick();
    else this.kickSoon();
  }

  /** Kicks after the callbacks of this turn of the event loop. */
  kickSoon(): void {
    this.later.soon();
  }
}

function looksAtClock({ elevator = 'none', flushWaitMicros = 0, mapping }: DeviceOptions): boolean {
  return elevator !== 'none' || flushWaitMicros > 0 || mapping !== undefined;
}
