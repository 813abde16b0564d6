/**
 * What must be true of a device and its memory after each call, seen from outside. Beside the rules
 * of each queue (queue-watch.ts):
 *
 *   (e) the counters of chains in flight agree with each other, with what was taken and returned;
 *   (f) of guest memory only used rings, event areas, and writable buffers of chains in flight
 *       change; and where a guest has put its buffers on its rings, at least nothing else.
 */

import { REGION_SIZE, COUNT_CHAINS } from '../../../src/abi/region.ts';
import * as abi from '../../../src/abi/virtio-device.ts';
import { Violation } from '../ledger.ts';
import { expect } from './expect.ts';
import type { Setup } from './input.ts';
import { DEVICE, REGION, RINGS } from './layout.ts';
import { type Certainty, QueueWatch, type QueueWords } from './queue-watch.ts';
import type { Ram, Range } from './ram.ts';
import type { Chain } from './walk.ts';

/** See the head of the file. */
export class Watch {
  readonly certainty: Certainty = { wild: false, blurred: false, clean: true };
  readonly queues: readonly QueueWatch[];
  readonly #view: DataView;
  readonly #ram: Ram;
  readonly #judge: (chain: Chain) => ReturnType<typeof expect>;
  #chains = 0;
  /** Buffers of chains in flight since the last call, each once: readable, writable. */
  #named: [Range[]?, Range[]?] = [];

  constructor(view: DataView, ram: Ram, setup: Setup) {
    this.#view = view;
    this.#ram = ram;
    this.#judge = (chain) => expect(ram, setup, chain);
    const queues = Math.min(RINGS, setup.queues);
    this.queues = Array.from(
      { length: queues },
      (_, index) => new QueueWatch(index, ram, this.certainty),
    );
  }

  /** Before a call. */
  look(): void {
    for (const queue of this.queues) queue.look(this.#judge);
  }

  /** After a call. */
  observe(): void {
    this.#named = [];
    this.#checkChanges();
    let taken = 0;
    let inFlight = 0;
    for (const queue of this.queues) {
      const words = this.words(queue.index);
      taken += queue.observe(words);
      inFlight += words.inFlight;
    }
    const all = this.word(abi.DEVICE_IN_FLIGHT);
    if (all !== inFlight) throw new Violation(`(e): ${all} chains in flight, not ${inFlight}`);
    const chains = this.#view.getUint32(REGION + COUNT_CHAINS, true);
    if (!this.certainty.wild && chains - this.#chains !== taken) {
      throw new Violation(`(e): ${chains - this.#chains} chains counted, ${taken} taken`);
    }
    this.#chains = chains;
  }

  /** A word of the device. */
  word(offset: number): number {
    return this.#view.getUint32(REGION + REGION_SIZE + offset, true);
  }

  /** A word of a queue. */
  queueWord(queue: number, offset: number): number {
    const at = DEVICE + abi.DEVICE_QUEUES + queue * abi.QUEUE_STRIDE;
    return this.#view.getUint32(at + offset, true);
  }

  /** What a queue says of itself. */
  words(queue: number): QueueWords {
    return {
      state: this.queueWord(queue, abi.QUEUE_STATE),
      error: this.queueWord(queue, abi.QUEUE_ERROR),
      inFlight: this.queueWord(queue, abi.QUEUE_IN_FLIGHT),
    };
  }

  /** (f). */
  #checkChanges(): void {
    const places = this.#ram.changes();
    if (places.length === 0) return;
    const allowed: [number, number][] = [];
    for (const queue of this.queues) {
      for (const [at, length] of queue.writableParts()) {
        const place = this.#ram.placeOf(at);
        allowed.push([place, place + length]);
      }
      for (const { place, length } of queue.writableBuffers())
        allowed.push([place, place + length]);
    }
    let last: [number, number] | undefined;
    for (const place of places) {
      if (this.certainty.wild && this.#ram.atPlace(place) >= 0) continue;
      if (last !== undefined && place >= last[0] && place < last[1]) continue;
      last = allowed.find(([start, end]) => place >= start && place < end);
      if (last === undefined) throw new Violation(`(f): byte ${this.#ram.atPlace(place)} changes`);
    }
  }

  /** True when a host may move bytes of a command between these places and a file. */
  isNamed(place: number, length: number, writes: boolean): boolean {
    if (length === 0) return true;
    if (this.certainty.wild) return this.#ram.isCovered(place, length);
    const ranges = this.#buffers(writes ? 1 : 0);
    for (let at = place; at < place + length;) {
      let end = at;
      for (const range of ranges) {
        if (range.place <= at) end = Math.max(end, range.place + range.length);
      }
      if (end <= at) return false;
      at = end;
    }
    return true;
  }

  #buffers(direction: 0 | 1): readonly Range[] {
    const known = this.#named[direction];
    if (known !== undefined) return known;
    const ranges = new Map<number, Range>();
    for (const { flying } of this.queues) {
      for (const { chain } of flying) {
        for (const range of direction === 1 ? chain.writable : chain.readable) {
          const other = ranges.get(range.place);
          if (other === undefined || other.length < range.length) ranges.set(range.place, range);
        }
      }
    }
    const list = [...ranges.values()];
    this.#named[direction] = list;
    return list;
  }
}
