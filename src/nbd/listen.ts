/** Binding the server's socket. */
import { readFileSync, readlinkSync } from 'node:fs';
import { lstat, stat, unlink } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { dirname } from 'node:path';
import { invalid } from '../arguments.ts';
import type { ServerAddress } from './options.ts';
import { MAX_SOCKET_PATH_BYTES, tcpUri, unixUri } from './uri.ts';

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
 * Rejects with the system's error, or with ENOENT or EEXIST where that does not tell what is wrong
 * with a path.
 * @param umask for the file of a unix socket, instead of the process's
 */
export async function listen(
  server: Server,
  address: ServerAddress,
  umask?: number,
): Promise<void> {
  try {
    await tryListen(server, address, umask);
  } catch (error) {
    if (!('path' in address)) throw error;
    if (!(await isStale(error, address.path))) throw await pathError(error, address.path);
    await unlink(address.path);
    await tryListen(server, address, umask);
  }
}

/**
 * Where clients find the export of a server that listens; empty where the system does not tell, or
 * no URI could. NBD, doc/uri.md.
 */
export function uriOf(
  server: Server,
  address: ServerAddress,
  name: string,
  secure = false,
): string {
  if ('path' in address) return unixUri(name, address.path, secure);
  const bound = server.address();
  if (bound !== null && typeof bound === 'object') {
    return tcpUri(name, 'host' in address ? address.host : bound.address, bound.port, secure);
  }
  const path = 'fd' in address ? socketPathOf(address.fd) : undefined;
  return path === undefined ? '' : unixUri(name, path, secure);
}

function tryListen(server: Server, address: ServerAddress, umask?: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    // The file is made inside `listen`; nothing else of this process is made meanwhile.
    const usual = umask === undefined ? undefined : process.umask(umask);
    server.listen({ ...address }, () => {
      server.off('error', reject);
      resolve();
    });
    if (usual !== undefined) process.umask(usual);
  });
}

/** The path of a unix socket that we were given. proc(5), /proc/net/unix. */
function socketPathOf(fd: number): string | undefined {
  if (process.platform !== 'linux') return undefined;
  const [, inode] = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`)) ?? [];
  // Num: RefCount Protocol Flags Type St Inode Path
  const line = new RegExp(`^(?:\\S+ +){6}${inode} (.*)$`, 'm');
  const [, path] = line.exec(readFileSync('/proc/net/unix', 'utf8')) ?? [];
  return path === undefined || path.startsWith('@') ? undefined : path;
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

/**
 * The error of listening at a path, where the system's does not tell: libuv makes EACCES of a
 * folder that is not there, and bind(2) says EADDRINUSE whatever kind of file it meets.
 */
async function pathError(error: unknown, path: string): Promise<unknown> {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'EACCES' && (await isMissing(dirname(path)))) {
    return systemError('ENOENT', 'no such folder', path);
  }
  if (code === 'EADDRINUSE' && (await isNoSocket(path))) {
    return systemError('EEXIST', 'a file that is not a socket is in the way', path);
  }
  return error;
}

/** In the form of libuv's; the reason alone is its cause. */
function systemError(code: string, reason: string, path: string): NodeJS.ErrnoException {
  const cause = Object.assign(new Error(reason), { code });
  const error = new Error(`listen ${code}: ${reason} ${path}`, { cause });
  return Object.assign(error, { code, syscall: 'listen', path });
}

function isMissing(path: string): Promise<boolean> {
  return stat(path).then(
    () => false,
    ({ code }: NodeJS.ErrnoException) => code === 'ENOENT',
  );
}

function isNoSocket(path: string): Promise<boolean> {
  return lstat(path).then(
    (found) => !found.isSocket(),
    () => false,
  );
}
