/** How the data of a new image is encrypted, and how much room its LUKS header takes. */
import { type Check, type Checks, isOneOf, isWhole, objectOf } from '../../options.ts';
import { isKey } from './encryption.ts';
import type { LuksHash } from './luks-header.ts';

/** The encryption of a new image: LUKS version 1, AES in XTS mode, plain64. */
export interface NewLuks {
  /** The passphrase; a string is UTF-8. Of bytes all count, a line feed at the end too. */
  readonly key: Uint8Array | string;
  /** Default aes-256. */
  readonly cipher?: 'aes-128' | 'aes-256';
  /** What keys are derived with; default sha256. */
  readonly hash?: LuksHash;
  /** Milliseconds that an unlocking is to take on a machine as this one; default 2000. */
  readonly iterTimeMs?: number;
}

/** Stripes of a key; as many as cryptsetup and QEMU make. */
export const LUKS_STRIPES = 4000;
export const LUKS_SLOTS = 8;
/** Key slots begin at multiples of this. */
const SLOT_GRANULE_BYTES = 4096;
const DEFAULT_ITER_TIME_MS = 2000;
const ITER_TIME_MS_MAX = 60_000;

const NEW_LUKS: Checks<NewLuks> = {
  key: isKey,
  cipher: isOneOf('aes-128', 'aes-256'),
  hash: isOneOf('sha1', 'sha256', 'sha512'),
  iterTimeMs: isWhole(1, ITER_TIME_MS_MAX),
};

/** NewLuks. */
export const isNewLuks: Check = objectOf(NEW_LUKS, ['key']);

/** NewLuks without gaps. */
export interface LuksChoice {
  /** Of both halves of an XTS key. */
  readonly keyBytes: 32 | 64;
  readonly hash: LuksHash;
  readonly iterTimeMs: number;
}

/** Completes the options. */
export function luksChoiceOf(options: NewLuks): LuksChoice {
  const { cipher = 'aes-256', hash = 'sha256', iterTimeMs = DEFAULT_ITER_TIME_MS } = options;
  return { keyBytes: cipher === 'aes-128' ? 32 : 64, hash, iterTimeMs };
}

/** Where a slot's key begins, in bytes from the start of the area. */
export function slotOffset(keyBytes: number, slot: number): number {
  const slotBytes = Math.ceil((keyBytes * LUKS_STRIPES) / SLOT_GRANULE_BYTES) * SLOT_GRANULE_BYTES;
  return SLOT_GRANULE_BYTES + slot * slotBytes;
}

/** The header and its key slots; 0 where nothing is encrypted. */
export function luksAreaBytes(options: NewLuks | undefined): number {
  return options === undefined ? 0 : slotOffset(luksChoiceOf(options).keyBytes, LUKS_SLOTS);
}
