/** What info, map and check tell of an image is what qemu-img tells of it. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { beforeAll, expect, it, vi } from 'vitest';

import { image } from '../../src/node.ts';
import { sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import { KINDS, makeImages } from './images.ts';

async function all<T>(values: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const value of values) list.push(value);
  return list;
}

const NAMES = KINDS.map(({ name }) => name);

describeWithPeers(['qemu-img', 'qemu-io'], 'what is told of an image', () => {
  const folder = imageFolder();
  let paths = new Map<string, string>();
  const img = (...args: string[]): unknown => JSON.parse(qemu(folder, 'qemu-img', args));
  beforeAll(() => {
    paths = makeImages(folder);
    // Which holes a file has may change when its pages are written back.
    spawnSync('sync', ['-f', folder]);
  });
  /** What both say. Holes may come and go until all is written back, in spite of `sync`. */
  const settledMap = (path: string): Promise<unknown> =>
    vi.waitFor(
      async () => {
        const theirs = img('map', '--output=json', path);
        const ours: unknown[] = [];
        for await (const { filename: _, ...extent } of image.map(path, { backing })) {
          ours.push(extent);
        }
        expect(ours).toEqual(theirs);
        return theirs;
      },
      { timeout: 5000, interval: 500 },
    );
  const pathOf = (name: string): string => paths.get(name)!;
  const backing = { folders: [folder] };

  it.for(NAMES)('info tells of %s what qemu-img tells', async (name) => {
    const path = pathOf(name);
    const theirs = img('info', '--output=json', path);
    expect(await image.info(path)).toEqual(theirs);
    const json = await sluice(['info', '--output', 'json', path]);
    expect([json.code, JSON.parse(json.stdout)]).toEqual([0, theirs]);
    const human = await sluice(['info', path]);
    expect(human.stdout).toBe(qemu(folder, 'qemu-img', ['info', path]));
  });

  it('info tells of a raw image what qemu-img tells', async () => {
    const path = join(folder, 'base.raw');
    expect(await image.info(path)).toEqual(img('info', '--output=json', path));
    expect((await sluice(['info', path])).stdout).toBe(qemu(folder, 'qemu-img', ['info', path]));
  });

  it('info tells of a chain what qemu-img tells', async () => {
    const path = pathOf('chain');
    const theirs = img('info', '--output=json', '--backing-chain', path);
    expect(await image.chainInfo(path, { backing })).toEqual(theirs);
    const args = ['info', '--output', 'json', '--backing-chain', path];
    expect(JSON.parse((await sluice(args)).stdout)).toEqual(theirs);
    await expectRefusal(
      image.chainInfo(path),
      'ERR_SLUICE_FILE_REFUSED',
      /unless their folder is allowed/,
    );
  });

  it.for(NAMES)('map tells of %s what qemu-img tells', async (name) => {
    const path = pathOf(name);
    const theirs = await settledMap(path);
    const json = await sluice(['map', '--output', 'json', path]);
    expect([json.code, JSON.parse(json.stdout)]).toEqual([0, theirs]);
    const human = await sluice(['map', path]);
    const expected = spawnSync('qemu-img', ['map', path], { encoding: 'utf8' });
    // qemu-img does not name another file than the image and its backing files.
    expect(human.code).toBe(name.endsWith('data-file') ? 0 : expected.status);
    if (expected.status === 0) expect(human.stdout).toBe(expected.stdout);
  });

  it.for([
    ['1M', '100k'],
    ['1000000', '12345'],
    ['19M', '5M'],
  ])('map tells of %s and %s bytes what qemu-img tells', async ([start, length]) => {
    const range = ['--start-offset', start!, '--max-length', length!];
    const args = ['map', '--output', 'json', ...range, pathOf('chain')];
    const theirs = spawnSync('qemu-img', args, { encoding: 'utf8' });
    const ours = await sluice(args);
    expect(theirs.status).toBe(0);
    expect(JSON.parse(ours.stdout)).toEqual(JSON.parse(theirs.stdout));
  });

  it('map tells nothing of what is behind the end', async () => {
    expect(await all(image.map(pathOf('chain'), { backing, startOffset: 2 ** 26 }))).toEqual([]);
  });

  it.for(NAMES)('check tells of %s what qemu-img tells', async (name) => {
    const path = pathOf(name);
    const theirs = img('check', '--output=json', path);
    expect(await image.check(path)).toEqual(theirs);
    const ours = await sluice(['check', '--output', 'json', path]);
    expect([ours.code, JSON.parse(ours.stdout)]).toEqual([0, theirs]);
  });
});
