/** What a disk gets more has its clusters from the start, as with qemu-img. */
import { execFileSync } from 'node:child_process';
import { rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { image, openDisk } from '../../src/node.ts';
import { SLUICE, sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { dirtyRanges } from '../image/bitmaps-qemu.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { bothDo, create, expectSameDisk, expectSound, told, twinsOf, write } from './twins.ts';

const MIB = 2 ** 20;
const KEY = 'open sesame';
const MODES = ['metadata', 'falloc', 'full'] as const;
const CASES = [
  ['metadata', 'cluster_size=64k'],
  ['metadata', 'cluster_size=4k,refcount_bits=64'],
  ['metadata', 'cluster_size=16k,extended_l2=on'],
  ['metadata', 'compat=0.10'],
  ['falloc', 'cluster_size=64k'],
  ['falloc', 'cluster_size=16k,extended_l2=on'],
  ['full', 'cluster_size=2M'],
  ['full', 'compat=0.10'],
] as const;

interface Extent {
  readonly start: number;
  readonly length: number;
  readonly data: boolean;
  readonly zero: boolean;
  readonly offset?: number;
}

function mapOf(path: string): Extent[] {
  return JSON.parse(qemu('.', 'qemu-img', ['map', '--output=json', path])) as Extent[];
}

/** The kinds of extents behind an offset, without their places in files. */
function kindsBehind(path: string, from: number): object[] {
  const kinds: { first: number; data: boolean; zero: boolean; hasPlace: boolean }[] = [];
  for (const { start, length, data, zero, offset } of mapOf(path)) {
    if (start + length <= from) continue;
    const hasPlace = offset !== undefined;
    const last = kinds.at(-1);
    const isSame = last?.data === data && last.zero === zero && last.hasPlace === hasPlace;
    if (!isSame) kinds.push({ first: Math.max(start, from), data, zero, hasPlace });
  }
  return kinds;
}

function allocatedBytes(path: string): number {
  return statSync(path).blocks * 512;
}

describeWithPeers(['qemu-img', 'qemu-io', 'nbdinfo', 'qemu-nbd'], 'a disk that grows', () => {
  const folder = imageFolder();

  it.for(CASES)('has with %s what qemu-img gives it: %s', async ([mode, options]) => {
    const path = create(folder, 'disk.qcow2', '-o', options, '6M');
    write(path, 'write -P 1 0 1M', 'write -P 2 5M 1M');
    qemu(folder, 'qemu-img', ['snapshot', '-c', 'one', path]);
    if (options === 'compat=0.10') qemu(folder, 'qemu-img', ['snapshot', '-d', 'one', path]);
    const twins = twinsOf(path);
    const before = allocatedBytes(twins.ours);
    await bothDo(twins, ['resize', '-q', `--preallocation=${mode}`], ['+10M']);
    expectSameDisk(twins.ours, twins.theirs);
    expectSound(twins.ours);
    expect(told(twins.ours)).toEqual(told(twins.theirs));
    expect(kindsBehind(twins.ours, 6 * MIB)).toEqual(kindsBehind(twins.theirs, 6 * MIB));
    const added = allocatedBytes(twins.ours) - before;
    if (mode === 'metadata') expect(added).toBeLessThan(4 * MIB);
    else expect(added).toBeGreaterThanOrEqual(10 * MIB);
    // What is written there takes no new cluster.
    const { size } = statSync(twins.ours);
    await using disk = await openDisk(twins.ours, { format: 'qcow2', writable: true });
    await disk.write(9 * MIB, new Uint8Array(MIB).fill(9));
    await disk.close();
    expect(statSync(twins.ours).size).toBe(size);
    expectSound(twins.ours);
    if (options === 'compat=0.10') return;
    qemu(folder, 'qemu-img', ['snapshot', '-a', 'one', twins.ours]);
    expectSameDisk(twins.ours, path);
  });

  it.for(MODES)('hides a longer backing file with %s', async (mode) => {
    const base = create(folder, 'base.raw', '16M');
    write(base, 'write -P 7 0 16M');
    for (const options of ['cluster_size=64k', 'extended_l2=on', 'compat=0.10']) {
      const named = ['-b', 'base.raw', '-F', 'raw', '-o', options];
      // Its end goes through a cluster.
      const path = create(folder, 'over.qcow2', ...named, `${5 * MIB + 512}`);
      await image.resize(path, 12 * MIB, {
        preallocation: mode,
        backing: { folders: [folder] },
      });
      await using disk = await openDisk(path, { format: 'qcow2', backing: { folders: [folder] } });
      expect((await disk.read(5 * MIB, 512)).every((byte) => byte === 7)).toBe(true);
      const bytes = await disk.read(5 * MIB + 512, 7 * MIB - 512);
      expect(
        bytes.every((byte) => byte === 0),
        options,
      ).toBe(true);
      await disk.close();
      expectSound(path);
      const kinds = kindsBehind(path, 6 * MIB) as { hasPlace: boolean }[];
      expect(
        kinds.every(({ hasPlace }) => hasPlace),
        options,
      ).toBe(true);
    }
  });

  it.for(MODES)('has its room in a data file with %s', async (mode) => {
    for (const raw of ['on', 'off']) {
      const options = `data_file=${folder}/data.bin,data_file_raw=${raw}`;
      rmSync(join(folder, 'data.bin'), { force: true });
      const path = create(folder, 'outer.qcow2', '-o', options, '2M');
      write(path, 'write -P 1 1M 64k');
      const data = join(folder, 'data.bin');
      // What lies behind the disk is nobody's, and is not to show.
      writeFileSync(data, Buffer.alloc(3 * MIB, 5), { flag: 'r+', flush: true });
      truncateSync(data, 3 * MIB);
      write(path, 'write -P 1 0 2M');
      const before = allocatedBytes(data);
      await image.resize(path, 8 * MIB, { preallocation: mode, backing: { folders: [folder] } });
      await using disk = await openDisk(path, { format: 'qcow2', backing: { folders: [folder] } });
      const bytes = await disk.read(2 * MIB, 6 * MIB);
      expect(bytes.every((byte) => byte === 0)).toBe(true);
      expect((await disk.read(MIB, 512)).every((byte) => byte === 1)).toBe(true);
      await disk.close();
      expectSound(path);
      expect(statSync(data).size).toBe(8 * MIB);
      if (mode !== 'metadata') expect(allocatedBytes(data)).toBeGreaterThanOrEqual(8 * MIB);
      else expect(allocatedBytes(data)).toBeLessThanOrEqual(before);
      for (const { start, offset } of mapOf(path)) expect(offset).toBe(start);
    }
  });

  it.for(MODES)('is no noise where it is encrypted with %s', async (mode) => {
    const secret = ['--object', `secret,id=s,data=${KEY}`];
    const path = join(folder, 'secret.qcow2');
    for (const options of [{}, { extendedL2: true }, { version: 2 }] as const) {
      const encryption = { key: KEY, iterTimeMs: 10 };
      await image.create(path, {
        format: 'qcow2',
        sizeBytes: 2 * MIB,
        image: { ...options, encryption },
      });
      const resized = image.resize(path, 6 * MIB, {
        preallocation: mode,
        encryption: { key: KEY },
      });
      if ('version' in options && mode !== 'full') {
        await expectRefusal(resized, 'ERR_SLUICE_UNSUPPORTED', /noise; use full/);
        expect(told(path)).toMatchObject({ 'virtual-size': 2 * MIB });
        continue;
      }
      await resized;
      const how = { format: 'qcow2', writable: true, encryption: { key: KEY } } as const;
      await using disk = await openDisk(path, how);
      expect((await disk.read(0, 6 * MIB)).every((byte) => byte === 0)).toBe(true);
      await disk.write(3 * MIB + 512, new Uint8Array(512).fill(1));
      const around = await disk.read(3 * MIB, 1536);
      expect(around.filter((byte) => byte === 1)).toHaveLength(512);
      await disk.close();
      const theirs = `driver=qcow2,file.filename=${path},encrypt.key-secret=s`;
      qemu(folder, 'qemu-img', ['check', ...secret, '--image-opts', theirs]);
      const zeroes = create(folder, 'zeroes.raw', '6M');
      write(zeroes, `write -P 1 ${3 * MIB + 512} 512`);
      const raw = `driver=raw,file.filename=${zeroes}`;
      qemu(folder, 'qemu-img', ['compare', ...secret, '--image-opts', theirs, raw]);
    }
  });

  it('has it together with bitmaps, and in tables that are there', async () => {
    const path = create(folder, 'bits.qcow2', '2M');
    write(path, 'write -z 1536k 512k');
    qemu(folder, 'qemu-img', ['bitmap', '--add', path, 'b']);
    write(path, 'write -P 1 1M 64k');
    const twins = twinsOf(path);
    for (const size of ['4M', '1G']) {
      await bothDo(twins, ['resize', '-q', '--preallocation=metadata'], [size]);
      expectSameDisk(twins.ours, twins.theirs);
      expectSound(twins.ours);
      expect(dirtyRanges(folder, twins.ours, 'b')).toEqual([[MIB, MIB + 65_536]]);
      expect(kindsBehind(twins.ours, 2 * MIB)).toEqual(kindsBehind(twins.theirs, 2 * MIB));
    }
  });

  it('keeps its size where there is no room, and loses nothing', async () => {
    const path = create(folder, 'full.qcow2', '2M');
    qemu(folder, 'qemu-img', ['bitmap', '--add', path, 'b']);
    write(path, 'write -P 1 1M 64k');
    const before = told(path);
    const { size } = statSync(path);
    // No file may have more than 64 MiB; a write past that is EFBIG.
    const limited = (mode: string): string =>
      execFileSync(
        'bash',
        [
          '-c',
          'trap "" XFSZ; ulimit -f 65536; "$@" 2>&1 || true',
          'bash',
          process.execPath,
          SLUICE,
          'resize',
          `--preallocation=${mode}`,
          path,
          '200M',
        ],
        { encoding: 'utf8' },
      );
    for (const mode of ['falloc', 'full']) {
      expect(limited(mode), mode).toMatch(/ERR_SLUICE_NO_SPACE/);
      expect(told(path)).toEqual(before);
      expectSound(path);
      expect(statSync(path).size).toBeLessThan(size + 4 * MIB);
    }
    expect((await sluice(['resize', '--help'])).stdout).toMatch(/metadata/);
  });
});
