/**
 * Other sizes for the disks of qcow2 images that are in use, against QEMU: the disk keeps what it
 * holds, what is new reads as zeroes, and the image is sound afterwards.
 */
import { copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { expect, it } from 'vitest';

import type { CacheModeName } from '../../src/cache-mode.ts';
import { hasDirect, NO_DIRECT } from '../backend/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { qemu } from './bad-inputs/bases.ts';
import { createDisk, LUKS } from './encrypted-disk.ts';
import { img, ResizedImage } from './resized-image.ts';
import { imageFolder } from './scratch.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;
const TIB = 1024 * GIB;

/** Sizes in bytes: at first; with the L1 table in its clusters; with a longer one; in between. */
type Sizes = readonly [first: number, within: number, several: number, smaller: number];

const SMALL: Sizes = [MIB + 512, 1.5 * MIB + 1024, 9 * MIB + 512, 300 * KIB + 512];

/** How an image is made and opened. */
interface Kind {
  readonly name: string;
  readonly options: string;
  readonly sizes: Sizes;
  readonly cache?: CacheModeName;
  readonly luks?: true;
}

const KINDS: readonly Kind[] = [
  { name: 'clusters of 512 bytes', options: 'cluster_size=512', sizes: SMALL },
  {
    name: 'clusters of 4 KiB',
    options: 'cluster_size=4k',
    sizes: [MIB + 512, 5 * MIB, 2.5 * GIB + 1536, 300 * KIB + 512],
  },
  {
    name: 'clusters of 64 KiB',
    options: 'cluster_size=64k',
    sizes: [3 * MIB + 512, GIB - 512, 9 * TIB + 512, 700 * KIB + 512],
  },
  {
    name: 'clusters of 2 MiB',
    options: 'cluster_size=2M',
    sizes: [5 * MIB + 512, 8 * MIB, 3 * TIB + 512, 3 * MIB + 512],
  },
  {
    name: 'refcounts of 64 bits',
    options: 'cluster_size=512,refcount_bits=64',
    sizes: [MIB + 512, 1.5 * MIB + 1024, 160 * MIB, 300 * KIB + 512],
  },
  { name: 'refcounts of 1 bit', options: 'cluster_size=512,refcount_bits=1', sizes: SMALL },
  {
    name: 'extended L2 entries',
    options: 'cluster_size=16k,extended_l2=on',
    sizes: [MIB + 512, 15 * MIB, 40 * GIB, 300 * KIB + 512],
  },
  { name: 'version 2', options: 'compat=0.10,cluster_size=512', sizes: SMALL },
  { name: 'a data file', options: 'cluster_size=4k,data_file=DATA', sizes: SMALL },
  {
    name: 'a raw data file',
    options: 'cluster_size=4k,data_file=DATA,data_file_raw=on',
    sizes: [MIB + 512, 5 * MIB, 2.5 * GIB + 1536, 300 * KIB + 512],
  },
  { name: 'encryption', options: 'cluster_size=512', sizes: SMALL, luks: true },
  {
    name: 'O_DIRECT',
    options: 'cluster_size=512',
    sizes: [MIB + 4 * KIB, 1.5 * MIB + 8 * KIB, 9 * MIB + 4 * KIB, 300 * KIB],
    cache: 'none',
  },
  {
    name: 'O_DIRECT and a data file',
    options: 'cluster_size=4k,data_file=DATA',
    sizes: [MIB + 4 * KIB, 1.5 * MIB + 8 * KIB, 9 * MIB + 4 * KIB, 300 * KIB],
    cache: 'none',
  },
  { name: 'stable writes', options: 'cluster_size=512', sizes: SMALL, cache: 'writethrough' },
];

describeWithPeers(['qemu-img', 'qemu-io'], 'the disk of a qcow2 image', () => {
  const folder = imageFolder();
  const at = (name: string): string => join(folder, name);
  let serial = 0;

  async function make({ options, luks }: Kind, sizeBytes: number): Promise<ResizedImage> {
    const name = `kind-${serial++}.qcow2`;
    if (luks === true) {
      const { path } = await createDisk(at(name), [...LUKS, options], sizeBytes);
      return ResizedImage.over(path, sizeBytes);
    }
    const named = options.replace('DATA', `${name}.data`);
    return ResizedImage.create(folder, name, { options: named, sizeBytes });
  }

  it.for(KINDS)('has another size, with $name', async (kind, context) => {
    const { sizes, cache = 'writeback' } = kind;
    if (cache === 'none' && !hasDirect(folder)) context.skip(NO_DIRECT);
    const [first, within, several, smaller] = sizes;
    using image = await make(kind, first);
    const options = { cache, maxSizeBytes: several };
    let disk = await image.open(options);
    await image.write(disk, 0, 5000);
    await image.write(disk, first / 2, 70_000);
    await image.write(disk, first - 1536, 1536);
    for (const size of [within, several, smaller, several, within, first, within]) {
      await image.resize(disk, size);
      await image.expectRead(disk);
      await image.write(disk, size - 4608, 4608);
      await image.write(disk, (size * 2) / 3, 9001);
      await image.expectRead(disk);
    }
    await disk.close();
    image.expectByQemu();
    // And each in a session of its own.
    for (const size of [several, smaller, several]) {
      disk = await image.open(options);
      await image.resize(disk, size);
      await disk.close();
      disk = await image.open(options);
      await image.expectRead(disk);
      await image.write(disk, size - 2048, 2048);
      await disk.close();
      image.expectByQemu();
    }
  });

  it.for(KINDS)('grows from nothing, with $name', async (kind, context) => {
    const { sizes, cache = 'writeback' } = kind;
    if (cache === 'none' && !hasDirect(folder)) context.skip(NO_DIRECT);
    const [, within, several] = sizes;
    using image = await make(kind, 0);
    const disk = await image.open({ cache, maxSizeBytes: several });
    for (const size of [within, 0, several]) {
      await image.resize(disk, size);
      await image.write(disk, size - 4096, 4096);
      await image.expectRead(disk);
    }
    await disk.close();
    image.expectByQemu();
  });

  it.for([
    ['raw', 4 * MIB, 'cluster_size=64k'],
    ['raw', 4 * MIB + 100, 'cluster_size=64k'],
    ['raw', 4 * MIB, 'compat=0.10,cluster_size=4k'],
    ['raw', 4 * MIB, 'cluster_size=16k,extended_l2=on'],
    ['qcow2', 4 * MIB, 'cluster_size=512'],
    ['qcow2', 4 * MIB, 'data_file=DATA,cluster_size=4k'],
  ] as const)(
    'does not show a longer backing file: %s, %i bytes, %s',
    async ([format, backingBytes, options]) => {
      const [base, name] = [`base-${serial}`, `over-${serial++}.qcow2`];
      const bytes = new Uint8Array(backingBytes).fill(0xb5);
      writeFileSync(at(`${base}.raw`), bytes);
      if (format === 'qcow2') {
        img(folder, 'convert', '-f', 'raw', '-O', 'qcow2', `${base}.raw`, `${base}.qcow2`);
      }
      using image = ResizedImage.create(folder, name, {
        options: options.replace('DATA', `${name}.data`),
        sizeBytes: MIB + 512,
        backing: [`${base}.${format}`, format],
      });
      image.begins(bytes);
      const disk = await image.open({ maxSizeBytes: 16 * MIB });
      await image.write(disk, 5000, 3000);
      for (const size of [MIB + 1024, 3 * MIB, 6 * MIB + 512, 70 * KIB + 512, 5 * MIB]) {
        await image.resize(disk, size);
        await image.expectRead(disk);
      }
      await image.write(disk, 3.5 * MIB + 100, 700);
      await image.expectRead(disk);
      await disk.close();
      image.expectByQemu();
    },
  );

  it('leaves its snapshots as they are', async () => {
    const options = 'cluster_size=512,compat=1.1';
    using image = ResizedImage.create(folder, 'snap.qcow2', { options, sizeBytes: MIB + 512 });
    using then = ResizedImage.create(folder, 'then.qcow2', { options, sizeBytes: MIB + 512 });
    for (const one of [image, then]) {
      const disk = await one.open();
      await one.write(disk, 0, 300_000);
      await one.write(disk, MIB - 1024, 1536);
      await disk.close();
    }
    img(folder, 'snapshot', '-c', 's1', 'snap.qcow2');
    const disk = await image.open({ maxSizeBytes: 64 * MIB });
    await image.write(disk, 100_000, 100_000);
    for (const size of [40 * MIB, 200 * KIB, 1.25 * MIB]) {
      await image.resize(disk, size);
      await image.write(disk, size - 9000, 9000);
      await image.expectRead(disk);
    }
    await disk.close();
    image.expectByQemu();
    copyFileSync(image.path, at('back.qcow2'));
    img(folder, 'snapshot', '-a', 's1', 'back.qcow2');
    then.expectByQemu(at('back.qcow2'));
    img(folder, 'snapshot', '-d', 's1', 'snap.qcow2');
    image.expectByQemu();
  });

  it('is, with a raw data file, what that file reads, also where that was longer', async () => {
    const options = 'data_file=long.data,data_file_raw=on';
    using image = ResizedImage.create(folder, 'long.qcow2', { options, sizeBytes: MIB });
    const bytes = Buffer.alloc(3 * MIB, 0);
    // Somebody has left something behind the end of the disk.
    bytes.fill(7, 2 * MIB);
    writeFileSync(at('long.data'), bytes);
    const disk = await image.open({ maxSizeBytes: 16 * MIB });
    await image.resize(disk, 4 * MIB);
    await image.write(disk, 3.5 * MIB, 1000);
    await disk.close();
    image.expectByQemu();
    const raw = img(folder, 'compare', '-f', 'qcow2', '-F', 'raw', 'long.qcow2', 'long.data');
    expect(raw).toBe('Images are identical.\n');
    const again = await image.open();
    await image.resize(again, MIB);
    await again.close();
    expect(statSync(at('long.data')).size).toBe(MIB);
  });

  it('gives back what its old L1 table and its given up part took', async () => {
    using image = ResizedImage.create(folder, 'room.qcow2', {
      options: 'cluster_size=512',
      sizeBytes: MIB,
    });
    const disk = await image.open({ maxSizeBytes: 8 * MIB });
    for (let round = 0; round < 4; round++) {
      await image.resize(disk, 8 * MIB);
      await image.write(disk, 2 * MIB, 4 * MIB);
      await image.resize(disk, MIB);
    }
    await disk.close();
    image.expectByQemu();
    const check = JSON.parse(img(folder, 'check', '--output=json', 'room.qcow2')) as {
      readonly 'image-end-offset': number;
    };
    expect(check['image-end-offset']).toBeLessThan(6 * MIB);
  });

  it('is written on by QEMU after it has grown and shrunk', async () => {
    using image = ResizedImage.create(folder, 'qemu.qcow2', {
      options: 'cluster_size=512,refcount_bits=64',
      sizeBytes: MIB,
    });
    const disk = await image.open({ maxSizeBytes: 300 * MIB });
    await image.resize(disk, 300 * MIB);
    await image.write(disk, 299 * MIB, 100_000);
    await disk.close();
    const name = basename(image.path);
    qemu(folder, 'qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 9 150M 1M', name]);
    img(folder, 'resize', '-q', name, '400M');
    const again = await image.open();
    expect(again.size).toBe(400 * MIB);
    const found = await again.read(150 * MIB, MIB);
    expect(found.every((byte) => byte === 9)).toBe(true);
    await again.close();
    expect(img(folder, 'check', name)).toContain('No errors were found');
    expect(readFileSync(image.path).length).toBeGreaterThan(MIB);
  });
});
