// Something goes wrong at every step of a stream: the process is killed and another one opens the
// image, a command fails, or all of them for a while.

import { describe, expect, it } from 'vitest';

import {
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  REQUEST_FUA,
} from '../../../src/abi/request.ts';
import { SHAPES } from '../../../src/testing/qcow2/plan.ts';
import type { Qcow2Setup } from '../../../src/testing/qcow2/subject.ts';
import { type Mishap, sweepQcow2 } from '../../../src/testing/qcow2/sweep.ts';
import type { GuestRequest } from '../../../src/testing/stream.ts';
import { open, story } from './story.ts';

const PATIENCE_MS = 600_000;
const SEED = 1;

interface Scene {
  readonly image: string;
  readonly stream: readonly GuestRequest[];
  readonly setup?: Partial<Qcow2Setup>;
  readonly from?: number;
}

function request(op: number, from = 0, to = from, flags = 0): GuestRequest {
  return { op, flags, queue: 0, from, to };
}

const write = (from: number, to: number): GuestRequest => request(OP_WRITE, from, to);
const stable = (from: number, to: number): GuestRequest => request(OP_WRITE, from, to, REQUEST_FUA);
const read = (from: number, to: number): GuestRequest => request(OP_READ, from, to);
const zeroes = (from: number, to: number): GuestRequest => request(OP_WRITE_ZEROES, from, to);
const discard = (from: number, to: number): GuestRequest => request(OP_DISCARD, from, to);
const flush = request(OP_FLUSH);

const SCENES: readonly Scene[] = [
  { image: 'empty', stream: [write(0, 3), flush, discard(1, 2), write(9, 12), flush] },
  {
    image: 'free clusters',
    stream: [write(0, 4), flush, discard(0, 3), flush, write(6, 8), flush],
    setup: { punch: true, reserveClusters: 3 },
  },
  { image: 'snapshot', stream: [read(0, 4), write(8, 9), stable(0, 1), discard(3, 5), flush] },
  { image: 'compressed', stream: [read(0, 5), read(40, 48)] },
  { image: 'snapshot of all', stream: [write(9, 10), flush, stable(0, 3), zeroes(30, 41), flush] },
  { image: 'compressed', stream: [read(0, 5), write(9, 10), flush, read(40, 56), write(0, 17)] },
  { image: 'large clusters, backing', stream: [write(33, 34), zeroes(26, 28), read(8, 56), flush] },
  { image: 'extended, backing', stream: [write(33, 34), zeroes(1, 40), stable(100, 101), flush] },
  { image: 'data file', stream: [write(1, 4), zeroes(4, 6), flush, write(9, 10), flush] },
  { image: 'version 2, backing', stream: [zeroes(1, 3), write(4, 6), discard(2, 5), flush] },
  {
    image: 'a full refcount block',
    stream: [write(0, 4), write(5, 12), flush, write(12, 20), flush],
    setup: { reserveClusters: 3 },
  },
  {
    image: 'a full refcount table',
    stream: [write(1, 5), write(6, 10), flush],
    setup: { reserveClusters: 3, refcountSlices: 8 },
    // Before this every refcount block is read.
    from: 66,
  },
];

/** What commands are for, by the orders of assembly/map/qcow2/io.ts; all of them fail somewhere. */
const PURPOSES = {
  IO_LOAD_L2: ['read L2'],
  IO_LOAD_REFCOUNTS: ['read refcounts'],
  IO_BUFFER: ['compressed, to read'],
  IO_FILL: ['compressed, to change', 'read backing', 'read other'],
  IO_CYCLE: ['write L1', 'write L2', 'write refcounts'],
  IO_WORKER: ['extend', 'zeroes', 'discard', 'write refcount table', 'write header'],
  IO_COPY: ['read shared L2', 'write other'],
  'no table': ['read', 'write', 'sync'],
};

/** Failures of all sweeps, by purpose. */
const failed = new Map<string, number>();

describe('a mishap at every step', { timeout: PATIENCE_MS }, () => {
  describe.each<Mishap>(['kill', 'eio', 'enospc', 'outage', 'source'])('%s', (mishap) => {
    it.each(SCENES)('breaks no promise on the image: $image', async (scene) => {
      const shape = SHAPES.find(({ name }) => name === scene.image)!;
      const result = await sweepQcow2({ open, mishap, seed: SEED, ...scene, shape });
      expect(story(result.failure, SEED)).toBeUndefined();
      expect(result.runs).toBeGreaterThan(0);
      for (const [purpose, count] of result.failed) {
        failed.set(purpose, (failed.get(purpose) ?? 0) + count);
      }
    });
  });

  it.each(Object.entries(PURPOSES))('has hit every command of %s', (_, purposes) => {
    expect(purposes.filter((purpose) => !failed.has(purpose))).toEqual([]);
  });
});
