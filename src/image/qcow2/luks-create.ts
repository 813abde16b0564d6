/**
 * A new LUKS area: a volume's key of random bytes, which the passphrase opens by the first slot.
 *
 * Rounds are counted by the clock of the processor on this machine, so that an unlocking takes the
 * time that was asked for; on a busy machine they are not fewer.
 */
import { pbkdf2, pbkdf2Sync, randomBytes, randomUUID } from 'node:crypto';
import { promisify } from 'node:util';

import { xtsCipher } from './aes-xts.ts';
import type { SectorCipher } from './crypt-view.ts';
import { diffuse } from './luks.ts';
import { DIGEST_BYTES, type LuksHash, luksHeaderBytes, SALT_BYTES } from './luks-header.ts';
import {
  LUKS_SLOTS,
  LUKS_STRIPES,
  luksAreaBytes,
  luksChoiceOf,
  type NewLuks,
  slotOffset,
} from './luks-options.ts';

/** What an encrypted image begins with, and what its data is encrypted with. */
export interface NewLuksArea {
  readonly bytes: Uint8Array;
  readonly cipher: SectorCipher;
}

/** The passphrase's part of the time; the volume's key is random, and needs no more than this. */
const DIGEST_SHARE = 8;
const ROUNDS_MIN = 1000;
/** All slots together may have 2^27 when they are read. */
const ROUNDS_MAX = 2 ** 26;
const TRIES = 3;
const TRY_MS = 8;

const deriveKey = promisify(pbkdf2);

/** Makes the area; takes about a fifth more than the time that was asked for. */
export async function makeLuksArea(options: NewLuks): Promise<NewLuksArea> {
  const { keyBytes, hash, iterTimeMs } = luksChoiceOf(options);
  const volumeKey = randomBytes(keyBytes);
  const digestSalt = randomBytes(SALT_BYTES);
  const digestMs = iterTimeMs / DIGEST_SHARE;
  const digestRounds = roundsFor(digestMs, hash, DIGEST_BYTES);
  const digest = await deriveKey(volumeKey, digestSalt, digestRounds, DIGEST_BYTES, hash);
  const salt = randomBytes(SALT_BYTES);
  const rounds = roundsFor(iterTimeMs, hash, keyBytes);
  const slotKey = await deriveKey(options.key, salt, rounds, keyBytes, hash);
  const splitKey = split(volumeKey, hash);
  xtsCipher(slotKey).encrypt(splitKey, 0);
  const areaBytes = luksAreaBytes(options);
  const slotOffsets = Array.from({ length: LUKS_SLOTS }, (_, slot) => slotOffset(keyBytes, slot));
  const slot = { rounds, salt, stripes: LUKS_STRIPES };
  const digests = { hash, keyBytes, digest, digestSalt, digestRounds };
  const bytes = new Uint8Array(areaBytes);
  bytes.set(luksHeaderBytes({ ...digests, uuid: randomUUID(), slot, slotOffsets, areaBytes }));
  bytes.set(splitKey, slotOffset(keyBytes, 0));
  return { bytes, cipher: xtsCipher(volumeKey) };
}

/** Rounds of PBKDF2 that take so many milliseconds. */
function roundsFor(timeMs: number, hash: LuksHash, keyBytes: number): number {
  let rounds = ROUNDS_MIN;
  let fastest = 0;
  for (let tries = 0; tries < TRIES;) {
    const elapsed = timeOf(rounds, hash, keyBytes);
    fastest = Math.max(fastest, rounds / elapsed);
    if (elapsed < TRY_MS) rounds *= 2;
    else tries++;
  }
  return Math.min(ROUNDS_MAX, Math.max(ROUNDS_MIN, Math.round(fastest * timeMs)));
}

/** The clock counts what others do meanwhile, and the processor's what other threads do. */
function timeOf(rounds: number, hash: LuksHash, keyBytes: number): number {
  const salt = Buffer.alloc(SALT_BYTES);
  const usage = process.cpuUsage();
  const start = performance.now();
  pbkdf2Sync('a passphrase', salt, rounds, keyBytes, hash);
  const elapsed = performance.now() - start;
  const { user, system } = process.cpuUsage(usage);
  return Math.max(0.001, Math.min(elapsed, (user + system) / 1000));
}

/** The anti-forensic split: the key comes out only of all stripes together. In whole sectors. */
function split(key: Uint8Array, hash: LuksHash): Uint8Array {
  const lastAt = (LUKS_STRIPES - 1) * key.length;
  const stripes = new Uint8Array(randomBytes(LUKS_STRIPES * key.length));
  const sum = new Uint8Array(key.length);
  for (let at = 0; at < lastAt; at += key.length) {
    for (let index = 0; index < key.length; index++) {
      sum[index] = (sum[index] ?? 0) ^ (stripes[at + index] ?? 0);
    }
    diffuse(sum, hash);
  }
  for (let index = 0; index < key.length; index++) {
    stripes[lastAt + index] = (sum[index] ?? 0) ^ (key[index] ?? 0);
  }
  return stripes;
}
