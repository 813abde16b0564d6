/**
 * Any options of convert together: they are refused as arguments, before anything is made, or QEMU
 * reads the same disk in what is made and finds it in order.
 */
import { spawnSync } from 'node:child_process';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import type { image } from '../../src/node.ts';
import { Random } from '../engine/random.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { KINDS, makeImages } from './images.ts';
import { KEY, SECRET } from './made.ts';

const MIB = 2 ** 20;
const SECONDS = Number(process.env['SLUICE_FUZZ_SECONDS'] ?? 0);
const FIRST_SEED = Number(process.env['SLUICE_FUZZ_SEED'] ?? (SECONDS > 0 ? Date.now() : 1));
const ROUNDS = 120;

/** The built package: its threads are files. */
const BUILT = new URL('../../dist/node.js', import.meta.url).href;
const { image: built } = (await import(BUILT)) as { image: typeof image };

type Options = image.ConvertOptions;
type NewImage = NonNullable<Options['image']>;

describeWithPeers(['qemu-img', 'qemu-io'], 'convert with any options', () => {
  const folder = imageFolder();
  let paths = new Map<string, string>();
  const target = join(folder, 'target');
  const data = join(folder, 'target.data');
  beforeAll(() => {
    paths = makeImages(folder);
  });

  function imageOf(random: Random): NewImage {
    const version = random.chance(0.2) ? 2 : 3;
    const clusterBits = random.pick([9, 10, 12, 14, 16, 16, 16, 18, 21]);
    return {
      version,
      clusterBits,
      ...(random.chance(0.3) ? { refcountOrder: random.below(7) } : {}),
      ...(random.chance(0.3) ? { extendedL2: true } : {}),
      ...(random.chance(0.2) ? { lazyRefcounts: true } : {}),
      ...(random.chance(0.3) ? { compression: 'zstd' as const } : {}),
      ...(random.chance(0.2) ? { dataFile: { name: data, raw: random.chance(0.5) } } : {}),
      ...(random.chance(0.25)
        ? {
            encryption: {
              key: Buffer.from(KEY),
              iterTimeMs: 1,
              cipher: random.pick(['aes-128', 'aes-256'] as const),
            },
          }
        : {}),
    };
  }

  function optionsOf(random: Random): Options {
    const isQcow2 = random.chance(0.85);
    return {
      targetFormat: isQcow2 ? 'qcow2' : 'raw',
      ...(isQcow2 ? { image: imageOf(random) } : {}),
      ...(random.chance(0.35)
        ? { preallocation: random.pick(['metadata', 'falloc', 'full'] as const) }
        : {}),
      ...(random.chance(0.3) ? { compress: true } : {}),
      ...(random.chance(0.4) ? { sparseBytes: random.pick([0, 512, 65_536, 2 * MIB]) } : {}),
      ...(random.chance(0.3) ? { parallel: 1 + random.below(16) } : {}),
      ...(random.chance(0.2) ? { cache: 'none' as const } : {}),
      ...(random.chance(0.2) ? { targetCache: 'writeback' as const } : {}),
    };
  }

  function expectSame(from: string, { targetFormat, image: made }: Options): void {
    const locked = made?.encryption === undefined ? [] : [`encrypt.key-secret=s`];
    const node = (path: string, format: string, more: readonly string[] = []): string =>
      [`driver=${format}`, `file.filename=${path}`, ...more].join(',');
    const options = ['--image-opts', node(target, targetFormat!, locked)];
    const compare = spawnSync('qemu-img', ['compare', ...SECRET, ...options, node(from, 'qcow2')], {
      encoding: 'utf8',
      cwd: folder,
    });
    expect(compare.stdout + compare.stderr).toBe('Images are identical.\n');
    if (targetFormat === 'qcow2') qemu(folder, 'qemu-img', ['check', '-q', ...SECRET, ...options]);
  }

  /** False: they cannot be had together. */
  async function round(seed: number): Promise<boolean> {
    const random = new Random(seed);
    const from = paths.get(random.pick(KINDS).name)!;
    const options = optionsOf(random);
    writeFileSync(target, 'old');
    rmSync(data, { force: true });
    const context = `seed ${seed}: ${JSON.stringify({ from, ...options })}`;
    try {
      await built.convert(from, target, { backing: { folders: [folder] }, ...options });
    } catch (error) {
      expect(error, context).toMatchObject({ code: 'ERR_SLUICE_INVALID_ARGUMENT' });
      expect(existsSync(data), context).toBe(false);
      expect(execFileSync('cat', [target]).toString(), context).toBe('old');
      return false;
    }
    try {
      expectSame(from, options);
    } catch (cause) {
      throw new Error(context, { cause });
    }
    return true;
  }

  it(
    'makes the same disk, or refuses them',
    async () => {
      const end = Date.now() + SECONDS * 1000;
      let made = 0;
      let refused = 0;
      for (let seed = FIRST_SEED; made + refused < ROUNDS || Date.now() < end; seed++) {
        if (await round(seed)) made += 1;
        else refused += 1;
      }
      expect(made).toBeGreaterThan(refused / 3);
      expect(refused).toBeGreaterThan(0);
      expect(readdirSync(folder).filter((name) => name.startsWith('.sluice'))).toEqual([]);
    },
    (SECONDS + 300) * 1000,
  );

  it('refuses what cannot be had together by its name', async () => {
    const code = 'ERR_SLUICE_INVALID_ARGUMENT';
    const from = paths.get('default')!;
    const qcow2 = { targetFormat: 'qcow2' } as const;
    const rows: readonly (readonly [Options, RegExp])[] = [
      [{ ...qcow2, compress: true, preallocation: 'full' }, /both compressed and preallocated/],
      [{ ...qcow2, compress: true, image: { dataFile: { name: 'd', raw: false } } }, /data file/],
      [{ preallocation: 'metadata' }, /preallocation must be 'off' or 'falloc' or 'full'/],
      [{ image: { clusterBits: 12 } }, /clusterBits is for qcow2 images/],
      [{ compress: true }, /a raw image cannot be compressed/],
      [{ bitmaps: 'all' }, /a raw image has no bitmaps/],
      [{ ...qcow2, bitmaps: 'all', maxLength: 512 }, /all of it/],
      [{ rateBytes: 0 }, /rateBytes/],
      [{ ...qcow2, image: { backing: { name: target, format: 'raw' } } }, /both/],
      [{ ...qcow2, image: { dataFile: { name: target, raw: true } } }, /both/],
    ];
    for (const [options, message] of rows) {
      await expectRefusal(built.convert(from, target, options), code, message);
    }
  });
});
