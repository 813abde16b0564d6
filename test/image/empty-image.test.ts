/** An image that is emptied: at every cut it is what it was, or empty. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { emptyImage } from '../../src/image/qcow2/empty-image.ts';
import { tableExtents } from '../../src/image/qcow2/extents.ts';
import { parseHeader, readHeader } from '../../src/image/qcow2/header.ts';
import { Random } from '../engine/random.ts';
import { describeWithPeers } from '../support/peers.ts';
import { qemu } from './bad-inputs/bases.ts';
import { LoggedFile } from './logged-file.ts';
import { imageFolder } from './scratch.ts';

const SEED = 20_261_123;
const OPTIONS = [
  'cluster_size=4k',
  'cluster_size=512,refcount_bits=1',
  'cluster_size=4k,compat=0.10',
  'cluster_size=16k,extended_l2=on,refcount_bits=64',
  'cluster_size=512,lazy_refcounts=on',
] as const;
const WRITES = ['write -P 1 0 5k', 'write -P 2 300k 40k', 'write -z 100k 64k', 'write 1M 100k'];

describeWithPeers(['qemu-img', 'qemu-io'], 'an image that is emptied', () => {
  const folder = imageFolder();

  /** What it says of the disk, with the bytes. */
  const contentsOf = async (bytes: Uint8Array): Promise<string[]> => {
    const file = new MemoryFile(Uint8Array.from(bytes));
    const contents: string[] = [];
    for await (const extent of tableExtents(file, parseHeader(bytes, 'image'), 'image')) {
      const { start, length, kind, offset } = extent;
      const isData = kind === 'data' && offset !== undefined;
      const data = isData ? Buffer.from(await file.read(offset, length)).toString('base64') : '';
      contents.push(`${start} ${length} ${kind} ${data}`);
    }
    return contents;
  };

  it.for(OPTIONS)('with %s is whole after every cut', async (options) => {
    qemu(folder, 'qemu-img', ['create', '-q', '-f', 'raw', 'below.raw', '2M']);
    const backing = ['-b', 'below.raw', '-F', 'raw'];
    qemu(folder, 'qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, ...backing, 'top']);
    const commands = WRITES.flatMap((command) => ['-c', command]);
    qemu(folder, 'qemu-io', ['-f', 'qcow2', ...commands, 'top']);
    const start = readFileSync(join(folder, 'top'));
    const file = new MemoryFile(Uint8Array.from(start));
    const logged = new LoggedFile(file);
    const header = await readHeader(logged, 'top');
    const free = await emptyImage(logged, header, 'top', { isBlockDevice: false });
    const end = await file.read(0, file.sizeBytes);
    const [before, after] = [await contentsOf(start), await contentsOf(end)];
    expect(after).toEqual(['0 2097152 none ']);
    expect(checkBytes(end, parseHeader(end, 'image'))).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(end.length).toBeLessThan(start.length);
    expect(free.every(({ offset, length }) => offset + length <= end.length)).toBe(true);
    let wasEmpty = 0;
    let states = 0;
    for (const { epoch, bytes } of logged.statesAfterCuts(start, new Random(SEED))) {
      states += 1;
      const contents = await contentsOf(bytes);
      const isEmpty = contents.length === 1;
      expect(contents, `epoch ${epoch}`).toEqual(isEmpty ? after : before);
      expect(checkBytes(bytes, parseHeader(bytes, 'image')), `epoch ${epoch}`).toMatchObject({
        corruptions: 0,
        checkErrors: 0,
      });
      wasEmpty += Number(isEmpty);
    }
    expect(wasEmpty).toBeGreaterThan(3);
    expect(states - wasEmpty).toBeGreaterThan(3);
  });
});
