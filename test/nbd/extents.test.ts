import { describe, expect, it } from 'vitest';
import { describe as say, type MetaContext } from '../../src/nbd/contexts.ts';
import { ExtentWriter } from '../../src/nbd/extents.ts';

const ADDRESS = 64;
const START = 24;
const ALLOCATION: MetaContext = { name: 'base:allocation', kind: 'allocation' };
const DEPTH: MetaContext = { name: 'qemu:allocation-depth', kind: 'depth' };

type Entry = readonly [length: number, flags: number, depth?: number];

/** What a context says with a table of the device; returns it as the wire has it. */
function pack(
  table: readonly Entry[],
  requestBytes: number,
  { limit = 100, isWide = false, context = ALLOCATION } = {},
): [length: number, flags: number][] {
  const view = new DataView(new ArrayBuffer(ADDRESS + 16 * table.length));
  for (const [index, [length, flags, depth = 0xdeadbeef]] of table.entries()) {
    view.setBigUint64(ADDRESS + 16 * index, BigInt(length), true);
    view.setUint32(ADDRESS + 16 * index + 8, flags, true);
    view.setUint32(ADDRESS + 16 * index + 12, depth, true);
  }
  const size = isWide ? 16 : 8;
  const out = new DataView(new ArrayBuffer(START + size * limit));
  const writer = new ExtentWriter();
  writer.begin(out, START, isWide, limit, requestBytes);
  say(context, view, ADDRESS, table.length, 0, writer);
  return Array.from({ length: writer.count }, (_, index) => {
    const at = START + size * index;
    return isWide
      ? [Number(out.getBigUint64(at)), Number(out.getBigUint64(at + 8))]
      : [out.getUint32(at), out.getUint32(at + 4)];
  });
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
    expect(pack(table, 100, { limit: 1 })).toEqual([[20, 3]]);
    expect(pack(table, 15, { limit: 1 })).toEqual([[15, 3]]);
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

  it('of extended headers have 64 bits', () => {
    const table = [
      [2 ** 40, 3],
      [2 ** 40, 3],
      [2 ** 33 + 1, 0],
    ] as const;
    const whole = 2 ** 41 + 2 ** 33 + 1;
    expect(pack(table, whole, { isWide: true })).toEqual([
      [2 ** 41, 3],
      [2 ** 33 + 1, 0],
    ]);
  });

  it('end where there is no more room', () => {
    const table = [
      [1, 0],
      [2, 3],
      [3, 0],
    ] as const;
    expect(pack(table, 100, { limit: 2 })).toEqual([
      [1, 0],
      [2, 3],
    ]);
  });

  it('of qemu:allocation-depth count images from 1, and 0 is none', () => {
    const table = [
      [1, 0, 0],
      [2, 3, 0],
      [3, 0, 1],
      [4, 3 | 8, 0],
      [5, 3 | 8, 2],
      [6, 2, 7],
    ] as const;
    expect(pack(table, 100, { context: DEPTH })).toEqual([
      [3, 1],
      [3, 2],
      [9, 0],
      [6, 8],
    ]);
    // What is absent is a hole of zeroes to base:allocation.
    expect(pack(table, 100).map(([, flags]) => flags)).toEqual([0, 3, 0, 3, 2]);
  });
});
