import { describe, expect, it } from 'vitest';
import { Arena, PAGE_SIZE } from '../../src/arena.ts';
import { Reception } from '../../src/nbd/reception.ts';

const MIB = 2 ** 20;
const ARENA_BYTES = 64 * MIB;
/** Large buffers have half of the arena; WRITEs of the usual sizes a quarter of that. */
const USUAL_BYTES = ARENA_BYTES / 8;

function never(): void {
  throw new Error('it did not wait');
}

/** A reception where WRITEs of the usual sizes are coming. */
function reception(heldBytes: number): Reception {
  const place = new Reception(new Arena(PAGE_SIZE, ARENA_BYTES));
  for (let held = 0; held < heldBytes; held += 2 * MIB) {
    expect(place.enter(Math.min(2 * MIB, heldBytes - held), never)).toBe(true);
  }
  return place;
}

describe('the reception of WRITEs', () => {
  it('has a limit, and who finds it full waits in line', () => {
    const place = reception(USUAL_BYTES - 1);
    const entered: string[] = [];
    expect(place.enter(1, never)).toBe(true);
    expect(place.contended).toBe(false);
    expect(place.enter(2, () => entered.push('two'))).toBe(false);
    expect(place.contended).toBe(true);
    place.leave(1);
    expect(entered).toEqual([]);
    place.leave(2 * MIB - 1);
    expect(entered).toEqual(['two']);
    expect(place.contended).toBe(false);
  });

  it('lets nobody overtake', () => {
    const place = reception(USUAL_BYTES);
    const entered: string[] = [];
    place.enter(2 * MIB, () => entered.push('large'));
    expect(place.enter(1, () => entered.push('small'))).toBe(false);
    place.leave(MIB);
    expect(entered).toEqual([]);
    place.leave(MIB);
    expect(entered).toEqual(['large']);
    place.leave(1);
    expect(entered).toEqual(['large', 'small']);
  });

  it('has a place for one of the largest, and keeps the usual ones apart from them', () => {
    const place = reception(0);
    const entered: string[] = [];
    expect(place.enter(ARENA_BYTES / 2, never)).toBe(true);
    expect(place.enter(ARENA_BYTES / 2, () => entered.push('next'))).toBe(false);
    expect(place.enter(2 * MIB, never)).toBe(true);
    place.leave(ARENA_BYTES / 2);
    expect(entered).toEqual(['next']);
  });
});
