/** What a user is told of an image while it is opened: what was mended, and what does not fit. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import {
  EXTENSION_BITMAPS,
  HEADER_AUTOCLEAR_FEATURES,
  HEADER_INCOMPATIBLE_FEATURES,
} from '../../src/abi/qcow2.ts';
import { openDisk, type OpenOptions } from '../../src/node.ts';
import { sluice } from '../cli/sluice.ts';
import { describeWithPeers } from '../support/peers.ts';
import { qemu } from './bad-inputs/bases.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { expectRefusal, imageFolder, writeImage } from './scratch.ts';

const KIB = 1024;
const DIRTY = 1n;

/** An image of 16 MiB with a cluster of data, after `commands` of qemu-img. */
function create(folder: string, commands: readonly string[][] = []): string {
  const path = join(folder, 'a.qcow2');
  const img = (...args: readonly string[]): string => qemu(folder, 'qemu-img', [...args]);
  img('create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on', path, '16M');
  qemu(folder, 'qemu-io', ['-f', 'qcow2', '-c', 'write -q 0 64k', path]);
  for (const command of commands) img(...command, path, 'b');
  return path;
}

function poke(path: string, change: (image: PokedImage) => void): void {
  const image = new PokedImage(readFileSync(path));
  change(image);
  writeFileSync(path, image.bytes);
}

async function noticesOf(path: string, writable = true): Promise<string[]> {
  const notices: string[] = [];
  const onNotice = (text: string): void => void notices.push(text);
  const disk = await openDisk(path, { format: 'qcow2', writable, onNotice });
  await disk.close();
  return notices;
}

describeWithPeers(['qemu-img', 'qemu-io'], 'who opens an image for writing is told', () => {
  const folder = imageFolder();
  const quoted = JSON.stringify(join(folder, 'a.qcow2'));

  it('nothing of an image that is in order', async () => {
    expect(await noticesOf(create(folder, [['bitmap', '--add']]))).toEqual([]);
  });

  it('what was repaired after it was not closed', async () => {
    const path = create(folder);
    const damage = (image: PokedImage): void => {
      image.put64(HEADER_INCOMPATIBLE_FEATURES, DIRTY);
      image.put16(image.refcountBlock + 2, 0);
    };
    poke(path, damage);
    expect(await noticesOf(path, false)).toEqual([]);
    const [notice, ...others] = await noticesOf(path);
    expect(others).toEqual([]);
    expect(notice).toMatch(
      /: it was not closed; it was checked and repaired: 0 leaked clusters, 1 wrong refcounts/,
    );
    expect(notice?.startsWith(quoted)).toBe(true);
    expect(await noticesOf(path)).toEqual([]);
  });

  it('which bitmaps are out of date', async () => {
    const path = create(folder, [['bitmap', '--add']]);
    const disk = await openDisk(path, { format: 'qcow2', writable: true });
    await disk.write(0, new Uint8Array(KIB));
    const inUse = readFileSync(path);
    await disk.close();
    writeFileSync(path, inUse);
    const closed = 'its bitmap "b" was not closed, and is out of date; remove it';
    expect(await noticesOf(path)).toEqual([`${quoted}: ${closed}`]);
    poke(path, (image) => image.put64(HEADER_AUTOCLEAR_FEATURES, 0n));
    const foreign = 'its bitmaps are out of date: a program that does not know them';
    expect(await noticesOf(path)).toEqual([`${quoted}: ${foreign} has written the image`]);
  });

  it('that damaged bitmaps are given up', async () => {
    const path = create(folder, [['bitmap', '--add']]);
    poke(path, (image) => {
      const entry = image.at(image.extension(EXTENSION_BITMAPS) + 16);
      image.put64(entry, image.u64(entry) + 512n);
    });
    const notice = 'its bitmaps are damaged, and are not kept up to date any more; remove them';
    expect(await noticesOf(path)).toEqual([`${quoted}: ${notice}`]);
  });

  it('which image of a chain is the broken one', async () => {
    writeImage(folder, 'base.qcow2', new Uint8Array(4096));
    const top = join(folder, 'top.qcow2');
    const args = [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-u',
      '-b',
      'base.qcow2',
      '-F',
      'qcow2',
      top,
      '1M',
    ];
    qemu(folder, 'qemu-img', args);
    const open = openDisk(top, { format: 'qcow2', backing: { folders: [folder] } });
    const whose = /base\.qcow2".* \(it is the backing file of ".*top\.qcow2"\)$/;
    await expectRefusal(open, 'ERR_SLUICE_IMAGE', whose);
  });
});

describe('options of qcow2', () => {
  const folder = imageFolder();
  const path = writeImage(folder, 'raw.img', new Uint8Array(4096));
  const GIVEN: readonly (OpenOptions & { readonly flags: readonly string[] })[] = [
    { backing: { folders: ['x'] }, flags: ['--allow', 'x'] },
    { backingFormat: 'raw', flags: ['--backing-format', 'raw'] },
    { encryption: { key: 'k' }, flags: ['--key-file', path] },
    { metadataCacheBytes: 0, flags: ['--metadata-cache', '0'] },
    { flushIntervalMs: 0, flags: ['--flush-interval', '0'] },
  ];

  it.for(GIVEN)('are refused for a raw disk: $flags.0', async ({ flags, ...options }) => {
    const [name] = Object.keys(options);
    const message = `${name} is for qcow2 images: pass format: 'qcow2' (-f qcow2)`;
    const open = openDisk(path, { ...options, format: 'raw' });
    await expect(open).rejects.toMatchObject({ code: 'ERR_SLUICE_INVALID_ARGUMENT', message });
    const run = await sluice(['serve', '-f', 'raw', ...flags, path]);
    expect(run).toMatchObject({ code: 1, stdout: '' });
    expect(run.stderr).toContain(`: ${flags[0]} is for qcow2 images: pass -f qcow2 (`);
  });
});
