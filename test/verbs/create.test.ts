/** Images that create makes are those that qemu-img makes of the same options. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';

import { image, openDisk } from '../../src/node.ts';
import { pattern } from '../backend/driver.ts';
import { sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { type Asked, make, Pair } from './made.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;
const NAME = 'disk.qcow2';

const LAYOUTS: readonly Asked[] = [
  ...['off', 'metadata', 'falloc', 'full'].flatMap((mode): Asked[] => [
    { options: `preallocation=${mode}`, size: 4 * MIB },
    { options: `preallocation=${mode},compat=0.10`, size: 4 * MIB + 512 },
    { options: `preallocation=${mode},cluster_size=512`, size: MIB + 1 },
    { options: `preallocation=${mode},cluster_size=2M,refcount_bits=64`, size: 5 * MIB },
    { options: `preallocation=${mode},extended_l2=on`, size: 4 * MIB },
    { options: `preallocation=${mode},extended_l2=on,cluster_size=16k`, size: 3 * MIB + 512 },
    { options: `preallocation=${mode},extended_l2=on`, backing: ['base.raw', 'raw'] },
    { options: `preallocation=${mode},data_file=data.raw`, size: 4 * MIB + 512 },
    { options: `preallocation=${mode},data_file=data.raw,data_file_raw=on`, size: 4 * MIB + 512 },
  ]),
  ...[1, 2, 4, 8, 16, 32, 64].map((bits): Asked => ({
    options: `refcount_bits=${bits},cluster_size=4k,preallocation=metadata`,
    size: 300 * MIB,
  })),
  { options: '', size: 0 },
  { options: 'preallocation=metadata', size: 0 },
  { options: 'preallocation=full', size: 1 },
  { options: 'size=20G' },
  { options: 'preallocation=metadata', size: 20 * GIB },
  { options: 'preallocation=metadata,lazy_refcounts=on', size: 700 * MIB },
  { options: 'compression_type=zstd,lazy_refcounts', size: MIB },
  { options: 'compat=v2', backing: ['base.raw', 'raw'] },
  { options: '', backing: ['base.raw', 'raw'] },
  { options: 'cluster_size=1k', backing: ['base.qcow2', 'qcow2'] },
  { options: '', backing: ['base.qcow2', 'raw'] },
  { options: '', backing: ['base.qcow2', 'qcow2'], size: 9 * MIB },
  { options: 'data_file=data.raw', backing: ['base.raw', 'raw'], size: 9 * MIB },
  { options: 'size=7M,backing_file=base.raw,backing_fmt=raw' },
];
const titled = (asked: Asked): [string, Asked] => {
  const { options, size, backing = [] } = asked;
  return [`${options} of ${size} ${backing.join(' ')}`, asked];
};

interface Info {
  readonly 'virtual-size': number;
  readonly 'actual-size': number;
}

describeWithPeers(['qemu-img', 'qemu-io'], 'an image that create makes', () => {
  const pair = new Pair(imageFolder());
  beforeAll(() => {
    pair.both('qemu-img', 'create', '-q', '-f', 'raw', 'base.raw', '3M');
    pair.both('qemu-io', '-f', 'raw', '-c', 'write -P 9 0 3M', 'base.raw');
    pair.both('qemu-img', 'create', '-q', '-f', 'qcow2', 'base.qcow2', '5M');
    pair.both('qemu-io', '-f', 'qcow2', '-c', 'write -P 8 0 1M', 'base.qcow2');
  });

  it.each(LAYOUTS.map(titled))('is that of qemu-img: %s', async (_title, asked) => {
    await pair.make(NAME, asked);
    const [ours, theirs] = pair.json('info', '--output=json', NAME) as [Info, Info];
    expect({ ...ours, 'actual-size': 0 }).toEqual({ ...theirs, 'actual-size': 0 });
    const checked = JSON.parse(qemu(pair.ours, 'qemu-img', ['check', '--output=json', NAME]));
    expect(checked).toMatchObject({ 'check-errors': 0 });
    expect([checked.leaks, checked.corruptions]).toEqual([undefined, undefined]);
    const [map, theirMap] = pair.json('map', '--output=json', NAME) as Extent[][];
    expect(said(map!)).toEqual(said(theirMap!));
    const compared = [join(pair.ours, NAME), join(pair.theirs, NAME)];
    qemu(pair.ours, 'qemu-img', ['compare', ...compared]);
    const isSetAside = /falloc|full/.test(asked.options);
    if (isSetAside) expect(roomOf(pair.ours, asked)).toBeGreaterThanOrEqual(ours['virtual-size']);
    if (asked.options.includes('data_file'))
      expect(dataSize(pair.ours)).toBe(dataSize(pair.theirs));
    await useIt(ours['virtual-size']);
  });

  /** QEMU and we write it in turn, and read what the other wrote. */
  async function useIt(sizeBytes: number): Promise<void> {
    if (sizeBytes < 2 * MIB) return;
    const path = join(pair.ours, NAME);
    const end = Math.floor(sizeBytes / 512) * 512 - 70 * KIB;
    const written = qemu(pair.ours, 'qemu-io', ['-c', `write -P 5 ${end} 70k`, NAME]);
    expect(written).not.toMatch(/fail|error/i);
    const bytes = pattern(100_000, 1);
    {
      const backing = { folders: [pair.ours] };
      await using disk = await openDisk(path, { format: 'qcow2', writable: true, backing });
      const found = await disk.read(end, 70 * KIB);
      expect(found.every((byte) => byte === 5)).toBe(true);
      await disk.write(MIB + 7, bytes);
      await disk.flush();
    }
    const command = `read -P ${bytes[0]} ${MIB + 7} 1`;
    const io = qemu(pair.ours, 'qemu-io', ['-c', command, NAME]);
    expect(io).not.toMatch(/fail|error/i);
    qemu(pair.ours, 'qemu-img', ['check', '-q', NAME]);
  }

  it.each([
    [0, 'off'],
    [1000, 'off'],
    [4 * MIB + 512, 'falloc'],
    [1, 'full'],
    [3 * MIB - 7, 'full'],
  ])('of %d bytes, raw, preallocation %s, is that of qemu-img', async (size, mode) => {
    await pair.make('disk.raw', { options: `preallocation=${mode}`, size, format: 'raw' });
    const sizes = [pair.ours, pair.theirs].map((path) => statSync(join(path, 'disk.raw')).size);
    expect(sizes[0]).toBe(sizes[1]);
    const args = ['compare', '-f', 'raw', '-F', 'raw'];
    qemu(pair.ours, 'qemu-img', [...args, 'disk.raw', join(pair.theirs, 'disk.raw')]);
    const { blocks } = statSync(join(pair.ours, 'disk.raw'));
    if (mode === 'off') expect(blocks).toBe(0);
    else expect(blocks * 512).toBeGreaterThanOrEqual(size);
  });

  it('is told in one line by the command line, or in none', async () => {
    const args = ['create', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'told.qcow2'];
    expect(await sluice(args, { cwd: pair.ours })).toMatchObject({
      code: 0,
      stdout: "Made 'told.qcow2': qcow2, 3 MiB (3145728 bytes), backing file 'base.raw' (raw)\n",
      stderr: '',
    });
    const quiet = await sluice(['create', '-q', 'quiet.raw', '1.5k'], { cwd: pair.ours });
    expect(quiet).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(statSync(join(pair.ours, 'quiet.raw')).size).toBe(1536);
    const unsafe = ['create', '-u', '-f', 'qcow2', '-b', 'no.raw', '-F', 'raw', 'u.qcow2', '1M'];
    expect(await sluice(unsafe, { cwd: pair.ours })).toMatchObject({ code: 0, stderr: '' });
    const info = await image.info(join(pair.ours, 'u.qcow2'));
    expect(info['backing-filename']).toBe('no.raw');
    const help = await sluice(['create', '-f', 'qcow2', '-o', 'help'], { cwd: pair.ours });
    expect(help.stdout).toContain('\n  encrypt.key-secret\n');
  });
});

interface Extent {
  readonly start: number;
  readonly length: number;
  readonly present: boolean;
  readonly data: boolean;
}

/** What is said of the disk; where QEMU has cut it does not matter, nor the place. */
function said(extents: readonly Extent[]): unknown[] {
  const told: { start: number; length: number; what: string }[] = [];
  for (const { start, length, present, data } of extents) {
    const what = `${present} ${data}`;
    const last = told.at(-1);
    if (last?.what === what) last.length += length;
    else told.push({ start, length, what });
  }
  return told;
}

function dataSize(folder: string): number {
  return statSync(join(folder, 'data.raw')).size;
}

/** Bytes that the host has set aside. */
function roomOf(folder: string, { options }: Asked): number {
  const name = options.includes('data_file') ? 'data.raw' : NAME;
  return statSync(join(folder, name)).blocks * 512;
}

describe('room that is set aside', () => {
  const folder = imageFolder();

  it('is told as it grows, to the end', async () => {
    for (const preallocation of ['falloc', 'full'] as const) {
      const told: number[] = [];
      await image.create(join(folder, 'disk.raw'), {
        sizeBytes: 5 * MIB + 512,
        preallocation,
        onProgress: ({ doneBytes, totalBytes }) => told.push(doneBytes / totalBytes),
      });
      expect(told.at(-1)).toBe(1);
      expect(told).toEqual(told.toSorted((one, other) => one - other));
    }
  });

  it('is written where the system cannot set it aside', async () => {
    process.env['SLUICE_NO_KOFFI'] = '1';
    try {
      await make(folder, 'disk.qcow2', { options: 'preallocation=falloc', size: 3 * MIB });
    } finally {
      delete process.env['SLUICE_NO_KOFFI'];
    }
    expect(statSync(join(folder, 'disk.qcow2')).blocks * 512).toBeGreaterThan(3 * MIB);
  });
});
