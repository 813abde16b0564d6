/** Rings are made and attached: anew, where they were left, and in ways that are refused. */

import * as abi from '../../../src/abi/virtio-device.ts';
import * as ring from '../../../src/abi/virtio-ring.ts';
import type { EngineExports } from '../../support/engine.ts';
import { Violation } from '../ledger.ts';
import type { Setup } from './input.ts';
import { DEVICE, deviceBytes, driverBytes, REGION, RAM_BYTES, ringPlaces } from './layout.ts';
import type { QueueWatch } from './queue-watch.ts';
import type { Ram } from './ram.ts';
import { Ring } from './ring.ts';

/** The words that describe a queue. */
interface Words {
  readonly size: number;
  readonly flags: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
  readonly nextAvail: number;
  readonly nextUsed: number;
}

const { DESC_SIZE, WRAP_BIT } = ring;
const BOTH = ring.VIRTQ_DESC_F_AVAIL | ring.VIRTQ_DESC_F_USED;

/** A ring whose queue is off, and where detachQueue says that it was. */
interface Kept {
  readonly ring: Ring;
  readonly died: boolean;
  readonly nextAvail: number;
  readonly nextUsed: number;
}

/** See the head of the file. */
export class Attacher {
  readonly #exports: EngineExports;
  readonly #view: DataView;
  readonly #ram: Ram;
  readonly #setup: Setup;
  /** Rings of queues that are off. */
  readonly #kept = new Map<number, Kept>();

  constructor(exports: EngineExports, view: DataView, ram: Ram, setup: Setup) {
    this.#exports = exports;
    this.#view = view;
    this.#ram = ram;
    this.#setup = setup;
  }

  /** The queue was switched off. */
  keep(queue: QueueWatch, died: boolean): void {
    if (queue.ring === undefined) return;
    if (died) queue.ring.forget();
    const at = DEVICE + abi.DEVICE_QUEUES + queue.index * abi.QUEUE_STRIDE;
    const nextAvail = this.#view.getUint32(at + abi.QUEUE_NEXT_AVAIL, true);
    const nextUsed = this.#view.getUint32(at + abi.QUEUE_NEXT_USED, true);
    this.#kept.set(queue.index, { ring: queue.ring, died, nextAvail, nextUsed });
  }

  /** Attaches the ring of the setup with nothing in it. */
  attachFresh(queue: QueueWatch): void {
    const words = this.#wordsOf(queue.index);
    const { size, flags, desc, driver, device, nextAvail } = words;
    const where = new Ring(this.#ram, { desc, driver, device }, Math.min(size, 1024), flags);
    const isDue = this.#isSound(words);
    if (isDue) this.#clear(where, nextAvail);
    const code = this.#attach(queue.index, words);
    if (isDue !== (code === 0)) throw new Violation(`attachQueue says ${code} to ${size} entries`);
    if (code !== 0) return;
    where.moveTo(nextAvail);
    queue.begin(where, nextAvail, nextAvail);
  }

  #wordsOf(index: number): Words {
    const { packed, ringFlags, sizes, position } = this.#setup;
    const isPacked = ((packed >> index) & 1) !== 0;
    const size = sizes[index]!;
    const inRing = ((position & (WRAP_BIT - 1)) % Math.max(1, size)) | (position & WRAP_BIT);
    const packedAt = position === 0 ? WRAP_BIT : inRing;
    const next = isPacked ? packedAt : position;
    const flags = ringFlags | (isPacked ? abi.QUEUE_PACKED : 0);
    return { size, flags, ...ringPlaces(index), nextAvail: next, nextUsed: next };
  }

  /** True for a ring that has a size that it may have, and whose parts lie in a region each. */
  #isSound({ size, flags, desc, driver, device }: Words): boolean {
    const isPacked = (flags & abi.QUEUE_PACKED) !== 0;
    const isSize = size > 0 && (isPacked || (size & (size - 1)) === 0);
    if (!isSize || desc + size * DESC_SIZE > driver) return false;
    const parts = [
      [desc, size * DESC_SIZE],
      [driver, driverBytes(size, isPacked)],
      [device, deviceBytes(size, isPacked)],
    ] as const;
    return parts.every(([at, length]) => this.#ram.rangesOf(at, length)?.length === 1);
  }

  /** A ring as a driver finds it: of a packed one the round before has been used. */
  #clear({ packed, size, places }: Ring, position: number): void {
    const ram = this.#ram;
    const start = position & (WRAP_BIT - 1);
    const wrap = position >> 15;
    for (let at = 0; at < size * DESC_SIZE; at += 4) {
      // What lies before the position has been used in this round, the rest in the one before.
      const isPast = Number(Math.floor(at / DESC_SIZE) < start) === wrap;
      const isFlags = packed && at % DESC_SIZE === 12;
      ram.set(places.desc + at, 4, isFlags && isPast ? BOTH * 65536 : 0);
    }
    for (let at = 0; at < driverBytes(size, packed); at += 2) ram.set(places.driver + at, 2, 0);
    for (let at = 0; at < deviceBytes(size, packed); at += 2) ram.set(places.device + at, 2, 0);
    if (packed) return;
    ram.set(places.driver + ring.AVAIL_IDX, 2, position);
    ram.set(places.device + ring.USED_IDX, 2, position);
  }

  /** Attaches the ring that the queue had, where detachQueue says that it was. */
  attachSaved(queue: QueueWatch): void {
    const kept = this.#kept.get(queue.index);
    if (kept === undefined) return;
    const { nextAvail, nextUsed } = kept;
    const { size, flags, places } = kept.ring;
    const words = { size, flags, ...places, nextAvail, nextUsed };
    const code = this.#attach(queue.index, words);
    if (code === 0) {
      queue.begin(kept.ring, nextAvail, nextUsed);
      return;
    }
    const isDue = kept.died || !this.#isSound(words);
    if (!isDue) throw new Violation(`attachQueue says ${code} to a position of its own`);
  }

  /** Tries what is refused. */
  attachBadly(queue: QueueWatch, which: number): void {
    const good = this.#wordsOf(queue.index);
    const { size, desc, driver, nextUsed } = good;
    const isPacked = (good.flags & abi.QUEUE_PACKED) !== 0;
    const isCopied = (this.#setup.deviceFlags & abi.DEVICE_COPIED) !== 0;
    const next = isPacked ? nextUsed ^ WRAP_BIT : (nextUsed + size + 1) & 0xffff;
    const bad: readonly Partial<Words>[] = [
      { size: 0 },
      { size: isPacked ? 32769 : 100 },
      { desc: desc + 8 },
      { driver: driver + 1 },
      { device: good.device + 2 },
      { desc: RAM_BYTES },
      { driver: desc },
      { device: driver },
      { device: desc },
      { nextAvail: 0x1_0000 },
      { nextAvail: next },
      { driver: RAM_BYTES },
      { device: RAM_BYTES },
      isPacked ? { nextAvail: size, nextUsed: size } : { nextUsed: 0x1_0000 },
      { size: 65536 },
      isCopied ? { flags: good.flags | abi.QUEUE_IN_ORDER } : { size: 0 },
    ];
    const index = which === 255 ? 200 : queue.index;
    // A queue that is on keeps its words.
    const words = { ...good, ...(which === 255 ? {} : bad[which % bad.length]) };
    const code = queue.state === abi.QUEUE_OFF ? this.#attach(index, words) : this.#again(index);
    if (code === 0) throw new Violation(`attachQueue takes ${JSON.stringify(words)}`);
  }

  #again(index: number): number {
    return this.#exports.attachQueue(REGION, index) >>> 0;
  }

  #attach(index: number, words: Words): number {
    if (index >= abi.VIRTQUEUES) return this.#again(index);
    const view = this.#view;
    const at = DEVICE + abi.DEVICE_QUEUES + index * abi.QUEUE_STRIDE;
    view.setUint32(at + abi.QUEUE_SIZE, words.size, true);
    view.setUint32(at + abi.QUEUE_FLAGS, words.flags, true);
    view.setBigUint64(at + abi.QUEUE_DESC, this.#ram.addressOf(words.desc), true);
    view.setBigUint64(at + abi.QUEUE_DRIVER, this.#ram.addressOf(words.driver), true);
    view.setBigUint64(at + abi.QUEUE_DEVICE, this.#ram.addressOf(words.device), true);
    view.setUint32(at + abi.QUEUE_NEXT_AVAIL, words.nextAvail, true);
    view.setUint32(at + abi.QUEUE_NEXT_USED, words.nextUsed, true);
    return this.#exports.attachQueue(REGION, index) >>> 0;
  }
}
