/** What the explorations of qcow2 have in common: the engine, and how a failure is told. */
import { expect } from 'vitest';

import { engineSubject } from '../../../src/testing/qcow2/engine-subject.ts';
import {
  brokenBy,
  describeFailure,
  type Qcow2Failure,
} from '../../../src/testing/qcow2/explore.ts';
import { type Qcow2Case, Qcow2World } from '../../../src/testing/qcow2/world.ts';
import { BUILDS } from '../../support/engine.ts';

const [{ module }] = BUILDS as [(typeof BUILDS)[number]];

/** The debug build, or the one that is given. */
export const open = engineSubject(module);

/** Runs a case to its end, which must break no promise; `image` and `seed` are for the story. */
export function expectKept(explored: Qcow2Case, image: string, seed: number): Qcow2World {
  const world = new Qcow2World(open, explored);
  const broken = brokenBy(() => world.run());
  const failure = broken && describeFailure(open, explored, image);
  expect(story(failure, seed)).toBeUndefined();
  return world;
}

/** A failure with all that is needed to repeat it. */
export function story(failure: Qcow2Failure | undefined, seed: number): string | undefined {
  if (failure === undefined) return undefined;
  const { image, setup, stream, timeline } = failure;
  return [`seed ${seed}, image '${image}'`, setup, stream.join('; '), timeline].join('\n');
}
