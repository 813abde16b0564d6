/** What goes wrong between a client and its server, in words. What a server says is hostile. */
import { SluiceError } from '../../errors.ts';
import type { NbdAddress } from '../uri.ts';
import { NBD_ENOSPC, NBD_ENOTSUP, NBD_EPERM } from '../protocol.ts';

/** A server that does not keep to the protocol: what it said, and what it must say. */
export class Breach extends Error {
  override readonly name = 'Breach';
}

/** What was asked of a server. */
export interface Asked {
  readonly operation: 'read' | 'write' | 'write zeroes' | 'flush' | 'block status';
  readonly offset: number;
  readonly length: number;
}

/** An error that a server answers with. NBD proto, "Error values". */
export interface Refused {
  readonly error: number;
  readonly message: string;
}

const ERROR_NAMES: Readonly<Record<number, string>> = {
  1: 'EPERM',
  5: 'EIO',
  12: 'ENOMEM',
  22: 'EINVAL',
  28: 'ENOSPC',
  75: 'EOVERFLOW',
  95: 'ENOTSUP',
  108: 'ESHUTDOWN',
};
const QUOTED_CHARACTERS = 200;

/** The text of a server as it may be shown: short, and without control characters. */
export function quoted(text: string): string {
  return JSON.stringify(text.slice(0, QUOTED_CHARACTERS)).replaceAll(
    /[^\x20-\x7e\xa0-\uffff]/g,
    '?',
  );
}

/** The error of a connection as a whole. */
export function connectionError(uri: string, problem: string, cause?: unknown): SluiceError {
  const message = `${JSON.stringify(uri)}: ${problem}`;
  return new SluiceError('ERR_SLUICE_CONNECTION', message, { path: uri, cause });
}

/** Why a server cannot be reached, by what the system says. */
export function connectProblem(cause: Error, place: NbdAddress['place']): string {
  const { code = cause.message } = cause as NodeJS.ErrnoException;
  const [found, advice] =
    'path' in place ? atSocket(code, place.path) : atHost(code, place.host, place.port);
  return `cannot connect: ${found} (${code}); ${advice}`;
}

type Problem = readonly [found: string, advice: string];

function atSocket(code: string, path: string): Problem {
  const where = JSON.stringify(path);
  const problems: Readonly<Record<string, Problem>> = {
    ENOENT: [`there is no socket ${where}`, 'start the server, or check the path behind socket='],
    ECONNREFUSED: [
      `nobody listens at ${where}: its server is gone, or it is no socket`,
      'start the server, or check the path behind socket=',
    ],
    EACCES: [`${where} is not for this user`, 'ask its owner, or check the path behind socket='],
  };
  return problems[code] ?? [`${where} cannot be used`, 'start the server, or check the path'];
}

function atHost(code: string, host: string, port: number): Problem {
  const name = JSON.stringify(host);
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') {
    return [`${name} has no address`, 'check the name of the host, and the network'];
  }
  const refuses = code === 'ECONNREFUSED';
  const found = refuses ? `nobody listens on port ${port} of ${name}` : `${name} is not reached`;
  return [found, 'start the server, or check the host and the port'];
}

/** A breach in the words of the connection. */
export function breachError(uri: string, { message }: Breach): SluiceError {
  return connectionError(uri, `what the server says is not NBD: ${message}; use another server`);
}

/** The error of a request that was open when the connection failed. */
export function lostError(uri: string, asked: Asked, failure: SluiceError): SluiceError {
  const { message, code } = failure;
  return new SluiceError(code, `${failedText(asked)}: ${message}`, {
    ...placeOf(uri, asked),
    cause: failure,
  });
}

/** The error of a request that the server refused. */
export function refusedError(uri: string, asked: Asked, { error, message }: Refused): SluiceError {
  const name = ERROR_NAMES[error] ?? `error ${error}`;
  const said = message === '' ? name : `${name} (${quoted(message)})`;
  const text = `${JSON.stringify(uri)}: ${failedText(asked)}: the server reported ${said}`;
  const cause = Object.assign(new Error(said), { code: name });
  return new SluiceError(codeOf(error, asked), text, { ...placeOf(uri, asked), cause });
}

/** The error of a request that the server does not do at all. */
export function isNotSupported(error: unknown): boolean {
  const { cause } = error as { readonly cause?: NodeJS.ErrnoException };
  return cause?.code === ERROR_NAMES[NBD_ENOTSUP];
}

function codeOf(error: number, { operation }: Asked) {
  if (error === NBD_ENOSPC) return 'ERR_SLUICE_NO_SPACE';
  const isRefusedWrite = error === NBD_EPERM && operation.startsWith('write');
  return isRefusedWrite ? 'ERR_SLUICE_READ_ONLY' : 'ERR_SLUICE_IO';
}

function failedText({ operation, offset, length }: Asked): string {
  if (operation === 'flush') return 'flush failed';
  return `${operation} of ${length} bytes at offset ${offset} failed`;
}

function placeOf(path: string, { operation, offset, length }: Asked) {
  return operation === 'flush' ? { operation, path } : { operation, path, offset, length };
}
