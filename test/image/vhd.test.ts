/** VHD images that qemu-img cannot make, read; and what is refused of them. */
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

import type { ErrorCode } from '../../src/errors.ts';
import { image } from '../../src/node.ts';
import { describeWithPeers } from '../support/peers.ts';
import { all, codecPool, expectBytes, readByQemu, readDisk, someDisk } from './read-only.ts';
import { expectRefusal, imageFolder, writeImage } from './scratch.ts';
import { changedVhd, dynamicVhd, fixedVhd, SECTOR, TABLE_AT, withChecksum } from './vhd-images.ts';

const folder = imageFolder();
const codecs = codecPool();
afterAll(() => codecs[Symbol.asyncDispose]());
const DISK = someDisk(100 * SECTOR, 1);

function written(bytes: Uint8Array): string {
  return writeImage(folder, 'disk.vhd', bytes);
}

async function readVhd(bytes: Uint8Array): Promise<Uint8Array | undefined> {
  return readDisk(written(bytes), 'vpc', codecs);
}

describe('a dynamic VHD image', () => {
  it.for([512, 1024, 4096, 65536, 2 ** 21, 2 ** 22, 2 ** 24])(
    'is read with blocks of %s bytes',
    async (blockBytes) => {
      expectBytes(await readVhd(dynamicVhd({ disk: DISK, blockBytes })), DISK);
    },
  );

  it('reads sectors as zeroes whose bit in the bitmap is not set', async () => {
    const isWritten = (sector: number): boolean => sector % 3 === 1 || sector % 16 > 11;
    const expected = DISK.map((byte, at) => (isWritten(Math.floor(at / SECTOR)) ? byte : 0));
    const hasPlace = (): boolean => true;
    const bytes = dynamicVhd({ disk: DISK, blockBytes: 16 * SECTOR, isWritten, hasPlace });
    expectBytes(await readVhd(bytes), expected);
    const extents = await all(image.map(written(bytes), { format: 'vpc' }));
    expect(extents.slice(0, 3)).toMatchObject([
      { start: 0, length: 512, zero: true, data: false, present: true },
      { start: 512, length: 512, zero: false, data: true },
      { start: 1024, length: 1024, zero: true, data: false },
    ]);
  });

  it('is read where its blocks are in any order', async () => {
    const bytes = Buffer.from(dynamicVhd({ disk: DISK, hasPlace: () => true }));
    const [first, second] = [bytes.readUInt32BE(TABLE_AT), bytes.readUInt32BE(TABLE_AT + 4)];
    bytes.writeUInt32BE(second, TABLE_AT);
    bytes.writeUInt32BE(first, TABLE_AT + 4);
    const expected = new Uint8Array(DISK);
    expected.copyWithin(0, 4096, 8192);
    expected.set(DISK.subarray(0, 4096), 4096);
    expectBytes(await readVhd(bytes), expected);
  });

  it('is read without the footer at its end', async () => {
    expectBytes(await readVhd(dynamicVhd({ disk: DISK, hasEndFooter: false })), DISK);
  });

  it('has a table of which a piece is in memory', async () => {
    // 20,000 entries: the piece changes inside a run of blanks.
    const disk = new Uint8Array(20_000 * SECTOR);
    disk.set(DISK, 16_380 * SECTOR);
    const found = await readVhd(dynamicVhd({ disk, blockBytes: SECTOR }));
    expect(Buffer.compare(found!, disk)).toBe(0);
  });

  it('of 2 TiB is walked without reading what is not there', async () => {
    const bytes = Buffer.from(dynamicVhd({ disk: DISK, blockBytes: 2 ** 21 }));
    const large = changedVhd(bytes, (image) => {
      image.writeBigUInt64BE(2n ** 41n, 48);
      image.writeUInt32BE(2 ** 20, SECTOR + 28);
      image.writeBigUInt64BE(BigInt(bytes.length), SECTOR + 16);
    });
    const table = new Uint8Array(2 ** 22).fill(0xff);
    const path = written(Buffer.concat([large, table]));
    expect(await all(image.map(path, { format: 'vpc' }))).toEqual([
      { start: 0, length: 2 ** 41, depth: 0, present: true, zero: true, data: false },
    ]);
  });
});

describe('a fixed VHD image', () => {
  it('is read, and told of, by its name only', async () => {
    const path = written(fixedVhd(DISK));
    expectBytes(await readDisk(path, 'vpc', codecs), DISK);
    expect(await image.info(path, { format: 'vpc' })).toMatchObject({
      format: 'vpc',
      'virtual-size': DISK.length,
    });
    // Nothing says at its start what it is, for qemu-img neither.
    expect(await image.info(path)).toMatchObject({ format: 'raw' });
  });
});

/** QEMU does not look at the bits. */
const isWritten = (): boolean => true;
const DYNAMIC = dynamicVhd({ disk: DISK, isWritten });

describe('VHD images that are refused', () => {
  const rows: [string, () => Uint8Array, ErrorCode, RegExp][] = [
    ['nothing', () => new Uint8Array(0), 'ERR_SLUICE_IMAGE', /not a VHD image/],
    ['the end of its copy', () => DYNAMIC.subarray(0, 300), 'ERR_SLUICE_IMAGE', /has 300 bytes/],
    ['zeroes', () => new Uint8Array(4096), 'ERR_SLUICE_IMAGE', /name its format/],
    [
      'a wrong checksum of the footer',
      () => DYNAMIC.map((byte, at) => (at === 200 ? 1 : byte)),
      'ERR_SLUICE_IMAGE',
      /the copy of the footer, at offset 64: its checksum is \d+, and should be \d+/,
    ],
    [
      'a wrong checksum of the header',
      () => DYNAMIC.map((byte, at) => (at === 1000 ? 1 : byte)),
      'ERR_SLUICE_IMAGE',
      /the dynamic header, at offset 548: its checksum/,
    ],
    [
      'a differencing image',
      () => changedVhd(DYNAMIC, (bytes) => bytes.writeUInt32BE(4, 60)),
      'ERR_SLUICE_UNSUPPORTED',
      /differencing image \(type 4\).*merge it with its parent/,
    ],
    [
      'another type',
      () => changedVhd(DYNAMIC, (bytes) => bytes.writeUInt32BE(2, 60)),
      'ERR_SLUICE_IMAGE',
      /its type is 2, and an image that begins with it is dynamic \(3\)/,
    ],
    [
      'a dynamic one whose start is gone',
      () => new Uint8Array(DYNAMIC).fill(0, 0, 512),
      'ERR_SLUICE_IMAGE',
      /copy the last 512 bytes over the first/,
    ],
    [
      'no header',
      () => changedVhd(DYNAMIC, (bytes) => bytes.writeBigUInt64BE(2n ** 40n, 16)),
      'ERR_SLUICE_IMAGE',
      /1024 bytes at offset 1099511627776/,
    ],
    [
      'a header that is none',
      () => changedVhd(DYNAMIC, (bytes) => bytes.write('cxspars3', 512)),
      'ERR_SLUICE_IMAGE',
      /"cxsparse"/,
    ],
    [
      'blocks of 3,000 bytes',
      () => changedVhd(DYNAMIC, (bytes) => bytes.writeUInt32BE(3000, 544)),
      'ERR_SLUICE_IMAGE',
      /block size is 3000; it must be a power of two/,
    ],
    [
      'blocks of 256 bytes',
      () => changedVhd(DYNAMIC, (bytes) => bytes.writeUInt32BE(256, 544)),
      'ERR_SLUICE_IMAGE',
      /block size is 256/,
    ],
    [
      'a table that is too short',
      () => changedVhd(DYNAMIC, (bytes) => bytes.writeUInt32BE(12, 540)),
      'ERR_SLUICE_IMAGE',
      /has 12 entries, and a disk of 51200 bytes has 13 blocks of 4096/,
    ],
    [
      'a table behind the end',
      () => changedVhd(DYNAMIC, (bytes) => bytes.writeBigUInt64BE(2n ** 50n, 528)),
      'ERR_SLUICE_IMAGE',
      /block table is at offset 1125899906842624; its 52 bytes end behind the file/,
    ],
    [
      'a size of 2^63',
      () => changedVhd(DYNAMIC, (bytes) => bytes.writeBigUInt64BE(2n ** 63n, 48)),
      'ERR_SLUICE_IMAGE',
      /the size of the disk is 0x8000000000000000/,
    ],
    [
      'a fixed one that is cut off',
      () => fixedVhd(DISK.subarray(0, 512), { currentBytes: DISK.length }),
      'ERR_SLUICE_IMAGE',
      /the disk has 51200 bytes, and there are 512 before the footer/,
    ],
  ];
  it.for(rows)('%s', async ([, bytes, code, message]) => {
    await expectRefusal(image.info(written(bytes()), { format: 'vpc' }), code, message);
  });

  it.for([
    [
      'behind the end',
      100_000,
      /entry 2 of the block table is 0x186a0, bytes 51200000 to 51204608/,
    ],
    ['where the table is', 3, /where its metadata is, at 1536/],
    ['where the footer is', 0, /where its metadata is, at 0/],
  ] as const)('blocks %s', async ([, sector, message]) => {
    const bytes = Buffer.from(DYNAMIC);
    bytes.writeUInt32BE(sector, TABLE_AT + 8);
    await expectRefusal(readVhd(bytes), 'ERR_SLUICE_CORRUPT', message);
  });

  it('the last block, where the file is cut off inside it', async () => {
    const cut = DYNAMIC.subarray(0, DYNAMIC.length - SECTOR - 1);
    await expectRefusal(readVhd(cut), 'ERR_SLUICE_CORRUPT', /it is cut off/);
  });
});

describeWithPeers(['qemu-img'], 'the size of a VHD disk', () => {
  const CREATORS = [
    'vpc ',
    'qemu',
    'qem2',
    'win ',
    'd2v ',
    'tap\0',
    'tapx',
    'CTXS',
    'vbox',
    'vs  ',
  ];
  it.for(CREATORS)('is the one that qemu-img shows, of creator %j', async (creator) => {
    const geometry = [3, 4, 5] as const;
    const bytes = dynamicVhd({ disk: DISK, isWritten, footer: { creator, geometry } });
    const theirs = readByQemu(written(bytes), 'vpc');
    expect([DISK.length, 3 * 4 * 5 * SECTOR]).toContain(theirs?.length);
    expectBytes(await readVhd(bytes), theirs);
    const fixed = fixedVhd(DISK, { creator, geometry });
    expectBytes(await readVhd(fixed), readByQemu(written(fixed), 'vpc'));
  });

  it('is the current size where the geometry is the largest', async () => {
    const footer = { creator: 'vpc ', geometry: [65535, 16, 255] } as const;
    const bytes = dynamicVhd({ disk: DISK, isWritten, footer });
    expectBytes(await readVhd(bytes), DISK);
    expectBytes(readByQemu(join(folder, 'disk.vhd'), 'vpc'), DISK);
  });

  it('has whole sectors', async () => {
    const bytes = changedVhd(DYNAMIC, (image) => image.writeBigUInt64BE(51_199n, 48));
    expectBytes(await readVhd(bytes), DISK.subarray(0, 99 * SECTOR));
    expect(readByQemu(join(folder, 'disk.vhd'), 'vpc')?.length).toBe(99 * SECTOR);
  });

  it('is the one of the copy at the start, where the footer at the end has another', async () => {
    const bytes = Buffer.from(DYNAMIC);
    const end = bytes.subarray(bytes.length - SECTOR);
    end.writeBigUInt64BE(4096n, 48);
    withChecksum(end, 64);
    expectBytes(await readVhd(bytes), DISK);
    expectBytes(readByQemu(join(folder, 'disk.vhd'), 'vpc'), DISK);
  });
});
