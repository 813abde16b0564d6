/**
 * Which test files run first: those that take longest, so that none of them is left at the end with
 * one worker at work and the others idle. Vitest knows times from its cache, which a fresh clone
 * does not have; without it the largest file comes first, and that says little.
 */
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** The slowest first; the order of the rest is vitest's. See the end of a run (reporter.ts). */
const SLOWEST: readonly string[] = [
  'testing/mutants',
  'image/snapshots',
  'qcow2/differential',
  'v86/boot',
  'image/encryption',
  'vhost-user/uml',
  'verbs/faults',
  'image/resize-faults',
  'verbs/convert',
  'fuzz/corpus',
  'verbs/commit',
  'verbs/measure',
  'image/snapshots-cuts',
  'vhost-user/reconnect',
  'image/bitmap-edit',
  'vhost-user/crash',
  'verbs/create-luks',
  'testing/qcow2-engine/sweep',
  'verbs/rebase',
  'ring/exhaustive',
  'testing/explore',
  'testing/qcow2-engine/neighbours',
  'testing/qcow2-engine/explore',
  'testing/qcow2-engine/stable',
  'testing/qcow2-engine/pointers',
];

/** See the head of the file. */
export default class SlowestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    return sorted.toSorted((a, b) => placeOf(a) - placeOf(b));
  }
}

/** Among the slowest, or behind them. */
function placeOf({ moduleId }: TestSpecification): number {
  const place = SLOWEST.findIndex((name) => moduleId.endsWith(`/test/${name}.test.ts`));
  return place < 0 ? SLOWEST.length : place;
}
