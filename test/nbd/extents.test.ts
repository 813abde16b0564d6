import { describe, expect, it } from 'vitest';
import { packExtents } from '../../src/nbd/extents.ts';

const ADDRESS = 64;

/** Packs a table of [length, flags]; returns what it became. */
function pack(
  table: readonly (readonly [length: number, flags: number])[],
  requestBytes: number,
  one = false,
): [length: number, flags: number][] {
  const view = new DataView(new ArrayBuffer(ADDRESS + 16 * table.length));
  for (const [index, [length, flags]] of table.entries()) {
    view.setBigUint64(ADDRESS + 16 * index, BigInt(length), true);
    view.setUint32(ADDRESS + 16 * index + 8, flags, true);
    view.setUint32(ADDRESS + 16 * index + 12, 0xdeadbeef, true);
  }
  const count = packExtents(view, ADDRESS, table.length, requestBytes, one);
  return Array.from({ length: count }, (_, index) => [
    view.getUint32(ADDRESS + 8 * index),
    view.getUint32(ADDRESS + 8 * index + 4),
  ]);
}

describe('extents (NBD_REPLY_TYPE_BLOCK_STATUS)', () => {
  it('become big-endian in place', () => {
    const table = [
      [4096, 0],
      [512, 3],
      [1, 2],
      [7, 0],
    ] as const;
    expect(pack(table, 4616)).toEqual(table);
  });

  it('of equal flags are one', () => {
    const table = [
      [1, 3],
      [2, 3],
      [3, 0],
      [4, 0],
      [5, 3],
    ] as const;
    expect(pack(table, 15)).toEqual([
      [3, 3],
      [7, 0],
      [5, 3],
    ]);
  });

  it('end with the request, though the table goes on', () => {
    expect(pack([[2 ** 40, 3]], 0xffffffff)).toEqual([[0xffffffff, 3]]);
    const table = [
      [10, 0],
      [10, 3],
      [10, 0],
    ] as const;
    expect(pack(table, 15)).toEqual([
      [10, 0],
      [5, 3],
    ]);
    expect(pack(table, 10)).toEqual([[10, 0]]);
  });

  it('are one with REQ_ONE, which is not longer than the request', () => {
    const table = [
      [10, 3],
      [10, 3],
      [10, 0],
    ] as const;
    expect(pack(table, 100, true)).toEqual([[20, 3]]);
    expect(pack(table, 15, true)).toEqual([[15, 3]]);
  });

  it('of no length are left out, and an empty table stays empty', () => {
    const table = [
      [0, 3],
      [10, 0],
      [0, 3],
    ] as const;
    expect(pack(table, 10)).toEqual([[10, 0]]);
    expect(pack([], 10)).toEqual([]);
  });
});
