/**
 * What a transport shows of the queues: size, addresses, enabled or not. VIRTIO 1.3, 2.6, 4.1.4.3,
 * 4.2.2.
 *
 *     off ── enable ──▶ on ── reset ──▶ stopping ── nothing is in flight ──▶ off, as at first
 *
 * N1  Size and addresses are latched when a queue is enabled: writes have no effect until it is off
 *     again.
 * N2  A queue is attached to its ring when it is on and the driver has said DRIVER_OK, whichever
 *     comes last.
 * N3  A queue that is being stopped reads as enabled until the device has done with its memory.
 *     With nothing in flight that is at once, before the call returns.
 */
import { SluiceError } from '../errors.ts';
import { ringFlags } from './negotiation.ts';
import { busy } from './faults.ts';
import type { RawQueues } from './raw-queues.ts';
import type { RingPosition } from './virtqueue-types.ts';

/** The three areas of a queue, by their modern names. */
export type QueueArea = 'desc' | 'driver' | 'device';

/** What the registers of a queue hold. */
export interface QueueSettings {
  readonly size: number;
  readonly desc: bigint;
  readonly driver: bigint;
  readonly device: bigint;
  readonly enabled: boolean;
}

/** A queue at rest. */
export interface QueueSnapshot extends QueueSettings {
  /** The ring has a fault, or could never be attached: it is not attached again. */
  readonly broken: boolean;
  /** Where an attached ring was left, and goes on. */
  readonly position: RingPosition | undefined;
}

/** The device that the queues belong to. */
export interface QueueOwner {
  /** False while writes are ignored: during a reset, and after the end. */
  accepts(): boolean;
  /** What was negotiated, from DRIVER_OK to the next reset. */
  live(): bigint | undefined;
  /** A queue cannot be used as the driver wants it: the device needs a reset. */
  failed(error: unknown): void;
}

interface Queue {
  size: number;
  desc: bigint;
  driver: bigint;
  device: bigint;
  state: 'off' | 'on' | 'stopping';
  attached: boolean;
  /** The ring has a fault: it is not attached again. */
  broken: boolean;
  /** Where an attached ring was left, or where a restored one goes on. */
  position: RingPosition | undefined;
  stopped: Promise<void> | undefined;
}

const ADDRESS_BITS = 64;

/** What a driver has said about each queue, and the queues as they were switched on. */
export class QueueRegisters {
  /** Number of queues. */
  readonly count: number;
  /** Largest size that a driver can choose. */
  readonly sizeMax: number;
  readonly #raw: RawQueues;
  readonly #owner: QueueOwner;
  readonly #queues: Queue[];

  constructor(raw: RawQueues, sizeMax: number, owner: QueueOwner) {
    this.#raw = raw;
    this.count = raw.count;
    this.sizeMax = sizeMax;
    this.#owner = owner;
    this.#queues = Array.from({ length: raw.count }, () => freshQueue(sizeMax));
  }

  /** Largest size of a queue; 0: there is no such queue. */
  sizeMaxOf(queue: number): number {
    return this.#queues[queue] === undefined ? 0 : this.sizeMax;
  }

  /** The registers of a queue, undefined when there is no such queue. */
  settings(queue: number): QueueSettings | undefined {
    const found = this.#queues[queue];
    if (found === undefined) return undefined;
    const { size, desc, driver, device } = found;
    return { size, desc, driver, device, enabled: found.state !== 'off' };
  }

  /** Whether a queue is enabled, or not yet stopped (N3). */
  isEnabled(queue: number): boolean {
    return (this.#queues[queue]?.state ?? 'off') !== 'off';
  }

  /** Whether a queue is being stopped (N3). */
  isStopping(queue: number): boolean {
    return this.#queues[queue]?.state === 'stopping';
  }

  /** Whether kicks of a queue mean something. */
  isAttached(queue: number): boolean {
    return this.#queues[queue]?.attached === true;
  }

  /** Chooses a size; no effect once the queue is enabled (N1). */
  setSize(queue: number, size: number): void {
    const found = this.#writable(queue);
    if (found !== undefined) found.size = size;
  }

  /** Places an area in guest memory; no effect once the queue is enabled (N1). */
  setAddress(queue: number, area: QueueArea, address: bigint): void {
    const found = this.#writable(queue);
    if (found !== undefined) found[area] = BigInt.asUintN(ADDRESS_BITS, address);
  }

  /** Latches the registers of a queue (N1), and attaches it if the device runs (N2). */
  enable(queue: number): void {
    const found = this.#writable(queue);
    if (found === undefined) return;
    if (!(found.size >= 1 && found.size <= this.sizeMax)) {
      return this.#owner.failed(sizeError(queue, found.size, this.sizeMax));
    }
    found.state = 'on';
    if (this.#owner.live() !== undefined) this.attach();
  }

  /**
   * Stops a queue and gives it its first registers back. It is dead at once: no used entry and no
   * interrupt from here on.
   */
  stop(queue: number): void {
    if (this.#owner.accepts()) void this.#stop(queue);
  }

  /** Stops all. A promise when memory of the guest may still be written until it resolves. */
  stopAll(): Promise<void> | undefined {
    const open = this.#queues.flatMap((_, queue) => this.#stop(queue) ?? []);
    return open.length === 0 ? undefined : Promise.all(open).then(() => undefined);
  }

  /** Attaches every enabled queue that is not (N2); what cannot be is the driver's fault. */
  attach(): void {
    this.#queues.forEach((_, queue) => {
      try {
        this.#attach(queue);
      } catch (error) {
        this.markBroken(queue);
        this.#owner.failed(error);
      }
    });
  }

  /** The ring of a queue has a fault. */
  markBroken(queue: number): void {
    const found = this.#queues[queue];
    if (found !== undefined) found.broken = true;
  }

  /** Waits until what is in flight is returned, and detaches all; `attach` goes on from there. */
  async park(): Promise<void> {
    const parked = await Promise.allSettled(
      this.#queues.map(async (found, queue) => {
        if (found.state !== 'on' || !found.attached) return;
        found.position = await this.#raw.detach(queue);
        found.attached = false;
      }),
    );
    if (parked.some(({ status }) => status === 'rejected')) {
      throw busy('the driver has reset a queue meanwhile; try again');
    }
  }

  /** Everything of the parked queues. */
  snapshot(): QueueSnapshot[] {
    return this.#queues.map(({ size, desc, driver, device, state, broken, position }) => {
      return { size, desc, driver, device, enabled: state === 'on', broken, position };
    });
  }

  /** Queues as they were saved; those that were enabled are attached if the device runs. */
  restore(snapshots: readonly QueueSnapshot[]): void {
    snapshots.forEach(({ enabled, ...rest }, queue) => {
      const state = enabled ? 'on' : 'off';
      this.#queues[queue] = { ...freshQueue(this.sizeMax), ...rest, state };
    });
    this.attach();
  }

  #attach(queue: number): void {
    const found = this.#queues[queue];
    const features = this.#owner.live();
    if (found?.state !== 'on' || found.attached || found.broken || features === undefined) return;
    const { size, desc, driver, device, position } = found;
    const flags = ringFlags(features);
    found.attached = true;
    try {
      this.#raw.attach(queue, { size, desc, driver, device, ...flags, position });
    } catch (error) {
      found.attached = false;
      throw error;
    }
  }

  #writable(queue: number): Queue | undefined {
    const found = this.#queues[queue];
    return this.#owner.accepts() && found?.state === 'off' ? found : undefined;
  }

  #stop(queue: number): Promise<void> | undefined {
    const found = this.#queues[queue];
    if (found === undefined || found.state === 'stopping') return found?.stopped;
    if (!found.attached) return this.#off(queue, found);
    found.state = 'stopping';
    found.attached = false;
    const stopped = this.#raw
      .reset(queue)
      .catch((error: unknown) => this.#owner.failed(error))
      .then(() => this.#off(queue, found));
    if (this.#raw.state(queue) === 'off') return this.#off(queue, found);
    found.stopped = stopped;
    return stopped;
  }

  /** A new queue in the place of a stopped one, unless it has been replaced already. */
  #off(queue: number, found: Queue): undefined {
    if (this.#queues[queue] === found) this.#queues[queue] = freshQueue(this.sizeMax);
  }
}

function freshQueue(size: number): Queue {
  return {
    size,
    desc: 0n,
    driver: 0n,
    device: 0n,
    state: 'off',
    attached: false,
    broken: false,
    position: undefined,
    stopped: undefined,
  };
}

function sizeError(queue: number, size: number, sizeMax: number): SluiceError {
  return new SluiceError(
    'ERR_SLUICE_VIRTQUEUE',
    `queue ${queue} cannot have ${size} entries: the driver must choose from 1 to ${sizeMax}`,
  );
}
