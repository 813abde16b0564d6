// Every input that the fuzzer has kept, through the builds that are shipped and tested. The host
// checks the same rules as while fuzzing (host.ts and ledger.ts, (a) to (j)).

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { BUILDS, type Build, instantiate } from '../support/engine.ts';
import { BUGS_FILE, CORPUS_FOLDER, loadInputs, MUTANTS_FILE, nameOf } from './corpus.ts';
import { toLine } from './input.ts';
import { GUEST, QCOW2, type Runner, type Subject, SUBJECTS } from './subject.ts';

const load = (file: string): Uint8Array[] => loadInputs(join(CORPUS_FOLDER, file));

/** What once failed, and where. */
const BUGS: Record<Subject['name'], readonly (readonly [string, Uint8Array[]])[]> = {
  engine: [
    ['on the engine', load(BUGS_FILE)],
    ['on a mutant of it', load(MUTANTS_FILE)],
  ],
  guest: [['on the device', load(GUEST.bugsFile)]],
  qcow2: [['on the mapping', load(QCOW2.bugsFile)]],
};

function runnerOf(subject: Subject, build: Build): Runner {
  const memory = subject.createMemory();
  return subject.createRunner(instantiate(build, memory), memory);
}

/** Runs inputs; says what each has put out, and throws with the words of one that fails. */
function digestsOf(subject: Subject, build: Build, inputs: readonly Uint8Array[]): number[] {
  const runner = runnerOf(subject, build);
  return inputs.map((bytes) => {
    try {
      runner.run(bytes);
    } catch (error) {
      const words = [toLine(bytes), ...subject.describe(bytes)].join('\n');
      throw new Error(`input ${nameOf(bytes)}: ${String(error)}\n${words}`, { cause: error });
    }
    return runner.digest;
  });
}

/** What a corpus puts out on a build, found once. */
const FIRST = new Map<string, number[]>();

function firstDigestsOf(subject: Subject, build: Build): number[] {
  const key = `${subject.name} ${build.name}`;
  const digests = FIRST.get(key) ?? digestsOf(subject, build, load(subject.corpusFile));
  FIRST.set(key, digests);
  return digests;
}

const CASES = SUBJECTS.flatMap((subject) =>
  BUILDS.map((build) => [subject.name, build.name, subject, build] as const),
);

describe.each(CASES)('the %s corpus (%s build)', (_name, _build, subject, build) => {
  const corpus = load(subject.corpusFile);

  it('keeps every rule that the host can see', () => {
    expect(corpus.length).toBeGreaterThan(50);
    expect(firstDigestsOf(subject, build)).toHaveLength(corpus.length);
  });

  it.each(BUGS[subject.name])('would notice what once failed %s', (_, inputs) => {
    expect(inputs.length).toBeGreaterThan(0);
    expect(digestsOf(subject, build, inputs)).toHaveLength(inputs.length);
  });

  it('P2: puts out the same whatever the engine in this memory has done before', () => {
    const again = digestsOf(subject, build, corpus.toReversed()).toReversed();
    expect(again).toEqual(firstDigestsOf(subject, build));
  });
});

describe.each(SUBJECTS.map((one) => [one.name, one] as const))('the %s corpus', (_, subject) => {
  it('P2: puts out the same on every build', () => {
    const [first, ...others] = BUILDS.map((build) => firstDigestsOf(subject, build));
    for (const other of others) expect(other).toEqual(first);
  });

  it('is in the order of its lines, each of them once', () => {
    const lines = load(subject.corpusFile).map((bytes) => toLine(bytes));
    expect(lines).toEqual([...new Set(lines)].sort());
  });
});
