// Every input that the fuzzer has kept, through the builds that are shipped and tested. The host
// checks the same rules as while fuzzing (host.ts and ledger.ts, (a) to (j)).

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BUILDS, type Build } from '../support/engine.ts';
import {
  BUGS_FILE,
  CORPUS_FILE,
  CORPUS_FOLDER,
  loadInputs,
  MUTANTS_FILE,
  nameOf,
} from './corpus.ts';
import { describeInput } from './describe.ts';
import { type EngineExports, Host } from './host.ts';
import { toLine } from './input.ts';
import { createMemory } from './layout.ts';

const CORPUS = loadInputs(join(CORPUS_FOLDER, CORPUS_FILE));
/** What once failed, and where. */
const BUGS = [
  ['on the engine', loadInputs(join(CORPUS_FOLDER, BUGS_FILE))],
  ['on a mutant of it', loadInputs(join(CORPUS_FOLDER, MUTANTS_FILE))],
] as const;

function hostOf(build: Build): Host {
  const memory = createMemory();
  const instance = new WebAssembly.Instance(build.module, { env: { memory } });
  return new Host(instance.exports as unknown as EngineExports, memory);
}

/** Runs inputs; says what each has put out, and throws with the words of one that fails. */
function digestsOf(host: Host, inputs: readonly Uint8Array[]): number[] {
  return inputs.map((bytes) => {
    try {
      host.run(bytes);
    } catch (error) {
      const words = [toLine(bytes), ...describeInput(bytes)].join('\n');
      throw new Error(`input ${nameOf(bytes)}: ${String(error)}\n${words}`, { cause: error });
    }
    return host.digest;
  });
}

/** What the corpus puts out on a build, found once. */
const FIRST = new Map<string, number[]>();

function firstDigestsOf(build: Build): number[] {
  const digests = FIRST.get(build.name) ?? digestsOf(hostOf(build), CORPUS);
  FIRST.set(build.name, digests);
  return digests;
}

describe.each(BUILDS)('the corpus of the fuzzer ($name build)', (build) => {
  it('keeps every rule that the host can see', () => {
    expect(CORPUS.length).toBeGreaterThan(50);
    expect(firstDigestsOf(build)).toHaveLength(CORPUS.length);
  });

  it.each(BUGS)('would notice what once failed %s', (_, inputs) => {
    expect(inputs.length).toBeGreaterThan(0);
    expect(digestsOf(hostOf(build), inputs)).toHaveLength(inputs.length);
  });

  it('P2: puts out the same whatever the engine in this memory has done before', () => {
    const again = digestsOf(hostOf(build), CORPUS.toReversed()).toReversed();
    expect(again).toEqual(firstDigestsOf(build));
  });
});

describe('the corpus of the fuzzer', () => {
  it('P2: puts out the same on every build', () => {
    const [first, ...others] = BUILDS.map((build) => firstDigestsOf(build));
    for (const other of others) expect(other).toEqual(first);
  });

  it('is in the order of its lines, each of them once', () => {
    const lines = CORPUS.map((bytes) => toLine(bytes));
    expect(lines).toEqual([...new Set(lines)].sort());
  });
});
