import { beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../../bench/random.ts';
import { FLAVOURS, openKernels, type KernelMemory } from './kernel-memory.ts';

const TABLE = 65536;

describe.each(FLAVOURS)('countContiguous and countEqual, %s build', (flavour) => {
  let kernels: KernelMemory;
  let view: DataView;
  beforeAll(async () => {
    kernels = await openKernels(flavour);
    view = new DataView(kernels.bytes.buffer);
  });

  function write(entries: readonly bigint[]): void {
    for (const [index, entry] of entries.entries()) view.setBigUint64(TABLE + index * 8, entry);
  }

  it('countContiguous counts to the first entry that does not go on, for every length', () => {
    const first = (1n << 63n) | 0x5_0000n;
    const step = 0x1_0000n;
    for (let count = 0; count <= 70; count++) {
      const entries = Array.from({ length: count }, (_, index) => first + BigInt(index) * step);
      write(entries);
      expect(kernels.exports.countContiguous(TABLE, count, first, step)).toBe(count);
      for (let at = 0; at < count; at++) {
        view.setBigUint64(TABLE + at * 8, entries[at]! ^ 1n);
        expect(kernels.exports.countContiguous(TABLE, count, first, step)).toBe(at);
        view.setBigUint64(TABLE + at * 8, entries[at]!);
      }
    }
  });

  it('countEqual counts to the first entry that is another one, for every length', () => {
    for (const entry of [0n, 1n, (1n << 63n) | 0x200n]) {
      for (let count = 1; count <= 70; count++) {
        write(Array.from({ length: count }, () => entry));
        expect(kernels.exports.countEqual(TABLE, count)).toBe(count);
        for (let at = 1; at < count; at++) {
          view.setBigUint64(TABLE + at * 8, entry ^ (1n << BigInt(at % 64)));
          expect(kernels.exports.countEqual(TABLE, count)).toBe(at);
          view.setBigUint64(TABLE + at * 8, entry);
        }
      }
    }
  });

  it('both say what plain loops say about thousands of random tables', () => {
    const random = new Random(23);
    for (let round = 0; round < 3000; round++) {
      const step = BigInt([0, 512, 65536][random.below(3)]!);
      const first = BigInt(random.below(2 ** 31)) << 9n;
      const count = 1 + random.below(60);
      const entries = Array.from({ length: count }, (_, index) =>
        random.below(20) === 0 ? BigInt(random.below(9)) : first + BigInt(index) * step,
      );
      write(entries);
      const ends = (isEnd: (entry: bigint, index: number) => boolean): number => {
        const found = entries.findIndex(isEnd);
        return found < 0 ? count : found;
      };
      const contiguous = ends((entry, index) => entry !== first + BigInt(index) * step);
      const equal = ends((entry) => entry !== entries[0]);
      const found = {
        contiguous: kernels.exports.countContiguous(TABLE, count, first, step),
        equal: kernels.exports.countEqual(TABLE, count),
      };
      if (found.contiguous !== contiguous || found.equal !== equal) {
        expect({ entries, step, first, found }).toEqual({ contiguous, equal });
      }
    }
  });

  it('read nothing behind their table', () => {
    const { bytes, exports } = kernels;
    bytes.fill(0);
    for (let count = 1; count <= 40; count++) {
      expect(exports.countEqual(bytes.length - count * 8, count)).toBe(count);
      expect(exports.countContiguous(bytes.length - count * 8, count, 0n, 0n)).toBe(count);
    }
  });
});
