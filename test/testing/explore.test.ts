/**
 * The crash explorer on the engine as it is, and on engines with a promise broken
 * (scripts/mutants): that it finds nothing here, and there the shortest story.
 */

import { describe, expect, it } from 'vitest';
import { MUTANTS } from '../../scripts/mutants/list.mjs';
import { compileWith, mutate } from '../../scripts/mutants/mutant.mjs';
import {
  explore,
  exploreAsync,
  type ExploreOptions,
  type ExploreProgress,
  type ExploreResult,
  exploreSteps,
} from '../../src/testing.ts';
import { Lane, ForkMiss } from '../../src/testing/lane.ts';
import { CLASSICS, SETUPS, takes } from '../../src/testing/plan.ts';
import { Random } from '../../src/testing/random.ts';
import { describeRequest } from '../../src/testing/stream.ts';
import { World } from '../../src/testing/world.ts';
import { BUILDS } from '../support/engine.ts';

/** Crash states: some seconds of one core for the release build, the debug build gets fewer. */
const STATES = { release: 1_200_000, debug: 300_000, given: 1_200_000 };

const { module } = BUILDS.at(-1)!;

async function mutantOf(name: string): Promise<WebAssembly.Module> {
  const found = MUTANTS.find((mutant) => mutant.name === name);
  if (found === undefined) throw new Error(`no mutant is called '${name}'`);
  return new WebAssembly.Module(await compileWith(mutate(found)));
}

/** What does not depend on the clock. */
function bare(result: ExploreResult): ExploreResult {
  return { ...result, seconds: 0 };
}

describe('options that make no sense are refused', () => {
  it.each([
    { seed: 1.5 },
    { seed: -1 },
    { states: 0 },
    { requests: 0 },
    { requests: 1000 },
    { exhaustive: 1 },
    { exhaustiveRequests: 0 },
    { faults: ['foo'] },
    { faults: 'write' },
    { module: {} },
    { module: new WebAssembly.Module(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0)) },
  ])('%j', (options) => {
    expect(() => explore(options as ExploreOptions)).toThrow(
      expect.objectContaining({ code: 'ERR_SLUICE_INVALID_ARGUMENT' }) as Error,
    );
  });
});

describe('the engine', () => {
  it.each(BUILDS)('keeps every promise in every order of events ($name)', ({ name, module }) => {
    const states = STATES[name as keyof typeof STATES];
    const result = explore({ module, states });
    const rate = Math.round(result.states / result.seconds / 1000);
    process.stdout.write(
      `crash explorer (${name}): ${result.states} states, ${result.streams} streams, ` +
        `${result.kills} kills, ${result.survivors} disks, ${rate}k states/s\n`,
    );
    expect(result.failure?.timeline ?? '').toBe('');
    expect(result.states).toBeGreaterThanOrEqual(states);
    expect(result.streams).toBeGreaterThan(name === 'debug' ? 400 : 2500);
    expect(result.survivors).toBeGreaterThan(result.states);
    expect(result.kills).toBeGreaterThan(states / 50);
  });

  it('keeps every promise to every stream of one request, all orders exhausted', () => {
    const result = explore({ module, exhaustive: true, exhaustiveRequests: 1, states: 30_000 });
    expect(result.failure).toBeUndefined();
    expect(result.streams).toBeGreaterThan(200);
  });

  it('keeps them when nothing below it fails, too', () => {
    const result = explore({ module, faults: [], states: 50_000 });
    expect(result.failure).toBeUndefined();
  });
});

describe('an exploration', () => {
  it('is the same for the same seed', () => {
    const options = { module, states: 100_000, requests: 6 };
    const first = bare(explore({ ...options, seed: 5 }));
    expect(bare(explore({ ...options, seed: 5 }))).toEqual(first);
  });

  it('can be followed, and stopped by a signal', async () => {
    const controller = new AbortController();
    const seen: ExploreProgress[] = [];
    const result = await exploreAsync({
      module,
      states: 100_000_000,
      signal: controller.signal,
      onProgress: (progress) => {
        seen.push(progress);
        if (seen.length === 3) controller.abort();
      },
    });
    expect(seen).toHaveLength(3);
    expect(result.states).toBeGreaterThanOrEqual(seen[2]!.states);
    expect(result.failure).toBeUndefined();
  });

  it('comes in pieces, for who draws in between', () => {
    const steps = exploreSteps({ module, states: 20_000 });
    let end = steps.next();
    while (end.done !== true) end = steps.next();
    expect(end.value.states).toBeGreaterThanOrEqual(20_000);
  });

  it.each([{ states: 0 }, { states: 1.5 }, { requests: 0 }, { requests: 65 }])(
    'refuses %o',
    (options) => {
      const code = 'ERR_SLUICE_INVALID_ARGUMENT';
      expect(() => explore({ module, ...options })).toThrow(expect.objectContaining({ code }));
    },
  );
});

describe('a broken engine', () => {
  it('is told about in the shortest story: a sync that covers what came late (F2)', async () => {
    const broken = await mutantOf('F2: cover is sampled at the end of the sync');
    const { failure, states } = explore({ module: broken, states: 200_000 });
    expect(states).toBeLessThan(50_000);
    expect(failure?.rule).toBe('durability');
    expect(failure?.stream).toEqual(['write [0,1)', 'flush', 'flush']);
    expect(failure?.config).toBe('4 sectors, depth 1, write cache on, no merging');
    const lines = failure!.timeline.split('\n');
    expect(lines).toHaveLength(13);
    expect(lines.slice(-2)).toEqual([
      'POWER CUT',
      'BROKEN     durability: sector 0 may hold what was there at first after the power cut; ' +
        'allowed: W1, because F3 (flush) has promised so',
    ]);
    const late = lines.findIndex((line) => line.startsWith('answer     write'));
    expect(lines.slice(0, late).some((line) => line.startsWith('  command  sync'))).toBe(true);
  });

  it('is found again without shrinking, and the longer story ends the same', async () => {
    const broken = await mutantOf('F2: cover is sampled at the end of the sync');
    const { failure } = explore({ module: broken, states: 200_000, shrink: false });
    expect(failure?.rule).toBe('durability');
    expect(failure!.timeline).toMatch(/^start .*BROKEN {5}durability: .*$/su);
  });
});

describe('the forks', () => {
  it('bring back every byte of an engine that later events depend on', () => {
    const lane = new Lane(module);
    const random = new Random(3);
    for (const setup of SETUPS) {
      for (const stream of CLASSICS.slice(0, 20)) {
        if (!stream.every((request) => takes(setup, request))) continue;
        const label = stream.map(describeRequest).join(', ');
        until(() => {
          lane.learning = true;
          const world = new World(lane, setup, stream, new Set(), 0);
          const direct = walk(world, random.below(1 << 20), false);
          world.begin();
          const forked = walk(world, direct.seed, true);
          expect(forked.words.equals(direct.words), label).toBe(true);
        });
      }
    }
  });
});

/** Goes one way through a world; with `forks`, after trying every other way one step far. */
function walk(
  world: World,
  seed: number,
  forks: boolean,
): { readonly seed: number; readonly words: Buffer } {
  const random = new Random(seed);
  const events: number[] = [];
  for (let depth = 0; ; depth++) {
    const count = world.events(events);
    if (count === 0) return { seed, words: Buffer.from(world.lane.words.slice().buffer) };
    const event = events[random.below(count)]!;
    if (forks) {
      world.save(depth);
      for (const other of events.slice(0, count)) {
        world.apply(other);
        world.restore(depth);
      }
    }
    world.apply(event);
  }
}

/** Repeats while forks learn what to copy. */
function until(work: () => void): void {
  for (;;) {
    try {
      work();
      return;
    } catch (error) {
      if (!(error instanceof ForkMiss)) throw error;
    }
  }
}
