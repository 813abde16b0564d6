/** Bitmaps that are changed while the image is not open: as by qemu-img, and after power cuts. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import {
  addBitmap,
  clearBitmap,
  disableBitmap,
  enableBitmap,
  removeBitmap,
} from '../../src/image/qcow2/bitmap-edit.ts';
import { mergeBitmap } from '../../src/image/qcow2/bitmap-merge.ts';
import { readBitmapDirectory } from '../../src/image/qcow2/bitmap-directory.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { parseHeader } from '../../src/image/qcow2/header.ts';
import { expectSame } from '../backend/driver.ts';
import { describeWithPeers } from '../support/peers.ts';
import { dirtyRanges } from './bitmaps-qemu.ts';
import {
  type Change,
  change,
  expectSameByQemu,
  expectWhole,
  failEveryWrite,
  IMAGE,
  io,
  load,
  makeImage,
  run,
} from './edited-image.ts';
import { expectRefusal, imageFolder } from './scratch.ts';

interface Step {
  readonly work: Change;
  /** After `qemu-img bitmap`. */
  readonly args: readonly string[];
}

const STATES = 40;

const add = (name: string, granularityBytes?: number, enabled = true): Step => ({
  work: (file, header) =>
    addBitmap(file, header, IMAGE, name, {
      enabled,
      ...(granularityBytes === undefined ? {} : { granularityBytes }),
    }),
  args: [
    '--add',
    ...(granularityBytes === undefined ? [] : ['-g', String(granularityBytes)]),
    ...(enabled ? [] : ['--disable']),
    IMAGE,
    name,
  ],
});
const one = (what: string, name: string): Step => {
  const works = { remove: removeBitmap, clear: clearBitmap, on: enableBitmap, off: disableBitmap };
  const words: Record<string, string> = { on: 'enable', off: 'disable' };
  const work = works[what as keyof typeof works];
  return {
    work: (file, header) => work(file, header, IMAGE, name),
    args: [`--${words[what] ?? what}`, IMAGE, name],
  };
};
const merge = (source: string, name: string): Step => ({
  work: (file, header) => mergeBitmap(file, header, IMAGE, name, { name: source }),
  args: ['--merge', source, IMAGE, name],
});

const STEPS: readonly Step[] = [
  add('first'),
  add('fine', 512),
  add('coarse', 2 ** 20, false),
  one('on', 'coarse'),
  one('off', 'coarse'),
  one('off', 'coarse'),
  merge('written', 'fine'),
  merge('fine', 'coarse'),
  merge('coarse', 'first'),
  merge('first', 'first'),
  one('clear', 'written'),
  one('clear', 'first'),
  one('remove', 'fine'),
  add('ä ü'),
  add('n'.repeat(1023)),
  one('remove', 'n'.repeat(1023)),
  one('remove', 'written'),
  one('remove', 'coarse'),
  one('remove', 'ä ü'),
  one('remove', 'first'),
];

describeWithPeers(['qemu-img', 'qemu-io', 'nbdinfo', 'qemu-nbd'], 'bitmaps of an image', () => {
  const folder = imageFolder();

  function image(options: string, ...more: readonly (readonly string[])[]): void {
    makeImage(
      folder,
      ['-o', options, IMAGE, '4M'],
      ['qemu-img', 'bitmap', '--add', '-g', '4096', IMAGE, 'written'],
      io('write -q -P 1 100k 60k', 'write -q -P 2 3M 4k'),
      ...more,
    );
  }

  it.for([
    'cluster_size=512',
    'cluster_size=4k,refcount_bits=64',
    'cluster_size=64k',
    'cluster_size=16k,extended_l2=on',
  ])('are as qemu-img changes them, and whole after a cut: %s', async (options) => {
    image(options);
    for (const { work, args } of STEPS) {
      const { states } = await change(folder, work);
      expectSameByQemu(folder, ['bitmap', ...args]);
      const name = args.at(-1) ?? '';
      if (!args.includes('--remove') && !args.includes('--disable') && name.length < 99) {
        expect(dirtyRanges(folder, IMAGE, name)).toEqual(dirtyRanges(folder, 'theirs.qcow2', name));
      }
      let left = STATES;
      for (const { epoch, bytes } of states) {
        if (left-- === 0) break;
        const header = expectWhole(bytes, `${args.join(' ').slice(0, 60)}, epoch ${epoch}`);
        const read = await readBitmapDirectory(
          new MemoryFile(new Uint8Array(bytes)),
          header,
          IMAGE,
        );
        expect(read.problem).toBeUndefined();
      }
    }
    expect(parseHeader(readFileSync(join(folder, IMAGE)), IMAGE).bitmaps).toBeUndefined();
  });

  it('have the granularity that qemu-img gives them', async () => {
    for (const size of ['512', '1k', '4k', '8k', '64k', '2M']) {
      makeImage(folder, ['-o', `cluster_size=${size}`, IMAGE, '4M']);
      await change(folder, add('b').work);
      expectSameByQemu(folder, ['bitmap', '--add', IMAGE, 'b']);
    }
  });

  it('lose nothing when a write fails', async () => {
    for (const { work } of [
      add('b'),
      one('remove', 'written'),
      one('clear', 'written'),
      merge('written', 'other'),
    ]) {
      image('cluster_size=512', ['qemu-img', 'bitmap', '--add', '-g', '512', IMAGE, 'other']);
      const failures = await failEveryWrite(folder, work, (bytes, failing) => {
        expectWhole(bytes, `write ${failing}`);
      });
      expect(failures).toBeGreaterThan(2);
    }
  });

  it('are merged from another image of the same size only', async () => {
    image('cluster_size=4k');
    writeFileSync(join(folder, 'b.qcow2'), readFileSync(join(folder, IMAGE)));
    image('cluster_size=512', ['qemu-img', 'bitmap', '--add', '-g', '64k', IMAGE, 'into']);
    const other = new MemoryFile(new Uint8Array(readFileSync(join(folder, 'b.qcow2'))));
    const source = { file: other, header: parseHeader(other.bytes, 'b'), path: 'b.qcow2' };
    const work: Change = (file, header) =>
      mergeBitmap(file, header, IMAGE, 'into', { name: 'written', image: source });
    await change(folder, work);
    const from = ['--merge', 'written', '-b', 'b.qcow2', '-F', 'qcow2'];
    expectSameByQemu(folder, ['bitmap', ...from, IMAGE, 'into']);
    expect(dirtyRanges(folder, IMAGE, 'into')).toEqual(dirtyRanges(folder, 'theirs.qcow2', 'into'));
    makeImage(folder, [IMAGE, '8M'], ['qemu-img', 'bitmap', '--add', IMAGE, 'into']);
    await expectRefusal(change(folder, work), 'ERR_SLUICE_UNSUPPORTED', /of the same size/);
    expect(run(folder, 'qemu-img', 'bitmap', ...from, IMAGE, 'into')).not.toBe(0);
  });

  it.for([
    ['written', add('written'), 'UNSUPPORTED', /there is a bitmap/],
    ['granularity', add('b', 256), 'INVALID_ARGUMENT', /power of two/],
    ['granularity', add('b', 1000), 'INVALID_ARGUMENT', /power of two/],
    ['granularity', add('b', 2 ** 32), 'INVALID_ARGUMENT', /power of two/],
    ['name', add(''), 'INVALID_ARGUMENT', /1 to 1023 bytes/],
    ['name', add('n'.repeat(1024)), 'INVALID_ARGUMENT', /1 to 1023 bytes/],
    ['none', one('remove', 'zz'), 'INVALID_ARGUMENT', /there are "written"/],
    ['none', one('clear', 'zz'), 'INVALID_ARGUMENT', /no bitmap "zz"/],
    ['none', one('on', 'zz'), 'INVALID_ARGUMENT', /no bitmap "zz"/],
    ['none', one('off', 'zz'), 'INVALID_ARGUMENT', /no bitmap "zz"/],
    ['none', merge('zz', 'written'), 'INVALID_ARGUMENT', /no bitmap "zz"/],
    ['none', merge('written', 'zz'), 'INVALID_ARGUMENT', /no bitmap "zz"/],
    ['in use', one('clear', 'used'), 'UNSUPPORTED', /out of date; remove it/],
    ['in use', one('on', 'used'), 'UNSUPPORTED', /out of date; remove it/],
    ['in use', merge('used', 'written'), 'UNSUPPORTED', /out of date; remove it/],
    ['in use', merge('written', 'used'), 'UNSUPPORTED', /out of date; remove it/],
  ] as const)('are refused where qemu-img refuses: %s %#', async ([, step, code, message]) => {
    image('cluster_size=64k', ['qemu-img', 'bitmap', '--add', IMAGE, 'used']);
    markUsed(join(folder, IMAGE), 'used');
    const { memory, log } = load(folder);
    const start = memory.bytes.slice();
    const work = async (): Promise<unknown> => step.work(log, parseHeader(start, IMAGE));
    await expectRefusal(work(), `ERR_SLUICE_${code}`, message);
    expectSame(memory.bytes, start);
    expect(run(folder, 'qemu-img', 'bitmap', ...step.args)).not.toBe(0);
  });

  it('that are in use can be removed, and others beside them changed', async () => {
    image('cluster_size=64k', ['qemu-img', 'bitmap', '--add', IMAGE, 'used']);
    markUsed(join(folder, IMAGE), 'used');
    for (const { work, args } of [add('c'), one('clear', 'written'), one('remove', 'used')]) {
      await change(folder, work);
      expectSameByQemu(folder, ['bitmap', ...args]);
    }
  });

  it('are none in version 2, in what is damaged, and with too many bits', async () => {
    makeImage(folder, ['-o', 'compat=0.10', IMAGE, '1M']);
    const v2 = change(folder, add('b').work);
    await expectRefusal(v2, 'ERR_SLUICE_UNSUPPORTED', /version 2 has no bitmaps/);
    makeImage(folder, ['-o', 'cluster_size=2M', IMAGE, '4T']);
    const many = change(folder, add('b', 512).work);
    await expectRefusal(many, 'ERR_SLUICE_UNSUPPORTED', /larger granularity/);
    image('cluster_size=512');
    const { memory } = load(folder);
    const { directoryOffset = 0 } = parseHeader(memory.bytes, IMAGE).bitmaps ?? {};
    const view = new DataView(memory.bytes.buffer);
    const damages = [0x7fff_0000, Number(view.getBigUint64(40)), 0];
    for (const table of damages) {
      view.setBigUint64(directoryOffset, BigInt(table));
      const start = memory.bytes.slice();
      for (const what of ['remove', 'clear'] as const) {
        const works = { remove: removeBitmap, clear: clearBitmap };
        const work = works[what](memory, parseHeader(start, IMAGE), IMAGE, 'written');
        await expectRefusal(work, 'ERR_SLUICE_CORRUPT', /check and repair/);
      }
      expectSame(memory.bytes, start);
    }
  });

  it('that are void give way to a new one', async () => {
    image('cluster_size=64k');
    const bytes = readFileSync(join(folder, IMAGE));
    bytes[95] = 0;
    writeFileSync(join(folder, IMAGE), bytes);
    const { end } = await change(folder, add('written').work);
    const header = parseHeader(end, IMAGE);
    expect(header.bitmaps).toMatchObject({ count: 1, consistent: true });
    expect(checkBytes(end, header).corruptions).toBe(0);
  });
});

/** Nobody has closed it. */
function markUsed(path: string, name: string): void {
  const bytes = readFileSync(path);
  const { directoryOffset = 0 } = parseHeader(bytes, IMAGE).bitmaps ?? {};
  const at = bytes.indexOf(name, directoryOffset) - 24 + 12;
  bytes.writeUInt32BE(bytes.readUInt32BE(at) | 1, at);
  writeFileSync(path, bytes);
}
