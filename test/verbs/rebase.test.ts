/** `sluice rebase` leaves what `qemu-img rebase` leaves, and a disk that reads as before. */
import { setTimeout as wait } from 'node:timers/promises';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import { image, openDisk } from '../../src/node.ts';
import { Running, sluice, SLUICE } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import {
  both,
  bothDo,
  copySparse,
  create,
  expectSameDisk,
  expectSound,
  mapped,
  told,
  twinsOf,
  write,
} from './twins.ts';

const KINDS = ['', 'cluster_size=4k', 'compat=0.10', 'cluster_size=16k,extended_l2=on'] as const;

describeWithPeers(['qemu-img', 'qemu-io'], 'an image with another backing file', () => {
  const folder = imageFolder();
  const at = (name: string): string => join(folder, name);

  /** `root` below `middle` below the overlays; and others that know nothing of them. */
  beforeAll(() => {
    write(create(folder, 'root.qcow2', '20M'), 'write -P 1 0 3M', 'write -P 9 15M 2M');
    const over = (name: string, format: string) => ['-b', name, '-F', format];
    const middle = create(folder, 'middle.qcow2', ...over('root.qcow2', 'qcow2'), '12M');
    write(middle, 'write -P 2 2M 1500k', 'write -z 500k 200k', 'write -P 3 11M 900k');
    write(create(folder, 'short.raw', '5M'), 'write -P 1 0 1M', 'write -P 7 3M 77k');
    write(create(folder, 'long.qcow2', '30M'), 'write -P 5 1M 64k', 'write -P 6 13M 8M');
    for (const [index, kind] of KINDS.entries()) {
      const options = kind === '' ? [] : ['-o', kind];
      const path = create(
        folder,
        `top${index}.qcow2`,
        ...options,
        ...over('middle.qcow2', 'qcow2'),
        '20M',
      );
      write(path, 'write -P 8 2500k 100k', 'write -P 4 19M 3k', 'write -z 3M 64k');
    }
    write(create(folder, 'alone.qcow2', '20M'), 'write -P 8 2500k 100k');
  });

  const tops = KINDS.map((_, index) => `top${index}.qcow2`);
  const targets = [
    ['root.qcow2', 'qcow2'],
    ['middle.qcow2', 'qcow2'],
    ['short.raw', 'raw'],
    ['long.qcow2', 'qcow2'],
  ] as const;

  it.for([...tops, 'alone.qcow2'])('%s reads the same over all of them', async (top) => {
    for (const [name, format] of targets) {
      const twins = twinsOf(at(top));
      await bothDo(twins, ['rebase', '-b', name, '-F', format]);
      expect(told(twins.ours)).toEqual(told(twins.theirs));
      expectSound(twins.ours);
      expectSameDisk(twins.ours, at(top));
    }
  });

  it.for([...tops, 'alone.qcow2'])('%s reads the same over none', async (top) => {
    const twins = twinsOf(at(top));
    await bothDo(twins, ['rebase', '-b', '']);
    expect(told(twins.ours)).toEqual(told(twins.theirs));
    expectSound(twins.ours);
    expectSameDisk(twins.ours, at(top));
  });

  it('copies no more than qemu-img', async () => {
    for (const [name, format] of targets.slice(0, 2)) {
      const twins = twinsOf(at('top0.qcow2'));
      await bothDo(twins, ['rebase', '-b', name, '-F', format]);
      const own = (path: string): number =>
        (mapped(path) as { depth: number; data: boolean; length: number }[])
          .filter(({ depth, data }) => depth === 0 && data)
          .reduce((sum, { length }) => sum + length, 0);
      expect(own(twins.ours)).toBeLessThanOrEqual(own(twins.theirs));
    }
  });

  it('has another name alone with -u', async () => {
    const twins = twinsOf(at('top0.qcow2'));
    for (const args of [['-b', 'nowhere.raw', '-F', 'raw'], ['-b', ''], []]) {
      await bothDo(twins, ['rebase', '-u', ...args]);
      expect(told(twins.ours)).toEqual(told(twins.theirs));
    }
    expectSound(twins.ours);
  });

  it.for([
    [],
    ['-b', 'nope.raw', '-F', 'raw'],
    ['-b', 'short.raw'],
    ['-u', '-b', 'short.raw'],
    ['-u', '-F', 'raw'],
    ['-b', 'short.raw', '-F', 'bogus'],
    ['-t', 'bogus', '-b', ''],
    ['-T', 'bogus', '-b', ''],
    ['-b', 'short.raw', '-F', 'qcow2'],
    ['--bogus'],
  ])('%s: the exit code is 1, and the image as it was', async (args) => {
    const { ours, theirs } = twinsOf(at('top0.qcow2'));
    const { code, stderr } = await sluice(['rebase', ...args, ours], { cwd: folder });
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^sluice: /)]);
    expect(told(ours)).toEqual(told(at('top0.qcow2')));
    expect(mapped(ours)).toEqual(mapped(theirs));
  });

  it('is refused over itself, when it is raw, in use, or has snapshots', async () => {
    const twins = twinsOf(at('top0.qcow2'));
    const { codes, found } = await both(twins, ['rebase', '-F', 'qcow2', '-b', twins.ours]);
    expect([codes[1], found.stderr]).toEqual([1, expect.stringMatching(/below itself/)]);
    const backing = { name: 'root.qcow2', format: 'qcow2' } as const;
    const allow = { folders: [folder] };
    const raw = image.rebase(at('short.raw'), { backing, allow });
    await expectRefusal(raw, 'ERR_SLUICE_UNSUPPORTED', /raw image/);
    qemu(folder, 'qemu-img', ['snapshot', '-c', 'one', twins.theirs]);
    const snapshots = image.rebase(twins.theirs, { backing, allow });
    await expectRefusal(snapshots, 'ERR_SLUICE_UNSUPPORTED', /snapshots/);
    await using _disk = await openDisk(twins.ours, {
      format: 'qcow2',
      writable: true,
      backing: allow,
    });
    await expectRefusal(image.rebase(twins.ours, { backing, allow }), 'ERR_SLUICE_LOCKED', /lock/);
  });

  it('has the old backing file when it is aborted', async () => {
    const { ours } = twinsOf(at('top1.qcow2'));
    const stop = new AbortController();
    const work = image.rebase(ours, {
      backing: 'none',
      allow: { folders: [folder] },
      signal: stop.signal,
      onProgress: ({ doneBytes }) => doneBytes > 2 ** 21 && stop.abort(new Error('enough')),
    });
    await expect(work).rejects.toThrow('enough');
    expect(told(ours)).toEqual(told(at('top1.qcow2')));
    expectSound(ours);
    expectSameDisk(ours, at('top1.qcow2'));
  });

  it('reads the same when it is killed, and can be rebased again', async () => {
    const big = create(folder, 'big.qcow2', '300M');
    write(
      big,
      ...Array.from({ length: 30 }, (_, index) => `write -P ${index + 1} ${index * 10}M 9M`),
    );
    const top = create(folder, 'over-big.qcow2', '-b', 'big.qcow2', '-F', 'qcow2', '300M');
    write(top, 'write -P 99 5M 10M');
    const ours = at('killed.qcow2');
    let kills = 0;
    for (const milliseconds of [150, 250, 350, 450, 550, 700, 900]) {
      copySparse(top, ours);
      const args = [SLUICE, 'rebase', '-b', 'short.raw', '-F', 'raw', ours];
      await using running = new Running(process.execPath, args);
      await Promise.race([wait(milliseconds), running.outcome]);
      const { signal } = await running.stop('SIGKILL');
      if (signal === 'SIGKILL') kills++;
      expectSound(ours, true);
      expectSameDisk(ours, top);
    }
    expect(kills).toBeGreaterThan(0);
    expect((await sluice(['rebase', '-b', 'short.raw', '-F', 'raw', ours])).code).toBe(0);
    expectSameDisk(ours, top);
  });

  it('says how far it is', async () => {
    const { ours } = twinsOf(at('top0.qcow2'));
    const { code, stdout } = await sluice(['rebase', '-p', '-b', '', ours]);
    expect([code, stdout]).toEqual([
      0,
      expect.stringMatching(/^ {4}\(0\.00[^]*\(100\.00\/100%\)\r\n$/),
    ]);
    expect((await sluice(['rebase', '--help'])).stdout).toMatch(/Exit codes:[^]*Examples:/);
  });
});
