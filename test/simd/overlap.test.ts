import { beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../../bench/random.ts';
import { FLAVOURS, openKernels, type KernelMemory } from './kernel-memory.ts';

const MOST = 1024;
const STARTS = 65536;
const ENDS = 131072;
const LARGEST = (1n << 63n) - 1n;

/** The scalar meaning. */
function count(starts: readonly bigint[], ends: readonly bigint[], start: bigint, end: bigint) {
  return starts.filter((other, i) => other < end && start < ends[i]!).length;
}

describe.each(FLAVOURS)('countOverlaps, %s build', (flavour) => {
  let kernels: KernelMemory;
  beforeAll(async () => {
    kernels = await openKernels(flavour);
    kernels.fill();
  });

  /** What the kernel finds among these ranges, which stand in its memory at `shift` bytes. */
  function find(
    starts: readonly bigint[],
    ends: readonly bigint[],
    start: bigint,
    end: bigint,
    shift = 0,
  ): number {
    const { bytes, exports } = kernels;
    new BigUint64Array(bytes.buffer, STARTS + shift).set(starts);
    new BigUint64Array(bytes.buffer, ENDS + shift).set(ends);
    return exports.countOverlaps(STARTS + shift, ENDS + shift, starts.length, start, end);
  }

  function check(
    starts: readonly bigint[],
    ends: readonly bigint[],
    start: bigint,
    end: bigint,
    shift = 0,
  ): void {
    const found = find(starts, ends, start, end, shift);
    const wanted = count(starts, ends, start, end);
    if (found !== wanted) expect({ starts, ends, start, end, found }).toEqual({ found: wanted });
  }

  it('counts in every number of ranges', () => {
    const random = new Random(1);
    for (let length = 0; length <= MOST; length++) {
      const starts = Array.from({ length }, () => BigInt(random.below(1000)));
      const ends = starts.map((start) => start + BigInt(random.below(200)));
      const start = BigInt(random.below(1000));
      check(starts, ends, start, start + BigInt(random.below(300)));
    }
  });

  it('counts all and none', () => {
    for (let length = 0; length <= 200; length++) {
      const starts = Array.from({ length }, () => 100n);
      const ends = starts.map(() => 200n);
      expect(find(starts, ends, 0n, LARGEST)).toBe(length);
      expect(find(starts, ends, 199n, 200n)).toBe(length);
      expect(find(starts, ends, 200n, 300n)).toBe(0);
      expect(find(starts, ends, 0n, 100n)).toBe(0);
    }
  });

  it('sees one range among others at every index', () => {
    for (const length of [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65]) {
      for (let at = 0; at < length; at++) {
        const starts = Array.from({ length }, (_, i) => (i === at ? 50n : 500n));
        const ends = starts.map((start) => start + 10n);
        expect(find(starts, ends, 59n, 60n)).toBe(1);
        expect(find(starts, ends, 60n, 61n)).toBe(0);
        expect(find(starts, ends, 49n, 50n)).toBe(0);
      }
    }
  });

  it('compares neighbours and the ends of what an offset can be', () => {
    const values = [0n, 1n, 2n, 0xffffffffn, 1n << 32n, (1n << 53n) - 1n, LARGEST - 1n, LARGEST];
    const ranges = values.flatMap((start) => values.map((end) => [start, end] as const));
    const starts = ranges.map(([start]) => start);
    const ends = ranges.map(([, end]) => end);
    for (const [start, end] of ranges) check(starts, ends, start, end);
  });

  it('counts in thousands of random arrays, aligned to eight bytes only', () => {
    const random = new Random(2);
    const rounds = flavour === 'release' ? 5000 : 500;
    for (let round = 0; round < rounds; round++) {
      const length = random.below(40);
      const spread = 1 + random.below(100);
      const starts = Array.from({ length }, () => BigInt(random.below(spread)));
      const ends = Array.from({ length }, () => BigInt(random.below(spread)));
      const [start, end] = [BigInt(random.below(spread)), BigInt(random.below(spread))];
      check(starts, ends, start, end, 8 * random.below(2));
    }
  });

  it('reads nothing beyond its arrays and writes nothing', () => {
    // At the end of the memory a read of one range too many would trap.
    const { bytes, exports } = kernels;
    for (let length = 0; length <= 20; length++) {
      const address = bytes.length - 8 * length;
      new BigUint64Array(bytes.buffer, address).fill(5n);
      const before = Buffer.from(bytes);
      expect(exports.countOverlaps(address, address, length, 4n, 6n)).toBe(length);
      expect(before.equals(bytes)).toBe(true);
    }
  });
});
