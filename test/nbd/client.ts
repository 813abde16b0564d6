/** An NBD client for tests that says exactly what it is told to, byte by byte. */

import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

/** Bytes from parts: u8 arrays and strings as they are, [width, value] as big-endian integers. */
export type Part = Uint8Array | string | readonly [width: 1 | 2 | 4 | 8, value: number | bigint];

/** Joins parts. */
export function bytes(...parts: readonly Part[]): Buffer {
  return Buffer.concat(
    parts.map((part) => {
      if (typeof part === 'string') return Buffer.from(part);
      if (part instanceof Uint8Array) return part;
      const [width, value] = part;
      const integer = Buffer.alloc(8);
      integer.writeBigUInt64BE(BigInt.asUintN(64, BigInt(value)));
      return integer.subarray(8 - width);
    }),
  );
}

/** Bytes from hexadecimal digits, spaces ignored. */
export function hex(digits: string): Buffer {
  return Buffer.from(digits.replaceAll(/\s/g, ''), 'hex');
}

/** What an error chunk says: its text, and its offset if it has one. */
export function said({ type, data }: Reply): { text: string; offset?: bigint } {
  const end = 6 + data.readUInt16BE(4);
  const text = data.toString('utf8', 6, end);
  return type === 0x8002 ? { text, offset: data.readBigUInt64BE(end) } : { text };
}

/** One option. NBD proto, "Fixed newstyle negotiation". */
export function option(code: number, data: Uint8Array = hex(''), length = data.length): Buffer {
  return bytes('IHAVEOPT', [4, code], [4, length], data);
}

/** The data of INFO and GO. */
export function infoData(name = '', ...types: number[]): Buffer {
  const text = Buffer.from(name);
  return bytes([4, text.length], text, [2, types.length], ...types.map((type): Part => [2, type]));
}

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function contextData(name: string, ...queries: string[]): Buffer {
  const listed = queries.flatMap((query): Part[] => [[4, Buffer.byteLength(query)], query]);
  return bytes([4, Buffer.byteLength(name)], name, [4, queries.length], ...listed);
}

/** What makes a request; the cookie is 7 unless told otherwise. */
export interface RequestParts {
  readonly type: number;
  readonly offset?: number | bigint;
  readonly length?: number | bigint;
  readonly flags?: number;
  /** An extended header; what has data, and every WRITE, gets PAYLOAD_LEN. */
  readonly extended?: boolean;
  /** PAYLOAD_LEN is left to `flags`. */
  readonly bare?: boolean;
  readonly cookie?: number | bigint;
  readonly magic?: number;
  readonly data?: Uint8Array;
}

/** One request. NBD proto, "Request message". */
export function request(parts: RequestParts): Buffer {
  const { type, offset = 0, cookie = 7, extended = false, data = hex('') } = parts;
  const length = parts.length ?? data.length;
  const hasPayload = extended && parts.bare !== true && (type === 1 || data.length > 0);
  const flags = (parts.flags ?? 0) | (hasPayload ? PAYLOAD_LEN : 0);
  const magic = parts.magic ?? (extended ? 0x21e41c71 : 0x25609513);
  const place: Part[] = [
    [8, offset],
    [extended ? 8 : 4, length],
  ];
  return bytes([4, magic], [2, flags], [2, type], [8, cookie], ...place, data);
}

const PAYLOAD_LEN = 32;

/** An option reply. */
export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

/** A simple reply or a structured chunk. */
export interface Reply {
  readonly kind: 'simple' | 'chunk';
  readonly cookie: bigint;
  /** Of a simple reply or of an error chunk, else 0. */
  readonly error: number;
  /** Of a chunk. */
  readonly flags: number;
  readonly type: number;
  readonly data: Buffer;
  /** Of an extended chunk: that of the request. */
  readonly offset?: bigint;
}

const WAIT_MS = 10_000;

export class TestClient implements AsyncDisposable {
  readonly socket: Socket;
  #chunks: Buffer[] = [];
  #length = 0;
  #over = false;
  #wake: () => void = () => undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#length += chunk.length;
      this.#wake();
    });
    for (const event of ['end', 'error', 'close']) {
      socket.on(event, () => {
        this.#over = true;
        this.#wake();
      });
    }
  }

  /** Connects and waits until the connection stands. */
  static async connect(path: string): Promise<TestClient> {
    const socket = connect({ path, allowHalfOpen: true });
    const client = new TestClient(socket);
    await once(socket, 'connect');
    return client;
  }

  /** Connects, says hello and enters transmission. */
  static async go(path: string, ...options: Uint8Array[]): Promise<TestClient> {
    const client = await TestClient.connect(path);
    await client.hello();
    for (const data of options) {
      client.send(data);
      await client.replies();
    }
    client.send(option(7, infoData()));
    const replies = await client.replies();
    if (replies.at(-1)?.type !== 1) throw new Error('GO was refused');
    return client;
  }

  send(...parts: readonly Part[]): void {
    this.socket.write(bytes(...parts));
  }

  /** Reads exactly `length` bytes; rejects when the connection ends before. */
  async read(length: number): Promise<Buffer> {
    await this.#until(() => this.#length >= length || this.#over, `${length} bytes`);
    if (this.#length < length) throw new Error(`closed after ${this.#length} of ${length} bytes`);
    const all = Buffer.concat(this.#chunks);
    this.#chunks = [all.subarray(length)];
    this.#length = all.length - length;
    return all.subarray(0, length);
  }

  /** Everything until the server closes. */
  async rest(): Promise<Buffer> {
    await this.#until(() => this.#over, 'the end');
    return this.read(this.#length);
  }

  /** Reads the greeting and sends client flags. */
  async hello(flags = 3): Promise<Buffer> {
    const greeting = await this.read(18);
    this.send([4, flags]);
    return greeting;
  }

  /** Option replies up to the final one. */
  async replies(): Promise<OptionReply[]> {
    const replies: OptionReply[] = [];
    for (;;) {
      const header = await this.read(20);
      if (header.readBigUInt64BE() !== 0x3e889045565a9n) throw new Error('not an option reply');
      const data = await this.read(header.readUInt32BE(16));
      const type = header.readUInt32BE(12);
      replies.push({ option: header.readUInt32BE(8), type, data });
      if (type === 1 || type >= 0x80000000) return replies;
    }
  }

  /** Sends an option and returns the types of its replies. */
  async types(code: number, data?: Uint8Array): Promise<number[]> {
    this.send(option(code, data));
    return (await this.replies()).map(({ type }) => type);
  }

  /** One reply; a simple reply without error has `length` bytes of data. */
  async reply(length = 0): Promise<Reply> {
    const magic = (await this.read(4)).readUInt32BE();
    if (magic === 0x67446698) {
      const header = await this.read(12);
      const error = header.readUInt32BE();
      const data = await this.read(error === 0 ? length : 0);
      return { kind: 'simple', cookie: header.readBigUInt64BE(4), error, flags: 0, type: 0, data };
    }
    if (magic === 0x6e8a278c) return this.#extended();
    if (magic !== 0x668e33ef) throw new Error(`not a reply: ${magic.toString(16)}`);
    const header = await this.read(16);
    const data = await this.read(header.readUInt32BE(12));
    const type = header.readUInt16BE(2);
    const error = type >= 0x8000 ? data.readUInt32BE() : 0;
    const flags = header.readUInt16BE();
    return { kind: 'chunk', cookie: header.readBigUInt64BE(4), error, flags, type, data };
  }

  async #extended(): Promise<Reply> {
    const header = await this.read(28);
    const data = await this.read(Number(header.readBigUInt64BE(20)));
    const type = header.readUInt16BE(2);
    const error = type >= 0x8000 ? data.readUInt32BE() : 0;
    const flags = header.readUInt16BE();
    const [cookie, offset] = [header.readBigUInt64BE(4), header.readBigUInt64BE(12)];
    return { kind: 'chunk', cookie, offset, error, flags, type, data };
  }

  /** The chunks of one reply. */
  async chunks(): Promise<Reply[]> {
    const chunks: Reply[] = [];
    do chunks.push(await this.reply());
    while (chunks.at(-1)?.kind === 'chunk' && chunks.at(-1)?.flags !== 1);
    return chunks;
  }

  /** Sends a request and returns its reply. */
  ask(parts: RequestParts): Promise<Reply> {
    this.send(request(parts));
    return this.reply(parts.type === 0 ? Number(parts.length ?? 0) : 0);
  }

  /** Disconnects without a word. */
  destroy(): void {
    this.socket.destroy();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.destroy();
    return Promise.resolve();
  }

  async #until(condition: () => boolean, what: string): Promise<void> {
    const deadline = Date.now() + WAIT_MS;
    while (!condition()) {
      const left = deadline - Date.now();
      if (left <= 0) throw new Error(`${what} did not come (${this.#length} bytes did)`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
