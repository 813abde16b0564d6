/** TLS of the client: the files that a URI names, and the handshake. NBD, doc/uri.md. */
import { constants, createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import type { Socket } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { connect, type ConnectionOptions, createSecureContext, type TLSSocket } from 'node:tls';
import { SluiceError } from '../../errors.ts';
import { readPem, readPemIfThere } from '../pem.ts';
import { readPskFile } from '../psk-file.ts';
import { PSK_CIPHERS } from '../tls.ts';
import type { NbdAddress, UriTls } from '../uri.ts';
import { UnwantedCertificate } from './tls-failures.ts';

const CA_FILE = 'ca-cert.pem';
const CERT_FILE = 'client-cert.pem';
const KEY_FILE = 'client-key.pem';
const NO_PEM = 'cannot be used: its';
const IN_PEM = 'put one in PEM, without a passphrase, there';
/** Of a file of keys: more are counted only. */
const MAX_USERS = 5;

/** What Node is told, and the user whose key it is. */
export interface ClientTls extends ConnectionOptions {
  readonly user?: string;
}

/**
 * What a URI says of TLS, with the contents of its files.
 * @throws SluiceError ERR_SLUICE_OPEN, ERR_SLUICE_INVALID_ARGUMENT for files of another kind
 */
export async function tlsOptionsOf(
  { place, tls }: NbdAddress,
  uri: string,
): Promise<ClientTls | undefined> {
  if (tls === undefined) return undefined;
  const secureOptions = constants.SSL_OP_NO_RENEGOTIATION;
  const options = { minVersion: 'TLSv1.2', secureOptions } as const;
  if (tls.pskFile !== undefined)
    return { ...options, ...(await keyOptions(tls.pskFile, tls, uri)) };
  // A socket's server is on this machine.
  const host = tls.hostname ?? ('host' in place ? place.host : 'localhost');
  return {
    ...options,
    ...(await certificateOptions(tls, uri)),
    // What is looked for in the certificate; as SNI only a name may be sent (RFC 6066, 3).
    host,
    rejectUnauthorized: tls.verifyPeer,
  };
}

/**
 * Goes on over TLS; resolves when the server is who it must be.
 * Rejects with what OpenSSL or the check of its certificate says.
 */
export function secureClient(raw: Socket, options: ConnectionOptions): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...options, socket: raw });
    socket.on('error', reject);
    socket.once('secureConnect', () => resolve(socket));
  });
}

async function keyOptions(path: string, tls: UriTls, uri: string): Promise<ClientTls> {
  const keys = await readPskFile(path);
  const user = tls.username ?? userInfo().username;
  const psk = keys.get(user);
  if (psk === undefined) {
    const names = [...keys.keys()].slice(0, MAX_USERS).map((name) => JSON.stringify(name));
    const more = keys.size > names.length ? ` and ${keys.size - names.length} more` : '';
    const found = `${JSON.stringify(path)} has no key of ${JSON.stringify(user)}`;
    const whose =
      tls.username === undefined ? ', the user of this process, since none is named' : '';
    const known = `it has keys of ${names.join(', ')}${more}`;
    const message = `${found}${whose}: ${known}; name the user with tls-username=NAME`;
    throw new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', message, { path: uri });
  }
  return {
    user,
    ciphers: PSK_CIPHERS,
    pskCallback: () => ({ psk, identity: user }),
    // Who has the key is the one. A certificate proves nothing here, whoever has signed it: a
    // server that does not know the key might show one of its own.
    ca: [],
    checkServerIdentity: (_host, { raw }) =>
      raw === undefined ? undefined : new UnwantedCertificate('a certificate in place of a key'),
  };
}

/** Without a folder the authorities that Node knows are trusted. */
async function certificateOptions({ certificates: folder }: UriTls, uri: string) {
  if (folder === undefined) return {};
  const [ca, cert, key] = await Promise.all([
    readPem(folder, CA_FILE),
    readPemIfThere(folder, CERT_FILE),
    readPemIfThere(folder, KEY_FILE),
  ]);
  const wrong = (name: string, problem: string, cause?: unknown): SluiceError => {
    const message = `${JSON.stringify(join(folder, name))} ${problem}`;
    return new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', message, { path: uri, cause });
  };
  const certificate = (name: string, pem: Buffer): X509Certificate => {
    try {
      return new X509Certificate(pem);
    } catch (cause) {
      throw wrong(name, `${NO_PEM} ${pem.length} bytes are no certificate; ${IN_PEM}`, cause);
    }
  };
  certificate(CA_FILE, ca);
  if (cert === undefined && key === undefined) return { ca };
  if (cert === undefined) throw wrong(CERT_FILE, `is missing beside ${KEY_FILE}; add it`);
  const own = certificate(CERT_FILE, cert);
  if (key === undefined) throw wrong(KEY_FILE, `is missing beside ${CERT_FILE}; add it`);
  let secret: KeyObject;
  try {
    secret = createPrivateKey(key);
  } catch (cause) {
    throw wrong(KEY_FILE, `${NO_PEM} ${key.length} bytes are no private key; ${IN_PEM}`, cause);
  }
  if (!own.checkPrivateKey(secret)) {
    throw wrong(KEY_FILE, `is not the key of ${CERT_FILE}; put the two of a pair there`);
  }
  try {
    createSecureContext({ ca, cert, key });
  } catch (cause) {
    const { reason = 'unknown' } = cause as { readonly reason?: string };
    throw wrong(CERT_FILE, `cannot be used (${reason}); make another one`, cause);
  }
  return { ca, cert, key };
}
