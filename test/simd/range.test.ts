import { beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../../bench/random.ts';
import { FLAVOURS, openKernels, type KernelMemory } from './kernel-memory.ts';

const TABLE = 65536;
/** Bits 9 to 55 of an entry. */
const OFFSETS = 0x00ff_ffff_ffff_fe00n;

describe.each(FLAVOURS)('anyInRange, %s build', (flavour) => {
  let kernels: KernelMemory;
  let view: DataView;
  beforeAll(async () => {
    kernels = await openKernels(flavour);
    view = new DataView(kernels.bytes.buffer);
  });

  function write(entries: readonly bigint[]): void {
    for (const [index, entry] of entries.entries()) view.setBigUint64(TABLE + index * 8, entry);
  }

  /** What the kernel says of the entries, and what the scalar meaning is. */
  function ask(entries: readonly bigint[], start: bigint, end: bigint) {
    write(entries);
    const found = kernels.exports.anyInRange(TABLE, entries.length, start, end) !== 0;
    const wanted = entries.some((entry) => {
      const offset = entry & OFFSETS;
      return offset !== 0n && offset >= start && offset < end;
    });
    return { found, wanted };
  }

  it('sees one entry at every place of tables of every length', () => {
    for (let count = 1; count <= 40; count++) {
      for (let at = 0; at < count; at++) {
        const entries = Array.from({ length: count }, (_, index) =>
          index === at ? (1n << 63n) | 0x1_0000n : 0x8000n,
        );
        expect(ask(entries, 0x1_0000n, 0x1_0200n)).toEqual({ found: true, wanted: true });
        expect(ask(entries, 0x1_0200n, 0x2_0000n)).toEqual({ found: false, wanted: false });
      }
    }
  });

  it('takes the first byte of a range in and leaves the one behind the last out', () => {
    for (const offset of [0x200n, 0x1_0000n, 1n << 32n, 1n << 55n, OFFSETS]) {
      const entries = [offset | 0x1ffn | (0xffn << 56n)];
      for (const [start, end] of [
        [offset, offset + 1n],
        [offset - 0x200n, offset],
        [offset + 1n, offset + 0x200n],
        [0n, offset + 0x200n],
        [offset, 1n << 56n],
      ] as const) {
        const { found, wanted } = ask(entries, start, end);
        expect({ offset, start, end, found }).toEqual({ offset, start, end, found: wanted });
      }
    }
  });

  it('never counts an entry of 0, nor flags without an offset', () => {
    for (const count of [1, 7, 8, 9, 64]) {
      const flags = Array.from({ length: count }, () => (1n << 63n) | 0x1ffn);
      expect(ask(flags, 0n, 1n << 56n).found).toBe(false);
      expect(kernels.exports.anyInRange(TABLE, 0, 0n, 1n << 56n)).toBe(0);
    }
  });

  it('says what a plain loop says about thousands of random tables', () => {
    const random = new Random(11);
    for (let round = 0; round < 4000; round++) {
      const bits = 10 + random.below(46);
      const draw = (): bigint => {
        const value = (BigInt(random.below(2 ** 31)) << 31n) | BigInt(random.below(2 ** 31));
        return random.below(4) === 0 ? 0n : value & ((1n << BigInt(bits)) - 1n);
      };
      const entries = Array.from({ length: random.below(30) }, draw);
      const start = draw();
      const { found, wanted } = ask(entries, start, start + (draw() >> 2n) + 1n);
      if (found !== wanted) expect({ entries, start, found }).toEqual(wanted);
    }
  });

  it('reads nothing behind its table and writes nothing', () => {
    const { bytes } = kernels;
    bytes.fill(0);
    for (let count = 0; count <= 40; count++) {
      expect(kernels.exports.anyInRange(bytes.length - count * 8, count, 0n, 1n << 56n)).toBe(0);
    }
    expect(Buffer.from(bytes).equals(Buffer.alloc(bytes.length))).toBe(true);
  });
});
