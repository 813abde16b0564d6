// Random rings, valid and hostile, through the engine and the model of its rings
// (test/model/ring.ts), with chains in flight: the same chains taken, errors, used entries,
// interrupts, suppression and memory.
//
// SLUICE_FUZZ_SECONDS=60 runs new ones for that long in each test; SLUICE_FUZZ_SEED=n starts with
// that seed. A failure prints its seed and step.

import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/virtio-device.ts';
import { Random } from '../engine/random.ts';
import { BUILDS } from '../support/engine.ts';
import { RingPair } from './pair.ts';
import { RandomGuest, RAM_BYTES } from './random-guest.ts';

const SECONDS = Number(process.env['SLUICE_FUZZ_SECONDS'] ?? 0);
const FIRST_SEED = Number(process.env['SLUICE_FUZZ_SEED'] ?? (SECONDS > 0 ? Date.now() : 1));
const SEEDS = 2500;
const STEPS = 40;
const DISK_BYTES = 32 * 1024;

/** Runs one seed; returns what its queue came to. */
function runSeed(pair: RingPair, seed: number, packed: boolean): string {
  const random = new Random(seed);
  const guest = new RandomGuest(pair, random, packed);
  let step = 0;
  try {
    for (; step < STEPS; step++) {
      guest.step();
      if (pair.model?.state === abi.QUEUE_BROKEN) break;
    }
    guest.end();
    const outcome = `error ${pair.model?.error ?? 0}`;
    guest.leave();
    return outcome;
  } catch (error) {
    throw new Error(`seed ${seed}, step ${step}: ${String(error)}`, { cause: error });
  }
}

function tally(counts: Map<string, number>): string {
  return [...counts].map(([outcome, count]) => `${outcome}: ${count}`).join(', ');
}

const CUTS: Record<string, readonly number[]> = {
  'one region': [],
  // The rings lie before the first cut.
  'many regions': [0x2000, 0x2010, 0x2200, 0x3050, 0x3060, 0x4a00, 0x6000, 0x7ff0],
};

describe.each(BUILDS)('random rings in step with the model ($name build)', (build) => {
  for (const packed of [false, true]) {
    it.each(Object.keys(CUTS))(
      `${packed ? 'packed' : 'split'}, %s`,
      (name) => {
        const cuts = CUTS[name]!;
        const pair = new RingPair(build, { ramBytes: RAM_BYTES, diskBytes: DISK_BYTES, cuts });
        const counts = new Map<string, number>();
        const end = Date.now() + SECONDS * 1000;
        const last = FIRST_SEED + SEEDS;
        for (let seed = FIRST_SEED; SECONDS > 0 ? Date.now() < end : seed < last; seed++) {
          const outcome = runSeed(pair, seed, packed);
          counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
        }
        process.stdout.write(`lockstep: ${tally(counts)}; ${pair.contested} contested\n`);
        expect(counts.get('error 0')).toBeGreaterThan(0);
      },
      600_000,
    );
  }
});
