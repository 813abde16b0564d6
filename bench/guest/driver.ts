// A guest's driver that costs next to nothing: what its requests look like is made beforehand, and
// every request of a batch has a slot of its own with header, status byte and indirect table.

import * as blk from '../../src/abi/virtio-blk.ts';
import { QUEUE_INDIRECT, QUEUE_PACKED } from '../../src/abi/virtio-device.ts';
import * as virtq from '../../src/abi/virtio-ring.ts';
import type { QueueConfig } from './device.ts';
import { GUEST_MAP, placeOf } from './memory.ts';

/** A request to be. */
export interface BlkRequest {
  /** VIRTIO_BLK_T_*. */
  readonly type: number;
  readonly sector: number;
  readonly data: readonly { readonly address: number; readonly length: number }[];
}

/** How a driver lays its requests out. */
export interface DriverShape {
  readonly packed: boolean;
  /** Each request has one descriptor in the ring; else all have `descriptors` there. */
  readonly indirect: boolean;
  /** Most descriptors of a request. */
  readonly descriptors: number;
  /** Most requests at once. */
  readonly slots: number;
}

/** A request in words: header, then descriptors without what depends on the place in the ring. */
export type PreparedRequest = Int32Array;

const SPLIT_SIZE = 256;
const REQUEST_BYTES = 64;
const STATUS_OFFSET = 16;
const RANGE_OFFSET = 32;
const DESC_WORDS = virtq.DESC_SIZE / 4;
const HEADER_WORDS = blk.BLK_HEADER_SIZE / 4;
const PENDING = 0xff;
const WORD = 2 ** 32;

/** Where the driver leaves room for data, in the first region. */
export const DRIVER_DATA = GUEST_MAP[0].start + 4 * 2 ** 20;

/** The driver of one virtqueue. */
export class BenchDriver {
  readonly config: QueueConfig;
  readonly #shape: DriverShape;
  readonly #ints: Int32Array;
  readonly #halves: Uint16Array;
  readonly #bytes: Uint8Array;
  /** Places of the three parts, and of the slots. */
  readonly #desc: number;
  readonly #avail: number;
  readonly #used: number;
  readonly #slots: number;
  readonly #slotBytes: number;
  /** Split: of the next entry. Packed: of the next descriptor. */
  #next = 0;
  #nextUsed = 0;
  #wrap = 1;
  #usedWrap = 1;

  constructor(memory: ArrayBufferLike, shape: DriverShape) {
    const { packed, indirect, descriptors, slots } = shape;
    const size = packed ? slots * (indirect ? 1 : descriptors) : SPLIT_SIZE;
    const desc = GUEST_MAP[0].start;
    const driver = desc + size * virtq.DESC_SIZE;
    const device = driver + 2 * size + 64;
    const flags = (packed ? QUEUE_PACKED : 0) | (indirect ? QUEUE_INDIRECT : 0);
    this.config = { size, flags, desc, driver, device };
    this.#shape = shape;
    this.#ints = new Int32Array(memory);
    this.#halves = new Uint16Array(memory);
    this.#bytes = new Uint8Array(memory);
    this.#desc = placeOf(desc);
    this.#avail = placeOf(driver);
    this.#used = placeOf(device);
    this.#slots = placeOf(desc) + 2 ** 20;
    this.#slotBytes = REQUEST_BYTES + (indirect ? descriptors * virtq.DESC_SIZE : 0);
    this.#bytes.fill(0, this.#desc, this.#slots);
  }

  /** Makes a request for a slot. Ranges of DISCARD and WRITE_ZEROES are one of 4 KiB. */
  prepare(slot: number, { type, sector, data }: BlkRequest): PreparedRequest {
    const request = GUEST_MAP[0].start + (this.#slots - this.#desc) + slot * this.#slotBytes;
    const isRead = type === blk.VIRTIO_BLK_T_IN;
    const buffers = [{ address: request, length: blk.BLK_HEADER_SIZE, flags: 0 }];
    const ofData = isRead ? virtq.VIRTQ_DESC_F_WRITE : 0;
    for (const { address, length } of data) buffers.push({ address, length, flags: ofData });
    if (type === blk.VIRTIO_BLK_T_DISCARD || type === blk.VIRTIO_BLK_T_WRITE_ZEROES) {
      const range = { address: request + RANGE_OFFSET, length: blk.BLK_RANGE_SIZE, flags: 0 };
      buffers.splice(1, Infinity, range);
    }
    const status = { address: request + STATUS_OFFSET, length: 1 };
    buffers.push({ ...status, flags: virtq.VIRTQ_DESC_F_WRITE });
    const words = [type, 0, sector, sector / WORD];
    for (const { address, length, flags } of buffers) {
      const more = buffers.length * DESC_WORDS + HEADER_WORDS > words.length + DESC_WORDS;
      words.push(address, address / WORD, length, flags | (more ? virtq.VIRTQ_DESC_F_NEXT : 0));
    }
    return Int32Array.from(words, (word) => Number(BigInt.asIntN(32, BigInt(Math.floor(word)))));
  }

  /** Puts a request into its slot and into the ring. */
  submit(slot: number, request: PreparedRequest): void {
    const place = this.#slots + slot * this.#slotBytes;
    const ints = this.#ints;
    const header = place >> 2;
    for (let i = 0; i < HEADER_WORDS; i++) ints[header + i] = request[i]!;
    this.#bytes[place + STATUS_OFFSET] = PENDING;
    ints[(place + RANGE_OFFSET + blk.BLK_RANGE_SECTORS) >> 2] = 8;
    if (this.#shape.packed) this.#submitPacked(slot, place, request);
    else this.#submitSplit(slot, place, request);
  }

  /** Split: makes known what has been submitted. */
  publish(): void {
    if (this.#shape.packed) return;
    this.#halves[(this.#avail + virtq.AVAIL_IDX) >> 1] = this.#next;
  }

  /** Takes what was used; a hash of it, with the status bytes of `count` slots. */
  reap(count: number): number {
    let hash = this.#shape.packed ? this.#reapPacked(count) : this.#reapSplit(count);
    for (let slot = 0; slot < count; slot++) {
      hash += this.#bytes[this.#slots + slot * this.#slotBytes + STATUS_OFFSET]! << 16;
    }
    return hash;
  }

  #submitSplit(slot: number, place: number, request: PreparedRequest): void {
    const { indirect, descriptors } = this.#shape;
    const head = indirect ? slot : slot * descriptors;
    const ints = this.#ints;
    const first = indirect ? 0 : head;
    let at = indirect ? (place + REQUEST_BYTES) >> 2 : (this.#desc >> 2) + head * DESC_WORDS;
    for (let i = HEADER_WORDS, next = first + 1; i < request.length; i += DESC_WORDS, next++) {
      ints[at] = request[i]!;
      ints[at + 1] = request[i + 1]!;
      ints[at + 2] = request[i + 2]!;
      ints[at + 3] = request[i + 3]! | (next << 16);
      at += DESC_WORDS;
    }
    if (indirect) this.#refer(head, place, request, virtq.VIRTQ_DESC_F_INDIRECT);
    const entry = this.#next & (SPLIT_SIZE - 1);
    this.#halves[(this.#avail >> 1) + virtq.AVAIL_RING / 2 + entry] = head;
    this.#next = (this.#next + 1) & 0xffff;
  }

  #submitPacked(slot: number, place: number, request: PreparedRequest): void {
    const { indirect } = this.#shape;
    const ints = this.#ints;
    const own = this.#wrap === 1 ? virtq.VIRTQ_DESC_F_AVAIL : virtq.VIRTQ_DESC_F_USED;
    const index = this.#next;
    let at = indirect ? (place + REQUEST_BYTES) >> 2 : (this.#desc >> 2) + index * DESC_WORDS;
    const used = indirect ? 0 : own;
    for (let i = HEADER_WORDS; i < request.length; i += DESC_WORDS) {
      ints[at] = request[i]!;
      ints[at + 1] = request[i + 1]!;
      ints[at + 2] = request[i + 2]!;
      ints[at + 3] = slot | ((request[i + 3]! | used) << 16);
      at += DESC_WORDS;
      if (!indirect) this.#next++;
    }
    if (indirect) {
      this.#refer(index, place, request, slot | ((virtq.VIRTQ_DESC_F_INDIRECT | own) << 16));
      this.#next++;
    }
    if (this.#next === this.config.size) {
      this.#next = 0;
      this.#wrap ^= 1;
    }
  }

  /** A descriptor that refers to the table of a slot. */
  #refer(index: number, place: number, request: PreparedRequest, tail: number): void {
    const ints = this.#ints;
    const at = (this.#desc >> 2) + index * DESC_WORDS;
    const address = this.config.desc + (place + REQUEST_BYTES - this.#desc);
    ints[at] = address;
    ints[at + 1] = address / WORD;
    ints[at + 2] = (request.length - HEADER_WORDS) * 4;
    ints[at + 3] = tail;
  }

  #reapSplit(count: number): number {
    const index = this.#halves[(this.#used + virtq.USED_IDX) >> 1]!;
    if (((index - this.#nextUsed) & 0xffff) !== count) throw new Error(`used index ${index}`);
    let hash = 0;
    for (let i = 0; i < count; i++) {
      const entry = this.#nextUsed & (SPLIT_SIZE - 1);
      const at = (this.#used + virtq.USED_RING + entry * virtq.USED_ELEMENT_SIZE) >> 2;
      hash += this.#ints[at]! + this.#ints[at + 1]!;
      this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    }
    return hash;
  }

  #reapPacked(count: number): number {
    const { indirect, descriptors } = this.#shape;
    let hash = 0;
    for (let i = 0; i < count; i++) {
      const at = (this.#desc >> 2) + this.#nextUsed * DESC_WORDS;
      const tail = this.#ints[at + 3]!;
      const mask = virtq.VIRTQ_DESC_F_AVAIL | virtq.VIRTQ_DESC_F_USED;
      if (((tail >>> 16) & mask) !== (this.#usedWrap === 1 ? mask : 0)) {
        throw new Error(`not used: descriptor ${this.#nextUsed}`);
      }
      hash += (tail & 0xffff) + this.#ints[at + 2]!;
      this.#nextUsed += indirect ? 1 : descriptors;
      if (this.#nextUsed === this.config.size) {
        this.#nextUsed = 0;
        this.#usedWrap ^= 1;
      }
    }
    return hash;
  }
}
