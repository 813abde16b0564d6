/** Binding the server's socket. */
import { lstat, unlink } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { invalid } from '../arguments.ts';
import type { ServerAddress } from './options.ts';
import { tcpUri, unixUri } from './uri.ts';

/** unix(7): sun_path has 108 bytes, the last one for a NUL. libuv cuts what is longer. */
export const MAX_SOCKET_PATH_BYTES = 107;

/** The path of a unix socket. @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT */
export function toSocketPath(socket: unknown): string {
  if (typeof socket !== 'string' || socket === '' || socket.includes('\0')) {
    throw invalid('socket must be a path');
  }
  if (Buffer.byteLength(socket) > MAX_SOCKET_PATH_BYTES) {
    // libuv would cut it off and listen somewhere else.
    throw invalid(`socket must be a path of at most ${MAX_SOCKET_PATH_BYTES} bytes: ${socket}`);
  }
  return socket;
}

/**
 * Listens at an address. The file of a unix socket that nobody listens at any more is replaced.
 * Rejects with the system's error.
 */
export async function listen(server: Server, address: ServerAddress): Promise<void> {
  try {
    await tryListen(server, address);
  } catch (error) {
    if (!('path' in address) || !(await isStale(error, address.path))) throw error;
    await unlink(address.path);
    await tryListen(server, address);
  }
}

/** Where clients find the export of a server that listens. NBD, doc/uri.md. */
export function uriOf(
  server: Server,
  address: ServerAddress,
  name: string,
  secure = false,
): string {
  if ('path' in address) return unixUri(name, address.path, secure);
  const bound = server.address();
  const port = bound !== null && typeof bound === 'object' ? bound.port : address.port;
  return tcpUri(name, address.host, port, secure);
}

function tryListen(server: Server, address: ServerAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ ...address }, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** True when the address is in use by a socket file that its server left behind. */
async function isStale(error: unknown, path: string): Promise<boolean> {
  if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') return false;
  // A file of another kind refuses connections too, and is somebody's data.
  return (await lstat(path)).isSocket() && (await isRefused(path));
}

function isRefused(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (refusal: NodeJS.ErrnoException) => {
      resolve(refusal.code === 'ECONNREFUSED');
    });
  });
}
