import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  createDriverQueue,
  type Descriptor,
  type DriverQueue,
  GuestMemory,
  type RingFeatures,
  type UsedBuffer,
} from '../../../src/testing/guest/index.ts';
import { createPlainDevice, type PlainDevice, type SeenChain, usedAs } from './plain-device.ts';

/** Above 4 GiB, and the lower word overflows within. */
const GUEST_ADDRESS = 0x7f59_ffff_e000n;

interface Setup {
  readonly packed: boolean;
  readonly size: number;
  readonly position: number;
  readonly features: RingFeatures;
}

/** A driver and a device over one memory, and what each should see next. */
class Pair {
  readonly memory = new GuestMemory(new ArrayBuffer(1 << 18), [
    { guestAddress: GUEST_ADDRESS, sizeBytes: (1 << 18) - 4096, address: 4096 },
  ]);
  readonly queue: DriverQueue;
  readonly device: PlainDevice;
  readonly inOrder: boolean;
  /** Added, not yet seen by the device; of these the first `published` are published. */
  readonly added: { token: number; chain: readonly Descriptor[] }[] = [];
  published = 0;
  /** Taken by the device, not used. */
  readonly taken: SeenChain[] = [];
  /** Used, not yet seen by the driver. */
  readonly used: UsedBuffer[] = [];

  constructor({ packed, size, position, features }: Setup) {
    const wrap = packed ? (position % size) | (position & 0x8000) : position;
    this.queue = createDriverQueue(packed, {
      memory: this.memory,
      size,
      features,
      position: wrap,
    });
    this.inOrder = features.inOrder === true;
    this.device = createPlainDevice(this.memory, this.queue.config());
  }

  add(lengths: readonly number[], writableFrom: number, indirectFrom: number): void {
    const from = this.queue.packed && indirectFrom > 0 ? Infinity : indirectFrom;
    const chain = lengths.map((length, index) => {
      const address = BigInt(index) * 0x1_0000_0001n;
      return {
        address: index === 0 ? 4096 + length : address,
        length,
        writable: index >= writableFrom,
      };
    });
    const needed = Math.min(from, chain.length) + (from < chain.length ? 1 : 0);
    if (needed > this.queue.free) {
      expect(() => this.queue.add(chain, from)).toThrow(/free descriptors/);
      return;
    }
    this.added.push({ token: this.queue.add(chain, from), chain });
  }

  publish(): boolean {
    this.published = this.added.length;
    return this.queue.publish();
  }

  take(): boolean {
    const seen = this.device.take();
    if (this.published === 0) {
      expect(seen).toBeUndefined();
      return false;
    }
    this.published--;
    const { token, chain } = this.added.shift()!;
    expect(seen).toMatchObject({ id: token, descriptors: chain.map((d) => this.#seen(d)) });
    this.taken.push(seen!);
    return true;
  }

  use(which: number, batch: number, length: number): void {
    if (this.taken.length === 0) return;
    if (!this.inOrder) {
      const [chain] = this.taken.splice(which % this.taken.length, 1);
      this.device.use([chain!], length);
      this.used.push(usedAs(chain!, length));
      return;
    }
    const chains = this.taken.splice(0, 1 + (batch % this.taken.length));
    this.device.use(chains, length);
    const last = chains.pop()!;
    for (const chain of chains) {
      const all = chain.descriptors.filter((d) => d.writable).reduce((n, d) => n + d.length, 0);
      this.used.push(usedAs(chain, all));
    }
    this.used.push(usedAs(last, length));
  }

  /** What the device has used comes out, in its order; at most so many. */
  takeUsed(most = Infinity): void {
    for (let i = 0; i < most; i++) {
      const used = this.queue.takeUsed();
      expect(used).toEqual(this.used.shift());
      if (used === undefined) return;
    }
  }

  finish(): void {
    this.publish();
    while (this.take());
    while (this.taken.length > 0) this.use(0, 0, 1);
    this.takeUsed();
    expect(this.queue.inFlight).toBe(0);
    expect(this.queue.free).toBe(this.queue.size);
  }

  #seen({ address, length, writable }: Descriptor): object {
    const seen = typeof address === 'number' ? this.memory.addressOf(address) : address;
    return { address: seen, length, writable };
  }
}

const features = fc.record({ eventIdx: fc.boolean(), inOrder: fc.boolean() });
const position = fc.integer({ min: 0, max: 0xffff });
const setups: fc.Arbitrary<Setup> = fc.oneof(
  fc.record({
    packed: fc.constant(false),
    size: fc.constantFrom(1, 2, 4, 8, 16),
    position: fc.oneof(position, fc.constantFrom(0, 0xffff, 0xfffc)),
    features,
  }),
  fc.record({
    packed: fc.constant(true),
    size: fc.constantFrom(1, 2, 3, 5, 7, 8, 13),
    position: fc.oneof(position, fc.constant(0x8000)),
    features,
  }),
);

const lengths = fc.array(fc.integer({ min: 0, max: 0xffff }), { minLength: 1, maxLength: 4 });
const steps = fc.array(
  fc.record({
    action: fc.constantFrom('add', 'add', 'publish', 'take', 'use', 'takeUsed', 'takeOne'),
    lengths,
    writableFrom: fc.integer({ min: 0, max: 4 }),
    indirectFrom: fc.constantFrom(0, 1, 2, Infinity, Infinity),
    number: fc.nat(50),
  }),
  { maxLength: 150, size: 'max' },
);

type Step = typeof steps extends fc.Arbitrary<(infer S)[]> ? S : never;

function run(pair: Pair, step: Step): void {
  switch (step.action) {
    case 'add':
      return pair.add(step.lengths, step.writableFrom, step.indirectFrom);
    case 'publish':
      return void pair.publish();
    case 'take':
      return void pair.take();
    case 'use':
      return pair.use(step.number, step.number, step.number);
    case 'takeUsed':
      return pair.takeUsed();
    default:
      return pair.takeUsed(1);
  }
}

describe('both drivers', () => {
  it('show the device what was added, in its order, and return what it has used', () => {
    fc.assert(
      fc.property(setups, steps, (setup, steps) => {
        const pair = new Pair(setup);
        for (const step of steps) run(pair, step);
        pair.finish();
      }),
      { numRuns: 400 },
    );
  });

  it('ask for a kick exactly when a sleeping device needs one', () => {
    const rounds = fc.array(
      fc.record({ kicks: fc.boolean(), chains: fc.integer({ min: 1, max: 3 }) }),
      { maxLength: 30, size: 'max' },
    );
    fc.assert(
      fc.property(setups, rounds, (setup, rounds) => {
        const pair = new Pair({ ...setup, size: setup.packed ? setup.size + 2 : 4 });
        for (const { kicks, chains } of rounds) {
          pair.device.setKicks(kicks);
          expect(pair.publish()).toBe(false);
          for (let i = 0; i < chains; i++) pair.add([1], 0, Infinity);
          expect(pair.publish()).toBe(kicks);
          while (pair.take());
          while (pair.taken.length > 0) pair.use(0, 0, 1);
          pair.takeUsed();
        }
      }),
    );
  });

  it('ask for the next interrupt while they take what is used', () => {
    fc.assert(
      fc.property(setups, fc.nat(40), (setup, rounds) => {
        const pair = new Pair({ ...setup, size: setup.packed ? setup.size : 4 });
        for (let round = 0; round < rounds; round++) {
          pair.add([1], 0, Infinity);
          pair.publish();
          pair.take();
          pair.use(0, 0, 1);
          expect(pair.device.interrupt()).toBe(true);
          pair.takeUsed();
        }
      }),
    );
  });

  it('are interrupted exactly when they asked', () => {
    const rounds = fc.array(fc.record({ on: fc.boolean(), chains: fc.nat(3) }), {
      maxLength: 30,
      size: 'max',
    });
    fc.assert(
      fc.property(setups, rounds, (setup, rounds) => {
        const pair = new Pair({ ...setup, size: setup.packed ? setup.size + 2 : 4 });
        for (const { on, chains } of rounds) {
          expect(pair.queue.setInterrupts(on)).toBe(false);
          for (let i = 0; i < chains; i++) pair.add([1], 0, Infinity);
          pair.publish();
          while (pair.take());
          while (pair.taken.length > 0) pair.use(0, 0, 1);
          expect(pair.device.interrupt()).toBe(on && chains > 0);
          pair.takeUsed();
        }
      }),
    );
  });
});

describe.each([false, true])('VIRTIO_F_EVENT_IDX, packed: %s', (packed) => {
  const open = (position: number): Pair =>
    new Pair({ packed, size: 8, position, features: { eventIdx: true } });
  const events = fc.record({
    position: fc.constantFrom(0, 1, 5, 7, 0x8000, 0x8003, 0x8007, 0xfffd),
    before: fc.integer({ min: 0, max: 8 }),
    after: fc.integer({ min: 1, max: 8 }),
    batch: fc.integer({ min: 1, max: 8 }),
  });

  it('kicks when the batch reaches the entry that the device has named', () => {
    fc.assert(
      fc.property(events, ({ position, before, after, batch }) => {
        const pair = open(position);
        for (let i = 0; i < before; i++) {
          pair.add([1], 0, Infinity);
          pair.publish();
          pair.take();
          pair.use(0, 0, 1);
          pair.takeUsed();
        }
        pair.device.kickAfter(after);
        for (let i = 0; i < batch; i++) pair.add([1], 0, Infinity);
        expect(pair.publish()).toBe(batch >= after);
      }),
    );
  });

  it('interrupts when the device reaches the entry that the driver has named', () => {
    fc.assert(
      fc.property(events, ({ position, before, after, batch }) => {
        const pair = open(position);
        for (let i = 0; i < before; i++) {
          pair.add([1], 0, Infinity);
          pair.publish();
          pair.take();
          pair.use(0, 0, 1);
          pair.device.interrupt();
          pair.takeUsed();
        }
        pair.queue.interruptAfter(after);
        for (let i = 0; i < batch; i++) pair.add([1], 0, Infinity);
        pair.publish();
        while (pair.take());
        while (pair.taken.length > 0) pair.use(0, 0, 1);
        expect(pair.device.interrupt()).toBe(batch >= after);
      }),
    );
  });

  it('says that buffers are there already when interrupts come too late for them', () => {
    const pair = open(packed ? 0x8000 : 0);
    pair.queue.setInterrupts(false);
    pair.add([1], 0, Infinity);
    pair.publish();
    pair.take();
    pair.use(0, 0, 1);
    expect(pair.device.interrupt()).toBe(false);
    expect(pair.queue.setInterrupts(true)).toBe(true);
    expect(pair.queue.interruptAfter(2)).toBe(true);
    pair.takeUsed();
    expect(pair.queue.setInterrupts(true)).toBe(false);
  });
});

describe.each([false, true])('VIRTIO_F_IN_ORDER, packed: %s', (packed) => {
  it('one used entry returns a batch, with all bytes of what was skipped', () => {
    const pair = new Pair({
      packed,
      size: 4,
      position: packed ? 0x8003 : 0xffff,
      features: { inOrder: true },
    });
    pair.add([7, 5], 1, Infinity);
    pair.add([3], 0, Infinity);
    pair.add([9], 0, Infinity);
    const tokens = pair.added.map(({ token }) => token);
    pair.publish();
    while (pair.take());
    pair.use(0, 2, 8);
    expect(pair.queue.takeUsed()).toEqual({ token: tokens[0], length: 5, known: true });
    // The place of the used entry may be filled anew before the batch is taken.
    pair.add([1], 0, Infinity);
    pair.add([2], 0, Infinity);
    pair.publish();
    expect(pair.queue.setInterrupts(true)).toBe(true);
    expect(pair.queue.takeUsed()).toEqual({ token: tokens[1], length: 3, known: true });
    expect(pair.queue.takeUsed()).toEqual({ token: tokens[2], length: 8, known: true });
    pair.used.length = 0;
    pair.takeUsed();
    pair.finish();
  });
});

describe('a queue', () => {
  const memory = (): GuestMemory => new GuestMemory(new ArrayBuffer(1 << 20));

  it.each([
    [false, 0],
    [false, 100],
    [false, 65536],
    [true, 0],
    [true, 1.5],
    [true, 32769],
  ])('is not made in a size that its ring cannot have: packed %s, %s', (packed, size) => {
    expect(() => createDriverQueue(packed, { memory: memory(), size })).toThrow(
      /32768(,| entries,) not/,
    );
  });

  it('is made in the largest size', () => {
    expect(createDriverQueue(true, { memory: memory(), size: 32768 }).free).toBe(32768);
    expect(createDriverQueue(false, { memory: memory(), size: 32768 }).free).toBe(32768);
  });

  it('of the legacy layout is contiguous, its used ring on a page (2.7.2)', () => {
    const options = { memory: memory(), size: 8, legacyAlign: 4096 };
    options.memory.allocate(100);
    const { desc, driver, device } = createDriverQueue(false, options);
    expect([desc % 4096n, driver - desc, device - desc]).toEqual([0n, 128n, 4096n]);
  });

  it('does not take a chain of nothing', () => {
    for (const packed of [false, true]) {
      const queue = createDriverQueue(packed, { memory: memory(), size: 4 });
      expect(() => queue.add([])).toThrow(/at least/);
    }
  });

  it.each([
    [false, 0, [5, 0x0000_0005, 0x0001_0005]],
    [false, 0xffff, [5, 0xffff_0005, 0x0000_0005]],
    [true, 0x8000, [5, 0x8000_0005, 0x8001_0005]],
    [true, 0x8003, [5, 0x8003_0005, 0x0000_0005]],
    [true, 0x0003, [5, 0x0003_0005, 0x8000_0005]],
  ])(
    'packed %s at %s notifies with its index, or with its position (4.1.5.2)',
    (packed, position, values) => {
      const at = (notificationData: boolean): DriverQueue =>
        createDriverQueue(packed, {
          memory: memory(),
          size: 4,
          position,
          features: { notificationData },
        });
      expect(at(false).notification(5)).toBe(values[0]);
      const queue = at(true);
      expect(queue.notification(5)).toBe(values[1]);
      queue.add([{ address: 0n, length: 1, writable: true }]);
      expect(queue.notification(5)).toBe(values[2]);
    },
  );
});
