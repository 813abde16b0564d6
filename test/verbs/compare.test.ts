/** Comparisons come to the result and the exit code of qemu-img. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import { sluice } from '../cli/sluice.ts';
import { Random } from '../engine/random.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { makeImages } from './images.ts';

const MIB = 2 ** 20;
const SEED = 5;
const ROUNDS = 15;

describeWithPeers(['qemu-img', 'qemu-io'], 'compare', () => {
  const folder = imageFolder();
  let paths = new Map<string, string>();
  beforeAll(() => {
    paths = makeImages(folder);
    writeFileSync(join(folder, 'empty'), Buffer.alloc(MIB));
  });

  /** What qemu-img says: its exit code, and the offset of a difference. */
  function theirs(args: readonly string[]) {
    const options = { encoding: 'utf8', cwd: folder } as const;
    const { status, stdout } = spawnSync('qemu-img', ['compare', ...args], options);
    return { code: status, offset: Number(/(\d+)/.exec(stdout)?.[1] ?? Number.NaN) };
  }

  async function ours(args: readonly string[]) {
    const { code, stdout } = await sluice(['compare', '--output', 'json', ...args]);
    return { code, offset: code! < 2 ? (JSON.parse(stdout).offset ?? Number.NaN) : Number.NaN };
  }

  it('finds what qemu-img finds, for each pair of images', async () => {
    const all = [...paths.values()];
    for (const [index, first] of all.entries()) {
      const second = all[(index + 1) % all.length]!;
      expect(await ours([first, second])).toEqual(theirs([first, second]));
      expect(await ours([first, first])).toEqual({ code: 0, offset: Number.NaN });
    }
  });

  it('takes a cache mode for the images, as qemu-img does', async () => {
    const one = paths.get('default')!;
    for (const mode of ['none', 'unsafe']) {
      expect(theirs(['-T', mode, one, one]).code).toBe(0);
      expect((await ours(['-T', mode, one, one])).code).toBe(0);
    }
    const { stderr } = await sluice(['compare', '-T', 'sometimes', one, one]);
    expect(stderr).toContain('Allowed choices are');
  });

  it('finds the first sector that differs, wherever it is', async () => {
    const random = new Random(SEED);
    const one = join(folder, 'one');
    const other = join(folder, 'other');
    const bytes = Buffer.alloc(5 * MIB + 512);
    for (let at = 0; at < bytes.length; at += 64 * 1024) {
      if (random.chance(0.5)) bytes.fill(9, at, Math.min(bytes.length, at + 40_000));
    }
    writeFileSync(one, bytes);
    for (let round = 0; round < ROUNDS; round++) {
      const changed = Buffer.from(bytes);
      const at = random.below(bytes.length);
      changed[at] = (changed[at] ?? 0) ^ 1;
      writeFileSync(other, changed.subarray(0, bytes.length - (round % 3) * 512));
      const expected = theirs(['-f', 'raw', '-F', 'raw', one, other]);
      const found = await ours(['-f', 'raw', '-F', 'raw', one, other]);
      expect(found, `seed ${SEED}, round ${round}, ${at}`).toEqual(expected);
    }
  });

  it('takes a longer disk for the same when the rest is zeroes', async () => {
    const short = join(folder, 'short');
    writeFileSync(short, Buffer.alloc(MIB / 2));
    const run = await sluice(['compare', join(folder, 'empty'), short]);
    expect(run).toMatchObject({ code: 0, stderr: '' });
    expect(run.stdout).toContain('other sizes');
    expect(await ours(['-s', join(folder, 'empty'), short])).toMatchObject({ code: 1 });
  });

  it('finds other allocations with -s, as qemu-img does', async () => {
    const from = paths.get('default')!;
    const copy = join(folder, 'copy.qcow2');
    qemu(folder, 'qemu-img', ['convert', '-O', 'qcow2', from, copy]);
    for (const pair of [
      [from, from],
      [from, copy],
      [copy, paths.get('compressed')!],
    ]) {
      const args = ['-s', ...pair];
      expect((await ours(args)).code).toBe(theirs(args).code);
    }
  });

  it('says what could not be opened or read, with its exit code', async () => {
    const path = paths.get('default')!;
    expect(await ours([path, join(folder, 'nowhere')])).toMatchObject({ code: 2 });
    expect(theirs([path, join(folder, 'nowhere')])).toMatchObject({ code: 2 });
    const damaged = join(folder, 'damaged');
    const bytes = readFileSync(paths.get('compressed')!);
    bytes.fill(0xff, 5 * 65_536);
    writeFileSync(damaged, bytes);
    const run = await sluice(['compare', path, damaged]);
    expect(run.code).toBe(theirs([path, damaged]).code);
    expect(run.stderr).toMatch(/is damaged/);
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'dd and bench', () => {
  const folder = imageFolder();
  const path = join(folder, 'disk');
  const bytes = Buffer.alloc(3 * MIB);
  beforeAll(() => {
    for (let at = 0; at < bytes.length; at += 1024) bytes.writeUInt32LE(at, at);
    writeFileSync(path, bytes);
  });

  it.for([
    ['bs=1k', 'count=3', 'skip=5'],
    ['bs=1M', 'skip=1'],
    ['count=7'],
    ['bs=1000000', 'count=2', 'skip=1'],
    ['bs=1M', 'skip=9'],
  ])('dd copies %s', async (operands) => {
    const out = join(folder, 'out');
    const run = await sluice(['dd', '-f', 'raw', `if=${path}`, `of=${out}`, ...operands]);
    expect(run).toMatchObject({ code: 0, stdout: '', stderr: '' });
    const value = (name: string): string | undefined =>
      operands.find((text) => text.startsWith(`${name}=`))?.slice(name.length + 1);
    const size = value('bs')?.replace('k', '000').replace('M', '000000') ?? '512';
    const blockBytes = { '1000': 1024, '1000000': MIB, '512': 512 }[size] ?? Number(size);
    const exact = value('bs') === '1000000' ? 1_000_000 : blockBytes;
    const from = Number(value('skip') ?? 0) * exact;
    const length = Number(value('count') ?? Infinity) * exact;
    const part = bytes.subarray(from, from + length);
    const rest = Buffer.alloc((512 - (part.length % 512)) % 512);
    expect(readFileSync(out).equals(Buffer.concat([part, rest]))).toBe(true);
  });

  it('dd makes qcow2 images', async () => {
    const out = join(folder, 'out.qcow2');
    const run = await sluice(['dd', '-O', 'qcow2', `if=${path}`, `of=${out}`, 'bs=1M', 'skip=1']);
    expect(run.code).toBe(0);
    writeFileSync(join(folder, 'part'), bytes.subarray(MIB));
    expect(() => qemu(folder, 'qemu-img', ['compare', 'part', 'out.qcow2'])).not.toThrow();
    qemu(folder, 'qemu-img', ['check', '-q', 'out.qcow2']);
  });

  it.for([
    [['if=x'], /of= must be there/],
    [['if=x', 'of=y', 'colour=red'], /no operand 'colour=red'/],
    [['if=x', 'of=y', 'bs=0'], /at least 1/],
    [['if=x', 'of=y', 'count=some'], /'some' is no number/],
  ] as const)('dd refuses %s', async ([operands, message]) => {
    const run = await sluice(['dd', ...operands]);
    expect([run.code, run.stdout]).toEqual([1, '']);
    expect(run.stderr).toMatch(message);
  });

  it('bench reads, and writes what it is told to', async () => {
    const read = ['bench', '-f', 'raw', '-c', '500', '-d', '4', '--output', 'json', path];
    const found = JSON.parse((await sluice(read)).stdout);
    expect(found).toMatchObject({ requests: 500, clat_ns: { percentile: {} } });
    expect(found.iops).toBeGreaterThan(0);
    expect(readFileSync(path).equals(bytes)).toBe(true);
    const write = ['-w', '--pattern', '7', '-s', '64k', '-o', '1M', '--flush-interval', '8'];
    const run = await sluice(['bench', '-f', 'raw', '-c', '32', ...write, path]);
    expect(run).toMatchObject({ code: 0, stderr: '' });
    expect(run.stdout).toMatch(/^32 writes of 65536 bytes, 64 at once: \d+\.\d+ seconds\n/);
    expect(
      readFileSync(path)
        .subarray(MIB)
        .every((byte) => byte === 7),
    ).toBe(true);
    expect(readFileSync(path).subarray(0, MIB).equals(bytes.subarray(0, MIB))).toBe(true);
  });
});
