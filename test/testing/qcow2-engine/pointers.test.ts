// Writes of pointers to refcounts fail, and are in the file all the same, or not (R6): the refcount
// table's, and the header's. Random streams over images that soon need more refcounts.

import { describe, expect, it } from 'vitest';

import type { FileFaults } from '../../../src/testing/qcow2/hosts.ts';
import { buildImage } from '../../../src/testing/qcow2/image-builder.ts';
import { randomSetup, randomStream, SHAPES } from '../../../src/testing/qcow2/plan.ts';
import type { Qcow2Case } from '../../../src/testing/qcow2/world.ts';
import { Random } from '../../../src/testing/random.ts';
import { expectKept } from './story.ts';

const PATIENCE_MS = 600_000;
const SEED = 1;
/** What fails is one of the first writes of a stream. */
const WRITES = 16;
const LATEST_KILL = 60;
const HEADER_SECTORS = [0, 1] as const;
const SCENES = [
  { name: 'a full refcount block', pointers: 'write refcount table', streams: 400 },
  { name: 'a full refcount table', pointers: 'write header', streams: 60 },
];

/** A stream in which a write of the image fails. */
async function* casesOn(name: string, streams: number): AsyncGenerator<Qcow2Case> {
  const random = new Random(SEED);
  const first = await buildImage(SHAPES.find((shape) => shape.name === name)!);
  for (let count = 0; count < streams; count++) {
    const setup = randomSetup(random);
    const stream = randomStream(random, setup, first.codes.length, 1, 2 + random.below(8));
    const nth = 1 + random.below(WRITES);
    const isHeader = name.endsWith('table');
    const eio = isHeader ? { sectors: HEADER_SECTORS, nth: 1 } : { ops: ['write'] as const, nth };
    const faults: FileFaults = { image: { eio } };
    const killAt = random.chance(0.3) ? 1 + random.below(LATEST_KILL) : undefined;
    yield { first, setup, stream, base: 0, seed: random.next(), killAt, faults };
  }
}

describe('pointers that could not be written', { timeout: PATIENCE_MS }, () => {
  it.each(SCENES)('break no promise on the image: $name', async ({ name, pointers, streams }) => {
    let hits = 0;
    for await (const explored of casesOn(name, streams)) {
      const world = expectKept(explored, name, SEED);
      if (world.failed.includes(pointers)) hits += 1;
    }
    expect(hits).toBeGreaterThan(5);
  });
});
