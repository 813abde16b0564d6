/** What is fuzzed: the engine alone, with a device and its guest, and with a qcow2 mapping. */

import type { EngineExports } from '../support/engine.ts';
import { BUGS_FILE, CORPUS_FILE } from './corpus.ts';
import { describeInput } from './describe.ts';
import { describeProgram } from './guest/describe.ts';
import { GUEST_GRAMMAR } from './guest/grammar.ts';
import { GuestHost } from './guest/host.ts';
import { createGuestMemory } from './guest/layout.ts';
import { Host } from './host.ts';
import { createMemory } from './layout.ts';
import { ENGINE_GRAMMAR, type Grammar } from './mutate.ts';
import { describeQcow2 } from './qcow2/describe.ts';
import { QCOW2_GRAMMAR } from './qcow2/grammar.ts';
import { Qcow2Host } from './qcow2/host.ts';
import { createQcow2Memory } from './qcow2/layout.ts';

/** Runs inputs of one kind. */
export interface Runner {
  /** Runs an input to its end; throws when a rule is broken. */
  run(bytes: Uint8Array): void;
  /** A number that depends on all that the last run has put out. */
  readonly digest: number;
  /** Calls of `pump` so far, in all runs. */
  readonly pumps: number;
  /** Requests or chains of the last run. */
  readonly submitted: number;
}

/** One kind of input. */
export interface Subject {
  readonly name: 'engine' | 'guest' | 'qcow2';
  /** Names of its files in the folder of the corpus. */
  readonly corpusFile: string;
  readonly bugsFile: string;
  readonly grammar: Grammar;
  /** A memory as a runner finds it. */
  createMemory(): WebAssembly.Memory;
  createRunner(exports: EngineExports, memory: WebAssembly.Memory): Runner;
  /** An input in words. */
  describe(bytes: Uint8Array): string[];
  /** True for the source files whose points make an input worth keeping. */
  counts(file: string): boolean;
}

/** Files that only a device reaches, and those in which it meets the rest. */
const GUEST_FILES =
  /^assembly\/(ring\/|guest|device|pump|index|request\/(blk|hold|append|complete|reset|take))/;

/** Files that only a mapping reaches, and those in which it meets the rest. */
const QCOW2_FILES =
  /^assembly\/(map\/|simd\/(ra|ru|zero-)|mapped|written|land|dispatch|pump|schedule\/(u|fl|st))/;

/** Requests of a host, without a device. */
export const ENGINE: Subject = {
  name: 'engine',
  corpusFile: CORPUS_FILE,
  bugsFile: BUGS_FILE,
  grammar: ENGINE_GRAMMAR,
  createMemory,
  createRunner: (exports, memory) => new Host(exports, memory),
  describe: describeInput,
  counts: () => true,
};

/** Guest programs. */
export const GUEST: Subject = {
  name: 'guest',
  corpusFile: 'guest.txt',
  bugsFile: 'guest-bugs.txt',
  grammar: GUEST_GRAMMAR,
  createMemory: createGuestMemory,
  createRunner: (exports, memory) => new GuestHost(exports, memory),
  describe: describeProgram,
  counts: (file) => GUEST_FILES.test(file),
};

/** Requests to a qcow2 image. */
export const QCOW2: Subject = {
  name: 'qcow2',
  corpusFile: 'qcow2.txt',
  bugsFile: 'qcow2-bugs.txt',
  grammar: QCOW2_GRAMMAR,
  createMemory: createQcow2Memory,
  createRunner: (exports, memory) => new Qcow2Host(exports, memory),
  describe: describeQcow2,
  counts: (file) => QCOW2_FILES.test(file),
};

/** All of them. */
export const SUBJECTS: readonly Subject[] = [ENGINE, GUEST, QCOW2];
