/** Listening where the command line says, and what is said when that does not work. */
import { resolve } from 'node:path';
import { type Disk, type NbdServer, type NbdServerOptions, serveNbd } from '../node.ts';
import { Refusal } from './refusal.ts';
import type { ServeOptions } from './serve-command.ts';

/** unix(7): sun_path has 108 bytes, the last one for a NUL. libuv cuts what is longer. */
const LONGEST_PATH_BYTES = 107;

const ELSEWHERE = 'choose another place with -p or -k';
const ADVICE: Readonly<Record<string, string>> = {
  EADDRINUSE: `stop the other server, or ${ELSEWHERE}`,
  EACCES: ELSEWHERE,
  ENAMETOOLONG: `a socket's path has at most ${LONGEST_PATH_BYTES} bytes; use a relative one`,
};

/** Starts the server. Clients can connect when this resolves. */
export async function listen(disk: Disk, options: ServeOptions): Promise<NbdServer> {
  try {
    return await serveNbd(disk, { ...exportOptions(options), ...addressOptions(options) });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    // What the library refuses itself, it explains itself.
    if (code === undefined || code.startsWith('ERR_')) throw cause;
    throw new Refusal(`listen on ${placeOf(options)}`, cause, ADVICE[code]);
  }
}

function placeOf({ socket, port, bind }: ServeOptions): string {
  return socket === undefined ? `${bind} port ${port}` : JSON.stringify(socket);
}

function exportOptions(options: ServeOptions): NbdServerOptions {
  return {
    name: options.exportName,
    description: options.description,
    readOnly: options.readOnly === true,
    maxClients: options.shared,
  };
}

function addressOptions({ socket, port, bind }: ServeOptions): NbdServerOptions {
  return socket === undefined ? { port, host: bind } : { socket: socketPath(socket) };
}

/** The absolute path if it fits, so that the URI is good everywhere. */
function socketPath(path: string): string {
  const fits = (path: string): boolean => Buffer.byteLength(path) <= LONGEST_PATH_BYTES;
  const absolute = resolve(path);
  if (fits(absolute)) return absolute;
  if (fits(path)) return path;
  throw Object.assign(new Error('the path of the socket is too long'), { code: 'ENAMETOOLONG' });
}
