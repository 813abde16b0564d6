/** Raw images that end inside a sector: the disk ends behind it, as with qemu-img. */
import { copyFileSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { image } from '../../src/node.ts';
import { sluice } from '../cli/sluice.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { imageFolder, writeImage } from '../image/scratch.ts';
import { expectSameDisk, expectSound } from './twins.ts';

const folder = imageFolder();
const ODD_BYTES = 1_000_000;
const ODD_DISK_BYTES = 1_000_448;
const odd = writeImage(
  folder,
  'odd.raw',
  Buffer.from(Array.from({ length: ODD_BYTES }, (_, index) => 1 + ((index * 7) % 251))),
);
const tiny = writeImage(folder, 'tiny.raw', 'short');

/** The command works with both programs, in the folder; answers what they say. */
async function bothSay(args: readonly string[]): Promise<readonly [theirs: string, ours: string]> {
  const theirs = qemu(
    folder,
    'qemu-img',
    args.map((arg) => arg.replace('OUT', 'theirs')),
  );
  const { code, stdout, stderr } = await sluice(
    args.map((arg) => arg.replace('OUT', 'ours')),
    { cwd: folder },
  );
  expect(code, stderr).toBe(0);
  return [theirs, stdout];
}

function made(name: string): readonly Buffer[] {
  return ['theirs', 'ours'].map((who) => readFileSync(join(folder, `${who}${name}`)));
}

describe('a raw image that ends inside a sector', () => {
  it.for([odd, tiny])('has the size and the ranges that qemu-img says of %s', async (path) => {
    const [size, ours] = await bothSay(['info', '-f', 'raw', '--output=json', path]);
    const sizeOf = (text: string) => (JSON.parse(text) as image.ImageInfo)['virtual-size'];
    expect(sizeOf(ours)).toBe(sizeOf(size));
    const [ranges, own] = await bothSay(['map', '-f', 'raw', '--output=json', path]);
    expect(JSON.parse(own)).toEqual(JSON.parse(ranges));
    const [lines, ownLines] = await bothSay(['map', '-f', 'raw', path]);
    expect(ownLines.split('\n')[1]).toBe(lines.split('\n')[1]);
    const [bytes, ownBytes] = await bothSay(['measure', '--output=json', '-O', 'qcow2', path]);
    expect(JSON.parse(ownBytes)).toEqual(JSON.parse(bytes));
  });

  it('is copied with the zeroes at its end, and several follow each other at sectors', async () => {
    for (const [name, ...sources] of [
      ['one.raw', odd],
      ['two.raw', tiny, odd],
      ['two.qcow2', odd, tiny],
    ] as const) {
      const format = name.split('.')[1] ?? '';
      await bothSay(['convert', '-f', 'raw', '-O', format, ...sources, `OUT${name}`]);
      expectSameDisk(join(folder, `theirs${name}`), join(folder, `ours${name}`));
    }
    const [theirs, ours] = made('two.raw');
    expect(ours?.equals(theirs!)).toBe(true);
    expectSound(join(folder, 'ourstwo.qcow2'));
  });

  it.for([
    ['bs=1', 'count=7'],
    ['bs=7', 'skip=142857'],
    ['bs=1000', 'count=3'],
  ])('is a whole number of sectors after dd with %s %s', async (blocks) => {
    await bothSay(['dd', '-f', 'raw', '-O', 'raw', `if=${odd}`, 'of=OUTdd.raw', ...blocks]);
    const [theirs, ours] = made('dd.raw');
    expect(ours?.equals(theirs!)).toBe(true);
  });

  it('streams as it is converted', async () => {
    const chunks: Uint8Array[] = [];
    for await (const chunk of image.stream(tiny, { format: 'raw' })) chunks.push(chunk);
    expect(Buffer.concat(chunks)).toEqual(Buffer.from('short'.padEnd(512, '\0')));
  });

  it('is written over with as large a disk', async () => {
    const target = writeImage(folder, 'there.raw', Buffer.alloc(ODD_BYTES, 1));
    const how = { format: 'raw', targetFormat: 'raw', existing: true } as const;
    await image.convert(odd, target, how);
    expect(statSync(target).size).toBe(ODD_DISK_BYTES);
    expectSameDisk(odd, target);
    const small = writeImage(folder, 'small.raw', Buffer.alloc(ODD_BYTES - 1000, 1));
    await expect(image.convert(odd, small, how)).rejects.toThrow(/resize it first/);
    expect(statSync(small).size).toBe(ODD_BYTES - 1000);
  });

  it('grows from the end of its last sector', async () => {
    for (const who of ['theirs', 'ours']) copyFileSync(odd, join(folder, `${who}grown.raw`));
    await bothSay(['resize', '-q', '-f', 'raw', 'OUTgrown.raw', '+1000']);
    const [theirs, ours] = made('grown.raw');
    expect(ours?.equals(theirs!)).toBe(true);
  });

  it('is the same as its copy, and a backing file as others', async () => {
    const copy = join(folder, 'copy.qcow2');
    await image.convert(odd, copy, { format: 'raw', targetFormat: 'qcow2' });
    const same = { result: 'identical', sizesDiffer: false };
    const first = { format: 'raw' } as const;
    await expect(image.compare(odd, copy, { first })).resolves.toEqual(same);
    const over = join(folder, 'over.qcow2');
    const backing = { folders: [folder] };
    const named = { name: 'odd.raw', format: 'raw' } as const;
    const created = { format: 'qcow2', image: { backing: named }, backing } as const;
    await expect(image.create(over, created)).resolves.toMatchObject({ sizeBytes: ODD_DISK_BYTES });
    await expect(image.compare(over, copy, { first: { backing } })).resolves.toEqual(same);
    await image.rebase(over, { backing: 'none', allow: backing });
    expectSameDisk(over, copy);
  });
});
