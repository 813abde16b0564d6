// Writes beside each other in a few subclusters, some of which have a place and some not (N3): what
// one fills is not what another has just written.

import { describe, it } from 'vitest';

import { OP_WRITE } from '../../../src/abi/request.ts';
import { buildImage } from '../../../src/testing/qcow2/image-builder.ts';
import { randomSetup, SHAPES } from '../../../src/testing/qcow2/plan.ts';
import type { Qcow2Case } from '../../../src/testing/qcow2/world.ts';
import { Random } from '../../../src/testing/random.ts';
import { expectKept } from './story.ts';

const PATIENCE_MS = 600_000;
const SEED = 1;
const STREAMS = 200;
const EXTENDED = SHAPES.find(({ name }) => name === 'extended')!;
/** The first sectors of a cluster without a place; a subcluster has two. */
const FIRST_SECTOR = 64;
const SECTORS = 10;

async function* cases(): AsyncGenerator<Qcow2Case> {
  const random = new Random(SEED);
  const first = await buildImage(EXTENDED);
  for (let count = 0; count < STREAMS; count++) {
    const setup = { ...randomSetup(random), depth: 32, wce: true };
    const stream = Array.from({ length: 4 + random.below(8) }, () => {
      const from = FIRST_SECTOR + random.below(SECTORS);
      return { op: OP_WRITE, flags: 0, queue: 0, from, to: from + 1 + random.below(4) };
    });
    yield { first, setup, stream, base: 0, seed: random.next(), faults: {} };
  }
}

describe('writes beside each other', { timeout: PATIENCE_MS }, () => {
  it('keep what the others have written', async () => {
    for await (const explored of cases()) {
      expectKept(explored, EXTENDED.name, SEED);
    }
  });
});
