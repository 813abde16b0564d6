import { createHash, pbkdf2Sync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { openFileBackend } from '../../src/backend/file.ts';
import { SluiceError } from '../../src/errors.ts';
import { MemoryFile } from '../../src/image/image-file.ts';
import { xtsCipher } from '../../src/image/qcow2/aes-xts.ts';
import { CryptView } from '../../src/image/qcow2/crypt-view.ts';
import { readHeader } from '../../src/image/qcow2/header.ts';
import { type LuksImage, unlockLuks } from '../../src/image/qcow2/luks.ts';
import { Driver, expectSame, pattern } from '../backend/driver.ts';
import { scratchFolder } from '../backend/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { createEncrypted, hostOffset, ioEncrypted } from './codec-images.ts';

const AREA_OFFSET = 4096;
const MATERIAL_OFFSET = 4096;
const AREA_BYTES = 2 * 4096 + 64 * 4000;
const PASSPHRASE = 'open';
const SLOTS = 208;
const SLOT_BYTES = 48;

interface Made {
  readonly hash: string;
  readonly key: Uint8Array;
  readonly stripes: number;
  /** Which of the eight slots opens. */
  readonly slot: number;
}

/** An image that has only a LUKS area, whose keys take one round. */
function makeImage(made: Partial<Made> = {}): Buffer {
  const { hash = 'sha256', key = pattern(64), stripes = 3, slot = 0 } = made;
  const image = Buffer.alloc(AREA_OFFSET + AREA_BYTES);
  const area = image.subarray(AREA_OFFSET);
  area.write('LUKS\xba\xbe\0\x01', 0, 'latin1');
  area.write('aes', 8);
  area.write('xts-plain64', 40);
  area.write(hash, 72);
  area.writeUInt32BE(key.length, 108);
  const salt = pattern(32, 5);
  area.set(pbkdf2Sync(key, salt, 1, 20, hash), 112);
  area.set(salt, 132);
  area.writeUInt32BE(1, 164);
  for (let index = 0; index < 8; index++) {
    const at = SLOTS + index * SLOT_BYTES;
    area.writeUInt32BE(index === slot ? 0x00ac71f3 : 0xdead, at);
    area.writeUInt32BE(1, at + 4);
    area.set(salt, at + 8);
    area.writeUInt32BE(MATERIAL_OFFSET / 512, at + 40);
    area.writeUInt32BE(stripes, at + 44);
  }
  const material = splitKey(key, stripes, hash);
  xtsCipher(pbkdf2Sync(PASSPHRASE, salt, 1, key.length, hash)).encrypt(material, 0);
  area.set(material, MATERIAL_OFFSET);
  return image;
}

/** Stripes of noise, and a last one that makes the key of them; whole sectors. */
function splitKey(key: Uint8Array, stripes: number, hash: string): Uint8Array {
  const size = key.length;
  const out = new Uint8Array(Math.ceil((size * stripes) / 512) * 512);
  out.set(pattern(size * (stripes - 1), 77));
  let mixed = new Uint8Array(size);
  for (let stripe = 0; stripe + 1 < stripes; stripe++) {
    const xored = mixed.map((byte, at) => byte ^ (out[stripe * size + at] ?? 0));
    mixed = Uint8Array.from(diffused(xored, hash));
  }
  out.set(
    key.map((byte, at) => byte ^ (mixed[at] ?? 0)),
    size * (stripes - 1),
  );
  return out;
}

function diffused(bytes: Uint8Array, hash: string): Buffer {
  const size = createHash(hash).digest().length;
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += size) {
    const part = bytes.subarray(at, at + size);
    const digest = createHash(hash)
      .update(Buffer.from([0, 0, 0, parts.length]))
      .update(part);
    parts.push(digest.digest().subarray(0, part.length));
  }
  return Buffer.concat(parts);
}

function imageOf(bytes: Uint8Array, length = AREA_BYTES): LuksImage {
  const file = new MemoryFile(bytes);
  return { file, path: 'a.qcow2', area: { offset: AREA_OFFSET, length } };
}

/** The code of the error that unlocking rejects with. */
async function codeOf(image: LuksImage, passphrase: string | undefined): Promise<string> {
  try {
    await unlockLuks(image, passphrase);
  } catch (error) {
    if (error instanceof SluiceError) return error.code;
    throw error;
  }
  return 'unlocked';
}

describe('unlocking LUKS', () => {
  it.each(
    ['sha1', 'sha256', 'sha512'].flatMap((hash) =>
      [32, 64].flatMap((keyBytes) =>
        [1, 2, 4000].map((stripes) => [hash, keyBytes, stripes] as const),
      ),
    ),
  )('finds the key with %s, %i bytes of key and %i stripes', async (hash, keyBytes, stripes) => {
    const key = pattern(keyBytes, 3);
    const image = imageOf(makeImage({ hash, key, stripes, slot: stripes % 8 }));
    const cipher = await unlockLuks(image, PASSPHRASE);
    const [found, expected] = [pattern(1024), pattern(1024)];
    cipher.encrypt(found, 99);
    xtsCipher(key).encrypt(expected, 99);
    expectSame(found, expected);
  });

  it('takes the passphrase as bytes as well', async () => {
    await expect(unlockLuks(imageOf(makeImage()), Buffer.from(PASSPHRASE))).resolves.toBeDefined();
  });

  it('rejects with ERR_SLUICE_KEY when the passphrase is wrong or missing', async () => {
    const image = imageOf(makeImage());
    for (const passphrase of ['', 'Open', 'open ', undefined]) {
      expect(await codeOf(image, passphrase)).toBe('ERR_SLUICE_KEY');
    }
    expect(await codeOf(image, PASSPHRASE)).toBe('unlocked');
    expect(await codeOf(imageOf(makeImage({ slot: 9 })), PASSPHRASE)).toBe('ERR_SLUICE_KEY');
  });

  const edits: readonly (readonly [string, string, (area: Buffer) => unknown])[] = [
    ['another magic', 'ERR_SLUICE_IMAGE', (area) => area.write('LUKZ')],
    ['version 2', 'ERR_SLUICE_UNSUPPORTED', (area) => area.writeUInt16BE(2, 6)],
    ['twofish', 'ERR_SLUICE_UNSUPPORTED', (area) => area.write('twofish', 8)],
    ['cbc', 'ERR_SLUICE_UNSUPPORTED', (area) => area.write('cbc-plain64\0', 40)],
    ['xts-essiv', 'ERR_SLUICE_UNSUPPORTED', (area) => area.write('xts-essiv:sha256\0', 40)],
    ['a mode without NUL', 'ERR_SLUICE_UNSUPPORTED', (area) => area.fill(0x78, 40, 72)],
    ['ripemd160', 'ERR_SLUICE_UNSUPPORTED', (area) => area.write('ripemd160\0', 72)],
    [
      'a hash that JavaScript knows',
      'ERR_SLUICE_UNSUPPORTED',
      (area) => area.write('__proto__\0', 72),
    ],
    ['a key of 0 bytes', 'ERR_SLUICE_IMAGE', (area) => area.writeUInt32BE(0, 108)],
    ['a key of 48 bytes', 'ERR_SLUICE_IMAGE', (area) => area.writeUInt32BE(48, 108)],
    ['a key of 4 GiB', 'ERR_SLUICE_IMAGE', (area) => area.writeUInt32BE(0xffffffff, 108)],
    ['no rounds for the digest', 'ERR_SLUICE_IMAGE', (area) => area.writeUInt32BE(0, 164)],
    ['no rounds for a slot', 'ERR_SLUICE_IMAGE', (area) => area.writeUInt32BE(0, SLOTS + 4)],
    ['2^32 rounds', 'ERR_SLUICE_UNSUPPORTED', (area) => area.writeUInt32BE(0xffffffff, SLOTS + 4)],
    ['2^27 rounds', 'ERR_SLUICE_UNSUPPORTED', (area) => area.writeUInt32BE(2 ** 27, SLOTS + 4)],
    ['2^27 in the digest', 'ERR_SLUICE_UNSUPPORTED', (area) => area.writeUInt32BE(2 ** 27, 164)],
    ['a slot of no state', 'ERR_SLUICE_IMAGE', (area) => area.writeUInt32BE(0, SLOTS + SLOT_BYTES)],
    ['no stripes', 'ERR_SLUICE_IMAGE', (area) => area.writeUInt32BE(0, SLOTS + 44)],
    ['4001 stripes', 'ERR_SLUICE_IMAGE', (area) => area.writeUInt32BE(4001, SLOTS + 44)],
    ['2^32 stripes', 'ERR_SLUICE_IMAGE', (area) => area.writeUInt32BE(0xffffffff, SLOTS + 44)],
    ['a slot in the header', 'ERR_SLUICE_IMAGE', (area) => area.writeUInt32BE(1, SLOTS + 40)],
    ['a slot past the end', 'ERR_SLUICE_IMAGE', (area) => area.writeUInt32BE(2 ** 31, SLOTS + 40)],
    [
      'a slot whose last sector is outside',
      'ERR_SLUICE_IMAGE',
      (area) => area.writeUInt32BE(AREA_BYTES / 512, SLOTS + 40),
    ],
  ];

  it.each(edits)('refuses %s (%s)', async (_, code, edit) => {
    const bytes = makeImage();
    edit(bytes.subarray(AREA_OFFSET));
    const started = performance.now();
    expect(await codeOf(imageOf(bytes), PASSPHRASE)).toBe(code);
    expect(performance.now() - started).toBeLessThan(1000);
  });

  it('refuses areas that are too small, or not in the file', async () => {
    const bytes = makeImage();
    for (const length of [0, 591, 592, MATERIAL_OFFSET]) {
      expect(await codeOf(imageOf(bytes, length), PASSPHRASE)).toBe('ERR_SLUICE_IMAGE');
    }
    for (const end of [AREA_OFFSET, AREA_OFFSET + 591, AREA_OFFSET + MATERIAL_OFFSET + 511]) {
      const image = imageOf(bytes.subarray(0, end));
      expect(await codeOf(image, PASSPHRASE)).toBe('ERR_SLUICE_IMAGE');
    }
  });

  it('says what it asks for, what it takes and where', async () => {
    const bytes = makeImage();
    bytes.write('serpent', AREA_OFFSET + 8);
    await expect(unlockLuks(imageOf(bytes), PASSPHRASE)).rejects.toThrow(
      '"a.qcow2": the LUKS header, at offset 4104: it asks for the cipher "serpent-xts-plain64"',
    );
  });

  it('of mutated headers ends in a key or in an error that says why', async () => {
    const codes = new Set<string>();
    const rounds = [
      164,
      ...Array.from({ length: 8 }, (_, index) => SLOTS + index * SLOT_BYTES + 4),
    ];
    const isRounds = (at: number): boolean => rounds.some((from) => at >= from && at < from + 2);
    const change = fc
      .tuple(fc.nat(591), fc.nat(255))
      // The upper half of a number of rounds only makes it slow.
      .filter(([at]) => !isRounds(at));
    const changes = fc.array(change, { minLength: 1, maxLength: 5 });
    const property = fc.asyncProperty(changes, async (list) => {
      const bytes = makeImage();
      for (const [at, value] of list) bytes[AREA_OFFSET + at] = value;
      codes.add(await codeOf(imageOf(bytes), PASSPHRASE));
    });
    await fc.assert(property, { numRuns: 500 });
    const possible = ['ERR_SLUICE_IMAGE', 'ERR_SLUICE_KEY', 'ERR_SLUICE_UNSUPPORTED', 'unlocked'];
    expect([...codes].filter((code) => !possible.includes(code))).toEqual([]);
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'LUKS images of QEMU', () => {
  const folder = scratchFolder();
  const kinds = [
    ['aes-128', 'sha1'],
    ['aes-256', 'sha256'],
    ['aes-256', 'sha512'],
  ] as const;

  it.each(kinds)('%s, %s: each reads what the other wrote', async (cipher, hash) => {
    const path = join(folder, `${cipher}-${hash}.qcow2`);
    const options = [
      'encrypt.format=luks',
      'encrypt.iter-time=10',
      `encrypt.cipher-alg=${cipher}`,
      'encrypt.cipher-mode=xts',
      'encrypt.ivgen-alg=plain64',
      `encrypt.hash-alg=${hash}`,
    ];
    await createEncrypted(path, 'abc', options, '8M');
    await ioEncrypted(path, 'abc', 'write -P 0x41 3M 64k', 'write -P 0x42 64k 64k');

    const file = new MemoryFile(readFileSync(path));
    const { encryption } = await readHeader(file, path);
    if (encryption === undefined) throw new Error('the image names no LUKS area');
    const image = { file, path, area: encryption };
    expect(await codeOf(image, 'abd')).toBe('ERR_SLUICE_KEY');
    const inner = await openFileBackend(path, { writable: true });
    const view = new CryptView(inner, await unlockLuks(image, 'abc'));
    const driver = new Driver(view);
    for (const [guest, byte] of [
      [3 << 20, 0x41],
      [65536, 0x42],
    ] as const) {
      const host = hostOffset(readFileSync(path), guest);
      expectSame(await driver.read(host, 65536), new Uint8Array(65536).fill(byte));
      expect(await driver.write(host + 4096, new Uint8Array(8192).fill(byte + 0x10))).toBe(0);
    }
    expect(await driver.sync()).toBe(0);
    await view.close();
    await ioEncrypted(
      path,
      'abc',
      'read -P 0x41 3M 4k',
      'read -P 0x51 3076k 8k',
      'read -P 0x41 3084k 52k',
      'read -P 0x52 68k 8k',
    );
  });
});
