/**
 * One ring of a vhost-user device.
 *
 *     size, addresses, base ─▶ kick set and enabled ─▶ attached ─ GET_VRING_BASE, disabled ─▶ left
 *
 * G1  A ring is attached as soon as it may run. What is in it is looked at then: the front-end may
 *     have rung before anybody listened.
 * G2  A split ring goes on where `used` says that it is, with the front-end's base as the next
 *     available entry, or behind what the record of the last process has.
 * G3  Whoever leaves a ring waits for what is in flight of it; the driver sees it used.
 */
import {
  QUEUE_SIZE_MAX,
  USED_IDX,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
} from '../abi/virtio-ring.ts';
import { hasFeature } from '../virtio/features.ts';
import type { RawQueues } from '../virtio/raw-queues.ts';
import type { RingPosition } from '../virtio/virtqueue-types.ts';
import type { Call, Kick } from './doorbells.ts';
import type { Inflight } from './inflight.ts';
import { broken } from './protocol.ts';

/** Where the parts of a ring lie: addresses of the guest. */
export interface RingAddresses {
  readonly desc: bigint;
  readonly driver: bigint;
  readonly device: bigint;
}

/** What a ring needs of its session. */
export interface RingOwner {
  readonly queues: RawQueues;
  /** What was negotiated. */
  readonly features: bigint;
  readonly inflight: Inflight | undefined;
  /** Bytes of the guest's memory. @throws SluiceError where they are in no region */
  view(guestAddress: bigint, length: number): DataView;
}

const INDEX_MASK = 0xffff;
const AVAIL_BITS = 16;
/** VIRTIO 1.3, 2.7.5 and 2.8.13: of split and of packed rings. */
const DESCRIPTOR_BYTES = 16;

export class VhostRing {
  size = 0;
  /** As the front-end said them: its own addresses. */
  userAddresses: RingAddresses | undefined;
  /** As in SET_VRING_BASE. */
  base = 0;
  enabled = false;
  call: Call | undefined;
  error: Call | undefined;
  /** Kicks are to come in a descriptor, or the ring is polled for ever (VRING_NOFD). */
  hasKick = false;
  #kick: Kick | undefined;
  /** Where its descriptors are, while it is attached. */
  #desc: bigint | undefined;
  readonly #index: number;
  readonly #owner: RingOwner;

  constructor(index: number, owner: RingOwner) {
    this.#index = index;
    this.#owner = owner;
  }

  get isAttached(): boolean {
    return this.#desc !== undefined;
  }

  /** May run, and does not yet. */
  get isReady(): boolean {
    return this.hasKick && this.enabled && !this.isAttached && this.userAddresses !== undefined;
  }

  /** Attached, and something was once put into it: its descriptors are not all zeroes. */
  get hasContents(): boolean {
    if (this.#desc === undefined) return false;
    const { buffer, byteOffset, byteLength } = this.#owner.view(
      this.#desc,
      this.size * DESCRIPTOR_BYTES,
    );
    return new Uint8Array(buffer, byteOffset, byteLength).some((byte) => byte !== 0);
  }

  set kick(kick: Kick | undefined) {
    this.#kick?.close();
    this.#kick = kick;
  }

  /** G1, G2. */
  attach(addresses: RingAddresses): void {
    const { queues, features, inflight } = this.#owner;
    const packed = hasFeature(features, VIRTIO_F_RING_PACKED);
    if (!isRingSize(this.size, packed)) throw broken(`a ring of ${this.size} entries`);
    const usedIndex = packed ? 0 : this.#usedIndexAt(addresses.device);
    const record = packed ? undefined : inflight?.begin(this.#index, this.size, usedIndex);
    const nextAvail = record ? (usedIndex + record.resubmits) & INDEX_MASK : this.base;
    queues.attach(this.#index, {
      ...addresses,
      size: this.size,
      packed,
      indirect: hasFeature(features, VIRTIO_F_INDIRECT_DESC),
      eventIdx: hasFeature(features, VIRTIO_F_EVENT_IDX),
      inOrder: false,
      position: packed ? packedPosition(this.base) : { nextAvail, nextUsed: usedIndex },
      inflight: record,
    });
    this.#desc = addresses.desc;
    // The last process may have been killed between a used entry and its interrupt.
    this.call?.ring();
  }

  #usedIndexAt(device: bigint): number {
    return this.#owner.view(device, USED_IDX + 2).getUint16(USED_IDX, true);
  }

  /** G3. */
  async leave(): Promise<void> {
    if (!this.isAttached) return;
    const position = await this.#owner.queues.detach(this.#index);
    this.#desc = undefined;
    const isPacked = hasFeature(this.#owner.features, VIRTIO_F_RING_PACKED);
    this.base = isPacked ? packedBase(position) : position.nextAvail;
  }

  /** Without waiting: it is dead at once, and what is in flight is not returned. */
  async kill(): Promise<void> {
    this.#desc = undefined;
    await this.#owner.queues.reset(this.#index);
  }

  /** The front-end's descriptors are not needed any more. */
  close(): void {
    this.kick = undefined;
    this.hasKick = false;
    this.call?.close();
    this.call = undefined;
    this.error?.close();
    this.error = undefined;
  }
}

/** So much is checked before anything of the ring is read; the engine checks the rest. */
function isRingSize(size: number, packed: boolean): boolean {
  return size > 0 && size <= QUEUE_SIZE_MAX && (packed || Number.isInteger(Math.log2(size)));
}

function packedPosition(base: number): RingPosition {
  // Without the used half, as in older front-ends, nothing is in flight.
  const nextAvail = base & INDEX_MASK;
  const nextUsed = base >>> AVAIL_BITS;
  return { nextAvail, nextUsed: nextUsed === 0 ? nextAvail : nextUsed };
}

function packedBase({ nextAvail, nextUsed }: RingPosition): number {
  return ((nextUsed << AVAIL_BITS) | nextAvail) >>> 0;
}
