// Virtqueues read by typed arrays: the peer of parseChains in TypeScript, with the same hash as
// bench/c/ring.c.

import * as device from '../../src/abi/virtio-device.ts';
import * as virtq from '../../src/abi/virtio-ring.ts';
import { CHAIN, CHAIN_WORDS, ChainWalk, FINE, type RingPlaces } from './ring-walk.ts';

/** A queue and how far it has been read. */
export interface PeerQueue extends RingPlaces {
  readonly busy: Int32Array;
  next: number;
  wrap: number;
  inFlight: number;
  /** RING_ERROR_*, once a rule has been broken; and the head of the chain that broke it. */
  error: number;
  errorHead: number;
}

const { TYPE, SECTOR, LENGTH, SEGMENTS, STATUS, ID, SLOTS } = CHAIN;
const INDEX_MASK = 0xffff;
const NONE = -1;

/** Takes chains from virtqueues and gives them back. */
export class RingReader {
  /** Everything as words: the records of chains are in it too, at `CHAIN`. */
  readonly words: Uint32Array;
  readonly #walk: ChainWalk;
  readonly #ints: Int32Array;
  readonly #halves: Uint16Array;
  readonly #chainPile: number[] = [];

  /** @param place where the chains shall lie; their tables follow */
  constructor(memory: ArrayBufferLike, place: number) {
    this.words = new Uint32Array(memory);
    this.#ints = new Int32Array(memory);
    this.#halves = new Uint16Array(memory);
    const chains = place >>> 2;
    for (let i = device.CHAINS - 1; i >= 0; i--) this.#chainPile.push(chains + i * CHAIN_WORDS);
    this.#walk = new ChainWalk(memory, place + 4 * CHAIN_WORDS * device.CHAINS);
  }

  /** Makes guest memory from `start` on known. */
  map(start: number, sizeBytes: number, place: number): void {
    this.#walk.map(start, sizeBytes, place);
  }

  /** Chains that can still be taken. */
  get room(): number {
    return Math.min(this.#chainPile.length, this.#walk.tables);
  }

  /** Takes a chain; its first word, or -1 when there is none, no room, or a rule is broken. */
  take(queue: PeerQueue): number {
    if (queue.error !== 0) return NONE;
    return (queue.flags & device.QUEUE_PACKED) === 0
      ? this.#takeSplit(queue, this.waiting(queue))
      : this.#takePacked(queue);
  }

  /** Split: available entries that have not been taken, 0 when the index is impossible. */
  waiting(queue: PeerQueue): number {
    const index = this.#halves[(queue.avail + virtq.AVAIL_IDX) >>> 1]!;
    const waiting = (index - queue.next) & INDEX_MASK;
    if (waiting + queue.inFlight <= queue.size) return waiting;
    refuse(queue, device.RING_ERROR_AVAIL_INDEX, 0);
    return 0;
  }

  /** Gives a chain back: its head may come again. */
  giveBack(queue: PeerQueue, chain: number): void {
    const ints = this.#ints;
    const id = ints[chain + ID]!;
    queue.busy[id >>> 5]! &= ~(1 << (id & 31));
    queue.inFlight -= ints[chain + SLOTS]!;
    this.#walk.release(chain);
    this.#chainPile.push(chain);
  }

  /** Takes up to `count` chains, gives them back, and returns their hash. */
  parseChains(queue: PeerQueue, count: number, taken: Int32Array): number {
    const ints = this.#ints;
    if (queue.error !== 0) return 0;
    const isPacked = (queue.flags & device.QUEUE_PACKED) !== 0;
    const limit = isPacked ? count : Math.min(count, this.waiting(queue));
    let found = 0;
    while (found < limit) {
      const chain = isPacked ? this.#takePacked(queue) : this.#takeSplit(queue, 1);
      if (chain === NONE) break;
      taken[found++] = chain;
    }
    let hash = 0;
    for (let i = 0; i < found; i++) {
      const chain = taken[i]!;
      hash = (hash + ints[chain + TYPE]! + ints[chain + SECTOR]! + ints[chain + LENGTH]!) | 0;
      hash = (hash + ints[chain + SEGMENTS]! * 31 + ints[chain + STATUS]!) | 0;
      this.giveBack(queue, chain);
    }
    return hash >>> 0;
  }

  #takeSplit(queue: PeerQueue, waiting: number): number {
    if (waiting === 0 || this.room === 0) return NONE;
    const slot = queue.next & (queue.size - 1);
    const head = this.#halves[((queue.avail + virtq.AVAIL_RING) >>> 1) + slot]!;
    if (head >= queue.size) return refuse(queue, device.RING_ERROR_HEAD, head);
    if (isBusy(queue, head)) return refuse(queue, device.RING_ERROR_IN_FLIGHT, head);
    const chain = this.#chainPile[this.#chainPile.length - 1]!;
    const error = this.#walk.walk(queue, chain, head, false);
    if (error !== FINE) {
      this.#walk.release(chain);
      return refuse(queue, error, head);
    }
    this.#accept(queue, chain);
    queue.next = (queue.next + 1) & INDEX_MASK;
    return chain;
  }

  #takePacked(queue: PeerQueue): number {
    const head = queue.next;
    const flags = this.#halves[((queue.desc + virtq.PACKED_DESC_FLAGS) >>> 1) + head * 8]!;
    const available = (flags & virtq.VIRTQ_DESC_F_AVAIL) !== 0 ? 1 : 0;
    const used = (flags & virtq.VIRTQ_DESC_F_USED) !== 0 ? 1 : 0;
    if (available !== queue.wrap || used === queue.wrap || this.room === 0) return NONE;
    const chain = this.#chainPile[this.#chainPile.length - 1]!;
    let error = this.#walk.walk(queue, chain, head, true);
    const slots = this.#ints[chain + SLOTS]!;
    if (error === FINE && isBusy(queue, this.#ints[chain + ID]!)) {
      error = device.RING_ERROR_IN_FLIGHT;
    }
    if (error === FINE && queue.inFlight + slots > queue.size) {
      error = device.RING_ERROR_AVAIL_INDEX;
    }
    if (error !== FINE) {
      this.#walk.release(chain);
      return refuse(queue, error, head);
    }
    this.#accept(queue, chain);
    queue.next += slots;
    if (queue.next >= queue.size) {
      queue.next -= queue.size;
      queue.wrap ^= 1;
    }
    return chain;
  }

  #accept(queue: PeerQueue, chain: number): void {
    const id = this.#ints[chain + ID]!;
    queue.busy[id >>> 5]! |= 1 << (id & 31);
    queue.inFlight += this.#ints[chain + SLOTS]!;
    this.#chainPile.pop();
  }
}

/** A queue from its start. */
export function attachPeerQueue(places: RingPlaces): PeerQueue {
  const busy = new Int32Array(65536 / 32);
  return { ...places, busy, next: 0, wrap: 1, inFlight: 0, error: 0, errorHead: 0 };
}

function isBusy(queue: PeerQueue, id: number): boolean {
  return ((queue.busy[id >>> 5]! >>> (id & 31)) & 1) !== 0;
}

function refuse(queue: PeerQueue, error: number, head: number): number {
  queue.error = error;
  queue.errorHead = head;
  return NONE;
}
