import { readFileSync } from 'node:fs';
import { beforeAll, expect, it } from 'vitest';

import * as q from '../../src/abi/qcow2.ts';
import { MemoryFile } from '../../src/image/image-file.ts';
import {
  type BitmapDirectory,
  parseBitmapDirectory,
  readBitmapDirectory,
} from '../../src/image/qcow2/bitmap-directory.ts';
import { parseHeader, readHeader } from '../../src/image/qcow2/header.ts';
import { describeWithPeers } from '../support/peers.ts';
import { basePath, makeBases, qemu } from './bad-inputs/bases.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { badInputs, imageFolder } from './scratch.ts';

const folder = imageFolder();
/** Fields in the bitmaps extension. */
const COUNT = 0;
const DIRECTORY_SIZE = 8;
const DIRECTORY_OFFSET = 16;

async function read(bytes: Uint8Array): Promise<BitmapDirectory> {
  const file = new MemoryFile(bytes);
  return readBitmapDirectory(file, await readHeader(file, 'a.qcow2'), 'a.qcow2');
}

/** A change of the directory entry at `at`, and the problem that it makes. */
const PROBLEMS: readonly [what: string, (image: PokedImage, at: number) => void, RegExp][] = [
  ['a reserved flag', (i, at) => i.put32(at + q.BITMAP_FLAGS, 0x80000008), /0x80000008 are not kn/],
  ['another type', (i, at) => i.put8(at + q.BITMAP_TYPE, 2), /its type is 2, not 1/],
  [
    'extra data',
    (i, at) => {
      i.put32(at + q.BITMAP_EXTRA_SIZE, 2);
      i.put16(at + q.BITMAP_NAME_SIZE, 2);
    },
    /its 2 bytes of extra data are not known/,
  ],
  [
    'no name',
    (i, at) => {
      i.put16(at + q.BITMAP_NAME_SIZE, 0);
      i.put64(i.extension(q.EXTENSION_BITMAPS) + DIRECTORY_SIZE, 24n);
    },
    /its name has 0 bytes/,
  ],
  ['a NUL in its name', (i, at) => i.put8(at + q.BITMAP_ENTRY_BYTES, 0), /name is not a text/],
  ['small granules', (i, at) => i.put8(at + q.BITMAP_GRANULARITY_BITS, 8), /2\^8 bytes; it must/],
  ['large granules', (i, at) => i.put8(at + q.BITMAP_GRANULARITY_BITS, 32), /2\^32 bytes; it must/],
  ['a short table', (i, at) => i.put32(at + q.BITMAP_TABLE_SIZE, 0), /0 entries; the disk needs 1/],
  ['a huge table', (i, at) => i.put32(at + q.BITMAP_TABLE_SIZE, 0xffff_ffff), /4294967295 entries/],
  ['an unaligned table', (i, at) => i.put64(at, 0x50200n), /0x50200 .* a multiple of the cluster/],
  [
    'a table far away',
    (i, at) => i.put64(at, 0xffff_ffff_ffff_0000n),
    /passes the end of the file/,
  ],
];

describeWithPeers(['qemu-img', 'qemu-io'], 'the bitmap directory', () => {
  const base = (): PokedImage => new PokedImage(readFileSync(basePath(folder, 'bm')));
  const extensionOf = (image: PokedImage): number => image.extension(q.EXTENSION_BITMAPS);
  const directoryOf = (image: PokedImage): number =>
    image.at(extensionOf(image) + DIRECTORY_OFFSET);

  beforeAll(() => makeBases(folder, ['v3', 'bm']));

  it('is empty where there are no bitmaps, or none that count (Q117)', async () => {
    expect(await read(readFileSync(basePath(folder, 'v3')))).toEqual({ bitmaps: [] });
    const image = base();
    badInputs(117, 117)[0]!.poke(image);
    expect(await read(image.bytes)).toEqual({ bitmaps: [] });
  });

  it('reports a table past the end of the file, and opens (Q116)', async () => {
    const image = base();
    badInputs(116, 116)[0]!.poke(image);
    const { bitmaps, problem } = await read(image.bytes);
    expect(problem).toMatch(
      /bitmap "b0": its table at 0x7fff0000 has 1 entries and passes the end/,
    );
    expect(bitmaps).toMatchObject([{ name: 'b0', problem }]);
  });

  it.each(PROBLEMS)('reports a bitmap with %s', async (_what, poke, message) => {
    const image = base();
    poke(image, directoryOf(image));
    expect((await read(image.bytes)).problem).toMatch(message);
  });

  it('reports a bitmap that is too large for anybody to keep', () => {
    const image = base();
    const header = { ...parseHeader(image.bytes, 'a.qcow2'), sizeBytes: 2 ** 50 };
    const at = directoryOf(image);
    image.put8(at + q.BITMAP_GRANULARITY_BITS, 17);
    image.put32(at + q.BITMAP_TABLE_SIZE, 2 ** 14);
    const { problem } = parseBitmapDirectory(image.bytes.subarray(at), header, 2 ** 50, 'a.qcow2');
    expect(problem).toMatch(/16384 entries; its bits may have at most 536870912 bytes/);
  });

  it('reports a directory that is cut off, too short, too long or not there', async () => {
    const poke = async (change: (image: PokedImage, extension: number) => void) => {
      const image = base();
      change(image, extensionOf(image));
      return (await read(image.bytes)).problem;
    };
    const sizeAt = (offset: number): number => offset + DIRECTORY_SIZE;
    expect(await poke((i, at) => i.put64(sizeAt(at), 24n))).toMatch(/ends inside entry 0 of 1/);
    expect(await poke((i, at) => i.put64(sizeAt(at), 40n))).toMatch(/and it has 40 bytes/);
    expect(await poke((i, at) => i.put32(at + COUNT, 2))).toMatch(/ends inside entry 1 of 2/);
    const far = await poke((i, at) => i.put64(at + DIRECTORY_OFFSET, 0x7fff0000n));
    expect(far).toMatch(/at offset 2147418112: it ends inside entry 0 of 1/);
  });

  it('lists bitmaps as qemu-img lists them', async () => {
    const path = basePath(folder, 'bm');
    qemu(folder, 'qemu-img', ['bitmap', '--add', '-g', '512', path, 'fein']);
    qemu(folder, 'qemu-img', ['bitmap', '--add', '--disable', path, 'ä'.repeat(300)]);
    const info = JSON.parse(qemu(folder, 'qemu-img', ['info', '--output', 'json', path])) as {
      'format-specific': { data: { bitmaps: unknown[] } };
    };
    const { bitmaps, problem } = await read(readFileSync(path));
    expect(problem).toBeUndefined();
    const listed = bitmaps.map(({ name, granularityBits, inUse, auto }) => ({
      name,
      granularity: 2 ** granularityBits,
      flags: [...(inUse ? ['in-use'] : []), ...(auto ? ['auto'] : [])],
    }));
    expect(listed).toEqual(info['format-specific'].data.bitmaps);
    expect(listed).toHaveLength(3);
  });
});
