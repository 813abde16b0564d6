/**
 * Streams for the engine: what a client, a disk and the clock may do in any order, as plain data,
 * so that a stream can be generated, shrunk, printed and kept (test/corpus/engine).
 */

import {
  ERRNO_EDQUOT,
  ERRNO_EFBIG,
  ERRNO_EIO,
  ERRNO_ENOSPC,
  ERRNO_ENOTSUP,
} from '../../src/abi/command.ts';
import * as abi from '../../src/abi/request.ts';
import { createMemory, EngineDriver } from '../driver.ts';
import { ModelEngine } from '../model.ts';
import type { Build } from '../support/engine.ts';
import { Lockstep } from './lockstep.ts';
import { Random } from './random.ts';
import { type Io, type Setup, Simulator } from './simulator.ts';

/** One step of a stream. */
export type Action =
  | ({ readonly do: 'io' } & Io)
  | { readonly do: 'flush' }
  /** A record that must be refused, whatever else goes on; the numbers of 64 bits as text. */
  | {
      readonly do: 'hostile';
      readonly op: number;
      readonly flags: number;
      readonly segments: number;
      readonly data: number;
      readonly offset: string;
      readonly length: string;
    }
  | { readonly do: 'wce'; readonly on: number }
  | { readonly do: 'pump' }
  /** Answers a command at the host: with `errno`, or `syncErrno` when it is the sync. */
  | {
      readonly do: 'answer';
      readonly pick: number;
      readonly errno: number;
      readonly syncErrno: number;
    };

/** A whole stream. */
export interface Stream {
  readonly setup: Setup;
  readonly actions: readonly Action[];
}

/** What a run has seen. */
export interface Outcome {
  readonly requests: number;
  readonly syncs: number;
}

/** Errnos that the engine tells apart, and others. */
export const ERRNOS = [ERRNO_EIO, ERRNO_EFBIG, ERRNO_ENOSPC, ERRNO_ENOTSUP, ERRNO_EDQUOT, 4];

const MIB = 1024 * 1024;

/** Memory for the transfers of any random stream. */
export const STREAM_BYTES = 16 * MIB;

/** Runs streams on one build, each on a fresh engine in the same memory. */
export class StreamRunner {
  readonly #engine: EngineDriver;
  readonly #withModel: boolean;

  /** @param withModel compare with the model at every step; else only the simulator looks */
  constructor(build: Build, withModel: boolean, dataBytes = STREAM_BYTES) {
    this.#engine = EngineDriver.over(build, createMemory(dataBytes));
    this.#withModel = withModel;
  }

  /** Throws at the first broken rule. */
  run({ setup, actions }: Stream): Outcome {
    const engine = this.#engine;
    if (!engine.init(setup)) throw new Error('the engine refuses the configuration');
    const model = new ModelEngine(setup, engine.view);
    const pair = this.#withModel ? new Lockstep(engine, model) : engine;
    const simulator = new Simulator(pair, engine.view, setup);
    for (const action of actions) perform(simulator, action);
    simulator.finish();
    return { requests: simulator.completed.length, syncs: engine.counters().syncs };
  }
}

/** One step. */
export function perform(simulator: Simulator, action: Action): void {
  switch (action.do) {
    case 'io':
      simulator.submit(action);
      return;
    case 'flush':
      simulator.submitRecord({ ...NO_RANGE, op: abi.OP_FLUSH });
      return;
    case 'hostile':
      simulator.submitHostile({
        ...action,
        offset: BigInt(action.offset),
        length: BigInt(action.length),
      });
      return;
    case 'wce':
      simulator.submitRecord({ ...NO_RANGE, op: abi.OP_SET_WCE, length: action.on });
      return;
    case 'pump':
      simulator.pump();
      return;
    case 'answer':
      simulator.answer(action.pick, action.errno, action.syncErrno);
  }
}

const NO_RANGE = { flags: 0, segments: 0, data: 0, offset: 0, length: 0 };

/** The flags that an operation takes. */
export function flagsOf(op: number): number[] {
  if (op === abi.OP_WRITE || op === abi.OP_DISCARD) return [0, abi.REQUEST_FUA];
  return op === abi.OP_WRITE_ZEROES ? [0, 1, 2, 3, 4, 5, 6, 7] : [0];
}

/** Where a disk of `cells` cells may begin: at 0, and across the borders of 32 and 53 bits. */
export function originsOf(cells: number, cellBytes: number): number[] {
  const below = (end: number): number => Math.floor((end - cells * cellBytes) / 4096) * 4096;
  return [0, below(2 ** 32 + 4096), below(2 ** 53 - 4096)];
}

/** The stream of a seed. */
export function randomStream(seed: number): Stream {
  const random = new Random(seed);
  const setup = randomSetup(random, seed);
  const cells = (setup.capacity - setup.origin) / setup.cellBytes;
  const weights = Array.from({ length: STEPS.length }, () => random.pick([0, 1, 1, 2, 4, 8]));
  const bag = STEPS.flatMap((step, index) =>
    Array.from(
      { length: weights[index]! + (step === 'pump' || step === 'answer' ? 2 : 0) },
      () => step,
    ),
  );
  const longest = Math.min(random.pick([1, 2, 4, 8, 40]), setup.cellBytes === 4096 ? 8 : 40);
  const chances: Chances = {
    fua: random.pick([0, 0.1, 0.5]),
    error: random.pick([0, 0, 0.02, 0.2]),
    syncError: random.pick([0, 0, 0, 0.02, 0.3]),
  };
  const sequential = random.chance(0.3);
  let next = 0;
  const actions = Array.from({ length: 20 + random.below(120) }, () => {
    const action = randomAction(random, random.pick(bag), cells, longest, chances);
    if (!sequential || action.do !== 'io') return action;
    const at = next % cells;
    next += action.cells;
    return { ...action, at, cells: Math.min(action.cells, cells - at) };
  });
  return { setup, actions };
}

const STEPS = [
  'read',
  'write',
  'write',
  'zeroes',
  'discard',
  'status',
  'flush',
  'wce',
  'hostile',
  'pump',
  'answer',
] as const;

interface Chances {
  readonly fua: number;
  readonly error: number;
  readonly syncError: number;
}

function randomSetup(random: Random, seed: number): Setup {
  const cellBytes = random.pick([128, 512, 512, 4096]);
  const cells = random.pick([4, 8, 16, 64]);
  const origin = random.pick(originsOf(cells, cellBytes));
  return {
    cellBytes,
    origin,
    capacity: origin + cells * cellBytes,
    blockSize: random.pick([1, 512, 512, 4096]),
    depth: random.pick([1, 2, 3, 8, 32, 256]),
    mergeBytes: random.pick([0, 2 * cellBytes, 5 * cellBytes, 5 * cellBytes - 1, MIB]),
    readOnly: random.chance(0.03),
    noFlush: random.chance(0.08),
    wce: random.chance(0.7),
    seed,
  };
}

const OPS = {
  read: abi.OP_READ,
  write: abi.OP_WRITE,
  zeroes: abi.OP_WRITE_ZEROES,
  discard: abi.OP_DISCARD,
  status: abi.OP_BLOCK_STATUS,
} as const;

function randomAction(
  random: Random,
  step: (typeof STEPS)[number],
  cells: number,
  longest: number,
  chances: Chances,
): Action {
  if (step === 'flush' || step === 'pump') return { do: step };
  if (step === 'hostile') return randomHostile(random);
  if (step === 'wce') return { do: 'wce', on: random.below(2) };
  if (step === 'answer') {
    const errno = random.chance(chances.error) ? random.pick(ERRNOS) : 0;
    const syncErrno = random.chance(chances.syncError) ? random.pick(ERRNOS) : 0;
    return { do: 'answer', pick: random.below(8), errno, syncErrno };
  }
  const op = OPS[step];
  const at = random.below(cells);
  const takesFua = op === abi.OP_WRITE || op === abi.OP_WRITE_ZEROES || op === abi.OP_DISCARD;
  const fua = takesFua && random.chance(chances.fua) ? abi.REQUEST_FUA : 0;
  const zeroFlags = op === abi.OP_WRITE_ZEROES ? random.pick([0, 0, 2, 4, 6]) : 0;
  return {
    do: 'io',
    op,
    flags: fua | zeroFlags,
    at,
    cells: Math.min(random.chance(0.02) ? 0 : 1 + random.below(longest), cells - at),
    pieces: random.pick([1, 1, 1, 2, 3, 40]),
    gap: random.chance(0.3),
  };
}

/** Numbers at which 32, 53, 63 and 64 bits end, and a few that are harmless. */
const EDGES = [0n, 1n, 512n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 512n, 2n ** 64n - 1n];
const WORDS = [0, 1, 2, 64, 1024, 1025, 720_896, 0x7fff_ffff, 0xffff_fff0, 0xffff_ffff];

function randomHostile(random: Random): Action {
  return {
    do: 'hostile',
    op: random.pick([0, 1, 2, 3, 4, 5, 6, 7, 255]),
    flags: random.pick([0, 0, 0, 1, 2, 4, 8, 255]),
    segments: random.pick(WORDS),
    data: random.pick(WORDS),
    offset: String(random.pick(EDGES)),
    length: String(random.pick(EDGES)),
  };
}

/** A shorter stream that fails as well: chunks are left out, large ones first. */
export function shrink(stream: Stream, fails: (stream: Stream) => boolean): Stream {
  let { actions } = stream;
  for (let size = actions.length; size >= 1; size = Math.floor(size / 2)) {
    for (let at = 0; at < actions.length;) {
      const shorter = [...actions.slice(0, at), ...actions.slice(at + size)];
      if (fails({ ...stream, actions: shorter })) actions = shorter;
      else at += size;
    }
  }
  return { ...stream, actions };
}
