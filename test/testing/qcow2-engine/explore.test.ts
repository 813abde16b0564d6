/**
 * The engine over qcow2 keeps its promises: power cuts at every moment of random streams, the death
 * of the process, and failures of the host.
 *
 * By default the same streams every time, and some new ones. SLUICE_FUZZ_SECONDS=60 explores new
 * ones for that long; SLUICE_FUZZ_SEED=n begins with that seed. A failure prints the seed, the
 * image, the configuration, the shortest stream and what happened. scripts/mutants.mjs runs these
 * tests on engines with a promise broken (scripts/mutants/qcow2.mjs).
 */
import { describe, expect, it } from 'vitest';

import { exploreQcow2 } from '../../../src/testing/qcow2/explore.ts';
import type { ImageShape } from '../../../src/testing/qcow2/image-builder.ts';
import { SHAPES } from '../../../src/testing/qcow2/plan.ts';
import { open, story } from './story.ts';

const SECONDS = Number(process.env['SLUICE_FUZZ_SECONDS'] ?? 0);
const FIRST_SEED = Number(process.env['SLUICE_FUZZ_SEED'] ?? (SECONDS > 0 ? Date.now() : 1));
const PATIENCE_MS = SECONDS * 1000 + 600_000;
/** Crash states for each image, a long image has fewer, and for all of them with a new seed. */
const STATES = 1500;
const STATES_OF_LONG = 800;
const STATES_OF_NEW = 3000;

async function explore(seed: number, states: number, shapes = SHAPES): Promise<number> {
  const result = await exploreQcow2({ open, seed, states, shapes });
  expect(story(result.failure, seed)).toBeUndefined();
  return result.states;
}

function statesOf({ room }: ImageShape): number {
  return room?.of === 'table' ? STATES_OF_LONG : STATES;
}

describe('the engine over qcow2', { timeout: PATIENCE_MS }, () => {
  it.each(SHAPES)('keeps every promise on the image: $name', async (shape) => {
    const states = await explore(FIRST_SEED, statesOf(shape), [shape]);
    expect(states).toBeGreaterThanOrEqual(statesOf(shape));
  });

  it('keeps every promise in streams that nobody has seen before', async () => {
    const end = Date.now() + SECONDS * 1000;
    let seed = SECONDS > 0 ? FIRST_SEED + 1 : Date.now();
    do expect(await explore(seed++, STATES_OF_NEW)).toBeGreaterThanOrEqual(STATES_OF_NEW);
    while (Date.now() < end);
  });
});
