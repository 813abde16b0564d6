/**
 * The driver's side of a packed virtqueue. VIRTIO 1.3, 2.8.
 *
 * A batch becomes visible at once: the flags of its first descriptor are written by `publish`, all
 * others before (2.8.21.1). A position is counted in laps of two: offset 0 to size - 1 while the
 * wrap counter is 1, size to 2 size - 1 while it is 0; so events compare as plain numbers.
 *
 * What a driver must not do is done with `poke*` and `offer`: they write what they are told.
 */
import {
  DESC_ALIGN,
  DESC_LENGTH,
  DESC_SIZE,
  EVENT_ALIGN,
  EVENT_SIZE,
  PACKED_DESC_FLAGS,
  PACKED_DESC_ID,
  QUEUE_SIZE_MAX,
  RING_EVENT_FLAGS_DESC,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  WRAP_BIT,
} from '../../abi/virtio-ring.ts';
import { invalid } from '../../arguments.ts';
import { Chains, FreeList } from './chains.ts';
import {
  configOf,
  type Descriptor,
  type DriverQueue,
  type DriverQueueConfig,
  type DriverQueueOptions,
  modulo,
  needsEvent,
  noRoom,
  type RingFeatures,
  type UsedBuffer,
} from './driver-queue.ts';
import type { GuestMemory } from './memory.ts';
import {
  availableFlags,
  pokePackedDescriptor,
  type PackedDescriptor,
  storePacked,
  usedFlags,
} from './packed-descriptor.ts';

const NONE = -1;

/** See the head of the file. */
export class PackedDriver implements DriverQueue {
  readonly packed = true;
  readonly memory: GuestMemory;
  readonly size: number;
  readonly features: RingFeatures;
  readonly desc: bigint;
  readonly driver: bigint;
  readonly device: bigint;

  readonly #ring: number;
  readonly #driverEvent: number;
  readonly #deviceEvent: number;
  readonly #start: number;
  readonly #ids: FreeList;
  readonly #chains: Chains;
  #freeDescriptors: number;
  /** Positions: the next descriptor to fill, the first unpublished one, the next used one. */
  #nextAvail: number;
  #published: number;
  #nextUsed: number;
  /** Flags of the first unpublished descriptor. */
  #heldFlags = 0;
  /** How long the lists were that `offer` has put in, by the ids in them. */
  readonly #offered = new Map<number, number>();
  /** With IN_ORDER, the used descriptor that answers several chains, and how far they reach. */
  #batchId = NONE;
  #batchLength = 0;
  #batchDescriptors = 0;
  /** `takeUsed` asks for the next interrupt. */
  #follow = true;

  constructor({ memory, size, features = {}, position = WRAP_BIT }: DriverQueueOptions) {
    if (!Number.isInteger(size) || size < 1 || size > QUEUE_SIZE_MAX) {
      throw invalid(`a packed queue has 1 to 32768 entries, not ${size}`);
    }
    if ((position & (WRAP_BIT - 1)) >= size) {
      throw invalid(`position 0x${position.toString(16)} is past the ring's ${size} entries`);
    }
    this.memory = memory;
    this.size = size;
    this.features = features;
    this.#ring = memory.allocate(size * DESC_SIZE, DESC_ALIGN);
    this.#driverEvent = memory.allocateCleared(EVENT_SIZE, EVENT_ALIGN);
    this.#deviceEvent = memory.allocateCleared(EVENT_SIZE, EVENT_ALIGN);
    this.desc = memory.addressOf(this.#ring);
    this.driver = memory.addressOf(this.#driverEvent);
    this.device = memory.addressOf(this.#deviceEvent);
    this.#start = position;
    this.#nextAvail = this.#published = this.#nextUsed = this.#lap(position);
    this.#freeDescriptors = size;
    this.#ids = new FreeList(size);
    this.#chains = new Chains(memory, size, features.inOrder === true);
    this.#clearRing();
    this.setInterrupts(true);
  }

  get free(): number {
    return this.#freeDescriptors;
  }

  get inFlight(): number {
    return this.#chains.count;
  }

  add(chain: readonly Descriptor[], indirectFrom: number = chain.length): number {
    const direct = Math.min(indirectFrom, chain.length);
    const entries = chain.length - direct;
    const needed = direct + (entries > 0 ? 1 : 0);
    if (needed === 0) throw invalid('a chain has a descriptor at least');
    if (needed > this.#freeDescriptors) throw noRoom(this.#freeDescriptors, needed);
    this.memory.refresh();
    const table = entries > 0 ? this.#addTable(chain, direct) : 0;
    const id = this.#ids.take();
    for (let i = 0; i < direct; i++) {
      const descriptor = chain[i];
      if (descriptor === undefined) continue;
      const last = i + 1 === needed;
      const write = descriptor.writable ? VIRTQ_DESC_F_WRITE : 0;
      const at = this.descriptorPlace(this.#nextAvail % this.size);
      storePacked(this.memory, at, descriptor.address, descriptor.length, idOf(id, last));
      this.#enter(write | (last ? 0 : VIRTQ_DESC_F_NEXT));
    }
    if (entries > 0) {
      const at = this.descriptorPlace(this.#nextAvail % this.size);
      storePacked(this.memory, at, table, entries * DESC_SIZE, id);
      this.#enter(VIRTQ_DESC_F_INDIRECT);
    }
    this.#freeDescriptors -= needed;
    this.#chains.put(id, needed, chain, table, entries);
    return id;
  }

  publish(): boolean {
    const old = this.#published;
    const next = this.#nextAvail;
    if (old === next) return false;
    this.#published = next;
    const at = this.descriptorPlace(old % this.size);
    pokePackedDescriptor(this.memory, at, { flags: this.#heldFlags });
    const event = Atomics.load(this.memory.u32, this.#deviceEvent >>> 2);
    const flags = (event >>> 16) & 3;
    if (flags === RING_EVENT_FLAGS_DISABLE) return false;
    if (flags !== RING_EVENT_FLAGS_DESC || this.features.eventIdx !== true) return true;
    return needsEvent(this.#lap(event & 0xffff), next, old, 2 * this.size);
  }

  takeUsed(): UsedBuffer | undefined {
    if (this.#batchId === NONE && !this.#readUsed()) return undefined;
    const last = this.#batchId;
    const used = this.#chains.answered(last, this.#batchLength);
    const { token, known } = used;
    this.#batchDescriptors += known ? this.#release(token) : this.#releaseOffered(token);
    if (token === last) this.#endBatch();
    return used;
  }

  setInterrupts(on: boolean): boolean {
    this.#follow = on;
    if (!on) this.pokeDriverEvent(0, RING_EVENT_FLAGS_DISABLE);
    else if (this.features.eventIdx === true) this.#askAt(this.#nextUsed);
    else this.pokeDriverEvent(0, RING_EVENT_FLAGS_ENABLE);
    return this.#hasUsed();
  }

  interruptAfter(count: number): boolean {
    if (this.features.eventIdx !== true) return this.setInterrupts(true);
    this.#follow = false;
    this.#askAt(this.#nextUsed + count - 1);
    return this.#hasUsed();
  }

  notification(queue: number): number {
    if (this.features.notificationData !== true) return queue;
    return ((queue & 0xffff) | (this.#position(this.#nextAvail) << 16)) >>> 0;
  }

  config(): DriverQueueConfig {
    return configOf(this, this.#start);
  }

  /** The next descriptor to be filled: its index, with the wrap counter in bit 15. */
  get nextAvail(): number {
    return this.#position(this.#nextAvail);
  }

  /** The place of a descriptor of the ring. */
  descriptorPlace(index: number): number {
    return this.#ring + index * DESC_SIZE;
  }

  /** Writes fields of a descriptor of the ring, at once. */
  pokeDescriptor(index: number, fields: Partial<PackedDescriptor>): void {
    pokePackedDescriptor(this.memory, this.descriptorPlace(index), fields);
  }

  /**
   * Puts a list of any descriptors into the next places, for `publish`: AVAIL and USED are added as
   * they must be, nothing else. What comes back with the id of the last one is not known, but moves
   * on as far as the list was long.
   */
  offer(list: readonly PackedDescriptor[]): void {
    this.memory.refresh();
    for (const { address, length, id, flags } of list) {
      const at = this.descriptorPlace(this.#nextAvail % this.size);
      storePacked(this.memory, at, address, length, id);
      this.#enter(flags);
      this.#offered.set(id, list.length);
    }
    this.#freeDescriptors -= list.length;
  }

  /** Writes the driver's event suppression structure. */
  pokeDriverEvent(position: number, flags: number): void {
    this.memory.refresh();
    const { u32 } = this.memory;
    Atomics.store(u32, this.#driverEvent >>> 2, ((flags << 16) | (position & 0xffff)) >>> 0);
  }

  /** The device's event suppression structure: position, and flags above it. */
  get deviceEvent(): number {
    return this.memory.getU32(this.#deviceEvent);
  }

  /** Offset and wrap counter as a number of two laps. */
  #lap(position: number): number {
    const offset = position & (WRAP_BIT - 1);
    return (position & WRAP_BIT) === 0 ? this.size + offset : offset;
  }

  #position(lap: number): number {
    return lap < this.size ? lap | WRAP_BIT : lap - this.size;
  }

  #askAt(lap: number): void {
    const position = this.#position(modulo(lap, 2 * this.size));
    this.pokeDriverEvent(position, RING_EVENT_FLAGS_DESC);
  }

  /** The flags that an earlier lap has left: nothing is available, nothing is used. */
  #clearRing(): void {
    this.memory.bytes(this.#ring, this.size * DESC_SIZE).fill(0);
    for (let index = 0; index < this.size; index++) {
      const ahead = index >= this.#nextAvail % this.size;
      const wrap = this.#nextAvail < this.size !== ahead;
      this.pokeDescriptor(index, { flags: usedFlags(wrap) });
    }
  }

  #addTable(chain: readonly Descriptor[], from: number): number {
    const table = this.memory.allocate((chain.length - from) * DESC_SIZE, DESC_ALIGN);
    for (let i = from; i < chain.length; i++) {
      const descriptor = chain[i];
      if (descriptor === undefined) continue;
      const at = table + (i - from) * DESC_SIZE;
      storePacked(this.memory, at, descriptor.address, descriptor.length, 0);
      const flags = descriptor.writable ? VIRTQ_DESC_F_WRITE : 0;
      this.memory.u16[(at + PACKED_DESC_FLAGS) >>> 1] = flags;
    }
    return table;
  }

  /** The flags of the descriptor that was just filled; those of a batch's first one are held. */
  #enter(flags: number): void {
    const at = this.descriptorPlace(this.#nextAvail % this.size);
    const all = flags | availableFlags(this.#nextAvail < this.size);
    if (this.#nextAvail === this.#published) this.#heldFlags = all;
    else this.memory.u16[(at + PACKED_DESC_FLAGS) >>> 1] = all;
    this.#nextAvail = (this.#nextAvail + 1) % (2 * this.size);
  }

  /** What is not published has the flags of an earlier lap: neither available nor used in this. */
  #hasUsed(): boolean {
    if (this.#batchId !== NONE) return true;
    const at = this.descriptorPlace(this.#nextUsed % this.size);
    const flags = Atomics.load(this.memory.u16, (at + PACKED_DESC_FLAGS) >>> 1);
    return (flags & usedFlags(true)) === usedFlags(this.#nextUsed < this.size);
  }

  #readUsed(): boolean {
    this.memory.refresh();
    if (!this.#hasUsed()) return false;
    const { u16, u32 } = this.memory;
    const at = this.descriptorPlace(this.#nextUsed % this.size);
    // 2.8.9: without WRITE there is no length.
    const written = ((u16[(at + PACKED_DESC_FLAGS) >>> 1] ?? 0) & VIRTQ_DESC_F_WRITE) !== 0;
    this.#batchId = u16[(at + PACKED_DESC_ID) >>> 1] ?? 0;
    this.#batchLength = written ? (u32[(at + DESC_LENGTH) >>> 2] ?? 0) : 0;
    return true;
  }

  /** 2.8.9: one used descriptor stands for all chains up to its own, and skips their places. */
  #endBatch(): void {
    this.#nextUsed = (this.#nextUsed + this.#batchDescriptors) % (2 * this.size);
    this.#batchId = NONE;
    this.#batchDescriptors = 0;
    if (this.#follow && this.features.eventIdx === true) this.#askAt(this.#nextUsed);
  }

  /** @returns the descriptors that it had */
  #release(token: number): number {
    const descriptors = this.#chains.descriptors(token);
    this.#chains.take(token);
    this.#ids.give(token);
    this.#freeDescriptors += descriptors;
    return descriptors;
  }

  #releaseOffered(id: number): number {
    const descriptors = this.#offered.get(id);
    if (descriptors === undefined) return 1;
    this.#offered.delete(id);
    this.#freeDescriptors += descriptors;
    return descriptors;
  }
}

/** 2.8.6: only the last descriptor of a list has the id; the others hold one that is wrong. */
function idOf(id: number, last: boolean): number {
  return last ? id : ~id & 0xffff;
}
