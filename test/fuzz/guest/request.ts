/**
 * The requests of a guest program: type, ranges, data, and how they are cut into buffers. What is
 * made here is what drivers may do; what they must not is done to it afterwards (damage.ts).
 */

import * as blk from '../../../src/abi/virtio-blk.ts';
import { pick, PIECES } from '../input.ts';
import { parameter, type Setup } from './input.ts';
import { BUFFERS, RAM_BYTES } from './layout.ts';
import type { Ram } from './ram.ts';

/** A buffer of a chain. */
export interface Piece {
  readonly address: bigint;
  readonly length: number;
  readonly writable: boolean;
}

const SECTOR = 512;
const BARRIER = blk.VIRTIO_BLK_T_BARRIER;
const TYPES = [
  blk.VIRTIO_BLK_T_OUT,
  blk.VIRTIO_BLK_T_IN,
  blk.VIRTIO_BLK_T_FLUSH,
  blk.VIRTIO_BLK_T_GET_ID,
  blk.VIRTIO_BLK_T_DISCARD,
  blk.VIRTIO_BLK_T_WRITE_ZEROES,
  blk.VIRTIO_BLK_T_IN,
  blk.VIRTIO_BLK_T_OUT,
  blk.VIRTIO_BLK_T_OUT + BARRIER,
  blk.VIRTIO_BLK_T_IN + BARRIER,
  blk.VIRTIO_BLK_T_FLUSH_OUT,
  blk.VIRTIO_BLK_T_SECURE_ERASE,
  blk.VIRTIO_BLK_T_SCSI_CMD,
  blk.VIRTIO_BLK_T_GET_LIFETIME,
  0x1234,
  blk.VIRTIO_BLK_T_FLUSH + BARRIER,
];
/** Bytes of data. */
const LENGTHS = [512, 1024, 4096, 0, 1536, 8192, 512, 2048, 511, 513, 4608, 20, 5, 32, 16384, 19];
/** Ranges of a list. */
const COUNTS = [1, 2, 3, 32, 0, 33, 64, 65];
const RANGE_LENGTHS = [1, 8, 0, 2, 64, 300, 0xffff_ffff, 3];
const RANGE_FLAGS = [0, blk.VIRTIO_BLK_RANGE_F_UNMAP, 2, 0x8000_0000];
/** Sectors that are no disk's. */
const FAR_SECTORS = [2n ** 55n, 2n ** 64n - 1n, 2n ** 54n, 2n ** 32n, 2n ** 63n, 2n ** 55n - 1n];

/** How a request is cut: header, data, status. */
interface Cuts {
  readonly header: number;
  readonly data: number;
  readonly status: number;
}

/** Makes requests in RAM; buffers are lent one behind the other until all are given back. */
export class Requests {
  readonly #ram: Ram;
  readonly #setup: Setup;
  #free = BUFFERS;

  constructor(ram: Ram, setup: Setup) {
    this.#ram = ram;
    this.#setup = setup;
  }

  /** No buffer is in use any more. */
  release(): void {
    this.#free = BUFFERS;
  }

  /** The buffers of the request that an action describes; nothing when there is no room. */
  make(action: Uint8Array): Piece[] | undefined {
    const type = pick(TYPES, parameter(action, 1));
    const framing = parameter(action, 4);
    const cuts = { header: framing & 7, data: (framing >> 3) & 7, status: framing >> 6 };
    const kind = type % BARRIER;
    const readable = this.#writeHeader(type, parameter(action, 2));
    if (readable === undefined) return undefined;
    if (isRanged(kind)) {
      const list = this.#writeRanges(action);
      return list === undefined ? undefined : this.#cut(readable, list, 0, cuts);
    }
    const length = hasData(kind) ? pick(LENGTHS, parameter(action, 3)) : 0;
    const isOut = kind === blk.VIRTIO_BLK_T_OUT;
    return this.#cut(readable, isOut ? length : 0, isOut ? 0 : length, cuts);
  }

  #take(length: number): number | undefined {
    const at = this.#free;
    if (at + length > RAM_BYTES) return undefined;
    this.#free += length;
    return at;
  }

  #writeHeader(type: number, place: number): number | undefined {
    const at = this.#take(16);
    if (at === undefined) return undefined;
    const unit = BigInt(this.#setup.blockSectors);
    const far = place >= 250 ? FAR_SECTORS[place - 250] : undefined;
    this.#ram.set(at + blk.BLK_HEADER_TYPE, 4, type);
    this.#ram.set(at + 4, 4, 0);
    this.#ram.setU64(at + blk.BLK_HEADER_SECTOR, far ?? BigInt(place) * unit);
    return at;
  }

  /** Returns the length of the list, which lies behind the header. */
  #writeRanges(action: Uint8Array): number | undefined {
    const how = parameter(action, 3);
    const count = pick(COUNTS, how & 7);
    const list = this.#take(count * blk.BLK_RANGE_SIZE);
    if (list === undefined) return undefined;
    const flags = pick(RANGE_FLAGS, parameter(action, 7) & 3);
    for (let index = 0; index < count; index++) {
      const at = list + index * blk.BLK_RANGE_SIZE;
      this.#ram.setU64(at + blk.BLK_RANGE_SECTOR, BigInt(parameter(action, 2) + 2 * index));
      this.#ram.set(at + blk.BLK_RANGE_SECTORS, 4, pick(RANGE_LENGTHS, how >> 3));
      this.#ram.set(at + blk.BLK_RANGE_FLAGS, 4, flags);
    }
    return count * blk.BLK_RANGE_SIZE;
  }

  /** Buffers for a header at `at`, `out` bytes to read behind it, and `into` bytes to write. */
  #cut(at: number, out: number, into: number, cuts: Cuts): Piece[] | undefined {
    // The list of ranges lies behind the header already.
    const data = this.#free === at + 16 ? this.#take(out) : at + 16;
    const written = this.#take(into + 1 + STATUS_AREAS[cuts.status]!);
    if (data === undefined || written === undefined) return undefined;
    const pieces: Piece[] = [];
    const add = (start: number, length: number, writable: boolean): void => {
      pieces.push({ address: this.#ram.addressOf(start), length, writable });
    };
    const parts = pick(PIECES, cuts.data);
    const headers = HEADER_CUTS[cuts.header]!;
    const joins = headers.length === 0;
    for (const [start, length] of headers) add(at + start, length, false);
    if (joins) add(at, 16 + out, false);
    else if (out > 0) split(data, out, parts, (start, length) => add(start, length, false));
    if (cuts.status === 1) {
      add(written, into + 1, true);
      return pieces;
    }
    if (into > 0) split(written, into, parts, (start, length) => add(start, length, true));
    add(written + into, 1 + STATUS_AREAS[cuts.status]!, true);
    return pieces;
  }
}

/** [start, length] of the buffers of a header; none: one together with the data. */
const HEADER_CUTS: readonly (readonly (readonly [number, number])[])[] = [
  [[0, 16]],
  [],
  [
    [0, 4],
    [4, 4],
    [8, 8],
  ],
  [
    [0, 16],
    [0, 0],
  ],
  [
    [0, 1],
    [1, 15],
  ],
  [
    [0, 0],
    [0, 16],
  ],
  [[0, 16]],
  [[0, 16]],
];
/** Bytes before the status in its buffer. */
const STATUS_AREAS = [0, 0, 4, 511];

function isRanged(type: number): boolean {
  return (
    type === blk.VIRTIO_BLK_T_DISCARD ||
    type === blk.VIRTIO_BLK_T_WRITE_ZEROES ||
    type === blk.VIRTIO_BLK_T_SECURE_ERASE
  );
}

function hasData(type: number): boolean {
  return type !== blk.VIRTIO_BLK_T_FLUSH && type !== blk.VIRTIO_BLK_T_FLUSH_OUT;
}

function split(
  start: number,
  length: number,
  pieces: number,
  add: (start: number, length: number) => void,
): void {
  const part = Math.max(1, Math.floor(length / pieces));
  for (let at = 0; at < length;) {
    const isLast = length - at < 2 * part;
    const piece = isLast ? length - at : part;
    add(start + at, piece);
    at += piece;
  }
}

export { SECTOR };
