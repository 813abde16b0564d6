/**
 * Why there is no TLS with a server, for people: OpenSSL and the alerts of TLS speak of their own
 * insides. What was asked, what was found, what to do. RFC 8446, 6.2, "Error Alerts".
 */
import { join } from 'node:path';
import type { NbdAddress, UriTls } from '../uri.ts';
import { quoted } from './failures.ts';

/** What OpenSSL and Node say of a connection. */
interface TlsCause extends Error {
  readonly code?: string;
  readonly reason?: string;
  readonly host?: string;
  readonly cert?: { readonly subjectaltname?: string; readonly valid_to?: string };
}

/** What a URI asks for, and the user whose key it is. */
export interface AskedTls {
  readonly address: NbdAddress;
  /** Of a pre-shared key. */
  readonly user?: string | undefined;
}

/** A server that was to have a key shows a certificate: it is not the one that has the key. */
export class UnwantedCertificate extends Error {
  override readonly name = 'UnwantedCertificate';
}

const NO_AUTHORITY =
  /^(?:UNABLE_TO_(?:VERIFY|GET_ISSUER)|SELF_SIGNED|DEPTH_ZERO|CERT_UNTRUSTED|INVALID_CA)/;
const EXPIRED = /^CERT_(?:HAS_EXPIRED|NOT_YET_VALID)$/;
/** The key of a user is another one: it proves nothing to the server. */
const WRONG_KEY = /ALERT_(?:ILLEGAL_PARAMETER|DECRYPT_ERROR|BAD_RECORD_MAC|DECRYPTION_FAILED)/;
/** There is no such user, or nothing at all that both sides have. */
const NO_COMMON = /ALERT_(?:HANDSHAKE_FAILURE|UNKNOWN_PSK_IDENTITY|INSUFFICIENT_SECURITY)/;
const CERTIFICATE_WANTED = /ALERT_CERTIFICATE_REQUIRED/;
const CERTIFICATE_REFUSED =
  /ALERT_(?:UNKNOWN_CA|ACCESS_DENIED|(?:BAD|UNSUPPORTED)_CERTIFICATE|CERTIFICATE_)/;
const NO_TLS = /WRONG_VERSION_NUMBER|PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL/;

/** What is wrong, and what to do about it. */
export function tlsProblem(cause: Error, asked: AskedTls): string {
  const { code = '' } = cause as TlsCause;
  const { tls } = asked.address;
  const found =
    tls === undefined
      ? undefined
      : tls.pskFile === undefined
        ? certificateProblem(cause, code, tls)
        : keyProblem(cause, code, tls.pskFile, asked.user);
  if (found !== undefined) return `no TLS with the server: ${found}`;
  const { reason = cause.message } = cause as TlsCause;
  return `no TLS with the server: ${reason}; check the certificates or the key, of both sides`;
}

/** A server with which TLS had begun has closed before it answered anything. */
export function closedAmidTls({ address }: AskedTls): string | undefined {
  const { certificates } = address.tls ?? {};
  if (certificates === undefined) return undefined;
  const advice = `check client-cert.pem in ${JSON.stringify(certificates)}, and the name`;
  return `the server closed the connection when TLS had begun: ${REFUSES}; ${advice} of the export`;
}

const REFUSES = "it may not accept the client's certificate";
const USE_KEYS = 'tls-psk-file=FILE&tls-username=NAME';

function keyProblem(cause: Error, code: string, file: string, user = ''): string | undefined {
  const name = JSON.stringify(user);
  const where = JSON.stringify(file);
  if (cause instanceof UnwantedCertificate || NO_AUTHORITY.test(code) || EXPIRED.test(code)) {
    const found = 'a pre-shared key was to prove who it is, and it shows a certificate instead';
    return `${found}; write tls-certificates=FOLDER if that is right`;
  }
  if (WRONG_KEY.test(code)) {
    const found = `it refuses the key of user ${name} in ${where}: its own is another one`;
    return `${found}; copy the line of ${name} from the server's file of keys`;
  }
  if (NO_COMMON.test(code)) {
    const found = `it knows no user ${name} (of ${where}), or takes no pre-shared keys`;
    return `${found}; name a user that it has, tls-username=NAME, or write tls-certificates=FOLDER`;
  }
  return NO_TLS.test(code) ? NEITHER : undefined;
}

const NEITHER = 'what it says is not TLS of version 1.2 or newer; use another server';

function certificateProblem(cause: TlsCause, code: string, tls: UriTls): string | undefined {
  const { certificates: folder } = tls;
  if (NO_AUTHORITY.test(code)) return authorityProblem(folder);
  if (EXPIRED.test(code)) {
    const verb = code === 'CERT_HAS_EXPIRED' ? 'has expired' : 'is not valid yet';
    return `its certificate ${verb}; renew it there, or look at the clocks of both machines`;
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    const names = quoted(cause.cert?.subjectaltname ?? 'no name');
    const found = `its certificate is for ${names}, not for ${JSON.stringify(cause.host ?? '')}`;
    return `${found}; connect by a name that it has, or add tls-hostname=NAME with one of them`;
  }
  const place = folder === undefined ? 'a folder, tls-certificates=FOLDER' : JSON.stringify(folder);
  if (CERTIFICATE_WANTED.test(code)) {
    const found = 'it wants a certificate of the client, and there was none';
    return `${found}; put client-cert.pem and client-key.pem in ${place}`;
  }
  if (CERTIFICATE_REFUSED.test(code)) {
    const found = `it refuses the client's certificate (${cause.reason ?? code})`;
    return `${found}; put one that its authority has signed, and its key, in ${place}`;
  }
  if (NO_COMMON.test(code)) {
    const found = 'it refuses the handshake: it may want a pre-shared key, or a certificate';
    return `${found}; write ${USE_KEYS}, or put client-cert.pem and client-key.pem in ${place}`;
  }
  return NO_TLS.test(code) ? NEITHER : undefined;
}

function authorityProblem(folder: string | undefined): string {
  if (folder === undefined) {
    const found = 'its certificate is signed by no authority that is known everywhere';
    return `${found}; name a folder with the ca-cert.pem of its own, tls-certificates=FOLDER`;
  }
  const path = JSON.stringify(join(folder, 'ca-cert.pem'));
  return `its certificate is not signed by ${path}; put the server's authority there`;
}
