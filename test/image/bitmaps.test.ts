/**
 * Persistent bitmaps against QEMU: what a bitmap says after the disk was closed are exactly the
 * granules that were written to, and nothing else of the image has changed for it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { expect, it } from 'vitest';

import { BITMAP_FLAGS, EXTENSION_BITMAPS } from '../../src/abi/qcow2.ts';
import type { CacheModeName } from '../../src/cache-mode.ts';
import type { Disk } from '../../src/disk.ts';
import { openDisk } from '../../src/node.ts';
import { hasDirect } from '../backend/scratch.ts';
import { Running } from '../cli/sluice.ts';
import { Random } from '../engine/random.ts';
import { bundle } from '../support/bundle.ts';
import { describeWithPeers } from '../support/peers.ts';
import { qemu } from './bad-inputs/bases.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { dirtyRanges, flagsOf, listBitmaps, rangesOf } from './bitmaps-qemu.ts';
import { expectRefusal, imageFolder } from './scratch.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/** How an image is made; the numbers are granules in bytes. */
interface Kind {
  readonly name: string;
  readonly options: string;
  readonly sizeBytes: number;
  readonly granules: readonly number[];
  /** Longest request. */
  readonly most: number;
  readonly cache?: CacheModeName;
}

const KINDS: readonly Kind[] = [
  {
    name: 'granules of 512 bytes, 64 KiB and 2 MiB',
    options: 'cluster_size=64k',
    sizeBytes: 64 * MIB + 3 * 512,
    granules: [512, 64 * KIB, 2 * MIB],
    most: 300_000,
  },
  {
    name: 'tables of several clusters, refcounts of 1 bit',
    options: 'cluster_size=512,refcount_bits=1',
    sizeBytes: 256 * MIB,
    granules: [512, 4096],
    most: 20_000,
  },
  {
    name: 'refcounts of 64 bits',
    options: 'cluster_size=512,refcount_bits=64',
    sizeBytes: 128 * MIB,
    granules: [512, 1024, 32 * KIB],
    most: 20_000,
  },
  {
    name: 'extended L2 entries, without flushes',
    options: 'cluster_size=16k,extended_l2=on',
    sizeBytes: 16 * MIB,
    granules: [4096],
    most: 100_000,
    cache: 'unsafe',
  },
  {
    name: 'an external data file',
    options: 'data_file=DATA,data_file_raw=on',
    sizeBytes: 16 * MIB,
    granules: [2048, 64 * KIB],
    most: 100_000,
  },
  {
    name: 'O_DIRECT',
    options: 'cluster_size=4k',
    sizeBytes: 16 * MIB,
    granules: [512, 64 * KIB],
    most: 100_000,
    cache: 'none',
  },
];

const SEED = Number(process.env['SLUICE_BITMAPS_SEED'] ?? 20_261_121);
const ROUNDS = 2;
const REQUESTS = 40;

/** Granules of each bitmap that were written to. */
class Model {
  readonly granules: ReadonlyMap<number, Set<number>>;

  constructor({ granules }: Kind) {
    this.granules = new Map(granules.map((bytes) => [bytes, new Set()]));
  }

  write(offset: number, length: number): void {
    for (const [bytes, dirty] of this.granules) {
      const end = Math.ceil((offset + length) / bytes);
      for (let at = Math.floor(offset / bytes); at < end; at++) dirty.add(at);
    }
  }
}

async function writeAtRandom(disk: Disk, { most }: Kind, random: Random, model: Model) {
  const pending: Promise<void>[] = [];
  for (let step = 0; step < REQUESTS; step++) {
    const unit = random.pick([1, 512, 4096, 65_536]);
    const offset = random.below(Math.floor((disk.size - 1) / unit)) * unit;
    const wanted = Math.min(1 + random.below(most), disk.size - offset);
    const length = Math.max(1, wanted - (wanted % unit));
    model.write(offset, length);
    const fua = random.chance(0.1);
    const request = random.pick([
      () => disk.write(offset, new Uint8Array(length).fill(1 + step), { fua }),
      () => disk.writeZeroes(offset, length, { fua, mayUnmap: random.chance(0.5) }),
      () => disk.discard(offset, length, { fua }),
    ]);
    pending.push(request());
    if (random.chance(0.2)) pending.push(disk.flush());
    if (random.chance(0.2)) await disk.read(offset, length);
  }
  await Promise.all(pending);
}

describeWithPeers(['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo'], 'persistent bitmaps', () => {
  const folder = imageFolder();
  const img = (...args: string[]): string => qemu(folder, 'qemu-img', args);
  const io = (image: string, ...commands: string[]): string =>
    qemu(folder, 'qemu-io', ['-f', 'qcow2', ...commands.flatMap((c) => ['-c', c]), image]);
  const create = (image: string, options: string, sizeBytes: number): string => {
    img('create', '-q', '-f', 'qcow2', '-o', options, image, String(sizeBytes));
    return join(folder, image);
  };
  const open = (path: string, cache: CacheModeName = 'writeback'): Promise<Disk> =>
    openDisk(path, { format: 'qcow2', writable: true, cache, backing: { folders: [folder] } });

  it.for(KINDS)('say exactly what was written, with $name', async (kind, context) => {
    const { options, sizeBytes, granules, cache } = kind;
    if (cache === 'none' && !hasDirect(folder)) context.skip('the folder has no O_DIRECT');
    const path = create(`kind-${KINDS.indexOf(kind)}.qcow2`, options, sizeBytes);
    const model = new Model(kind);
    io(path, 'write -q 0 7k');
    for (const bytes of granules) img('bitmap', '--add', '-g', String(bytes), path, `g${bytes}`);
    img('bitmap', '--add', '--disable', '-g', '512', path, 'off');
    // QEMU writes too; its requests are whole sectors.
    io(path, 'write -q 1M 5k', 'discard -q 3M 64k');
    model.write(MIB, 5 * KIB);
    model.write(3 * MIB, 64 * KIB);
    const random = new Random(SEED);
    for (let round = 0; round < ROUNDS; round++) {
      const disk = await open(path, cache);
      await writeAtRandom(disk, kind, random, model);
      await disk.close();
      img('check', '-q', path);
      for (const bytes of granules) {
        const expected = rangesOf(model.granules.get(bytes)!, bytes, sizeBytes);
        expect(dirtyRanges(folder, path, `g${bytes}`)).toEqual(expected);
      }
      expect(dirtyRanges(folder, path, 'off')).toEqual([]);
    }
    expect(flagsOf(folder, path)).toEqual({
      ...Object.fromEntries(granules.map((bytes) => [`g${bytes}`, 'auto'])),
      off: '',
    });
  });

  it('say at least what was written, where the session notes less finely', async () => {
    const path = create('large.qcow2', 'cluster_size=64k', 64 * GIB);
    img('bitmap', '--add', '-g', '512', path, 'fine');
    const disk = await open(path);
    await disk.write(10 * GIB + 3000, new Uint8Array(5000));
    await disk.write(64 * GIB - 1, new Uint8Array(1));
    await disk.discard(20 * GIB, 30 * GIB);
    await disk.close();
    img('check', '-q', path);
    // 4 MiB of bits: 2 KiB each.
    expect(dirtyRanges(folder, path, 'fine')).toEqual([
      [10 * GIB + 2048, 10 * GIB + 8192],
      [20 * GIB, 50 * GIB],
      [64 * GIB - 2048, 64 * GIB],
    ]);
  });

  it('are not changed by a session that writes nothing, nor by one that only reads', async () => {
    const path = create('idle.qcow2', 'compat=1.1', 16 * MIB);
    img('bitmap', '--add', path, 'b');
    io(path, 'write -q 1M 64k');
    await (await open(path)).close();
    const reader = await openDisk(path, { format: 'qcow2' });
    await reader.read(0, MIB);
    await reader.close();
    img('check', '-q', path);
    expect(flagsOf(folder, path)).toEqual({ b: 'auto' });
    expect(dirtyRanges(folder, path, 'b')).toEqual([[MIB, MIB + 64 * KIB]]);
  });

  it('are not marked when the disk cannot be opened', async () => {
    const path = create('refused.qcow2', 'compat=1.1', 16 * MIB);
    img('bitmap', '--add', path, 'b');
    for (const wrong of [{ bufferBytes: 1 }, { barrier: 'no' as never }]) {
      const opened = openDisk(path, { format: 'qcow2', writable: true, ...wrong });
      await expectRefusal(opened, 'ERR_SLUICE_INVALID_ARGUMENT', /./);
      expect(flagsOf(folder, path)).toEqual({ b: 'auto' });
    }
  });

  it('that are disabled keep their bits while the disk is written', async () => {
    const path = create('disabled.qcow2', 'compat=1.1', 16 * MIB);
    for (const name of ['old', 'new']) img('bitmap', '--add', path, name);
    io(path, 'write -q 2M 64k');
    img('bitmap', '--disable', path, 'old');
    const disk = await open(path);
    await disk.write(0, new Uint8Array(64 * KIB));
    expect(flagsOf(folder, path)).toEqual({ old: '', new: 'in-use auto' });
    await disk.close();
    img('check', '-q', path);
    const written = [2 * MIB, 2 * MIB + 64 * KIB];
    expect(dirtyRanges(folder, path, 'old')).toEqual([written]);
    expect(dirtyRanges(folder, path, 'new')).toEqual([[0, 64 * KIB], written]);
  });

  it('stay marked in use when the process is killed, ever after', async () => {
    const script = await bundle(new URL('bitmaps-victim.ts', import.meta.url));
    const path = create('killed.qcow2', 'compat=1.1', 16 * MIB);
    img('bitmap', '--add', path, 'b');
    img('bitmap', '--add', '--disable', path, 'off');
    {
      await using victim = new Running(process.execPath, [script.file, path]);
      await victim.shows(/written/);
      victim.child.kill('SIGKILL');
      await victim.outcome;
    }
    await script.remove();
    expect(flagsOf(folder, path)).toEqual({ b: 'in-use auto', off: '' });
    img('bitmap', '--add', path, 'next');
    const disk = await open(path);
    await disk.write(MIB, new Uint8Array(1));
    await disk.close();
    expect(flagsOf(folder, path)).toEqual({ b: 'in-use auto', off: '', next: 'auto' });
    expect(dirtyRanges(folder, path, 'next')).toEqual([[MIB, MIB + 64 * KIB]]);
    img('check', '-q', '-r', 'leaks', path);
  });

  it('are given up when one of them is not understood', async () => {
    const path = create('odd.qcow2', 'compat=1.1', 16 * MIB);
    for (const name of ['a', 'b']) img('bitmap', '--add', path, name);
    const image = new PokedImage(readFileSync(path));
    const directory = image.at(image.extension(EXTENSION_BITMAPS) + 16);
    image.put32(directory + BITMAP_FLAGS, 1 << 7);
    writeFileSync(path, image.bytes);
    const disk = await open(path);
    await disk.write(0, new Uint8Array(1));
    await disk.close();
    expect(listBitmaps(folder, path)).toEqual([]);
  });
});
