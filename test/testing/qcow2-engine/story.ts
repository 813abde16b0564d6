/** What the explorations of qcow2 have in common: the engine, and how a failure is told. */
import { engineSubject } from '../../../src/testing/qcow2/engine-subject.ts';
import type { Qcow2Failure } from '../../../src/testing/qcow2/explore.ts';
import { BUILDS } from '../../support/engine.ts';

const [{ module }] = BUILDS as [(typeof BUILDS)[number]];

/** The debug build, or the one that is given. */
export const open = engineSubject(module);

/** A failure with all that is needed to repeat it. */
export function story(failure: Qcow2Failure | undefined, seed: number): string | undefined {
  if (failure === undefined) return undefined;
  const { image, setup, stream, timeline } = failure;
  return [`seed ${seed}, image '${image}'`, setup, stream.join('; '), timeline].join('\n');
}
