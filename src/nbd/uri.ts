/** URIs of exports. NBD, doc/uri.md. */
import { SluiceError } from '../errors.ts';
import { DEFAULT_PORT, MAX_STRING_BYTES } from './protocol.ts';

/** What a URI names: an export, and where its server listens. */
export interface NbdAddress {
  /** Empty: the server's default export. */
  readonly exportName: string;
  readonly place: { readonly path: string } | { readonly host: string; readonly port: number };
}

/** `nbd+unix:///NAME?socket=PATH`, percent-encoded; `nbds` with TLS. NBD, doc/uri.md, "NBD URI". */
export function unixUri(name: string, path: string, secure = false): string {
  const socket = path.split('/').map(encodeURIComponent).join('/');
  return `${schemeOf(secure)}+unix:///${encodeURIComponent(name)}?socket=${socket}`;
}

/** `nbd://host:port/NAME`; the port is left out when it is the protocol's own. As `unixUri`. */
export function tcpUri(name: string, host: string, port: number, secure = false): string {
  const authority = host.includes(':') ? `[${host}]` : host;
  const suffix = port === DEFAULT_PORT ? '' : `:${port}`;
  return `${schemeOf(secure)}://${authority}${suffix}/${encodeURIComponent(name)}`;
}

function schemeOf(secure: boolean): string {
  return secure ? 'nbds' : 'nbd';
}

/** True for what is meant as a URI of an export, whatever is wrong with it. */
export function isNbdUri(text: string): boolean {
  return /^nbds?(\+[a-z]+)?:\/\//i.test(text);
}

/** RFC 3986, appendix B; the host and the port are looked at apart. */
const URI = /^([^:/?#]+):\/\/([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?$/;
const AUTHORITY = /^(?:\[([^\]]+)\]|([^:@[\]]*))(?::(\d*))?$/;
const PORT_MAX = 65_535;
/** unix(7): sun_path has 108 bytes, the last one for a NUL. libuv cuts what is longer. */
const SOCKET_PATH_MAX = 107;
/** Schemes that are NBD's, and cannot be had. */
const SCHEMES: ReadonlyMap<string, string> = new Map([
  ['nbds', 'TLS is not supported; use nbd://, or a tunnel'],
  ['nbds+unix', 'TLS is not supported; use nbd+unix://'],
  ['nbd+vsock', 'vsock is not supported; use nbd:// or nbd+unix://'],
  ['nbds+vsock', 'neither TLS nor vsock is supported; use nbd:// or nbd+unix://'],
]);

/**
 * Takes a URI apart.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT, or ERR_SLUICE_UNSUPPORTED for TLS and vsock
 */
export function parseNbdUri(uri: string): NbdAddress {
  const [, scheme = '', authority = '', path = '', query = '', fragment] = URI.exec(uri) ?? [];
  const known = scheme.toLowerCase();
  const reason = SCHEMES.get(known);
  if (reason !== undefined) {
    const message = `cannot open ${JSON.stringify(uri)}: ${reason}`;
    throw new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'open', path: uri });
  }
  if (fragment !== undefined) throw wrong(uri, 'it has a fragment (#), write %23 in names');
  const exportName = exportNameOf(path.replace(/^\//, ''), uri);
  const socket = socketOf(query, uri);
  if (known === 'nbd') {
    if (socket !== undefined) throw wrong(uri, 'it has a socket, write nbd+unix:///');
    return { exportName, place: hostOf(authority, uri) };
  }
  if (known !== 'nbd+unix') throw wrong(uri, 'write nbd:// or nbd+unix://');
  if (authority !== '') throw wrong(uri, 'a socket has no host, write three slashes');
  if (socket === undefined || socket === '') throw wrong(uri, 'add ?socket=PATH');
  if (Buffer.byteLength(socket) > SOCKET_PATH_MAX || socket.includes('\0')) {
    throw wrong(uri, `a socket's path has at most ${SOCKET_PATH_MAX} bytes; use a relative one`);
  }
  return { exportName, place: { path: socket } };
}

function exportNameOf(text: string, uri: string): string {
  const name = decoded(text, uri);
  if (name.includes('\0')) throw wrong(uri, 'the name of an export has no NUL');
  if (Buffer.byteLength(name) <= MAX_STRING_BYTES) return name;
  throw wrong(uri, `the name of an export has at most ${MAX_STRING_BYTES} bytes`);
}

function hostOf(authority: string, uri: string): { readonly host: string; readonly port: number } {
  const found = AUTHORITY.exec(authority);
  if (found === null) throw wrong(uri, 'write nbd://HOST:PORT/NAME, and no user');
  const [, address, name = '', digits = ''] = found;
  const port = digits === '' ? DEFAULT_PORT : Number(digits);
  if (port === 0 || port > PORT_MAX) throw wrong(uri, `a port is a number from 1 to ${PORT_MAX}`);
  const host = address ?? decoded(name, uri);
  return { host: host === '' ? 'localhost' : host, port };
}

/** The one key that means something without TLS. */
function socketOf(query: string, uri: string): string | undefined {
  let socket: string | undefined;
  for (const pair of query.split('&').filter((pair) => pair !== '')) {
    const [, key = '', value] = /^([^=]*)(?:=(.*))?$/.exec(pair) ?? [];
    if (key !== 'socket') throw wrong(uri, `leave out '${key}': only socket=PATH is known`);
    if (socket !== undefined) throw wrong(uri, 'it has two sockets');
    socket = decoded(value ?? '', uri);
  }
  return socket;
}

function decoded(text: string, uri: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw wrong(uri, `'${text}' is not percent-encoded UTF-8`, cause);
  }
}

function wrong(uri: string, advice: string, cause?: unknown): SluiceError {
  const message = `${JSON.stringify(uri)} is no URI of an export: ${advice}`;
  return new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', message, { path: uri, cause });
}
