/**
 * One accepted connection: negotiation first, then transmission.
 *
 *   negotiating ──▶ parked ──▶ serving ──▶ gone
 *        │  GO, and  │  a client slot is free
 *        │  all client slots are taken
 *        ├──▶ gone
 *        └──▶ STARTTLS: the handshake of TLS, and negotiating again
 *
 * negotiating -> parked     #negotiate, when the host does not admit
 * parked -> serving         admitted
 * negotiating -> serving    #serve
 */
import type { Socket } from 'node:net';
import type { SluiceError } from '../errors.ts';
import { busyPoll } from './busy-poll.ts';
import { HEADERS_EXTENDED, HEADERS_SIMPLE } from './export-info.ts';
import { Connection } from './connection.ts';
import { isSelected } from './contexts.ts';
import type { Export } from './export.ts';
import {
  Handshake,
  HANDSHAKE_CLOSE,
  HANDSHAKE_ENTER,
  HANDSHAKE_MORE,
  HANDSHAKE_SECURE,
} from './handshake.ts';
import { HANDSHAKE_WINDOW_BYTES } from './limits.ts';
import { ByteSocket, type SocketOwner } from './socket.ts';
import type { CountedClient } from './stats/server-tally.ts';
import { Tally } from './stats/tally.ts';
import type { NbdClientInfo, NbdEndReason } from './stats/types.ts';
import { tlsFault, type TlsSettings } from './tls.ts';

/** The server as its connections see it. */
export interface PeerHost {
  readonly uri: string;
  /** What is offered now. */
  readonly exports: readonly Export[];
  readonly handshakeTimeoutMs: number;
  readonly busyPollMicros: number;
  readonly tls: TlsSettings | undefined;
  /** Clients in transmission. */
  readonly clients: number;
  /** Takes a client slot; false: `admitted` will be called when one is free. */
  admit(peer: Peer): boolean;
  /** Transmission begins. */
  serving(peer: Peer, client: CountedClient): void;
  /** Everything that this client asked for is executed. */
  finished(peer: Peer, client: CountedClient): void;
  /** TLS did not begin as it should; the connection ends. */
  faulty(error: SluiceError): void;
  /** The socket is gone. */
  gone(peer: Peer): void;
}

export class Peer implements SocketOwner {
  /** As performance.now() counts. */
  readonly acceptedAtMs = performance.now();
  /** Of the connection, among those of the server. */
  readonly id: number;
  /** `host:port`; empty on a unix socket. */
  readonly address: string;
  readonly #host: PeerHost;
  readonly #socket: ByteSocket;
  readonly #handshake: Handshake<Export>;
  readonly #window = new Uint8Array(HANDSHAKE_WINDOW_BYTES);
  #at = 0;
  #end = 0;
  /** The last target was the window. */
  #intoWindow = true;
  #admitted = false;
  #connection: Connection | undefined;
  #reason: NbdEndReason | undefined;
  #secured = false;
  /** TLS did not begin, and why. */
  #insecurity: SluiceError | undefined;
  readonly #timer: NodeJS.Timeout | undefined;
  #lastLook: NodeJS.Immediate | undefined;
  readonly #goOn = (): void => {
    if (this.#negotiate()) this.#socket.resume();
  };

  constructor(host: PeerHost, accepted: Socket, id: number) {
    this.id = id;
    this.address = addressOf(accepted);
    this.#host = host;
    this.#handshake = new Handshake(host.exports, tlsStateOf(host.tls));
    const limitMs = host.handshakeTimeoutMs;
    this.#timer = limitMs === 0 ? undefined : setTimeout(() => this.#expire(), limitMs);
    this.#socket = new ByteSocket(accepted, this, busyPoll(host.busyPollMicros));
    this.#send(this.#handshake.takeReplies());
  }

  /** The export that the client has chosen. */
  get chosen(): Export | undefined {
    return this.#handshake.chosen;
  }

  /** The connection in transmission. */
  get connection(): Connection | undefined {
    return this.#connection;
  }

  /** Polling for one client would keep another one waiting. */
  get idle(): boolean {
    return this.#connection?.idle === true && this.#host.clients === 1;
  }

  /** A client slot is free: goes on where it was parked. */
  admitted(): void {
    this.#admitted = true;
    this.#goOn();
  }

  /** Why it has ended, or will. */
  get reason(): NbdEndReason {
    return this.#connection?.ending ?? this.#reason ?? 'gone';
  }

  /** What was found wrong with its negotiation, in words; empty: nothing. */
  get complaint(): string {
    return this.#insecurity?.message ?? this.#handshake.complaint;
  }

  /** Closes without ceremony. */
  destroy(reason: NbdEndReason): void {
    this.#reason ??= reason;
    this.#socket.destroy();
  }

  target(): Uint8Array {
    this.#intoWindow = this.#connection === undefined;
    return this.#connection?.target() ?? this.#window;
  }

  received(lengthBytes: number): boolean {
    const connection = this.#connection;
    if (connection !== undefined) {
      // A target named before transmission began is still the window.
      if (!this.#intoWindow) return connection.received(lengthBytes);
      return connection.copied(this.#window.subarray(0, lengthBytes));
    }
    this.#at = 0;
    this.#end = lengthBytes;
    return this.#negotiate();
  }

  ended(): void {
    if (this.#connection !== undefined) this.#connection.ended();
    // After a CLOSE the socket ends by itself, when the last reply is out.
    else if (this.#handshake.outcome !== HANDSHAKE_CLOSE) this.destroy('gone');
  }

  closed(): void {
    this.#stopTimer();
    this.#connection?.closed();
    this.#host.gone(this);
  }

  /** What came in time counts, also when this thread looks at its sockets only after its timers. */
  #expire(): void {
    this.#lastLook = setImmediate(() => this.destroy('timeout'));
  }

  #stopTimer(): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#lastLook);
  }

  /** Goes on with what was received; true when more is wanted. */
  #negotiate(): boolean {
    const handshake = this.#handshake;
    do {
      this.#at = handshake.feed(this.#window, this.#at, this.#end);
      if (handshake.outcome === HANDSHAKE_ENTER && !this.#admit()) return false;
      if (!this.#send(handshake.takeReplies())) return false;
    } while (handshake.outcome === HANDSHAKE_MORE && this.#at < this.#end);
    if (handshake.outcome === HANDSHAKE_ENTER) return this.#serve();
    if (handshake.outcome === HANDSHAKE_SECURE) this.#secure();
    if (handshake.outcome === HANDSHAKE_CLOSE) {
      this.#reason ??= handshake.broken ? 'protocol' : 'abort';
      this.#socket.end();
    }
    return handshake.outcome === HANDSHAKE_MORE;
  }

  /** What came in clear behind STARTTLS would be taken for what comes over TLS (CVE-2021-3716). */
  #secure(): void {
    const { tls } = this.#host;
    if (tls === undefined) throw new Error('TLS begins where there is none');
    if (this.#at < this.#end) {
      return this.#insecure(new Error('it sent bytes in clear behind STARTTLS'));
    }
    this.#socket.secure(tls, (error) => {
      if (error !== undefined) return this.#insecure(error);
      this.#secured = true;
      this.#handshake.secured();
      this.#socket.resume();
    });
  }

  #insecure(error: Error): void {
    this.#insecurity = tlsFault(error);
    this.#host.faulty(this.#insecurity);
    this.destroy('tls');
  }

  #admit(): boolean {
    this.#admitted ||= this.#host.admit(this);
    return this.#admitted;
  }

  /** Sends; false when it takes longer, and `#goOn` comes after it. */
  #send(bytes: Uint8Array): boolean {
    const sent = this.#socket.writeNow(bytes, bytes.length);
    if (sent < 0) this.destroy('gone');
    else if (sent < bytes.length) this.#socket.writeLater([bytes.subarray(sent)], this.#goOn);
    return sent === bytes.length;
  }

  #serve(): boolean {
    const { chosen } = this.#handshake;
    if (chosen === undefined) throw new Error('transmission is about an export');
    this.#stopTimer();
    const connection = new Connection({
      device: chosen.device,
      turn: chosen.turn,
      reception: chosen.reception,
      tally: new Tally(this.#client(chosen), chosen.turn.clock),
      socket: this.#socket,
      session: {
        sizeBytes: chosen.sizeBytes,
        readOnly: chosen.readOnly,
        maxPayloadBytes: chosen.maxPayloadBytes,
        structured: this.#handshake.headers !== HEADERS_SIMPLE,
        extended: this.#handshake.headers === HEADERS_EXTENDED,
        contexts: chosen.contexts,
        selection: this.#handshake.selection,
      },
      early: this.#window.subarray(this.#at, this.#end),
      finished: () => this.#host.finished(this, connection),
    });
    this.#connection = connection;
    this.#host.serving(this, connection);
    return connection.start();
  }

  /** What statistics say of it. */
  #client({ name, readOnly, contexts }: Export): NbdClientInfo {
    const { headers, selection } = this.#handshake;
    return {
      server: this.#host.uri,
      id: this.id,
      address: this.address,
      tls: this.#secured,
      export: name,
      readOnly,
      structuredReplies: headers !== HEADERS_SIMPLE,
      extendedHeaders: headers === HEADERS_EXTENDED,
      contexts: contexts.filter((_, place) => isSelected(selection, place)).map((one) => one.name),
    };
  }
}

function tlsStateOf(tls: TlsSettings | undefined): 'none' | 'allowed' | 'required' {
  if (tls === undefined) return 'none';
  return tls.required ? 'required' : 'allowed';
}

function addressOf({ remoteAddress, remotePort }: Socket): string {
  if (remoteAddress === undefined) return '';
  const host = remoteAddress.includes(':') ? `[${remoteAddress}]` : remoteAddress;
  return `${host}:${remotePort}`;
}
