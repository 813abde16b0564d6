// A chain walked by typed arrays: the same checks in the same order as bench/c/ring.c. Places are
// byte offsets into the memory; guest addresses are two words, never BigInt.

import { BLK_HEADER_SIZE, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../src/abi/virtio-blk.ts';
import * as device from '../../src/abi/virtio-device.ts';
import * as virtq from '../../src/abi/virtio-ring.ts';

/** Where a queue lies: places, and as much of the features as matters. */
export interface RingPlaces {
  readonly size: number;
  /** QUEUE_PACKED, QUEUE_INDIRECT. */
  readonly flags: number;
  readonly desc: number;
  /** The available ring (split). */
  readonly avail: number;
}

// The record of a chain, in words. The header is copied to its start.
const TYPE = 0;
const SECTOR = 2;
const LENGTH = 4;
const SEGMENTS = 6;
const STATUS = 7;
const ERROR = 8;
const ID = 9;
const SLOTS = 10;
const TABLE = 11;
const LIST = 12;
const INLINE = 16;
const TABLE_WORDS = 2 * device.CHAIN_DESCRIPTORS;

/** The words of a chain: what it asks for, and where its segments are. */
export const CHAIN = { TYPE, SECTOR, LENGTH, SEGMENTS, STATUS, ERROR, ID, SLOTS, LIST } as const;
/** Words of a chain. */
export const CHAIN_WORDS = INLINE + 2 * device.CHAIN_SEGMENTS;

/** An indirect table that is not aligned is copied. */
const INDIRECT_ENTRIES = 65535;

/** Bytes that a `ChainWalk` needs for its tables. */
const WALK_BYTES = 4 * TABLE_WORDS * device.CHAIN_TABLES + INDIRECT_ENTRIES * virtq.DESC_SIZE;

/** What a chain is as a request. */
const CHAIN_OK = 0;
const CHAIN_SHORT_HEADER = 1;
const CHAIN_NO_STATUS = 2;

/** What a walk returns when all has gone well. */
export const FINE = 0;

const BYTES_LIMIT = 2 ** 32;
const NONE = -1;

/** Walks chains: one at a time. */
export class ChainWalk {
  /** The memory. What is read as signed stays a small integer, which is not boxed. */
  readonly #ints: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #copy: number;
  readonly #tablePile: number[] = [];
  /** Four words for each region: start (two words), size, place. */
  readonly #regions = new Int32Array(4 * device.GUEST_REGIONS);
  #regionCount = 0;
  // The region that was hit last; near: its bytes whose addresses have the upper word of its start.
  #startLow = 0;
  #startHigh = 0;
  #size = 0;
  #place = 0;
  #near = 0;
  // The walk along one chain: its list, as words, and its end; where the writable part begins.
  #start = 0;
  #list = 0;
  #end = 0;
  #writableList = 0;
  #readable = 0;
  /** BLK_HEADER_SIZE once the whole header has been copied, else 0. */
  #header = 0;
  #headerBytes = 0;
  #table = 0;

  /** @param place where the tables shall lie: WALK_BYTES from there on are this walk's */
  constructor(memory: ArrayBufferLike, place: number) {
    if (place + WALK_BYTES > memory.byteLength) throw new RangeError('no room for the tables');
    this.#ints = new Int32Array(memory);
    this.#bytes = new Uint8Array(memory);
    this.#copy = place + 4 * TABLE_WORDS * device.CHAIN_TABLES;
    for (let i = device.CHAIN_TABLES - 1; i >= 0; i--) {
      this.#tablePile.push((place >>> 2) + i * TABLE_WORDS);
    }
  }

  /** Makes guest memory from `start` on known. */
  map(start: number, sizeBytes: number, place: number): void {
    const region = [start, start / BYTES_LIMIT, sizeBytes, place];
    this.#regions.set(region, 4 * this.#regionCount++);
  }

  /** Tables that are free: a walk takes one when its list is long. */
  get tables(): number {
    return this.#tablePile.length;
  }

  /** Gives the table of a chain back. */
  release(chain: number): void {
    const table = this.#ints[chain + TABLE]!;
    if (table !== 0) this.#tablePile.push(table);
  }

  /** Follows the descriptors of a chain; FINE or RING_ERROR_*. */
  walk(queue: RingPlaces, chain: number, head: number, isPacked: boolean): number {
    const ints = this.#ints;
    let table = queue.desc >> 2;
    let limit = queue.size;
    let index = head;
    let seen = 0;
    let count = 0;
    let total = 0;
    let direction = 0;
    let isTable = false;
    let list = this.#begin(chain, head);
    let end = this.#end;
    for (;;) {
      const at = table + index * 4;
      const low = ints[at]!;
      const high = ints[at + 1]!;
      const length = ints[at + 2]!;
      const tail = ints[at + 3]!;
      const flags = isPacked ? tail >>> 16 : tail;
      if (++seen > limit) return device.RING_ERROR_LOOP;
      if ((flags & virtq.VIRTQ_DESC_F_INDIRECT) !== 0 && !(isPacked && isTable)) {
        const error = this.#enter(queue, low, high, length, flags, isTable, seen);
        if (error !== FINE) return error;
        if (isPacked) ints[chain + ID] = tail & 0xffff;
        table = this.#table >> 2;
        limit = length >>> 4;
        index = seen = 0;
        isTable = true;
        continue;
      }
      if (++count > device.CHAIN_DESCRIPTORS) return device.RING_ERROR_DESCRIPTORS;
      const writable = flags & virtq.VIRTQ_DESC_F_WRITE;
      if (writable < direction) return device.RING_ERROR_ORDER;
      if (writable > direction) {
        this.#readable = total;
        this.#writableList = list;
        direction = writable;
      }
      total += length >>> 0;
      if (total >= BYTES_LIMIT) return device.RING_ERROR_BYTES;
      const offset = (low - this.#startLow) | 0;
      const isHere = high === this.#startHigh && offset >= 0 && length <= this.#near - offset;
      if (isHere && length > 0 && list < end && (writable | this.#header) !== 0) {
        ints[list] = this.#place + offset;
        ints[list + 1] = length;
        list += 2;
      } else if (isHere && length === BLK_HEADER_SIZE && (writable | this.#headerBytes) === 0) {
        this.#copyHeader(chain, this.#place + offset, length);
      } else if (length !== 0) {
        const error = this.#addParts(chain, list, low, high, length >>> 0, writable);
        if (error !== FINE) return error;
        list = this.#list;
        end = this.#end;
      }
      if (isPacked && isTable) {
        if (++index === limit) break;
      } else {
        if ((flags & virtq.VIRTQ_DESC_F_NEXT) === 0) {
          if (isPacked) this.#setId(chain, tail & 0xffff, seen);
          break;
        }
        index = isPacked ? (index + 1 === limit ? 0 : index + 1) : tail >>> 16;
        if (index >= limit) return device.RING_ERROR_NEXT;
      }
    }
    this.#finish(chain, list, total, direction);
    return FINE;
  }

  /** A walk that has found nothing yet; returns where its list begins. */
  #begin(chain: number, head: number): number {
    const ints = this.#ints;
    ints[chain + TABLE] = 0;
    ints[chain + ID] = head;
    ints[chain + SLOTS] = 1;
    this.#start = this.#list = chain + INLINE;
    this.#end = this.#start + 2 * device.CHAIN_SEGMENTS;
    this.#header = 0;
    this.#headerBytes = 0;
    this.#readable = 0;
    this.#writableList = 0;
    return this.#start;
  }

  #setId(chain: number, id: number, slots: number): void {
    this.#ints[chain + ID] = id;
    this.#ints[chain + SLOTS] = slots;
  }

  /** What a walk has found as a request: where the data lie, and the status byte. */
  #finish(chain: number, listEnd: number, total: number, direction: number): void {
    const ints = this.#ints;
    const readable = direction === 0 ? total : this.#readable;
    const turn = direction === 0 ? listEnd : this.#writableList;
    const start = this.#start;
    let end = listEnd;
    let status = 0;
    let error = CHAIN_OK;
    if (end === turn) error = CHAIN_NO_STATUS;
    else {
      const length = (ints[end - 1]! - 1) | 0;
      ints[end - 1] = length;
      status = (ints[end - 2]! + length) | 0;
      if (length === 0) end -= 2;
    }
    let length = 0;
    let first = start;
    let last = start;
    const type = ints[chain + TYPE]!;
    if (this.#header === 0) {
      ints.fill(0, chain, chain + 4);
      if (error === CHAIN_OK) error = CHAIN_SHORT_HEADER;
    } else if (type === VIRTIO_BLK_T_OUT) {
      last = turn;
      length = readable - BLK_HEADER_SIZE;
    } else if (type === VIRTIO_BLK_T_IN && error === CHAIN_OK) {
      first = turn;
      last = end;
      length = total - readable - 1;
    }
    ints[chain + LENGTH] = length;
    ints[chain + LIST] = first;
    ints[chain + SEGMENTS] = (last - first) >> 1;
    ints[chain + STATUS] = status;
    ints[chain + ERROR] = error;
  }

  /** A buffer that has a part of the header, that regions cut, or that needs a longer list. */
  #addParts(
    chain: number,
    list: number,
    low: number,
    high: number,
    length: number,
    writable: number,
  ): number {
    let address = low >>> 0;
    let upper = high;
    let left = length;
    this.#list = list;
    while (left > 0) {
      if (!this.#find(address | 0, upper)) return device.RING_ERROR_RANGE;
      const offset = (address - this.#startLow) >>> 0;
      const part = Math.min(this.#size - offset, left);
      const place = this.#place + offset;
      const copied =
        writable === 0 && this.#header === 0 ? this.#copyHeader(chain, place, part) : 0;
      if (copied < part) {
        const error = this.#append(chain, place + copied, part - copied);
        if (error !== FINE) return error;
      }
      left -= part;
      address += part;
      if (address >= BYTES_LIMIT) {
        address -= BYTES_LIMIT;
        upper = (upper + 1) | 0;
      }
    }
    return FINE;
  }

  /** Copies what a part has of the header; returns how many bytes that are. */
  #copyHeader(chain: number, place: number, part: number): number {
    const ints = this.#ints;
    const had = this.#headerBytes;
    if (had === 0 && part >= BLK_HEADER_SIZE && (place & 3) === 0) {
      const from = place >> 2;
      ints[chain] = ints[from]!;
      ints[chain + 1] = ints[from + 1]!;
      ints[chain + 2] = ints[from + 2]!;
      ints[chain + 3] = ints[from + 3]!;
      this.#header = BLK_HEADER_SIZE;
      this.#headerBytes = BLK_HEADER_SIZE;
      return BLK_HEADER_SIZE;
    }
    const copied = Math.min(part, BLK_HEADER_SIZE - had);
    this.#bytes.copyWithin(4 * chain + had, place, place + copied);
    this.#headerBytes = had + copied;
    if (this.#headerBytes === BLK_HEADER_SIZE) this.#header = BLK_HEADER_SIZE;
    return copied;
  }

  /** Appends a segment; a list that is full goes on in a table. */
  #append(chain: number, place: number, length: number): number {
    const ints = this.#ints;
    if (this.#list === this.#end) {
      const table = ints[chain + TABLE] === 0 ? this.#tablePile.pop() : undefined;
      if (table === undefined) return device.RING_ERROR_DESCRIPTORS;
      ints.copyWithin(table, this.#start, this.#end);
      ints[chain + TABLE] = table;
      if (this.#writableList !== 0) this.#writableList += table - this.#start;
      this.#list += table - this.#start;
      this.#start = table;
      this.#end = table + TABLE_WORDS;
    }
    ints[this.#list] = place;
    ints[this.#list + 1] = length;
    this.#list += 2;
    return FINE;
  }

  /** Whether a descriptor may refer to an indirect table; the place of the table in #table. */
  #enter(
    queue: RingPlaces,
    low: number,
    high: number,
    length: number,
    flags: number,
    isIndirect: boolean,
    seen: number,
  ): number {
    const isPacked = (queue.flags & device.QUEUE_PACKED) !== 0;
    if (isIndirect) return device.RING_ERROR_INDIRECT_NESTED;
    if (isPacked && seen > 1) return device.RING_ERROR_INDIRECT_NEXT;
    if ((queue.flags & device.QUEUE_INDIRECT) === 0) return device.RING_ERROR_INDIRECT_FEATURE;
    if ((flags & virtq.VIRTQ_DESC_F_NEXT) !== 0) return device.RING_ERROR_INDIRECT_NEXT;
    const entries = length >>> 4;
    if (length === 0 || (length & 15) !== 0 || entries > INDIRECT_ENTRIES) {
      return device.RING_ERROR_INDIRECT_LENGTH;
    }
    this.#table = this.#translate(low, high, length);
    if (this.#table === NONE) return device.RING_ERROR_RANGE;
    if ((this.#table & 3) !== 0) {
      this.#bytes.copyWithin(this.#copy, this.#table, this.#table + length);
      this.#table = this.#copy;
    }
    return FINE;
  }

  /** The place of a range that lies in one region, or -1. */
  #translate(low: number, high: number, length: number): number {
    if (!this.#find(low, high)) return NONE;
    const offset = (low - this.#startLow) >>> 0;
    return length >>> 0 <= this.#size - offset ? this.#place + offset : NONE;
  }

  /** Whether a guest address is known; its region is then the one that was hit last. */
  #find(low: number, high: number): boolean {
    const isHere = high === this.#startHigh && (low - this.#startLow) >>> 0 < this.#near;
    return isHere || this.#search(low, high);
  }

  #search(low: number, high: number): boolean {
    const regions = this.#regions;
    for (let at = 0; at < 4 * this.#regionCount; at += 4) {
      const start = regions[at]!;
      const borrow = low >>> 0 < start >>> 0 ? 1 : 0;
      const isHere = ((high - regions[at + 1]! - borrow) | 0) === 0;
      if (isHere && (low - start) >>> 0 < regions[at + 2]!) {
        this.#startLow = start;
        this.#startHigh = regions[at + 1]!;
        this.#size = regions[at + 2]!;
        this.#place = regions[at + 3]!;
        this.#near = Math.min(this.#size, BYTES_LIMIT - (start >>> 0));
        return true;
      }
    }
    return false;
  }
}
