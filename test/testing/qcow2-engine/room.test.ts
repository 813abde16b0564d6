// A host that has room for some clusters, but not for as many as are reserved ahead (R5).

import { describe, expect, it } from 'vitest';

import { OP_FLUSH, OP_WRITE, STATUS_NO_SPACE } from '../../../src/abi/request.ts';
import { buildImage } from '../../../src/testing/qcow2/image-builder.ts';
import { randomSetup, SHAPES } from '../../../src/testing/qcow2/plan.ts';
import { Qcow2World } from '../../../src/testing/qcow2/world.ts';
import { Random } from '../../../src/testing/random.ts';
import { open } from './story.ts';

const EMPTY = SHAPES.find(({ name }) => name === 'empty')!;
/** Clusters that are reserved first, and the tries that end at one of them: 16, 4, 1. */
const RESERVE_CLUSTERS = 16;
const TRIES = 3;

/** What becomes of a write to a new cluster and a flush when the first extensions fail. */
async function statusesAfter(failures: number): Promise<string[]> {
  const setup = { ...randomSetup(new Random(1)), reserveClusters: RESERVE_CLUSTERS };
  const nth = Array.from({ length: failures }, (_, index) => index + 1);
  const world = new Qcow2World(
    open,
    {
      first: await buildImage(EMPTY),
      setup,
      stream: [OP_WRITE, OP_FLUSH].map((op) => ({ op, flags: 0, queue: 0, from: 0, to: 1 })),
      base: 0,
      seed: 1,
      faults: { image: { enospc: { ops: ['extend'], nth } } },
    },
    true,
  );
  world.run();
  const completions = world.lines!.filter((line) => line.includes('complete'));
  return completions.map((line) => line.trim()).toSorted();
}

describe('a file that can grow by less than is reserved ahead', () => {
  it.each([0, 1, TRIES - 1])('takes the write after %i refusals', async (failures) => {
    expect(await statusesAfter(failures)).toEqual(['complete 1: status 0', 'complete 2: status 0']);
  });

  it('fails the write when not one cluster has room', async () => {
    expect(await statusesAfter(TRIES)).toEqual([
      `complete 1: status ${STATUS_NO_SPACE}`,
      'complete 2: status 0',
    ]);
  });
});
