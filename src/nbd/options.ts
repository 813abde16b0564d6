/** The options of a server, checked once. */
import { invalid } from '../arguments.ts';
import { checkOptions, type Checks, isSignal, isSwitch, isText, isWhole } from '../options.ts';
import { toSocketPath } from './listen.ts';
import { HANDSHAKE_TIMEOUT_MS } from './limits.ts';
import { DEFAULT_PORT, MAX_STRING_BYTES } from './protocol.ts';

/** How a device is served. */
export interface NbdServerOptions {
  /** Path of a unix socket to create; excludes `host` and `port`. */
  readonly socket?: string | undefined;
  /**
   * A socket that listens already, by its descriptor, as a service manager passes one (systemd: 3).
   * It is closed with the server. Excludes `socket`, `host` and `port`.
   */
  readonly fd?: number | undefined;
  /** TCP port; 0 picks a free one. Default 10809. */
  readonly port?: number | undefined;
  /** TCP address; default 127.0.0.1. NBD has no authentication: think before opening it. */
  readonly host?: string | undefined;
  /** Name of the export, at most 4096 bytes; default '', the default export. */
  readonly name?: string | undefined;
  /** What the export is, for humans; at most 4096 bytes. */
  readonly description?: string | undefined;
  /** Refuse writes even if the device takes them. */
  readonly readOnly?: boolean | undefined;
  /** Clients in transmission at once; others wait for their turn. Default 0: unlimited. */
  readonly maxClients?: number | undefined;
  /** Time for negotiation, and for waiting for a turn; default 10000. */
  readonly handshakeTimeoutMs?: number | undefined;
  /**
   * Microseconds for which the thread looks for the next request of the only client, instead of
   * sleeping, when it has answered the last one; at most 1000. Shortens the round trip of clients
   * that send one request at a time, and takes the time from everything else on this thread. Needs
   * koffi and a second CPU. Default 0: never.
   */
  readonly busyPollMicros?: number | undefined;
  /** Aborting closes the server as `close` does. */
  readonly signal?: AbortSignal | undefined;
}

/** Where a server listens. */
export type ServerAddress =
  | { readonly path: string }
  | { readonly fd: number }
  | { readonly host: string; readonly port: number };

/** Options with nothing left open. */
export interface ServerSettings {
  readonly address: ServerAddress;
  readonly name: string;
  readonly description: string;
  readonly readOnly: boolean;
  readonly maxClients: number;
  readonly handshakeTimeoutMs: number;
  readonly busyPollMicros: number;
}

/** The largest delay that a timer takes. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** Longer polls win nothing over sleeping. */
const MAX_BUSY_POLL_MICROS = 1000;

const SERVER_OPTIONS: Checks<NbdServerOptions> = {
  socket: isText,
  fd: isWhole(0, 2 ** 31 - 1),
  port: isWhole(0, 65_535),
  host: isText,
  name: isText,
  description: isText,
  readOnly: isSwitch,
  maxClients: isWhole(0, 2 ** 31),
  handshakeTimeoutMs: isWhole(1, MAX_TIMEOUT_MS),
  busyPollMicros: isWhole(0, MAX_BUSY_POLL_MICROS),
  signal: isSignal,
};

/** Fills in defaults. Throws ERR_SLUICE_INVALID_ARGUMENT for what makes no sense. */
export function settingsOf(options: NbdServerOptions): ServerSettings {
  checkOptions(options, SERVER_OPTIONS, 'serveNbd');
  return {
    address: addressOf(options),
    name: checkText('name', options.name ?? ''),
    description: checkText('description', options.description ?? ''),
    readOnly: options.readOnly ?? false,
    maxClients: options.maxClients ?? 0,
    handshakeTimeoutMs: options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS,
    busyPollMicros: options.busyPollMicros ?? 0,
  };
}

function addressOf(options: NbdServerOptions): ServerAddress {
  const { socket, host, port, fd } = options;
  if (fd !== undefined) {
    if (socket === undefined && host === undefined && port === undefined) return { fd };
    throw invalid('fd excludes socket, host and port');
  }
  if (socket === undefined) {
    return { host: host ?? '127.0.0.1', port: port ?? DEFAULT_PORT };
  }
  if (host !== undefined || port !== undefined) {
    throw invalid('socket excludes host and port');
  }
  return { path: toSocketPath(socket) };
}

function checkText(option: string, value: string): string {
  const bytes = Buffer.byteLength(value);
  if (bytes <= MAX_STRING_BYTES && !value.includes('\0')) return value;
  throw invalid(`${option} must be a string of at most ${MAX_STRING_BYTES} bytes without NUL`);
}
