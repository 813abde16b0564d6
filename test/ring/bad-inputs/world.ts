/**
 * A device with a hostile driver: queue 0 is a ring of raw bytes, written by hand; queue 1 is a
 * proper driver's. Everything that the device may change is foretold, byte for byte, in a copy of
 * the guest's memory and of the disk; whatever else is different afterwards is damage.
 *
 *   guest     0       0x4000   0x8000   0x10000       0x20000   0x40000             0x80000
 *             | desc  | driver | device | header, ... | tables  | of proper drivers | free    |
 */

import { expect } from 'vitest';
import { REGION_SIZE } from '../../../src/abi/region.ts';
import * as abi from '../../../src/abi/virtio-device.ts';
import {
  DESC_SIZE,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_USED,
  VIRTQ_DESC_F_WRITE,
  WRAP_BIT,
} from '../../../src/abi/virtio-ring.ts';
import { VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN } from '../../../src/abi/virtio-blk.ts';
import { BlkDriver } from '../../../src/testing/guest/blk.ts';
import type { DriverQueueConfig } from '../../../src/testing/guest/driver-queue.ts';
import { createDriverQueue } from '../../../src/testing/guest/index.ts';
import { GuestMemory } from '../../../src/testing/guest/memory.ts';
import { ENGINE_BASE } from '../../driver.ts';
import type { Build } from '../../support/engine.ts';
import { GuestRig, type RigOptions } from '../rig.ts';
import { firstDifference, type Foretold, type Used } from './foretold.ts';

export const N = VIRTQ_DESC_F_NEXT;
export const W = VIRTQ_DESC_F_WRITE;
export const I = VIRTQ_DESC_F_INDIRECT;

export const MEM = 0x10_0000;
export const DESC = 0;
/** Available ring, or the driver's event suppression. */
export const DRIVER = 0x4000;
/** Used ring, or the device's event suppression. */
export const DEVICE = 0x8000;
export const HEADER = 0x1_0000;
export const BODY = 0x1_1000;
export const STATUS = 0x1_f000;
export const TABLE = 0x2_0000;
const PROPER = 0x4_0000;
const PROPER_BYTES = 0x4_0000;

export const DISK = 2 * 1024 * 1024;
export const SECTORS = DISK / 512;
/** What the status byte holds before there is a status. */
export const UNTOUCHED = 0xff;
const GUARD = 0x5a;

/** Where the guest's RAM is among the 64-bit addresses. */
export type Where = 'bottom' | 'middle' | 'top';

const PLACES: Readonly<Record<Where, (ramBytes: bigint) => bigint>> = {
  bottom: () => 0n,
  middle: () => 0x7f59_7f22_a000n,
  top: (ramBytes) => 2n ** 64n - ramBytes,
};

/** A descriptor's buffer: a number is an offset in the guest's RAM, a bigint a guest address. */
export interface Part {
  readonly at: number | bigint;
  readonly length: number;
  /** VIRTQ_DESC_F_*, NEXT aside; reserved bits too. */
  readonly flags: number;
}

/** How a world is made; everything has a default. */
export interface WorldOptions extends RigOptions {
  readonly size?: number;
  readonly indirect?: boolean;
  readonly eventIdx?: boolean;
  readonly inOrder?: boolean;
  /** False: queue 0 stays off. */
  readonly attached?: boolean;
}

/** See the head of the file. */
export class World {
  readonly rig: GuestRig;
  readonly packed: boolean;
  readonly size: number;
  /** Guest address of the RAM. */
  readonly base: bigint;
  readonly view: DataView;
  /** The guest's RAM. */
  readonly ram: Uint8Array;
  /** What the disk must be. */
  readonly disk: Uint8Array;
  /** Head or buffer id of what `offer` offers when nothing else is said. */
  readonly id: number;

  readonly #memory: Uint8Array;
  readonly #proper: GuestMemory;
  readonly #options: WorldOptions;
  readonly #ramBytes: number;
  #shadow: Uint8Array;
  /** Next available entry or slot; next used one. Packed: both without a wrap. */
  #avail = 0;
  #used = 0;
  /** Packed: slots of the lists that were offered and have not come back. */
  readonly #slots: number[] = [];

  constructor(build: Build, packed: boolean, where: Where, options: WorldOptions = {}) {
    const ramBytes = options.ramBytes ?? MEM;
    const base = PLACES[where](BigInt(ramBytes));
    this.rig = new GuestRig(build, { queues: 2, ...options, ramBytes, guestAddress: base });
    const { ram, memory } = this.rig;
    this.packed = packed;
    this.base = base;
    this.size = options.size ?? 256;
    this.id = packed ? 5 : 0;
    this.view = new DataView(memory.buffer, ram, ramBytes);
    this.ram = new Uint8Array(memory.buffer, ram, ramBytes);
    this.disk = this.rig.disk.slice();
    this.#ramBytes = ramBytes;
    this.#options = options;
    this.#memory = new Uint8Array(memory.buffer);
    for (const bytes of this.#outside()) bytes.fill(GUARD);
    const guestAddress = base + BigInt(PROPER);
    const region = { guestAddress, sizeBytes: PROPER_BYTES, address: ram + PROPER };
    this.#proper = new GuestMemory(memory, [region]);
    this.ram[STATUS] = UNTOUCHED;
    if (options.attached !== false) expect(this.rig.attach(0, this.config())).toBe(0);
    this.#shadow = this.ram.slice();
  }

  /** What the host is told of queue 0. */
  config(): DriverQueueConfig {
    const { packed, size } = this;
    const { indirect = true, eventIdx = false, inOrder = false } = this.#options;
    const position = packed ? WRAP_BIT : 0;
    return {
      size,
      desc: this.address(DESC),
      driver: this.address(DRIVER),
      device: this.address(DEVICE),
      packed,
      indirect,
      eventIdx,
      inOrder,
      position: { nextAvail: position, nextUsed: position },
    };
  }

  /** The address in memory of an offset in its RAM, for another name of it. */
  place(at: number): number {
    return this.rig.ram + at;
  }

  /** The guest address of an offset in its RAM, in 64 bits. */
  address(at: number): bigint {
    return BigInt.asUintN(64, this.base + BigInt(at));
  }

  /** Writes a request header. */
  header(type: number, sector: number | bigint = 0, at = HEADER): Part {
    this.view.setUint32(at, type, true);
    this.view.setUint32(at + 4, 0, true);
    this.view.setBigUint64(at + 8, BigInt(sector), true);
    return { at, length: 16, flags: 0 };
  }

  /** A usual request: header, data in the usual direction, status. */
  request(type: number, sector: number | bigint, length: number): [Part, Part, Part] {
    const reads = type === VIRTIO_BLK_T_IN || type === VIRTIO_BLK_T_GET_ID;
    const data = { at: BODY, length, flags: reads ? W : 0 };
    return [this.header(type, sector), data, { at: STATUS, length: 1, flags: W }];
  }

  /** Writes all of a descriptor; for a packed ring `next` is the buffer id. */
  put(index: number, part: Part, next: number, table = DESC): void {
    const at = table + index * DESC_SIZE;
    const address = typeof part.at === 'bigint' ? part.at : this.address(part.at);
    this.view.setBigUint64(at, address, true);
    this.view.setUint32(at + 8, part.length, true);
    this.view.setUint16(at + (this.packed ? 14 : 12), part.flags, true);
    this.view.setUint16(at + (this.packed ? 12 : 14), next, true);
  }

  /** Writes a packed descriptor that is available where the wrap counter is `wrap`. */
  putSlot(slot: number, part: Part, id = this.id, wrap = true): void {
    const others = part.flags & ~(VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED);
    const flags = others | (wrap ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED);
    this.put(slot, { ...part, flags }, id);
  }

  /**
   * Makes a chain available: split, from descriptor `first` on; packed, in the next slots, with
   * `id`. Every descriptor but the last has NEXT.
   */
  offer(parts: readonly Part[], first = 0, id = this.id): void {
    for (const [index, part] of parts.entries()) {
      const flags = part.flags | (index + 1 < parts.length ? N : 0);
      const slot = this.#avail + index;
      const wrap = Math.floor(slot / this.size) % 2 === 0;
      if (this.packed) this.putSlot(slot % this.size, { ...part, flags }, id, wrap);
      else this.put(first + index, { ...part, flags }, first + index + 1);
    }
    if (this.packed) this.skip(parts.length);
    else this.avail(first);
  }

  /** Packed: so many slots are a list that was written by hand. */
  skip(slots: number): void {
    this.#avail += slots;
    this.#slots.push(slots);
  }

  /** Split: makes heads available. `bump` moves the index on from where it is. */
  avail(...heads: number[]): void {
    for (const head of heads) {
      const slot = this.#avail % Math.max(this.size, 1);
      this.view.setUint16(DRIVER + 4 + slot * 2, head, true);
      this.#avail++;
    }
    this.bump(0);
  }

  /** Split: moves the index of the available ring. */
  bump(by: number): void {
    this.#avail += by;
    this.view.setUint16(DRIVER + 2, this.#avail & 0xffff, true);
  }

  /** Writes an indirect table: split, linked; packed, in sequence. */
  table(parts: readonly Part[], at = TABLE): Part {
    for (const [index, part] of parts.entries()) {
      const more = !this.packed && index + 1 < parts.length;
      this.put(index, { ...part, flags: part.flags | (more ? N : 0) }, more ? index + 1 : 0, at);
    }
    return { at, length: parts.length * DESC_SIZE, flags: I };
  }

  /** What a read of sectors brings. */
  sectors(sector: number, count = 1): Uint8Array {
    return this.disk.slice(sector * 512, (sector + count) * 512);
  }

  /** What the read of sector 3 writes, its data at `at`. */
  readWrites(at = BODY): [number, ArrayLike<number>][] {
    return [
      [at, this.sectors(3)],
      [STATUS, [0]],
    ];
  }

  /** What the guest has written itself since the last step counts as nobody's damage. */
  keep(): void {
    this.#shadow = this.ram.slice();
  }

  /** Kicks queue 0 and sees that what was foretold happens, and nothing else. */
  run(foretold: Foretold = {}): void {
    this.keep();
    const rounds = this.rig.run(0);
    expect(rounds).toBeLessThanOrEqual(8);
    this.check(foretold);
  }

  /** Sees that what was foretold has happened, and nothing else. */
  check(foretold: Foretold = {}): void {
    const { used = [], writes = [], disk = [], error = 0 } = foretold;
    for (const [at, bytes] of writes) this.#shadow.set(bytes, at);
    for (const [at, bytes] of disk) this.disk.set(bytes, at);
    if (this.#options.inOrder === true) this.#foretellBatch(used);
    else for (const entry of used) this.#foretellUsed(entry);
    if (used.length > 0 && !this.packed) this.#shadowView.setUint16(DEVICE + 2, this.#used, true);
    this.#forgetSuppression();
    expect(firstDifference(this.ram, this.#shadow)).toBeUndefined();
    expect(firstDifference(this.rig.disk, this.disk)).toBeUndefined();
    const { interrupt = used.length > 0 } = foretold;
    const interrupts = this.rig.takeInterrupts();
    // With EVENT_IDX the driver's event index decides, which these drivers leave at 0.
    if (this.#options.eventIdx !== true) expect(interrupts).toBe(interrupt ? 1n : 0n);
    expect(this.rig.takeBroken()).toBe(error === 0 ? 0n : 1n);
    expect(this.rig.engine.takeCompletions()).toEqual([]);
    if (error === 0) return;
    expect(this.rig.queueWord(abi.QUEUE_STATE)).toBe(abi.QUEUE_BROKEN);
    const place = [abi.QUEUE_ERROR, abi.QUEUE_ERROR_HEAD, abi.QUEUE_ERROR_DESCRIPTOR];
    const { head = 0, descriptor = 0 } = foretold;
    expect(place.map((word) => this.rig.queueWord(word))).toEqual([error, head, descriptor]);
  }

  /** Nothing is left of it, the other queue works, and this one does after a reset. */
  end(): void {
    const before = this.ram.slice();
    expect(this.rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(0);
    expect(this.rig.inFlight).toEqual([]);
    this.proper(1);
    if (this.rig.queueWord(abi.QUEUE_STATE) !== abi.QUEUE_OFF) this.rig.reset(0);
    this.proper(0);
    const now = this.ram.slice();
    now.fill(0, PROPER, PROPER + PROPER_BYTES);
    before.fill(0, PROPER, PROPER + PROPER_BYTES);
    expect(firstDifference(now, before)).toBeUndefined();
    expect(firstDifference(this.rig.disk, this.disk)).toBeUndefined();
    for (const bytes of this.#outside()) {
      expect(bytes.every((byte) => byte === GUARD)).toBe(true);
    }
  }

  /** A proper driver at a queue that is off. */
  attachProper(queue: number): BlkDriver {
    const { packed } = this;
    const driver = createDriverQueue(packed, { memory: this.#proper, size: 16 });
    expect(this.rig.attach(queue, driver.config())).toBe(0);
    return new BlkDriver({ queue: driver });
  }

  /** A proper request, of each kind, at a queue that is off. */
  proper(queue: number): void {
    const driver = this.attachProper(queue);
    const data = new Uint8Array(1024).fill(0xc0 + queue);
    const write = this.#options.engine?.readOnly === true ? undefined : driver.write(100, data);
    this.rig.finish(driver, queue);
    if (write !== undefined) this.disk.set(data, 100 * 512);
    const read = driver.read(100, 1024);
    const flush = driver.flush();
    this.rig.finish(driver, queue);
    expect([write?.status ?? 0, read.status, flush.status]).toEqual([0, 0, 0]);
    expect(firstDifference(read.data(), this.sectors(100, 2))).toBeUndefined();
    expect([write?.damage() ?? [], read.damage(), flush.damage()]).toEqual([[], [], []]);
    expect(driver.strays).toEqual([]);
    expect(this.rig.takeBroken()).toBe(0n);
    expect(this.rig.takeInterrupts()).toBe(1n << BigInt(queue));
  }

  get #shadowView(): DataView {
    return new DataView(this.#shadow.buffer);
  }

  #foretellUsed({ id = this.id, length }: Used): void {
    const view = this.#shadowView;
    if (!this.packed) {
      const element = DEVICE + 4 + (this.#used % this.size) * 8;
      view.setUint32(element, id, true);
      view.setUint32(element + 4, length, true);
      this.#used++;
      return;
    }
    const slots = this.#slots.shift();
    if (slots === undefined) throw new Error('more comes back than was offered');
    const lap = Math.floor(this.#used / this.size);
    const at = DESC + (this.#used % this.size) * DESC_SIZE;
    view.setUint32(at + 8, length, true);
    view.setUint16(at + 12, id, true);
    const wrap = lap % 2 === 0 ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0;
    view.setUint16(at + 14, wrap | (length > 0 ? W : 0), true);
    this.#used += slots;
  }

  /** IN_ORDER: the last of the chains stands for all (2.7.9, 2.8.9). */
  #foretellBatch(used: readonly Used[]): void {
    const last = used.at(-1);
    if (last === undefined) return;
    const [first = 0, ...others] = this.#slots.splice(0, used.length);
    this.#slots.unshift(others.reduce((sum, slots) => sum + slots, first));
    this.#foretellUsed(last);
    if (this.packed) return;
    this.#slots.length = 0;
    this.#used += used.length - 1;
  }

  /** Whether the device asks not to be notified is its own affair. */
  #forgetSuppression(): void {
    const keep = (at: number, bytes: number): void =>
      this.#shadow.set(this.ram.subarray(at, at + bytes), at);
    keep(DEVICE, this.packed ? 4 : 2);
    if (!this.packed) keep(DEVICE + 4 + this.size * 8, 2);
  }

  /** What lies before, between and behind the engine's memory and the guest's. */
  #outside(): Uint8Array[] {
    const { ram } = this.rig;
    const device = this.rig.exports.deviceSize(2) >>> 0;
    return [
      this.#memory.subarray(0, ENGINE_BASE),
      this.#memory.subarray(ENGINE_BASE + REGION_SIZE + device, ram),
      this.#memory.subarray(ram + this.#ramBytes),
    ];
  }
}
