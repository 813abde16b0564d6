/** Listening where the command line says, and what is said when that does not work. */
import { resolve } from 'node:path';
import { SluiceError } from '../errors.ts';
import { MAX_SOCKET_PATH_BYTES } from '../nbd/uri.ts';
import {
  type Disk,
  type NbdServer,
  type NbdServerOptions,
  type NbdTlsOptions,
  serveNbd,
} from '../node.ts';
import { Refusal } from './refusal.ts';
import type { ServeOptions } from './serve-command.ts';
import { named } from './served-image.ts';
import type { ServedExport } from './served-exports.ts';

/** Starts the server. Clients can connect when this resolves. */
export async function listen(
  disks: readonly Disk[],
  exports: readonly ServedExport[],
  options: ServeOptions,
  tls: NbdTlsOptions | undefined,
): Promise<NbdServer> {
  const offered = disks.map((disk, index) => {
    const { name, description } = exports[index] ?? {};
    return { disk, name, description };
  });
  try {
    return await serveNbd(offered, {
      ...limitsOf(options),
      ...addressOptions(options),
      tls,
    });
  } catch (cause) {
    if (cause instanceof SluiceError) throw options.bitmap ? ofImage(cause, exports) : cause;
    if (options.fd !== undefined) {
      throw new Refusal(`listen on ${placeOf(options)}`, cause, 'it must listen: Accept=no');
    }
    throw listenRefusal(cause, placeOf(options), '-p or -k');
  }
}

/** Of several exports the library says which ones have no such bitmap, and of one nothing. */
function ofImage(error: SluiceError, [only, ...others]: readonly ServedExport[]): SluiceError {
  const isAbsent = error.code === 'ERR_SLUICE_UNSUPPORTED' && others.length === 0;
  return only !== undefined && isAbsent ? named(only.image, error) : error;
}

/**
 * What is said when a server cannot listen at a place.
 * @param options of the command that choose the place
 */
export function listenRefusal(cause: unknown, place: string, options: string): unknown {
  const { code } = cause as NodeJS.ErrnoException;
  // What the library refuses itself, it explains itself.
  if (code === undefined || code.startsWith('ERR_')) return cause;
  // The reason alone, where the library found it at the path; libuv's errors have no cause.
  const error = (cause as Error).cause ?? cause;
  return new Refusal(`listen on ${place}`, error, adviceFor(code, options));
}

/** What to do about an error of the system; `options` say where a server listens. */
function adviceFor(code: string, options: string): string | undefined {
  const elsewhere = `choose another place with ${options}`;
  const advice: Readonly<Record<string, string>> = {
    EADDRINUSE: `stop the other server, or ${elsewhere}`,
    EACCES: elsewhere,
    EEXIST: elsewhere,
    ENOENT: `create it, or ${elsewhere}`,
    ENAMETOOLONG: `a socket's path has at most ${MAX_SOCKET_PATH_BYTES} bytes; use a relative one`,
  };
  return advice[code];
}

function placeOf({ socket, port, bind, fd }: ServeOptions): string {
  if (fd !== undefined) return `the socket that was passed as descriptor ${fd}`;
  return socket === undefined ? `${bind} port ${port}` : JSON.stringify(socket);
}

function limitsOf(options: ServeOptions): NbdServerOptions {
  return {
    readOnly: options.readOnly === true,
    allocationDepth: options.allocationDepth === true,
    bitmaps: options.bitmap,
    maxClients: options.shared,
    handshakeTimeoutMs: options.handshakeLimit * 1000,
    idleTimeoutMs: options.idleLimit * 1000,
    busyPollMicros: options.busyPoll,
  };
}

function addressOptions({ socket, port, bind, fd }: ServeOptions): NbdServerOptions {
  if (fd !== undefined) return { fd };
  return socket === undefined ? { port, host: bind } : { socket: socketPath(socket) };
}

/** The absolute path if it fits, so that the URI is good everywhere. */
export function socketPath(path: string): string {
  const fits = (path: string): boolean => Buffer.byteLength(path) <= MAX_SOCKET_PATH_BYTES;
  const absolute = resolve(path);
  if (fits(absolute)) return absolute;
  if (fits(path)) return path;
  throw Object.assign(new Error('the path of the socket is too long'), { code: 'ENAMETOOLONG' });
}
