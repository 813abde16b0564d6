/** What a check finds that qemu-img does not look for, and what it costs at most. */

import { afterAll, beforeAll, expect, it } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import { checkBytes, checkImage, type CheckReport } from '../../src/image/qcow2/check.ts';
import type { FindingKind } from '../../src/image/qcow2/check-findings.ts';
import { parseHeader } from '../../src/image/qcow2/header.ts';
import { describeWithPeers } from '../support/peers.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { KINDS, type Made, make, remove } from './check-images.ts';

const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;
const L1_ENTRIES_MAX = 4 * 1024 * 1024;
const SNAPSHOTS_MAX = 65536;
const SNAPSHOT_BYTES = 56;

/** [finding, kind of image, what is done to it]. */
const CASES: readonly [FindingKind, string, (image: PokedImage) => void][] = [
  ['zero-extended', 'extended L2', (i) => i.put64(i.l2, i.u64(i.l2) | 1n)],
  ['compressed-subclusters', 'zlib extended L2', (i) => i.put64(compressedEntry(i) + 8, 1n)],
  ['compressed-copied', 'zlib extended L2', (i) => i.put8(compressedEntry(i), 0xc0)],
  ['subcluster-both', 'extended L2', (i) => i.put64(i.l2 + 8, 0x1_0000_0001n)],
  ['too-many-references', 'refcounts of 1 bits', (i) => i.put64(i.l2 + 8, i.u64(i.l2))],
  ['data-file-offset', 'data file', (i) => i.put64(i.l2, COPIED | 0x10_0000n)],
  ['snapshot-l1', 'snapshots', (i) => i.put32(i.at(64) + 8, 0x1000_0000)],
  ['table-overlap', 'snapshots', (i) => i.put64(i.at(64), BigInt(i.l1))],
  ['bitmap-entry', 'bitmaps', (i) => i.put64(bitmapTable(i), 2n)],
  ['bitmap-directory', 'bitmaps', (i) => i.put8(bitmapDirectory(i) + 16, 9)],
  ['overlap', '4k', (i) => i.put64(i.l2, COPIED | BigInt(i.l1))],
  ['cut-off', '4k', (i) => i.truncate(i.bytes.length - 1024)],
  ['zero-version-2', 'v2', (i) => i.put64(i.l2, i.u64(i.l2) | 1n)],
  ['l1-no-table', '4k', (i) => i.put64(i.l1, COPIED)],
];

describeWithPeers(['qemu-img', 'qemu-io'], 'the bounds of a check', () => {
  let images: Made[] = [];
  beforeAll(() => {
    const names = new Set(['64k', 'backed', ...CASES.map(([, name]) => name)]);
    images = KINDS.filter(({ name }) => names.has(name)).map(make);
  });
  afterAll(() => images.forEach(remove));

  const poked = (name: string, poke: (image: PokedImage) => void): Buffer => {
    const image = new PokedImage(images.find(({ kind }) => kind.name === name)!.bytes);
    poke(image);
    return image.bytes;
  };

  it.each(CASES)('finds %s in an image of the kind %s', (finding, name, poke) => {
    expect(check(poked(name, poke)).counts[finding]).toBeGreaterThan(0);
  });

  it('takes a bounded time for tables that refer to the same tables over and over', () => {
    const started = performance.now();
    const report = check(poked('64k', referManyTimes));
    expect(report.counts['table-overlap']).toBe(SNAPSHOTS_MAX);
    expect(report.counts['refcount-too-low']).toBeGreaterThan(0);
    expect(report.findings.length).toBe(1000);
    expect(performance.now() - started).toBeLessThan(10_000);
  });

  it('can be aborted', async () => {
    const { bytes, path } = images[0]!;
    const signal = AbortSignal.abort();
    const checking = checkImage(new MemoryFile(bytes), parseHeader(bytes, path), { signal });
    await expect(checking).rejects.toBe(signal.reason);
  });
});

function check(bytes: Uint8Array): CheckReport {
  return checkBytes(bytes, parseHeader(bytes, 'IMAGE'));
}

/** The largest L1 table, all of it one L2 table, for the disk and for 65536 snapshots. */
function referManyTimes(image: PokedImage): void {
  const { l2 } = image;
  const l1 = Math.ceil(image.bytes.length / 65536) * 65536;
  const snapshots = l1 + L1_ENTRIES_MAX * 8;
  image.truncate(snapshots + SNAPSHOTS_MAX * SNAPSHOT_BYTES);
  for (let index = 0; index < L1_ENTRIES_MAX; index++) {
    image.bytes.writeBigUInt64BE(COPIED | BigInt(l2), l1 + index * 8);
  }
  for (let at = snapshots; at < image.bytes.length; at += SNAPSHOT_BYTES) {
    image.put64(at, BigInt(l1));
    image.put32(at + 8, L1_ENTRIES_MAX);
    image.put32(at + 36, 16);
  }
  image.put32(36, L1_ENTRIES_MAX);
  image.put64(40, BigInt(l1));
  image.put32(60, SNAPSHOTS_MAX);
  image.put64(64, BigInt(snapshots));
}

/** The first compressed entry of the first L2 table, which has extended entries. */
function compressedEntry(image: PokedImage): number {
  let at = image.l2;
  while ((image.u64(at) & COMPRESSED) === 0n) at += 16;
  return at;
}

function bitmapDirectory({ bytes }: PokedImage): number {
  return parseHeader(bytes, 'IMAGE').bitmaps!.directoryOffset;
}

function bitmapTable(image: PokedImage): number {
  return image.at(bitmapDirectory(image));
}
