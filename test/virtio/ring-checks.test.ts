// Rings judged without being attached: as the engine judges them when they are.

import * as fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import type { QueueConfig } from '../../src/virtio/virtqueues.ts';
import { RAM_BYTES, RAM_START, setUp } from './rig.ts';

const SECOND = RAM_START + BigInt(RAM_BYTES);
const rig = setUp();
rig.queues.running = false;
rig.queues.addRegion({ guestAddress: SECOND, sizeBytes: 65_536, address: 0 });

afterAll(() => rig.disk.close());

/** A ring of 64 entries that is right. */
const GOOD: QueueConfig = {
  size: 64,
  desc: RAM_START,
  driver: RAM_START + 0x1000n,
  device: RAM_START + 0x2000n,
  packed: false,
  indirect: true,
  eventIdx: true,
  inOrder: false,
};

/** What the engine says; undefined: it attaches the ring. */
async function refusal(config: QueueConfig): Promise<string | undefined> {
  try {
    rig.queues.attach(0, config);
  } catch (error) {
    return (error as Error).message;
  }
  await rig.queues.reset(0);
  return undefined;
}

const near = (place: bigint) =>
  fc.bigInt({ min: -0x900n, max: 0x900n }).map((by) => BigInt.asUintN(64, place + by));
const address = fc.oneof(
  fc.bigInt({ min: 0n, max: 0x40n }).map((page) => RAM_START + page * 0x400n),
  near(RAM_START),
  near(SECOND),
  near(SECOND + 65_536n),
  near(0n),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
);
const size = fc.oneof(fc.constantFrom(0, 1, 2, 3, 4, 64, 100, 32_768, 32_769), fc.nat(70_000));
const index = fc.oneof(fc.nat(0xffff), fc.constantFrom(0, 63, 64, 0x8000, 0x803f, 0x8040));

/** Mostly the good value, so that every part decides now and then. */
function mostly<T>(good: T, other: fc.Arbitrary<T>): fc.Arbitrary<T> {
  return fc.oneof({ arbitrary: fc.constant(good), weight: 4 }, { arbitrary: other, weight: 1 });
}

describe('ringFault', () => {
  it('finds nothing in a ring that is right, and attaches nothing', () => {
    expect(rig.queues.ringFault(GOOD)).toBeUndefined();
    expect(rig.queues.state(0)).toBe('off');
  });

  it.each<[string, Partial<QueueConfig>]>([
    ['a power of two', { size: 3 }],
    ['must be multiples of', { desc: RAM_START + 8n }],
    ['a part does not lie in', { device: 0n }],
    ['a part does not lie in', { device: SECOND + 65_536n - 16n }],
    ['a part does not lie in', { desc: SECOND - 16n }],
    ['two parts overlap', { driver: RAM_START + 16n }],
    ['no ring of 64 entries can go on', { position: { nextAvail: 70, nextUsed: 5 } }],
    [
      'no ring of 64 entries can go on',
      { packed: true, position: { nextAvail: 64, nextUsed: 64 } },
    ],
    [
      'no ring of 64 entries can go on',
      { packed: true, position: { nextAvail: 1, nextUsed: 0x8001 } },
    ],
  ])('says why: %s', (text, change) => {
    expect(rig.queues.ringFault({ ...GOOD, ...change })).toContain(text);
  });

  it('says what the engine says', async () => {
    let refused = 0;
    const runs = 4000;
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          size: mostly(GOOD.size, size),
          desc: mostly(GOOD.desc, address),
          driver: mostly(GOOD.driver, address),
          device: mostly(GOOD.device, address),
          packed: fc.boolean(),
          position: fc.option(
            fc.oneof(
              index.map((at) => ({ nextAvail: at, nextUsed: at })),
              fc.record({ nextAvail: index, nextUsed: index }),
            ),
            { nil: undefined },
          ),
        }),
        async (change) => {
          const config = { ...GOOD, ...change };
          const fault = rig.queues.ringFault(config);
          const said = await refusal(config);
          if (fault !== undefined) refused += 1;
          expect(said).toBe(fault && `cannot attach queue 0: ${fault}`);
        },
      ),
      { numRuns: runs },
    );
    expect([refused > runs / 10, refused < (runs * 9) / 10]).toEqual([true, true]);
  });
});
