// What the fuzzer has found stays mended. Among it: flights that want more slices than the cache
// holds (V1, V2), which once went on for ever.

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { BUILDS, instantiate } from '../../support/engine.ts';
import { CORPUS_FOLDER, loadInputs, nameOf } from '../../fuzz/corpus.ts';
import { QCOW2 } from '../../fuzz/subject.ts';

const INPUTS = loadInputs(join(CORPUS_FOLDER, QCOW2.bugsFile));

describe('what once broke a rule', () => {
  it.each(INPUTS.map((bytes) => [nameOf(bytes), bytes] as const))('input %s', (_name, bytes) => {
    const memory = QCOW2.createMemory();
    const runner = QCOW2.createRunner(instantiate(BUILDS[0]!, memory), memory);
    expect(() => runner.run(bytes)).not.toThrow();
  });
});
