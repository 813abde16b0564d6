/**
 * The driver's side of a split virtqueue. VIRTIO 1.3, 2.7.
 *
 * Descriptors are lent in the order in which they became free, so that a device that uses buffers
 * in order sees the table from its first to its last, as IN_ORDER demands (2.7.9).
 *
 * What a driver must not do is done with `poke*` and `offer`: they write what they are told, and
 * the driver's own bookkeeping knows nothing of it.
 */
import {
  AVAIL_ENTRY_SIZE,
  AVAIL_FLAGS,
  AVAIL_IDX,
  AVAIL_RING,
  DESC_ALIGN,
  DESC_SIZE,
  QUEUE_SIZE_MAX,
  RING_EXTRA_BYTES,
  USED_ELEMENT_ID,
  USED_ELEMENT_LENGTH,
  USED_ELEMENT_SIZE,
  USED_FLAGS,
  USED_IDX,
  USED_RING,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_USED_F_NO_NOTIFY,
} from '../../abi/virtio-ring.ts';
import { invalid } from '../../arguments.ts';
import { Chains, FreeList } from './chains.ts';
import {
  configOf,
  type Descriptor,
  type DriverQueue,
  type DriverQueueConfig,
  type DriverQueueOptions,
  needsEvent,
  noRoom,
  type RingFeatures,
  type UsedBuffer,
} from './driver-queue.ts';
import type { GuestMemory } from './memory.ts';
import {
  pokeSplitDescriptor,
  type SplitDescriptor,
  storeChained,
  storeSplit,
} from './split-descriptor.ts';

const NONE = -1;

/** See the head of the file. */
export class SplitDriver implements DriverQueue {
  readonly packed = false;
  readonly memory: GuestMemory;
  readonly size: number;
  readonly features: RingFeatures;
  readonly desc: bigint;
  readonly driver: bigint;
  readonly device: bigint;

  readonly #desc: number;
  readonly #avail: number;
  readonly #used: number;
  readonly #start: number;
  readonly #free: FreeList;
  readonly #chains: Chains;
  /** For each descriptor in flight the next one of its chain. */
  readonly #next: Uint16Array;
  /** The next available entry, and the first that is not published. */
  #nextAvail: number;
  #published: number;
  #nextUsed: number;
  /** With IN_ORDER, the used element that answers several chains: its id, length, and how many. */
  #batchId = NONE;
  #batchLength = 0;
  #batchCount = 0;
  /** `takeUsed` asks for the next interrupt. */
  #follow = true;

  constructor(options: DriverQueueOptions) {
    const { memory, size, features = {}, position = 0 } = options;
    if (!(size >= 1 && size <= QUEUE_SIZE_MAX) || !Number.isInteger(Math.log2(size))) {
      throw invalid(`a split queue has a power of two of entries up to 32768, not ${size}`);
    }
    this.memory = memory;
    this.size = size;
    this.features = features;
    [this.#desc, this.#avail, this.#used] = placesOf(options);
    this.desc = memory.addressOf(this.#desc);
    this.driver = memory.addressOf(this.#avail);
    this.device = memory.addressOf(this.#used);
    this.#start = position & 0xffff;
    this.#nextAvail = this.#published = this.#nextUsed = this.#start;
    this.#free = new FreeList(size);
    this.#chains = new Chains(memory, size, features.inOrder === true);
    this.#next = new Uint16Array(size);
    memory.setU16(this.#avail + AVAIL_IDX, this.#start);
    memory.setU16(this.#used + USED_IDX, this.#start);
    this.setInterrupts(true);
  }

  get free(): number {
    return this.#free.count;
  }

  get inFlight(): number {
    return this.#chains.count;
  }

  add(chain: readonly Descriptor[], indirectFrom: number = chain.length): number {
    const direct = Math.min(indirectFrom, chain.length);
    const entries = chain.length - direct;
    const needed = direct + (entries > 0 ? 1 : 0);
    if (needed === 0) throw invalid('a chain has a descriptor at least');
    if (needed > this.#free.count) throw noRoom(this.#free.count, needed);
    this.memory.refresh();
    const table = entries > 0 ? this.#addTable(chain, direct) : 0;
    const head = this.#free.peek();
    for (let i = 0; i < needed; i++) {
      const index = this.#free.take();
      const more = i + 1 < needed;
      const next = more ? this.#free.peek() : 0;
      this.#next[index] = next;
      const at = this.descriptorPlace(index);
      const descriptor = i < direct ? chain[i] : undefined;
      if (descriptor !== undefined) storeChained(this.memory, at, descriptor, more, next);
      else storeSplit(this.memory, at, table, entries * DESC_SIZE, VIRTQ_DESC_F_INDIRECT, 0);
    }
    this.#chains.put(head, needed, chain, table, entries);
    this.#enter(head);
    return head;
  }

  publish(): boolean {
    const old = this.#published;
    const next = this.#nextAvail;
    if (old === next) return false;
    this.#published = next;
    this.memory.refresh();
    const { u16 } = this.memory;
    Atomics.store(u16, (this.#avail + AVAIL_IDX) >>> 1, next);
    if (this.features.eventIdx !== true) {
      return (Atomics.load(u16, (this.#used + USED_FLAGS) >>> 1) & VIRTQ_USED_F_NO_NOTIFY) === 0;
    }
    return needsEvent(Atomics.load(u16, this.#availEvent >>> 1), next, old);
  }

  takeUsed(): UsedBuffer | undefined {
    if (this.#batchId === NONE && !this.#readUsed()) return undefined;
    const last = this.#batchId;
    const used = this.#chains.answered(last, this.#batchLength);
    const { token, known } = used;
    this.#batchCount++;
    if (known) this.#release(token);
    if (token === last) this.#endBatch();
    return used;
  }

  setInterrupts(on: boolean): boolean {
    this.#follow = on;
    if (this.features.eventIdx === true) {
      this.pokeUsedEvent(on ? this.#nextUsed : this.#nextUsed - 1);
    } else {
      this.pokeAvailFlags(on ? 0 : VIRTQ_AVAIL_F_NO_INTERRUPT);
    }
    return this.#hasUsed();
  }

  interruptAfter(count: number): boolean {
    if (this.features.eventIdx !== true) return this.setInterrupts(true);
    this.#follow = false;
    this.pokeUsedEvent(this.#nextUsed + count - 1);
    return this.#hasUsed();
  }

  notification(queue: number): number {
    if (this.features.notificationData !== true) return queue;
    return ((queue & 0xffff) | (this.#nextAvail << 16)) >>> 0;
  }

  config(): DriverQueueConfig {
    return configOf(this, this.#start);
  }

  /** The place of a descriptor of the table. */
  descriptorPlace(index: number): number {
    return this.#desc + index * DESC_SIZE;
  }

  /** Writes fields of a descriptor of the table. */
  pokeDescriptor(index: number, fields: Partial<SplitDescriptor>): void {
    pokeSplitDescriptor(this.memory, this.descriptorPlace(index), fields);
  }

  /** Writes an entry of the available ring. */
  pokeAvail(slot: number, head: number): void {
    this.memory.setU16(this.#avail + AVAIL_RING + slot * AVAIL_ENTRY_SIZE, head);
  }

  /** Puts any head into the next available entry, for `publish`. Nothing is noted of it. */
  offer(head: number): void {
    this.memory.refresh();
    this.#enter(head);
  }

  /** The index of the available ring, as the device sees it. */
  get availIdx(): number {
    return this.memory.getU16(this.#avail + AVAIL_IDX);
  }

  /** Writes it; the driver's own is not changed, and the next `publish` writes that. */
  set availIdx(index: number) {
    this.memory.setU16(this.#avail + AVAIL_IDX, index);
  }

  /** Writes the flags of the available ring. */
  pokeAvailFlags(flags: number): void {
    this.memory.refresh();
    Atomics.store(this.memory.u16, (this.#avail + AVAIL_FLAGS) >>> 1, flags);
  }

  /** Writes used_event. */
  pokeUsedEvent(index: number): void {
    this.memory.refresh();
    Atomics.store(this.memory.u16, this.#usedEvent >>> 1, index & 0xffff);
  }

  /** The index of the used ring. */
  get usedIdx(): number {
    return this.memory.getU16(this.#used + USED_IDX);
  }

  /** The flags of the used ring. */
  get usedFlags(): number {
    return this.memory.getU16(this.#used + USED_FLAGS);
  }

  /** avail_event. */
  get availEvent(): number {
    return this.memory.getU16(this.#availEvent);
  }

  get #usedEvent(): number {
    return this.#avail + AVAIL_RING + this.size * AVAIL_ENTRY_SIZE;
  }

  get #availEvent(): number {
    return this.#used + USED_RING + this.size * USED_ELEMENT_SIZE;
  }

  #addTable(chain: readonly Descriptor[], from: number): number {
    const table = this.memory.allocate((chain.length - from) * DESC_SIZE, DESC_ALIGN);
    for (let i = from; i < chain.length; i++) {
      const descriptor = chain[i];
      if (descriptor === undefined) continue;
      const more = i + 1 < chain.length;
      const next = more ? i + 1 - from : 0;
      storeChained(this.memory, table + (i - from) * DESC_SIZE, descriptor, more, next);
    }
    return table;
  }

  /** The entry of the available ring; its index is for `publish`. */
  #enter(head: number): void {
    const slot = this.#nextAvail & (this.size - 1);
    this.memory.u16[(this.#avail + AVAIL_RING + slot * AVAIL_ENTRY_SIZE) >>> 1] = head;
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
  }

  #hasUsed(): boolean {
    const { u16 } = this.memory;
    return this.#batchId !== NONE || this.#nextUsed !== Atomics.load(u16, this.#usedIdx >>> 1);
  }

  get #usedIdx(): number {
    return this.#used + USED_IDX;
  }

  #readUsed(): boolean {
    this.memory.refresh();
    if (!this.#hasUsed()) return false;
    const { u32 } = this.memory;
    const slot = this.#nextUsed & (this.size - 1);
    const element = this.#used + USED_RING + slot * USED_ELEMENT_SIZE;
    this.#batchId = u32[(element + USED_ELEMENT_ID) >>> 2] ?? 0;
    this.#batchLength = u32[(element + USED_ELEMENT_LENGTH) >>> 2] ?? 0;
    return true;
  }

  /** 2.7.9: one element stands for all chains up to its own, and takes their places in the ring. */
  #endBatch(): void {
    this.#nextUsed = (this.#nextUsed + this.#batchCount) & 0xffff;
    this.#batchId = NONE;
    this.#batchCount = 0;
    if (this.#follow && this.features.eventIdx === true) this.pokeUsedEvent(this.#nextUsed);
  }

  #release(token: number): void {
    const count = this.#chains.descriptors(token);
    let index = token;
    for (let i = 0; i < count; i++) {
      this.#free.give(index);
      index = this.#next[index] ?? 0;
    }
    this.#chains.take(token);
  }
}

/** Descriptor table, available ring, used ring; all zero. */
function placesOf({ memory, size, legacyAlign }: DriverQueueOptions): [number, number, number] {
  const descBytes = size * DESC_SIZE;
  const availBytes = RING_EXTRA_BYTES + size * AVAIL_ENTRY_SIZE;
  const usedBytes = RING_EXTRA_BYTES + size * USED_ELEMENT_SIZE;
  if (legacyAlign === undefined) {
    const desc = memory.allocateCleared(descBytes, DESC_ALIGN);
    return [desc, memory.allocateCleared(availBytes), memory.allocateCleared(usedBytes)];
  }
  const usedOffset = Math.ceil((descBytes + availBytes) / legacyAlign) * legacyAlign;
  const all = memory.allocateCleared(usedOffset + usedBytes, legacyAlign);
  return [all, all + descBytes, all + usedOffset];
}
