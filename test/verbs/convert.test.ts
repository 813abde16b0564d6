/** Disks that are converted read the same to QEMU, and the images are in order. */
import { spawnSync } from 'node:child_process';
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, it } from 'vitest';

import type { image, openDisk } from '../../src/node.ts';
import { Running, sluice, SLUICE } from '../cli/sluice.ts';
import { Random } from '../engine/random.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { KINDS, makeImages } from './images.ts';

const MIB = 2 ** 20;
const SEED = 3;
const ROUND_TRIPS = 25;

type Options = image.ConvertOptions;

/** The built package: its threads are files. */
const BUILT = new URL('../../dist/node.js', import.meta.url).href;
const { image: built, openDisk: openBuilt } = (await import(BUILT)) as {
  image: typeof image;
  openDisk: typeof openDisk;
};

const QCOW2 = { targetFormat: 'qcow2' } as const;
const ZSTD = { compression: 'zstd' } as const;
/** Ways to make an image. */
const WAYS: readonly Options[] = [
  { targetFormat: 'raw' },
  { targetFormat: 'raw', sparseBytes: 0 },
  QCOW2,
  { ...QCOW2, compress: true },
  { ...QCOW2, compress: true, image: ZSTD },
  { ...QCOW2, image: { clusterBits: 9, refcountOrder: 6 } },
  { ...QCOW2, compress: true, image: { clusterBits: 9, refcountOrder: 0 } },
  { ...QCOW2, image: { clusterBits: 14, extendedL2: true } },
  { ...QCOW2, image: { clusterBits: 21, version: 2 }, sparseBytes: 65_536 },
];

describeWithPeers(['qemu-img', 'qemu-io'], 'convert', () => {
  const folder = imageFolder();
  let paths = new Map<string, string>();
  beforeAll(() => {
    paths = makeImages(folder);
  });
  const target = join(folder, 'target');
  const backing = { folders: [folder] };

  async function convert(from: string, way: readonly string[], to = target): Promise<void> {
    const run = await sluice(['convert', ...way, from, to]);
    expect(run).toMatchObject({ code: 0, stdout: '', stderr: '' });
  }

  function expectSame(from: string, format: string, to = target): void {
    const compare = spawnSync('qemu-img', ['compare', '-F', format, from, to], {
      encoding: 'utf8',
      cwd: folder,
    });
    expect(compare.stdout + compare.stderr).toBe('Images are identical.\n');
    if (format === 'qcow2') qemu(folder, 'qemu-img', ['check', '-q', to]);
  }

  it.for(KINDS.map(({ name }) => name))('copies the disk of %s', async (name) => {
    for (const way of WAYS) {
      await built.convert(paths.get(name)!, target, { backing, ...way });
      expectSame(paths.get(name)!, way.targetFormat!);
    }
  });

  it('leaves holes for zeroes, and none with -S 0', async () => {
    const from = paths.get('default')!;
    await convert(from, ['-O', 'raw']);
    expect(statSync(target).size).toBe(20 * MIB);
    expect(statSync(target).blocks * 512).toBeLessThan(MIB);
    await convert(from, ['-O', 'raw', '-S', '0']);
    expect(statSync(target).blocks * 512).toBe(20 * MIB);
  });

  it.for(['longer', 'chain', 'over-raw', 'shorter'])('copies what %s has itself', async (name) => {
    const from = paths.get(name)!;
    const { 'backing-filename': backing, 'backing-filename-format': format } = JSON.parse(
      qemu(folder, 'qemu-img', ['info', '--output=json', from]),
    );
    const base = join(folder, backing);
    for (const options of ['cluster_size=64k', 'cluster_size=4k', 'cluster_size=2M']) {
      await convert(from, ['-O', 'qcow2', '-B', base, '-F', format, '-o', options]);
      expectSame(from, 'qcow2');
    }
    // Version 2 has no zeroes: they are written.
    await convert(from, ['-O', 'qcow2', '-B', base, '-F', format, '-o', 'compat=0.10']);
    expectSame(from, 'qcow2');
  });

  it('does by its flags what it does by its options', async () => {
    const from = paths.get('default')!;
    const flags = ['-c', '-o', 'compression_type=zstd,cluster_size=4k', '-S', '64k', '-m', '3'];
    await convert(from, ['-O', 'qcow2', ...flags]);
    expectSame(from, 'qcow2');
    const made = { compression: 'zstd', clusterBits: 12 } as const;
    const other = join(folder, 'other');
    const options = { sparseBytes: 65_536, parallel: 3, image: made, compress: true };
    await built.convert(from, other, { ...QCOW2, ...options });
    expect(readFileSync(other).equals(readFileSync(target))).toBe(true);
  });

  it.for([9, 12, 16])('writes zeroes where only the backing file has data: %i', async (bits) => {
    const base = join(folder, 'sevens');
    const from = join(folder, 'few.qcow2');
    writeFileSync(base, Buffer.alloc(3 * MIB, 7));
    qemu(folder, 'qemu-img', ['create', '-q', '-f', 'qcow2', from, '3M']);
    qemu(folder, 'qemu-io', ['-c', 'write -q 3k 1k', '-c', 'write -q 2M 200k', from]);
    const made = { backing: { name: base, format: 'raw' }, clusterBits: bits } as const;
    for (const compress of [false, true]) {
      await built.convert(from, target, { ...QCOW2, compress, image: made });
      expectSame(from, 'qcow2');
    }
  });

  it('takes no list without an image, no odd granule, no file without a name', async () => {
    const code = 'ERR_SLUICE_INVALID_ARGUMENT';
    const path = paths.get('default')!;
    writeFileSync(target, 'old');
    await expectRefusal(built.convert([], target), code, /nothing to convert/);
    await expectRefusal(built.convert(path, target, { sparseBytes: 3 }), code, /power of two/);
    await expectRefusal(built.convert(path, ''), code, /has no name/);
    const odd = { ...QCOW2, compress: 'no' } as unknown as Options;
    await expectRefusal(built.convert(path, target, odd), code, /compress must be true or false/);
    expect(readFileSync(target, 'utf8')).toBe('old');
  });

  it('makes files with the longest names', async () => {
    const long = join(folder, 'n'.repeat(255));
    await convert(paths.get('default')!, ['-O', 'qcow2'], long);
    expectSame(paths.get('default')!, 'qcow2', long);
  });

  it('keeps the content through every order of formats', async () => {
    const random = new Random(SEED);
    const first = join(folder, 'trip-0');
    const bytes = Buffer.alloc(5 * MIB + 512);
    for (let at = 0; at < bytes.length; at += 4096) {
      const end = Math.min(bytes.length, at + 1 + random.below(9000));
      if (random.chance(0.6)) bytes.fill(random.pick([0, 1, 7]), at, end);
    }
    writeFileSync(first, bytes);
    let [from, format] = [first, 'raw' as 'raw' | 'qcow2'];
    for (let trip = 1; trip <= ROUND_TRIPS; trip++) {
      const to = join(folder, `trip-${trip}`);
      const way = random.pick(WAYS);
      await built.convert(from, to, { format, ...way });
      [from, format] = [to, way.targetFormat!];
    }
    const last = join(folder, 'last');
    await convert(from, ['-f', format, '-O', 'raw'], last);
    expect(readFileSync(last).equals(bytes), `seed ${SEED}`).toBe(true);
  });

  it('copies disks of nothing, and of one sector', async () => {
    for (const bytes of [0, 512]) {
      const from = join(folder, 'small');
      writeFileSync(from, Buffer.alloc(bytes, 5));
      for (const way of WAYS) {
        await built.convert(from, target, { format: 'raw', ...way });
        expectSame(from, way.targetFormat!);
      }
    }
  });

  it('replaces a file where a link leads, with its mode', async () => {
    const real = join(folder, 'real');
    const link = join(folder, 'link');
    writeFileSync(real, 'old', { mode: 0o600 });
    symlinkSync('real', link);
    await convert(paths.get('default')!, ['-O', 'qcow2'], link);
    expectSame(paths.get('default')!, 'qcow2', real);
    expect(statSync(real).mode & 0o777).toBe(0o600);
  });

  it.for(['SIGKILL', 'SIGINT'] as const)('leaves the old file after %s', async (signal) => {
    const place = join(folder, signal);
    mkdirSync(place);
    const from = join(place, 'from');
    const to = join(place, 'to');
    writeFileSync(from, Buffer.alloc(96 * MIB, 'not to be pressed into nothing'));
    writeFileSync(to, 'old');
    const command = [SLUICE, 'convert', '-c', '-f', 'raw', '-O', 'qcow2', from, to];
    await using running = new Running(process.execPath, command);
    while (readdirSync(place).length < 3) await sleep(5);
    running.child.kill(signal);
    const { code, stderr } = await running.outcome;
    expect(readFileSync(to, 'utf8')).toBe('old');
    if (signal === 'SIGKILL') return;
    expect([code, stderr]).toEqual([130, 'sluice: nothing was made (stopped by a signal)\n']);
    expect(readdirSync(place).toSorted()).toEqual(['from', 'to']);
  });

  it('does not replace an image that is in use', async () => {
    await convert(paths.get('default')!, ['-O', 'qcow2']);
    const socket = join(folder, 'socket');
    const serve = ['serve', '-t', '-f', 'qcow2', '-k', socket, target];
    await using server = new Running(process.execPath, [SLUICE, ...serve]);
    while (!server.stderr.includes('nbd+unix')) await sleep(10);
    const run = await sluice(['convert', '-O', 'qcow2', paths.get('extended')!, target]);
    expect(run.code).toBe(1);
    expect(run.stderr).toMatch(/ERR_SLUICE_LOCKED\)\n$/);
    server.child.kill('SIGTERM');
    expect((await server.outcome).code).toBe(0);
    expectSame(paths.get('default')!, 'qcow2');
  });

  it('fails on a full disk, and leaves what was there', async (context) => {
    const place = join(folder, 'full');
    mkdirSync(place);
    const mount = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'none', place]);
    if (mount.status !== 0) context.skip('nothing can be mounted here');
    try {
      const from = join(folder, 'large');
      const to = join(place, 'to');
      writeFileSync(from, Buffer.alloc(8 * MIB, 3));
      writeFileSync(to, 'old');
      for (const way of [
        ['-O', 'raw'],
        ['-O', 'qcow2'],
      ]) {
        const run = await sluice(['convert', '-f', 'raw', ...way, from, to]);
        expect(run.code).toBe(1);
        expect(run.stderr).toMatch(/no space is left .*\(ERR_SLUICE_NO_SPACE\)\n$/);
        expect(readdirSync(place)).toEqual(['to']);
        expect(readFileSync(to, 'utf8')).toBe('old');
      }
    } finally {
      spawnSync('umount', [place]);
    }
  });

  it('fails on a damaged cluster, with its place', async () => {
    const path = join(folder, 'damaged.qcow2');
    const bytes = readFileSync(paths.get('compressed')!);
    bytes.fill(0xff, 5 * 65_536);
    writeFileSync(path, bytes);
    const run = await sluice(['convert', '-O', 'raw', path, join(folder, 'none')]);
    expect(run.code).toBe(1);
    expect(run.stderr).toMatch(/the compressed cluster at offset \d+ of the image is damaged/);
    expect(readdirSync(folder)).not.toContain('none');
  });

  it('copies the rest of a damaged disk with --salvage, and says what is lost', async () => {
    const path = join(folder, 'damaged.qcow2');
    const out = join(folder, 'salvaged');
    const bytes = readFileSync(paths.get('compressed')!);
    bytes.fill(0xff, 5 * 65_536);
    writeFileSync(path, bytes);
    const run = await sluice(['convert', '--salvage', '-O', 'raw', path, out]);
    expect(run.code).toBe(0);
    const lost = [...run.stderr.matchAll(/warning: (\d+) bytes at offset (\d+) of the disk/g)];
    expect(lost.length).toBeGreaterThan(0);
    await convert(paths.get('compressed')!, ['-O', 'raw']);
    const whole = readFileSync(target);
    for (const [, length, offset] of lost) {
      whole.fill(0, Number(offset), Number(offset) + Number(length));
    }
    expect(readFileSync(out).equals(whole)).toBe(true);
  });

  it('copies what a snapshot has', async () => {
    const path = paths.get('snapshots')!;
    for (const given of ['1', 'first', 'snapshot.name=first', 'snapshot.id=1']) {
      const theirs = join(folder, 'theirs');
      qemu(folder, 'qemu-img', ['convert', '-l', given, '-O', 'raw', path, theirs]);
      await convert(path, ['-l', given, '-O', 'raw']);
      expect(readFileSync(target).equals(readFileSync(theirs))).toBe(true);
    }
    const run = await sluice(['convert', '-l', 'none', path, target]);
    expect([run.code, run.stderr]).toEqual([1, expect.stringMatching(/no snapshot .*"none"/)]);
  });

  it('copies an encrypted disk, with its key', async () => {
    const path = join(folder, 'luks.qcow2');
    const encryption = { key: 'secret' };
    const luks = { ...encryption, iterTimeMs: 10 };
    const made = { format: 'qcow2', sizeBytes: 3 * MIB, image: { encryption: luks } } as const;
    await built.create(path, made);
    const contents = Buffer.alloc(MIB, 'not to be read without a key');
    const disk = await openBuilt(path, { format: 'qcow2', writable: true, encryption });
    await disk.write(MIB, contents);
    await disk.close();
    await built.convert(path, target, { encryption });
    const expected = Buffer.concat([Buffer.alloc(MIB), contents, Buffer.alloc(MIB)]);
    expect(readFileSync(target).equals(expected)).toBe(true);
    await expectRefusal(built.convert(path, target), 'ERR_SLUICE_KEY', /pass encryption/);
  });

  it('copies several disks one behind the other', async () => {
    const [one, other] = [paths.get('extended')!, paths.get('default')!];
    const run = await sluice(['convert', '-O', 'qcow2', '-c', one, other, one, target]);
    expect(run).toMatchObject({ code: 0, stderr: '' });
    const theirs = join(folder, 'theirs');
    qemu(folder, 'qemu-img', ['convert', '-O', 'raw', one, other, one, theirs]);
    expectSame(theirs, 'qcow2');
  });

  it.for(['raw', 'qcow2'])('writes into a %s image that is there with -n', async (format) => {
    const there = join(folder, `there.${format}`);
    for (const size of ['20M', '25M']) {
      qemu(folder, 'qemu-img', ['create', '-q', '-f', format, there, size]);
      qemu(folder, 'qemu-io', ['-f', format, '-c', 'write -q -P 9 0 20M', there]);
      await convert(paths.get('default')!, ['-n', '-O', format], there);
      expect(
        spawnSync('qemu-img', ['compare', '-F', format, paths.get('default')!, there]).status,
      ).toBe(0);
    }
    if (format === 'qcow2') qemu(folder, 'qemu-img', ['check', '-q', there]);
    qemu(folder, 'qemu-img', ['create', '-q', '-f', format, there, '1M']);
    const run = await sluice(['convert', '-n', '-O', format, paths.get('default')!, there]);
    expect([run.code, run.stderr]).toEqual([1, expect.stringMatching(/resize it first/)]);
  });

  it('says how far it is where -p asks for it', async () => {
    const run = await sluice(['convert', '-p', '-O', 'qcow2', paths.get('default')!, target]);
    expect(run).toMatchObject({ code: 0, stderr: '' });
    expect(run.stdout).toMatch(/^( {4}\(\d+\.\d\d\/100%\)\r)+\n$/);
    expect(run.stdout).toContain('(100.00/100%)');
  });

  const REFUSED: readonly (readonly [string, RegExp, readonly string[]])[] = [
    ['compressed raw', /cannot be compressed; pass -O qcow2/, ['-c']],
    ['options of qcow2 for raw', /'cluster_size' is for qcow2/, ['-o', 'cluster_size=4k']],
    ['unknown options', /no option 'colour'/, ['-O', 'qcow2', '-o', 'colour=red']],
    ['a cluster size of 3', /a power of two/, ['-O', 'qcow2', '-o', 'cluster_size=3']],
    ['a backing file without format', /pass -F raw/, ['-O', 'qcow2', '-B', 'x']],
    ['other URIs', /is a URI \(https\)/, ['https://localhost/']],
    ['--image-opts', /not supported: name the image by its path/, ['--image-opts']],
    ['-S 3', /power of two/, ['-S', '3']],
    ['-m 17', /from 1 to 16/, ['-m', '17']],
  ];

  it.for(REFUSED)('refuses %s, as qemu-img does', async ([, message, args]) => {
    const run = await sluice(['convert', ...args, paths.get('default')!, join(folder, 'none')]);
    expect([run.code, run.stdout]).toEqual([1, '']);
    expect(run.stderr).toMatch(message);
    expect(readdirSync(folder)).not.toContain('none');
  });
});
