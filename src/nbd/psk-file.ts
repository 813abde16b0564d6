/** Files of pre-shared keys, as psktool(1) of GnuTLS writes them: lines of USER:KEY, in hex. */
import { readFile } from 'node:fs/promises';
import { SluiceError } from '../errors.ts';
import { systemWords } from '../system-words.ts';

/** OpenSSL takes no longer name (PSK_MAX_IDENTITY_LEN) and no longer key (PSK_MAX_PSK_LEN). */
const MAX_USER_BYTES = 128;
const MAX_KEY_BYTES = 256;
const ADVICE = 'make it with psktool -u USER -p FILE';
/** 128 bits, the strength of the weakest suite: a key that can be guessed is none. */
export const MIN_KEY_BYTES = 16;
/** Nobody has as many users: it is another file. */
const MAX_FILE_BYTES = 2 ** 20;

/**
 * Keys by the names of their users.
 * @throws SluiceError ERR_SLUICE_OPEN, or ERR_SLUICE_INVALID_ARGUMENT for a file of another kind;
 *   its message has no key
 */
export async function readPskFile(path: string): Promise<Map<string, Uint8Array>> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    const message = `cannot read the keys in ${JSON.stringify(path)}: ${systemWords(cause)}`;
    throw new SluiceError('ERR_SLUICE_OPEN', message, { operation: 'open', path, cause });
  }
  const keys = new Map<string, Uint8Array>();
  if (bytes.length > MAX_FILE_BYTES) throw wrong(path, 'it is larger than 1 MiB');
  for (const [index, line] of bytes.toString('utf8').split('\n').entries()) {
    const text = line.replace(/\r$/, '');
    if (text === '' || text.startsWith('#')) continue;
    const [, user = '', hex = ''] = /^([^:]+):((?:[0-9a-f]{2})+)$/i.exec(text) ?? [];
    const key = Buffer.from(hex, 'hex');
    if (user === '')
      throw wrong(path, `line ${index + 1} is not USER:KEY with a key in hex; ${ADVICE}`);
    if (Buffer.byteLength(user) > MAX_USER_BYTES || key.length > MAX_KEY_BYTES) {
      const most = `${MAX_USER_BYTES} bytes, or a key of more than ${MAX_KEY_BYTES}`;
      throw wrong(path, `line ${index + 1} has a name of more than ${most}`);
    }
    if (key.length < MIN_KEY_BYTES) {
      const found = `line ${index + 1} has a key of ${bytesText(key.length)}`;
      const advice = `a key has ${MIN_KEY_BYTES} or more, make one with psktool`;
      throw wrong(path, `${found}; ${advice}`);
    }
    keys.set(user, key);
  }
  if (keys.size === 0) throw wrong(path, `it has no keys; ${ADVICE}`);
  return keys;
}

function bytesText(count: number): string {
  return count === 1 ? '1 byte' : `${count} bytes`;
}

function wrong(path: string, reason: string): SluiceError {
  const message = `${JSON.stringify(path)} is no file of pre-shared keys: ${reason}`;
  return new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', message, { path });
}
