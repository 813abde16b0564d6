/** URIs of exports. NBD, doc/uri.md. */
import { SluiceError } from '../errors.ts';
import { DEFAULT_PORT, MAX_STRING_BYTES } from './protocol.ts';

/** What a URI names: an export, and where its server listens. */
export interface NbdAddress {
  /** Empty: the server's default export. */
  readonly exportName: string;
  readonly place: { readonly path: string } | { readonly host: string; readonly port: number };
  /** Of nbds and nbds+unix. */
  readonly tls?: UriTls | undefined;
}

/** What a URI says of TLS; paths are the client's. NBD, doc/uri.md, "TLS query parameters". */
export interface UriTls {
  /** A folder with ca-cert.pem, and client-cert.pem and client-key.pem where the server asks. */
  readonly certificates: string | undefined;
  /** A file of pre-shared keys. */
  readonly pskFile: string | undefined;
  /** Whose key of the file it is. */
  readonly username: string | undefined;
  /** What the server's certificate must be for, where it is not the host of the URI. */
  readonly hostname: string | undefined;
  /** False: the server's certificate may be anybody's. */
  readonly verifyPeer: boolean;
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
export const MAX_SOCKET_PATH_BYTES = 107;
/** Schemes, and whether they have TLS and a socket. */
const SCHEMES: ReadonlyMap<string, { readonly secure: boolean; readonly unix: boolean }> = new Map([
  ['nbd', { secure: false, unix: false }],
  ['nbds', { secure: true, unix: false }],
  ['nbd+unix', { secure: false, unix: true }],
  ['nbds+unix', { secure: true, unix: true }],
]);
const TLS_KEYS = [
  'tls-certificates',
  'tls-psk-file',
  'tls-username',
  'tls-hostname',
  'tls-verify-peer',
];
/** As libnbd reads them. */
const ON = /^(?:1|true|t|yes|y|on)$/i;
const OFF = /^(?:0|false|f|no|n|off)$/i;

/**
 * Takes a URI apart.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT, or ERR_SLUICE_UNSUPPORTED for vsock
 */
export function parseNbdUri(uri: string): NbdAddress {
  const [, scheme = '', authority = '', path = '', query = '', fragment] = URI.exec(uri) ?? [];
  const known = scheme.toLowerCase();
  if (/^nbds?\+vsock$/.test(known)) {
    const reason = 'vsock is not supported; use nbd:// or nbd+unix://';
    const message = `cannot open ${JSON.stringify(uri)}: ${reason}`;
    throw new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'open', path: uri });
  }
  const kind = SCHEMES.get(known);
  if (fragment !== undefined) throw wrong(uri, 'it has a fragment (#), write %23 in names');
  const exportName = exportNameOf(path.replace(/^\//, ''), uri);
  if (kind === undefined) throw wrong(uri, 'write nbd:// or nbd+unix://, or nbds for TLS');
  const values = valuesOf(query, kind.secure ? ['socket', ...TLS_KEYS] : ['socket'], uri);
  const [, user, place = ''] =
    (kind.secure ? /^(?:([^@]*)@)?(.*)$/ : /^()(.*)$/).exec(authority) ?? [];
  return {
    exportName,
    place: kind.unix ? socketOf(place, values, uri) : hostOf(place, values, uri),
    tls: kind.secure
      ? tlsOf(user === undefined ? undefined : decoded(user, uri), values, uri)
      : undefined,
  };
}

type Values = ReadonlyMap<string, string>;

/** The pairs of a query, by their keys. */
function valuesOf(query: string, keys: readonly string[], uri: string): Values {
  const values = new Map<string, string>();
  for (const pair of query.split('&').filter((pair) => pair !== '')) {
    const [, key = '', value] = /^([^=]*)(?:=(.*))?$/.exec(pair) ?? [];
    if (!keys.includes(key)) {
      const advice = TLS_KEYS.includes(key) ? 'it is for nbds://' : `known: ${keys.join(', ')}`;
      throw wrong(uri, `leave out '${key}': ${advice}`);
    }
    if (values.has(key)) throw wrong(uri, `it has two values of '${key}'`);
    values.set(key, decoded(value ?? '', uri));
  }
  return values;
}

function exportNameOf(text: string, uri: string): string {
  const name = decoded(text, uri);
  if (name.includes('\0')) throw wrong(uri, 'the name of an export has no NUL');
  if (Buffer.byteLength(name) <= MAX_STRING_BYTES) return name;
  throw wrong(uri, `the name of an export has at most ${MAX_STRING_BYTES} bytes`);
}

function hostOf(
  authority: string,
  values: Values,
  uri: string,
): { readonly host: string; readonly port: number } {
  if (values.has('socket')) throw wrong(uri, 'it has a socket, write nbd+unix:///');
  const found = AUTHORITY.exec(authority);
  if (found === null) throw wrong(uri, 'write nbd://HOST:PORT/NAME, and a user for nbds:// alone');
  const [, address, name = '', digits = ''] = found;
  const port = digits === '' ? DEFAULT_PORT : Number(digits);
  if (port === 0 || port > PORT_MAX) throw wrong(uri, `a port is a number from 1 to ${PORT_MAX}`);
  const host = address ?? decoded(name, uri);
  return { host: host === '' ? 'localhost' : host, port };
}

function socketOf(authority: string, values: Values, uri: string): { readonly path: string } {
  if (authority !== '') throw wrong(uri, 'a socket has no host, write three slashes');
  const path = values.get('socket') ?? '';
  if (path === '') throw wrong(uri, 'add ?socket=PATH');
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES || path.includes('\0')) {
    throw wrong(
      uri,
      `a socket's path has at most ${MAX_SOCKET_PATH_BYTES} bytes; use a relative one`,
    );
  }
  return { path };
}

function tlsOf(user: string | undefined, values: Values, uri: string): UriTls {
  const verify = values.get('tls-verify-peer') ?? 'true';
  if (!ON.test(verify) && !OFF.test(verify)) throw wrong(uri, 'tls-verify-peer is true or false');
  const certificates = values.get('tls-certificates');
  const pskFile = values.get('tls-psk-file');
  if (certificates !== undefined && pskFile !== undefined) {
    throw wrong(uri, 'it has tls-certificates and tls-psk-file, leave one of them out');
  }
  return {
    certificates,
    pskFile,
    username: values.get('tls-username') ?? user,
    hostname: values.get('tls-hostname'),
    verifyPeer: ON.test(verify),
  };
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
