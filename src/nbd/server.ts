/**
 * The NBD server: listens, counts, and gives every connection its slot.
 * NBD proto, "Newstyle negotiation".
 *
 * V1  Negotiations have slots of their own: connections that never finish one cannot keep clients
 *     out, since a newcomer takes the place of the oldest.
 * V2  A client slot is taken when transmission begins and free when everything is executed.
 * V3  Closing stops reading, executes what was received completely, sends the replies, and waits
 *     for nobody longer than CLOSE_TIMEOUT_MS.
 */
import { EventEmitter } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import type { Device } from '../device.ts';
import { SluiceError } from '../errors.ts';
import type { Connection } from './connection.ts';
import type { ExportInfo } from './handshake.ts';
import {
  CLOSE_TIMEOUT_MS,
  HANDSHAKE_GRACE_MS,
  MAX_HANDSHAKES,
  MAX_HANDSHAKES_IN_A_BURST,
  MAX_PARKED,
  MAX_PAYLOAD_BYTES,
  STALL_CHECK_MS,
} from './limits.ts';
import { listen, uriOf } from './listen.ts';
import { type NbdServerOptions, type ServerSettings, settingsOf } from './options.ts';
import { Peer, type PeerHost } from './peer.ts';
import { StallWatch } from './stall-watch.ts';
import { type CountedClient, ServerTally } from './stats/server-tally.ts';
import type { NbdClientEnd, NbdClientInfo, NbdServerStats, NbdUnserved } from './stats/types.ts';
import { Turn } from './turn.ts';

export type { NbdServerOptions } from './options.ts';

/** What a server tells its owner. */
export interface NbdServerEvents {
  /** A client entered transmission; `clients` counts it. */
  connect: [client: NbdClientInfo];
  /** A client has left, and everything it asked for is executed; `clients` counts it no more. */
  disconnect: [client: NbdClientInfo, end: NbdClientEnd];
  /** A connection has ended before transmission. */
  unserved: [unserved: NbdUnserved];
  /** A connection could not be accepted, for want of descriptors say. The server goes on. */
  refused: [error: Error];
}

/** A running server. NBD proto, "Introduction". */
export interface NbdServer extends AsyncDisposable {
  /** Where clients find the export. NBD, doc/uri.md. */
  readonly uri: string;
  /** Clients in transmission now. */
  readonly clients: number;
  /** What it has done, and is doing now. */
  stats(): NbdServerStats;
  /** Resolves when the server is closed, whoever closed it. */
  readonly closed: Promise<void>;
  on<E extends keyof NbdServerEvents>(
    event: E,
    listener: (...args: NbdServerEvents[E]) => void,
  ): this;
  once<E extends keyof NbdServerEvents>(
    event: E,
    listener: (...args: NbdServerEvents[E]) => void,
  ): this;
  off<E extends keyof NbdServerEvents>(
    event: E,
    listener: (...args: NbdServerEvents[E]) => void,
  ): this;
  /**
   * Accepts nobody any more, finishes what was received, and closes. The device stays open, and
   * is not flushed.
   */
  close(): Promise<void>;
}

/** TCP: a peer that is gone is noticed. */
const KEEP_ALIVE_DELAY_MS = 60_000;
/** Enough for the largest request that clients of old make without asking. */
const SMALLEST_LARGE_BYTES = 1_048_576;
/** NBD proto, "Size constraints": what clients assume when nobody says. */
const PREFERRED_BLOCK_BYTES = 4096;

/**
 * Serves a device over NBD. Resolves when clients can connect. Rejects with the system's error when
 * the socket cannot be bound, with ERR_SLUICE_INVALID_ARGUMENT for options that make no sense, and
 * with the signal's reason when it is aborted already. NBD proto, "Newstyle negotiation".
 */
export async function serveNbd(device: Device, options: NbdServerOptions = {}): Promise<NbdServer> {
  const settings = settingsOf(options);
  const { signal } = options;
  if (device.arena.largestBytes < SMALLEST_LARGE_BYTES) {
    throw new SluiceError(
      'ERR_SLUICE_INVALID_ARGUMENT',
      `serving needs bufferBytes (arenaBytes of createVirtioBlk) of ` +
        `${2 * SMALLEST_LARGE_BYTES} or more, not ${2 * device.arena.largestBytes}; ` +
        'of both servers of a disk serveNbd comes before serveVhostUser',
    );
  }
  signal?.throwIfAborted();
  const server = new DeviceServer(device, settings);
  await server.open();
  const abort = (): void => void server.close();
  signal?.addEventListener('abort', abort, { once: true });
  void server.closed.then(() => signal?.removeEventListener('abort', abort));
  if (signal?.aborted === true) await server.close();
  return server;
}

class DeviceServer extends EventEmitter<NbdServerEvents> implements NbdServer, PeerHost {
  readonly device: Device;
  readonly turn: Turn;
  readonly info: ExportInfo;
  readonly handshakeTimeoutMs: number;
  readonly busyPollMicros: number;
  readonly closed: Promise<void>;
  readonly #settings: ServerSettings;
  readonly #listener: Server;
  /** Every peer is in one of the first three, or done. */
  readonly #negotiating = new Set<Peer>();
  readonly #parked = new Set<Peer>();
  readonly #serving = new Set<Peer>();
  /** Peers that hold a client slot (V2). */
  readonly #slots = new Set<Peer>();
  /** Peers whose sockets are open. */
  readonly #sockets = new Set<Peer>();
  readonly #watch: StallWatch<Connection>;
  readonly #tally = new ServerTally();
  #timer: NodeJS.Timeout | undefined;
  #uri = '';
  #closing = false;
  #listening = false;
  #resolveClosed: () => void = () => undefined;

  constructor(device: Device, settings: ServerSettings) {
    super();
    this.device = device;
    this.turn = new Turn(device);
    this.info = {
      name: settings.name,
      description: settings.description,
      // For each client as it comes: the disk may have been resized.
      get sizeBytes() {
        return device.sizeBytes;
      },
      readOnly: device.readOnly || settings.readOnly,
      multiConn: settings.maxClients !== 1,
      preferredBlockBytes: Math.max(PREFERRED_BLOCK_BYTES, device.blockSizeBytes),
      maxPayloadBytes: Math.min(MAX_PAYLOAD_BYTES, device.arena.largestBytes),
    };
    this.handshakeTimeoutMs = settings.handshakeTimeoutMs;
    this.busyPollMicros = settings.busyPollMicros;
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve));
    this.#settings = settings;
    this.#watch = new StallWatch(device.arena);
    this.#listener = createServer({
      allowHalfOpen: true,
      pauseOnConnect: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_DELAY_MS,
    });
  }

  get uri(): string {
    return this.#uri;
  }

  get clients(): number {
    return this.#serving.size;
  }

  stats(): NbdServerStats {
    return this.#tally.stats({
      uri: this.#uri,
      negotiating: this.#negotiating.size,
      waiting: this.#parked.size,
      limit: this.#settings.maxClients,
      exports: [{ name: this.info.name, device: this.device, readOnly: this.info.readOnly }],
    });
  }

  /** Starts to listen. */
  async open(): Promise<void> {
    await listen(this.#listener, this.#settings.address);
    this.#listening = true;
    this.#uri = uriOf(this.#listener, this.#settings.address, this.info.name);
    this.#listener.on('connection', (socket) => this.#accept(socket));
    this.#listener.on('error', (error) => {
      this.#tally.refused();
      this.emit('refused', error);
    });
    this.#timer = setInterval(() => this.#dropStalled(), STALL_CHECK_MS).unref();
  }

  close(): Promise<void> {
    if (this.#closing) return this.closed;
    this.#closing = true;
    clearInterval(this.#timer);
    this.#listener.close(() => {
      this.#listening = false;
      this.#settle();
    });
    for (const peer of [...this.#negotiating, ...this.#parked]) peer.destroy('shutdown');
    for (const peer of this.#serving) peer.connection?.shutdown();
    // Nobody waits for a client that does not take its replies (V3).
    const timer = setTimeout(() => {
      for (const peer of this.#sockets) peer.destroy('shutdown');
    }, CLOSE_TIMEOUT_MS);
    return this.closed.finally(() => clearTimeout(timer));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  admit(peer: Peer): boolean {
    const { maxClients } = this.#settings;
    if (maxClients === 0 || this.#slots.size < maxClients) {
      this.#slots.add(peer);
      return true;
    }
    this.#negotiating.delete(peer);
    if (this.#parked.size < MAX_PARKED) this.#parked.add(peer);
    else peer.destroy('crowded');
    return false;
  }

  serving(peer: Peer, client: CountedClient): void {
    this.#negotiating.delete(peer);
    this.#serving.add(peer);
    this.#tally.began(client);
    this.emit('connect', client.tally.client);
  }

  finished(peer: Peer, client: CountedClient): void {
    this.#serving.delete(peer);
    this.emit('disconnect', client.tally.client, this.#tally.ended(client, peer.reason));
    this.#free(peer);
  }

  gone(peer: Peer): void {
    this.#sockets.delete(peer);
    this.#negotiating.delete(peer);
    this.#parked.delete(peer);
    if (peer.connection === undefined) this.#unserved(peer);
    // What the client asked for may still be under way, and keeps the slot.
    if (!this.#serving.has(peer)) this.#free(peer);
  }

  #unserved({ id, address, reason, complaint: detail }: Peer): void {
    const unserved = { server: this.#uri, id, address, reason, detail };
    this.#tally.unserved(unserved);
    this.emit('unserved', unserved);
  }

  #accept(socket: Socket): void {
    if (this.#closing) {
      socket.destroy();
      return;
    }
    this.#evict();
    const peer = new Peer(this, socket, this.#tally.accepted());
    this.#sockets.add(peer);
    this.#negotiating.add(peer);
  }

  /** Makes room for a negotiation (V1). */
  #evict(): void {
    const [oldest] = this.#negotiating;
    if (oldest === undefined || this.#negotiating.size < MAX_HANDSHAKES) return;
    const old = performance.now() - oldest.acceptedAtMs >= HANDSHAKE_GRACE_MS;
    if (!old && this.#negotiating.size < MAX_HANDSHAKES_IN_A_BURST) return;
    this.#negotiating.delete(oldest);
    oldest.destroy('evicted');
  }

  /** Gives a slot to whoever waits longest. */
  #free(peer: Peer): void {
    if (this.#slots.delete(peer) && !this.#closing) {
      const [next] = this.#parked;
      if (next !== undefined) {
        this.#parked.delete(next);
        this.#slots.add(next);
        next.admitted();
      }
    }
    this.#settle();
  }

  #settle(): void {
    const open = this.#listening || this.#sockets.size > 0 || this.#serving.size > 0;
    if (this.#closing && !open) this.#resolveClosed();
  }

  #dropStalled(): void {
    const connections = [...this.#serving].flatMap((peer) => peer.connection ?? []);
    for (const connection of this.#watch.check(connections)) connection.destroy('stalled');
  }
}
