// The arena: page-aligned, disjoint, bounded, fair.

import { describe, expect, it } from 'vitest';
import { Arena, PAGE_SIZE } from '../src/arena.ts';

const BASE = 589_824;
const ARENA_BYTES = 1 << 20;

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
    expect(arena.allocate(ARENA_BYTES)).toBe(BASE);
  });

  it('is whole again after many small buffers were freed', () => {
    const arena = new Arena(BASE, ARENA_BYTES);
    const pages = Array.from({ length: 256 }, () => arena.allocate(1));
    expect(arena.allocate(1)).toBe(0);
    for (const page of pages) arena.release(page, 1);
    expect(arena.allocate(ARENA_BYTES)).toBe(BASE);
  });

  it('serves those who wait in line, the large before the small that came later', () => {
    const arena = new Arena(BASE, ARENA_BYTES);
    const first = arena.allocate(4096);
    const served: string[] = [];
    arena.whenFree(ARENA_BYTES, (address) => {
      served.push('large');
      arena.release(address, ARENA_BYTES);
    });
    arena.whenFree(4096, () => served.push('small'));
    expect(arena.allocate(4096)).toBe(0);
    expect(served).toEqual([]);
    arena.release(first, 4096);
    expect(served).toEqual(['large', 'small']);
  });

  it('forgets who cancels, and goes on with the next', () => {
    const arena = new Arena(BASE, ARENA_BYTES);
    arena.allocate(4096);
    const grant = (): void => expect.unreachable();
    const served: number[] = [];
    arena.whenFree(ARENA_BYTES, grant);
    arena.whenFree(4096, (address) => served.push(address));
    expect(arena.cancel(grant)).toBe(true);
    expect(arena.cancel(grant)).toBe(false);
    expect(served).toHaveLength(1);
  });

  it('refuses to let anybody wait for more than it has', () => {
    const arena = new Arena(BASE, ARENA_BYTES);
    expect(() => arena.whenFree(ARENA_BYTES + 1, () => undefined)).toThrow(RangeError);
  });
});
