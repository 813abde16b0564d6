/**
 * `sluice serve --verbose`: what happens, a line each on stderr. Never data; and never more lines
 * than somebody could want, whatever clients do.
 *
 *   2026-01-31T12:00:00.000Z client 3 (127.0.0.1:41234): disconnected (disconnect): ...
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { DiskSyncEvent } from '../backend/sync-channel.ts';
import type { NbdClientInfo, NbdRequestEvent, NbdServer } from '../node.ts';
import { formatBytes } from './format.ts';
import type { Terminal } from './terminal.ts';

/** Lines in a burst, and lines a second after it. */
const BURST_LINES = 100;
const LINES_PER_SECOND = 20;

export class ServerLog implements Disposable {
  readonly #say: (text: string) => void;
  readonly #now: () => number;
  #tokens = BURST_LINES;
  #filledAtMs: number;
  #leftOut = 0;
  readonly #failed = (event: unknown): void => this.#request(event as NbdRequestEvent);
  readonly #synced = (event: unknown): void => this.#sync(event as DiskSyncEvent);

  /** @param now milliseconds since the epoch */
  constructor(say: (text: string) => void, now = Date.now) {
    this.#say = say;
    this.#now = now;
    this.#filledAtMs = now();
  }

  /** Listens to a server until it is disposed of. */
  static of(server: NbdServer, terminal: Terminal): ServerLog {
    const log = new ServerLog((text) => terminal.line(text));
    server.on('connect', (client) => log.line(`${nameOf(client)}: connected, ${features(client)}`));
    server.on('disconnect', (client, { reason, seconds, requests, errors, ...bytes }) => {
      const [received, sent] = [bytes.bytesReceived, bytes.bytesSent].map(formatBytes);
      const counts = `${requests} requests, ${errors} errors, ${received} in, ${sent} out`;
      log.line(`${nameOf(client)}: gone (${reason}) after ${seconds.toFixed(3)} s: ${counts}`);
    });
    server.on('unserved', ({ reason, detail, ...client }) => {
      const why = detail === '' ? reason : `${reason}: ${detail}`;
      log.line(`${nameOf(client)}: ended before transmission (${why})`);
    });
    server.on('refused', (error) => log.line(`a connection was refused: ${error.message}`));
    subscribe('sluice:nbd:error', log.#failed);
    subscribe('sluice:disk:sync', log.#synced);
    return log;
  }

  /** Says a line, if there is room for it. */
  line(text: string): void {
    const now = this.#now();
    const filled = ((now - this.#filledAtMs) / 1000) * LINES_PER_SECOND;
    this.#tokens = Math.min(BURST_LINES, this.#tokens + Math.max(filled, 0));
    this.#filledAtMs = now;
    if (this.#tokens < 1) {
      this.#leftOut += 1;
      return;
    }
    this.#sayLeftOut();
    this.#tokens -= 1;
    this.#say(`${new Date(now).toISOString()} ${text}`);
  }

  /** The last word: no line comes any more that could say how many are missing before it. */
  [Symbol.dispose](): void {
    this.#sayLeftOut();
    unsubscribe('sluice:nbd:error', this.#failed);
    unsubscribe('sluice:disk:sync', this.#synced);
  }

  #sayLeftOut(): void {
    if (this.#leftOut === 0) return;
    const lines = this.#leftOut === 1 ? '1 line was' : `${this.#leftOut} lines were`;
    this.#say(`${new Date(this.#now()).toISOString()} ${lines} left out`);
    this.#leftOut = 0;
  }

  #request({ client, command, type, offset, length, error }: NbdRequestEvent): void {
    const what = command === 'unknown' ? `command ${type}` : command;
    this.line(`${nameOf(client)}: ${what} of ${length} bytes at ${offset}: ${error}`);
  }

  #sync({ path, errno, seconds }: DiskSyncEvent): void {
    if (errno === 0) return;
    const name = JSON.stringify(path);
    this.line(`sync of ${name} failed after ${seconds.toFixed(3)} s: errno ${errno}`);
  }
}

function nameOf({ id, address }: Pick<NbdClientInfo, 'id' | 'address'>): string {
  return address === '' ? `client ${id}` : `client ${id} (${address})`;
}

function headersOf({ structuredReplies, extendedHeaders }: NbdClientInfo): string {
  if (extendedHeaders) return 'extended headers';
  return structuredReplies ? 'structured replies' : 'simple replies';
}

function features(client: NbdClientInfo): string {
  return [
    `export ${JSON.stringify(client.export)}`,
    client.readOnly ? 'read-only' : 'read-write',
    ...(client.tls ? ['TLS'] : []),
    headersOf(client),
    ...client.contexts,
  ].join(', ');
}
