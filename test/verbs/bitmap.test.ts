/** `sluice bitmap` leaves the bitmaps that `qemu-img bitmap` leaves. */
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import { image, openDisk } from '../../src/node.ts';
import { sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { dirtyRanges, listBitmaps } from '../image/bitmaps-qemu.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { both, bothDo, create, expectSound, told, twinsOf, write } from './twins.ts';

describeWithPeers(['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo'], 'bitmaps of an image', () => {
  const folder = imageFolder();
  let base = '';
  beforeAll(() => {
    base = create(folder, 'base.qcow2', '20M');
    qemu(folder, 'qemu-img', ['bitmap', '--add', base, 'kept']);
    write(base, 'write -P 1 3M 100k');
    const other = create(folder, 'other.qcow2', '20M');
    qemu(folder, 'qemu-img', ['bitmap', '--add', '-g', '4k', other, 'far']);
    write(other, 'write -P 1 13M 10k');
  });

  it.for([
    ['--add'],
    ['--add', '-g', '512'],
    ['--add', '--granularity', '1M', '--disable'],
    ['--add', '--disable', '--enable'],
    ['--disable', '--add'],
    ['--add', '--merge', 'kept'],
    ['--add', '--merge', 'kept', '--clear'],
    ['--add', '--merge', 'far', '-b', 'other.qcow2', '-F', 'qcow2', '--merge', 'far'],
    ['--add', '--merge', 'far', '-b', 'other.qcow2', '--disable', '--clear'],
    ['--add', '--remove'],
    ['--add', '--remove', '--add', '-f', 'qcow2'],
    ['--remove'],
    ['--merge', 'kept', '--add'],
    ['--add', '--add'],
    ['--add', '--merge', 'nowhere'],
  ])('%s: are those of qemu-img', async (args) => {
    const twins = twinsOf(base);
    const { codes, found, expected } = await both(twins, ['bitmap', ...args], ['new']);
    expect(codes[1], found.stderr + expected.stderr).toBe(codes[0]);
    expect(told(twins.ours)).toEqual(told(twins.theirs));
    expectSound(twins.ours);
    for (const { name } of listBitmaps(folder, twins.theirs)) {
      const theirs = dirtyRanges(folder, twins.theirs, name);
      expect(dirtyRanges(folder, twins.ours, name)).toEqual(theirs);
    }
  });

  it.for(['--clear', '--remove', '--disable', '--enable'])(
    '%s of one that is set',
    async (what) => {
      const twins = twinsOf(base);
      await bothDo(twins, ['bitmap', what], ['kept']);
      expect(told(twins.ours)).toEqual(told(twins.theirs));
      expectSound(twins.ours);
    },
  );

  it('go on to learn what is written, by QEMU', async () => {
    const { ours } = twinsOf(base);
    await image.bitmap(ours, 'new', [{ do: 'add', granularityBytes: 65536 }, { do: 'enable' }]);
    write(ours, 'write 1M 64k');
    expectSound(ours);
    const found = await image.info(ours);
    const specific = found['format-specific'];
    if (specific?.type !== 'qcow2') return expect.unreachable('it is no qcow2 image');
    expect(specific.data.bitmaps?.map(({ name }) => name)).toEqual(['kept', 'new']);
  });

  it.for([
    [[], ['new']],
    [['--add'], []],
    [['--add'], ['new', 'more']],
    [['--add', '-g', '700'], ['new']],
    [['--enable', '-g', '512'], ['kept']],
    [['--add', '-b', 'other.qcow2'], ['new']],
    [['--add', '-F', 'qcow2'], ['new']],
    [['--add', '-f', 'raw'], ['new']],
    [['--merge'], []],
    [['--bogus'], ['new']],
    [['--add'], ['kept']],
    [['--clear'], ['new']],
    [['--merge', 'far', '-b', 'nowhere.qcow2'], ['kept']],
  ])('%s %s: the exit code is that of qemu-img, and they are as before', async ([args, tail]) => {
    const twins = twinsOf(base);
    const { codes, found } = await both(twins, ['bitmap', ...args!], tail);
    expect(codes, found.stderr).toEqual([1, 1]);
    expect(found.stderr).toMatch(/^sluice: /);
    expect(told(twins.ours)).toEqual(told(base));
  });

  it('of an image in use are refused', async () => {
    const { ours } = twinsOf(base);
    await using _disk = await openDisk(ours, { format: 'qcow2', writable: true });
    await expectRefusal(image.bitmap(ours, 'new', { do: 'add' }), 'ERR_SLUICE_LOCKED', /lock/);
    const from = { do: 'merge', name: 'kept', path: ours } as const;
    const other = image.bitmap(join(folder, 'other.qcow2'), 'far', from);
    await expectRefusal(other, 'ERR_SLUICE_LOCKED', /lock/);
    expect((await sluice(['bitmap', '--help'])).stdout).toMatch(/Exit codes:[^]*Examples:/);
  });
});
