/**
 * The raw device side of virtqueues: what any transport plugs into, be it vhost-user, PCI in an
 * emulator, or mmio. There is no feature negotiation and no configuration space here.
 *
 *              attach                      detach, when drained
 *      off ────────────▶ on ◀──▶ paused ────────────────────────▶ off
 *                         │        │
 *                         └──▶ broken ──▶ detach or reset ──▶ off
 *      any but off ──reset──▶ dead ──when nothing is in flight──▶ off
 *
 * The engine takes the chains itself when it is kicked, and turns them into requests; nothing here
 * reads a ring. What the engine has to say it leaves in words beside its region, which are read
 * after each pump.
 *
 * V1  A queue that is reset is dead at once: its ring is not touched after the call, and nobody is
 *     interrupted for it.
 * V2  Callbacks run outside of the engine and may call anything. What one throws comes out of the
 *     call that pumps, when all have been called.
 * V3  A word is cleared before its callbacks run, so nothing that comes meanwhile is lost.
 */
import { OP_RESET_QUEUE, OP_SET_WCE } from '../abi/request.ts';
import * as abi from '../abi/virtio-device.ts';
import { toSwitch, toWhole } from '../arguments.ts';
import type { Face } from '../disk-types.ts';
import type { EngineDevice } from '../engine-device.ts';
import { type Ask, PromisedRequests } from '../promised-requests.ts';
import { DeviceWords, faultOf, heldRequest, queueWords, storeSettings } from './device-words.ts';
import type { GuestSide } from './landed.ts';
import { ringFault } from './ring-checks.ts';
import { halves, misplaced, toConfig, toRegion } from './virtqueue-checks.ts';
import {
  attachText,
  hex,
  queueError,
  regionName,
  regionText,
  stateName,
} from './virtqueue-texts.ts';
import type {
  DeviceSettings,
  GuestRegion,
  QueueConfig,
  QueueEvents,
  QueueState,
  RingPosition,
} from './virtqueue-types.ts';

export type * from './virtqueue-types.ts';

const HIGH_WORD = 2 ** 32;
const EVENT_SETS = [abi.DEVICE_KICKED, abi.DEVICE_INTERRUPTS, abi.DEVICE_BROKEN];
const NOTHING = { flags: 0, offset: 0, length: 0 };

/** See the head of the file. */
export class VirtQueues implements Face {
  /** Queues of the device. */
  readonly count: number;
  readonly sharesBuffers = false;
  readonly #device: EngineDevice;
  readonly #words: DeviceWords;
  readonly #events: QueueEvents;
  readonly #requests: PromisedRequests;
  readonly #guest: GuestSide | undefined;
  /** What callbacks have thrown. */
  readonly #failures: Error[] = [];
  readonly #regions = new Map<bigint, GuestRegion>();
  /** Removals of regions that wait: all queues are paused meanwhile. */
  #removals = 0;
  /** Queues that are being detached. */
  readonly #leaving = new Set<number>();
  #waiters: { readonly isDone: () => boolean; readonly wake: () => void }[] = [];
  #held = 0;
  #closing: Promise<void> | undefined;

  /**
   * Over a device that has moved to its memory with `virtqueues`, and has no other device yet.
   * @param guest when its memory is not the engine's, or somebody watches what is written there
   */
  constructor(device: EngineDevice, events: QueueEvents, guest?: GuestSide) {
    this.count = device.engine.queues;
    if (this.count === 0) throw queueError('use', 'virtqueues', 'the disk has moved without any');
    if (device.afterPump !== undefined) throw queueError('use', 'virtqueues', 'they are in use');
    this.#device = device;
    this.#words = new DeviceWords(device);
    this.#events = events;
    this.#requests = new PromisedRequests(device);
    this.#guest = guest;
    if (guest?.copyIn !== undefined) {
      device.beforePump = () => this.#withGuest(() => guest.copyIn?.());
    }
    device.afterPump = () => this.#afterPump();
  }

  /** Buffers are taken (DRIVER_OK). Turning it on looks at every queue. */
  get running(): boolean {
    return this.#device.running;
  }

  set running(on: boolean) {
    this.#device.running = toSwitch(on, 'running') && this.#closing === undefined;
    if (!on) return;
    for (let queue = 0; queue < this.count; queue++) this.#mark(queue);
    this.#device.kick();
  }

  get wce(): boolean {
    return this.#device.engine.wce;
  }

  /** Says what was negotiated and how chains are judged that are taken from now on. */
  configure(settings: DeviceSettings): void {
    storeSettings(this.#words, settings);
  }

  /**
   * Shows the engine a part of guest memory.
   * @throws SluiceError ERR_SLUICE_VIRTQUEUE when it does not fit in
   */
  addRegion(region: GuestRegion): void {
    const { guestAddress, sizeBytes, address } = toRegion(region);
    const { exports, base, memory } = this.#device.engine;
    const why = misplaced(memory, address, sizeBytes);
    if (why !== undefined) throw queueError('add', `guest memory ${regionName(region)}`, why);
    const [low, high] = halves(guestAddress);
    const sizeHigh = Math.floor(sizeBytes / HIGH_WORD);
    const code = exports.mapGuest(base, low, high, sizeBytes >>> 0, sizeHigh, address) >>> 0;
    if (code !== 0) throw queueError('add', `guest memory ${regionName(region)}`, regionText(code));
    this.#regions.set(guestAddress, { guestAddress, sizeBytes, address });
  }

  /**
   * Takes a part of guest memory away. All queues pause until nothing is in flight, then go on.
   * @throws SluiceError ERR_SLUICE_VIRTQUEUE when an attached ring lies in it; it stays then
   */
  async removeRegion(guestAddress: bigint): Promise<void> {
    this.#removals += 1;
    this.#pauseOrGoOn();
    try {
      await this.#until(() => this.inFlight() === 0);
      const { exports, base } = this.#device.engine;
      const code = exports.unmapGuest(base, ...halves(guestAddress)) >>> 0;
      if (code !== 0) throw queueError('remove', `region ${hex(guestAddress)}`, regionText(code));
      this.#regions.delete(guestAddress);
    } finally {
      this.#removals -= 1;
      this.#pauseOrGoOn();
      this.#device.kick();
    }
  }

  /**
   * Switches a queue on with the ring that the driver has set up; the numbers may change at will
   * after that. What is available in it is taken at once when the device runs.
   * @throws SluiceError ERR_SLUICE_VIRTQUEUE: which queue, what was asked, what to do
   */
  attach(queue: number, config: QueueConfig): void {
    const at = this.#queueAt(queue);
    const words = toConfig(config);
    const state = this.state(queue);
    if (this.#closing !== undefined) throw queueError('attach', `queue ${queue}`, 'it is closed');
    if (state === 'off') for (const [offset, word] of words) this.#words.store(at + offset, word);
    const { exports, base } = this.#device.engine;
    const code = exports.attachQueue(base, queue) >>> 0;
    if (code !== 0) {
      const why = attachText(code, config, state, this.#regions.values());
      throw queueError('attach', `queue ${queue}`, why);
    }
    this.#guest?.attached?.(queue);
    this.#pauseOrGoOn();
    this.#mark(queue);
    this.#device.kick();
  }

  /** Why `attach` would refuse a ring; undefined: it would not. Changes nothing. */
  ringFault(config: QueueConfig): string | undefined {
    const code = ringFault(config, [...this.#regions.values()]);
    return code === 0 ? undefined : attachText(code, config, 'off', this.#regions.values());
  }

  /**
   * The driver has made buffers available in a queue: takes them. The number may come straight
   * from the guest; one of no queue means nothing, nor does a queue that is off.
   */
  notify(queue: number): void {
    if (queue >>> 0 !== queue || queue >= this.count) return;
    this.#mark(queue);
    this.#device.kick();
  }

  /** Runs the engine without a notification. */
  poll(): void {
    this.#device.kick();
  }

  /**
   * Switches a queue off when what is in flight of it has been returned; nothing more is taken.
   * Resolves with the place to go on from. Waits for `resume` when a request was stopped.
   * @throws SluiceError ERR_SLUICE_VIRTQUEUE when it is not attached, or was reset meanwhile
   */
  async detach(queue: number): Promise<RingPosition> {
    const at = this.#queueAt(queue);
    if (this.state(queue) === 'off') {
      throw queueError('detach', `queue ${queue}`, 'it is not attached');
    }
    this.#leaving.add(queue);
    this.#pauseOrGoOn();
    await this.#until(() => this.inFlight(queue) === 0);
    this.#leaving.delete(queue);
    const state = this.state(queue);
    if (state !== 'paused' && state !== 'broken') {
      throw queueError('detach', `queue ${queue}`, 'it was reset or detached meanwhile');
    }
    this.#switchOff(queue);
    const nextAvail = this.#words.load(at + abi.QUEUE_NEXT_AVAIL);
    return { nextAvail, nextUsed: this.#words.load(at + abi.QUEUE_NEXT_USED) };
  }

  /**
   * Kills a queue: no used entry, no interrupt, no access to the ring after this call (V1).
   * Resolves when nothing of it is in flight any more, and it is off: at once, unless the host has
   * data of it in its hands.
   */
  async reset(queue: number): Promise<void> {
    const at = this.#queueAt(queue);
    if (this.state(queue) === 'off') return;
    const { exports, base } = this.#device.engine;
    exports.setQueueState(base, queue, abi.QUEUE_DEAD);
    this.#held = this.#words.load(abi.DEVICE_HELD);
    for (const set of EVENT_SETS) this.#words.put(set, queue, false);
    const isEmpty = (): boolean => this.#words.load(at + abi.QUEUE_IN_FLIGHT) === 0;
    const ended = isEmpty()
      ? undefined
      : this.#ask({ op: OP_RESET_QUEUE, operation: 'reset queue', queue: queue + 1 });
    if (isEmpty()) this.#switchOff(queue);
    await ended;
    if (this.state(queue) !== 'dead') return;
    await this.#until(() => this.state(queue) !== 'dead' || isEmpty());
    if (this.state(queue) === 'dead') this.#switchOff(queue);
  }

  /** Says what the guest wants, for whoever changes the write cache next. */
  wishWce(on: boolean): void {
    this.#device.wishCache('guest', on);
  }

  /**
   * Turns the write cache on or off for the guest; off resolves after a flush, but counts at once.
   * It stays off while the disk's owner has it off.
   */
  async setWce(on: boolean): Promise<void> {
    this.wishWce(toSwitch(on, 'the write cache'));
    await this.#ask({ op: OP_SET_WCE, length: Number(on), operation: 'set write cache' });
  }

  /** Sends again what an error policy has stopped, and takes chains again. */
  resume(): void {
    const { exports, base } = this.#device.engine;
    exports.resumeDevice(base);
    this.#held = 0;
    this.#device.kick();
  }

  /** Requests that an error policy has stopped. */
  get held(): number {
    return this.#words.load(abi.DEVICE_HELD);
  }

  /** Chains that were taken and not returned: of a queue, or of all. */
  inFlight(queue?: number): number {
    if (queue === undefined) return this.#words.load(abi.DEVICE_IN_FLIGHT);
    return this.#words.load(this.#queueAt(queue) + abi.QUEUE_IN_FLIGHT);
  }

  state(queue: number): QueueState {
    return stateName(this.#words.load(this.#queueAt(queue) + abi.QUEUE_STATE));
  }

  /** Resets all queues and leaves the disk to others. Requests that were stopped end, too. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** Lets go of the device at once. No queue was ever attached. */
  abandon(): void {
    this.#closing ??= Promise.resolve();
    this.#device.beforePump = undefined;
    this.#device.afterPump = undefined;
  }

  async #close(): Promise<void> {
    this.#device.running = false;
    await Promise.all(Array.from({ length: this.count }, (_, queue) => this.reset(queue)));
    // The guest has no say any more.
    if (this.#device.wishCache('guest', true)) await this.setWce(true);
    await this.#requests.drained();
    this.abandon();
    for (const { wake } of this.#waiters.splice(0)) wake();
  }

  /** Looks at what the last pump has left (V2, V3). */
  #afterPump(): void {
    this.#withGuest(() => this.#guest?.land());
    this.#words.take(abi.DEVICE_INTERRUPTS, this.count, (queue) =>
      this.#call(() => this.#events.onInterrupt(queue)),
    );
    this.#words.take(abi.DEVICE_BROKEN, this.count, (queue) =>
      this.#call(() => this.#events.onBroken(faultOf(this.#words, queue))),
    );
    const held = this.#words.load(abi.DEVICE_HELD);
    const isStopped = held > this.#held;
    this.#held = held;
    if (isStopped) this.#call(() => this.#events.onHeld(heldRequest(this.#words)));
    if (this.#waiters.length > 0) this.#wakeWaiters();
    if (this.#hasMore()) this.#device.kickSoon();
    const [failure] = this.#failures.splice(0);
    if (failure !== undefined) throw failure;
  }

  #call(callback: () => void): void {
    try {
      callback();
    } catch (error) {
      this.#failures.push(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Copies; a guest that cannot be reached any more gets nothing, and its owner is told. */
  #withGuest(copy: () => void): void {
    try {
      copy();
    } catch (error) {
      this.#device.running = false;
      this.#call(() => this.#events.onFailure(error));
    }
  }

  /** A guest that adds chains as fast as they are taken: the others have their turn first. */
  #hasMore(): boolean {
    const isRunning = (this.#words.load(abi.DEVICE_FLAGS) & abi.DEVICE_RUNNING) !== 0;
    if (!isRunning || this.#held > 0 || this.inFlight() > 0) return false;
    for (let queue = 0; queue < this.count; queue++) {
      if (this.#words.has(abi.DEVICE_KICKED, queue) && this.state(queue) === 'on') return true;
    }
    return false;
  }

  #wakeWaiters(): void {
    const waiters = this.#waiters;
    this.#waiters = waiters.filter(({ isDone }) => !isDone());
    for (const waiter of waiters) if (!this.#waiters.includes(waiter)) waiter.wake();
  }

  /** Resolves when something is so after a pump, or when the device is closed. */
  async #until(isDone: () => boolean): Promise<void> {
    if (isDone()) return;
    await new Promise<void>((wake) => this.#waiters.push({ isDone, wake }));
  }

  /** Pauses the queues that are to be, and lets the others go on. */
  #pauseOrGoOn(): void {
    const { exports, base } = this.#device.engine;
    for (let queue = 0; queue < this.count; queue++) {
      const isToPause = this.#removals > 0 || this.#leaving.has(queue);
      const state = this.state(queue);
      if (isToPause && state === 'on') exports.setQueueState(base, queue, abi.QUEUE_PAUSED);
      else if (!isToPause && state === 'paused') {
        exports.setQueueState(base, queue, abi.QUEUE_ON);
        this.#mark(queue);
      }
    }
  }

  #switchOff(queue: number): void {
    const { exports, base } = this.#device.engine;
    const code = exports.detachQueue(base, queue) >>> 0;
    if (code !== 0) throw new Error(`the engine does not let queue ${queue} go: ${code}`);
  }

  /** Asks at once: the next chain is taken after it. */
  #ask(ask: Omit<Ask, 'flags' | 'offset' | 'length'> & { length?: number }): Promise<void> {
    const answer = this.#requests.request({ ...NOTHING, ...ask }, () => undefined);
    this.#device.kick();
    return answer;
  }

  #queueAt(queue: number): number {
    toWhole(queue, 'queue', 0, this.count - 1);
    return queueWords(queue);
  }

  /** Has the next pump look at a queue. */
  #mark(queue: number): void {
    this.#words.put(abi.DEVICE_KICKED, queue, true);
  }
}
