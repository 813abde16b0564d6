/**
 * The NBD server: listens, counts, and gives every connection its slot.
 * NBD proto, "Newstyle negotiation".
 *
 * V1  Negotiations have slots of their own: connections that never finish one cannot keep clients
 *     out, since a newcomer takes the place of the oldest.
 * V2  Client slots are another matter (slots.ts), of the server and of each export; whoever is
 *     idle beyond its limit makes room for those that wait.
 * V3  Closing stops reading, executes what was received completely, sends the replies, and waits
 *     for nobody longer than CLOSE_TIMEOUT_MS.
 */
import { EventEmitter } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { clientCame, clientWent } from '../backend/company.ts';
import type { Device } from '../device.ts';
import { SluiceError } from '../errors.ts';
import type { Connection } from './connection.ts';
import { readContexts, refuseAbsent } from './contexts.ts';
import { Export } from './export.ts';
import {
  CLOSE_TIMEOUT_MS,
  HANDSHAKE_GRACE_MS,
  MAX_HANDSHAKES,
  MAX_HANDSHAKES_IN_A_BURST,
  STALL_CHECK_MS,
} from './limits.ts';
import { IdleWatch } from './idle-watch.ts';
import { listen, uriOf } from './listen.ts';
import {
  type DeviceExport,
  type NbdServerOptions,
  type ServerSettings,
  settingsOf,
} from './options.ts';
import { Peer, type PeerHost } from './peer.ts';
import type { DeviceServer, NbdServerEvents } from './server-types.ts';
import { Slots } from './slots.ts';
import { Reception } from './reception.ts';
import { StallWatch } from './stall-watch.ts';
import { type CountedClient, ServerTally } from './stats/server-tally.ts';
import type { NbdServerStats } from './stats/types.ts';
import { type NbdTlsOptions, renewedTls, type TlsSettings } from './tls.ts';
import { Turn } from './turn.ts';

export type { NbdExportOptions, NbdServerOptions } from './options.ts';
export type { DeviceServer, NbdServer, NbdServerEvents } from './server-types.ts';
export type { NbdTlsOptions } from './tls.ts';

/** TCP: a peer that is gone is noticed. */
const KEEP_ALIVE_DELAY_MS = 60_000;
/** Enough for the largest request that clients of old make without asking. */
const SMALLEST_LARGE_BYTES = 1_048_576;
/**
 * Serves a device over NBD, or several. Resolves when clients can connect. Rejects with the
 * system's error when the socket cannot be bound, with ERR_SLUICE_INVALID_ARGUMENT for options that
 * make no sense, with the signal's reason when it is aborted already, and with what
 * `Device.readBitmap` throws. NBD proto, "Newstyle negotiation".
 */
export async function serveNbd(
  served: Device | readonly DeviceExport[],
  options: NbdServerOptions = {},
): Promise<DeviceServer> {
  const settings = settingsOf(served, options);
  const { signal } = options;
  for (const { device } of settings.exports) checkArena(device);
  signal?.throwIfAborted();
  const exports = await exportsOf(settings);
  signal?.throwIfAborted();
  const server = new ExportServer(settings, exports);
  await server.open();
  const abort = (): void => void server.close();
  signal?.addEventListener('abort', abort, { once: true });
  void server.closed.then(() => signal?.removeEventListener('abort', abort));
  if (signal?.aborted === true) await server.close();
  return server;
}

function checkArena({ arena }: Device): void {
  if (arena.largestBytes >= SMALLEST_LARGE_BYTES) return;
  throw new SluiceError(
    'ERR_SLUICE_INVALID_ARGUMENT',
    `serving needs bufferBytes (arenaBytes of createVirtioBlk) of ` +
      `${2 * SMALLEST_LARGE_BYTES} or more, not ${2 * arena.largestBytes}; ` +
      'of both servers of a disk serveNbd comes before serveVhostUser',
  );
}

class ExportServer extends EventEmitter<NbdServerEvents> implements DeviceServer, PeerHost {
  readonly handshakeTimeoutMs: number;
  readonly busyPollMicros: number;
  readonly closed: Promise<void>;
  readonly #settings: ServerSettings;
  readonly #listener: Server;
  /** One for each device. */
  readonly #watches = new Map<Device, StallWatch<Connection>>();
  /** Negotiations look at it as they go on. */
  readonly #exports: Export[];
  /** Every peer is in one of these two, or parked, or done. */
  readonly #negotiating = new Set<Peer>();
  readonly #serving = new Set<Peer>();
  readonly #slots: Slots<Peer>;
  readonly #idlers: IdleWatch<Connection>;
  /** Peers whose sockets are open. */
  readonly #sockets = new Set<Peer>();
  readonly #withdrawals = new Set<{ readonly of: readonly Export[]; readonly done: () => void }>();
  readonly #tally = new ServerTally();
  #timer: NodeJS.Timeout | undefined;
  #uris: readonly string[] = [];
  #tls: TlsSettings | undefined;
  #closing = false;
  #listening = false;
  #resolveClosed: () => void = () => undefined;

  constructor(settings: ServerSettings, exports: Export[]) {
    super();
    this.#exports = exports;
    for (const { device } of this.#exports) {
      this.#watches.set(device, new StallWatch(device.arena));
    }
    this.handshakeTimeoutMs = settings.handshakeTimeoutMs;
    this.busyPollMicros = settings.busyPollMicros;
    this.#tls = settings.tls;
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve));
    this.#settings = settings;
    this.#slots = new Slots(settings.maxClients);
    const { idleTimeoutMs: idleMs, handshakeTimeoutMs: silentMs } = settings;
    this.#idlers = new IdleWatch({ idleMs, silentMs });
    this.#listener = createServer({
      allowHalfOpen: true,
      pauseOnConnect: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_DELAY_MS,
    });
  }

  get exports(): readonly Export[] {
    return this.#exports;
  }

  get uri(): string {
    return this.#uris[0] ?? '';
  }

  get uris(): readonly string[] {
    return this.#uris;
  }

  get clients(): number {
    return this.#serving.size;
  }

  get tls(): TlsSettings | undefined {
    return this.#tls;
  }

  renewTls(tls: NbdTlsOptions): void {
    this.#tls = renewedTls(this.#tls, tls);
  }

  stats(): NbdServerStats {
    return this.#tally.stats({
      uri: this.uri,
      negotiating: this.#negotiating.size,
      waiting: this.#slots.parked.size,
      limit: this.#settings.maxClients,
      exports: this.#exports,
    });
  }

  /** Starts to listen. */
  async open(): Promise<void> {
    await listen(this.#listener, this.#settings.address);
    this.#listening = true;
    const { address } = this.#settings;
    this.#uris = this.#exports.map(({ name }) =>
      uriOf(this.#listener, address, name, this.#tls?.required),
    );
    this.#listener.on('connection', (socket) => this.#accept(socket));
    this.#listener.on('error', (error) => {
      this.#tally.refused();
      this.emit('refused', error);
    });
    const check = (): void => {
      this.#dropStalled();
      this.#dropIdle();
    };
    this.#timer = setInterval(check, STALL_CHECK_MS).unref();
  }

  close(): Promise<void> {
    if (this.#closing) return this.closed;
    this.#closing = true;
    clearInterval(this.#timer);
    this.#listener.close(() => {
      this.#listening = false;
      this.#settle();
    });
    this.#slots.close();
    return this.#end([...this.#sockets], this.closed);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async withdraw(device: Device): Promise<void> {
    const of = this.#exports.filter((one) => one.device === device);
    if (of.length === this.#exports.length || this.#closing) return this.close();
    this.#uris = this.#uris.filter((_, index) => this.#exports[index]?.device !== device);
    for (const one of of) this.#exports.splice(this.#exports.indexOf(one), 1);
    const ended = new Promise<void>((done) => this.#withdrawals.add({ of, done }));
    const users = this.#end(
      [...this.#sockets].filter((peer) => uses(peer, of)),
      ended,
    );
    this.#settle();
    await users;
    this.#watches.delete(device);
  }

  admit(peer: Peer): boolean {
    if (this.#slots.take(peer)) return true;
    this.#negotiating.delete(peer);
    if (!this.#slots.parked.has(peer)) peer.destroy('crowded');
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
    this.#slots.give(peer);
    this.#settle();
  }

  faulty(error: SluiceError): void {
    this.emit('fault', error);
  }

  gone(peer: Peer): void {
    if (this.#sockets.delete(peer)) clientWent();
    this.#negotiating.delete(peer);
    if (peer.connection === undefined) this.#unserved(peer);
    // What the client asked for may still be under way, and keeps the slot.
    if (!this.#serving.has(peer)) this.#slots.give(peer);
    this.#settle();
  }

  #unserved({ id, address, reason, complaint: detail }: Peer): void {
    const unserved = { server: this.uri, id, address, reason, detail };
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
    clientCame();
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

  /** Ends connections, those in transmission when they have their replies (V3). */
  async #end(peers: readonly Peer[], ended: Promise<void>): Promise<void> {
    // First, or they would get the slots of the others.
    for (const peer of peers) if (peer.connection === undefined) peer.destroy('shutdown');
    for (const peer of peers) peer.connection?.shutdown();
    const timer = setTimeout(() => {
      for (const peer of peers) peer.destroy('shutdown');
    }, CLOSE_TIMEOUT_MS);
    await ended;
    clearTimeout(timer);
  }

  #settle(): void {
    for (const withdrawal of this.#withdrawals) {
      const peers = [...this.#sockets, ...this.#serving];
      if (peers.some((peer) => uses(peer, withdrawal.of))) continue;
      this.#withdrawals.delete(withdrawal);
      withdrawal.done();
    }
    const open = this.#listening || this.#sockets.size > 0 || this.#serving.size > 0;
    if (!this.#closing || open) return;
    this.#exports.length = 0;
    this.#resolveClosed();
  }

  /** Makes room for those that wait: one for each. */
  #dropIdle(): void {
    const nowMs = performance.now();
    const all = new Set(connectionsOf(this.#serving));
    this.#idlers.look(all, nowMs);
    for (const waiting of this.#slots.parked) {
      const rivals = connectionsOf(this.#slots.inTheWayOf(waiting)).filter((one) => all.has(one));
      const idle = this.#idlers.longest(rivals, nowMs);
      if (idle === undefined) continue;
      all.delete(idle);
      idle.destroy('idle');
    }
  }

  #dropStalled(): void {
    for (const [device, watch] of this.#watches) {
      const peers = [...this.#serving].filter(({ chosen }) => chosen?.device === device);
      for (const connection of watch.check(connectionsOf(peers))) connection.destroy('stalled');
    }
  }
}

function connectionsOf(peers: Iterable<Peer>): Connection[] {
  return [...peers].flatMap(({ connection }) => connection ?? []);
}

function uses({ chosen }: Peer, exports: readonly Export[]): boolean {
  return chosen !== undefined && exports.includes(chosen);
}

/** Exports of one device share its turns and its memory. */
async function exportsOf({ exports }: ServerSettings): Promise<Export[]> {
  const devices = new Map<Device, { readonly turn: Turn; readonly reception: Reception }>();
  const offered: Export[] = [];
  for (const settings of exports) {
    const { device } = settings;
    const shared = devices.get(device) ?? {
      turn: new Turn(device),
      reception: new Reception(device.arena),
    };
    devices.set(device, shared);
    offered.push(new Export(device, shared, settings, await readContexts(device, settings)));
  }
  const shared = exports.filter(({ bitmapsIfThere }) => bitmapsIfThere);
  refuseAbsent(
    shared.flatMap(({ bitmaps }) => bitmaps),
    offered,
  );
  return offered;
}
