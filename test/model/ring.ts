/**
 * The device's side of a virtqueue in plain TypeScript: slow, obvious, written from VIRTIO 1.3,
 * 2.7 and 2.8, and from the rules at the heads of assembly/ring/. It works on its own copy of the
 * guest's memory, so that every byte of both copies can be compared.
 *
 * What a chain asks for is not the ring's: `Serve` says whether it is decided at once, and writes
 * its answer. Chains that are not decided at once are returned in whatever order the caller says.
 */

import * as abi from '../../src/abi/virtio-device.ts';
import * as ring from '../../src/abi/virtio-ring.ts';
import { type ModelGuest, Walk, type Walked } from './guest.ts';

/** Where a ring is in the model's bytes, and how it begins. */
export interface ModelRingConfig {
  readonly packed: boolean;
  readonly size: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
  /** QUEUE_INDIRECT and the like. */
  readonly flags: number;
  readonly nextAvail: number;
  readonly nextUsed: number;
}

/** What becomes of a chain. */
export interface Answer {
  /** It is decided while chains are being taken. */
  readonly immediate: boolean;
  /** Writes data and status into the guest's memory; returns the used length. */
  readonly land: () => number;
}

/** Looks at a chain that has been taken. */
export type Serve = (chain: Walked) => Answer;

interface Taken {
  readonly id: number;
  readonly slots: number;
  readonly answer: Answer;
  usedLength: number | undefined;
}

/** See the head of the file. */
export class ModelRing {
  state: number = abi.QUEUE_ON;
  error = 0;
  errorHead = 0;
  errorDescriptor = 0;
  /** The guest wants an interrupt; whoever looks clears it. */
  interrupt = false;
  /** Chains that were taken, since the beginning. */
  taken = 0;

  readonly #guest: ModelGuest;
  readonly #config: ModelRingConfig;
  readonly #serve: Serve;
  readonly #inFlight = new Map<number, Taken>();
  #avail: number;
  #availWrap = 0;
  #used: number;
  #usedWrap = 0;
  #signalled: number | undefined;
  /** Used entries that are not published. */
  #unpublished = false;
  /** Packed: the flags of the first of them. */
  #held: { readonly at: number; readonly flags: number } | undefined;

  constructor(guest: ModelGuest, config: ModelRingConfig, serve: Serve) {
    this.#guest = guest;
    this.#config = config;
    this.#serve = serve;
    this.#avail = config.nextAvail;
    this.#used = config.nextUsed;
    if (!config.packed) return;
    this.#avail &= ring.WRAP_BIT - 1;
    this.#used &= ring.WRAP_BIT - 1;
    this.#availWrap = config.nextAvail >>> 15;
    this.#usedWrap = config.nextUsed >>> 15;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  get inOrder(): boolean {
    return this.#has(abi.QUEUE_IN_ORDER);
  }

  /** The next used entry: an index (split) or a slot (packed). */
  get used(): number {
    return this.#used;
  }

  /** The positions as detachQueue writes them. */
  get position(): readonly [avail: number, used: number] {
    return [this.#avail | (this.#availWrap << 15), this.#used | (this.#usedWrap << 15)];
  }

  /** Whether a chain is in flight. */
  holds(id: number): boolean {
    return this.#inFlight.has(id);
  }

  /** Whether a chain is in flight and not decided. */
  waits(id: number): boolean {
    const chain = this.#inFlight.get(id);
    return chain !== undefined && chain.usedLength === undefined;
  }

  /** Takes everything that is available; what is decided at once is returned at once. */
  take(): void {
    while (this.state === abi.QUEUE_ON) {
      const waiting = this.#waiting();
      if (waiting === undefined) {
        this.#break(abi.RING_ERROR_AVAIL_INDEX, this.#avail, 0);
      } else if (waiting === 0) {
        this.#ask();
        return;
      } else {
        this.#suppress();
        for (let i = 0; i < waiting && this.state === abi.QUEUE_ON; i++) this.#takeOne();
      }
    }
  }

  /** A chain that was not decided at once is decided now. */
  finish(id: number): void {
    const chain = this.#inFlight.get(id);
    if (chain === undefined || chain.usedLength !== undefined) {
      throw new Error(`chain ${id} is returned, but it is not in flight`);
    }
    this.#decide(chain);
  }

  /** IN_ORDER: everything up to this chain is decided, and returned by the next `publish`. */
  finishUpTo(id: number): void {
    if (!this.#inFlight.has(id)) throw new Error(`chain ${id} is returned, but not in flight`);
    for (const chain of this.#inFlight.values()) {
      if (chain.usedLength === undefined) this.#decide(chain);
      if (chain.id === id) return;
    }
  }

  /** Shows what was returned to the driver, and decides whether it wants an interrupt. */
  publish(): void {
    if (this.inOrder) this.#returnInOrder();
    if (!this.#unpublished) return;
    this.#unpublished = false;
    const wanted = this.#config.packed ? this.#publishPacked() : this.#publishSplit();
    if (wanted) this.interrupt = true;
  }

  /** Available chains; undefined: there cannot be so many. */
  #waiting(): number | undefined {
    const { packed, size, desc, driver } = this.#config;
    if (packed) {
      const { flags } = this.#guest.descriptor(desc + this.#avail * ring.DESC_SIZE, true);
      const avail = (flags & ring.VIRTQ_DESC_F_AVAIL) === 0 ? 0 : 1;
      const used = (flags & ring.VIRTQ_DESC_F_USED) === 0 ? 0 : 1;
      return avail === this.#availWrap && used !== this.#availWrap ? 1 : 0;
    }
    const index = this.#u16(driver + ring.AVAIL_IDX);
    const waiting = (index - this.#avail) & 0xffff;
    // Those in flight have not left the ring.
    const inRing = (index - this.#used) & 0xffff;
    return waiting > size || inRing > size ? undefined : waiting;
  }

  #takeOne(): void {
    const { packed, size, desc, driver } = this.#config;
    const guest = this.#guest;
    const walk = new Walk(guest, packed, this.#has(abi.QUEUE_INDIRECT));
    let head = this.#avail;
    if (!packed) {
      head = this.#u16(driver + ring.AVAIL_RING + (this.#avail % size) * ring.AVAIL_ENTRY_SIZE);
      this.#avail = (this.#avail + 1) & 0xffff;
      if (head >= size) return this.#break(abi.RING_ERROR_HEAD, head, 0);
      if (this.#inFlight.has(head)) return this.#break(abi.RING_ERROR_IN_FLIGHT, head, 0);
    }
    const chain = packed ? walk.packed(desc, size, head) : walk.split(desc, size, head);
    if ('error' in chain) return this.#break(chain.error, head, chain.at);
    const id = packed ? chain.id : head;
    if (packed) {
      const slots = [...this.#inFlight.values()].reduce((sum, other) => sum + other.slots, 0);
      if (slots + chain.slots > size) return this.#break(abi.RING_ERROR_AVAIL_INDEX, head, 0);
      if (this.#inFlight.has(id)) return this.#break(abi.RING_ERROR_IN_FLIGHT, head, 0);
      this.#avail += chain.slots;
      if (this.#avail >= size) {
        this.#avail -= size;
        this.#availWrap ^= 1;
      }
    }
    this.#open(id, chain);
  }

  #open(id: number, chain: Walked): void {
    const answer = this.#serve(chain);
    const taken: Taken = { id, slots: chain.slots, answer, usedLength: undefined };
    this.taken++;
    this.#inFlight.set(id, taken);
    if (answer.immediate) this.#decide(taken);
  }

  #decide(chain: Taken): void {
    chain.usedLength = chain.answer.land();
    if (this.inOrder) return;
    this.#inFlight.delete(chain.id);
    this.#putUsed(chain, 1, chain.slots);
  }

  /** 2.7.9, 2.8.5: one used entry, that of the last, for all that are decided in a row. */
  #returnInOrder(): void {
    let last: Taken | undefined;
    let chains = 0;
    let slots = 0;
    for (const chain of this.#inFlight.values()) {
      if (chain.usedLength === undefined) break;
      last = chain;
      chains++;
      slots += chain.slots;
      this.#inFlight.delete(chain.id);
    }
    if (last !== undefined) this.#putUsed(last, chains, slots);
  }

  #putUsed({ id, usedLength = 0 }: Taken, chains: number, slots: number): void {
    const { packed, size, desc, device } = this.#config;
    const { view } = this.#guest;
    this.#unpublished = true;
    if (!packed) {
      const element = device + ring.USED_RING + (this.#used % size) * ring.USED_ELEMENT_SIZE;
      view.setUint32(element + ring.USED_ELEMENT_ID, id, true);
      view.setUint32(element + ring.USED_ELEMENT_LENGTH, usedLength, true);
      this.#used = (this.#used + chains) & 0xffff;
      return;
    }
    const at = desc + this.#used * ring.DESC_SIZE;
    view.setUint32(at + ring.DESC_LENGTH, usedLength, true);
    view.setUint16(at + ring.PACKED_DESC_ID, id, true);
    const both = ring.VIRTQ_DESC_F_AVAIL | ring.VIRTQ_DESC_F_USED;
    // 2.8.9: the length counts where WRITE is set.
    const flags =
      (usedLength > 0 ? ring.VIRTQ_DESC_F_WRITE : 0) | (this.#usedWrap === 1 ? both : 0);
    if (this.#held === undefined) this.#held = { at: at + ring.PACKED_DESC_FLAGS, flags };
    else view.setUint16(at + ring.PACKED_DESC_FLAGS, flags, true);
    this.#used += slots;
    if (this.#used < size) return;
    this.#used -= size;
    this.#usedWrap ^= 1;
    this.#signalled = undefined;
  }

  #publishSplit(): boolean {
    const { size, driver, device } = this.#config;
    this.#guest.view.setUint16(device + ring.USED_IDX, this.#used, true);
    const old = this.#signalled;
    this.#signalled = this.#used;
    const isEmpty = this.inFlight === 0 && this.#u16(driver + ring.AVAIL_IDX) === this.#avail;
    if (isEmpty && this.#has(abi.QUEUE_NOTIFY_ON_EMPTY)) return true;
    if (!this.#has(abi.QUEUE_EVENT_IDX)) {
      return (this.#u16(driver + ring.AVAIL_FLAGS) & ring.VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
    }
    const event = this.#u16(driver + ring.AVAIL_RING + size * ring.AVAIL_ENTRY_SIZE);
    return old === undefined || isPassed(event, this.#used, old);
  }

  #publishPacked(): boolean {
    const { size, driver } = this.#config;
    if (this.#held !== undefined) this.#guest.view.setUint16(this.#held.at, this.#held.flags, true);
    this.#held = undefined;
    const old = this.#signalled;
    this.#signalled = this.#used;
    const flags = this.#u16(driver + ring.EVENT_FLAGS) & 3;
    if (flags === ring.RING_EVENT_FLAGS_DISABLE) return false;
    if (flags !== ring.RING_EVENT_FLAGS_DESC || !this.#has(abi.QUEUE_EVENT_IDX)) return true;
    const position = this.#u16(driver + ring.EVENT_OFFSET);
    const isThisLap = position >>> 15 === this.#usedWrap;
    const offset = (position & (ring.WRAP_BIT - 1)) - (isThisLap ? 0 : size);
    return old === undefined || isPassed(offset, this.#used, old);
  }

  /** The driver need not notify. */
  #suppress(): void {
    const { packed, device } = this.#config;
    const { view } = this.#guest;
    if (packed) view.setUint16(device + ring.EVENT_FLAGS, ring.RING_EVENT_FLAGS_DISABLE, true);
    else if (!this.#has(abi.QUEUE_EVENT_IDX)) {
      view.setUint16(device + ring.USED_FLAGS, ring.VIRTQ_USED_F_NO_NOTIFY, true);
    }
  }

  /** The driver has to notify of the next chain. */
  #ask(): void {
    const { packed, size, device } = this.#config;
    const { view } = this.#guest;
    const isEvent = this.#has(abi.QUEUE_EVENT_IDX);
    if (!packed) {
      const event = device + ring.USED_RING + size * ring.USED_ELEMENT_SIZE;
      if (isEvent) view.setUint16(event, this.#avail, true);
      else view.setUint16(device + ring.USED_FLAGS, 0, true);
      return;
    }
    if (isEvent) {
      view.setUint16(device + ring.EVENT_OFFSET, this.#avail | (this.#availWrap << 15), true);
    }
    const flags = isEvent ? ring.RING_EVENT_FLAGS_DESC : ring.RING_EVENT_FLAGS_ENABLE;
    view.setUint16(device + ring.EVENT_FLAGS, flags, true);
  }

  #break(error: number, head: number, descriptor: number): void {
    this.state = abi.QUEUE_BROKEN;
    this.error = error;
    this.errorHead = head;
    this.errorDescriptor = descriptor;
  }

  #u16(at: number): number {
    return this.#guest.view.getUint16(at, true);
  }

  #has(flag: number): boolean {
    return (this.#config.flags & flag) !== 0;
  }
}

/** 2.7.10: whether the used position has gone past `event` since it was `old`. */
function isPassed(event: number, used: number, old: number): boolean {
  return ((used - event - 1) & 0xffff) < ((used - old) & 0xffff);
}
