/** Bitmaps keep up with the size of their disk, as those of qemu-img do. */
import { readFileSync, writeFileSync } from 'node:fs';
import { beforeAll, expect, it } from 'vitest';

import { BITMAP_FLAG_IN_USE_BIT, BITMAP_FLAGS } from '../../src/abi/qcow2.ts';
import { parseHeader } from '../../src/image/qcow2/header.ts';
import { image, openDisk } from '../../src/node.ts';
import { qemu } from '../image/bad-inputs/bases.ts';
import { dirtyRanges, listBitmaps } from '../image/bitmaps-qemu.ts';
import { expectRefusal, imageFolder } from '../image/scratch.ts';
import { describeWithPeers } from '../support/peers.ts';
import {
  both,
  bothDo,
  create,
  expectSameDisk,
  expectSound,
  told,
  twinsOf,
  write,
} from './twins.ts';

/** Each with an image of its own: cluster size, granularities, sizes one after the other. */
const CASES: readonly (readonly [string, readonly number[], readonly string[]])[] = [
  ['cluster_size=512', [512, 4096], ['6M', '--shrink 2097664', '--shrink 700k', '3M']],
  ['cluster_size=4k', [512, 2 ** 20], ['70M', '--shrink 3000320', '20M']],
  ['cluster_size=64k', [4096, 2 ** 31], ['+512', '--shrink 1M', '3G']],
  ['cluster_size=16k,extended_l2=on', [512], ['5M', '--shrink 100k', '600M']],
  ['cluster_size=2M,refcount_bits=1', [65_536], ['1T', '--shrink 3M']],
];

describeWithPeers(
  ['qemu-img', 'qemu-io', 'nbdinfo', 'qemu-nbd'],
  'bitmaps of a disk that gets another size',
  () => {
    const folder = imageFolder();
    let kept = '';
    beforeAll(() => {
      kept = create(folder, 'kept.qcow2', '4M');
      qemu(folder, 'qemu-img', ['bitmap', '--add', kept, 'kept']);
      write(kept, 'write -P 1 1M 64k', 'write -P 2 3M 1M');
    });

    it.for(CASES)('are those of qemu-img: %s, %s, %s', async ([options, granularities, sizes]) => {
      const path = create(folder, 'disk.qcow2', '-o', options, '4M');
      for (const bytes of granularities) {
        for (const name of [`on-${bytes}`, `off-${bytes}`]) {
          qemu(folder, 'qemu-img', ['bitmap', '--add', '-g', String(bytes), path, name]);
        }
      }
      write(
        path,
        'write -P 1 0 4k',
        'write -P 2 650k 100k',
        'write -P 3 2M 1k',
        'write -z 4095k 1k',
      );
      for (const bytes of granularities) {
        qemu(folder, 'qemu-img', ['bitmap', '--disable', path, `off-${bytes}`]);
      }
      write(path, 'write -P 4 1M 12k');
      const twins = twinsOf(path);
      for (const size of sizes) {
        const words = size.split(' ');
        await bothDo(twins, ['resize', '-q', ...words.slice(0, -1)], words.slice(-1));
        expect(told(twins.ours), size).toEqual(told(twins.theirs));
        for (const { name } of listBitmaps(folder, twins.theirs)) {
          const found = dirtyRanges(folder, twins.ours, name);
          expect(found, `${size} ${name}`).toEqual(dirtyRanges(folder, twins.theirs, name));
        }
        expectSameDisk(twins.ours, twins.theirs);
        expectSound(twins.ours);
      }
    });

    it('go on noting what is written; amend changes the size as well', async () => {
      const { ours } = twinsOf(kept);
      await image.amend(ours, { sizeBytes: 8 * 2 ** 20 });
      await using disk = await openDisk(ours, { format: 'qcow2', writable: true });
      await disk.write(7 * 2 ** 20, new Uint8Array(512).fill(1));
      const busy = disk.resize(9 * 2 ** 20);
      await expectRefusal(busy, 'ERR_SLUICE_UNSUPPORTED', /close it, and resize the image/);
      await disk.close();
      const dirty = [
        [2 ** 20, 2 ** 20 + 65_536],
        [3 * 2 ** 20, 4 * 2 ** 20],
        [7 * 2 ** 20, 7 * 2 ** 20 + 65_536],
      ];
      expect(dirtyRanges(folder, ours, 'kept')).toEqual(dirty);
      expectSound(ours);
    });

    it('that are switched off do not hinder an open disk', async () => {
      const { ours } = twinsOf(kept);
      qemu(folder, 'qemu-img', ['bitmap', '--disable', ours, 'kept']);
      await using disk = await openDisk(ours, { format: 'qcow2', writable: true });
      await disk.write(0, new Uint8Array(512).fill(1));
      await disk.resize(3 * 2 ** 20 + 4096, { shrink: true });
      await disk.resize(16 * 2 ** 20);
      await disk.close();
      const dirty = [
        [2 ** 20, 2 ** 20 + 65_536],
        [3 * 2 ** 20, 3 * 2 ** 20 + 65_536],
      ];
      expect(dirtyRanges(folder, ours, 'kept')).toEqual(dirty);
      expectSound(ours);
    });

    it('that were not closed refuse it, as with qemu-img; nothing is changed', async () => {
      const twins = twinsOf(kept);
      for (const path of [twins.ours, twins.theirs]) setFlag(path);
      const before = told(twins.ours);
      for (const args of [['resize'], ['resize', '--shrink']]) {
        const { codes, found } = await both(twins, args, [args.length > 1 ? '2M' : '8M']);
        expect(codes).toEqual([1, 1]);
        expect(found.stderr).toMatch(/"kept" was not closed.*remove it/);
      }
      expect(told(twins.ours)).toEqual(before);
    });

    it('that would be too long, or are damaged, refuse it', async () => {
      const fine = create(folder, 'fine.qcow2', '-o', 'cluster_size=2M', '4M');
      qemu(folder, 'qemu-img', ['bitmap', '--add', '-g', '512', fine, 'fine']);
      const long = image.resize(fine, 4 * 2 ** 40);
      await expectRefusal(long, 'ERR_SLUICE_UNSUPPORTED', /larger granularity/);
      const { ours } = twinsOf(kept);
      const bytes = readFileSync(ours);
      bytes.writeBigUInt64BE(2n ** 40n, entryOf(bytes));
      writeFileSync(ours, bytes);
      await expectRefusal(image.resize(ours, 2 ** 23), 'ERR_SLUICE_CORRUPT', /check and repair/);
      expect(readFileSync(ours).equals(bytes)).toBe(true);
    });
  },
);

/** Where the entry of the only bitmap begins. */
function entryOf(bytes: Buffer): number {
  return parseHeader(bytes, 'disk').bitmaps?.directoryOffset ?? 0;
}

/** Nobody has closed it. */
function setFlag(path: string): void {
  const bytes = readFileSync(path);
  const at = entryOf(bytes) + BITMAP_FLAGS;
  bytes.writeUInt32BE(bytes.readUInt32BE(at) | (1 << BITMAP_FLAG_IN_USE_BIT), at);
  writeFileSync(path, bytes);
}
