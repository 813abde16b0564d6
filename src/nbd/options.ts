/** The options of a server, checked once. */
import { invalid } from '../arguments.ts';
import type { Device } from '../device.ts';
import {
  checkOptions,
  type Checks,
  isSignal,
  isSwitch,
  isText,
  isWhole,
  objectOf,
} from '../options.ts';
import { MAX_BITMAPS } from './contexts.ts';
import { toSocketPath } from './listen.ts';
import { HANDSHAKE_TIMEOUT_MS } from './limits.ts';
import { DEFAULT_PORT, MAX_STRING_BYTES } from './protocol.ts';
import { isTls, type NbdTlsOptions, type TlsSettings, tlsSettingsOf } from './tls.ts';

/** How one disk is offered. */
export interface NbdExportOptions {
  /** Name of the export, at most 4096 bytes; default ''. Each export has its own. */
  readonly name?: string | undefined;
  /** What the export is, for humans; at most 4096 bytes. */
  readonly description?: string | undefined;
  /** Refuse writes even if the device takes them. */
  readonly readOnly?: boolean | undefined;
  /** Offer `qemu:allocation-depth`: which image of a chain has what. */
  readonly allocationDepth?: boolean | undefined;
  /**
   * Persistent bitmaps of a qcow2 image to offer as `qemu:dirty-bitmap:NAME`, at most 30, as they
   * are stored. One that records writes is refused on a disk that is open for writing.
   */
  readonly bitmaps?: readonly string[] | undefined;
  /** Clients in transmission at once; others wait for their turn. Default 0: unlimited. */
  readonly maxClients?: number | undefined;
}

/**
 * How a server listens and what it grants. With a list of exports, `name` and `description` are
 * theirs; `readOnly` and `allocationDepth` hold for all, and `maxClients` for all together.
 * `bitmaps` are, of the exports without bitmaps of their own, for those whose disks have them: for
 * one at least.
 */
export interface NbdServerOptions extends NbdExportOptions {
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
  /** Time for negotiation, TLS included, and for waiting for a turn; default 10000, 0: no limit. */
  readonly handshakeTimeoutMs?: number | undefined;
  /**
   * When clients wait for their turn, one that has asked for nothing for so long is let go, the
   * longest idle first. Default 0: never. One that has not asked for anything since it came has
   * `handshakeTimeoutMs` in any case.
   */
  readonly idleTimeoutMs?: number | undefined;
  /**
   * Microseconds for which the thread looks for the next request of the only client, instead of
   * sleeping, when it has answered the last one; at most 1000. Shortens the round trip of clients
   * that send one request at a time, and takes the time from everything else on this thread. Needs
   * koffi and a second CPU. Default 0: never.
   */
  readonly busyPollMicros?: number | undefined;
  /** Encryption; without it NBD_OPT_STARTTLS is refused. */
  readonly tls?: NbdTlsOptions | undefined;
  /** Aborting closes the server as `close` does. */
  readonly signal?: AbortSignal | undefined;
}

/** A device and how it is offered. */
export interface DeviceExport extends NbdExportOptions {
  readonly device: Device;
}

/** Where a server listens. */
export type ServerAddress =
  | { readonly path: string }
  | { readonly fd: number }
  | { readonly host: string; readonly port: number };

/** Of one export, with nothing left open. */
export interface ExportSettings {
  readonly device: Device;
  readonly name: string;
  readonly description: string;
  readonly readOnly: boolean;
  readonly allocationDepth: boolean;
  readonly bitmaps: readonly string[];
  /** They were asked of all exports of a list: this one need not have them. */
  readonly bitmapsIfThere: boolean;
  /** 0: no limit of its own. */
  readonly maxClients: number;
  /** More than one client may be there at once. */
  readonly multiConn: boolean;
}

/** Options with nothing left open. */
export interface ServerSettings {
  readonly address: ServerAddress;
  /** At least one; the first is the default, unless one is named ''. */
  readonly exports: readonly ExportSettings[];
  /** Of all exports together; 0: no limit. */
  readonly maxClients: number;
  readonly handshakeTimeoutMs: number;
  readonly idleTimeoutMs: number;
  readonly busyPollMicros: number;
  readonly tls: TlsSettings | undefined;
}

/** The largest delay that a timer takes. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** Longer polls win nothing over sleeping. */
const MAX_BUSY_POLL_MICROS = 1000;

const EXPORT_OPTIONS: Checks<NbdExportOptions> = {
  name: isExportText,
  description: isExportText,
  readOnly: isSwitch,
  allocationDepth: isSwitch,
  bitmaps: isBitmapList,
  maxClients: isWhole(0, 2 ** 31),
};

const SERVER_OPTIONS: Checks<NbdServerOptions> = {
  ...EXPORT_OPTIONS,
  socket: isText,
  fd: isWhole(0, 2 ** 31 - 1),
  port: isWhole(0, 65_535),
  host: isText,
  handshakeTimeoutMs: isWhole(0, MAX_TIMEOUT_MS),
  idleTimeoutMs: isWhole(0, MAX_TIMEOUT_MS),
  busyPollMicros: isWhole(0, MAX_BUSY_POLL_MICROS),
  tls: isTls,
  signal: isSignal,
};

/** Fills in defaults. Throws ERR_SLUICE_INVALID_ARGUMENT for what makes no sense. */
export function settingsOf(
  served: Device | readonly DeviceExport[],
  options: NbdServerOptions,
): ServerSettings {
  checkOptions(options, SERVER_OPTIONS, 'serveNbd');
  return {
    address: addressOf(options),
    exports: isList(served) ? listOf(served, options) : [oneOf(served, options)],
    maxClients: options.maxClients ?? 0,
    handshakeTimeoutMs: options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS,
    idleTimeoutMs: options.idleTimeoutMs ?? 0,
    busyPollMicros: options.busyPollMicros ?? 0,
    tls: options.tls === undefined ? undefined : tlsSettingsOf(options.tls),
  };
}

function isList(served: Device | readonly DeviceExport[]): served is readonly DeviceExport[] {
  return Array.isArray(served);
}

/** The only export: the server's limit of clients is its own. */
function oneOf(device: Device, options: NbdServerOptions): ExportSettings {
  return exportOf({ ...options, device, maxClients: 0 }, options);
}

function listOf(list: readonly DeviceExport[], options: NbdServerOptions): ExportSettings[] {
  if (list.length === 0) throw invalid('serveNbd needs a disk, or a list of at least one export');
  if (options.name !== undefined || options.description !== undefined) {
    throw invalid('with a list of exports, each has its own name and description');
  }
  const names = new Set<string>();
  return list.map((one, index) => {
    const { device: _device, ...own } = one;
    objectOf(EXPORT_OPTIONS)(own, `exports[${index}]`);
    const settings = exportOf(one, options);
    if (names.has(settings.name)) {
      throw invalid(`two exports are named ${JSON.stringify(settings.name)}; give each its name`);
    }
    names.add(settings.name);
    return settings;
  });
}

function exportOf(own: DeviceExport, server: NbdServerOptions): ExportSettings {
  const maxClients = own.maxClients ?? 0;
  return {
    device: own.device,
    name: own.name ?? '',
    description: own.description ?? '',
    readOnly: own.readOnly === true || server.readOnly === true,
    allocationDepth: own.allocationDepth === true || server.allocationDepth === true,
    bitmaps: [...(own.bitmaps ?? server.bitmaps ?? [])],
    bitmapsIfThere: own.bitmaps === undefined,
    maxClients,
    multiConn: maxClients !== 1 && server.maxClients !== 1,
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

function isExportText(value: unknown, option: string): void {
  isText(value, option);
  const text = value as string;
  if (Buffer.byteLength(text) <= MAX_STRING_BYTES && !text.includes('\0')) return;
  throw invalid(`${option} must be a string of at most ${MAX_STRING_BYTES} bytes without NUL`);
}

function isBitmapList(value: unknown, option: string): void {
  const isList = Array.isArray(value) && value.every((name) => typeof name === 'string');
  if (!isList) throw invalid(`${option} must be an array of names`);
  const names = value as readonly string[];
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw invalid(`${option} has ${JSON.stringify(twice)} twice`);
  if (names.length <= MAX_BITMAPS) return;
  throw invalid(`${option} may be at most ${MAX_BITMAPS}, not ${names.length}`);
}
