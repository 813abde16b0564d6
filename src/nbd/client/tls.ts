/** TLS of the client: the files that a URI names, and the handshake. NBD, doc/uri.md. */
import { constants } from 'node:crypto';
import type { Socket } from 'node:net';
import { userInfo } from 'node:os';
import { connect, type ConnectionOptions, createSecureContext, type TLSSocket } from 'node:tls';
import { SluiceError } from '../../errors.ts';
import { readPem, readPemIfThere } from '../pem.ts';
import { readPskFile } from '../psk-file.ts';
import { PSK_CIPHERS } from '../tls.ts';
import type { NbdAddress, UriTls } from '../uri.ts';

/**
 * What a URI says of TLS, with the contents of its files.
 * @throws SluiceError ERR_SLUICE_OPEN, ERR_SLUICE_INVALID_ARGUMENT for files of another kind
 */
export async function tlsOptionsOf(
  { place, tls }: NbdAddress,
  uri: string,
): Promise<ConnectionOptions | undefined> {
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

async function keyOptions(path: string, tls: UriTls, uri: string): Promise<ConnectionOptions> {
  const keys = await readPskFile(path);
  const identity = tls.username ?? userInfo().username;
  const psk = keys.get(identity);
  if (psk === undefined) {
    const message = `${JSON.stringify(path)} has no key of ${JSON.stringify(identity)}`;
    const advice = 'name the user with tls-username=NAME';
    throw new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', `${message}; ${advice}`, { path: uri });
  }
  return {
    ciphers: PSK_CIPHERS,
    pskCallback: () => ({ psk, identity }),
    // Who has the key is the one; there is no certificate.
    checkServerIdentity: () => undefined,
  };
}

/** Without a folder the authorities that Node knows are trusted. */
async function certificateOptions({ certificates: folder }: UriTls, uri: string) {
  if (folder === undefined) return {};
  const [ca, cert, key] = await Promise.all([
    readPem(folder, 'ca-cert.pem'),
    readPemIfThere(folder, 'client-cert.pem'),
    readPemIfThere(folder, 'client-key.pem'),
  ]);
  const options = { ca, cert, key };
  try {
    createSecureContext(options);
  } catch (cause) {
    const { message } = cause as Error;
    const found = `a file in ${JSON.stringify(folder)} is no certificate or key: ${message}`;
    throw new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', found, { path: uri, cause });
  }
  return options;
}
