// Stands in for VirtQueues: notes what it is told, and completes what the test says, when it says.

import type { VirtioBlkEvents } from '../../src/virtio/virtio-blk-types.ts';
import type { ConfigValues } from '../../src/virtio/config-space.ts';
import { type FeatureSwitches, offeredFeatures } from '../../src/virtio/features.ts';
import type { RawQueues } from '../../src/virtio/raw-queues.ts';
import { VirtioBlk } from '../../src/virtio/virtio-blk.ts';
import type {
  DeviceSettings,
  QueueConfig,
  QueueEvents,
  QueueState,
  RingPosition,
} from '../../src/virtio/virtqueue-types.ts';
import { SluiceError } from '../../src/errors.ts';

export class FakeQueues implements RawQueues {
  held = 0;
  readonly sharesBuffers = false;
  readonly count: number;
  readonly events: QueueEvents;
  /** What was called, in words. */
  readonly log: string[] = [];
  readonly configs: QueueConfig[] = [];
  settings: DeviceSettings | undefined;
  /** Chains in flight; 'dead' queues wait for `complete`. */
  readonly open: number[];
  /** Changes of the write cache wait for `cacheDone`. */
  slowCache = false;
  cacheError: Error | undefined;
  refuses: string | undefined;
  /** What is said of every ring. */
  fault: string | undefined;
  position: RingPosition = { nextAvail: 7, nextUsed: 7 };

  readonly #states: QueueState[];
  #wce = true;
  #running = false;
  readonly #waiters: (() => void)[] = [];
  readonly #cacheWaiters: (() => void)[] = [];

  constructor(count: number, events: QueueEvents) {
    this.count = count;
    this.events = events;
    this.open = Array.from({ length: count }, () => 0);
    this.#states = Array.from({ length: count }, () => 'off');
  }

  get running(): boolean {
    return this.#running;
  }

  set running(on: boolean) {
    this.#running = on;
    this.log.push(on ? 'run' : 'stop');
  }

  get wce(): boolean {
    return this.#wce;
  }

  configure(settings: DeviceSettings): void {
    this.settings = settings;
  }

  attach(queue: number, config: QueueConfig): void {
    if (this.refuses !== undefined) throw new SluiceError('ERR_SLUICE_VIRTQUEUE', this.refuses);
    if (this.#states[queue] !== 'off') throw new Error(`queue ${queue} is attached twice`);
    this.#states[queue] = 'on';
    this.configs[queue] = config;
    this.log.push(`attach ${queue}`);
  }

  ringFault(): string | undefined {
    return this.fault;
  }

  notify(queue: number): void {
    this.log.push(`notify ${queue}`);
  }

  async detach(queue: number): Promise<RingPosition> {
    this.#states[queue] = 'paused';
    this.log.push(`detach ${queue}`);
    await this.#idle(queue);
    this.#states[queue] = 'off';
    return this.position;
  }

  async reset(queue: number): Promise<void> {
    this.log.push(`reset ${queue}`);
    this.#states[queue] = 'dead';
    if (this.open[queue] !== 0) await this.#idle(queue);
    this.#states[queue] = 'off';
  }

  /** Only an engine with several users has to know. */
  wishWce(): void {}

  async setWce(on: boolean): Promise<void> {
    this.log.push(`wce ${on ? 'on' : 'off'}`);
    if (this.slowCache) await new Promise<void>((resolve) => this.#cacheWaiters.push(resolve));
    this.#wce = on;
    if (this.cacheError !== undefined) throw this.cacheError;
  }

  resume(): void {
    this.log.push('resume');
  }

  inFlight(queue = 0): number {
    return this.open[queue] ?? 0;
  }

  state(queue: number): QueueState {
    return this.#states[queue] ?? 'off';
  }

  poll(): void {
    this.log.push('poll');
  }

  addRegion(): void {
    this.log.push('add region');
  }

  async removeRegion(): Promise<void> {
    this.log.push('remove region');
  }

  async close(): Promise<void> {
    this.log.push('close');
  }

  /** Everything in flight completes. */
  async complete(): Promise<void> {
    this.open.fill(0);
    for (const wake of this.#waiters.splice(0)) wake();
    await turn();
  }

  /** The change of the write cache that is on its way is done. */
  async cacheDone(): Promise<void> {
    for (const wake of this.#cacheWaiters.splice(0)) wake();
    await turn();
  }

  /** What was called since the last time. */
  taken(): string[] {
    return this.log.splice(0);
  }

  async #idle(queue: number): Promise<void> {
    while (this.open[queue] !== 0) {
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
  }
}

export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export interface FakeOptions {
  queues?: number;
  legacy?: boolean;
  barriers?: boolean;
  readOnly?: boolean;
  wce?: boolean;
  features?: FeatureSwitches;
  values?: Partial<ConfigValues>;
  serial?: string;
}

export const VALUES: ConfigValues = {
  capacityBytes: 1 << 20,
  mayUnmap: true,
  blockSizeBytes: 512,
  physicalBlockBytes: 4096,
  queues: 1,
  queueSizeMax: 256,
  segMax: 254,
  sizeMaxBytes: 0,
  discardSectors: 1 << 20,
  discardSegments: 64,
  zeroesSectors: 1 << 20,
  zeroesSegments: 64,
};

/** A device over fake queues, with everything that it tells its owner. */
export function setUp(options: FakeOptions = {}) {
  const { queues = 1, legacy = false, barriers = false, readOnly = false, wce = true } = options;
  const values = { ...VALUES, queues, ...options.values };
  const told: string[] = [];
  const errors: Error[] = [];
  const events: VirtioBlkEvents = {
    onInterrupt: (kind, queue) => told.push(`${kind} ${queue}`),
    onInterruptLine: (level) => told.push(level ? 'up' : 'down'),
    onError: (error) => errors.push(error),
    onStopped: ({ offset }) => told.push(`stopped at ${offset}`),
  };
  const id = new TextEncoder().encode(options.serial);
  const context = { readOnly, legacy, barriers, queues, sizeMax: values.sizeMaxBytes > 0 };
  let fake: FakeQueues | undefined;
  const blk = new VirtioBlk({
    makeQueues: (events) => (fake = new FakeQueues(queues, events)),
    values,
    offered: offeredFeatures(options.features ?? {}, context),
    legacy,
    wce,
    settings: { id, readError: 'report', writeError: 'report' },
    events,
  });
  return { blk, fake: fake!, told, errors };
}

/** Status bytes of a driver's life. VIRTIO 1.3, 3.1.1. */
export const ACKNOWLEDGE = 1;
export const DRIVER = 3;
export const FEATURES_OK = 11;
export const DRIVER_OK = 15;
export const LEGACY_DRIVER_OK = 7;
export const NEEDS_RESET = 64;

/** The driver accepts these bits. */
export function accept(blk: VirtioBlk, features: bigint): void {
  blk.writeDriverFeatures(0, Number(BigInt.asUintN(32, features)));
  blk.writeDriverFeatures(1, Number(BigInt.asUintN(32, features >> 32n)));
}

/** Places and enables a queue. */
export function enable(blk: VirtioBlk, queue = 0, size = 128): void {
  const { registers } = blk;
  registers.setSize(queue, size);
  registers.setAddress(queue, 'desc', 0x1000n);
  registers.setAddress(queue, 'driver', 0x2000n);
  registers.setAddress(queue, 'device', 0x3000n);
  registers.enable(queue);
}

/** A modern driver from reset to DRIVER_OK. */
export function drive(blk: VirtioBlk, features = blk.features.offered): void {
  blk.writeStatus(ACKNOWLEDGE);
  blk.writeStatus(DRIVER);
  accept(blk, features);
  blk.writeStatus(FEATURES_OK);
  for (let queue = 0; queue < blk.registers.count; queue++) enable(blk, queue);
  blk.writeStatus(DRIVER_OK);
}

/** One byte of the configuration space. */
export function configByte(blk: VirtioBlk, offset: number): number {
  const into = new Uint8Array(1);
  blk.readConfig(offset, into);
  return into[0]!;
}
