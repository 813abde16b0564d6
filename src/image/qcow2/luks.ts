/**
 * Unlocking the data of an encrypted image (crypt_method 2, LUKS version 1).
 *
 *     passphrase -PBKDF2-> slot's key -decrypts-> split key -merge-> volume's key -digest-> right?
 *
 * Every slot in use is tried in turn. PBKDF2 runs on the pool. What a header may ask for is
 * bounded in luks-header.ts: 256 KB of split key at a time, and the rounds of all slots.
 */
import { createHash, pbkdf2, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';

import { SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { xtsCipher } from './aes-xts.ts';
import type { SectorCipher } from './crypt-view.ts';
import { Fields } from './fields.ts';
import type { EncryptionExtension } from './header-extensions.ts';
import {
  LUKS_HEADER_BYTES,
  type LuksHash,
  type LuksHeader,
  type LuksInfo,
  luksInfoOf,
  type LuksKeySlot,
  parseLuksHeader,
  splitKeyBytes,
} from './luks-header.ts';

/** An encrypted image. */
export interface LuksImage {
  readonly file: ImageFile;
  /** For messages. */
  readonly path: string;
  /** Where the LUKS header and its key slots are, in bytes of the file. */
  readonly area: EncryptionExtension;
}

/** Says what the header says; whether it can be used is not asked. */
export async function describeLuks({ file, path, area }: LuksImage): Promise<LuksInfo> {
  const { offset } = area;
  const bytes = await file.read(offset, LUKS_HEADER_BYTES);
  return luksInfoOf(new Fields(bytes, { path, what: 'the LUKS header', offset }));
}

const deriveKey = promisify(pbkdf2);

/**
 * The cipher of the image's data; its sectors are those of the file. A passphrase in a string is
 * UTF-8. Rejects with ERR_SLUICE_KEY when the passphrase is missing or opens no slot, with
 * ERR_SLUICE_IMAGE when the header is damaged, with ERR_SLUICE_UNSUPPORTED for what sluice does
 * not know.
 */
export async function unlockLuks(
  { file, path, area }: LuksImage,
  passphrase: Uint8Array | string | undefined,
): Promise<SectorCipher> {
  const { offset } = area;
  const bytes = await file.read(offset, LUKS_HEADER_BYTES);
  const fields = new Fields(bytes, { path, what: 'the LUKS header', offset });
  const header = parseLuksHeader(fields, area.length);
  if (passphrase === undefined) throw keyError(path, MISSING);
  for (const slot of header.slots) {
    const size = splitKeyBytes(header.keyBytes, slot.stripes);
    const splitKey = await file.read(offset + slot.offset, size);
    const key = await volumeKey(header, slot, splitKey, passphrase);
    if (await isVolumeKey(header, key)) return xtsCipher(key);
  }
  const slots = `${header.slots.length} key slots in use`;
  const hint = Buffer.from(passphrase).at(-1) === LINE_FEED ? `, ${WITH_LINE_FEED}` : '';
  throw keyError(path, `the passphrase opens none of its ${slots}; check it${hint}`);
}

const LINE_FEED = 0x0a;
/** Editors and echo put it there. */
const WITH_LINE_FEED = 'and the line feed that it ends with, which counts';

/** The volume's key if the passphrase is the slot's; else noise. */
async function volumeKey(
  { hash, keyBytes }: LuksHeader,
  { salt, rounds, stripes }: LuksKeySlot,
  splitKey: Uint8Array,
  passphrase: Uint8Array | string,
): Promise<Uint8Array> {
  const slotKey = await deriveKey(passphrase, salt, rounds, keyBytes, hash);
  // What a file answers may be its own bytes, and starts anywhere in their buffer.
  const material = Uint8Array.from(splitKey);
  xtsCipher(slotKey).decrypt(material, 0);
  return mergeStripes(material, stripes, keyBytes, hash);
}

async function isVolumeKey(header: LuksHeader, key: Uint8Array): Promise<boolean> {
  const { digest, digestSalt, digestRounds, hash } = header;
  const found = await deriveKey(key, digestSalt, digestRounds, digest.length, hash);
  return timingSafeEqual(found, digest);
}

/** Undoes the anti-forensic split: each stripe is mixed into what the ones before it came to. */
function mergeStripes(
  material: Uint8Array,
  stripes: number,
  keyBytes: number,
  hash: LuksHash,
): Uint8Array {
  const key = new Uint8Array(keyBytes);
  for (let stripe = 0; stripe < stripes; stripe++) {
    if (stripe > 0) diffuse(key, hash);
    const from = stripe * keyBytes;
    for (let index = 0; index < keyBytes; index++) {
      key[index] = (key[index] ?? 0) ^ (material[from + index] ?? 0);
    }
  }
  return key;
}

/** Each digest-sized block becomes the hash of its number and itself; the last one may be cut. */
export function diffuse(key: Uint8Array, hash: LuksHash): void {
  const source = Buffer.from(key);
  const number = Buffer.alloc(4);
  for (let at = 0, block = 0; at < key.length; block++) {
    number.writeUInt32BE(block);
    const digestBytes = DIGEST_BYTES[hash];
    const part = source.subarray(at, at + digestBytes);
    const digest = createHash(hash).update(number).update(part).digest();
    key.set(digest.subarray(0, part.length), at);
    at += part.length;
  }
}

const DIGEST_BYTES: Readonly<Record<LuksHash, number>> = { sha1: 20, sha256: 32, sha512: 64 };

const MISSING = 'no passphrase was given; pass encryption: { key }';

function keyError(path: string, found: string): SluiceError {
  const message = `${JSON.stringify(path)} is encrypted (LUKS): ${found}`;
  return new SluiceError('ERR_SLUICE_KEY', message, { operation: 'open', path });
}
