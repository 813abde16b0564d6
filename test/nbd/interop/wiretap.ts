/** A socket before a server that hears what clients ask of it, as long as they do so in clear. */

import { connect, createServer, type Server, type Socket } from 'node:net';
import { WRITE } from '../wire.ts';

const GO_ON = 0x49484156;
const COMPACT = 0x25609513;
const EXTENDED = 0x21e41c71;
const STARTTLS = 5;
const SET_META_CONTEXT = 10;
const PAYLOAD_LEN = 32;
const CLIENT_FLAGS_BYTES = 4;
const OPTION_BYTES = 16;
const COMPACT_BYTES = 28;
const EXTENDED_BYTES = 32;

/** A request that passed by. */
export interface HeardRequest {
  readonly type: number;
  readonly flags: number;
  readonly length: number;
  readonly isExtended: boolean;
}

/** What clients have asked. */
export class Heard {
  connections = 0;
  /** The numbers of the options. */
  readonly options: number[] = [];
  /** The contexts that are selected. */
  readonly contexts: string[] = [];
  readonly requests: HeardRequest[] = [];

  /** Requests of a type, with a flag. */
  of(type: number, flag = 0): HeardRequest[] {
    return this.requests.filter((one) => one.type === type && (one.flags & flag) === flag);
  }

  /** The bytes that requests of a type were for. */
  bytesOf(type: number): number {
    return this.of(type).reduce((sum, { length }) => sum + length, 0);
  }
}

/** Follows the bytes of one client. */
class Ear {
  readonly #heard: Heard;
  #held: Buffer = Buffer.alloc(0);
  #passOver = CLIENT_FLAGS_BYTES;
  #isDeaf = false;

  constructor(heard: Heard) {
    this.#heard = heard;
    heard.connections++;
  }

  take(chunk: Buffer): void {
    if (this.#isDeaf) return;
    this.#held = Buffer.concat([this.#held, chunk]);
    while (this.#step());
  }

  /** Takes what comes next, if all of it is there. */
  #step(): boolean {
    const passed = Math.min(this.#passOver, this.#held.length);
    this.#passOver -= passed;
    this.#held = this.#held.subarray(passed);
    if (this.#isDeaf || this.#held.length < 4) return false;
    const magic = this.#held.readUInt32BE();
    const size = this.#sizeOf(magic);
    if (this.#held.length < size) return false;
    if (magic === GO_ON) this.#option();
    else this.#request(magic === EXTENDED);
    this.#passOver += size;
    return true;
  }

  /** Of an option, with its data, or of the header of a request; more than there is: not yet. */
  #sizeOf(magic: number): number {
    if (magic === COMPACT) return COMPACT_BYTES;
    if (magic === EXTENDED) return EXTENDED_BYTES;
    if (magic !== GO_ON) throw new Error(`neither option nor request: ${magic.toString(16)}`);
    if (this.#held.length < OPTION_BYTES) return OPTION_BYTES;
    return OPTION_BYTES + this.#held.readUInt32BE(OPTION_BYTES - 4);
  }

  #option(): void {
    const option = this.#held.readUInt32BE(8);
    this.#heard.options.push(option);
    this.#isDeaf = option === STARTTLS;
    if (option === SET_META_CONTEXT) this.#heard.contexts.push(...this.#queries());
  }

  /** Of an option whose data begins with the name of an export. */
  #queries(): string[] {
    let at = OPTION_BYTES;
    const text = (): string => {
      const end = at + 4 + this.#held.readUInt32BE(at);
      const found = this.#held.toString('utf8', at + 4, end);
      at = end;
      return found;
    };
    text();
    const count = this.#held.readUInt32BE(at);
    at += 4;
    return Array.from({ length: count }, text);
  }

  #request(isExtended: boolean): void {
    const flags = this.#held.readUInt16BE(4);
    const type = this.#held.readUInt16BE(6);
    const length = isExtended
      ? Number(this.#held.readBigUInt64BE(24))
      : this.#held.readUInt32BE(24);
    this.#heard.requests.push({ type, flags, length, isExtended });
    const hasPayload = isExtended ? (flags & PAYLOAD_LEN) !== 0 : type === WRITE;
    this.#passOver = hasPayload ? length : 0;
  }
}

export class Wiretap implements AsyncDisposable {
  /** Where clients connect. */
  readonly socket: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #heard = new Heard();

  private constructor(target: string, socket: string) {
    this.socket = socket;
    this.#server = createServer((client) => this.#relay(client, connect(target)));
  }

  /** Listens on a socket before that of a server. */
  static async before(target: string, socket: string): Promise<Wiretap> {
    const tap = new Wiretap(target, socket);
    await new Promise<void>((resolve) => tap.#server.listen(socket, resolve));
    return tap;
  }

  /** What is asked while something is done. */
  async during(work: () => Promise<unknown>): Promise<Heard> {
    this.#heard = new Heard();
    await work();
    return this.#heard;
  }

  #relay(client: Socket, server: Socket): void {
    const ear = new Ear(this.#heard);
    client.on('data', (chunk: Buffer) => ear.take(chunk));
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(from);
      from.pipe(to);
      from.on('error', () => to.destroy());
      from.on('close', () => this.#sockets.delete(from));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
