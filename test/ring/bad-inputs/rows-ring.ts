/** V01 to V09, V85: what is said to be available. */

import { expect } from 'vitest';
import { VIRTIO_BLK_T_IN } from '../../../src/abi/virtio-blk.ts';
import {
  ATTACH_SIZE,
  RING_ERROR_AVAIL_INDEX,
  RING_ERROR_HEAD,
  RING_ERROR_IN_FLIGHT,
  RING_ERROR_RANGE,
} from '../../../src/abi/virtio-device.ts';
import { both, each, type Row } from './row.ts';
import { BODY, MEM, N, type Part, STATUS, UNTOUCHED, W, type World } from './world.ts';

const IN = VIRTIO_BLK_T_IN;
const OTHER_BODY = BODY + 0x3000;
const OTHER_STATUS = STATUS + 1;

/** A read of sector 1 beside the usual one, with a header of its own. */
function otherRead(world: World): [Part, Part, Part] {
  world.ram[OTHER_STATUS] = UNTOUCHED;
  return [
    world.header(IN, 1, OTHER_BODY - 16),
    { at: OTHER_BODY, length: 512, flags: W },
    { at: OTHER_STATUS, length: 1, flags: W },
  ];
}

/** A read of sector 3, offered. */
function offerRead(world: World, first = 0, id = world.id): void {
  world.offer(world.request(IN, 3, 512), first, id);
}

function refusedSize(world: World): void {
  expect(world.rig.attach(0, world.config())).toBe(ATTACH_SIZE);
  // A kick of a queue that is off means nothing.
  offerRead(world);
  world.run();
}

function served(world: World): void {
  offerRead(world);
  world.run({ used: [{ length: 513 }], writes: world.readWrites() });
}

function servedWithId(id: number): (world: World) => void {
  return (world) => {
    offerRead(world, 0, id);
    world.run({ used: [{ id, length: 513 }], writes: world.readWrites() });
  };
}

/** The requests of a full ring are at the host; `more` is done, and they come back. */
function whileFull(world: World, more: () => void, head: number): void {
  for (let i = 0; i < world.size; i++) {
    const header = world.header(IN, 8 * i, BODY - 0x800 + 16 * i);
    const status = { at: BODY + 1024 * i, length: 513, flags: W };
    if (world.packed) world.offer([world.table([header, status], 0x2_0000 + 32 * i)], 0, i);
    else world.offer([world.table([header, status], 0x2_0000 + 32 * i)], i);
  }
  world.keep();
  world.rig.notify(0);
  world.rig.pump();
  expect(world.rig.inFlight.length).toBe(world.size);
  more();
  world.keep();
  world.rig.notify(0);
  world.rig.pump();
  world.check({ error: RING_ERROR_AVAIL_INDEX, head });
  world.rig.settle();
  const heads = Array.from({ length: world.size }, (_, i) => i);
  world.check({
    used: heads.map((id) => ({ id, length: 513 })),
    writes: heads.map((i) => [BODY + 1024 * i, [...world.sectors(8 * i), 0]]),
  });
}

/** What is said to be available. */
export const RING_ROWS: readonly Row[] = [
  each(
    'V01',
    'more available than the ring has breaks the queue, and no stale entry is taken',
    {
      split(world) {
        offerRead(world);
        world.bump(world.size);
        world.run({ error: RING_ERROR_AVAIL_INDEX });
      },
      packed(world) {
        // A list of three fills a ring of four but for one slot; the next takes four from there on.
        const [header, data, status] = world.request(IN, 3, 512);
        world.offer([header, data, status]);
        world.putSlot(3, { ...header, flags: N }, 9);
        const back = { used: [{ length: 513 }], writes: world.readWrites() };
        world.run({ ...back, error: RING_ERROR_AVAIL_INDEX, head: 3 });
      },
    },
    { size: 4 },
  ),
  each('V02', 'an index that has moved back breaks the queue before anything is taken', {
    split(world) {
      world.request(IN, 3, 512);
      world.bump(-1);
      world.run({ error: RING_ERROR_AVAIL_INDEX });
    },
    packed: 'a packed ring has no index: its descriptors are available one by one',
  }),
  each('V03', 'a head that equals the queue size breaks the queue; a buffer id is any number', {
    split(world) {
      world.request(IN, 3, 512);
      world.avail(world.size);
      world.run({ error: RING_ERROR_HEAD, head: world.size });
    },
    packed: (world) => servedWithId(world.size)(world),
  }),
  each('V04', 'head 0xffff breaks the queue; buffer id 0xffff is one like any other', {
    split(world) {
      world.request(IN, 3, 512);
      world.avail(0xffff);
      world.run({ error: RING_ERROR_HEAD, head: 0xffff });
    },
    packed: servedWithId(0xffff),
  }),
  each('V05', 'a head or buffer id that is in flight breaks the queue; the first comes back once', {
    split(world) {
      offerRead(world);
      world.avail(0);
      const back = { used: [{ length: 513 }], writes: world.readWrites() };
      world.run({ ...back, error: RING_ERROR_IN_FLIGHT });
    },
    packed(world) {
      offerRead(world);
      world.offer(otherRead(world), 3);
      const back = { used: [{ length: 513 }], writes: world.readWrites() };
      world.run({ ...back, error: RING_ERROR_IN_FLIGHT, head: 3 });
    },
  }),
  each('V06', 'of good, bad, good the first is answered, and nothing after the bad one is taken', {
    split(world) {
      offerRead(world);
      world.avail(300);
      world.offer(otherRead(world), 3);
      const back = { used: [{ length: 513 }], writes: world.readWrites() };
      world.run({ ...back, error: RING_ERROR_HEAD, head: 300 });
    },
    packed(world) {
      offerRead(world);
      world.offer([{ at: MEM, length: 16, flags: 0 }], 3, 6);
      world.offer(otherRead(world), 4, 7);
      const back = { used: [{ length: 513 }], writes: world.readWrites() };
      world.run({ ...back, error: RING_ERROR_RANGE, head: 3, descriptor: 3 });
    },
  }),
  both('V07', 'a kick with nothing available does nothing, however often it comes', (world) => {
    for (let i = 0; i < 3; i++) world.run();
    served(world);
    for (let i = 0; i < 3; i++) world.run();
  }),
  both('V08', 'a queue of no entries is refused', refusedSize, { size: 0, attached: false }),
  each(
    'V09',
    'a split queue of 100 entries is refused, a packed one is served',
    {
      split: refusedSize,
      packed(world) {
        expect(world.rig.attach(0, world.config())).toBe(0);
        served(world);
      },
    },
    { size: 100, attached: false },
  ),
  each(
    'V85',
    'more in flight than the queue has entries breaks it; what is in flight comes back',
    {
      split(world) {
        whileFull(world, () => offerRead(world), world.size);
      },
      packed(world) {
        whileFull(world, () => world.putSlot(0, world.header(IN, 1), 77, false), 0);
      },
    },
    { size: 16 },
  ),
  both(
    'V85',
    'a driver that never looks at what comes back is served on',
    (world) => {
      for (let i = 0; i < 40; i++) {
        offerRead(world, 0, i);
        const id = world.packed ? i : 0;
        world.run({ used: [{ id, length: 513 }], writes: world.readWrites() });
      }
    },
    { size: 16 },
  ),
];
