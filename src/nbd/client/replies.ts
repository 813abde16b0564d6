/**
 * Replies as they come: simple ones and chunks, out of order, each for a request that is open. NBD
 * proto, "Simple reply message", "Structured reply chunk message".
 *
 *   head ─▶ simple ─────────────▶ data of a read ─▶ finish
 *     └───▶ chunk ─▶ payload ─▶ finish, when DONE is set, else the next head
 *
 * With extended headers every head is that of an extended chunk.
 *
 * R1 Nothing is believed: what no request asked for, or asked for otherwise, ends the connection.
 * R2 Data goes straight to where the request wants it, and is checked to be there once and whole.
 * R3 Memory does not depend on announced numbers, but for one list of extents at a time.
 */
import {
  CHUNK_SIZE,
  EXTENDED_CHUNK_SIZE,
  EXTENDED_REPLY_MAGIC,
  EXTENT_SIZE_32,
  EXTENT_SIZE_64,
  MAX_STRING_BYTES,
  REPLY_FLAG_DONE,
  REPLY_TYPE_BLOCK_STATUS,
  REPLY_TYPE_BLOCK_STATUS_EXT,
  REPLY_TYPE_ERROR_BIT,
  REPLY_TYPE_NONE,
  REPLY_TYPE_OFFSET_DATA,
  REPLY_TYPE_OFFSET_HOLE,
  SIMPLE_REPLY_MAGIC,
  SIMPLE_REPLY_SIZE,
  STRUCTURED_REPLY_MAGIC,
} from '../protocol.ts';
import type { Coverage } from './coverage.ts';
import { Extents } from './extents.ts';
import { type Asked, Breach, type Refused } from './failures.ts';
import type { Incoming } from './incoming.ts';

/** A request that has no whole reply yet. */
export interface Open {
  readonly asked: Asked;
  /** Of a read: where its bytes go, and which of them have come in chunks. */
  readonly into?: Uint8Array | undefined;
  readonly coverage: Coverage;
  /** Of a block status. */
  extents?: Extents;
  /** The first error. */
  refused?: Refused;
}

/** What replies are read by. */
export interface ReplyOptions<R extends Open> {
  readonly incoming: Incoming;
  readonly structured: boolean;
  readonly extended: boolean;
  /** Of base:allocation. */
  readonly contextId: number | undefined;
  /** Open requests, by their cookies. */
  readonly open: Map<number, R>;
  /** The reply is whole. */
  readonly finish: (request: R) => void;
  readonly fail: (error: unknown) => void;
}

/** NBD proto, "NBD_REPLY_TYPE_BLOCK_STATUS". */
const MAX_EXTENTS = 2 ** 20;
/** u32 error, u16 length, and the offset that may stand behind the message. */
const ERROR_HEAD_BYTES = 6;
const MAX_ERROR_BYTES = ERROR_HEAD_BYTES + MAX_STRING_BYTES + 8;
const WORD = 2 ** 32;
const UTF8 = new TextDecoder();

/** Reads the replies of one connection. */
export class Replies<R extends Open> {
  readonly #options: ReplyOptions<R>;
  readonly #head = new DataView(new ArrayBuffer(EXTENDED_CHUNK_SIZE));
  readonly #place = new DataView(new ArrayBuffer(12));

  constructor(options: ReplyOptions<R>) {
    this.#options = options;
  }

  /** Reads the next reply, and so on until the connection ends. */
  next(): void {
    const size = this.#options.extended ? EXTENDED_CHUNK_SIZE : SIMPLE_REPLY_SIZE;
    this.#expect(bytesOf(this.#head, 0, size), () => this.#begin());
  }

  #begin(): void {
    const magic = this.#head.getUint32(0);
    const { extended } = this.#options;
    if (extended && magic === EXTENDED_REPLY_MAGIC) return this.#extendedChunk();
    if (extended) throw new Breach(`an extended reply begins with ${hex(magic)}`);
    if (magic === SIMPLE_REPLY_MAGIC) return this.#simple();
    if (magic === STRUCTURED_REPLY_MAGIC && this.#options.structured) {
      const rest = bytesOf(this.#head, SIMPLE_REPLY_SIZE, CHUNK_SIZE);
      return this.#expect(rest, () => this.#chunk(this.#head.getUint32(16)));
    }
    throw new Breach(`a reply begins with ${hex(magic)}`);
  }

  #simple(): void {
    const request = this.#request();
    const { operation } = request.asked;
    const hasChunks = operation === 'read' || operation === 'block status';
    if (hasChunks && this.#options.structured) {
      throw new Breach(
        `it answers a ${operation} with a simple reply, structured ones are agreed on`,
      );
    }
    const error = this.#head.getUint32(4);
    if (error !== 0) request.refused = { error, message: '' };
    if (error !== 0 || request.into === undefined) return this.#end(request);
    this.#expect(request.into, () => this.#end(request));
  }

  /** NBD proto, "Extended reply chunk message": the offset is that of the request. */
  #extendedChunk(): void {
    const { operation, offset } = this.#request().asked;
    const answered = this.#wide(16);
    if (answered !== offset) {
      throw new Breach(`it answers a ${operation} at offset ${offset} as one at ${answered}`);
    }
    this.#chunk(this.#wide(24));
  }

  #chunk(length: number): void {
    const type = this.#head.getUint16(6);
    const request = this.#request();
    if ((type & REPLY_TYPE_ERROR_BIT) !== 0) return this.#error(request, length);
    switch (type) {
      case REPLY_TYPE_NONE:
        if (length !== 0 || !this.#isDone()) throw new Breach('a reply of type NONE goes on');
        return this.#finish(request);
      case REPLY_TYPE_OFFSET_DATA:
        return this.#data(request, length);
      case REPLY_TYPE_OFFSET_HOLE:
        return this.#hole(request, length);
      case REPLY_TYPE_BLOCK_STATUS:
        return this.#blockStatus(request, length, false);
      case REPLY_TYPE_BLOCK_STATUS_EXT:
        return this.#blockStatus(request, length, true);
      default:
        throw new Breach(`it sends a reply chunk of the unknown type ${type}`);
    }
  }

  #data(request: R, length: number): void {
    if (length <= 8) throw new Breach(`a chunk of data has ${length} bytes, too few for any`);
    this.#expect(bytesOf(this.#place, 0, 8), () => {
      this.#expect(this.#part(request, length - 8), () => this.#endChunk(request));
    });
  }

  #hole(request: R, length: number): void {
    if (length !== 12) throw new Breach(`a chunk of a hole has ${length} bytes, not 12`);
    this.#expect(bytesOf(this.#place, 0, 12), () => {
      this.#part(request, this.#place.getUint32(8)).fill(0);
      this.#endChunk(request);
    });
  }

  /** What of a read a chunk is for: it must be inside it, and new (R2). */
  #part({ asked, into, coverage }: R, length: number): Uint8Array {
    if (into === undefined) throw new Breach(`it answers a ${asked.operation} with data`);
    const offset = this.#place.getUint32(0) * WORD + this.#place.getUint32(4);
    const from = offset - asked.offset;
    if (length === 0 || from < 0 || from + length > into.length) {
      const wanted = `of the read of ${into.length} bytes at offset ${asked.offset}`;
      throw new Breach(`${length} bytes at offset ${offset} are no part ${wanted}`);
    }
    coverage.add(from, from + length);
    return into.subarray(from, from + length);
  }

  /** A server has one form of extents with extended headers, and the other without. */
  #blockStatus(request: R, length: number, isWide: boolean): void {
    const { asked, extents } = request;
    const headBytes = isWide ? 8 : 4;
    const count = (length - headBytes) / (isWide ? EXTENT_SIZE_64 : EXTENT_SIZE_32);
    if (isWide !== this.#options.extended) {
      throw new Breach(`it sends extents of ${isWide ? 64 : 32} bits, which were not agreed on`);
    }
    if (asked.operation !== 'block status' || extents !== undefined) {
      throw new Breach(`it answers a ${asked.operation} with extents that nobody asked for`);
    }
    if (!Number.isInteger(count) || count < 1 || count > MAX_EXTENTS) {
      throw new Breach(`a list of extents has ${length} bytes`);
    }
    const bytes = new Uint8Array(length);
    this.#expect(bytes, () => {
      const view = new DataView(bytes.buffer);
      const id = view.getUint32(0);
      if (id !== this.#options.contextId) {
        throw new Breach(`it sends extents of the metadata context ${id}, which is not chosen`);
      }
      const told = isWide ? view.getUint32(4) : 0;
      if (told !== 0 && told !== count) {
        throw new Breach(`it says that ${told} extents come, and sends ${count}`);
      }
      request.extents = new Extents(new DataView(bytes.buffer, headBytes), isWide);
      request.extents.check(asked.length);
      this.#endChunk(request);
    });
  }

  #error(request: R, length: number): void {
    if (length < ERROR_HEAD_BYTES || length > MAX_ERROR_BYTES) {
      throw new Breach(`an error has ${length} bytes`);
    }
    const bytes = new Uint8Array(length);
    this.#expect(bytes, () => {
      const view = new DataView(bytes.buffer);
      const error = view.getUint32(0);
      const end = ERROR_HEAD_BYTES + view.getUint16(4);
      if (error === 0) throw new Breach('it reports the error 0');
      if (end > length) throw new Breach('the message of an error is longer than the error');
      request.refused ??= { error, message: UTF8.decode(bytes.subarray(ERROR_HEAD_BYTES, end)) };
      this.#endChunk(request);
    });
  }

  #endChunk(request: R): void {
    if (this.#isDone()) this.#finish(request);
    else this.next();
  }

  /** A reply in chunks is whole: is all there? */
  #finish(request: R): void {
    const { asked, into, coverage, extents, refused } = request;
    if (refused === undefined) {
      if (into !== undefined && coverage.coveredBytes !== into.length) {
        throw new Breach(`it sends ${coverage.coveredBytes} bytes of a read of ${into.length}`);
      }
      if (asked.operation === 'block status' && extents === undefined) {
        throw new Breach('it answers a block status without extents');
      }
    }
    this.#end(request);
  }

  #end(request: R): void {
    this.#options.open.delete(this.#cookie());
    this.#options.finish(request);
    this.next();
  }

  #request(): R {
    const request = this.#options.open.get(this.#cookie());
    if (request === undefined) throw new Breach('it answers a request that is not open');
    return request;
  }

  #cookie(): number {
    return this.#wide(8);
  }

  #wide(at: number): number {
    return this.#head.getUint32(at) * WORD + this.#head.getUint32(at + 4);
  }

  #isDone(): boolean {
    return (this.#head.getUint16(4) & REPLY_FLAG_DONE) !== 0;
  }

  #expect(into: Uint8Array, then: () => void): void {
    this.#options.incoming.expect(into, () => {
      try {
        then();
      } catch (error) {
        this.#options.fail(error);
      }
    });
  }
}

function hex(magic: number): string {
  return `0x${magic.toString(16).padStart(8, '0')}`;
}

function bytesOf(view: DataView, from: number, to: number): Uint8Array {
  return new Uint8Array(view.buffer, from, to - from);
}
