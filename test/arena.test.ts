// The arena: page-aligned, disjoint, bounded, fair.

import { describe, expect, it } from 'vitest';
import { Arena, PAGE_SIZE } from '../src/arena.ts';

const BASE = 589_824;
const ARENA_BYTES = 1 << 20;
const HALF_BYTES = ARENA_BYTES / 2;

/** A seeded generator (xorshift32). */
function generator(seed: number): (bound: number) => number {
  let x = seed;
  return (bound) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % bound;
  };
}

describe('the arena', () => {
  it('refuses a base or a size that is not a page-aligned power of two', () => {
    expect(() => new Arena(100, ARENA_BYTES)).toThrow(RangeError);
    expect(() => new Arena(BASE, ARENA_BYTES + 4096)).toThrow(RangeError);
    expect(() => new Arena(BASE, 2048)).toThrow(RangeError);
  });

  it('hands out disjoint page-aligned buffers inside its range, in any order of frees', () => {
    const arena = new Arena(BASE, ARENA_BYTES);
    const below = generator(7);
    const taken: { address: number; length: number }[] = [];
    for (let step = 0; step < 20_000; step++) {
      if (below(5) < 3) {
        const length = 1 + below(below(8) === 0 ? 300_000 : 9000);
        const address = arena.allocate(length);
        if (address === 0) continue;
        expect(address % PAGE_SIZE).toBe(0);
        expect(address).toBeGreaterThanOrEqual(BASE);
        expect(address + length).toBeLessThanOrEqual(BASE + ARENA_BYTES);
        const clash = taken.find(
          (t) => t.address < address + length && address < t.address + t.length,
        );
        expect(clash).toBeUndefined();
        taken.push({ address, length });
      } else if (taken.length > 0) {
        const [freed] = taken.splice(below(taken.length), 1);
        if (freed !== undefined) arena.release(freed.address, freed.length);
      }
    }
    for (const { address, length } of taken) arena.release(address, length);
    expect(arena.allocate(HALF_BYTES)).toBe(BASE + HALF_BYTES);
  });

  it('is whole again after many buffers were freed, small or large', () => {
    const arena = new Arena(BASE, ARENA_BYTES);
    for (const length of [4096, 65_536]) {
      const count = HALF_BYTES / length;
      const buffers = Array.from({ length: count }, () => arena.allocate(length));
      expect(buffers).not.toContain(0);
      expect(arena.allocate(length)).toBe(0);
      for (const buffer of buffers) arena.release(buffer, length);
      expect(arena.allocate(length)).not.toBe(0);
    }
    const fresh = new Arena(BASE, ARENA_BYTES);
    const parts = Array.from({ length: 8 }, () => fresh.allocate(65_536));
    for (const part of parts) fresh.release(part, 65_536);
    expect(fresh.allocate(HALF_BYTES)).toBe(BASE + HALF_BYTES);
  });

  it('has room for small buffers when large ones fill it, and the reverse', () => {
    const arena = new Arena(BASE, ARENA_BYTES);
    expect(arena.allocate(HALF_BYTES)).not.toBe(0);
    expect(arena.allocate(65_536)).toBe(0);
    expect(arena.allocate(32_768)).not.toBe(0);
    const other = new Arena(BASE, ARENA_BYTES);
    while (other.allocate(4096) !== 0);
    expect(other.allocate(HALF_BYTES)).not.toBe(0);
  });

  it('has a part for the largest buffers where there is room for it', () => {
    const arena = new Arena(BASE, 2 ** 27);
    const largest = 2 ** 25;
    expect(arena.largestBytes).toBe(largest);
    expect(arena.usualBytes).toBe(largest);
    expect(arena.allocate(largest)).toBe(BASE + 2 ** 26 + largest);
    expect(arena.allocate(2 ** 21 + 1)).toBe(0);
    const usual = Array.from({ length: 16 }, () => arena.allocate(2 ** 21));
    expect(new Set(usual).size).toBe(16);
    expect(usual).not.toContain(0);
    expect(arena.allocate(40_000)).toBe(0);
    expect(arena.allocate(32_768)).toBe(BASE);
  });

  it('serves those who wait in line, the larger before those that came later', () => {
    const arena = new Arena(BASE, ARENA_BYTES);
    const first = arena.allocate(65_536);
    const served: string[] = [];
    arena.whenFree(HALF_BYTES, (address) => {
      served.push('whole half');
      arena.release(address, HALF_BYTES);
    });
    arena.whenFree(65_536, () => served.push('part'));
    expect(arena.contended).toBe(true);
    expect(arena.allocate(65_536)).toBe(0);
    expect(served).toEqual([]);
    arena.release(first, 65_536);
    expect(served).toEqual(['whole half', 'part']);
    expect(arena.contended).toBe(false);
  });

  it('counts right at its largest size', () => {
    expect(new Arena(BASE, 2 ** 30).largestBytes).toBe(2 ** 28);
  });

  it('refuses to let anybody wait for more than it has', () => {
    const arena = new Arena(BASE, ARENA_BYTES);
    expect(() => arena.whenFree(HALF_BYTES + 1, () => undefined)).toThrow(RangeError);
  });
});
