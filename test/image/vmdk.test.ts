/** VMDK images that qemu-img cannot make, read; and what is refused of them. */
import { deflateSync } from 'node:zlib';
import { afterAll, describe, expect, it } from 'vitest';

import type { ErrorCode } from '../../src/errors.ts';
import { inflateGrain } from '../../src/image/vmdk/grain-stream.ts';
import { image } from '../../src/node.ts';
import { describeWithPeers } from '../support/peers.ts';
import { all, codecPool, expectBytes, readByQemu, readDisk, someDisk } from './read-only.ts';
import { expectRefusal, imageFolder, writeImage } from './scratch.ts';
import { descriptorText, grainStream, VMDK, vmdk, type VmdkParts } from './vmdk-images.ts';

const SECTOR = 512;
const folder = imageFolder();
const codecs = codecPool();
afterAll(() => codecs[Symbol.asyncDispose]());
const DISK = someDisk(301 * SECTOR, 2);

function written(bytes: Uint8Array): string {
  return writeImage(folder, 'disk.vmdk', bytes);
}

async function readVmdk(bytes: Uint8Array): Promise<Uint8Array | undefined> {
  return readDisk(written(bytes), 'vmdk', codecs);
}

function changed(bytes: Uint8Array, change: (bytes: Buffer) => void): Uint8Array {
  const copy = Buffer.from(bytes);
  change(copy);
  return copy;
}

const KINDS: readonly Omit<VmdkParts, 'disk'>[] = [
  {},
  { grainSectors: 1, tableEntries: 3 },
  { grainSectors: 128 },
  { grainSectors: 2 ** 12, tableEntries: 1 },
  { compressed: true },
  { compressed: true, atEnd: true, grainSectors: 128 },
  { compressed: true, atEnd: true, grainSectors: 1, tableEntries: 100 },
  { compressed: true, grainSectors: 4096 },
  { atEnd: true, version: 2 },
];

describe('a VMDK image', () => {
  it.for(KINDS)('is read with %o', async (parts) => {
    expectBytes(await readVmdk(vmdk({ disk: DISK, ...parts })), DISK);
  });

  it('has grains of zeroes, and grains that are not there', async () => {
    const kinds = ['data', 'none', 'zero', 'data'] as const;
    const kindOf = (grain: number) => kinds[grain % 4]!;
    const expected = DISK.map((byte, at) => (kindOf(Math.floor(at / 4096)) === 'data' ? byte : 0));
    const bytes = vmdk({ disk: DISK, kindOf });
    expectBytes(await readVmdk(bytes), expected);
    const extents = await all(image.map(written(bytes)));
    expect(extents.slice(0, 4)).toMatchObject([
      { start: 0, present: true, zero: false, data: true, offset: 21 * SECTOR },
      { start: 4096, present: false, zero: true, data: false },
      { start: 8192, present: true, zero: true, data: false },
      { start: 12_288, length: 8192, present: true, zero: false, data: true },
    ]);
  });

  it('takes grain tables of nothing for nothing', async () => {
    const kindOf = (grain: number) => (grain < 40 && grain > 9 ? 'none' : 'data');
    const expected = new Uint8Array(DISK).fill(0, 10 * SECTOR, 40 * SECTOR);
    const parts = { disk: DISK, kindOf, grainSectors: 1, tableEntries: 10 } as const;
    expectBytes(await readVmdk(vmdk(parts)), expected);
  });
});

describe('a compressed grain', () => {
  const plain = DISK.subarray(0, 4096);
  const stream = deflateSync(plain);
  const grain = grainStream(stream, 0);

  it('is read, and what follows it is not', () => {
    const more = Buffer.concat([grain, Buffer.alloc(100, 7)]);
    expect(new Uint8Array(inflateGrain(more, 4096)!)).toEqual(plain);
  });

  it.for<[string, Uint8Array, number]>([
    ['has a wrong checksum', grain.map((byte, at) => byte ^ Number(at === grain.length - 1)), 4096],
    ['is cut off', grainStream(stream.subarray(0, -9), 0), 4096],
    ['is longer than a grain', grain, 2048],
    ['is longer than there are bytes', grain.subarray(0, -1), 4096],
    ['has no bytes', grainStream(new Uint8Array(0), 0), 4096],
    ['is no marker', grain.subarray(0, 11), 4096],
  ])('is damaged when it %s', ([, bytes, length]) => {
    expect(inflateGrain(bytes, length)).toBeUndefined();
  });

  it('fails the copy with its place', async () => {
    const bytes = vmdk({ disk: DISK, compressed: true, grainSectors: 128 });
    const damaged = changed(bytes, (image) => image.fill(0xaa, 21 * SECTOR + 100, 22 * SECTOR));
    const message =
      /the compressed cluster at offset 10752 of the image is damaged: read at offset 0/;
    await expectRefusal(readVmdk(damaged), 'ERR_SLUICE_CORRUPT', message);
  });
});

const SPARSE = vmdk({ disk: DISK });
const STREAM = vmdk({ disk: DISK, compressed: true, atEnd: true });
const field = (name: keyof typeof VMDK, value: number) => (): Uint8Array =>
  changed(SPARSE, (bytes) => bytes.writeUInt32LE(value, VMDK[name]));
const large = (name: keyof typeof VMDK, value: bigint) => (): Uint8Array =>
  changed(SPARSE, (bytes) => bytes.writeBigUInt64LE(value, VMDK[name]));
const described = (changes: { readonly [key: string]: string }) => (): Uint8Array =>
  vmdk({ disk: DISK, descriptor: descriptorText(changes) });

describe('VMDK images that are refused', () => {
  const image_ = 'ERR_SLUICE_IMAGE';
  const unsupported = 'ERR_SLUICE_UNSUPPORTED';
  const rows: [string, () => Uint8Array, ErrorCode, RegExp][] = [
    ['nothing', () => new Uint8Array(0), image_, /not a VMDK image/],
    ['the end of the header', () => SPARSE.subarray(0, 200), image_, /has 200 bytes/],
    ['version 0', field('version', 0), unsupported, /version 0; this release reads/],
    ['version 4', field('version', 4), unsupported, /version 4/],
    ['2^63 sectors', large('capacity', 2n ** 63n), image_, /9223372036854775808 sectors/],
    [
      '2^43 sectors',
      large('capacity', 2n ** 43n),
      image_,
      /directory would have 2147483648 entries/,
    ],
    ['2^30 sectors', large('capacity', 2n ** 30n), image_, /its 1048576 bytes must lie behind/],
    ['grains of nothing', large('grainSize', 0n), image_, /a grain has 0 sectors/],
    ['grains of 3 sectors', large('grainSize', 3n), image_, /a grain has 3 sectors/],
    ['grains of 2^40', large('grainSize', 2n ** 40n), image_, /1 to 2097152/],
    ['tables of nothing', field('tableEntries', 0), image_, /has 0 entries/],
    ['tables of 513', field('tableEntries', 513), image_, /has 513 entries/],
    ['a directory behind the end', large('directory', 2n ** 30n), image_, /at offset 549755813888/],
    ['a directory in the header', large('directory', 0n), image_, /at offset 0/],
    ['metadata behind the end', large('overhead', 9999n), image_, /it is cut off/],
    ['another compression', field('compression', 2), unsupported, /compression 2/],
    ['no descriptor', large('descriptorOffset', 0n), unsupported, /one of several files/],
    ['a descriptor behind the end', large('descriptorOffset', 99999n), image_, /cannot read/],
    ['a delta', described({ parentCID: '12345678' }), unsupported, /it is a delta/],
    [
      'a delta that names its parent',
      described({ parentFileNameHint: '"base.vmdk"' }),
      unsupported,
      /whose parent is base.vmdk; consolidate its snapshots first/,
    ],
    [
      'several files',
      described({ createType: '"twoGbMaxExtentSparse"' }),
      unsupported,
      /"twoGbMaxExtentSparse".*vmware-vdiskmanager/,
    ],
    [
      'a descriptor without a type',
      () => vmdk({ disk: DISK, descriptor: 'parentCID=ffffffff' }),
      image_,
      /no createType/,
    ],
    [
      'two extents',
      described({ extents: 'RW 1 SPARSE "a"\nRW 2 SPARSE "b"' }),
      image_,
      /2 extents/,
    ],
    ['a flat extent', described({ extents: 'RW 1 FLAT "a" 0' }), image_, /1 extents, and not one/],
    [
      'a descriptor of its own, of a flat file',
      () => Buffer.from(descriptorText({ createType: '"monolithicFlat"' })),
      unsupported,
      /"monolithicFlat".*-f raw/,
    ],
    [
      'an ESX descriptor',
      () => Buffer.from(descriptorText({ createType: '"vmfsSparse"' })),
      unsupported,
      /"vmfsSparse".*OVF/,
    ],
    ['an ESX extent', () => Buffer.from('COWD\x01\0\0\0'), unsupported, /ESX sparse extent/],
    ['text', () => Buffer.from('# Disk DescriptorFile\n'.repeat(9999)), image_, /name its format/],
    [
      'compressed grains of 4 MiB',
      () => vmdk({ disk: DISK, compressed: true, grainSectors: 8192 }),
      unsupported,
      /compressed ones have 2097152/,
    ],
    [
      'compressed grains without markers',
      () => changed(STREAM, (bytes) => bytes.writeUInt8(1, bytes.length - 1024 + VMDK.flags + 2)),
      unsupported,
      /have no markers/,
    ],
    ['no end of the stream', () => STREAM.subarray(0, -512), image_, /a marker has type/],
    ['half a sector at the end', () => STREAM.subarray(0, -256), image_, /leaves no footer/],
    [
      'a footer that is none',
      () => changed(STREAM, (bytes) => bytes.fill(0, bytes.length - 1024, bytes.length - 1020)),
      image_,
      /the footer, at offset \d+: it does not begin with "KDMV"/,
    ],
  ];
  it.for(rows)('%s', async ([, bytes, code, message]) => {
    await expectRefusal(image.info(written(bytes()), { format: 'vmdk' }), code, message);
  });

  it.for([
    ['table behind the end', 56, 0, /entry 0 of the grain directory is 0xfffff0, .* cut off/],
    ['table in the directory', 56, -1, /entry 0 of the grain directory is .*metadata/],
  ] as const)('a grain %s', async ([, , sector, message]) => {
    const bytes = Buffer.from(SPARSE);
    const directory = bytes.readUInt32LE(VMDK.directory);
    bytes.writeUInt32LE(sector < 0 ? directory - 3 : 0xfffff0, directory * SECTOR);
    await expectRefusal(readVmdk(bytes), 'ERR_SLUICE_CORRUPT', message);
  });

  it('grains behind the end, and in the header', async () => {
    const bytes = Buffer.from(SPARSE);
    const table = bytes.readUInt32LE(bytes.readUInt32LE(VMDK.directory) * SECTOR) * SECTOR;
    bytes.writeUInt32LE(0xffffffff, table + 12);
    const message =
      /entry 3 of grain table 0 is 0xffffffff, bytes \d+ to \d+ of the file, which has/;
    await expectRefusal(readVmdk(bytes), 'ERR_SLUICE_CORRUPT', message);
  });
});

describeWithPeers(['qemu-img'], 'VMDK images by our own hand', () => {
  it.for(KINDS)('read as qemu-img reads them, with %o', async (parts) => {
    const path = written(vmdk({ disk: DISK, ...parts }));
    expectBytes(await readDisk(path, 'vmdk', codecs), readByQemu(path, 'vmdk'));
  });
});
