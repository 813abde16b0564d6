/**
 * Replies on their way out: headers and small data lie behind each other in one buffer, large data
 * stays in the arena and is gathered between them.
 *
 *   buffer   | header data | header |        | header |
 *   arena                            data 1            data 2      gathers: position in the buffer
 *
 * P1  A buffer of the arena is released when its data was copied, or sent, or given up; never
 *     before.
 * P2  There is always room for the headers of all requests of the connection.
 */
import { isSmall } from '../arena.ts';
import type { Device } from '../device.ts';
import { GATHER_BYTES, MAX_REQUESTS, REPLY_BUFFER_BYTES } from './limits.ts';
import {
  CHUNK_SIZE,
  CONTEXT_ID,
  REPLY_FLAG_DONE,
  REPLY_TYPE_BLOCK_STATUS,
  REPLY_TYPE_ERROR,
  REPLY_TYPE_NONE,
  REPLY_TYPE_OFFSET_DATA,
  SIMPLE_REPLY_MAGIC,
  SIMPLE_REPLY_SIZE,
  STRUCTURED_REPLY_MAGIC,
} from './protocol.ts';

/** The largest header: a chunk with an offset. */
const HEADER_BYTES = CHUNK_SIZE + 8;
const RESERVED_BYTES = MAX_REQUESTS * HEADER_BYTES;
const WORD = 2 ** 32;

export class Replies {
  readonly #device: Device;
  readonly #buffer = new Uint8Array(REPLY_BUFFER_BYTES + RESERVED_BYTES);
  readonly #view = new DataView(this.#buffer.buffer);
  #used = 0;
  /** Bytes of all gathered data. */
  #gatheredBytes = 0;
  #gathers = 0;
  readonly #gatherAt = new Uint32Array(MAX_REQUESTS);
  readonly #gatherAddress = new Uint32Array(MAX_REQUESTS);
  readonly #gatherLength = new Uint32Array(MAX_REQUESTS);
  /** What the arena was asked for, to release it. */
  readonly #gatherBuffer = new Uint32Array(MAX_REQUESTS);
  #count = 0;
  #heldSmallBytes = 0;
  #heldLargeBytes = 0;

  constructor(device: Device) {
    this.#device = device;
  }

  /** Replies collected. */
  get count(): number {
    return this.#count;
  }

  /** Bytes of small buffers that are held until `clear`. */
  get heldSmallBytes(): number {
    return this.#heldSmallBytes;
  }

  /** Bytes of large buffers that are held until `clear`. */
  get heldLargeBytes(): number {
    return this.#heldLargeBytes;
  }

  /** Bytes to send. */
  get lengthBytes(): number {
    return this.#used + this.#gatheredBytes;
  }

  /** The bytes to send when they are in one piece, else undefined. */
  get contiguous(): Uint8Array | undefined {
    return this.#gathers === 0 ? this.#buffer : undefined;
  }

  /** NBD proto, "Simple reply message". */
  simple(cookieHigh: number, cookieLow: number, error: number): void {
    const at = this.#used;
    const view = this.#view;
    view.setUint32(at, SIMPLE_REPLY_MAGIC);
    view.setUint32(at + 4, error);
    view.setUint32(at + 8, cookieHigh);
    view.setUint32(at + 12, cookieLow);
    this.#used = at + SIMPLE_REPLY_SIZE;
    this.#count++;
  }

  /** A reply of no content: NBD_REPLY_TYPE_NONE. */
  none(cookieHigh: number, cookieLow: number): void {
    this.#chunk(REPLY_TYPE_NONE, cookieHigh, cookieLow, 0);
  }

  /** NBD_REPLY_TYPE_ERROR without a message. */
  error(cookieHigh: number, cookieLow: number, error: number): void {
    const at = this.#chunk(REPLY_TYPE_ERROR, cookieHigh, cookieLow, 6);
    this.#view.setUint32(at, error);
    this.#view.setUint16(at + 4, 0);
    this.#used = at + 6;
  }

  /** The header of NBD_REPLY_TYPE_OFFSET_DATA; `data` must follow. */
  offsetData(cookieHigh: number, cookieLow: number, offset: number, lengthBytes: number): void {
    const at = this.#chunk(REPLY_TYPE_OFFSET_DATA, cookieHigh, cookieLow, 8 + lengthBytes);
    this.#view.setUint32(at, Math.floor(offset / WORD));
    this.#view.setUint32(at + 4, offset % WORD);
    this.#used = at + 8;
  }

  /**
   * Data behind the last header.
   * @param bufferBytes what the arena was asked for; the buffer belongs to the reply now
   * @returns true when the buffer was copied and released, false when it is held until `clear`
   */
  data(address: number, lengthBytes: number, bufferBytes: number): boolean {
    const fits = this.#used + lengthBytes + RESERVED_BYTES <= this.#buffer.length;
    if (lengthBytes < GATHER_BYTES && fits) {
      this.#buffer.set(this.#device.bytes.subarray(address, address + lengthBytes), this.#used);
      this.#used += lengthBytes;
      this.#device.arena.release(address, bufferBytes);
      return true;
    }
    const index = this.#gathers++;
    this.#gatherAt[index] = this.#used;
    this.#gatherAddress[index] = address;
    this.#gatherLength[index] = lengthBytes;
    this.#gatherBuffer[index] = bufferBytes;
    this.#gatheredBytes += lengthBytes;
    if (isSmall(bufferBytes)) this.#heldSmallBytes += bufferBytes;
    else this.#heldLargeBytes += bufferBytes;
    return false;
  }

  /** The header of NBD_REPLY_TYPE_BLOCK_STATUS; `data` of the extents must follow. */
  blockStatus(cookieHigh: number, cookieLow: number, lengthBytes: number): void {
    const at = this.#chunk(REPLY_TYPE_BLOCK_STATUS, cookieHigh, cookieLow, 4 + lengthBytes);
    this.#view.setUint32(at, CONTEXT_ID);
    this.#used = at + 4;
  }

  /** The bytes from `sent` on, in pieces. */
  pieces(sent: number): Uint8Array[] {
    const { bytes: memory } = this.#device;
    const pieces: Uint8Array[] = [];
    let skip = sent;
    let from = 0;
    const add = (bytes: Uint8Array, start: number, end: number): void => {
      const skipped = Math.min(skip, end - start);
      skip -= skipped;
      if (start + skipped < end) pieces.push(bytes.subarray(start + skipped, end));
    };
    for (let index = 0; index < this.#gathers; index++) {
      const at = this.#gatherAt[index] ?? 0;
      const address = this.#gatherAddress[index] ?? 0;
      add(this.#buffer, from, at);
      add(memory, address, address + (this.#gatherLength[index] ?? 0));
      from = at;
    }
    add(this.#buffer, from, this.#used);
    return pieces;
  }

  /** Everything was sent or will never be: forgets it and releases what it held (P1). */
  clear(): void {
    for (let index = 0; index < this.#gathers; index++) {
      this.#device.arena.release(this.#gatherAddress[index] ?? 0, this.#gatherBuffer[index] ?? 0);
    }
    this.#used = 0;
    this.#gathers = 0;
    this.#gatheredBytes = 0;
    this.#count = 0;
    this.#heldSmallBytes = 0;
    this.#heldLargeBytes = 0;
  }

  /** The header of the only chunk of a reply; returns where its payload starts. */
  #chunk(type: number, cookieHigh: number, cookieLow: number, lengthBytes: number): number {
    const at = this.#used;
    const view = this.#view;
    view.setUint32(at, STRUCTURED_REPLY_MAGIC);
    view.setUint16(at + 4, REPLY_FLAG_DONE);
    view.setUint16(at + 6, type);
    view.setUint32(at + 8, cookieHigh);
    view.setUint32(at + 12, cookieLow);
    view.setUint32(at + 16, lengthBytes);
    this.#used = at + CHUNK_SIZE;
    this.#count++;
    return this.#used;
  }
}
