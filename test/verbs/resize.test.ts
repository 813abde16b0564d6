/** `sluice resize` makes disks of the sizes that `qemu-img resize` makes. */
import { statSync } from 'node:fs';
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
  mapped,
  told,
  twinsOf,
  write,
} from './twins.ts';

describeWithPeers(['qemu-img', 'qemu-io'], 'a disk that gets another size', () => {
  const folder = imageFolder();
  let base = '';
  let raw = '';
  let overlay = '';
  beforeAll(() => {
    base = create(folder, 'base.qcow2', '20M');
    write(base, 'write -P 1 0 1M', 'write -P 2 19M 1M');
    raw = create(folder, 'raw.raw', '20M');
    write(raw, 'write -P 1 0 1M', 'write -P 2 19M 1M');
    overlay = create(folder, 'overlay.qcow2', '-b', 'raw.raw', '-F', 'raw', '10M');
  });

  it.for([
    ['30M', '+1M', '--shrink -2M', '1G', '--shrink 10M', '20M', '+0'],
    ['+512', '--shrink -512', '--shrink 512'],
    ['0x2000000', '5G'],
  ])('has the sizes of qemu-img after %s', async (sizes) => {
    for (const twins of [twinsOf(base), twinsOf(raw), twinsOf(overlay)]) {
      const { ours, theirs } = twins;
      const format = ours.endsWith('.raw') ? 'raw' : 'qcow2';
      for (const size of sizes) {
        const words = size.split(' ');
        await bothDo(twins, ['resize', '-q', '-f', format, ...words.slice(0, -1)], words.slice(-1));
        expect(told(ours), size).toEqual(told(theirs));
        expectSameDisk(ours, theirs);
        if (format === 'qcow2') expectSound(ours);
      }
    }
  });

  it('says that it is done, unless it is to be quiet; raw without -f is warned of', async () => {
    const { ours } = twinsOf(raw);
    const loud = await sluice(['resize', ours, '21M']);
    expect([loud.code, loud.stdout]).toEqual([0, 'Image resized.\n']);
    expect(loud.stderr).toMatch(/^sluice: warning: .*-f raw/);
    const quiet = await sluice(['resize', '-q', '-f', 'raw', ours, '22M']);
    expect(quiet).toMatchObject({ code: 0, stdout: '', stderr: '' });
  });

  it.for(['falloc', 'full'])('of a raw image takes space with %s', async (mode) => {
    const twins = twinsOf(raw);
    await bothDo(twins, ['resize', '-f', 'raw', `--preallocation=${mode}`], ['24M']);
    expect(statSync(twins.ours).blocks * 512).toBeGreaterThanOrEqual(6 * 2 ** 20);
    expectSameDisk(twins.ours, twins.theirs);
  });

  it.for([
    ['qcow2', ['resize'], ['10M']],
    ['qcow2', ['resize'], ['-1M']],
    ['qcow2', ['resize'], ['0']],
    ['qcow2', ['resize', '--shrink'], ['0']],
    ['qcow2', ['resize', '--shrink'], ['-20M']],
    ['qcow2', ['resize'], ['+1000']],
    ['qcow2', ['resize'], ['foo']],
    ['qcow2', ['resize'], ['+-1M']],
    ['qcow2', ['resize'], ['10000000000000G']],
    ['qcow2', ['resize'], []],
    ['qcow2', ['resize'], ['30M', '40M']],
    ['qcow2', ['resize', '--bogus'], ['30M']],
    ['qcow2', ['resize', '-x'], ['30M']],
    ['qcow2', ['resize', '--preallocation=bogus'], ['30M']],
    ['qcow2', ['resize', '--shrink', '--preallocation=falloc'], ['10M']],
    ['raw', ['resize', '-f', 'raw', '--preallocation=metadata'], ['30M']],
    ['raw', ['resize', '-f', 'raw', '--shrink', '--preallocation=full'], ['10M']],
    ['raw', ['resize', '-f', 'qcow2'], ['30M']],
    ['raw', ['resize', '-f', 'raw'], ['1000000']],
  ] as const)('%s: %s %s has the exit code of qemu-img', async ([format, args, tail]) => {
    const from = format === 'raw' ? raw : base;
    const twins = twinsOf(from);
    const { codes, found } = await both(twins, args, tail);
    expect(codes, found.stderr).toEqual([1, 1]);
    expect(found.stderr).toMatch(/^sluice: /m);
    expect(told(twins.ours)).toEqual(told(from));
    expect(mapped(twins.ours)).toEqual(mapped(from));
  });

  it('does not shrink without the word; old snapshots refuse it', async () => {
    const { ours } = twinsOf(base);
    const small = await sluice(['resize', ours, '10M']);
    expect(small.stderr).toMatch(/--shrink/);
    const two = twinsOf(base).theirs;
    qemu(folder, 'qemu-img', ['snapshot', '-c', 'one', two]);
    qemu(folder, 'qemu-img', ['amend', '-o', 'compat=0.10', two]);
    await expectRefusal(image.resize(two, 2 ** 25), 'ERR_SLUICE_UNSUPPORTED', /snapshots/);
  });

  it('of an image in use is refused', async () => {
    const { ours } = twinsOf(base);
    await using _disk = await openDisk(ours, { format: 'qcow2', writable: true });
    await expectRefusal(image.resize(ours, { by: 512 }), 'ERR_SLUICE_LOCKED', /lock/);
    expect((await sluice(['resize', '--help'])).stdout).toMatch(/Exit codes:[^]*Examples:/);
  });
});
