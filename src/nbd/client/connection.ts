/**
 * A connection to a server: requests go out, replies find them by their cookies.
 *
 * L1 At most MAX_OPEN requests are open; the others wait.
 * L2 The first failure is that of every request that is open, waits, or comes after it.
 * L3 Nobody waits for a server without an end: the negotiation has a time, the rest a signal.
 */
import { connect, type Socket } from 'node:net';

import { SluiceError } from '../../errors.ts';
import {
  CMD_DISC,
  CMD_FLAG_PAYLOAD_LEN,
  CMD_WRITE,
  EXTENDED_REQUEST_MAGIC,
  EXTENDED_REQUEST_SIZE,
  REQUEST_HEADER_SIZE,
  REQUEST_MAGIC,
} from '../protocol.ts';
import { type NbdAddress, parseNbdUri } from '../uri.ts';
import { Coverage } from './coverage.ts';
import type { Extents } from './extents.ts';
import {
  type Asked,
  Breach,
  breachError,
  connectionError,
  connectProblem,
  lostError,
  refusedError,
} from './failures.ts';
import { Incoming } from './incoming.ts';
import { type Agreement, negotiate } from './negotiate.ts';
import { type Open, Replies } from './replies.ts';
import { type ClientTls, secureClient, tlsOptionsOf } from './tls.ts';
import { type AskedTls, closedAmidTls, tlsProblem } from './tls-failures.ts';

/** How a connection is opened. */
export interface ConnectionOptions {
  /** Ends the connection, and with it all requests. */
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds for connecting and negotiating; default 30000. */
  readonly negotiationMs?: number | undefined;
}

/** What goes with a request, and what comes back. */
export interface RequestData {
  /** Filled by a read. Nobody else uses it until the request has ended. */
  readonly into?: Uint8Array;
  /** Sent by a write; must stay as it is until then. */
  readonly data?: Uint8Array;
}

interface Request extends Open {
  readonly resolve: (extents: Extents | undefined) => void;
  readonly reject: (error: unknown) => void;
}

const MAX_OPEN = 64;
const NEGOTIATION_MS = 30_000;
const WORD = 2 ** 32;

/** Open, and past the negotiation. */
export class NbdConnection implements AsyncDisposable {
  readonly uri: string;
  readonly #address: NbdAddress;
  /** Over TLS another one than before. */
  #socket: Socket;
  readonly #incoming: Incoming;
  readonly #open = new Map<number, Request>();
  readonly #waiting: (() => void)[] = [];
  readonly #signal: AbortSignal | undefined;
  readonly #aborted = (): void => this.#fail(this.#signal?.reason);
  readonly #lost: Promise<never>;
  #reject: (error: unknown) => void = () => undefined;
  #failure: { readonly error: unknown } | undefined;
  #agreement: Agreement | undefined;
  #isConnected = false;
  #askedTls: AskedTls;
  #isSecure = false;
  #cookie = 1;

  private constructor(uri: string, address: NbdAddress, signal: AbortSignal | undefined) {
    this.uri = uri;
    this.#address = address;
    this.#askedTls = { address };
    this.#signal = signal;
    this.#lost = new Promise((_resolve, reject) => {
      this.#reject = reject;
    });
    // Only the negotiation looks at it.
    this.#lost.catch(() => undefined);
    this.#incoming = new Incoming();
    const { onread } = this.#incoming;
    this.#socket = connect({ ...address.place, noDelay: true, keepAlive: true, onread });
    this.#incoming.attach(this.#socket);
    this.#socket.on('connect', () => {
      this.#isConnected = true;
    });
    this.#listen();
    signal?.addEventListener('abort', this.#aborted);
  }

  /** Connects and negotiates. */
  static async open(uri: string, options: ConnectionOptions): Promise<NbdConnection> {
    const { signal, negotiationMs = NEGOTIATION_MS } = options;
    signal?.throwIfAborted();
    const address = parseNbdUri(uri);
    const tls = await tlsOptionsOf(address, uri);
    const connection = new NbdConnection(uri, address, signal);
    const late = `the server did not answer in ${negotiationMs} ms; try again, or another one`;
    const timer = setTimeout(() => connection.#fail(connectionError(uri, late)), negotiationMs);
    try {
      await connection.#negotiate(tls);
      return connection;
    } catch (error) {
      connection.#fail(error);
      throw connection.#failure?.error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** What was negotiated. */
  get agreement(): Agreement {
    if (this.#agreement === undefined) throw new Error('nothing is negotiated yet');
    return this.#agreement;
  }

  /** Sends a request; answers the extents of a block status. */
  async request(
    type: number,
    asked: Asked,
    { into, data }: RequestData = {},
  ): Promise<Extents | undefined> {
    while (this.#failure === undefined && this.#open.size >= MAX_OPEN) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    if (this.#failure !== undefined) throw this.#lostError(asked, this.#failure.error);
    return await new Promise((resolve, reject) => {
      const cookie = this.#cookie++;
      this.#open.set(cookie, { asked, into, coverage: new Coverage(), resolve, reject });
      this.#send(this.#headerOf(type, cookie, asked.offset, asked.length), data);
    });
  }

  /** Says goodbye where nothing is under way, and closes. */
  async [Symbol.asyncDispose](): Promise<void> {
    const socket = this.#socket;
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
    const isQuiet = this.#failure === undefined && this.#open.size === 0;
    this.#end(connectionError(this.uri, 'the connection is closed'));
    if (isQuiet) socket.end(this.#headerOf(CMD_DISC, 0, 0, 0), () => socket.destroy());
    else socket.destroy();
    if (!socket.closed) await closed;
  }

  #listen(): void {
    this.#socket.on('error', (cause) => this.#fail(this.#socketError(cause)));
    for (const event of ['end', 'close']) {
      this.#socket.on(event, () => this.#fail(this.#closedError()));
    }
  }

  async #negotiate(tls: ClientTls | undefined): Promise<void> {
    const { exportName } = this.#address;
    const wire = {
      read: (length: number) => this.#incoming.read(length),
      write: (bytes: Uint8Array) => void this.#socket.write(bytes),
      secure: tls && (() => this.#secure(tls)),
    };
    const negotiated = negotiate(wire, exportName, this.uri);
    this.#agreement = await Promise.race([negotiated, this.#lost]);
    const { structured, extended, contextId } = this.#agreement;
    new Replies({
      incoming: this.#incoming,
      structured,
      extended,
      contextId,
      open: this.#open,
      finish: (request) => this.#finish(request),
      fail: (error) => this.#fail(error),
    }).next();
  }

  /** What came in clear behind the server's answer must not pass for what comes over TLS. */
  async #secure({ user, ...tls }: ClientTls): Promise<void> {
    this.#askedTls = { address: this.#address, user };
    if (this.#incoming.stagedBytes > 0)
      throw new Breach('it sends bytes in clear where TLS begins');
    try {
      this.#socket = await secureClient(this.#socket, tls);
    } catch (cause) {
      throw connectionError(this.uri, tlsProblem(cause as Error, this.#askedTls), cause);
    }
    this.#isSecure = true;
    this.#listen();
    this.#incoming.listenTo(this.#socket);
  }

  #headerOf(type: number, cookie: number, offset: number, length: number): Uint8Array {
    const isExtended = this.#agreement?.extended === true;
    return headerOf(isExtended, { type, cookie, offset, length });
  }

  /** What is sent in one turn leaves together. */
  #send(header: Uint8Array, data: Uint8Array | undefined): void {
    this.#socket.cork();
    this.#socket.write(header);
    if (data !== undefined) this.#socket.write(data);
    process.nextTick(() => this.#socket.uncork());
  }

  #finish({ asked, extents, refused, resolve, reject }: Request): void {
    this.#waiting.shift()?.();
    if (refused === undefined) resolve(extents);
    else reject(refusedError(this.uri, asked, refused));
  }

  /** L2. */
  #fail(error: unknown): void {
    this.#end(error instanceof Breach ? breachError(this.uri, error) : error);
    this.#socket.destroy();
  }

  /** Nothing is read any more, and nobody waits. */
  #end(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { error };
    this.#signal?.removeEventListener('abort', this.#aborted);
    this.#incoming.end();
    this.#reject(error);
    for (const { asked, reject } of this.#open.values()) reject(this.#lostError(asked, error));
    this.#open.clear();
    for (const wake of this.#waiting.splice(0)) wake();
  }

  #lostError(asked: Asked, error: unknown): unknown {
    return error instanceof SluiceError ? lostError(this.uri, asked, error) : error;
  }

  #socketError(cause: Error): SluiceError {
    return connectionError(this.uri, this.#socketProblem(cause), cause);
  }

  #socketProblem(cause: Error): string {
    const { code = cause.message } = cause as NodeJS.ErrnoException;
    if (!this.#isConnected) return connectProblem(cause, this.#address.place);
    // With TLS 1.3 a server looks at the client's certificate when the client is done.
    const isEarly = this.#isSecure && this.#agreement === undefined;
    if (isEarly && code.startsWith('ERR_SSL_')) return tlsProblem(cause, this.#askedTls);
    const advice = 'look at the server, and try again';
    return `the connection was lost: the system reported ${code}; ${advice}`;
  }

  #closedError(): SluiceError {
    const isOpen = this.#agreement !== undefined;
    const advice = isOpen ? 'look at it, and try again' : 'check the name of the export';
    const closed = `the server closed the connection; ${advice}`;
    const amidTls = !isOpen && this.#isSecure ? closedAmidTls(this.#askedTls) : undefined;
    return connectionError(this.uri, amidTls ?? closed);
  }
}

interface Header {
  readonly type: number;
  readonly cookie: number;
  readonly offset: number;
  readonly length: number;
}

/** NBD proto, "Request message". */
function headerOf(isExtended: boolean, { type, cookie, offset, length }: Header): Uint8Array {
  const bytes = new Uint8Array(isExtended ? EXTENDED_REQUEST_SIZE : REQUEST_HEADER_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, isExtended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC);
  if (isExtended && type === CMD_WRITE) view.setUint16(4, CMD_FLAG_PAYLOAD_LEN);
  view.setUint16(6, type);
  setWide(view, 8, cookie);
  setWide(view, 16, offset);
  if (isExtended) setWide(view, 24, length);
  else view.setUint32(24, length);
  return bytes;
}

function setWide(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / WORD));
  view.setUint32(at + 4, value % WORD);
}
