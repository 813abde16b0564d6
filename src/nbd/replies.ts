/**
 * Replies on their way out: headers and small data lie behind each other in one buffer, large data
 * stays in the arena and is gathered between them.
 *
 *   buffer   | header data | header |        | header |
 *   arena                            data 1            data 2      gathers: position in the buffer
 *
 * P1  A buffer of the arena is released when its data was copied, or sent, or given up; never
 *     before.
 * P2  There is always room for the headers of all requests of the connection, for their errors
 *     without a text, and for one extent of each context. Texts and more extents are there when the
 *     buffer has room: a client that reads its replies gets them.
 */
import { isSmall } from '../arena.ts';
import type { Device } from '../device.ts';
import { ExtentWriter } from './extents.ts';
import { GATHER_BYTES, MAX_EXTENTS, MAX_REQUESTS, REPLY_BUFFER_BYTES } from './limits.ts';
import {
  CHUNK_SIZE,
  EXTENDED_CHUNK_SIZE,
  EXTENDED_REPLY_MAGIC,
  EXTENT_SIZE_32,
  EXTENT_SIZE_64,
  REPLY_FLAG_DONE,
  REPLY_TYPE_BLOCK_STATUS,
  REPLY_TYPE_BLOCK_STATUS_EXT,
  REPLY_TYPE_ERROR,
  REPLY_TYPE_ERROR_OFFSET,
  REPLY_TYPE_NONE,
  REPLY_TYPE_OFFSET_DATA,
  SIMPLE_REPLY_MAGIC,
  SIMPLE_REPLY_SIZE,
  STRUCTURED_REPLY_MAGIC,
} from './protocol.ts';
import type { RequestTable, Session } from './requests.ts';

const WORD = 2 ** 32;
const UTF8 = new TextEncoder();
const NO_TEXT = new Uint8Array(0);
/** u32 error, u16 length of the text; of ERROR_OFFSET u64 offset behind the text. */
const ERROR_BYTES = 6;
const OFFSET_BYTES = 8;
/** u32 id; of BLOCK_STATUS_EXT u32 count. */
const STATUS_HEAD_32 = 4;
const STATUS_HEAD_64 = 8;

/** The request that is answered, as far as replies repeat it. */
export type Replied = Pick<RequestTable, 'cookieHigh' | 'cookieLow' | 'offsetHigh' | 'offsetLow'>;

export class Replies {
  readonly #device: Device;
  readonly #isExtended: boolean;
  readonly #reservedBytes: number;
  readonly #buffer: Uint8Array;
  readonly #view: DataView;
  readonly #extents = new ExtentWriter();
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

  constructor(device: Device, { extended, contexts }: Session) {
    const chunkBytes = extended ? EXTENDED_CHUNK_SIZE : CHUNK_SIZE;
    const statusBytes = extended
      ? STATUS_HEAD_64 + EXTENT_SIZE_64
      : STATUS_HEAD_32 + EXTENT_SIZE_32;
    const errorBytes = chunkBytes + ERROR_BYTES + OFFSET_BYTES;
    const replyBytes = Math.max(errorBytes, contexts.length * (chunkBytes + statusBytes));
    this.#device = device;
    this.#isExtended = extended;
    this.#reservedBytes = MAX_REQUESTS * replyBytes;
    this.#buffer = new Uint8Array(REPLY_BUFFER_BYTES + this.#reservedBytes);
    this.#view = new DataView(this.#buffer.buffer);
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
  simple(of: Replied, slot: number, error: number): void {
    const at = this.#used;
    const view = this.#view;
    view.setUint32(at, SIMPLE_REPLY_MAGIC);
    view.setUint32(at + 4, error);
    view.setUint32(at + 8, of.cookieHigh[slot] ?? 0);
    view.setUint32(at + 12, of.cookieLow[slot] ?? 0);
    this.#used = at + SIMPLE_REPLY_SIZE;
    this.#count++;
  }

  /** A reply of no content: NBD_REPLY_TYPE_NONE. */
  none(of: Replied, slot: number): void {
    this.#last(REPLY_TYPE_NONE, of, slot, 0);
  }

  /**
   * NBD_REPLY_TYPE_ERROR, or NBD_REPLY_TYPE_ERROR_OFFSET where the request is known to go wrong.
   * @param text for people; left out when there is no room
   * @param offset -1: it is not known where
   */
  error(of: Replied, slot: number, error: number, text: string, offset = -1): void {
    const hasOffset = offset >= 0;
    const written = UTF8.encode(text);
    const bytes = written.length <= this.#roomBytes ? written : NO_TEXT;
    const type = hasOffset ? REPLY_TYPE_ERROR_OFFSET : REPLY_TYPE_ERROR;
    const length = ERROR_BYTES + bytes.length + (hasOffset ? OFFSET_BYTES : 0);
    const at = this.#last(type, of, slot, length);
    this.#view.setUint32(at, error);
    this.#view.setUint16(at + 4, bytes.length);
    this.#buffer.set(bytes, at + ERROR_BYTES);
    if (hasOffset) this.#setWide(at + ERROR_BYTES + bytes.length, offset);
    this.#used = at + length;
  }

  /** The header of NBD_REPLY_TYPE_OFFSET_DATA; `data` must follow. */
  offsetData(of: Replied, slot: number, lengthBytes: number): void {
    const at = this.#last(REPLY_TYPE_OFFSET_DATA, of, slot, OFFSET_BYTES + lengthBytes);
    this.#view.setUint32(at, of.offsetHigh[slot] ?? 0);
    this.#view.setUint32(at + 4, of.offsetLow[slot] ?? 0);
    this.#used = at + OFFSET_BYTES;
  }

  /**
   * Where the extents of the next chunk go; `status` must follow before anything else.
   * @param chunks that the reply still has, this one included: they share the room (P2)
   * @param most extents that are wanted
   */
  beginStatus(requestBytes: number, chunks: number, most: number): ExtentWriter {
    const isWide = this.#isExtended;
    const size = isWide ? EXTENT_SIZE_64 : EXTENT_SIZE_32;
    const fits = Math.floor(this.#roomBytes / chunks / size);
    const limit = Math.max(1, Math.min(most, fits, MAX_EXTENTS));
    this.#extents.begin(this.#view, this.#extentsAt, isWide, limit, requestBytes);
    return this.#extents;
  }

  /** NBD_REPLY_TYPE_BLOCK_STATUS or NBD_REPLY_TYPE_BLOCK_STATUS_EXT around what was written. */
  status(of: Replied, slot: number, contextId: number, isLast: boolean): void {
    const { count } = this.#extents;
    const isWide = this.#isExtended;
    const type = isWide ? REPLY_TYPE_BLOCK_STATUS_EXT : REPLY_TYPE_BLOCK_STATUS;
    const length = isWide
      ? STATUS_HEAD_64 + count * EXTENT_SIZE_64
      : STATUS_HEAD_32 + count * EXTENT_SIZE_32;
    const at = this.#chunk(type, isLast ? REPLY_FLAG_DONE : 0, of, slot, length);
    this.#view.setUint32(at, contextId);
    if (isWide) this.#view.setUint32(at + 4, count);
    this.#used = at + length;
    if (isLast) this.#count++;
  }

  /**
   * Data behind the last header.
   * @param bufferBytes what the arena was asked for; the buffer belongs to the reply now
   * @returns true when the buffer was copied and released, false when it is held until `clear`
   */
  data(address: number, lengthBytes: number, bufferBytes: number): boolean {
    if (lengthBytes < GATHER_BYTES && lengthBytes <= this.#roomBytes) {
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

  /** Bytes that may be used beside those that headers need. */
  get #roomBytes(): number {
    return Math.max(0, this.#buffer.length - this.#reservedBytes - this.#used);
  }

  /** Where the extents of a chunk that begins now lie. */
  get #extentsAt(): number {
    return this.#isExtended
      ? this.#used + EXTENDED_CHUNK_SIZE + STATUS_HEAD_64
      : this.#used + CHUNK_SIZE + STATUS_HEAD_32;
  }

  /** The header of the last chunk of a reply; returns where its payload starts. */
  #last(type: number, of: Replied, slot: number, lengthBytes: number): number {
    this.#count++;
    return this.#chunk(type, REPLY_FLAG_DONE, of, slot, lengthBytes);
  }

  /** NBD proto, "Structured reply chunk message", "Extended reply chunk message". */
  #chunk(type: number, flags: number, of: Replied, slot: number, lengthBytes: number): number {
    const at = this.#used;
    const view = this.#view;
    view.setUint32(at, this.#isExtended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC);
    view.setUint16(at + 4, flags);
    view.setUint16(at + 6, type);
    view.setUint32(at + 8, of.cookieHigh[slot] ?? 0);
    view.setUint32(at + 12, of.cookieLow[slot] ?? 0);
    if (this.#isExtended) {
      view.setUint32(at + 16, of.offsetHigh[slot] ?? 0);
      view.setUint32(at + 20, of.offsetLow[slot] ?? 0);
      // No payload has 4 GiB.
      view.setUint32(at + 24, 0);
      view.setUint32(at + 28, lengthBytes);
      this.#used = at + EXTENDED_CHUNK_SIZE;
    } else {
      view.setUint32(at + 16, lengthBytes);
      this.#used = at + CHUNK_SIZE;
    }
    return this.#used;
  }

  #setWide(at: number, value: number): void {
    this.#view.setUint32(at, Math.floor(value / WORD));
    this.#view.setUint32(at + 4, value % WORD);
  }
}
