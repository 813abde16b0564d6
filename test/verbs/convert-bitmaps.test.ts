/** `sluice convert --bitmaps` copies the bitmaps that `qemu-img convert --bitmaps` copies. */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import { sluice } from '../cli/sluice.ts';
import { dirtyRanges, listBitmaps } from '../image/bitmaps-qemu.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { create, expectSound, write } from './twins.ts';

describeWithPeers(['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo'], 'convert --bitmaps', () => {
  const folder = imageFolder();
  const ours = join(folder, 'ours.qcow2');
  const theirs = join(folder, 'theirs.qcow2');
  let from = '';
  beforeAll(() => {
    from = create(folder, 'from.qcow2', '40M');
    for (const args of [['one'], ['-g', '512', 'two'], ['--disable', '-g', '1M', 'off']]) {
      const [name = ''] = args.slice(-1);
      qemu(folder, 'qemu-img', ['bitmap', '--add', ...args.slice(0, -1), from, name]);
      write(from, `write -P 1 ${args.length * 5}M 100k`);
    }
    write(from, 'write -P 2 39M 3k');
  });

  const convert = (...args: string[]) =>
    sluice(['convert', '-O', 'qcow2', '--bitmaps', ...args, from, ours]);

  it.for([
    [],
    ['-o', 'cluster_size=4k'],
    ['-c', '-o', 'cluster_size=2M,compression_type=zstd'],
    ['-o', 'cluster_size=512,refcount_bits=1'],
    ['-o', 'preallocation=metadata,extended_l2=on'],
  ])('%s: they are those of qemu-img', async (options) => {
    expect(await convert(...options)).toMatchObject({ code: 0, stderr: '' });
    const given = ['convert', '-O', 'qcow2', '--bitmaps', ...options];
    qemu(folder, 'qemu-img', [...given, from, theirs]);
    expectSound(ours);
    expect(listBitmaps(folder, ours)).toEqual(listBitmaps(folder, theirs));
    for (const { name } of listBitmaps(folder, theirs)) {
      expect(dirtyRanges(folder, ours, name)).toEqual(dirtyRanges(folder, theirs, name));
    }
    qemu(folder, 'qemu-img', ['compare', from, ours]);
  });

  it('copies them into an image that is there', async () => {
    qemu(folder, 'qemu-img', ['create', '-q', '-f', 'qcow2', ours, '40M']);
    expect(await convert('-n')).toMatchObject({ code: 0, stderr: '' });
    expectSound(ours);
    expect(listBitmaps(folder, ours)).toEqual(listBitmaps(folder, from));
    expect((await convert('-n')).stderr).toMatch(/there is a bitmap "one"; use another name/);
  });

  it('refuses one that cannot be used, or leaves it out', async () => {
    const whole = join(folder, 'whole.qcow2');
    copyFileSync(from, whole);
    try {
      // The flags stand 12 bytes before the name, and the lowest says that it is in use. The name
      // stands in older directories, too.
      const bytes = readFileSync(from);
      for (let at = bytes.indexOf('one'); at >= 0; at = bytes.indexOf('one', at + 1)) {
        bytes.writeUInt32BE((bytes.readUInt32BE(at - 12) | 1) >>> 0, at - 12);
      }
      writeFileSync(from, bytes);
      writeFileSync(ours, 'old');
      const refused = await convert();
      expect(refused).toMatchObject({ code: 1, stdout: '' });
      expect(refused.stderr).toMatch(/the bitmap "one" cannot be copied: .*--skip-broken-bitmaps/);
      expect(readFileSync(ours, 'utf8')).toBe('old');
      expect(await convert('--skip-broken-bitmaps')).toMatchObject({ code: 0, stderr: '' });
      expect(listBitmaps(folder, ours).map(({ name }) => name)).toEqual(['two', 'off']);
    } finally {
      copyFileSync(whole, from);
    }
  });

  it.for([
    [['-l', 'snapshot'], /all of it and as it is/],
    [['-O', 'raw'], /a raw image has no bitmaps/],
  ] as const)('%s: is refused', async ([options, message]) => {
    const run = await convert(...options);
    expect(run).toMatchObject({ code: 1, stdout: '' });
    expect(run.stderr).toMatch(message);
  });
});
