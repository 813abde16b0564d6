// Random streams through the engine, its model and a simulated host that checks rules (a) to (k) of
// simulator.ts, the power cut of durability section 9 among them.
//
// By default the same streams every time. SLUICE_FUZZ_SECONDS=60 runs new ones for that long in
// each test; SLUICE_FUZZ_SEED=n starts with that seed. A failure prints the seed and the shrunk
// stream; put the stream into test/corpus/engine/bugs.json together with the fix.

import { readdirSync, readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/request.ts';
import { createMemory } from '../driver.ts';
import { ModelEngine } from '../model.ts';
import { BUILDS } from '../support/engine.ts';
import { type Setup, Simulator } from './simulator.ts';
import { ERRNOS, flagsOf, originsOf, randomStream } from './random-stream.ts';
import {
  type Action,
  perform,
  shrink,
  type Stream,
  STREAM_BYTES,
  StreamRunner,
} from './streams.ts';

const SECONDS = Number(process.env['SLUICE_FUZZ_SECONDS'] ?? 0);
const FIRST_SEED = Number(process.env['SLUICE_FUZZ_SEED'] ?? (SECONDS > 0 ? Date.now() : 1));
const STREAMS = 1000;
const CORPUS = new URL('../corpus/engine/', import.meta.url);

/** The first line of what goes wrong, or nothing. */
function failureOf(run: (stream: Stream) => unknown, stream: Stream): string | undefined {
  try {
    run(stream);
    return undefined;
  } catch (error) {
    return String(error).split('\n')[0]!;
  }
}

/** Runs the streams of many seeds; a failure is shrunk before it is thrown. */
function runSeeds(run: (stream: Stream) => unknown, count: number): void {
  const end = Date.now() + SECONDS * 1000;
  for (let seed = FIRST_SEED; SECONDS > 0 ? Date.now() < end : seed < FIRST_SEED + count; seed++) {
    const stream = randomStream(seed);
    const failure = failureOf(run, stream);
    if (failure === undefined) continue;
    const shrunk = shrink(stream, (shorter) => failureOf(run, shorter) !== undefined);
    throw new Error(
      `seed ${seed}: ${failure}\nshrunk: ${failureOf(run, shrunk)}\n${JSON.stringify(shrunk)}`,
    );
  }
}

describe.each(BUILDS)('random streams ($name build)', (build) => {
  it('the engine does what the model says, and the host sees no broken rule', () => {
    const runner = new StreamRunner(build, true);
    runSeeds((stream) => runner.run(stream), STREAMS);
  }, 600_000);

  it('the host alone, which knows requests and contents only, sees no broken rule', () => {
    const runner = new StreamRunner(build, false);
    runSeeds((stream) => runner.run(stream), 2 * STREAMS);
  }, 600_000);

  it('short streams of every shape obey the model and the rules (fast-check)', () => {
    const runner = new StreamRunner(build, true);
    fc.assert(
      fc.property(anyStream, (stream) => {
        runner.run(stream);
      }),
      { seed: FIRST_SEED, numRuns: 500 * (1 + SECONDS) },
    );
  }, 600_000);
});

describe('the model alone', () => {
  it('obeys the rules of the host as the engine does', () => {
    const view = new DataView(createMemory(STREAM_BYTES).buffer);
    runSeeds(({ setup, actions }) => {
      const simulator = new Simulator(new ModelEngine(setup, view), view, setup);
      for (const action of actions) perform(simulator, action);
      simulator.finish();
    }, STREAMS / 4);
  }, 600_000);
});

/** Streams that once failed: here because of a bug, on a mutant of scripts/mutants.mjs. */
const KEPT = readdirSync(CORPUS).flatMap(
  (name) => JSON.parse(readFileSync(new URL(name, CORPUS), 'utf8')) as (Stream & Named)[],
);

interface Named {
  readonly what: string;
}

describe.each(BUILDS)('streams that once failed ($name build)', (build) => {
  const runner = new StreamRunner(build, true);

  it.each(KEPT)('would notice $what', (stream) => {
    expect(runner.run(stream).requests).toBeGreaterThan(0);
  });
});

const CELLS = 16;

const CHUNKS = [1, 2, 8] as const;

const anySetup: fc.Arbitrary<Setup> = fc
  .record({
    cellBytes: fc.constantFrom(512, 128, 4096),
    place: fc.constantFrom(0, 1, 2),
    blockSize: fc.constantFrom(512, 1, 4096),
    depth: fc.constantFrom(256, 1, 2, 3),
    mergeCells: fc.constantFrom(64, 0, 2, 5, 5 - 1 / 128),
    readOnly: fc.constant(false),
    noFlush: fc.boolean(),
    wce: fc.boolean(),
    files: fc.integer({ min: 1, max: 4 }),
    chunks: fc.constantFrom(...CHUNKS),
    deadline: fc.boolean(),
    readExpiry: fc.nat(100),
    writeExpiry: fc.nat(100),
    batch: fc.integer({ min: 1, max: 3 }),
    writesStarved: fc.integer({ min: 1, max: 3 }),
    flushWait: fc.constantFrom(0, 50),
    fua: fc.boolean(),
    barrier: fc.boolean(),
    barrierDurable: fc.boolean(),
    barrierFails: fc.boolean(),
    seed: fc.nat(),
  })
  .map(({ place, mergeCells, chunks, ...setup }) => {
    const { cellBytes, blockSize } = setup;
    const origin = originsOf(CELLS, cellBytes)[place]!;
    const capacity = origin + CELLS * cellBytes;
    const chunkBytes = Math.max(512, cellBytes, blockSize) * chunks;
    return Object.assign(setup, {
      origin,
      capacity,
      chunkBytes,
      mergeBytes: mergeCells * cellBytes,
    });
  });

const anyQueue = fc.nat(2);

const anyIo: fc.Arbitrary<Action> = fc
  .record({
    op: fc.constantFrom(abi.OP_WRITE, abi.OP_READ, abi.OP_WRITE_ZEROES, abi.OP_DISCARD, 4),
    flag: fc.nat(7),
    barrier: fc.constantFrom(0, 0, 0, 0, abi.REQUEST_BARRIER),
    queue: anyQueue,
    at: fc.nat(CELLS - 1),
    cells: fc.nat(6),
    pieces: fc.integer({ min: 1, max: 3 }),
    gap: fc.boolean(),
  })
  .map(({ flag, barrier, ...io }) => {
    const flags = flagsOf(io.op);
    const cells = Math.min(io.cells, CELLS - io.at);
    const all = flags[flag % flags.length]! | barrier;
    return Object.assign(io, { do: 'io' as const, cells, flags: all });
  });

const anyAnswer: fc.Arbitrary<Action> = fc.record({
  do: fc.constant('answer' as const),
  pick: fc.nat(7),
  errno: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, fc.constantFrom(...ERRNOS)),
  syncErrno: fc.oneof({ weight: 19, arbitrary: fc.constant(0) }, fc.constantFrom(...ERRNOS)),
});

const anyWord = fc.oneof(fc.nat(3), fc.nat({ max: 0xffff_ffff }));
const anyLong = fc.oneof(fc.nat(8), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })).map(String);

const anyHostile: fc.Arbitrary<Action> = fc.record({
  do: fc.constant('hostile' as const),
  op: fc.oneof(fc.nat(10), fc.nat(255)),
  flags: fc.oneof(fc.nat(16), fc.nat(255)),
  queue: fc.oneof(fc.nat(64), fc.nat(65_535)),
  segments: anyWord,
  data: anyWord,
  offset: anyLong,
  length: anyLong,
});

const anyControl: fc.Arbitrary<Action> = fc.oneof(
  fc.record({ do: fc.constant('wce' as const), on: fc.nat(1), queue: anyQueue }),
  fc.record({ do: fc.constantFrom('reset' as const, 'clear latch' as const), queue: anyQueue }),
  fc.constant<Action>({ do: 'reset all' }),
);

const anyAction: fc.Arbitrary<Action> = fc.oneof(
  { weight: 8, arbitrary: anyIo },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('flush' as const), queue: anyQueue }) },
  { weight: 1, arbitrary: anyControl },
  { weight: 1, arbitrary: anyHostile },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('time' as const), micros: fc.nat(200) }) },
  { weight: 6, arbitrary: fc.constant<Action>({ do: 'pump' }) },
  { weight: 6, arbitrary: anyAnswer },
);

const anyStream: fc.Arbitrary<Stream> = fc.record({
  setup: anySetup,
  actions: fc.array(anyAction, { maxLength: 60, size: 'max' }),
});
