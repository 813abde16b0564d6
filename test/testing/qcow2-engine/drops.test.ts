// References are dropped, one beside the other and at different times (D1): random streams of
// discards, flushes and a few writes over an image that is full.

import { describe, it } from 'vitest';

import { OP_DISCARD, OP_FLUSH, OP_WRITE } from '../../../src/abi/request.ts';
import { buildImage } from '../../../src/testing/qcow2/image-builder.ts';
import { randomSetup, SHAPES } from '../../../src/testing/qcow2/plan.ts';
import type { Qcow2Case } from '../../../src/testing/qcow2/world.ts';
import { Random } from '../../../src/testing/random.ts';
import type { GuestRequest } from '../../../src/testing/stream.ts';
import { expectKept } from './story.ts';

const PATIENCE_MS = 600_000;
const SEED = 1;
const STREAMS = 500;
const FULL = SHAPES.find(({ name }) => name === 'full')!;
const KINDS = [OP_DISCARD, OP_DISCARD, OP_DISCARD, OP_FLUSH, OP_WRITE];

function randomRequest(random: Random, sectors: number): GuestRequest {
  const op = KINDS[random.below(KINDS.length)]!;
  const from = op === OP_FLUSH ? 0 : random.below(sectors);
  return { op, flags: 0, queue: 0, from, to: op === OP_FLUSH ? 0 : from + 1 };
}

async function* cases(): AsyncGenerator<Qcow2Case> {
  const random = new Random(SEED);
  const first = await buildImage(FULL);
  for (let count = 0; count < STREAMS; count++) {
    const setup = { ...randomSetup(random), depth: 32, wce: true };
    const length = 4 + random.below(8);
    const stream = Array.from({ length }, () => randomRequest(random, first.codes.length));
    yield { first, setup, stream, base: 0, seed: random.next(), faults: {} };
  }
}

describe('references that are dropped', { timeout: PATIENCE_MS }, () => {
  it('break no promise', async () => {
    for await (const explored of cases()) {
      expectKept(explored, FULL.name, SEED);
    }
  });
});
