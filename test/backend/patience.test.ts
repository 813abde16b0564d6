/** Calls are made here while they are fast. */
import { expect, it } from 'vitest';

import { Patience } from '../../src/backend/patience.ts';

const LIMITS = { slowMs: 1, firstRest: 2, longestRest: 8 };

/** Calls that take so long, until the next one is made here again: how many were made elsewhere. */
function restAfter(patience: Patience, ms: number): number {
  expect(patience.ask()).toBe(true);
  patience.took(ms);
  let calls = 0;
  while (!patience.ask()) calls += 1;
  // The one that was asked for is made, and is fast enough not to count.
  return calls;
}

it('makes every call here while they are fast', () => {
  const patience = new Patience(LIMITS);
  for (let call = 0; call < 100; call++) {
    expect(patience.ask()).toBe(true);
    patience.took(LIMITS.slowMs);
  }
});

it('rests after a slow one, twice as long after the next, up to a limit', () => {
  const patience = new Patience(LIMITS);
  const rests = Array.from({ length: 5 }, () => restAfter(patience, 2));
  expect(rests).toEqual([2, 4, 8, 8, 8]);
});

it('forgets when one was fast', () => {
  const patience = new Patience(LIMITS);
  restAfter(patience, 2);
  restAfter(patience, 2);
  patience.took(0.1);
  expect(restAfter(patience, 2)).toBe(2);
});
