// What random streams over sound images do not reach: entries and refcounts that lie, and lists
// that are full.

import { beforeAll, describe, expect, it } from 'vitest';

import { OP_DISCARD, OP_WRITE, STATUS_IO_ERROR, STATUS_OK } from '../../../src/abi/request.ts';
import { checkBytes } from '../../../src/image/qcow2/check.ts';
import { parseHeader, type Qcow2Header } from '../../../src/image/qcow2/header.ts';
import { type BuiltImage, buildImage } from '../../../src/testing/qcow2/image-builder.ts';
import { Runner } from './runner.ts';

const CLUSTER = 512;
const COPIED = 1n << 63n;
const OFFSET = 0xff_ffff_ffff_fe00n;

/** Clusters 0 and 1 are data, 2 and 3 are not there. */
let built: BuiltImage;
let header: Qcow2Header;

beforeAll(async () => {
  built = await buildImage({ name: 'damaged', clusters: 'dd..', freeClusters: 2 });
  header = parseHeader(built.image, 'image');
});

/** The image, damaged. */
function damaged(damage: (view: DataView) => void): BuiltImage {
  const image = built.image.slice();
  damage(new DataView(image.buffer));
  return { ...built, image };
}

function offsetAt(at: number): number {
  return Number(new DataView(built.image.buffer).getBigUint64(at) & OFFSET);
}

/** Where the refcount of the cluster at an offset stands. */
function refcountAt(offset: number): number {
  return offsetAt(header.refcountTableOffset) + (offset / CLUSTER) * 2;
}

/** Sets the L2 entry of cluster 0. */
function pointTo(view: DataView, offset: number): void {
  view.setBigUint64(offsetAt(header.l1Offset), BigInt(offset) | COPIED);
}

/** The image is as it was, but for the mark in its header. */
function expectMarked(runner: Runner, before: BuiltImage): void {
  const image = runner.image.slice(0, before.image.length);
  expect(parseHeader(image, 'image').corrupt).toBe(true);
  expect(image.subarray(CLUSTER)).toEqual(before.image.subarray(CLUSTER));
}

describe('a write that an entry leads to a table', () => {
  it.each([
    ['the L1 table', () => header.l1Offset],
    ['the refcount table', () => header.refcountTableOffset],
    ['a refcount block', () => offsetAt(header.refcountTableOffset)],
    ['an L2 table', () => offsetAt(header.l1Offset)],
  ])('O1, O2: to %s fails, changes nothing, and marks the image', (_, offset) => {
    const before = damaged((view) => pointTo(view, offset()));
    const runner = new Runner(before, CLUSTER);
    expect(runner.run(OP_WRITE, [[0, 1]])).toEqual([STATUS_IO_ERROR]);
    expectMarked(runner, before);
    // O2: nothing is written any more.
    expect(runner.run(OP_WRITE, [[1, 2]])).toEqual([STATUS_IO_ERROR]);
    expectMarked(runner, before);
  });
});

it('O1: a table whose refcount is 0 is not handed out', () => {
  const before = damaged((view) => view.setUint16(refcountAt(offsetAt(header.l1Offset)), 0));
  const runner = new Runner(before, CLUSTER);
  expect(runner.run(OP_WRITE, [[2, 3]])).toEqual([STATUS_IO_ERROR]);
  expectMarked(runner, before);
});

it('O3: a cluster that somebody else refers to is not written by an entry that claims it', () => {
  const data = offsetAt(offsetAt(header.l1Offset));
  const before = damaged((view) => view.setUint16(refcountAt(data), 2));
  const runner = new Runner(before, CLUSTER);
  expect(runner.run(OP_WRITE, [[0, 1]])).toEqual([STATUS_IO_ERROR]);
  expectMarked(runner, before);
});

it('D2: more is dropped at once than the list of frees holds, and nothing is leaked', async () => {
  const clusters = 9000;
  const shape = { name: 'many', clusters: '.'.repeat(clusters), freeClusters: clusters + 1000 };
  const first = await buildImage(shape);
  const step = 100;
  const runner = new Runner(first, step * CLUSTER, { l2Slices: 200, reserveClusters: 256 });
  for (let from = 0; from < clusters; from += step) {
    expect(runner.run(OP_WRITE, [[from, from + step]])).toEqual([STATUS_OK]);
  }
  for (let from = 0; from < clusters; from += 2 * step) {
    const odd = Array.from({ length: step }, (_, index) => from + 2 * index);
    const statuses = runner.run(
      OP_DISCARD,
      odd.map((sector) => [sector, sector + 1] as const),
    );
    expect(new Set(statuses)).toEqual(new Set([STATUS_OK]));
  }
  expect(runner.subject.close()).toBe(true);
  runner.settle();
  expect(runner.subject.isSettled).toBe(true);
  const { leaks, corruptions, allocatedClusters } = checkBytes(
    runner.image,
    parseHeader(runner.image, 'image'),
  );
  expect({ leaks, corruptions, allocatedClusters }).toEqual({
    leaks: 0,
    corruptions: 0,
    allocatedClusters: clusters / 2,
  });
});
