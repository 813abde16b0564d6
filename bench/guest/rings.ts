// Virtqueues full of virtio-blk requests, made once and copied into place for each sample: several
// sets of inputs, because a branch predictor learns what is repeated.

import * as blk from '../../src/abi/virtio-blk.ts';
import * as virtq from '../../src/abi/virtio-ring.ts';
import type { Random } from '../random.ts';
import { GUEST_MAP, placeOf } from './memory.ts';

/** What the rings of a row look like. */
export interface RingShape {
  readonly packed: boolean;
  readonly indirect: boolean;
  /** Descriptors of a chain, at least 2. */
  readonly descriptors: number;
  /** Chains that stand in each queue; a power of two. */
  readonly chains: number;
  readonly queues: number;
}

/** Where a virtqueue lies, in guest addresses. */
export interface GuestQueue {
  readonly size: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
}

/** A descriptor to be: a buffer. */
export interface GuestBuffer {
  readonly address: number;
  readonly length: number;
  readonly writable: boolean;
}

const SPLIT_SIZE = 256;
/** The request and the status byte behind it have a slot of their own. */
const REQUEST_BYTES = 64;
const STATUS_OFFSET = 16;
const SECTOR = 512;
const PAGE = 4096;
const DISK_SECTORS = 2 ** 35;
/** Guest pages of data in the first region, and in the second, where every eighth buffer is. */
const FIRST_DATA = 8 * 2 ** 20;
const DATA_PAGES = 2000;
const OTHER_REGION = 8;
const WORD = 2 ** 32;

/** Entries of a ring of this shape. */
export function ringSize({ packed, indirect, descriptors, chains }: RingShape): number {
  if (!packed) return SPLIT_SIZE;
  return indirect ? chains : chains * descriptors;
}

/** Bytes of a queue of this shape with its indirect tables and its requests. */
function queueBytes(shape: RingShape): number {
  const requests = shape.chains * REQUEST_BYTES;
  const tables = shape.indirect ? shape.chains * shape.descriptors * virtq.DESC_SIZE : 0;
  return tablesOffset(shape) + Math.ceil((requests + tables) / PAGE) * PAGE;
}

function driverOffset(shape: RingShape): number {
  return ringSize(shape) * virtq.DESC_SIZE;
}

function deviceOffset(shape: RingShape): number {
  const driver = shape.packed
    ? virtq.EVENT_SIZE
    : virtq.RING_EXTRA_BYTES + ringSize(shape) * virtq.AVAIL_ENTRY_SIZE;
  return driverOffset(shape) + Math.ceil(driver / 64) * 64;
}

function tablesOffset(shape: RingShape): number {
  const device = virtq.RING_EXTRA_BYTES + ringSize(shape) * virtq.USED_ELEMENT_SIZE;
  return Math.ceil((deviceOffset(shape) + device) / PAGE) * PAGE;
}

/** Where queue `number` lies. */
export function guestQueue(shape: RingShape, number: number): GuestQueue {
  const desc = GUEST_MAP[0].start + number * queueBytes(shape);
  return {
    size: ringSize(shape),
    desc,
    driver: desc + driverOffset(shape),
    device: desc + deviceOffset(shape),
  };
}

/** Sets of filled rings for one memory. */
export class GuestRings {
  readonly shape: RingShape;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #random: Random;
  /** By set and, of packed rings, by wrap counter. */
  readonly #images: Uint8Array[] = [];
  readonly #length: number;

  constructor(memory: ArrayBufferLike, shape: RingShape, sets: number, random: Random) {
    this.shape = shape;
    this.#length = shape.queues * queueBytes(shape);
    if (this.#length > FIRST_DATA) throw new RangeError('the rings lie where the data are');
    this.#bytes = new Uint8Array(memory, GUEST_MAP[0].place, this.#length);
    this.#view = new DataView(memory);
    this.#random = random;
    for (let set = 0; set < sets; set++) this.#build();
  }

  /**
   * Puts a set in place: all chains are available to a device that has taken `laps` sets before.
   * @param sample takes the sets in turn
   */
  install(sample: number, laps: number): void {
    const { packed, chains, queues } = this.shape;
    const sets = this.#images.length / 2;
    this.#bytes.set(this.#images[2 * (sample % sets) + (laps & 1)]!);
    if (packed) return;
    for (let number = 0; number < queues; number++) {
      const avail = placeOf(guestQueue(this.shape, number).driver);
      this.#view.setUint16(avail + virtq.AVAIL_IDX, ((laps + 1) * chains) & 0xffff, true);
    }
  }

  #build(): void {
    this.#bytes.fill(0);
    for (let number = 0; number < this.shape.queues; number++) this.#fillQueue(number);
    this.#images.push(this.#bytes.slice());
    if (this.shape.packed) this.#turnWrap();
    this.#images.push(this.#bytes.slice());
  }

  /** What was available in one lap is so in the next one by the opposite bits. */
  #turnWrap(): void {
    const size = ringSize(this.shape);
    for (let number = 0; number < this.shape.queues; number++) {
      const ring = placeOf(guestQueue(this.shape, number).desc);
      for (let at = ring; at < ring + size * virtq.DESC_SIZE; at += virtq.DESC_SIZE) {
        const flags = this.#view.getUint16(at + virtq.PACKED_DESC_FLAGS, true);
        const turned = flags ^ (virtq.VIRTQ_DESC_F_AVAIL | virtq.VIRTQ_DESC_F_USED);
        this.#view.setUint16(at + virtq.PACKED_DESC_FLAGS, turned, true);
      }
    }
  }

  #fillQueue(number: number): void {
    const { packed, indirect, chains, descriptors } = this.shape;
    const queue = guestQueue(this.shape, number);
    const tables = queue.desc + tablesOffset(this.shape);
    const requests = tables + (indirect ? chains * descriptors * virtq.DESC_SIZE : 0);
    const slots = shuffled(this.#random, packed ? chains : queue.size);
    const places = shuffled(this.#random, chains);
    for (let chain = 0; chain < chains; chain++) {
      const buffers = this.#request(requests + places[chain]! * REQUEST_BYTES);
      let ring = buffers;
      if (indirect) {
        const table = tables + places[chain]! * descriptors * virtq.DESC_SIZE;
        this.#writeTable(table, buffers);
        const length = descriptors * virtq.DESC_SIZE;
        ring = [{ address: table, length, writable: false }];
      }
      if (packed) this.#addPacked(queue, chain * ring.length, slots[chain]!, ring);
      else this.#addSplit(queue, chain, slots.splice(-ring.length), ring);
    }
  }

  /** The buffers of a random request whose header and status lie at `slot`. */
  #request(slot: number): GuestBuffer[] {
    const { descriptors } = this.shape;
    const random = this.#random;
    const kind = random.below(descriptors === 2 ? 3 : 2);
    const type = [blk.VIRTIO_BLK_T_IN, blk.VIRTIO_BLK_T_OUT, blk.VIRTIO_BLK_T_FLUSH][kind]!;
    const isRead = type === blk.VIRTIO_BLK_T_IN;
    this.#header(slot, type, kind === 2 ? 0 : random.below(DISK_SECTORS));
    const header = { address: slot, length: blk.BLK_HEADER_SIZE, writable: false };
    const status = { address: slot + STATUS_OFFSET, length: 1, writable: true };
    if (descriptors > 2) {
      const data = Array.from({ length: descriptors - 2 }, () => this.#data(isRead));
      return [header, ...data, status];
    }
    // Framing is free: what is of one direction may share a descriptor.
    if (kind === 2) return [header, status];
    const data = this.#data(isRead);
    if (isRead) return [header, { ...data, length: data.length + 1 }];
    return [{ ...header, length: blk.BLK_HEADER_SIZE + data.length }, status];
  }

  #data(writable: boolean): GuestBuffer {
    const random = this.#random;
    const isFirst = random.below(OTHER_REGION) !== 0;
    const start = isFirst ? GUEST_MAP[0].start + FIRST_DATA : GUEST_MAP[1]!.start;
    const address = start + random.below(DATA_PAGES) * PAGE;
    return { address, length: (1 + random.below(PAGE / SECTOR)) * SECTOR, writable };
  }

  #header(address: number, type: number, sector: number): void {
    const at = placeOf(address);
    this.#view.setUint32(at + blk.BLK_HEADER_TYPE, type, true);
    this.#view.setUint32(at + blk.BLK_HEADER_SECTOR, sector, true);
    this.#view.setUint32(at + blk.BLK_HEADER_SECTOR + 4, sector / WORD, true);
  }

  /** An indirect table, as drivers write it: one entry after the other. */
  #writeTable(table: number, buffers: readonly GuestBuffer[]): void {
    buffers.forEach((buffer, i) => {
      const at = placeOf(table) + i * virtq.DESC_SIZE;
      const more = i + 1 < buffers.length;
      writeBuffer(this.#view, at, buffer);
      if (this.shape.packed) writePacked(this.#view, at, 0, flagsOf(buffer, false));
      else writeSplit(this.#view, at, flagsOf(buffer, more), more ? i + 1 : 0);
    });
  }

  #addSplit(
    queue: GuestQueue,
    chain: number,
    slots: readonly number[],
    buffers: readonly GuestBuffer[],
  ): void {
    buffers.forEach((buffer, i) => {
      const at = placeOf(queue.desc) + slots[i]! * virtq.DESC_SIZE;
      const flags = this.shape.indirect ? virtq.VIRTQ_DESC_F_INDIRECT : 0;
      writeBuffer(this.#view, at, buffer);
      writeSplit(this.#view, at, flags | flagsOf(buffer, i + 1 < slots.length), slots[i + 1] ?? 0);
    });
    const ring = placeOf(queue.driver) + virtq.AVAIL_RING;
    for (let entry = chain; entry < queue.size; entry += this.shape.chains) {
      this.#view.setUint16(ring + entry * virtq.AVAIL_ENTRY_SIZE, slots[0]!, true);
    }
  }

  #addPacked(queue: GuestQueue, from: number, id: number, buffers: readonly GuestBuffer[]): void {
    buffers.forEach((buffer, i) => {
      const at = placeOf(queue.desc) + (from + i) * virtq.DESC_SIZE;
      const flags = this.shape.indirect ? virtq.VIRTQ_DESC_F_INDIRECT : 0;
      const more = flagsOf(buffer, i + 1 < buffers.length);
      writeBuffer(this.#view, at, buffer);
      writePacked(this.#view, at, id, flags | more | virtq.VIRTQ_DESC_F_AVAIL);
    });
  }
}

function flagsOf({ writable }: GuestBuffer, more: boolean): number {
  return (more ? virtq.VIRTQ_DESC_F_NEXT : 0) | (writable ? virtq.VIRTQ_DESC_F_WRITE : 0);
}

/** Address and length of a descriptor. */
function writeBuffer(view: DataView, at: number, { address, length }: GuestBuffer): void {
  view.setUint32(at + virtq.DESC_ADDRESS, address, true);
  view.setUint32(at + virtq.DESC_ADDRESS + 4, address / WORD, true);
  view.setUint32(at + virtq.DESC_LENGTH, length, true);
}

function writeSplit(view: DataView, at: number, flags: number, next: number): void {
  view.setUint16(at + virtq.SPLIT_DESC_FLAGS, flags, true);
  view.setUint16(at + virtq.SPLIT_DESC_NEXT, next, true);
}

function writePacked(view: DataView, at: number, id: number, flags: number): void {
  view.setUint16(at + virtq.PACKED_DESC_ID, id, true);
  view.setUint16(at + virtq.PACKED_DESC_FLAGS, flags, true);
}

/** The numbers from 0 to `count` - 1 in random order. */
function shuffled(random: Random, count: number): number[] {
  const numbers = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [numbers[i], numbers[j]] = [numbers[j]!, numbers[i]!];
  }
  return numbers;
}
