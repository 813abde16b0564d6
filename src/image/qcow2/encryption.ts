/**
 * Encrypted images: which cipher their data has, and whether the key fits.
 *
 * K1 An image that is to be decrypted with a key that does not fit is not opened, and not changed.
 *    The old AES encryption cannot tell: with a wrong key everything reads as noise.
 * K2 The old AES encryption is for reading only (aes-cbc.ts).
 * K3 A key is never passed over in silence: what would be written in plain is refused. Below an
 *    encrypted image, which has used it, a plain one may lie.
 */
import { CRYPT_AES, CRYPT_NONE } from '../../abi/qcow2.ts';
import { invalid } from '../../arguments.ts';
import { SluiceError } from '../../errors.ts';
import { type Check, type Checks, objectOf } from '../../options.ts';
import type { ImageFile } from '../image-file.ts';
import { legacyCipher } from './aes-cbc.ts';
import type { SectorDecipher } from './crypt-view.ts';
import type { Qcow2Header } from './header.ts';
import { unlockLuks } from './luks.ts';

/** How encrypted images are opened: the image, and the files of its chain that are encrypted. */
export interface EncryptionOptions {
  /** The passphrase; a string is UTF-8. Of bytes all count, a line feed at the end too. */
  readonly key: Uint8Array | string;
}

/** A passphrase. */
export const isKey: Check = (value, name) => {
  if (typeof value === 'string' || value instanceof Uint8Array) return;
  throw invalid(`${name} must be a string or a Uint8Array`);
};

const ENCRYPTION_OPTIONS: Checks<EncryptionOptions> = { key: isKey };

/** EncryptionOptions. */
export const isEncryption: Check = objectOf(ENCRYPTION_OPTIONS, ['key']);

/** The cipher of an image's data, or undefined where there is none. See K1 to K3. */
export async function unlock(
  file: ImageFile,
  header: Qcow2Header,
  path: string,
  writable: boolean,
  options: (EncryptionOptions & { readonly isUsed?: boolean }) | undefined,
): Promise<SectorDecipher | undefined> {
  const { cryptMethod, encryption: area, backing } = header;
  if (cryptMethod === CRYPT_NONE) {
    const isUnused = options !== undefined && options.isUsed !== true;
    if (isUnused && backing === undefined) throw new UnusedKey(path);
    return undefined;
  }
  if (cryptMethod === CRYPT_AES) {
    const cipher = legacyCipher(path, options?.key);
    if (writable) throw forReadingOnly(path);
    return cipher;
  }
  if (area === undefined) throw new Error('the header of an image with LUKS names its area');
  return unlockLuks({ file, path, area }, options?.key);
}

/** An image was not opened because nothing of it needs the key that was given (K3). */
export class UnusedKey extends SluiceError {
  constructor(path: string) {
    const found = 'a key was given, and it is not encrypted; leave the key out if that is right';
    const message = `cannot open ${JSON.stringify(path)}: ${found}`;
    super('ERR_SLUICE_INVALID_ARGUMENT', message, { operation: 'open', path });
  }
}

function forReadingOnly(path: string): SluiceError {
  const found = 'it has the old AES encryption, which is for reading only';
  const advice = 'open it read-only, or convert it to LUKS with qemu-img convert';
  const message = `cannot open ${JSON.stringify(path)} for writing: ${found}; ${advice}`;
  return new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { operation: 'open', path });
}
