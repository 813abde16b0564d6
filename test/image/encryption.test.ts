import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { CACHE_MODES } from '../../src/cache-mode.ts';
import { openDisk } from '../../src/node.ts';
import { expectSame, pattern } from '../backend/driver.ts';
import { hasDirect } from '../backend/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import {
  createDisk,
  exercise,
  expectByQemu,
  expectDisk,
  KEY,
  LUKS,
  openEncrypted,
  readByQemu,
  runQemu,
  setBacking,
  writeByQemu,
} from './encrypted-disk.ts';
import { hostOffset } from './codec-images.ts';
import { expectRefusal, imageFolder } from './scratch.ts';

const MIB = 1024 * 1024;
const folder = imageFolder();
const at = (name: string): string => join(folder, name);
/** One digit for each image: its seed, and a new name. */
let images = 0;

/** What a test of all kinds needs of each. */
interface Kind {
  readonly name: string;
  readonly options: readonly string[];
  readonly sizeBytes?: number;
}

const SHA512 = ['encrypt.hash-alg=sha512'];
const KINDS: readonly Kind[] = [
  { name: 'as QEMU makes them', options: [] },
  { name: 'AES-128, SHA-1', options: ['encrypt.cipher-alg=aes-128', 'encrypt.hash-alg=sha1'] },
  { name: 'SHA-512, an odd size', options: [...SHA512, 'cluster_size=4k'], sizeBytes: MIB + 512 },
  { name: 'clusters of 512 bytes', options: ['cluster_size=512'], sizeBytes: 2 * MIB },
  { name: 'clusters of 2 MiB', options: ['cluster_size=2M'], sizeBytes: 16 * MIB },
  { name: 'extended L2 entries', options: ['extended_l2=on'] },
  { name: 'subclusters of 512', options: ['extended_l2=on', 'cluster_size=16k'] },
  { name: 'preallocated clusters', options: ['preallocation=falloc'], sizeBytes: 2 * MIB },
];

describeWithPeers(['qemu-img', 'qemu-io'], 'an encrypted image', () => {
  it.each(KINDS)('is read and written like any other, and by QEMU: $name', async (kind) => {
    const { options, sizeBytes = 4 * MIB } = kind;
    const seed = images++;
    const image = await createDisk(at(`kind-${seed}.qcow2`), [...LUKS, ...options], sizeBytes);
    // What is allocated and was never written is noise.
    image.expected.set(await readByQemu(image));
    for (let round = 0; round < 3; round++) {
      await writeByQemu(image, 4096 * (17 + round), 70_000 - (70_000 % 512), 17 + round);
      const disk = await openEncrypted(image.path);
      await expectDisk(disk, image.expected);
      await exercise(disk, image.expected, seed * 10 + round, 120);
      await expectDisk(disk, image.expected);
      await disk.close();
      await expectByQemu(image);
    }
  });

  it.for(['none', 'directsync', 'writethrough', 'unsafe'] as const)(
    'is written with cache mode %s, whatever shares a block with its tables',
    async (cache, context) => {
      const { direct } = CACHE_MODES[cache];
      if (direct && !hasDirect(folder)) context.skip('the temporary folder has no O_DIRECT');
      // Like those of two kinds above: to make others takes seconds.
      for (const [options, sizeBytes] of [
        [['cluster_size=512'], 2 * MIB],
        [[], 4 * MIB],
      ] as const) {
        const path = at(`${cache}-${sizeBytes}.qcow2`);
        const image = await createDisk(path, [...LUKS, ...options], sizeBytes);
        const disk = await openEncrypted(image.path, cache);
        await exercise(disk, image.expected, images++, 150);
        await expectDisk(disk, image.expected);
        await disk.close();
        await expectByQemu(image);
      }
    },
  );

  it('shows its backing file, and copies what is around a write from there', async () => {
    const base = pattern(3 * MIB - 1536);
    writeFileSync(at('base.raw'), base);
    for (const more of [[], ['extended_l2=on'], ['cluster_size=4k']]) {
      const path = at(`over-${images}.qcow2`);
      const image = await createDisk(path, [...LUKS, ...more], 4 * MIB, base);
      await setBacking(image, 'base.raw', 'raw');
      const disk = await openEncrypted(image.path);
      await expectDisk(disk, image.expected);
      await exercise(disk, image.expected, images++, 150);
      await disk.close();
      await expectByQemu(image);
    }
  });

  it('may have a backing file that the same key opens', async () => {
    const base = await createDisk(at('base.qcow2'), LUKS, 4 * MIB);
    await writeByQemu(base, 0, MIB, 9);
    const image = await createDisk(at('over-base.qcow2'), LUKS, 4 * MIB);
    await setBacking(image, 'base.qcow2', 'qcow2');
    const disk = await openEncrypted(image.path);
    await disk.write(512, pattern(512));
    base.expected.set(pattern(512), 512);
    await expectDisk(disk, base.expected);
    await disk.close();
  });

  it('keeps its snapshots as they are', async () => {
    const image = await createDisk(at('snapshots.qcow2'), LUKS, 4 * MIB);
    await writeByQemu(image, 0, MIB, 3);
    await runQemu(image, 'snapshot', '-c', 'before');
    const before = image.expected.slice();
    const disk = await openEncrypted(image.path);
    await exercise(disk, image.expected, images++, 150);
    await disk.close();
    await expectByQemu(image);
    await runQemu(image, 'snapshot', '-a', 'before');
    await expectByQemu({ path: image.path, expected: before });
  });

  it('may keep its data in an external file, encrypted there', async () => {
    const options = [...LUKS, `data_file=${at('data.raw')}`];
    const image = await createDisk(at('data.qcow2'), options, 2 * MIB);
    await writeByQemu(image, 65_536, 65_536, 5);
    const disk = await openEncrypted(image.path);
    await expectDisk(disk, image.expected);
    await exercise(disk, image.expected, images++, 150);
    await disk.close();
    await expectByQemu(image);
  });

  it('shows compressed clusters, which QEMU leaves in plain, and encrypts them anew', async () => {
    const image = await createDisk(at('compressed.qcow2'), LUKS, 4 * MIB);
    await writeByQemu(image, 0, 65_536, 6, '-c');
    await writeByQemu(image, 65_536, 65_536, 7, '-c');
    const disk = await openEncrypted(image.path);
    await expectDisk(disk, image.expected);
    await disk.write(1000, pattern(1000));
    image.expected.set(pattern(1000), 1000);
    await expectDisk(disk, image.expected);
    await disk.close();
    await expectByQemu(image);
  });

  it('holds nothing of what was written in plain', async () => {
    const image = await createDisk(at('secret.qcow2'), LUKS, 4 * MIB);
    const secret = Buffer.from('the quick brown fox jumps over the lazy dog, '.repeat(2000));
    const disk = await openEncrypted(image.path);
    await disk.write(0, secret);
    await disk.write(MIB + 100, secret);
    await disk.write(2 * MIB, secret, { fua: true });
    await disk.writeZeroes(2 * MIB + 1024, 4096);
    await disk.close();
    const bytes = readFileSync(image.path);
    expect(bytes.indexOf('quick brown fox')).toBe(-1);
    expect(bytes.length).toBeGreaterThan(3 * secret.length);
    // Where zeroes were written into data, noise stands.
    const zeroed = hostOffset(bytes, 2 * MIB) + 1024;
    expect(bytes.indexOf(Buffer.alloc(64), zeroed)).toBeGreaterThanOrEqual(zeroed + 4096);
  });

  it('answers a fast write of zeroes by what its tables can say', async () => {
    const image = await createDisk(at('fast.qcow2'), LUKS, 4 * MIB);
    const disk = await openEncrypted(image.path);
    await disk.write(0, pattern(131_072));
    await disk.writeZeroes(0, 65_536, { fast: true });
    const part = disk.writeZeroes(65_536, 4096, { fast: true });
    await expectRefusal(part, 'ERR_SLUICE_UNSUPPORTED', /./);
    expectSame(await disk.read(65_536, 65_536), pattern(131_072).slice(65_536));
    await disk.close();
  });

  it('is opened with its key alone, and is left as it is without', async () => {
    const { path } = await createDisk(at('locked.qcow2'), LUKS, 4 * MIB);
    const before = readFileSync(path);
    const open = (key?: string | Uint8Array): Promise<unknown> => {
      const encryption = key === undefined ? undefined : { key };
      return openDisk(path, { format: 'qcow2', writable: true, encryption });
    };
    await expectRefusal(open(), 'ERR_SLUICE_KEY', /no passphrase was given/);
    await expectRefusal(open('wrong'), 'ERR_SLUICE_KEY', /opens none of its 1 key slots/);
    await expectRefusal(open(Buffer.from(`${KEY}\n`)), 'ERR_SLUICE_KEY', /the line feed that/);
    await expectRefusal(open(7 as never), 'ERR_SLUICE_INVALID_ARGUMENT', /encryption.key must be/);
    expect(readFileSync(path).equals(before)).toBe(true);
    await using disk = await openDisk(path, {
      format: 'qcow2',
      encryption: { key: Buffer.from(KEY) },
    });
    expectSame(await disk.read(0, 512), new Uint8Array(512));
  });

  it('is what a key is for: no other disk is opened with one', async () => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', at('plain.qcow2'), '1M']);
    const encryption = { key: KEY };
    const plain = openDisk(at('plain.qcow2'), { format: 'qcow2', encryption });
    await expectRefusal(plain, 'ERR_SLUICE_INVALID_ARGUMENT', /it is not encrypted/);
    const raw = openDisk(at('plain.qcow2'), { format: 'raw', encryption });
    await expectRefusal(raw, 'ERR_SLUICE_INVALID_ARGUMENT', /is for qcow2 images/);
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'an image with the old AES encryption', () => {
  const AES = ['encrypt.format=aes'];

  it.each(['512', '4k', '64k'])('is read, with clusters of %s', async (cluster) => {
    const options = [...AES, `cluster_size=${cluster}`];
    const image = await createDisk(at(`aes-${cluster}.qcow2`), options, 2 * MIB);
    // The later place in the file comes first on the disk.
    await writeByQemu(image, MIB + 512, 100 * 512, 2);
    await writeByQemu(image, 0, 300 * 512, 1);
    const disk = await openEncrypted(image.path, 'writeback', false);
    await expectDisk(disk, image.expected);
    for (let from = 0; from < 2 * MIB; from += 99_991) {
      const length = Math.min(70_001, 2 * MIB - from);
      expectSame(await disk.read(from, length), image.expected.slice(from, from + length));
    }
    await disk.close();
  });

  it('may be the backing file of another image', async () => {
    const base = await createDisk(at('aes-base.qcow2'), AES, MIB);
    await writeByQemu(base, 66_048, 66_048, 7);
    const args = ['-b', 'aes-base.qcow2', '-F', 'qcow2', '-q', '-u', '-f', 'qcow2'];
    execFileSync('qemu-img', ['create', ...args, at('aes-over.qcow2'), '1M']);
    const disk = await openEncrypted(at('aes-over.qcow2'));
    await expectDisk(disk, base.expected);
    await disk.write(70_001, pattern(100));
    base.expected.set(pattern(100), 70_001);
    await expectDisk(disk, base.expected);
    await disk.close();
  });

  it('is not opened for writing, nor without a key, and reads as noise with another', async () => {
    const image = await createDisk(at('aes-refused.qcow2'), AES, MIB);
    await writeByQemu(image, 0, 65_536, 1);
    const writing = openEncrypted(image.path);
    await expectRefusal(writing, 'ERR_SLUICE_UNSUPPORTED', /for reading only.*convert/);
    const without = openDisk(image.path, { format: 'qcow2' });
    await expectRefusal(without, 'ERR_SLUICE_KEY', /no passphrase/);
    await using disk = await openDisk(image.path, { format: 'qcow2', encryption: { key: 'x' } });
    const found = await disk.read(0, 4096);
    expect(found.some((byte) => byte !== 1)).toBe(true);
  });
});
