import { execFileSync } from 'node:child_process';
import { linkSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { backingFormatOf, Chain, resolveNamed } from '../../src/image/chain.ts';
import { expectRefusal, imageFolder, writeImage } from './scratch.ts';

const REFUSED = 'ERR_SLUICE_FILE_REFUSED';
const folder = imageFolder();
const images = join(folder, 'images');
const other = join(folder, 'images-of-others');
mkdirSync(join(images, 'deep'), { recursive: true });
mkdirSync(other);
const image = writeImage(images, 'a.qcow2', '');
const backing = writeImage(images, 'back.raw', 'backing');
const colon = writeImage(images, 'x:y.raw', 'colon');
const secret = writeImage(other, 'secret.raw', 'secret');
symlinkSync(secret, join(images, 'way-out.raw'));
symlinkSync(other, join(images, 'way-out'));
symlinkSync(images, join(other, 'way-in'));
symlinkSync('loop-b', join(images, 'loop-a'));
symlinkSync('loop-a', join(images, 'loop-b'));
const allowed = { folders: [images] };

describe('a name in an image', () => {
  it.each([
    ['back.raw', backing],
    ['./back.raw', backing],
    ['deep/../back.raw', backing],
    [backing, backing],
    ['./x:y.raw', colon],
    [join(other, 'way-in', 'back.raw'), backing],
  ])('is followed inside the allowed folders: %s', async (name, path) => {
    expect(await resolveNamed('backing', name, image, allowed)).toBe(path);
  });

  it('begins in the folder of the image, whatever the allowed folder is', async () => {
    const way = { folders: [join(other, 'way-in')] };
    expect(await resolveNamed('data', 'back.raw', image, way)).toBe(backing);
    expect(await resolveNamed('data', 'back.raw', image, { folders: ['/'] })).toBe(backing);
  });

  it.each([
    '../images-of-others/secret.raw',
    secret,
    'way-out.raw',
    'way-out/secret.raw',
    '/etc/passwd',
    '.',
    '..',
  ])('is not followed out of them: %s', async (name) => {
    const message = /in none of the folders that are allowed$/;
    await expectRefusal(resolveNamed('data', name, image, allowed), REFUSED, message);
    await expectRefusal(resolveNamed('data', name, image, { folders: [] }), REFUSED, message);
  });

  it.each([
    'json:{"driver":"null-co","size":1048576}',
    'nbd://127.0.0.1:1/x',
    'nbd:unix:/tmp/socket',
    'file:back.raw',
    'x:y.raw',
    ':back.raw',
    'https://example.com/disk.raw',
    'a word:back.raw',
  ])('is refused with a protocol, whatever is allowed (Q54, Q55, Q110): %s', async (name) => {
    for (const policy of ['deny', allowed, { folders: ['/'] }] as const) {
      const resolved = resolveNamed('backing', name, image, policy);
      await expectRefusal(resolved, REFUSED, /it begins with a protocol/);
    }
  });

  it('is refused where none is allowed, be it good or not', async () => {
    for (const name of ['back.raw', 'nope.raw']) {
      const resolved = resolveNamed('backing', name, image, 'deny');
      await expectRefusal(resolved, REFUSED, /^cannot open the backing file ".*not opened unless/);
    }
  });

  it('of a file that is absent gives a clear message (Q57)', async () => {
    const absent = resolveNamed('backing', 'nope.raw', image, allowed);
    const message = /^cannot open the backing file "nope.raw" of ".*a.qcow2": .* \(ENOENT\)$/;
    await expectRefusal(absent, REFUSED, message);
    const sought = JSON.stringify(join(images, 'nope.raw'));
    await expect(absent).rejects.toThrow(`cannot be found at ${sought} `);
    await expectRefusal(resolveNamed('data', 'loop-a', image, allowed), REFUSED, /\(ELOOP\)$/);
  });

  it('cannot be followed when the allowed folder is absent', async () => {
    const resolved = resolveNamed('data', 'back.raw', image, { folders: [join(folder, 'nope')] });
    await expectRefusal(resolved, REFUSED, /the allowed folder cannot be found \(ENOENT\)$/);
  });
});

describe('the format of a backing file', () => {
  it('is what the caller says, or else the image', () => {
    expect(backingFormatOf({ name: 'x', format: 'raw' }, image)).toBe('raw');
    expect(backingFormatOf({ name: 'x', format: 'qcow2' }, image)).toBe('qcow2');
    expect(backingFormatOf({ name: 'x', format: 'raw' }, image, 'qcow2')).toBe('qcow2');
    expect(backingFormatOf({ name: 'x', format: 'vmdk' }, image, 'raw')).toBe('raw');
    expect(backingFormatOf({ name: 'x' }, image, 'raw')).toBe('raw');
  });

  it.each([
    [undefined, /does not say its format.*; pass backingFormat: 'raw' or 'qcow2'$/],
    ['vmdk', /its format is "vmdk"; pass backingFormat/],
    ['RAW', /its format is "RAW"; pass backingFormat/],
  ])('is never guessed (Q62): %s', (format, message) => {
    const names = { name: 'back.raw', ...(format === undefined ? {} : { format }) };
    expect(() => backingFormatOf(names, image)).toThrow(message);
    expect(() => backingFormatOf(names, image)).toThrow(expect.objectContaining({ code: REFUSED }));
  });
});

describe('a chain', () => {
  it('refuses a file that it has, under any name (Q53)', async () => {
    linkSync(image, join(images, 'same.qcow2'));
    const names = [image, join(images, 'same.qcow2'), join(other, 'way-in', 'a.qcow2')];
    const chain = new Chain();
    await chain.add(backing);
    await chain.add(image);
    for (const name of names) {
      const message = /it is in the chain already, as ".*a.qcow2": a loop$/;
      await expectRefusal(chain.add(name), REFUSED, message);
    }
  });

  it('has at most 64 files', async () => {
    const chain = new Chain();
    for (let index = 0; index < 64; index++) {
      await chain.add(writeImage(folder, `${index}.qcow2`, ''));
    }
    const last = writeImage(folder, '64.qcow2', '');
    await expectRefusal(chain.add(last), REFUSED, /the chain has 64 files already/);
  });

  it('refuses what is neither a file nor a block device, without opening it', async () => {
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    for (const path of [pipe, folder, '/dev/zero']) {
      const message = /neither a regular file nor a block device$/;
      await expectRefusal(new Chain().add(path), REFUSED, message);
    }
    const absent = new Chain().add(join(folder, 'nope'));
    await expectRefusal(absent, REFUSED, /\(ENOENT\)$/);
  });
});
