/** The smallest NBD client: EXPORT_NAME, simple replies, one request at a time. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

const IHAVEOPT = 0x49484156454f5054n;
const REQUEST_MAGIC = 0x25609513;
const REPLY_SIZE = 16;

export const NBD_CMD_READ = 0;
export const NBD_CMD_WRITE = 1;
export const NBD_CMD_DISC = 2;
export const NBD_CMD_FLUSH = 3;

/** Where a URI of `sluice serve` points at. */
function addressOf(uri: string): { path: string } | { host: string; port: number } {
  const { hostname, port, searchParams } = new URL(uri);
  const path = searchParams.get('socket');
  if (path !== null) return { path };
  return { host: hostname, port: Number(port === '' ? 10809 : port) };
}

export class NbdClient implements AsyncDisposable {
  readonly #socket: Socket;
  /** Bytes of the export. */
  sizeBytes = 0;

  #received = Buffer.alloc(0);
  #ended = false;
  #wake: () => void = () => undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (bytes: Buffer) => {
      this.#received = Buffer.concat([this.#received, bytes]);
      this.#wake();
    });
    // A server that goes away is told by whoever waits for a reply.
    for (const event of ['end', 'error', 'close'] as const) {
      socket.on(event, () => {
        this.#ended = true;
        this.#wake();
      });
    }
  }

  /** Resolves when the server has let it into transmission. */
  static async connect(uri: string, name = ''): Promise<NbdClient> {
    const socket = connect(addressOf(uri));
    await once(socket, 'connect');
    const client = new NbdClient(socket);
    await client.#take(18);
    const option = Buffer.alloc(20);
    option.writeUInt32BE(3, 0); // fixed newstyle, no zeroes
    option.writeBigUInt64BE(IHAVEOPT, 4);
    option.writeUInt32BE(1, 12); // NBD_OPT_EXPORT_NAME
    option.writeUInt32BE(Buffer.byteLength(name), 16);
    socket.write(Buffer.concat([option, Buffer.from(name)]));
    client.sizeBytes = Number((await client.#take(10)).readBigUInt64BE(0));
    return client;
  }

  /** Sends a request, waits for its reply, answers what it carries. Rejects with NBD's error. */
  async request(
    type: number,
    offset = 0,
    length = 0,
    payload: Uint8Array = new Uint8Array(),
  ): Promise<Buffer> {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(REQUEST_MAGIC, 0);
    header.writeUInt16BE(type, 6);
    header.writeBigUInt64BE(BigInt(offset), 16);
    header.writeUInt32BE(length, 24);
    this.#socket.write(Buffer.concat([header, payload]));
    if (type === NBD_CMD_DISC) return Buffer.alloc(0);
    const error = (await this.#take(REPLY_SIZE)).readUInt32BE(4);
    if (error !== 0) throw new Error(`NBD error ${error}`);
    return this.#take(type === NBD_CMD_READ ? length : 0);
  }

  /** Resolves when the server has closed the connection. */
  async end(): Promise<void> {
    if (!this.#socket.closed) await once(this.#socket, 'close');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.writable) await this.request(NBD_CMD_DISC);
    this.#socket.end();
    await this.end();
  }

  async #take(length: number): Promise<Buffer> {
    while (this.#received.length < length) {
      if (this.#ended) throw new Error('it hung up');
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const taken = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return taken;
  }
}
