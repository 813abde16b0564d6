/**
 * Damaged VHD and VMDK images: each is refused with an error of ours, or reads as QEMU reads it.
 *
 * Where QEMU reads on and we refuse is known: what lies behind the end of the file is zeroes to it,
 * and it compares no checksum of the dynamic header and no place with that of the metadata. Where
 * only QEMU refuses is in ONLY_QEMU_REFUSES.
 */
import { afterAll, describe, expect, it } from 'vitest';

import { SluiceError } from '../../src/errors.ts';
import type { ReadOnlyFormat } from '../../src/image/format.ts';
import { Random } from '../../src/testing/random.ts';
import { describeWithPeers } from '../support/peers.ts';
import { codecPool, expectBytes, readByQemu, readDisk, someDisk } from './read-only.ts';
import { imageFolder, writeImage } from './scratch.ts';
import { changedVhd, dynamicVhd, fixedVhd, withChecksum } from './vhd-images.ts';
import { vmdk } from './vmdk-images.ts';

const MIB = 1024 * 1024;
/** Of heap and buffers, beside the disks that are compared. */
const MEMORY_BYTES_MAX = 512 * MIB;
const ROUNDS = 120;
const ROUNDS_WITH_QEMU = 40;
/** Entries of blocks that the disk has not, and disks of no bytes, which it makes itself. */
const ONLY_QEMU_REFUSES = /free_data_block_offset|Max Table Entries|Unsupported image type/;

interface Base {
  readonly format: ReadOnlyFormat;
  readonly bytes: Uint8Array;
  /** Where damage goes: what the image says of itself. */
  readonly metadata: readonly (readonly [from: number, to: number])[];
  /** Entries of a block table: each becomes another one, or one that cannot be. */
  readonly entries?: readonly [from: number, to: number];
  /** Makes checksums right again, so that the damage is looked at. */
  readonly mend?: (bytes: Uint8Array) => Uint8Array;
}

const DISK = someDisk(64 * 512, 5);
const isWritten = (): boolean => true;
const DYNAMIC = dynamicVhd({ disk: DISK, isWritten, hasFullBitmaps: true });
const FIXED = fixedVhd(DISK);
const SPARSE = vmdk({ disk: DISK, grainSectors: 1, tableEntries: 16 });
const STREAM = vmdk({ disk: DISK, compressed: true, atEnd: true });

const BASES: Readonly<Record<string, Base>> = {
  dynamic: {
    format: 'vpc',
    bytes: DYNAMIC,
    metadata: [
      [0, 1536],
      [1536, 1568],
    ],
    entries: [1536, 1568],
  },
  mended: {
    format: 'vpc',
    bytes: DYNAMIC,
    metadata: [
      [12, 64],
      // Without the offset of the table: other bytes would be bitmaps, which QEMU does not look at.
      [520, 528],
      [536, 548],
      [1536, 1568],
    ],
    entries: [1536, 1568],
    mend: (bytes) => changedVhd(bytes, () => undefined),
  },
  fixed: {
    format: 'vpc',
    bytes: FIXED,
    metadata: [[FIXED.length - 512, FIXED.length - 400]],
    mend: (bytes) => {
      withChecksum(bytes.subarray(FIXED.length - 512), 64);
      return bytes;
    },
  },
  sparse: {
    format: 'vmdk',
    bytes: SPARSE,
    metadata: [
      [0, 80],
      [512, 800],
      [SPARSE.length - 2048, SPARSE.length],
    ],
  },
  stream: {
    format: 'vmdk',
    bytes: STREAM,
    metadata: [
      [0, 80],
      [11 * 1024, 13 * 1024],
      [STREAM.length - 4096, STREAM.length],
    ],
  },
};

const VALUES = [0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff];

/** A few bytes or bits of the metadata, or the end of the file, are others. */
function damaged({ bytes, metadata, entries, mend }: Base, random: Random): Uint8Array {
  const copy = new Uint8Array(bytes);
  for (let left = 1 + random.below(3); left > 0; left--) {
    const [from, to] = metadata[random.below(metadata.length)]!;
    const at = from + random.below(to - from);
    if (from === entries?.[0]) {
      otherEntry(copy, entries, random);
      continue;
    }
    if (random.chance(0.3)) copy[at]! ^= 1 << random.below(8);
    else copy.fill(VALUES[random.below(VALUES.length)]!, at, at + 1 + random.below(8));
  }
  const right = mend?.(copy) ?? copy;
  return random.chance(0.15) ? right.subarray(0, random.below(right.length)) : right;
}

/** Other places than those of blocks would be bitmaps, which QEMU does not look at. */
function otherEntry(bytes: Uint8Array, [from, to]: readonly [number, number], random: Random) {
  const view = new DataView(bytes.buffer);
  const entryAt = (): number => from + 4 * random.below((to - from) / 4);
  const values = [
    0xffffffff,
    0,
    3,
    0x7fffffff,
    view.getUint32(entryAt()),
    view.getUint32(entryAt()),
  ];
  view.setUint32(entryAt(), values[random.below(values.length)]!);
}

const folder = imageFolder();
const codecs = codecPool();
afterAll(() => codecs[Symbol.asyncDispose]());

/** What it reads as, or the error. */
async function read(path: string, format: ReadOnlyFormat) {
  return readDisk(path, format, codecs).then(
    (disk) => ({ disk, refused: false }),
    (error: unknown) => {
      if (!(error instanceof SluiceError)) throw error;
      expect(error.message).toContain(path);
      expect(error.code).toMatch(/^ERR_SLUICE_(IMAGE|CORRUPT|UNSUPPORTED)$/);
      return { disk: undefined, refused: true };
    },
  );
}

describe('damaged images of formats that are only read', () => {
  it.for(Object.keys(BASES))('are refused, or read, in bounds: %s', async (name) => {
    const base = BASES[name]!;
    const random = new Random(name.length);
    const counts = { refused: 0, read: 0 };
    for (let round = 0; round < ROUNDS; round++) {
      const path = writeImage(folder, 'image', damaged(base, random));
      const { refused } = await read(path, base.format);
      counts[refused ? 'refused' : 'read']++;
    }
    // Damage that always refused, or never, would test nothing.
    expect(Math.min(counts.refused, counts.read)).toBeGreaterThan(ROUNDS / 100);
    expect(process.memoryUsage.rss()).toBeLessThan(MEMORY_BYTES_MAX);
  });
});

describeWithPeers(['qemu-img'], 'damaged images that are read', () => {
  it.for(Object.keys(BASES))('read as QEMU reads them: %s', async (name) => {
    const base = BASES[name]!;
    const random = new Random(1000 + name.length);
    let compared = 0;
    for (let round = 0; round < ROUNDS_WITH_QEMU; round++) {
      const path = writeImage(folder, 'image', damaged(base, random));
      const { disk, refused } = await read(path, base.format);
      if (refused || disk === undefined) continue;
      const theirs = readByQemu(path, base.format);
      if (typeof theirs === 'string') {
        expect(theirs, `round ${round}`).toMatch(ONLY_QEMU_REFUSES);
        continue;
      }
      expectBytes(disk, theirs);
      compared++;
    }
    expect(compared).toBeGreaterThan(ROUNDS_WITH_QEMU / 20);
  });
});
