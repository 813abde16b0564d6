/**
 * What the driver's side of a virtqueue can do, whichever ring it is: the interface of SplitDriver
 * (split.ts) and PackedDriver (packed.ts), and what both are made from.
 *
 *   add ... add ─▶ publish ─▶ [notify the device] ... [interrupt] ─▶ takeUsed ... takeUsed
 */
import { SluiceError } from '../../errors.ts';
import type { GuestMemory, GuestPlace } from './memory.ts';

/** One buffer of a chain. */
export interface Descriptor {
  /** A guest address (bigint), mapped or not; or a place in the guest's memory (number). */
  readonly address: GuestPlace;
  /** Bytes. */
  readonly length: number;
  /** The device writes it; else it reads it. */
  readonly writable: boolean;
}

/** What was negotiated; default: nothing. */
export interface RingFeatures {
  /** VIRTIO_F_INDIRECT_DESC. Does not keep anybody from adding an indirect chain. */
  readonly indirect?: boolean;
  /** VIRTIO_F_EVENT_IDX. */
  readonly eventIdx?: boolean;
  /** VIRTIO_F_IN_ORDER. */
  readonly inOrder?: boolean;
  /** VIRTIO_F_NOTIFICATION_DATA. */
  readonly notificationData?: boolean;
}

/** Where a ring begins: split, two indices; packed, offset and wrap counter (bit 15). */
export interface GuestRingPosition {
  readonly nextAvail: number;
  readonly nextUsed: number;
}

/** How a driver's queue is made. */
export interface DriverQueueOptions {
  readonly memory: GuestMemory;
  /** Entries. Split: a power of two. At most 32768. */
  readonly size: number;
  readonly features?: RingFeatures;
  /** Where both sides begin; default: a new queue. Split: an index; packed: as nextAvail. */
  readonly position?: number;
  /** Split: the legacy layout, its used ring aligned to this (VIRTIO 1.3, 2.7.2); e.g. 4096. */
  readonly legacyAlign?: number;
}

/** What a device must know of a queue to serve it; VirtQueues.attach takes it as it is. */
export interface DriverQueueConfig {
  readonly size: number;
  readonly desc: bigint;
  readonly driver: bigint;
  readonly device: bigint;
  readonly packed: boolean;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  readonly inOrder: boolean;
  readonly position: GuestRingPosition;
}

/** A chain that has come back. */
export interface UsedBuffer {
  /** What `add` returned. */
  readonly token: number;
  /** Bytes that the device says to have written. All writable ones when IN_ORDER skipped it. */
  readonly length: number;
  /** False: no chain with this token is in flight. A fault of the device, or of what was poked. */
  readonly known: boolean;
}

/** The driver's side of a virtqueue. */
export interface DriverQueue {
  readonly memory: GuestMemory;
  readonly size: number;
  readonly packed: boolean;
  readonly features: RingFeatures;
  /** Guest addresses: descriptor table or ring; driver area; device area. */
  readonly desc: bigint;
  readonly driver: bigint;
  readonly device: bigint;
  /** Descriptors of the ring that are free. */
  readonly free: number;
  /** Chains added and not taken back. */
  readonly inFlight: number;

  /**
   * Puts a chain into the ring; the device sees it after `publish`.
   * @param indirectFrom descriptors from this one on stand in an indirect table: 0 all of them.
   * Split rings may have direct ones before it (VIRTIO 1.3, 2.7.5.3.2), packed ones may not.
   * @returns the token that it comes back with: its head (split) or buffer id (packed)
   * @throws SluiceError `ERR_SLUICE_OUT_OF_RANGE` when the ring has no room for it
   */
  add(chain: readonly Descriptor[], indirectFrom?: number): number;

  /** Shows the device what was added, all at once. @returns whether it must be notified */
  publish(): boolean;

  /** The next chain that the device has used. */
  takeUsed(): UsedBuffer | undefined;

  /**
   * Asks for interrupts, or for none. With EVENT_IDX it asks for one, for the next used buffer, and
   * each `takeUsed` asks anew.
   * @returns whether used buffers are there already: no interrupt need come for them
   */
  setInterrupts(on: boolean): boolean;

  /**
   * Asks for one interrupt when so many more entries (packed: descriptors) are used. Without
   * EVENT_IDX it is `setInterrupts(true)`.
   */
  interruptAfter(count: number): boolean;

  /**
   * What the driver writes to notify this queue: its index, and with NOTIFICATION_DATA the position
   * of the next available entry above it (VIRTIO 1.3, 4.1.5.2).
   */
  notification(queue: number): number;

  /** What the device needs to know, from the position at which the queue was made. */
  config(): DriverQueueConfig;
}

/** What a device needs to know of a queue that was made at `start`. */
export function configOf(queue: DriverQueue, start: number): DriverQueueConfig {
  const { size, desc, driver, device, packed, features } = queue;
  const { indirect = false, eventIdx = false, inOrder = false } = features;
  const position = { nextAvail: start, nextUsed: start };
  return { size, desc, driver, device, packed, indirect, eventIdx, inOrder, position };
}

/** VIRTIO 1.3, 2.7.10: whether `event` is among the indices from `old` to `next - 1`. */
export function needsEvent(event: number, next: number, old: number, cycle = 0x1_0000): boolean {
  return modulo(event - old, cycle) < modulo(next - old, cycle);
}

/** The remainder that is never negative. */
export function modulo(value: number, cycle: number): number {
  return ((value % cycle) + cycle) % cycle;
}

/** A chain that has no place in the ring. */
export function noRoom(free: number, needed: number): SluiceError {
  return new SluiceError(
    'ERR_SLUICE_OUT_OF_RANGE',
    `the ring has ${free} free descriptors, the chain needs ${needed}; take used buffers first`,
  );
}
