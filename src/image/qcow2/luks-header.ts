/**
 * The header of LUKS version 1, in the area of the image that its encryption extension names.
 * Everything is big-endian.
 *
 *     header   0        6         8        40      72      104       108         112      132
 *              | magic  | version | cipher | mode  | hash  | payload | key bytes | digest |
 *              132      164       168      208
 *              | salt   | rounds  | uuid   |
 *     key slot 0        4         8        40       44        48          (8 of them, from 208)
 *              | state  | rounds  | salt   | offset | stripes |
 *
 * The payload offset has no meaning inside qcow2. What a hostile header says decides how much
 * memory and time an unlocking takes, so every number is checked before it is used.
 */
import { SECTOR_SIZE } from '../../abi/limits.ts';
import type { SluiceError } from '../../errors.ts';
import { type Fields, hex } from './fields.ts';

/** Bytes of the header with its key slots. */
export const LUKS_HEADER_BYTES = 592;

/** A hash that derives keys. */
export type LuksHash = 'sha1' | 'sha256' | 'sha512';

/** One key slot that is in use. */
export interface LuksKeySlot {
  /** PBKDF2 iterations. */
  readonly rounds: number;
  readonly salt: Uint8Array;
  /** Bytes from the start of the area; the split key is there. */
  readonly offset: number;
  readonly stripes: number;
}

/** What unlocking needs. */
export interface LuksHeader {
  readonly hash: LuksHash;
  /** Of both halves of an XTS key. */
  readonly keyBytes: number;
  /** PBKDF2 of the volume's key. */
  readonly digest: Uint8Array;
  readonly digestSalt: Uint8Array;
  readonly digestRounds: number;
  readonly slots: readonly LuksKeySlot[];
}

const MAGIC_TEXT = 'LUKS\xba\xbe';
const MAGIC = 0;
const VERSION = 6;
const CIPHER = 8;
const MODE = 40;
const HASH = 72;
const NAME_BYTES = 32;
const PAYLOAD_SECTOR = 104;
const KEY_BYTES = 108;
const DIGEST = 112;
export const DIGEST_BYTES = 20;
const DIGEST_SALT = 132;
export const SALT_BYTES = 32;
const DIGEST_ROUNDS = 164;
const UUID = 168;
const UUID_BYTES = 40;

const SLOTS = 208;
const SLOT_COUNT = 8;
const SLOT_BYTES = 48;
const SLOT_STATE = 0;
const SLOT_ROUNDS = 4;
const SLOT_SALT = 8;
const SLOT_OFFSET = 40;
const SLOT_STRIPES = 44;
const SLOT_ENABLED = 0x00ac71f3;
const SLOT_DISABLED = 0x0000dead;

/** AES-128 and AES-256, two keys each. */
const XTS_KEY_BYTES: readonly number[] = [32, 64];
const HASHES: readonly LuksHash[] = ['sha1', 'sha256', 'sha512'];
/** What cryptsetup and QEMU write. */
const STRIPES_MAX = 4000;
/**
 * Ours: rounds of PBKDF2 for all key slots together, about a minute. A slot that was made to take
 * two seconds has 2 to 10 million.
 */
const ROUNDS_MAX = 2 ** 27;

/** Reads the header of an area of `areaBytes`. Throws when it cannot be used. */
export function parseLuksHeader(header: Fields, areaBytes: number): LuksHeader {
  refuseOtherFormats(header);
  refuseOtherCiphers(header);
  const keyBytes = header.u32(KEY_BYTES);
  if (!XTS_KEY_BYTES.includes(keyBytes)) {
    throw header.refusal(KEY_BYTES, `the key has ${keyBytes} bytes; AES-XTS takes 32 or 64`);
  }
  const digestRounds = header.u32(DIGEST_ROUNDS);
  const slots: LuksKeySlot[] = [];
  for (let index = 0; index < SLOT_COUNT; index++) {
    const slot = slotAt(header, index, keyBytes, areaBytes);
    if (slot !== undefined) slots.push(slot);
  }
  refuseRounds(header, digestRounds, slots);
  return {
    hash: hashOf(header),
    keyBytes,
    digest: header.bytes.slice(DIGEST, DIGEST + DIGEST_BYTES),
    digestSalt: header.bytes.slice(DIGEST_SALT, DIGEST_SALT + SALT_BYTES),
    digestRounds,
    slots,
  };
}

/** What a LUKS header says of itself, in the keys of `qemu-img info --output=json`. */
export interface LuksInfo {
  readonly 'ivgen-alg': string;
  readonly 'hash-alg': string;
  readonly 'cipher-alg': string;
  readonly uuid: string;
  readonly format: 'luks';
  readonly 'cipher-mode': string;
  readonly slots: readonly LuksSlotInfo[];
  readonly 'payload-offset': number;
  readonly 'master-key-iters': number;
}

/** A key slot; the numbers of one that is not in use say nothing. */
export interface LuksSlotInfo {
  readonly active: boolean;
  readonly iters?: number;
  readonly 'key-offset': number;
  readonly stripes?: number;
}

/** Describes a header, one that parseLuksHeader refuses too. */
export function luksInfoOf(header: Fields): LuksInfo {
  const [mode = '', vectors = ''] = nameAt(header, MODE).split('-');
  // XTS takes two keys.
  const keyBits = (header.u32(KEY_BYTES) * 8) / (mode === 'xts' ? 2 : 1);
  const slots = Array.from({ length: SLOT_COUNT }, (_, index): LuksSlotInfo => {
    const at = SLOTS + index * SLOT_BYTES;
    const place = { 'key-offset': header.u32(at + SLOT_OFFSET) * SECTOR_SIZE };
    if (header.u32(at + SLOT_STATE) !== SLOT_ENABLED) return { active: false, ...place };
    const stripes = header.u32(at + SLOT_STRIPES);
    return { active: true, iters: header.u32(at + SLOT_ROUNDS), ...place, stripes };
  });
  return {
    'ivgen-alg': vectors,
    'hash-alg': nameAt(header, HASH),
    'cipher-alg': `${nameAt(header, CIPHER)}-${keyBits}`,
    uuid: nameAt(header, UUID, UUID_BYTES),
    format: 'luks',
    'cipher-mode': mode,
    slots,
    'payload-offset': header.u32(PAYLOAD_SECTOR) * SECTOR_SIZE,
    'master-key-iters': header.u32(DIGEST_ROUNDS),
  };
}

function refuseOtherFormats(header: Fields): void {
  const magic = Buffer.from(header.bytes.subarray(MAGIC, MAGIC + MAGIC_TEXT.length));
  if (magic.toString('latin1') !== MAGIC_TEXT) {
    throw header.refusal(MAGIC, 'it does not start with the magic bytes of LUKS');
  }
  const version = header.u16(VERSION);
  if (version !== 1) throw unknown(header, VERSION, `LUKS version ${version}`, 'version 1');
}

function refuseOtherCiphers(header: Fields): void {
  const cipher = nameAt(header, CIPHER);
  const mode = nameAt(header, MODE);
  if (cipher === 'aes' && mode === 'xts-plain64') return;
  const found = `the cipher ${JSON.stringify(`${cipher}-${mode}`)}`;
  throw unknown(header, CIPHER, found, '"aes-xts-plain64"');
}

function hashOf(header: Fields): LuksHash {
  const name = nameAt(header, HASH);
  const hash = HASHES.find((known) => known === name);
  if (hash !== undefined) return hash;
  throw unknown(header, HASH, `the hash ${JSON.stringify(name)}`, HASHES.join(', '));
}

/** The name up to its NUL. */
function nameAt(header: Fields, offset: number, length = NAME_BYTES): string {
  const name = Buffer.from(header.bytes.subarray(offset, offset + length)).toString('latin1');
  return name.split('\0', 1)[0] ?? '';
}

/** The key slot, or undefined when it is not in use. */
function slotAt(
  header: Fields,
  index: number,
  keyBytes: number,
  areaBytes: number,
): LuksKeySlot | undefined {
  const at = SLOTS + index * SLOT_BYTES;
  const state = header.u32(at + SLOT_STATE);
  if (state === SLOT_DISABLED) return undefined;
  if (state !== SLOT_ENABLED) {
    throw header.refusal(at, `key slot ${index} is neither in use nor free: state ${hex(state)}`);
  }
  const stripes = header.u32(at + SLOT_STRIPES);
  if (stripes < 1 || stripes > STRIPES_MAX) {
    const rule = `1 to ${STRIPES_MAX} are possible`;
    throw header.refusal(at + SLOT_STRIPES, `key slot ${index} has ${stripes} stripes; ${rule}`);
  }
  const offset = header.u32(at + SLOT_OFFSET) * SECTOR_SIZE;
  const materialBytes = splitKeyBytes(keyBytes, stripes);
  if (offset < LUKS_HEADER_BYTES || offset + materialBytes > areaBytes) {
    const found = `key slot ${index} has ${materialBytes} bytes at ${hex(offset)} of its area`;
    const rule = `they must lie inside ${LUKS_HEADER_BYTES} to ${areaBytes}`;
    throw header.refusal(at + SLOT_OFFSET, `${found}; ${rule}`);
  }
  const salt = header.bytes.slice(at + SLOT_SALT, at + SLOT_SALT + SALT_BYTES);
  return { rounds: header.u32(at + SLOT_ROUNDS), salt, offset, stripes };
}

/** The digest of the volume's key is computed once for each slot. */
function refuseRounds(header: Fields, digestRounds: number, slots: readonly LuksKeySlot[]): void {
  if (digestRounds === 0 || slots.some(({ rounds }) => rounds === 0)) {
    throw header.refusal(DIGEST_ROUNDS, 'a key is derived in 0 rounds');
  }
  const total = slots.reduce((sum, { rounds }) => sum + rounds + digestRounds, 0);
  if (total <= ROUNDS_MAX) return;
  throw unknown(header, DIGEST_ROUNDS, `${total} rounds of PBKDF2`, `at most ${ROUNDS_MAX}`);
}

/** Bytes of a split key on disk: whole sectors. */
export function splitKeyBytes(keyBytes: number, stripes: number): number {
  return Math.ceil((keyBytes * stripes) / SECTOR_SIZE) * SECTOR_SIZE;
}

function unknown(header: Fields, offset: number, found: string, known: string): SluiceError {
  const advice = 'convert the image with the program that made it';
  const message = `it asks for ${found}, and sluice takes ${known}; ${advice}`;
  return header.refusal(offset, message, 'ERR_SLUICE_UNSUPPORTED');
}

/** A header with one key slot in use, the first one. */
export interface NewLuksHeader extends Omit<LuksHeader, 'slots'> {
  readonly uuid: string;
  readonly slot: Pick<LuksKeySlot, 'rounds' | 'salt' | 'stripes'>;
  /** Where the key of each slot begins. */
  readonly slotOffsets: readonly number[];
  /** Bytes of the area. */
  readonly areaBytes: number;
}

/** The bytes of a new header. */
export function luksHeaderBytes(header: NewLuksHeader): Uint8Array {
  const bytes = Buffer.alloc(LUKS_HEADER_BYTES);
  bytes.write(MAGIC_TEXT, MAGIC, 'latin1');
  bytes.writeUInt16BE(1, VERSION);
  bytes.write('aes', CIPHER);
  bytes.write('xts-plain64', MODE);
  bytes.write(header.hash, HASH);
  bytes.writeUInt32BE(header.areaBytes / SECTOR_SIZE, PAYLOAD_SECTOR);
  bytes.writeUInt32BE(header.keyBytes, KEY_BYTES);
  bytes.set(header.digest, DIGEST);
  bytes.set(header.digestSalt, DIGEST_SALT);
  bytes.writeUInt32BE(header.digestRounds, DIGEST_ROUNDS);
  bytes.write(header.uuid, UUID);
  const { rounds, salt, stripes } = header.slot;
  for (const [index, offset] of header.slotOffsets.entries()) {
    const at = SLOTS + index * SLOT_BYTES;
    bytes.writeUInt32BE(index === 0 ? SLOT_ENABLED : SLOT_DISABLED, at + SLOT_STATE);
    bytes.writeUInt32BE(offset / SECTOR_SIZE, at + SLOT_OFFSET);
    bytes.writeUInt32BE(stripes, at + SLOT_STRIPES);
  }
  bytes.writeUInt32BE(rounds, SLOTS + SLOT_ROUNDS);
  bytes.set(salt, SLOTS + SLOT_SALT);
  return bytes;
}
