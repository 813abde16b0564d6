/** `sluice snapshot` does to an image what `qemu-img snapshot` does. */
import { copyFileSync } from 'node:fs';
import { beforeAll, expect, it } from 'vitest';

import { image, openDisk } from '../../src/node.ts';
import { sluice } from '../cli/sluice.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import {
  both,
  bothDo,
  create,
  expectSameDisk,
  expectSound,
  told,
  twinsOf,
  write,
} from './twins.ts';

describeWithPeers(['qemu-img', 'qemu-io'], 'snapshots of an image', () => {
  const folder = imageFolder();
  let base = '';
  beforeAll(() => {
    base = create(folder, 'base.qcow2', '20M');
    write(base, 'write -P 1 0 1M', 'write -P 2 5M 300k');
  });
  const copy = (name: string): string => {
    const path = `${folder}/${name}.qcow2`;
    copyFileSync(base, path);
    return path;
  };

  it('are taken, applied and deleted as by qemu-img', async () => {
    const twins = twinsOf(copy('all'));
    const { theirs, ours } = twins;
    const steps = ['-c one', '-c two', '-c one', '-d one', '-a two', '-a 3', '-d two', '-d one'];
    for (const [index, step] of steps.entries()) {
      await bothDo(twins, ['snapshot', ...step.split(' ')]);
      expect(told(ours), step).toEqual(told(theirs));
      expectSameDisk(ours, theirs);
      expectSound(ours);
      for (const path of [ours, theirs]) write(path, `write -P ${index + 10} ${index}M 200k`);
    }
  });

  it('are listed as by qemu-img, and as JSON', async () => {
    const path = copy('listed');
    for (const name of ['first', 'a name of more than sixteen characters']) {
      await image.createSnapshot(path, name, { date: new Date('2026-01-02T03:04:05Z') });
    }
    for (const args of [
      ['snapshot', '-l'],
      ['snapshot', '-q', '-l'],
    ]) {
      const { codes, expected, found } = await both({ folder, theirs: path, ours: path }, args);
      expect(codes).toEqual([0, 0]);
      expect(found.stdout.replaceAll(/ +0$/gm, '')).toBe(expected.stdout.replaceAll(/ +0$/gm, ''));
    }
    const json = await sluice(['snapshot', '--output', 'json', path]);
    expect(JSON.parse(json.stdout)).toEqual(await image.snapshots(path));
    expect((await image.snapshots(path)).map(({ name }) => name)[0]).toBe('first');
    expect(await image.info(path)).toMatchObject({ snapshots: await image.snapshots(path) });
  });

  it('of a raw image are none', async () => {
    const path = create(folder, 'raw.raw', '1M');
    const { codes, found } = await both({ folder, theirs: path, ours: path }, ['snapshot', '-l']);
    expect([codes, found.stdout]).toEqual([[0, 0], '']);
    await expectRefusal(
      image.createSnapshot(path, 'one', { format: 'raw' }),
      'ERR_SLUICE_UNSUPPORTED',
      /raw image, which has no snapshots/,
    );
  });

  it.for([
    [[], []],
    [['-l', '-c', 'x'], []],
    [['-l', '-l'], []],
    [['-d', 'nope'], []],
    [['-a', 'nope'], []],
    [['-c', 'x'], ['second.qcow2']],
    [['-U', '-c', 'x'], []],
    [['--bogus'], []],
    [['-c'], []],
  ])('%s: the exit code is that of qemu-img, and the image as it was', async ([args, tail]) => {
    const twins = twinsOf(copy('refused'));
    if (args!.length === 0) return expect((await sluice(['snapshot'])).code).toBe(1);
    const before = told(twins.ours);
    const { codes, found } = await both(twins, ['snapshot', ...args!], tail);
    expect(codes, found.stderr).toEqual([1, 1]);
    expect(found.stderr).toMatch(/^sluice: /);
    expect(told(twins.ours)).toEqual(before);
    expectSound(twins.ours);
  });

  it('of an image in use are refused', async () => {
    const path = copy('used');
    await using _disk = await openDisk(path, { format: 'qcow2', writable: true });
    for (const args of [['-c', 'x'], ['-l']]) {
      const { code, stderr } = await sluice(['snapshot', ...args, path]);
      expect([code, stderr]).toEqual([1, expect.stringMatching(/ERR_SLUICE_LOCKED/)]);
    }
    expect((await sluice(['snapshot', '-l', '-U', path])).code).toBe(0);
  });

  it('help names exit codes and examples', async () => {
    const { stdout } = await sluice(['snapshot', '--help']);
    expect(stdout).toMatch(/Exit codes:[^]*Examples:[^]*sluice snapshot -c/);
  });
});
