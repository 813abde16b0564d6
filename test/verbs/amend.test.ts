/** `sluice amend` makes of an image what `qemu-img amend` makes of it. */
import { beforeAll, expect, it } from 'vitest';

import { image, openDisk } from '../../src/node.ts';
import { sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
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

describeWithPeers(['qemu-img', 'qemu-io'], 'an image that is amended', () => {
  const folder = imageFolder();
  let base = '';
  beforeAll(() => {
    base = create(folder, 'base.qcow2', '20M');
    write(base, 'write -P 1 0 1M', 'write -z 5M 300k');
  });

  it.for([
    ['compat=0.10'],
    ['compat=v2', 'compat=v3'],
    ['lazy_refcounts=on', 'lazy_refcounts=off'],
    ['refcount_bits=64', 'refcount_bits=1', 'refcount_bits=16,compat=0.10'],
    ['lazy_refcounts,refcount_bits=32'],
    ['size=30M'],
    ['compat=0.10,size=25M', 'size=26M,compat=1.1'],
  ])('with %s is what qemu-img makes of it', async (steps) => {
    const twins = twinsOf(base);
    for (const step of steps) {
      await bothDo(twins, ['amend', '-o', step]);
      expect(told(twins.ours), step).toEqual(told(twins.theirs));
      expectSound(twins.ours);
    }
    expectSameDisk(twins.ours, twins.theirs);
  });

  it.for([
    ['amend'],
    ['amend', '-o', 'foo=1'],
    ['amend', '-o', 'compat=0.9'],
    ['amend', '-o', 'refcount_bits=3'],
    ['amend', '-o', 'lazy_refcounts=banana'],
    ['amend', '-o', 'encrypt.state=active'],
    ['amend', '-o', 'cluster_size=1M'],
    ['amend', '-o', 'data_file=x'],
    ['amend', '-o', 'data_file_raw=on'],
    ['amend', '-o', 'backing_file=x'],
    ['amend', '-t', 'bogus', '-o', 'compat=v3'],
  ])('%s: the exit code is that of qemu-img, and the image as it was', async (args) => {
    const twins = twinsOf(base);
    const before = told(twins.ours);
    const { codes, found } = await both(twins, args);
    expect(codes, found.stderr).toEqual([1, 1]);
    expect(found.stderr).toMatch(/^sluice: /);
    const [, name] = /^(encrypt\.state|data_file|foo)=/.exec(args.at(-1) ?? '') ?? [];
    if (name !== undefined) expect(found.stderr).toContain(`'${name}'`);
    expect(told(twins.ours)).toEqual(before);
  });

  it('names another backing file', async () => {
    create(folder, 'below.raw', '20M');
    const { ours } = twinsOf(base);
    const named = ['amend', '-o', 'backing_file=below.raw,backing_fmt=raw', ours];
    expect((await sluice(named)).code).toBe(0);
    expect(told(ours)).toMatchObject({
      'backing-filename': 'below.raw',
      'backing-filename-format': 'raw',
    });
    expect((await sluice(['amend', '-o', 'backing_file=', ours])).code).toBe(0);
    expect(told(ours)).toEqual(told(base));
  });

  it('loses nothing behind its end unless it is told to', async () => {
    const { ours } = twinsOf(base);
    const smaller = ['amend', '-o', 'size=2M,lazy_refcounts=on', ours];
    const refused = await sluice(smaller);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringMatching(/: pass --force to/) });
    expect(told(ours)).toEqual(told(base));
    expect((await sluice([...smaller, '--force'])).code).toBe(0);
    expect(told(ours)).toMatchObject({ 'virtual-size': 2 ** 21 });
    expectSound(ours);
  });

  it('says how far it is, and lists the options', async () => {
    const { ours } = twinsOf(base);
    const { stdout } = await sluice(['amend', '-p', '-o', 'refcount_bits=8', ours]);
    expect(stdout).toMatch(/^ {4}\(0\.00\/100%\)\r[^]*\(100\.00\/100%\)\r\n$/);
    expect((await sluice(['amend', '-o', 'help'])).stdout).toMatch(/^ {2}refcount_bits=N/m);
    expect((await sluice(['amend', '--help'])).stdout).toMatch(/Exit codes:[^]*Examples:/);
    expect(qemu('.', 'qemu-img', ['amend', '-o', 'help', '-f', 'qcow2'])).toMatch(/size=/);
  });

  it('must be qcow2, and not in use', async () => {
    const raw = create(folder, 'raw.raw', '1M');
    const { ours } = twinsOf(base);
    await expectRefusal(image.amend(raw, { version: 2 }), 'ERR_SLUICE_UNSUPPORTED', /raw image/);
    await using _disk = await openDisk(ours, { format: 'qcow2', writable: true });
    await expectRefusal(image.amend(ours, { version: 2 }), 'ERR_SLUICE_LOCKED', /lock/);
    expect(told(ours)).toEqual(told(base));
  });
});
