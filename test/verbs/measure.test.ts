/** What measure tells is what qemu-img tells, and what images take that are made. */
import { execFileSync, spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';

import { madeOptionsOf } from '../../src/cli/verbs/create-options.ts';
import { image, type ImageFormat } from '../../src/node.ts';
import { sluice } from '../cli/sluice.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { KINDS, makeImages } from './images.ts';
import { KEY, LUKS, make, SECRET, TRIES } from './made.ts';

const MIB = 2 ** 20;
const TIB = 2 ** 40;

const SIZES: readonly number[] = [
  0,
  1,
  512,
  513,
  65536,
  MIB,
  10 * MIB + 1,
  512 * MIB,
  512 * MIB + 512,
  2 ** 30 + 7,
  100 * 2 ** 30,
  TIB,
  16 * TIB,
];
const OPTIONS: readonly string[] = [
  '',
  'compat=0.10',
  ...['512', '4k', '16k', '64k', '2M'].map((bytes) => `cluster_size=${bytes}`),
  ...[1, 2, 4, 8, 32, 64].map((bits) => `refcount_bits=${bits}`),
  ...[1, 64].flatMap((bits) => ['4k', '2M'].map((c) => `refcount_bits=${bits},cluster_size=${c}`)),
  ...['16k', '64k', '2M'].map((bytes) => `extended_l2=on,cluster_size=${bytes}`),
  ...['metadata', 'falloc', 'full'].map((mode) => `preallocation=${mode}`),
  'preallocation=full,cluster_size=4k,refcount_bits=64',
  'data_file=x.raw',
];

function theirs(args: readonly string[], cwd = '.'): unknown {
  const all = ['measure', '--output=json', ...SECRET, ...args];
  for (let tries = 1; ; tries++) {
    const { status, stdout, stderr } = spawnSync('qemu-img', all, { cwd, encoding: 'utf8' });
    if (status === 0) return JSON.parse(stdout);
    // It gives up where other programs take its time while it measures.
    if (stderr.includes('CPU usage') && tries < TRIES) continue;
    return stderr.includes('too large') ? 'too large' : stderr;
  }
}

async function ours(
  source: Parameters<typeof image.measure>[0],
  options: string,
  more: image.MeasureOptions = {},
  targetFormat: ImageFormat = 'qcow2',
): Promise<unknown> {
  const secrets = new Map([['s', new TextEncoder().encode(KEY)]]);
  const keys = { secrets, key: undefined, isNeeded: false };
  const given = { options: options === '' ? [] : [options] };
  const { preallocation, image: made } = madeOptionsOf(targetFormat, given, keys);
  const target = { targetFormat, preallocation, image: made };
  return image.measure(source, { ...target, ...more }).catch((error: Error) => {
    if (error.message.includes('larger clusters')) return 'too large';
    throw error;
  });
}

describeWithPeers(['qemu-img', 'qemu-io'], 'measure', () => {
  const folder = imageFolder();
  let paths = new Map<string, string>();
  beforeAll(() => {
    paths = makeImages(folder);
  });
  const pathOf = (name: string): string => paths.get(name)!;
  const withOptions = (options: string): string[] => (options === '' ? [] : ['-o', options]);

  it.each(OPTIONS)('of an empty disk is that of qemu-img: -o "%s"', async (options) => {
    for (const sizeBytes of SIZES) {
      const args = ['-O', 'qcow2', ...withOptions(options), '--size', String(sizeBytes)];
      expect([sizeBytes, await ours({ sizeBytes }, options)]).toEqual([sizeBytes, theirs(args)]);
    }
  });

  it('of a raw disk is its size', async () => {
    for (const sizeBytes of SIZES) {
      const args = ['-O', 'raw', '--size', String(sizeBytes)];
      expect(await ours({ sizeBytes }, '', {}, 'raw')).toEqual(theirs(args));
    }
  });

  it('of an encrypted disk is that of qemu-img, or counts its LUKS header too', async () => {
    // qemu-img takes seconds to derive a key, for each of them.
    for (const [more, ...sizes] of [
      ['', 0, 2 ** 30],
      [',encrypt.cipher-alg=aes-128', 2 ** 30],
      [',cluster_size=512', 0],
      [',cluster_size=2M', 2 ** 30],
    ] as const) {
      for (const sizeBytes of sizes) {
        const options = LUKS + more;
        const args = ['-O', 'qcow2', '-o', options, '--size', String(sizeBytes)];
        const [mine, other] = [await ours({ sizeBytes }, options), theirs(args)] as Measured[];
        // QEMU leaves the refcounts of the header out.
        const missing = more.includes('512') ? 17 * 512 : 0;
        for (const key of ['required', 'fully-allocated'] as const) {
          expect(mine![key]).toBeGreaterThanOrEqual(other![key]);
          expect(mine![key]).toBeLessThanOrEqual(other![key] + missing);
        }
      }
    }
  });

  const TARGETS = ['', 'cluster_size=512', 'cluster_size=2M', 'compat=0.10', 'preallocation=full'];
  it.each(KINDS.map(({ name }) => name))('of a copy of %s is that of qemu-img', async (name) => {
    const backing = { folders: [folder] };
    for (const options of [...TARGETS, 'extended_l2=on', 'backing_file=b,backing_fmt=raw']) {
      const args = ['-O', 'qcow2', ...withOptions(options), pathOf(name)];
      const found = await ours(pathOf(name), options, { backing });
      expect([options, found]).toEqual([options, theirs(args, folder)]);
    }
    const raw = await ours(pathOf(name), '', { backing }, 'raw');
    expect(raw).toEqual(theirs(['-O', 'raw', pathOf(name)], folder));
  });

  it('of a copy of a raw file counts its data', async () => {
    const path = join(folder, 'base.raw');
    for (const options of TARGETS) {
      const args = ['-f', 'raw', '-O', 'qcow2', ...withOptions(options), path];
      expect(await ours(path, options, { format: 'raw' })).toEqual(theirs(args));
    }
  });

  it('of a snapshot is that of qemu-img, by id and by name', async () => {
    const path = pathOf('snapshots');
    for (const choice of ['first', '1', '2', 'snapshot.name=first', 'snapshot.id=2']) {
      const args = ['-O', 'qcow2', '-l', choice, path];
      const cli = await sluice(['measure', '--output', 'json', ...args]);
      expect([choice, JSON.parse(cli.stdout)]).toEqual([choice, theirs(args)]);
    }
    const refused = image.measure(path, { targetFormat: 'qcow2', snapshot: 'none' });
    await expectRefusal(refused, 'ERR_SLUICE_INVALID_ARGUMENT', /has no snapshot/);
    const raw = image.measure(join(folder, 'base.raw'), { snapshot: 'x' });
    await expectRefusal(raw, 'ERR_SLUICE_UNSUPPORTED', /a raw image, which has no snapshots/);
  });

  it('counts bitmaps of all granularities', async () => {
    const path = join(folder, 'many.qcow2');
    const img = (...args: string[]): string => execFileSync('qemu-img', args, { encoding: 'utf8' });
    img('create', '-q', '-f', 'qcow2', path, '3G');
    for (let index = 0; index < 12; index++) {
      const granularity = String(512 * 2 ** index);
      img('bitmap', '--add', '-g', granularity, path, `${'name'.repeat(index * 3)}${index}`);
      for (const options of ['', 'cluster_size=512', 'cluster_size=4k,refcount_bits=1']) {
        const args = ['-O', 'qcow2', ...withOptions(options), path];
        expect(await ours(path, options)).toEqual(theirs(args));
      }
    }
  });

  it('is written as qemu-img writes it', async () => {
    for (const args of [
      ['measure', '-O', 'qcow2', '--size', '1.5G'],
      ['measure', pathOf('chain')],
      ['measure', '-O', 'qcow2', pathOf('bitmaps')],
      ['measure', '--output', 'json', '-O', 'qcow2', '-o', 'cluster_size=4k', pathOf('default')],
    ]) {
      const told = spawnSync('qemu-img', args, { encoding: 'utf8' });
      const { code, stdout } = await sluice(args);
      expect(code).toBe(0);
      if (args.includes('json')) expect(JSON.parse(stdout)).toEqual(JSON.parse(told.stdout));
      else expect(stdout).toBe(told.stdout);
    }
  });

  it.each([
    ['no disk', ['-O', 'qcow2'], 'either --size SIZE or one image'],
    ['two disks', ['-O', 'qcow2', '--size', '1M', 'a'], 'either --size SIZE or one image'],
    ['a size that is none', ['-O', 'qcow2', '--size', 'abc'], 'It must be a size in bytes'],
    ['another format', ['-O', 'vmdk', '--size', '1M'], 'raw, qcow2'],
    ['an unknown option', ['-O', 'qcow2', '-o', 'x=1', '--size', '1M'], "no option 'x'"],
    ['a raw option', ['-o', 'cluster_size=4k', '--size', '1M'], "'cluster_size' is for qcow2"],
    ['small clusters', ['-O', 'qcow2', '-o', 'cluster_size=512', '--size', '1T'], 'cluster_size'],
    ['no secret', ['-O', 'qcow2', '-o', LUKS, '--size', '1M'], "the secret 's'"],
    ['no image', ['-O', 'qcow2', '/nowhere/a.qcow2'], 'there is no such file'],
  ])('refuses %s, as qemu-img does', async (_what, args, message) => {
    const told = await sluice(['measure', ...args]);
    expect([told.code, told.stdout]).toEqual([1, '']);
    expect(told.stderr).toContain(message);
    expect(spawnSync('qemu-img', ['measure', ...args]).status).toBe(1);
  });
});

interface Measured {
  readonly required: number;
  readonly 'fully-allocated': number;
}

describe('what is measured', () => {
  const folder = imageFolder();
  it('is the size of the file that is made', async () => {
    for (const options of [
      'preallocation=off',
      'preallocation=metadata,cluster_size=512,refcount_bits=64',
      'preallocation=metadata,extended_l2=on',
      `preallocation=full,${LUKS.replace('200', '1')},cluster_size=4k`,
      `preallocation=off,${LUKS.replace('200', '1')},cluster_size=512`,
    ]) {
      const sizeBytes = 9 * MIB + 512;
      const measured = (await ours({ sizeBytes }, options)) as Measured;
      await make(folder, 'disk', { options, size: sizeBytes });
      const { size } = statSync(join(folder, 'disk'));
      if (options.includes('=off')) expect(size).toBeLessThanOrEqual(measured.required);
      else expect(size).toBe(measured['fully-allocated']);
    }
  });
});
