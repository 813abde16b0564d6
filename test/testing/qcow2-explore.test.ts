// The explorer of qcow2, over an engine that is plain and right, and over ones that are wrong.

import { describe, expect, it } from 'vitest';

import type { ImageShape } from '../../src/testing/qcow2/image-builder.ts';
import { exploreQcow2 } from '../../src/testing/qcow2/explore.ts';
import { type Mistake, PlainEngine } from './qcow2-plain-engine.ts';

/** What the plain engine knows. */
const SHAPES: readonly ImageShape[] = [
  { name: 'empty', clusters: '.'.repeat(24) },
  { name: 'free clusters', clusters: '.'.repeat(24), freeClusters: 9 },
  { name: 'every kind', clusters: 'd.zp'.repeat(5), freeClusters: 5 },
  { name: 'backing', clusters: 'd.zp'.repeat(5), backingClusters: 14, freeClusters: 5 },
  { name: 'large', clusters: 'd.zp..', backingClusters: 5, format: { clusterBits: 12 } },
];

function explore(mistake: Mistake | undefined, states: number) {
  return exploreQcow2({
    open: (first, setup, dataBytes) => new PlainEngine(first, setup, dataBytes, mistake),
    shapes: SHAPES,
    states,
  });
}

describe('the explorer of qcow2', () => {
  it('finds nothing in an engine that is right', async () => {
    const result = await explore(undefined, 20_000);
    expect(result.failure?.timeline).toBeUndefined();
    expect(result.states).toBeGreaterThanOrEqual(20_000);
    expect(result.streams).toBeGreaterThan(10);
    expect(result.states / result.seconds).toBeGreaterThan(1000);
  });

  it('explores the same for the same options', async () => {
    const [one, other] = [await explore(undefined, 2000), await explore(undefined, 2000)];
    expect([one.states, one.steps]).toEqual([other.states, other.steps]);
  });

  it.each<[Mistake, RegExp]>([
    ['no refcount', /check/],
    ['no sync before an entry', /check|stale|durability/],
    ['no sync after the data', /stale|durability/],
    ['no sync after the table', /check/],
    ['no sync before the refcount drops', /check/],
    ['no sync in a flush', /durability/],
    ['no sync for FUA', /durability/],
    ['no rest of the cluster', /stale|durability/],
    ['completes early', /read|durability|once/],
  ])('finds the mistake: %s', async (mistake, rule) => {
    const { failure } = await explore(mistake, 60_000);
    expect(failure?.rule).toMatch(rule);
    expect(failure?.stream.length).toBeLessThan(7);
    expect(failure?.timeline).toContain('BROKEN');
  });
});
