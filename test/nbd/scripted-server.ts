/** An NBD server for tests of the client that says exactly what it is told to, byte by byte. */

import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bytes, type Part } from './client.ts';
import * as wire from './wire.ts';

/** What a server does with a client. When it returns the connection stays open. */
export type Script = (peer: ScriptedPeer) => Promise<void>;

/** A request as it came. */
export interface SeenRequest {
  readonly flags: number;
  readonly type: number;
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
}

/** What a well-behaved negotiation offers; undefined parts are left out. */
export interface Offer {
  readonly size?: number | bigint;
  readonly flags?: number;
  readonly structured?: boolean;
  readonly extended?: boolean;
  readonly contextId?: number | undefined;
  readonly blocks?: readonly [minimum: number, preferred: number, maximum: number];
}

const OPTION_REPLY = Buffer.from('0003e889045565a9', 'hex');
/** HAS_FLAGS, FLUSH, FUA, WRITE_ZEROES. */
const FLAGS = 0x4d;
const STRUCTURED_REPLY = 8;
const EXTENDED_HEADERS = 11;
const SET_META_CONTEXT = 10;
const GO = 7;
export const MIB = 2 ** 20;

/** One client. */
export class ScriptedPeer {
  readonly socket: Socket;
  #held = Buffer.alloc(0);
  #over = false;
  #extended = false;
  #wake: () => void = () => undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#held = Buffer.concat([this.#held, chunk]);
      this.#wake();
    });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      this.#over = true;
      this.#wake();
    });
  }

  send(...parts: Part[]): void {
    if (!this.socket.destroyed) this.socket.write(bytes(...parts));
  }

  /** The next bytes; never those of a client that is gone. */
  async read(length: number): Promise<Buffer> {
    while (this.#held.length < length) {
      if (this.#over) await new Promise(() => undefined);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const taken = this.#held.subarray(0, length);
    this.#held = this.#held.subarray(length);
    return taken;
  }

  async greet(flags = 3): Promise<void> {
    this.send('NBDMAGIC', 'IHAVEOPT', [2, flags]);
    await this.read(4);
  }

  /** The next option: its number and data. */
  async option(): Promise<{ readonly code: number; readonly data: Buffer }> {
    const header = await this.read(16);
    return { code: header.readUInt32BE(8), data: await this.read(header.readUInt32BE(12)) };
  }

  reply(option: number, type: number, data: Uint8Array = Buffer.alloc(0)): void {
    this.send(OPTION_REPLY, [4, option], [4, type], [4, data.length], data);
  }

  /** Negotiates up to the transmission. */
  async agree(offer: Offer = {}): Promise<void> {
    const { size = MIB, flags = FLAGS, structured = true, contextId = 5, blocks } = offer;
    this.#extended = offer.extended === true;
    await this.greet();
    for (;;) {
      const { code } = await this.option();
      if (code === EXTENDED_HEADERS) this.reply(code, this.#extended ? wire.ACK : wire.ERR_UNSUP);
      if (code === STRUCTURED_REPLY) this.reply(code, structured ? wire.ACK : wire.ERR_UNSUP);
      if (code === SET_META_CONTEXT) {
        this.reply(code, wire.META_CONTEXT, bytes([4, contextId], 'base:allocation'));
        this.reply(code, wire.ACK);
      }
      if (code !== GO) continue;
      this.reply(code, wire.INFO, bytes([2, 0], [8, size], [2, flags]));
      if (blocks !== undefined) {
        const [minimum, preferred, maximum] = blocks;
        const sizes = bytes([2, 3], [4, minimum], [4, preferred], [4, maximum]);
        this.reply(code, wire.INFO, sizes);
      }
      this.reply(code, wire.ACK);
      return;
    }
  }

  /** The next request; the data of a write is passed over. */
  async request(): Promise<SeenRequest> {
    const header = await this.read(this.#extended ? 32 : 28);
    const seen = {
      flags: header.readUInt16BE(4),
      type: header.readUInt16BE(6),
      cookie: header.readBigUInt64BE(8),
      offset: Number(header.readBigUInt64BE(16)),
      length: this.#extended ? Number(header.readBigUInt64BE(24)) : header.readUInt32BE(24),
    };
    if (seen.type === wire.WRITE) await this.read(seen.length);
    return seen;
  }

  simple(cookie: bigint, error = 0, data: Uint8Array = Buffer.alloc(0)): void {
    this.send([4, 0x67446698], [4, error], [8, cookie], data);
  }

  /** A chunk; without a length of its own it has that of its payload. */
  chunk(cookie: bigint, type: number, payload: Part[], done = true, length?: number): void {
    const body = bytes(...payload);
    const announced = length ?? body.length;
    this.send([4, 0x668e33ef], [2, done ? 1 : 0], [2, type], [8, cookie], [4, announced], body);
  }

  /** An extended chunk. */
  wide(
    request: Pick<SeenRequest, 'cookie' | 'offset'>,
    type: number,
    payload: Part[],
    done = true,
  ): void {
    const body = bytes(...payload);
    const { cookie, offset } = request;
    const lengths: Part[] = [
      [8, offset],
      [8, body.length],
    ];
    this.send([4, 0x6e8a278c], [2, done ? 1 : 0], [2, type], [8, cookie], ...lengths, body);
  }
}

/** A server that runs a script for each client. */
export interface Scripted extends AsyncDisposable {
  readonly uri: string;
}

/** Listens on a socket of its own. */
export async function serveScript(script: Script): Promise<Scripted> {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-script-'));
  const path = join(folder, 'socket');
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    void script(new ScriptedPeer(socket));
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    uri: `nbd+unix:///?socket=${path}`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
      await rm(folder, { recursive: true, force: true });
    },
  };
}
