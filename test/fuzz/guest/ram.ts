/**
 * The guest's RAM: where each byte of it lies, and what it should be. Whoever writes there writes
 * here too, so that what the engine has written is seen after a call, byte by byte.
 */

import { BIG, BIG_BYTES, BUFFERS, MEMORY_BYTES, RAM, RAM_BYTES } from './layout.ts';
import type { Cut } from './input.ts';

/** A part of guest memory: `size` bytes from `at` on lie at `place`. */
export interface Region {
  readonly at: number;
  readonly size: number;
  readonly place: number;
}

/** Bytes in one region. */
export interface Range {
  readonly place: number;
  readonly length: number;
}

/** Where the large region begins, as bytes from the start of RAM. */
export const BIG_AT = 0x10_0000;
/** Guest addresses further away are nowhere. */
const FAR = 2n ** 40n;
const CHUNK_BYTES = 2048;
const RAM_FILLER = 0;
const PIECES = 127;

/** The regions of a setup, in the order in which they are mapped. */
export function regionsOf(cut: Cut): Region[] {
  const place = RAM;
  switch (cut) {
    case 'one':
      return [{ at: 0, size: RAM_BYTES, place }];
    case 'two':
      return swapped([0, BUFFERS + 0x210]);
    case 'pieces':
      return swapped([0, ...Array.from({ length: 20 }, (_, i) => BUFFERS + 0x130 * (i + 1))]);
    case 'hole':
      return swapped([0, BUFFERS + 0x1010, BUFFERS + 0x1410]).filter((_, index) => index !== 1);
    case 'full':
      return swapped([0, ...Array.from({ length: PIECES - 1 }, (_, i) => BUFFERS + 0x100 * i)]);
    case 'rings':
      return swapped([0, 0x40, 0x4010, 0x4c40]);
    case 'big':
      return [
        { at: 0, size: RAM_BYTES, place },
        { at: BIG_AT, size: BIG_BYTES, place: BIG },
      ];
    case 'none':
      return [];
  }
}

/** Parts that begin at `starts`, the last of them first in memory. */
function swapped(starts: readonly number[]): Region[] {
  let place = RAM + RAM_BYTES;
  return starts.map((at, index) => {
    const size = (starts[index + 1] ?? RAM_BYTES) - at;
    place -= size;
    return { at, size, place };
  });
}

/** See the head of the file. */
export class Ram {
  regions: Region[] = [];
  base = 0n;
  readonly #bytes: Uint8Array;
  readonly #buffer: Buffer;
  readonly #shadow: Buffer;
  readonly #view: DataView;
  /** The region that was found last. */
  #last: Region | undefined;

  constructor(memory: WebAssembly.Memory) {
    this.#view = new DataView(memory.buffer);
    this.#bytes = new Uint8Array(memory.buffer);
    this.#buffer = Buffer.from(memory.buffer);
    this.#shadow = Buffer.alloc(RAM_BYTES);
  }

  /** Starts anew. */
  reset(cut: Cut, base: bigint): void {
    this.regions = [];
    this.#last = undefined;
    this.base = base;
    this.#bytes.fill(RAM_FILLER, RAM, RAM + RAM_BYTES);
    this.#shadow.fill(RAM_FILLER);
    if (cut === 'big') this.#bytes.fill(RAM_FILLER, BIG, BIG + BIG_BYTES);
  }

  /** The guest address of a byte. */
  addressOf(at: number): bigint {
    return BigInt.asUintN(64, this.base + BigInt(at));
  }

  /** The byte that a guest address names, or one that lies nowhere. */
  atOf(address: bigint): number {
    const at = BigInt.asUintN(64, address - this.base);
    return at < FAR ? Number(at) : -1;
  }

  /** The region of a byte. */
  regionAt(at: number): Region | undefined {
    const last = this.#last;
    if (last !== undefined && at >= last.at && at - last.at < last.size) return last;
    this.#last = this.regions.find((region) => at >= region.at && at - region.at < region.size);
    return this.#last;
  }

  /** Adds a region. */
  map(region: Region): void {
    this.regions.push(region);
  }

  /** Removes a region. */
  unmap(region: Region): void {
    this.regions = this.regions.filter((other) => other !== region);
    this.#last = undefined;
  }

  /** The place of a byte, or -1. */
  placeOf(at: number): number {
    const region = this.regionAt(at);
    return region === undefined ? -1 : region.place + (at - region.at);
  }

  /** The bytes from `at` on, cut by regions; nothing when some of them lie nowhere. */
  rangesOf(at: number, length: number): Range[] | undefined {
    const ranges: Range[] = [];
    for (let done = 0; done < length;) {
      const region = this.regionAt(at + done);
      if (region === undefined) return undefined;
      const piece = Math.min(length - done, region.size - (at + done - region.at));
      ranges.push({ place: region.place + (at + done - region.at), length: piece });
      done += piece;
    }
    return ranges;
  }

  /** True when all bytes at a place belong to regions. */
  isCovered(place: number, length: number): boolean {
    let at = place;
    while (at < place + length) {
      const region = this.regions.find((one) => at >= one.place && at - one.place < one.size);
      if (region === undefined) return false;
      at = region.place + region.size;
    }
    return true;
  }

  /** The byte that lies at a place, or -1. */
  atPlace(place: number): number {
    const region = this.regions.find((one) => place >= one.place && place - one.place < one.size);
    return region === undefined ? -1 : region.at + (place - region.place);
  }

  /** Writes a byte at a place, by somebody who may. */
  storeAt(place: number, value: number): void {
    if (place < RAM || place >= MEMORY_BYTES) return;
    this.#bytes[place] = value;
    if (place < RAM + RAM_BYTES) this.#shadow[place - RAM] = value;
  }

  /** The byte at a place. */
  loadAt(place: number): number {
    return this.#bytes[place] ?? 0;
  }

  /** Writes a number of 2 or 4 bytes; what lies nowhere is dropped. */
  set(at: number, size: number, value: number): void {
    const region = this.regionAt(at);
    const place = region === undefined ? 0 : region.place + (at - region.at);
    const isWhole = region !== undefined && at + size <= region.at + region.size;
    if (isWhole && place + size <= RAM + RAM_BYTES) {
      this.#store(place, size, value);
      return;
    }
    let rest = value;
    for (let byte = 0; byte < size; byte++) {
      this.storeAt(this.placeOf(at + byte), rest & 0xff);
      rest = Math.floor(rest / 256);
    }
  }

  /** Writes 2 or 4 bytes that lie in RAM together. */
  #store(place: number, size: number, value: number): void {
    if (size === 2) {
      this.#view.setUint16(place, value, true);
      this.#shadow.writeUInt16LE(value & 0xffff, place - RAM);
    } else {
      this.#view.setUint32(place, value, true);
      this.#shadow.writeUInt32LE(value >>> 0, place - RAM);
    }
  }

  /** Writes 64 bits. */
  setU64(at: number, value: bigint): void {
    this.set(at, 4, Number(value & 0xffff_ffffn));
    this.set(at + 4, 4, Number((value >> 32n) & 0xffff_ffffn));
  }

  /** A number of 2 or 4 bytes; what lies nowhere is 0. */
  get(at: number, size: number): number {
    const region = this.regionAt(at);
    if (region !== undefined && at + size <= region.at + region.size) {
      const place = region.place + (at - region.at);
      return size === 2 ? this.#view.getUint16(place, true) : this.#view.getUint32(place, true);
    }
    let value = 0;
    for (let byte = size - 1; byte >= 0; byte--) {
      const place = this.placeOf(at + byte);
      value = value * 256 + (place < 0 ? 0 : this.loadAt(place));
    }
    return value;
  }

  /** 64 bits. */
  getU64(at: number): bigint {
    return BigInt(this.get(at, 4)) | (BigInt(this.get(at + 4, 4)) << 32n);
  }

  /** The places that differ from what they should be; they are taken as they are from now on. */
  changes(): number[] {
    const places: number[] = [];
    for (let at = 0; at < RAM_BYTES; at += CHUNK_BYTES) {
      const end = at + CHUNK_BYTES;
      if (this.#shadow.compare(this.#buffer, RAM + at, RAM + end, at, end) === 0) continue;
      for (let byte = at; byte < end; byte++) {
        if (this.#shadow[byte] !== this.#bytes[RAM + byte]) places.push(RAM + byte);
      }
      this.#buffer.copy(this.#shadow, at, RAM + at, RAM + end);
    }
    return places;
  }
}
