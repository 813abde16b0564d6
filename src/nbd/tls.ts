/**
 * TLS of the server: what its owner says of it, and the handshake of one connection. NBD proto,
 * "TLS support".
 *
 * T1  TLS 1.2 or newer, without renegotiation and without tickets: nothing outlives a connection.
 * T2  A client whose certificate is wanted is let in only when one of the authorities signed it.
 * T3  Each handshake has a tls.Server of its own, which listens nowhere: so what it reports belongs
 *     to this connection, and by documented means.
 */
import { constants } from 'node:crypto';
import type { Socket } from 'node:net';
import { createSecureContext, createServer, type TlsOptions, type TLSSocket } from 'node:tls';
import { invalid } from '../arguments.ts';
import { SluiceError } from '../errors.ts';
import { type Checks, isOneOf, objectOf } from '../options.ts';
import { MIN_KEY_BYTES } from './psk-file.ts';

/** PEM, as text or bytes. */
export type Pem = string | Uint8Array;

/** How clients prove who they are, and what is encrypted: certificates, or keys known to both. */
export interface NbdTlsOptions {
  /**
   * 'require' (default): nothing is told or served in clear. 'allow': clients choose, so whoever
   * listens on the wire may see, and change, what those do that do not ask for TLS.
   */
  readonly mode?: 'require' | 'allow' | undefined;
  /** The server's certificate (X.509), and those between it and its authority; needs `key`. */
  readonly cert?: Pem | undefined;
  /** The private key of `cert`. */
  readonly key?: Pem | undefined;
  /** Authorities: a client must show a certificate that one of them signed. */
  readonly ca?: Pem | undefined;
  /**
   * Keys by names of users, instead of certificates (PSK, RFC 4279): 16 bytes or more each.
   * `readPskFile` reads them.
   */
  readonly psk?: ReadonlyMap<string, Uint8Array> | undefined;
}

/** The options of a server, ready for use. */
export interface TlsSettings {
  /** Nothing is served in clear: FORCEDTLS. */
  readonly required: boolean;
  readonly options: TlsOptions;
}

/**
 * Suites for pre-shared keys. TLS 1.3 binds such a key to SHA-256, and TLS 1.2 names its own; all
 * of them agree on a new secret for each connection.
 */
export const PSK_CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_CHACHA20_POLY1305_SHA256',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-AES128-GCM-SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
].join(':');

const isPem = (value: unknown, name: string): void => {
  if (typeof value === 'string' || value instanceof Uint8Array) return;
  throw invalid(`${name} must be PEM, as a string or a Uint8Array`);
};

const TLS_OPTIONS: Checks<NbdTlsOptions> = {
  mode: isOneOf('require', 'allow'),
  cert: isPem,
  key: isPem,
  ca: isPem,
  psk: isKeys,
};

/** Checks options. */
export const isTls = objectOf(TLS_OPTIONS);

/** @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT */
export function tlsSettingsOf(tls: NbdTlsOptions): TlsSettings {
  const { mode, cert, key, ca, psk } = tls;
  const isPsk = psk !== undefined;
  if (isPsk ? cert !== undefined || key !== undefined || ca !== undefined : !cert || !key) {
    throw invalid('tls needs either cert and key, with ca or without, or psk');
  }
  const options: TlsOptions = {
    minVersion: 'TLSv1.2',
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION | constants.SSL_OP_NO_TICKET,
    ...(isPsk
      ? { ciphers: PSK_CIPHERS, dhparam: 'auto', pskCallback: (_socket, user) => keyOf(psk, user) }
      : { cert: pem(cert), key: pem(key), ca: pem(ca) }),
    requestCert: ca !== undefined,
    rejectUnauthorized: ca !== undefined,
  };
  try {
    createSecureContext(options);
  } catch (cause) {
    const { message } = cause as Error;
    throw invalid(`tls has a certificate or a key that cannot be used: ${message}`);
  }
  return { required: mode !== 'allow', options };
}

/** Settings in the place of others. @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT */
export function renewedTls(old: TlsSettings | undefined, tls: NbdTlsOptions): TlsSettings {
  isTls(tls, 'tls');
  if (old === undefined) throw invalid('a server without tls cannot renew it');
  const settings = tlsSettingsOf(tls);
  if (settings.required === old.required) return settings;
  throw invalid(`tls.mode must stay '${old.required ? 'require' : 'allow'}'`);
}

/**
 * Begins TLS on a socket that has sent and received nothing but what was consumed.
 * @param done called once: with a socket that is encrypted, or with the reason why there is none.
 *   Not called when the socket was destroyed by its owner before.
 */
export function beginTls(
  raw: Socket,
  { options }: TlsSettings,
  done: (error: Error | undefined, socket: TLSSocket) => void,
): void {
  const server = createServer(options);
  // A client that says no more before TLS has begun has gone. The encrypted socket takes it over.
  raw.allowHalfOpen = false;
  server.once('secureConnection', (socket) => {
    socket.allowHalfOpen = true;
    done(undefined, socket);
  });
  server.on('tlsClientError', (error, socket) => {
    const { authorizationError: reason } = socket;
    done(reason ? new Error(`its certificate is refused (${String(reason)})`) : error, socket);
  });
  server.emit('connection', raw);
}

/** What a server is told of a client with which there is no TLS. */
export function tlsFault(cause: Error): SluiceError {
  // OpenSSL's own words, without its numbers and files.
  const { code = '', reason = cause.message } = cause as TlsCause;
  const found = KEY_FAULTS.get(code);
  const message = `no TLS with a client: ${found ?? reason}`;
  return new SluiceError('ERR_SLUICE_CONNECTION', message, { operation: 'accept', cause });
}

interface TlsCause extends Error {
  readonly code?: string;
  readonly reason?: string;
}

/** What OpenSSL says of clients with pre-shared keys, and what it means. */
const KEY_FAULTS: ReadonlyMap<string, string> = new Map([
  [
    'ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM',
    'it names no user whose key is here, or has no pre-shared key at all',
  ],
  ['ERR_SSL_BINDER_DOES_NOT_VERIFY', 'its key is not the one that is here for the user it names'],
]);

function keyOf(psk: ReadonlyMap<string, Uint8Array>, user: string): Buffer | null {
  const key = psk.get(user);
  return key === undefined ? null : Buffer.from(key);
}

function pem(text: Pem | undefined): string | Buffer | undefined {
  return text === undefined || typeof text === 'string' ? text : Buffer.from(text);
}

function isKeys(value: unknown, name: string): void {
  if (!(value instanceof Map) || value.size === 0) {
    throw invalid(`${name} must be a Map with at least one user and key`);
  }
  for (const [user, key] of value as ReadonlyMap<unknown, unknown>) {
    if (typeof user !== 'string' || !(key instanceof Uint8Array)) {
      throw invalid(`${name} must have names of users, and a Uint8Array as the key of each`);
    }
    if (key.length >= MIN_KEY_BYTES) continue;
    const found = `the key of ${JSON.stringify(user)} has ${key.length}`;
    throw invalid(`${name} must have keys of ${MIN_KEY_BYTES} bytes or more; ${found}`);
  }
}
