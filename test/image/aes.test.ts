import { createCipheriv, createDecipheriv } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { legacyCipher } from '../../src/image/qcow2/aes-cbc.ts';
import { xtsCipher } from '../../src/image/qcow2/aes-xts.ts';
import { expectSame, pattern } from '../backend/driver.ts';
import { scratchFolder } from '../backend/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { createEncrypted, hostOffset, ioEncrypted } from './codec-images.ts';

const SECTOR = 512;

/** The system's AES-XTS, one sector at a time. */
function systemXts(
  make: typeof createCipheriv | typeof createDecipheriv,
  key: Uint8Array,
  bytes: Uint8Array,
  first: number,
): Uint8Array {
  const out = new Uint8Array(bytes.length);
  for (let at = 0; at < bytes.length; at += SECTOR) {
    const tweak = Buffer.alloc(16);
    tweak.writeBigUInt64LE(BigInt(first + at / SECTOR));
    const cipher = make(`aes-${key.length * 4}-xts`, key, tweak);
    out.set(cipher.update(bytes.subarray(at, at + SECTOR)), at);
  }
  return out;
}

describe('AES-XTS', () => {
  const sectors = fc.record({
    key: fc
      .constantFrom(32, 64)
      .chain((length) => fc.uint8Array({ minLength: length, maxLength: length }))
      // OpenSSL refuses a key whose halves are the same.
      .filter((key) =>
        key.subarray(0, key.length / 2).some((byte, at) => byte !== key[at + key.length / 2]),
      ),
    count: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constant(1024)),
    first: fc.oneof(fc.nat(1000), fc.integer({ min: 2 ** 32 - 10, max: 2 ** 44 })),
    seed: fc.nat(255),
  });

  it("encrypts and decrypts as the system's, for both key sizes and sectors up to 2^44", () => {
    fc.assert(
      fc.property(sectors, ({ key, count, first, seed }) => {
        const plain = pattern(count * SECTOR, seed);
        const bytes = plain.slice();
        const cipher = xtsCipher(key);
        cipher.encrypt(bytes, first);
        expectSame(bytes, systemXts(createCipheriv, key, plain, first));
        cipher.decrypt(bytes, first);
        expectSame(bytes, plain);
        cipher.decrypt(bytes, first);
        expectSame(bytes, systemXts(createDecipheriv, key, plain, first));
      }),
      { numRuns: 200 },
    );
  });

  it('keeps no state: a sector comes out the same in any order and company', () => {
    const cipher = xtsCipher(pattern(64));
    const together = pattern(4 * SECTOR);
    cipher.encrypt(together, 7);
    for (const sector of [3, 0, 2, 1]) {
      const alone = pattern(4 * SECTOR).slice(sector * SECTOR, (sector + 1) * SECTOR);
      cipher.encrypt(alone, 7 + sector);
      expectSame(alone, together.subarray(sector * SECTOR, (sector + 1) * SECTOR));
    }
  });
});

describe('the old AES of qcow2', () => {
  it('needs a passphrase', () => {
    expect(() => legacyCipher('a.qcow2', undefined)).toThrow(
      expect.objectContaining({ code: 'ERR_SLUICE_KEY', path: 'a.qcow2' }),
    );
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'the old AES of QEMU', () => {
  const folder = scratchFolder();

  it.each(['a', 'sixteen bytes 16', 'more than sixteen bytes'])(
    'is decrypted with the passphrase %j and the sectors of the guest',
    async (passphrase) => {
      const path = join(folder, `aes-${passphrase.length}.qcow2`);
      await createEncrypted(path, passphrase, ['encrypt.format=aes'], '8M');
      await ioEncrypted(path, passphrase, 'write -P 0x41 3M 64k', 'write -P 0x42 64k 64k');
      const image = readFileSync(path);
      for (const [guest, byte] of [
        [3 << 20, 0x41],
        [65536, 0x42],
      ] as const) {
        const host = hostOffset(image, guest);
        const bytes = new Uint8Array(image.subarray(host, host + 65536));
        legacyCipher(path, passphrase).decrypt(bytes, guest / SECTOR);
        expectSame(bytes, new Uint8Array(65536).fill(byte));
      }
    },
  );
});
