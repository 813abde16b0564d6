/**
 * The old encryption of qcow2 (crypt_method 1): AES-128-CBC for each sector, with the number of
 * the guest's sector as the initial vector (plain64) and the passphrase itself as the key.
 *
 * It protects nothing that is worth protecting: the same passphrase is the same key for every
 * image, and a writer can choose what the vectors collide with. So it is for reading only.
 */
import { createDecipheriv } from 'node:crypto';

import { SECTOR_SIZE } from '../../abi/limits.ts';
import { SluiceError } from '../../errors.ts';
import type { SectorDecipher } from './crypt-view.ts';

const KEY_BYTES = 16;
const IV_BYTES = 16;

/**
 * Makes the cipher. Only the first 16 bytes of the passphrase count, and nothing in the image
 * says whether they are right: with others it decrypts to noise. Throws ERR_SLUICE_KEY when there
 * is no passphrase.
 */
export function legacyCipher(
  path: string,
  passphrase: Uint8Array | string | undefined,
): SectorDecipher {
  if (passphrase === undefined) {
    const found = `${JSON.stringify(path)} is encrypted (AES-CBC)`;
    const message = `${found}: no passphrase was given; pass encryption: { key }`;
    throw new SluiceError('ERR_SLUICE_KEY', message, { operation: 'open', path });
  }
  const key = Buffer.alloc(KEY_BYTES);
  key.set(Buffer.from(passphrase).subarray(0, KEY_BYTES));
  return {
    countsOnDisk: true,
    decrypt: (bytes, sector) => {
      for (let at = 0; at < bytes.length; at += SECTOR_SIZE) {
        const iv = Buffer.alloc(IV_BYTES);
        iv.writeBigUInt64LE(BigInt(sector + at / SECTOR_SIZE));
        const decipher = createDecipheriv('aes-128-cbc', key, iv).setAutoPadding(false);
        bytes.set(decipher.update(bytes.subarray(at, at + SECTOR_SIZE)), at);
      }
    },
  };
}
