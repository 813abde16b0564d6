import { describe, expect, it } from 'vitest';
import { Arena, PAGE_SIZE } from '../../src/arena.ts';
import { Reception } from '../../src/nbd/reception.ts';

const MIB = 2 ** 20;
/** Half of it is for large buffers, half of that for the usual ones, and half of that here. */
const ARENA_BYTES = 128 * MIB;
const IN_ARENA_BYTES = ARENA_BYTES / 8;
const IN_HEAP_BYTES = 256 * MIB;

function reception(): Reception {
  return new Reception(new Arena(PAGE_SIZE, ARENA_BYTES));
}

/** As many of 2 MiB as make so many bytes. */
function enterAll(place: Reception, bytes: number): Set<string | undefined> {
  const count = bytes / (2 * MIB);
  return new Set(Array.from({ length: count }, () => place.enter(2 * MIB)));
}

describe('the reception of WRITEs', () => {
  it('has room in the arena, then in the heap, then none', () => {
    const place = reception();
    expect(enterAll(place, IN_ARENA_BYTES)).toEqual(new Set(['arena']));
    expect(enterAll(place, IN_HEAP_BYTES)).toEqual(new Set(['heap']));
    expect(place.enter(40_000)).toBeUndefined();
  });

  it('has room again where one has left', () => {
    const place = reception();
    enterAll(place, IN_ARENA_BYTES + IN_HEAP_BYTES);
    place.leave('heap', 2 * MIB);
    expect(place.enter(MIB)).toBe('heap');
    place.leave('arena', 2 * MIB);
    expect(place.enter(MIB)).toBe('arena');
    expect(place.enter(MIB)).toBe('arena');
    expect(place.enter(MIB)).toBe('heap');
    expect(place.enter(MIB)).toBeUndefined();
  });

  it('is not for small ones, nor for the largest', () => {
    const place = reception();
    expect(place.enter(32_768)).toBeUndefined();
    expect(place.enter(32_769)).toBe('arena');
    expect(place.enter(2 * MIB + 1)).toBeUndefined();
  });
});
