/**
 * An export of an NBD server as a disk.
 *
 * A1 Requests keep to what the server asks: they begin and end at multiples of its minimum block,
 *    and carry no more than its maximum payload.
 * A2 Reads may be anywhere: they are widened. Writes begin at a block; the block in which one ends
 *    is read first, and written whole.
 * A3 Zeroes are data where the server has no WRITE_ZEROES, or says that it cannot do it after all.
 */
import { Flights } from '../../flights.ts';
import {
  CMD_BLOCK_STATUS,
  CMD_FLUSH,
  CMD_READ,
  CMD_WRITE,
  CMD_WRITE_ZEROES,
  TRANSMISSION_READ_ONLY,
  TRANSMISSION_SEND_FLUSH,
  TRANSMISSION_SEND_WRITE_ZEROES,
} from '../protocol.ts';
import { type ConnectionOptions, NbdConnection } from './connection.ts';
import { type Asked, isNotSupported } from './failures.ts';
import type { Extents } from './extents.ts';

/** A range of an export. */
export interface NbdExtent {
  readonly start: number;
  readonly length: number;
  readonly kind: 'data' | 'zero';
}

/** Of requests without data: old servers count them in 31 bits. A multiple of every block size. */
const LONGEST_BYTES = 2 ** 30;
/** Of block status with extended headers: all of any disk, in 64 bits. */
const LONGEST_STATUS_BYTES = 2 ** 52;
/** Parts of one call that are under way at once. */
const PARTS_AT_ONCE = 16;
/** What is sent where the server cannot write zeroes by itself. */
const ZEROES = new Uint8Array(2 ** 20);

/** A client with one connection. */
export class NbdClient implements AsyncDisposable {
  /** Bytes of the export. */
  readonly size: number;
  readonly isReadOnly: boolean;
  /** Writes begin at multiples of it. */
  readonly minimumBlockBytes: number;
  readonly #connection: NbdConnection;
  readonly #maxPayloadBytes: number;
  /** The server writes zeroes by itself. */
  #zeroes: boolean;

  private constructor(connection: NbdConnection) {
    const { agreement } = connection;
    this.#connection = connection;
    this.#maxPayloadBytes = agreement.maxPayloadBytes;
    this.size = agreement.sizeBytes;
    this.isReadOnly = (agreement.flags & TRANSMISSION_READ_ONLY) !== 0;
    this.minimumBlockBytes = agreement.minimumBlockBytes;
    this.#zeroes = this.#has(TRANSMISSION_SEND_WRITE_ZEROES);
  }

  /**
   * Opens the export that a URI names.
   * @throws SluiceError ERR_SLUICE_CONNECTION, ERR_SLUICE_OPEN for an export that is refused
   */
  static async connect(uri: string, options: ConnectionOptions = {}): Promise<NbdClient> {
    return new NbdClient(await NbdConnection.open(uri, options));
  }

  /** Fills `into` with the bytes from `offset` on. */
  async read(offset: number, into: Uint8Array): Promise<void> {
    const from = this.#floor(offset);
    const to = this.#ceil(offset + into.length);
    if (to - from === into.length) return this.#read(offset, into);
    const blocks = new Uint8Array(to - from);
    await this.#read(from, blocks);
    into.set(blocks.subarray(offset - from, offset - from + into.length));
  }

  /** Writes bytes that stay as they are until it resolves. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    const whole = this.#floor(bytes.length);
    await inParts(offset, whole, this.#maxPayloadBytes, (part) => {
      const from = part.offset - offset;
      return this.#write(part.offset, bytes.subarray(from, from + part.length));
    });
    if (whole < bytes.length) await this.#writeTail(offset + whole, bytes.subarray(whole));
  }

  /** Writes zeroes, which need not take space. */
  async writeZeroes(offset: number, length: number): Promise<void> {
    const whole = this.#floor(length);
    await inParts(offset, whole, LONGEST_BYTES, (part) => this.#writeZeroes(part));
    const rest = length - whole;
    if (rest > 0) await this.#writeTail(offset + whole, ZEROES.subarray(0, rest));
  }

  /** What was written before is stable after; nothing is done where the server has no FLUSH. */
  async flush(): Promise<void> {
    if (!this.#has(TRANSMISSION_SEND_FLUSH)) return;
    await this.#ask(CMD_FLUSH, { operation: 'flush', offset: 0, length: 0 });
  }

  /** All of the export in order; without base:allocation it is data. */
  async *extents(): AsyncGenerator<NbdExtent, void, void> {
    const { size } = this;
    const { contextId, extended } = this.#connection.agreement;
    const longest = extended ? LONGEST_STATUS_BYTES : LONGEST_BYTES;
    let start = 0;
    if (contextId === undefined) {
      if (size > 0) yield { start, length: size, kind: 'data' };
      return;
    }
    while (start < size) {
      const length = Math.min(longest, size - start);
      const asked = { operation: 'block status', offset: start, length } as const;
      const extents = await this.#connection.request(CMD_BLOCK_STATUS, asked);
      if (extents === undefined) throw new Error('a block status has extents');
      for (const extent of this.#blocksOf(extents, asked)) {
        yield extent;
        start = extent.start + extent.length;
      }
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#connection[Symbol.asyncDispose]();
  }

  /** Extents in whole blocks: one in which there may be data is data. At least one block. */
  *#blocksOf(extents: Extents, { offset, length }: Asked): Generator<NbdExtent, void, void> {
    const end = offset + length;
    let done = offset;
    let at = offset;
    for (let index = 0; index < extents.count; index++) {
      const to = Math.min(end, at + extents.lengthOf(index));
      const isZero = extents.isZero(index);
      const [from, border] = [this.#ceil(at), this.#floor(to)];
      at = to;
      if (!isZero || border <= from) continue;
      if (done < from) yield { start: done, length: from - done, kind: 'data' };
      yield { start: from, length: border - from, kind: 'zero' };
      done = border;
    }
    const border = this.#ceil(at);
    if (done < border) yield { start: done, length: border - done, kind: 'data' };
  }

  async #read(offset: number, into: Uint8Array): Promise<void> {
    await inParts(offset, into.length, this.#maxPayloadBytes, async (part) => {
      const from = part.offset - offset;
      const bytes = into.subarray(from, from + part.length);
      await this.#connection.request(CMD_READ, { operation: 'read', ...part }, { into: bytes });
    });
  }

  #write(offset: number, data: Uint8Array): Promise<void> {
    return this.#ask(CMD_WRITE, { operation: 'write', offset, length: data.length }, data);
  }

  /** A3. */
  async #writeZeroes(part: Part): Promise<void> {
    if (this.#zeroes) {
      try {
        return await this.#ask(CMD_WRITE_ZEROES, { operation: 'write zeroes', ...part });
      } catch (error) {
        if (!isNotSupported(error)) throw error;
        this.#zeroes = false;
      }
    }
    const most = Math.min(this.#maxPayloadBytes, ZEROES.length);
    await inParts(part.offset, part.length, most, ({ offset, length }) =>
      this.#write(offset, ZEROES.subarray(0, length)),
    );
  }

  /** A2. */
  async #writeTail(offset: number, bytes: Uint8Array): Promise<void> {
    const block = new Uint8Array(this.minimumBlockBytes);
    await this.#read(offset, block);
    block.set(bytes);
    await this.#write(offset, block);
  }

  async #ask(type: number, asked: Asked, data?: Uint8Array): Promise<void> {
    await this.#connection.request(type, asked, data === undefined ? {} : { data });
  }

  #has(flag: number): boolean {
    return (this.#connection.agreement.flags & flag) !== 0;
  }

  #floor(bytes: number): number {
    return bytes - (bytes % this.minimumBlockBytes);
  }

  #ceil(bytes: number): number {
    return this.#floor(bytes + this.minimumBlockBytes - 1);
  }
}

type Part = Pick<Asked, 'offset' | 'length'>;

/** Does a range in parts, side by side. Rejects with the first failure when all have ended. */
async function inParts(
  offset: number,
  length: number,
  most: number,
  work: (part: Part) => Promise<void>,
): Promise<void> {
  const flights = new Flights(PARTS_AT_ONCE);
  try {
    for (let at = 0; at < length; at += most) {
      const part = { offset: offset + at, length: Math.min(most, length - at) };
      await flights.add(() => work(part));
    }
  } finally {
    await flights.landed();
  }
}
