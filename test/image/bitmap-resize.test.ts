/** Bitmaps of a disk that gets another size: as by qemu-img, and after power cuts and failures. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { MemoryFile } from '../../src/image/image-file.ts';
import { readBitmapDirectory } from '../../src/image/qcow2/bitmap-directory.ts';
import {
  bitmapsToResize,
  markBehind,
  placeFitting,
  switchBitmaps,
} from '../../src/image/qcow2/bitmap-resize.ts';
import { ALL_ONES, ALL_ZEROES, readBitmapTable } from '../../src/image/qcow2/bitmap-table.ts';
import { growL1 } from '../../src/image/qcow2/grow-l1.ts';
import { readHeader } from '../../src/image/qcow2/header.ts';
import { describeWithPeers } from '../support/peers.ts';
import { qemu } from './bad-inputs/bases.ts';
import { dirtyRanges } from './bitmaps-qemu.ts';
import {
  type Change,
  change,
  expectSameByQemu,
  expectWhole,
  failEveryWrite,
  IMAGE,
  io,
  makeImage,
} from './edited-image.ts';
import { imageFolder } from './scratch.ts';

/** Data that no bitmap knows of, which the disk loses when it gets smaller. */
const LOST_AT = 3 * 2 ** 20;
const FOUND_BYTES = 4 * 2 ** 20;
const SECTOR_BYTES = 512;
/** One after the other; the second ends behind the first bit of an entry of a table. */
const SIZES = [40 * 2 ** 20 + 512, 2 ** 23 + 512, LOST_AT - 1024, 100 * 1024 + 512, 2 ** 22];
const NONE: ReadonlySet<string> = new Set();

/** The granules that bitmaps say were written, by name. */
type Bits = Readonly<Record<string, readonly number[]>>;

/** In the order of src/resize.ts; what is lost is overwritten where it lies in the file. */
function resized(sizeBytes: number, lostAt: number): Change {
  return async (file, header) => {
    const before = await bitmapsToResize(file, header, IMAGE, sizeBytes);
    const isSmaller = sizeBytes < header.sizeBytes;
    const cut = isSmaller ? await markBehind(before, sizeBytes) : NONE;
    if (lostAt > 0) await file.write(lostAt, new Uint8Array(SECTOR_BYTES));
    await file.sync();
    const long = await growL1(file, await readHeader(file, IMAGE), IMAGE, sizeBytes, false);
    const opened = await bitmapsToResize(file, long, IMAGE, sizeBytes);
    const placed = await placeFitting(opened, sizeBytes, cut);
    await switchBitmaps(opened, placed!, sizeBytes);
    return readHeader(file, IMAGE);
  };
}

describeWithPeers(['qemu-img', 'qemu-io', 'nbdinfo', 'qemu-nbd'], 'bitmaps of a new size', () => {
  const folder = imageFolder();
  const path = join(folder, IMAGE);

  function make(options: string): void {
    const all = (what: string): string[][] =>
      ['fine', 'coarse', 'off'].map((name) => ['qemu-img', 'bitmap', `--${what}`, IMAGE, name]);
    makeImage(
      folder,
      ['-o', options, IMAGE, String(FOUND_BYTES)],
      ['qemu-img', 'bitmap', '--add', '-g', '1k', IMAGE, 'fine'],
      ['qemu-img', 'bitmap', '--add', '-g', '64k', IMAGE, 'coarse'],
      ['qemu-img', 'bitmap', '--add', '-g', '4k', IMAGE, 'off'],
      io('write -q -P 1 100k 60k', 'write -q -P 2 2M 4k', 'write -q -P 2 4095k 1k'),
      ...all('disable'),
      io('write -q -P 3 3M 64k'),
      ...all('enable').slice(0, 2),
    );
  }

  function hostOffset(guest: number): number {
    const text = qemu(folder, 'qemu-img', ['map', '--output=json', IMAGE]);
    const map = JSON.parse(text) as { start: number; length: number; offset: number }[];
    const { start, offset } = map.find((one) => guest < one.start + one.length)!;
    return offset + guest - start;
  }

  it.for(['cluster_size=512', 'cluster_size=4k'])(
    'have that or the old one after a cut, and miss nothing: %s',
    async (options) => {
      make(options);
      for (const sizeBytes of SIZES) {
        const old = await look(readFileSync(path), 'before');
        const isLosing = sizeBytes < LOST_AT && LOST_AT < old.sizeBytes;
        const lostAt = isLosing ? hostOffset(LOST_AT) : 0;
        const { states, end } = await change(folder, resized(sizeBytes, lostAt));
        const shrink = sizeBytes < old.sizeBytes ? ['--shrink'] : [];
        // Nobody has dropped what was behind the end, so it shows when the disk grows again.
        const isEncrypted = sizeBytes === 2 ** 22;
        const command = ['resize', ...shrink, IMAGE, String(sizeBytes)];
        expectSameByQemu(folder, command, { isEncrypted });
        for (const name of Object.keys(old.bits)) {
          const theirs = dirtyRanges(folder, 'theirs.qcow2', name);
          expect(dirtyRanges(folder, IMAGE, name), `${sizeBytes} ${name}`).toEqual(theirs);
        }
        const now = await look(end, 'after');
        for (const { epoch, bytes } of states) {
          const where = `${old.sizeBytes} to ${sizeBytes}, epoch ${epoch}`;
          const found = await look(bytes, where);
          expect([old.sizeBytes, sizeBytes], where).toContain(found.sizeBytes);
          if (found.sizeBytes === sizeBytes) expect(found.bits, where).toEqual(now.bits);
          else if (!isLosing) expectKept(found.bits, old.bits, where);
          else expectMarked(found.bits, old.bits, bytes[lostAt] === 0, where);
        }
      }
    },
  );

  it('lose nothing when a write fails', async () => {
    for (const sizeBytes of [2 ** 25, 2 ** 20 + 512]) {
      make('cluster_size=512');
      const old = await look(readFileSync(path), 'before');
      const failures = await failEveryWrite(
        folder,
        resized(sizeBytes, 0),
        async (bytes, failing) => {
          const where = `${sizeBytes}, write ${failing}`;
          const found = await look(bytes, where);
          if (found.sizeBytes === FOUND_BYTES) expectKept(found.bits, old.bits, where);
        },
      );
      expect(failures).toBeGreaterThan(10);
    }
  });

  it('do not show what lay behind the end: bits, or those of an entry for all bits', async () => {
    for (const isEntry of [true, false]) {
      makeImage(
        folder,
        ['-o', 'cluster_size=512', IMAGE, '1M'],
        ['qemu-img', 'bitmap', '--add', '-g', '512', IMAGE, 'fine'],
        io('write -q 1000k 512'),
      );
      const bytes = readFileSync(path);
      const file = new MemoryFile(new Uint8Array(bytes));
      const { bitmaps } = await readBitmapDirectory(file, await readHeader(file, IMAGE), IMAGE);
      // 2048 of 4096 bits.
      const { tableOffset, tableEntries } = bitmaps[0]!;
      expect(tableEntries).toBe(1);
      const bits = Number(bytes.readBigUInt64BE(tableOffset));
      if (isEntry) bytes.writeBigUInt64BE(ALL_ONES, tableOffset);
      else bytes.fill(0xff, bits + 256, bits + 512);
      writeFileSync(path, bytes);
      await change(folder, resized(2 ** 21 + 2 ** 20, 0));
      const dirty = isEntry ? [[0, 2 ** 20]] : [[1_024_000, 1_024_512]];
      expect(dirtyRanges(folder, IMAGE, 'fine')).toEqual(dirty);
    }
  });
});

/** An image that is whole, with bitmaps that have the length of its disk. */
async function look(
  bytes: Uint8Array,
  where: string,
): Promise<{ readonly sizeBytes: number; readonly bits: Bits }> {
  const header = expectWhole(bytes, where);
  expect(header.bitmaps, where).toMatchObject({ consistent: true });
  const file = new MemoryFile(new Uint8Array(bytes));
  const { bitmaps, problem } = await readBitmapDirectory(file, header, IMAGE);
  expect(problem, where).toBeUndefined();
  const bits: Record<string, number[]> = {};
  for (const bitmap of bitmaps) {
    const table = await readBitmapTable(file, header, bitmap);
    expect([bitmap.inUse, table.problem], where).toEqual([false, undefined]);
    const perEntry = header.clusterBytes * 8;
    const set: number[] = [];
    for (const [index, entry] of table.entries.entries()) {
      if (entry === ALL_ZEROES) continue;
      for (let bit = 0; bit < perEntry; bit++) {
        const byte = entry === ALL_ONES ? 0xff : bytes[Number(entry) + (bit >> 3)]!;
        if (((byte >> (bit & 7)) & 1) === 1) set.push(index * perEntry + bit);
      }
    }
    const end = Math.ceil(header.sizeBytes / 2 ** bitmap.granularityBits);
    bits[bitmap.name] = set.filter((granule) => granule < end);
  }
  return { sizeBytes: header.sizeBytes, bits };
}

function expectKept(found: Bits, old: Bits, where: string): void {
  for (const [name, bits] of Object.entries(old)) {
    const there = new Set(found[name]);
    expect(
      bits.filter((bit) => !there.has(bit)),
      `${where} ${name}`,
    ).toEqual([]);
  }
}

/** Z4: what is lost was marked before, in the bitmaps that are kept up to date. */
function expectMarked(found: Bits, old: Bits, isLost: boolean, where: string): void {
  expectKept(found, old, where);
  expect(found['off'], where).toEqual(old['off']);
  if (!isLost) return;
  expect(found['fine'], where).toContain(LOST_AT / 1024);
  expect(found['coarse'], where).toContain(LOST_AT / 65_536);
}
