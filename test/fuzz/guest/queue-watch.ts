/**
 * What must be true of one queue, seen from outside. Before a call the chains that are available
 * are read (walk.ts); after it the used entries and the queue's words say which of them were taken
 * and which came back:
 *
 *   (a) chains are taken in order, sound ones only; each comes back once, with a length that is no
 *       more than its writable buffers hold, and a status that has a cause;
 *   (b) a queue breaks at the first chain that is not sound, for the reason that is there;
 *   (c) the used position never goes back, nor past what was taken; IN_ORDER keeps the order;
 *   (d) nothing of a queue that is being reset changes.
 */

import * as abi from '../../../src/abi/virtio-device.ts';
import * as ring from '../../../src/abi/virtio-ring.ts';
import { Violation } from '../ledger.ts';
import { ANY_STATUS, type Expected, NO_STATUS } from './expect.ts';
import { BUFFERS, deviceBytes } from './layout.ts';
import type { Ram, Range } from './ram.ts';
import type { Ring } from './ring.ts';
import { type Chain, walk } from './walk.ts';

/** A chain that is available or in flight. */
export interface Flying {
  readonly chain: Chain;
  readonly expected: Expected;
}

/** What the words of a queue say. */
export interface QueueWords {
  readonly state: number;
  readonly error: number;
  readonly inFlight: number;
}

/** Says how a sound chain must end. */
export type Judge = (chain: Chain) => Expected;

/** How exact the answers to chains can be known. */
export interface Certainty {
  /** Buffers may lie on rings or tables: what was read need not be what the engine reads. */
  wild: boolean;
  /** Buffers may lie on each other: what is in them is not known. */
  blurred: boolean;
  /** No request has failed for another reason than its own. */
  clean: boolean;
}

const { DESC_SIZE, WRAP_BIT } = ring;

/** See the head of the file. */
export class QueueWatch {
  readonly index: number;
  state: number = abi.QUEUE_OFF;
  ring: Ring | undefined;
  /** Taken and not returned, in order. */
  flying: Flying[] = [];
  /** Available before the call. */
  waiting: Flying[] = [];
  /** The next available and used positions; wrap counters are of packed rings. */
  avail = 0;
  availWrap = 1;
  used = 0;
  usedWrap = 1;
  readonly #ram: Ram;
  readonly #certainty: Certainty;
  /** The index of the available ring was impossible before the call. */
  overrun = false;
  /** Packed: the flags of all descriptors before the call. */
  #flags: number[] = [];

  constructor(index: number, ram: Ram, certainty: Certainty) {
    this.index = index;
    this.#ram = ram;
    this.#certainty = certainty;
  }

  /** The queue was attached at a position, or switched off. */
  begin(where: Ring | undefined, nextAvail: number, nextUsed: number): void {
    this.ring = where;
    this.state = where === undefined ? abi.QUEUE_OFF : abi.QUEUE_ON;
    this.flying = [];
    this.waiting = [];
    const mask = where?.packed === true ? WRAP_BIT - 1 : 0xffff;
    this.avail = nextAvail & mask;
    this.availWrap = nextAvail >> 15;
    this.used = nextUsed & mask;
    this.usedWrap = nextUsed >> 15;
  }

  /** Reads what is available. */
  look(judge: Judge): void {
    const where = this.ring;
    this.waiting = [];
    this.overrun = false;
    if (where === undefined || this.#certainty.wild) return;
    if (this.#looksUsed(where)) this.#certainty.wild = true;
    const slots = where.packed ? where.size : 0;
    this.#flags = Array.from({ length: slots }, (_, slot) => this.#flagsAt(where, slot));
    if (this.state !== abi.QUEUE_ON) return;
    if (where.packed) this.#lookPacked(where, judge);
    else this.#lookSplit(where, judge);
  }

  /** Chains that are available and not taken, when the queue is on. */
  get left(): number {
    const { ring: where } = this;
    if (where === undefined) return 0;
    if (where.packed) return Number(this.#isAvailable(where, this.avail, this.availWrap));
    return (this.#ram.get(where.places.driver + ring.AVAIL_IDX, 2) - this.avail) & 0xffff;
  }

  /** True when a guest has written to what is the device's to write. */
  #looksUsed(where: Ring): boolean {
    if (where.packed) return this.#isUsedAt(where);
    return this.#ram.get(where.places.device + ring.USED_IDX, 2) !== this.used;
  }

  #lookSplit(where: Ring, judge: Judge): void {
    const index = this.#ram.get(where.places.driver + ring.AVAIL_IDX, 2);
    const count = (index - this.avail) & 0xffff;
    this.overrun = count > where.size || ((index - this.used) & 0xffff) > where.size;
    if (count > where.size) return;
    for (let i = 0; i < count; i++) {
      if (!this.#add(walk(this.#ram, where, (this.avail + i) & 0xffff), judge)) return;
    }
  }

  #lookPacked(where: Ring, judge: Judge): void {
    let slot = this.avail;
    let wrap = this.availWrap;
    for (let left = where.size; left > 0 && this.#isAvailable(where, slot, wrap); left--) {
      const chain = walk(this.#ram, where, slot);
      if (!this.#add(chain, judge)) return;
      slot += chain.slots;
      if (slot >= where.size) [slot, wrap] = [slot - where.size, wrap ^ 1];
    }
  }

  /** Adds an available chain; false when the queue breaks there. */
  #add(chain: Chain, judge: Judge): boolean {
    const sound = chain.error === 0;
    const expected = sound ? judge(chain) : { status: NO_STATUS, requests: 0 };
    this.waiting.push({ chain, expected });
    if (sound && chain.writable.some((range) => this.#ram.atPlace(range.place) < BUFFERS)) {
      this.#certainty.wild = true;
    }
    return sound;
  }

  #flagsAt(where: Ring, slot: number): number {
    return this.#ram.get(where.places.desc + slot * DESC_SIZE + ring.PACKED_DESC_FLAGS, 2);
  }

  #isAvailable(where: Ring, slot: number, wrap: number): boolean {
    const flags = this.#flagsAt(where, slot);
    const isAvail = Number((flags & ring.VIRTQ_DESC_F_AVAIL) !== 0);
    return isAvail === wrap && Number((flags & ring.VIRTQ_DESC_F_USED) !== 0) !== wrap;
  }

  #isUsedAt(where: Ring): boolean {
    return this.#isUsed(this.#flagsAt(where, this.used));
  }

  #isUsed(flags: number): boolean {
    const isAvail = Number((flags & ring.VIRTQ_DESC_F_AVAIL) !== 0);
    const isUsed = Number((flags & ring.VIRTQ_DESC_F_USED) !== 0);
    return isAvail === this.usedWrap && isUsed === this.usedWrap;
  }

  /** Guest memory that the engine may write to for this queue, bytes from the start of RAM. */
  writableParts(): (readonly [at: number, length: number])[] {
    const { ring: where } = this;
    if (where === undefined || this.state === abi.QUEUE_DEAD) return [];
    const own = [where.places.device, deviceBytes(where.size, where.packed)] as const;
    return where.packed ? [own, [where.places.desc, where.size * DESC_SIZE]] : [own];
  }

  /** Buffers that the engine may write to for this queue. */
  writableBuffers(): Range[] {
    if (this.state === abi.QUEUE_DEAD) return [];
    return [...this.flying, ...this.waiting].flatMap(({ chain }) => chain.writable);
  }

  /** Looks at the queue after a call; returns how many chains were taken. */
  observe(words: QueueWords): number {
    const where = this.ring;
    if (words.inFlight > abi.CHAINS) throw new Violation(`(e): ${words.inFlight} chains in flight`);
    const before = this.state;
    if (where === undefined) return 0;
    if (this.#certainty.wild) return this.#observeWild(where, words);
    if (before === abi.QUEUE_DEAD) return this.#observeDead(where, words);
    this.state = words.state;
    const all = [...this.flying, ...this.waiting];
    const returned = new Set<number>();
    if (where.packed) this.#readUsedPacked(where, all, returned);
    else this.#readUsedSplit(where, all, returned);
    if (this.#certainty.wild) return this.#observeWild(where, words);
    const taken = words.inFlight - this.flying.length + returned.size;
    if (taken < 0 || taken > this.waiting.length) {
      throw new Violation(
        `(a): queue ${this.index} took ${taken} of ${this.waiting.length} chains`,
      );
    }
    const end = this.flying.length + taken;
    for (const index of returned) {
      if (index >= end) throw new Violation(`(c): chain ${all[index]!.chain.id} was not taken`);
      where.release(all[index]!.chain.id);
    }
    this.#checkTaken(where, all, taken, before === abi.QUEUE_ON ? words : undefined);
    this.#advance(where, taken);
    this.flying = all.slice(0, end).filter((_, index) => !returned.has(index));
    this.waiting = [];
    return taken;
  }

  #observeWild(where: Ring, words: QueueWords): number {
    this.state = words.state;
    this.flying = [];
    this.waiting = [];
    if (words.inFlight === 0) where.forget();
    return 0;
  }

  /** (d). */
  #observeDead(where: Ring, words: QueueWords): number {
    if (words.state !== abi.QUEUE_DEAD) throw new Violation('(d): a dead queue lives');
    if (this.#looksUsed(where)) throw new Violation('(d): a dead queue returns chains');
    if (words.inFlight > this.flying.length) throw new Violation('(d): a dead queue takes chains');
    if (words.inFlight === 0) this.flying = [];
    return 0;
  }

  #readUsedSplit(where: Ring, all: readonly Flying[], returned: Set<number>): void {
    const { device } = where.places;
    const now = this.#ram.get(device + ring.USED_IDX, 2);
    const count = (now - this.used) & 0xffff;
    if (count > all.length) throw new Violation(`(c): ${count} used elements of ${all.length}`);
    const inOrder = (where.flags & abi.QUEUE_IN_ORDER) !== 0;
    for (let i = 0; i < count; i++) {
      const element = device + ring.USED_RING + ((this.used + i) % where.size) * 8;
      const id = this.#ram.get(element + ring.USED_ELEMENT_ID, 4);
      const length = this.#ram.get(element + ring.USED_ELEMENT_LENGTH, 4);
      if (inOrder) {
        this.#returnUpTo(all, returned, count - 1, id, length);
        break;
      }
      this.#return(all, returned, id, length);
    }
    this.used = now;
  }

  #readUsedPacked(where: Ring, all: readonly Flying[], returned: Set<number>): void {
    const inOrder = (where.flags & abi.QUEUE_IN_ORDER) !== 0;
    while (this.#isUsedAt(where)) {
      if (this.#isUsed(this.#flags[this.used]!)) {
        // The guest has made it look so.
        this.#certainty.wild = true;
        return;
      }
      const at = where.places.desc + this.used * DESC_SIZE;
      const id = this.#ram.get(at + ring.PACKED_DESC_ID, 2);
      const length = this.#ram.get(at + ring.DESC_LENGTH, 4);
      const before = returned.size;
      let slots = 0;
      if (inOrder) {
        const last = all.findIndex(({ chain }, index) => index >= before && chain.id === id);
        this.#returnUpTo(all, returned, last, id, length);
        for (let i = before; i <= last; i++) slots += all[i]!.chain.slots;
      } else slots = all[this.#return(all, returned, id, length)]!.chain.slots;
      this.used += slots;
      if (this.used >= where.size)
        [this.used, this.usedWrap] = [this.used - where.size, this.usedWrap ^ 1];
    }
  }

  #return(all: readonly Flying[], returned: Set<number>, id: number, length: number): number {
    const index = all.findIndex(({ chain }, at) => chain.id === id && !returned.has(at));
    if (index < 0) throw new Violation(`(a): chain ${id} comes back, and is not in flight`);
    returned.add(index);
    this.#checkReturned(all[index]!, length);
    return index;
  }

  /** IN_ORDER: one entry stands for all up to `last`. */
  #returnUpTo(
    all: readonly Flying[],
    returned: Set<number>,
    last: number,
    id: number,
    length: number,
  ): void {
    if (last < 0 || all[last]?.chain.id !== id) {
      throw new Violation(`(c): chain ${id} is not the last of those that came back in order`);
    }
    for (let index = returned.size; index <= last; index++) {
      returned.add(index);
      this.#checkReturned(all[index]!, index === last ? length : undefined);
    }
  }

  /** (a). */
  #checkReturned({ chain, expected }: Flying, length: number | undefined): void {
    if (length !== undefined && length > chain.writableBytes) {
      throw new Violation(`(a): ${length} bytes used of ${chain.writableBytes}`);
    }
    if (length === 0 && chain.writableBytes > 0) throw new Violation('(a): a chain without status');
    if (this.#certainty.blurred || expected.status === NO_STATUS) return;
    const last = chain.writable.at(-1)!;
    const status = this.#ram.loadAt(last.place + last.length - 1);
    if (status > 2) throw new Violation(`(a): the status is ${status}`);
    const isOpen = expected.requests > 0 && !this.#certainty.clean;
    if (!isOpen && expected.status !== ANY_STATUS && status !== expected.status) {
      throw new Violation(`(a): the status is ${status}, not ${expected.status}`);
    }
  }

  /** (a), (b). */
  #checkTaken(where: Ring, all: readonly Flying[], taken: number, words?: QueueWords): void {
    for (const { chain } of this.waiting.slice(0, taken)) {
      if (chain.error !== 0) throw new Violation(`(a): took a chain with error ${chain.error}`);
    }
    if (words?.state !== abi.QUEUE_BROKEN) return;
    const culprit = this.waiting[taken]?.chain;
    const earlier = all.slice(0, this.flying.length + taken).map(({ chain }) => chain);
    let slots = culprit?.slots ?? 0;
    for (const chain of earlier) slots += chain.slots;
    const isDue =
      words.error === abi.RING_ERROR_AVAIL_INDEX
        ? this.overrun || slots > where.size
        : words.error === abi.RING_ERROR_IN_FLIGHT
          ? earlier.some(({ id }) => id === culprit?.id)
          : culprit?.error === words.error;
    if (!isDue) throw new Violation(`(b): error ${words.error}, not ${culprit?.error}`);
  }

  #advance(where: Ring, taken: number): void {
    if (!where.packed) {
      this.avail = (this.avail + taken) & 0xffff;
      return;
    }
    for (const { chain } of this.waiting.slice(0, taken)) {
      this.avail += chain.slots;
      if (this.avail >= where.size)
        [this.avail, this.availWrap] = [this.avail - where.size, this.availWrap ^ 1];
    }
  }

  /** The positions as detachQueue writes them. */
  positions(): [nextAvail: number, nextUsed: number] {
    if (this.ring?.packed !== true) return [this.avail, this.used];
    return [this.avail | (this.availWrap << 15), this.used | (this.usedWrap << 15)];
  }
}
