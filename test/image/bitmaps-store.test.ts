/** How bitmaps are stored at the end, step by step: clusters, order, failures. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { BITMAP_FLAGS, EXTENSION_BITMAPS } from '../../src/abi/qcow2.ts';
import { MemoryFile } from '../../src/image/image-file.ts';
import { nextWritten, setBits } from '../../src/image/qcow2/bitmap-bits.ts';
import { ImageClusters } from '../../src/image/qcow2/image-clusters.ts';
import { readBitmapDirectory } from '../../src/image/qcow2/bitmap-directory.ts';
import { storeBitmaps } from '../../src/image/qcow2/bitmap-store.ts';
import { bitmapsToKeep, granulesFor, markInUse } from '../../src/image/qcow2/bitmaps.ts';
import { checkBytes } from '../../src/image/qcow2/check.ts';
import { parseHeader } from '../../src/image/qcow2/header.ts';
import { Random } from '../engine/random.ts';
import { describeWithPeers } from '../support/peers.ts';
import { qemu } from './bad-inputs/bases.ts';
import { PokedImage } from './bad-inputs/poked-image.ts';
import { LoggedFile } from './logged-file.ts';
import { expectRefusal, imageFolder } from './scratch.ts';

const PATH = 'a.qcow2';
const MIB = 1024 * 1024;

describe('bits', () => {
  const random = new Random(7);

  it('that are set are those of the range', () => {
    for (let round = 0; round < 500; round++) {
      const bytes = new Uint8Array(9).map(() => random.below(256));
      const [from, to] = [random.below(73), random.below(73)].toSorted((a, b) => a - b) as [
        number,
        number,
      ];
      const expected = bitsOf(bytes).map((bit, at) => (at >= from && at < to ? 1 : bit));
      setBits(bytes, from, to);
      expect(bitsOf(bytes)).toEqual(expected);
    }
  });

  it('are found in runs, cut to the range that was asked for', () => {
    for (let round = 0; round < 500; round++) {
      const map = new Uint8Array(4).map(() => random.pick([0, 0xff, random.below(256)]));
      const [from, to] = [random.below(129), random.below(129)].toSorted((a, b) => a - b) as [
        number,
        number,
      ];
      const bits = bitsOf(map);
      const found = Array.from({ length: 128 }, () => 0);
      for (let run = nextWritten({ bits: 2, map }, from, to); run !== undefined;) {
        found.fill(1, run.from, run.to);
        run = nextWritten({ bits: 2, map }, run.to, to);
      }
      const expected = found.map((_, at) => (at >= from && at < to ? bits[at >> 2] : 0));
      expect(found).toEqual(expected);
    }
  });
});

describeWithPeers(['qemu-img', 'qemu-io'], 'the end of a session', () => {
  const folder = imageFolder();

  function image(options: string, size: string, granules: readonly number[]): MemoryFile {
    const run = (...args: string[]): string => qemu(folder, 'qemu-img', args);
    run('create', '-q', '-f', 'qcow2', '-o', options, PATH, size);
    for (const bytes of granules) run('bitmap', '--add', '-g', String(bytes), PATH, `g${bytes}`);
    qemu(folder, 'qemu-io', ['-f', 'qcow2', '-c', 'write -q 100k 8k', PATH]);
    return new MemoryFile(new Uint8Array(readFileSync(join(folder, PATH))));
  }

  it.each([1, 4, 16, 64])(
    'takes clusters that nothing else has, with refcounts of %i bits',
    async (bits) => {
      const file = image(`cluster_size=512,refcount_bits=${bits}`, '4M', []);
      const before = parseHeader(file.bytes, PATH);
      const oldEnd = file.sizeBytes;
      const count = Math.floor((6 * MIB) / 512 / (bits === 64 ? 1 : 4));
      const taken: number[] = [];
      for (const part of [1, 5, count - 6]) {
        const clusters = await ImageClusters.of(file, parseHeader(file.bytes, PATH));
        const offsets = await clusters.take(part);
        for (const offset of offsets) await file.write(offset, new Uint8Array(512).fill(1));
        taken.push(...offsets);
      }
      expect(new Set(taken).size).toBe(count);
      expect(Math.min(...taken)).toBeGreaterThanOrEqual(oldEnd);
      const after = parseHeader(file.bytes, PATH);
      expect(checkBytes(file.bytes, after)).toMatchObject({ corruptions: 0, leaks: count });
      const hasGrown = after.refcountTableClusters > before.refcountTableClusters;
      expect(hasGrown).toBe(bits === 64);
    },
  );

  it('takes the first clusters that are free on a block device', async () => {
    const made = image('cluster_size=512', '4M', [512]).bytes;
    // As if the image were on a device: nothing but the image's part of it is in use.
    const file = new MemoryFile(new Uint8Array(MIB));
    await file.write(0, made);
    const kept = (await bitmapsToKeep(file, parseHeader(file.bytes, PATH), PATH))!;
    await markInUse(file, kept, true);
    const map = new Uint8Array(1024).fill(0xff);
    await storeBitmaps(file, PATH, kept, { bits: 9, map }, true);
    expect(file.sizeBytes).toBe(MIB);
    const report = checkBytes(file.bytes, parseHeader(file.bytes, PATH));
    expect(report).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(report.imageEndOffset).toBeLessThanOrEqual(made.length + 512);
  });

  it('can be cut anywhere: nothing is corrupt, and bitmaps are true or marked', async () => {
    // The refcount table is full soon, so that it grows too.
    const file = image('cluster_size=512,refcount_bits=64', '4M', [512, 1024]);
    await file.truncate(64 * 64 * 512 - 512);
    const header = parseHeader(file.bytes, PATH);
    const log = new LoggedFile(file);
    const start = file.bytes.slice();
    const kept = (await bitmapsToKeep(log, header, PATH))!;
    expect(kept.map(({ name }) => name)).toEqual(['g512', 'g1024']);
    const { bits, count } = granulesFor(kept, header)!;
    const map = new Uint8Array(Math.ceil(count / 8));
    setBits(map, 3, 17);
    setBits(map, 3000, 8192);
    await markInUse(log, kept, true);
    const opened = log.epochs - 1;
    await storeBitmaps(log, PATH, kept, { bits, map }, false);
    expect(parseHeader(file.bytes, PATH).refcountTableClusters).toBeGreaterThan(1);
    expect(checkBytes(file.bytes, parseHeader(file.bytes, PATH))).toMatchObject({
      corruptions: 0,
    });
    const end = file.bytes;
    let states = 0;
    for (const { epoch, bytes } of log.statesAfterCuts(start, new Random(3))) {
      const found = parseHeader(bytes, PATH);
      const { corruptions, findings } = checkBytes(bytes, found);
      expect(corruptions, `${epoch}: ${findings.join('; ')}`).toBe(0);
      const { bitmaps } = await readBitmapDirectory(new MemoryFile(bytes), found, PATH);
      for (const { name, inUse, tableOffset } of bitmaps) {
        if (inUse || epoch < opened) continue;
        expect(storedBits(bytes, tableOffset), name).toBe(storedBits(end, tableOffset));
      }
      states++;
    }
    expect(states).toBeGreaterThan(50);
  });

  it('fails with the reason, and the marks stay, whichever write fails', async () => {
    const made = image('cluster_size=512', '4M', [512]).bytes;
    for (let failing = 1; ; failing++) {
      const file = new MemoryFile(made.slice());
      const header = parseHeader(file.bytes, PATH);
      const kept = (await bitmapsToKeep(file, header, PATH))!;
      await markInUse(file, kept, true);
      const map = new Uint8Array(1024).fill(0xff);
      const log = new LoggedFile(file, failing);
      const stored = storeBitmaps(log, PATH, kept, { bits: 9, map }, false);
      const outcome = await Promise.allSettled([stored]);
      if (outcome[0].status === 'fulfilled') {
        expect(failing).toBe(6);
        break;
      }
      await expectRefusal(stored, 'ERR_SLUICE_IO', /stay marked as in use: no luck; remove them/);
      const { bitmaps } = await readBitmapDirectory(file, header, PATH);
      expect(bitmaps).toMatchObject([{ name: 'g512', inUse: true }]);
    }
  });

  it('does not write to an image that was found corrupt', async () => {
    const file = image('cluster_size=512', '2M', [512]);
    const kept = (await bitmapsToKeep(file, parseHeader(file.bytes, PATH), PATH))!;
    await markInUse(file, kept, true);
    new DataView(file.bytes.buffer, file.bytes.byteOffset).setBigUint64(72, 2n);
    const before = file.bytes.slice();
    const stored = storeBitmaps(
      file,
      PATH,
      kept,
      { bits: 9, map: new Uint8Array(512).fill(1) },
      false,
    );
    await expectRefusal(stored, 'ERR_SLUICE_CORRUPT', /it is marked corrupt/);
    expect(file.bytes).toEqual(before);
  });

  it('comes for no bitmap whose bits may be something else, or that is marked', async () => {
    const whole = image('cluster_size=512', '2M', [512, 1024]).bytes;
    const keeps = async (poke: (image: PokedImage, entry: number) => void) => {
      const poked = new PokedImage(whole);
      poke(poked, poked.at(poked.extension(EXTENSION_BITMAPS) + 16));
      const file = new MemoryFile(poked.bytes);
      const kept = await bitmapsToKeep(file, parseHeader(poked.bytes, PATH), PATH);
      return kept?.map(({ name }) => name);
    };
    const first = (i: PokedImage, entry: number, value: (old: bigint) => bigint): void =>
      i.put64(i.at(entry), value(i.u64(i.at(entry))));
    expect(await keeps(() => undefined)).toEqual(['g512', 'g1024']);
    expect(await keeps((i, at) => i.put32(at + BITMAP_FLAGS, 3))).toEqual(['g1024']);
    expect(await keeps((i, at) => i.put32(at + BITMAP_FLAGS, 0))).toEqual(['g1024']);
    expect(await keeps((i, at) => first(i, at, (old) => old | 2n))).toBeUndefined();
    expect(await keeps((i, at) => first(i, at, (old) => old | (1n << 60n)))).toBeUndefined();
    expect(await keeps((i, at) => first(i, at, () => 1n << 40n))).toBeUndefined();
    expect(await keeps((i, at) => first(i, at, () => BigInt(i.l1)))).toBeUndefined();
    expect(await keeps((i, at) => first(i, at, () => BigInt(i.at(at))))).toBeUndefined();
    expect(await keeps((i, at) => i.put64(at, i.u64(at) + 512n))).toBeUndefined();
  });
});

/** What the two entries of a table in clusters of 512 bytes stand for. */
function storedBits(bytes: Uint8Array, tableOffset: number): string {
  const image = new PokedImage(bytes);
  const clusters = [image.at(tableOffset), image.at(tableOffset + 8)];
  return clusters
    .map((offset) => (offset === 0 ? '' : image.bytes.toString('hex', offset, offset + 512)))
    .join();
}

function bitsOf(bytes: Uint8Array): number[] {
  return [...bytes].flatMap((byte) => Array.from({ length: 8 }, (_, bit) => (byte >> bit) & 1));
}
