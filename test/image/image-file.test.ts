import { statSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import { openFileBackend } from '../../src/backend/file.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { BackendFile, type ImageFile, MemoryFile } from '../../src/image/image-file.ts';
import { hasDirect, NO_DIRECT } from '../backend/scratch.ts';
import { expectRefusal, imageFolder, writeImage } from './scratch.ts';

const MIB = 1024 * 1024;

/** Bytes that tell where they are. */
function pattern(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7 + (index >> 8) + seed) & 0xff);
}

const FILES: readonly [name: string, make: (bytes: Uint8Array) => ImageFile][] = [
  ['MemoryFile', (bytes) => new MemoryFile(bytes)],
  [
    'BackendFile',
    (bytes) => {
      const backend = new MemoryBackend({ sizeBytes: bytes.length });
      backend.volatile.set(bytes);
      return new BackendFile(backend, 'disk');
    },
  ],
];

describe.each(FILES)('%s', (_name, make) => {
  it('reads what lies there', async () => {
    const bytes = pattern(3 * MIB + 5);
    const file = make(bytes.slice());
    const middle = await file.read(MIB - 3, MIB + 9);
    expect(Buffer.compare(middle, bytes.subarray(MIB - 3, 2 * MIB + 6))).toBe(0);
    expect(await file.read(bytes.length, 0)).toEqual(new Uint8Array(0));
  });

  it('reads back what was written, in the order of the calls', async () => {
    const file = make(new Uint8Array(MIB));
    const long = pattern(2 * MIB + 1);
    const [, , read] = await Promise.all([
      file.write(10, pattern(100, 9)),
      file.write(5, long),
      file.read(0, 20),
    ]);
    expect(read).toEqual(Uint8Array.of(0, 0, 0, 0, 0, ...long.subarray(0, 15)));
    expect(file.sizeBytes).toBe(2 * MIB + 6);
    await file.sync();
    expect(Buffer.compare(await file.read(5, long.length), long)).toBe(0);
  });

  it('extends with zeroes and cuts', async () => {
    const file = make(pattern(1000));
    await file.write(3000, Uint8Array.of(1, 2));
    expect(file.sizeBytes).toBe(3002);
    expect(await file.read(1000, 2000)).toEqual(new Uint8Array(2000));
    await file.truncate(500);
    expect(file.sizeBytes).toBe(500);
    await file.truncate(600);
    expect(await file.read(500, 100)).toEqual(new Uint8Array(100));
  });

  it.each([
    [0, 1001],
    [1000, 1],
    [2 ** 53, 0],
    [0, 2 ** 52],
    [-1, 1],
    [Number.NaN, 1],
  ])('refuses to read past its end: %d, %d', async (offset, length) => {
    const file = make(pattern(1000));
    await expectRefusal(file.read(offset, length), 'ERR_SLUICE_IMAGE', /the file has 1000 bytes/);
    expect(await file.read(0, 4)).toEqual(pattern(4));
  });
});

describe('BackendFile', () => {
  it('names the file, the range and the errno when the host fails, and goes on', async () => {
    const backend = new MemoryBackend({ sizeBytes: MIB });
    const file = new BackendFile(backend, 'a.qcow2');
    backend.fail('read', { errno: 5 });
    const failed = expect(file.read(512, 64)).rejects.toMatchObject({
      code: 'ERR_SLUICE_IO',
      offset: 512,
      length: 64,
      path: 'a.qcow2',
      cause: { code: 'EIO' },
    });
    expect(await file.read(0, 1)).toEqual(Uint8Array.of(0));
    await failed;
    backend.fail('write', { errno: 28 });
    await expectRefusal(file.write(0, pattern(9)), 'ERR_SLUICE_NO_SPACE', /"a.qcow2": write of 9/);
    backend.fail('sync');
    await expectRefusal(file.sync(), 'ERR_SLUICE_IO', /flush/);
  });

  it('sends one command at a time, and makes writes stable on sync only', async () => {
    const backend = new MemoryBackend({ sizeBytes: MIB });
    const file = new BackendFile(backend, 'disk');
    await Promise.all([file.write(0, pattern(512)), file.write(0, pattern(512, 2))]);
    expect(backend.conflicts).toEqual([]);
    backend.cutPower();
    expect(await file.read(0, 512)).toEqual(new Uint8Array(512));
    await file.write(0, pattern(512));
    await file.sync();
    backend.cutPower();
    expect(await file.read(0, 512)).toEqual(pattern(512));
  });

  it('works on a file through O_DIRECT, which it extends by whole blocks', async (context) => {
    const folder = imageFolder();
    if (!hasDirect(folder)) context.skip(NO_DIRECT);
    const path = writeImage(folder, 'direct.raw', pattern(8192));
    const backend = await openFileBackend(path, { direct: true, writable: true });
    const file = new BackendFile(backend, path);
    expect(await file.read(7, 5000)).toEqual(pattern(8192).slice(7, 5007));
    await file.write(8190, pattern(100, 3));
    expect(await file.read(8190, 100)).toEqual(pattern(100, 3));
    await backend.close();
    expect(statSync(path).size).toBe(8192 + backend.blockSizeBytes);
  });
});
