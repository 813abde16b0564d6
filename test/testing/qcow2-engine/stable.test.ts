// A stable write to a cluster that is allocated goes in place, and is its own sync, only when the
// tables that lead to it are stable: streams of writes, stable or not, on a few clusters whose
// tables are written by their age, without a sync.

import { describe, it } from 'vitest';

import { REQUEST_FUA, OP_FLUSH, OP_WRITE } from '../../../src/abi/request.ts';
import { buildImage } from '../../../src/testing/qcow2/image-builder.ts';
import { randomSetup, SHAPES } from '../../../src/testing/qcow2/plan.ts';
import type { Qcow2Case } from '../../../src/testing/qcow2/world.ts';
import { Random } from '../../../src/testing/random.ts';
import type { GuestRequest } from '../../../src/testing/stream.ts';
import { expectKept } from './story.ts';

const PATIENCE_MS = 600_000;
const SEED = 1;
const STREAMS = 400;
/** Clusters of one sector; and one cluster of eight, which others may allocate meanwhile. */
const SCENES = [
  { name: 'empty', sectors: 3, most: 14 },
  { name: 'large clusters', sectors: 8, most: 5 },
];

function randomRequest(random: Random, sectors: number): GuestRequest {
  if (random.chance(0.1)) return { op: OP_FLUSH, flags: 0, queue: 0, from: 0, to: 0 };
  const from = random.below(sectors);
  return {
    op: OP_WRITE,
    flags: random.chance(0.4) ? REQUEST_FUA : 0,
    queue: 0,
    from,
    to: from + 1,
  };
}

async function* casesOn(name: string, sectors: number, most: number): AsyncGenerator<Qcow2Case> {
  const random = new Random(SEED);
  const first = await buildImage(SHAPES.find((shape) => shape.name === name)!);
  for (let count = 0; count < STREAMS; count++) {
    const young = { flushIntervalMicros: 10, fua: true, wce: true, barrier: 'off' } as const;
    const setup = { ...randomSetup(random), ...young };
    const length = 2 + random.below(most - 1);
    const stream = Array.from({ length }, () => randomRequest(random, sectors));
    yield { first, setup, stream, base: 0, seed: random.next(), faults: {} };
  }
}

describe('stable writes', { timeout: PATIENCE_MS }, () => {
  it.each(SCENES)('are stable when they are answered: $name', async ({ name, sectors, most }) => {
    for await (const explored of casesOn(name, sectors, most)) expectKept(explored, name, SEED);
  });
});
