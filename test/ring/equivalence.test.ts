// The same requests in every layout (layouts.ts) have the same statuses, used lengths and data, and
// leave the same disk.
//
// SLUICE_FUZZ_SECONDS=60 runs about that long in each random test; SLUICE_FUZZ_SEED=n starts with
// that seed. fast-check prints the shrunk stream and layout of a failure.

import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as blk from '../../src/abi/virtio-blk.ts';
import { Random } from '../engine/random.ts';
import { BUILDS, type Build } from '../support/engine.ts';
import {
  FRAMINGS,
  type Layout,
  type LogicalRequest,
  PLAINEST,
  runStream,
  type StreamOutcome,
} from './layouts.ts';

const SECONDS = Number(process.env['SLUICE_FUZZ_SECONDS'] ?? 0);
const FIRST_SEED = Number(process.env['SLUICE_FUZZ_SEED'] ?? (SECONDS > 0 ? Date.now() : 1));
const RUNS = 150;
const RUNS_PER_SECOND = 100;
const SECTORS = 128;

const RINGS: readonly Pick<Layout, 'packed' | 'size'>[] = [
  { packed: false, size: 2 },
  { packed: false, size: 64 },
  { packed: true, size: 2 },
  { packed: true, size: 33 },
  { packed: true, size: 64 },
];
const FORMS = ['direct', 'indirect', 'mixed'] as const;
const FRAMING_NAMES = Object.keys(FRAMINGS) as (keyof typeof FRAMINGS)[];
const REGIONS = ['one', 'many'] as const;
const BATCHES = [1, 3, 16];

/** Compares what a layout does with what the plainest does. */
function expectSame(stream: readonly LogicalRequest[], layout: Layout, outcome: StreamOutcome) {
  return (expected: StreamOutcome): void => {
    for (const [index, request] of stream.entries()) {
      const { status, usedLength, data, damage } = outcome.requests[index]!;
      const wanted = expected.requests[index]!;
      expect(damage).toBe(0);
      // A status area of several bytes and ragged data look the same: either answer is right.
      if (isRagged(request)) {
        expect([0, 1]).toContain(status);
        continue;
      }
      expect([index, status, data]).toEqual([index, wanted.status, wanted.data]);
      if (!layout.inOrder) expect([index, usedLength]).toEqual([index, wanted.usedLength]);
    }
    expect(Buffer.compare(outcome.disk, expected.disk), 'the disks').toBe(0);
  };
}

function isRagged({ type, bytes }: LogicalRequest): boolean {
  return type === blk.VIRTIO_BLK_T_IN && bytes % 512 !== 0;
}

function compare(build: Build, stream: readonly LogicalRequest[], layout: Layout): void {
  const outcome = runStream(build, stream, layout);
  expectSame(stream, layout, outcome)(runStream(build, stream, PLAINEST));
}

const LENGTHS = [0, 512, 512, 1024, 1536, 4096, 100, 511, 8192];
const TYPES = [
  blk.VIRTIO_BLK_T_FLUSH,
  blk.VIRTIO_BLK_T_FLUSH_OUT,
  blk.VIRTIO_BLK_T_GET_LIFETIME,
  blk.VIRTIO_BLK_T_SCSI_CMD,
  blk.VIRTIO_BLK_T_SECURE_ERASE,
  77,
];

const anySector = fc.oneof(
  { weight: 9, arbitrary: fc.nat(SECTORS) },
  fc.constantFrom(SECTORS - 1, SECTORS + 1, 2 ** 32, Number.MAX_SAFE_INTEGER),
);

const anyRange = fc.record({
  sector: anySector,
  sectors: fc.oneof({ weight: 9, arbitrary: fc.nat(8) }, fc.constant(0xffff_ffff)),
  flags: fc.constantFrom(0, 0, 0, 1, 2),
});

const anyRequest: fc.Arbitrary<LogicalRequest> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      type: fc.constantFrom(blk.VIRTIO_BLK_T_IN, blk.VIRTIO_BLK_T_OUT),
      sector: anySector,
      bytes: fc.constantFrom(...LENGTHS),
      first: fc.nat(255),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      type: fc.constantFrom(blk.VIRTIO_BLK_T_DISCARD, blk.VIRTIO_BLK_T_WRITE_ZEROES),
      sector: fc.constant(0),
      bytes: fc.constant(0),
      first: fc.constant(0),
      ranges: fc.array(anyRange, { maxLength: 4 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      type: fc.constant(blk.VIRTIO_BLK_T_GET_ID),
      sector: fc.nat(9),
      bytes: fc.constantFrom(20, 20, 1, 7, 64),
      first: fc.constant(0),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constantFrom(...TYPES),
      sector: fc.constantFrom(0, 5),
      bytes: fc.constant(0),
      first: fc.constant(0),
    }),
  },
);

const anyLayout: fc.Arbitrary<Layout> = fc
  .record({
    packed: fc.boolean(),
    bits: fc.integer({ min: 1, max: 6 }),
    odd: fc.integer({ min: 2, max: 70 }),
    form: fc.constantFrom(...FORMS),
    framing: fc.constantFrom(...FRAMING_NAMES),
    eventIdx: fc.boolean(),
    inOrder: fc.boolean(),
    regions: fc.constantFrom(...REGIONS),
    batch: fc.integer({ min: 1, max: 20 }),
  })
  .map(({ bits, odd, ...layout }) => {
    const { packed } = layout;
    const form = packed && layout.form === 'mixed' ? 'indirect' : layout.form;
    return Object.assign(layout, { form, size: packed ? odd : 2 ** bits });
  });

/** Every kind of request, right and wrong, in a few places. */
function someStream(seed: number): LogicalRequest[] {
  return fc.sample(anyRequest, { seed, numRuns: 24 });
}

/** Each ring with each form, framing, set of features and kind of regions. */
function layoutsOf({ packed, size }: Pick<Layout, 'packed' | 'size'>): Layout[] {
  const layouts: Layout[] = [];
  for (const form of FORMS) {
    if (packed && form === 'mixed') continue;
    for (const framing of FRAMING_NAMES) {
      for (let bits = 0; bits < 8; bits++) {
        const eventIdx = (bits & 1) !== 0;
        const inOrder = (bits & 2) !== 0;
        const regions = REGIONS[bits >>> 2]!;
        const batch = BATCHES[layouts.length % BATCHES.length]!;
        layouts.push({ packed, size, form, framing, eventIdx, inOrder, regions, batch });
      }
    }
  }
  return layouts;
}

describe.each(BUILDS)('VIRTIO 2.7.4: a layout changes nothing ($name build)', (build) => {
  it.each(RINGS)('every layout of one stream: packed $packed, size $size', (ring) => {
    const seed = FIRST_SEED + new Random(ring.size).below(100);
    const stream = someStream(seed);
    const expected = runStream(build, stream, PLAINEST);
    for (const layout of layoutsOf(ring)) {
      try {
        expectSame(stream, layout, runStream(build, stream, layout))(expected);
      } catch (error) {
        const what = JSON.stringify({ layout, stream });
        throw new Error(`seed ${seed}: ${String(error)}\n${what}`, { cause: error });
      }
    }
  });

  it('any stream in any layout (fast-check)', () => {
    fc.assert(
      fc.property(fc.array(anyRequest, { maxLength: 24 }), anyLayout, (stream, layout) => {
        compare(build, stream, layout);
      }),
      { seed: FIRST_SEED, numRuns: RUNS + RUNS_PER_SECOND * SECONDS },
    );
  }, 600_000);
});
