/** VHD and VMDK images that qemu-img makes, as sources: what is read and told is what QEMU says. */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';

import type { image as Image, openDisk as OpenDisk } from '../../src/node.ts';
import { sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { all, someDisk } from '../image/read-only.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';

/** The built package: threads start from it. */
const BUILT = new URL('../../dist/node.js', import.meta.url).href;
const { image, openDisk } = (await import(BUILT)) as {
  image: typeof Image;
  openDisk: typeof OpenDisk;
};
const MIB = 1024 * 1024;
const VPC = 'subformat=dynamic,force_size=on';
const STREAM = 'subformat=streamOptimized';

/** A name, the format, options, and the raw image that it is made of. */
const IMAGES = [
  ['dynamic', 'vpc', 'subformat=dynamic', 'odd.raw'],
  ['dynamic-sized', 'vpc', VPC, 'odd.raw'],
  ['dynamic-empty', 'vpc', VPC, 'empty.raw'],
  ['dynamic-large', 'vpc', VPC, 'large.raw'],
  ['fixed', 'vpc', 'subformat=fixed', 'odd.raw'],
  ['fixed-sized', 'vpc', 'subformat=fixed,force_size=on', 'odd.raw'],
  ['sparse', 'vmdk', 'subformat=monolithicSparse', 'odd.raw'],
  ['sparse-6', 'vmdk', 'compat6=on,adapter_type=lsilogic', 'odd.raw'],
  ['sparse-zeroed', 'vmdk', 'zeroed_grain=on', 'odd.raw'],
  ['sparse-empty', 'vmdk', 'subformat=monolithicSparse', 'empty.raw'],
  ['sparse-large', 'vmdk', 'subformat=monolithicSparse', 'large.raw'],
  ['stream', 'vmdk', STREAM, 'odd.raw'],
  ['stream-empty', 'vmdk', STREAM, 'empty.raw'],
  ['stream-large', 'vmdk', STREAM, 'large.raw'],
] as const;

describeWithPeers(['qemu-img', 'qemu-io'], 'VHD and VMDK images', () => {
  const folder = imageFolder();
  const img = (...args: string[]): string => qemu(folder, 'qemu-img', args);
  const run = (...args: string[]) => sluice(args, { cwd: folder });
  beforeAll(() => {
    writeFileSync(join(folder, 'odd.raw'), someDisk(5 * MIB + 3 * 512, 7));
    img('create', '-q', '-f', 'raw', 'empty.raw', '3M');
    img('create', '-q', '-f', 'raw', 'large.raw', '5G');
    const writes = ['write -P 7 1M 70k', 'write -P 9 4200M 1M', 'write -P 5 5119M 1M'];
    const commands = writes.flatMap((command) => ['-c', command]);
    qemu(folder, 'qemu-io', ['-f', 'raw', ...commands, 'large.raw']);
    for (const [name, format, options, source] of IMAGES) {
      img('convert', '-f', 'raw', '-O', format, '-o', options, source, name);
    }
    // Grains of zeroes, which no conversion leaves behind.
    qemu(folder, 'qemu-io', ['-f', 'vmdk', '-c', 'write -z 1M 128k', 'sparse-zeroed']);
  });

  it.for(IMAGES)('%s: info, map and measure tell what qemu-img tells', async ([name, format]) => {
    const path = join(folder, name);
    const json = ['--output', 'json', '-f', format];
    expect(await image.info(path, { format })).toEqual(JSON.parse(img('info', ...json, path)));
    const extents = JSON.stringify(await all(image.map(path, { format })), (key, value: unknown) =>
      key === 'filename' ? undefined : value,
    );
    expect(JSON.parse(extents)).toEqual(JSON.parse(img('map', ...json, path)));
    const measured = await image.measure(path, { format, targetFormat: 'qcow2' });
    expect(measured).toEqual(JSON.parse(img('measure', ...json, '-O', 'qcow2', path)));
  });

  it.for(IMAGES)('%s: is copied and compared', async ([name, format]) => {
    const [path, copy] = [join(folder, name), join(folder, `${name}.qcow2`)];
    await image.convert(path, copy, { format, targetFormat: 'qcow2' });
    img('compare', '-f', format, '-F', 'qcow2', name, copy);
    const compare = () => image.compare(path, copy, { first: { format } });
    expect(await compare()).toEqual({ result: 'identical', sizesDiffer: false });
    qemu(folder, 'qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 2M 512', copy]);
    expect(await compare()).toMatchObject({ result: 'content', offset: 2 * MIB });
  });

  it.for([
    ['fixed', 'vpc'],
    ['stream', 'vmdk'],
  ] as const)('%s: the lines of info are those of qemu-img, and map has JSON', async (row) => {
    const [name, format] = row;
    const told = await run('info', '-f', format, name);
    expect(told.stdout).toBe(img('info', '-f', format, name));
    const map = await run('map', '--output', 'json', '-f', format, name);
    expect(JSON.parse(map.stdout)).toEqual(
      JSON.parse(img('map', '--output', 'json', '-f', format, name)),
    );
  });

  it('are known by what they begin with', async () => {
    for (const [name, format] of [
      ['dynamic', 'vpc'],
      ['stream', 'vmdk'],
    ] as const) {
      expect((await image.info(join(folder, name))).format).toBe(format);
      const raw = `${name}.raw`;
      expect((await run('convert', name, raw)).code).toBe(0);
      img('compare', '-f', format, '-F', 'raw', name, raw);
    }
  });

  it('are the source of dd', async () => {
    const part = ['bs=64k', 'skip=3', 'count=5'];
    expect((await run('dd', 'if=stream', 'of=part.raw', ...part)).code).toBe(0);
    expect((await run('dd', '-f', 'raw', 'if=odd.raw', 'of=same.raw', ...part)).code).toBe(0);
    img('compare', '-f', 'raw', '-F', 'raw', 'part.raw', 'same.raw');
  });

  it.for(['dynamic', 'stream'])('%s: check refuses with the code 63', async (name) => {
    const more = name === 'stream' ? ['-r', 'all'] : [];
    const found = await run('check', ...more, name);
    expect([found.code, found.stderr]).toEqual([63, expect.stringMatching(/only read/)]);
  });

  const ADVICE = /only read; (convert it to qcow2 first|use qcow2)/;
  it.for([
    ['amend', '-o', 'compat=1.1', 'stream'],
    ['bitmap', '--add', 'stream', 'name'],
    ['commit', 'stream'],
    ['rebase', '-u', '-b', '', 'stream'],
    ['resize', 'stream', '+1M'],
    ['snapshot', '-c', 'name', 'stream'],
    ['bench', 'dynamic'],
    ['serve', 'dynamic'],
    ['serve', '-f', 'vmdk', 'stream'],
    ['create', '-f', 'vmdk', 'new', '1M'],
    ['convert', '-O', 'vpc', 'odd.raw', 'new'],
    ['resize', '-f', 'vpc', 'dynamic', '+1M'],
  ])('%j is refused, with advice', async (args) => {
    const before = spawnSync('sha1sum', ['stream', 'dynamic'], { cwd: folder }).stdout;
    const { code, stderr } = await run(...args);
    expect([code, stderr]).toEqual([expect.any(Number), expect.stringMatching(ADVICE)]);
    expect(code).toBeGreaterThan(0);
    expect(spawnSync('sha1sum', ['stream', 'dynamic'], { cwd: folder }).stdout).toEqual(before);
  });

  it('are refused by the library where something is written', async () => {
    const path = join(folder, 'dynamic');
    await expectRefusal(openDisk(path), 'ERR_SLUICE_UNSUPPORTED', ADVICE);
    await expectRefusal(image.resize(path, MIB, {}), 'ERR_SLUICE_UNSUPPORTED', ADVICE);
    const targetFormat = 'vmdk' as 'raw';
    const invalid = 'ERR_SLUICE_INVALID_ARGUMENT';
    await expectRefusal(image.convert(path, `${path}.x`, { targetFormat }), invalid, /not "vmdk"/);
    await expectRefusal(image.measure(path, { targetFormat }), invalid, /not "vmdk"/);
  });

  it('are no backing files', async () => {
    img('create', '-q', '-f', 'qcow2', '-b', 'stream', '-F', 'vmdk', 'above.qcow2');
    const work = image.chainInfo(join(folder, 'above.qcow2'), { backing: { folders: [folder] } });
    await expectRefusal(work, 'ERR_SLUICE_FILE_REFUSED', /its format is "vmdk"/);
  });

  it('of several files are refused by their kind', async () => {
    for (const kind of ['monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat']) {
      img('convert', '-O', 'vmdk', '-o', `subformat=${kind}`, 'odd.raw', `${kind}.vmdk`);
      const work = image.info(join(folder, `${kind}.vmdk`));
      await expectRefusal(work, 'ERR_SLUICE_UNSUPPORTED', new RegExp(`its kind is "${kind}"`));
    }
    const part = image.info(join(folder, 'twoGbMaxExtentSparse-s001.vmdk'));
    await expectRefusal(part, 'ERR_SLUICE_UNSUPPORTED', /one of several files of a disk/);
  });
});
