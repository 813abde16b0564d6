/** V10 to V33: chains, their buffers, and where these lie. */

import {
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from '../../../src/abi/virtio-blk.ts';
import {
  RING_ERROR_LOOP,
  RING_ERROR_NEXT,
  RING_ERROR_ORDER,
  RING_ERROR_RANGE,
} from '../../../src/abi/virtio-device.ts';
import { expect } from 'vitest';
import { both, each, type Play, type Row } from './row.ts';
import { BODY, HEADER, MEM, N, type Part, STATUS, W, type World } from './world.ts';

const IN = VIRTIO_BLK_T_IN;
const OUT = VIRTIO_BLK_T_OUT;
const OK = 0;
const IOERR = 1;

/** The read of sector 3 with changes; its chain. */
function read(world: World, header: Partial<Part> = {}, data: Partial<Part> = {}): Part[] {
  const [first, second, status] = world.request(IN, 3, 512);
  return [{ ...first, ...header }, { ...second, ...data }, status];
}

/** The read of sector 3, with the `next` of a descriptor wrong. */
function nextOf(descriptor: number, next: number, error: number, at = next): Play {
  return (world) => {
    const parts = read(world);
    world.offer(parts);
    world.put(descriptor, { ...parts[descriptor]!, flags: W | N }, next);
    world.run({ error, descriptor: at });
  };
}

/** Every descriptor of the ring has NEXT: the list never ends. */
function endless(writable: boolean): Play {
  return (world) => {
    const header = world.header(IN);
    const data = { at: BODY, length: 16, flags: writable ? W : 0 };
    const parts = Array.from({ length: world.size }, (_, i) => (i === 0 ? header : data));
    world.offer(parts);
    const last = parts.length - 1;
    if (world.packed) world.putSlot(last, { ...parts[last]!, flags: data.flags | N });
    else world.put(last, { ...parts[last]!, flags: data.flags | N }, 0);
    world.run({ error: RING_ERROR_LOOP });
  };
}

/** The last descriptor has NEXT; what follows was never made available. */
const intoNothing: Play = (world) => {
  const [header, data, status] = world.request(IN, 3, 512);
  world.offer([header, data, status]);
  world.putSlot(2, { ...status, flags: W | N });
  world.run({ error: RING_ERROR_ORDER, descriptor: 3 });
};

/** A read whose data lies where it must not. */
function badData(at: (world: World) => number | bigint, length: number, error: number): Play {
  return (world) => {
    world.offer(read(world, {}, { at: at(world), length }));
    world.run({ error, descriptor: 1 });
  };
}

/** A chain that comes back with a status, and with no more than that. */
function failed(parts: (world: World) => readonly Part[], descriptors = 3): Play {
  return (world) => {
    world.offer(parts(world).slice(0, descriptors));
    world.run({ used: [{ length: 1 }], writes: [[STATUS, [IOERR]]] });
  };
}

/** A chain that comes back with nothing written. */
function returned(parts: (world: World) => readonly Part[]): Play {
  return (world) => {
    world.offer(parts(world));
    world.run({ used: [{ length: 0 }] });
  };
}

const LINK_ROWS: readonly Row[] = [
  each('V10', 'a descriptor whose next is itself breaks the queue', {
    split: nextOf(1, 1, RING_ERROR_LOOP),
    packed: endless(true),
  }),
  each('V11', 'a cycle of two descriptors breaks the queue', {
    split: nextOf(2, 1, RING_ERROR_LOOP, 2),
    packed: 'a packed list has no links: V10 and V12 have the only cycle, through all of the ring',
  }),
  both('V12', 'a cycle through all descriptors breaks the queue', endless(false)),
  both('V12', 'a cycle of a ring of two breaks the queue', endless(true), { size: 2 }),
  each('V13', 'a next that equals the queue size breaks the queue', {
    split: (world) => nextOf(1, world.size, RING_ERROR_NEXT)(world),
    packed: intoNothing,
  }),
  each('V14', 'next 0xffff breaks the queue', {
    split: nextOf(1, 0xffff, RING_ERROR_NEXT),
    packed: 'a packed descriptor has no next; V13 has a list that goes on where nothing is',
  }),
  each('V15', 'without NEXT what follows means nothing', {
    split(world) {
      const parts = read(world);
      world.offer(parts);
      world.put(2, parts[2]!, 0xbeef);
      world.run({ used: [{ length: 513 }], writes: world.readWrites() });
    },
    packed(world) {
      world.offer(read(world));
      world.put(3, { at: 0xbeef_beef_beefn, length: 0xbeef, flags: 0x4447 }, 0xbeef);
      world.run({ used: [{ length: 513 }], writes: world.readWrites() });
    },
  }),
  both('V16', 'a data descriptor of no length is empty: a read of nothing goes well', (world) => {
    world.offer(world.request(IN, 3, 0));
    world.run({ used: [{ length: 1 }], writes: [[STATUS, [OK]]] });
  }),
  both(
    'V17',
    'a header of no length is none: IOERR',
    failed((world) => read(world, { length: 0 })),
  ),
  both('V17', 'buffers of no length anywhere in a chain are left out', (world) => {
    const nothing = { at: 0xffff_ffff_ffff_ffffn, length: 0, flags: 0 };
    const [header, data, status] = read(world) as [Part, Part, Part];
    const none = { ...nothing, flags: W };
    world.offer([nothing, header, nothing, none, data, none, status, none]);
    world.run({ used: [{ length: 513 }], writes: world.readWrites() });
  }),
];

const PLACE_ROWS: readonly Row[] = [
  both(
    'V18',
    'address and length that wrap 2^64 break the queue',
    badData(() => 2n ** 64n - 0x10n, 0x20, RING_ERROR_RANGE),
  ),
  both(
    'V18',
    'a buffer that wraps 2^64 out of memory and into memory breaks the queue',
    (world) => {
      // More names for some of the RAM, at both ends of the addresses.
      const name = (address: bigint, at: number): number =>
        world.rig.map(address, 0x1000, world.place(at));
      if (world.base !== 0n) expect(name(0n, 0x9_0000)).toBe(0);
      if (world.base + BigInt(MEM) !== 2n ** 64n)
        expect(name(2n ** 64n - 0x1000n, 0xa_0000)).toBe(0);
      badData(() => 2n ** 64n - 0x10n, 0x20, RING_ERROR_RANGE)(world);
    },
  ),
  both(
    'V19',
    'an address just past the guest memory breaks the queue',
    badData(() => MEM, 512, RING_ERROR_RANGE),
  ),
  both(
    'V20',
    'a buffer that ends one byte past the guest memory breaks the queue',
    badData(() => MEM - 511, 512, RING_ERROR_RANGE),
  ),
  both(
    'V20',
    'an address whose low 32 bits only are in the guest memory breaks the queue',
    (world) => {
      badData(() => world.base ^ (1n << 62n), 512, RING_ERROR_RANGE)(world);
    },
  ),
  both('V21', 'a buffer that ends where the guest memory does is served', (world) => {
    world.offer(read(world, {}, { at: MEM - 512 }));
    world.run({ used: [{ length: 513 }], writes: world.readWrites(MEM - 512) });
  }),
  both(
    'V22',
    'a length of 0xffffffff breaks the queue',
    badData(() => BODY, 0xffff_ffff, RING_ERROR_RANGE),
  ),
  both(
    'V22',
    'a length of 0x80000000 breaks the queue',
    badData(() => BODY, 0x8000_0000, RING_ERROR_RANGE),
  ),
];

const SHAPE_ROWS: readonly Row[] = [
  both('V23', 'a readable descriptor after a writable one breaks the queue', (world) => {
    const header = world.header(OUT, 3);
    world.offer([header, { at: STATUS, length: 1, flags: W }, { at: BODY, length: 512, flags: 0 }]);
    world.run({ error: RING_ERROR_ORDER, descriptor: 2 });
  }),
  both(
    'V24',
    'a writable header is none: IOERR',
    failed((world) => read(world, { flags: W })),
  ),
  both(
    'V25',
    'a chain without a writable byte comes back with nothing written',
    returned((world) => {
      const [header, data] = world.request(OUT, 3, 512);
      return [header, data, { at: STATUS, length: 1, flags: 0 }];
    }),
  ),
  both(
    'V26',
    'a header alone comes back with nothing written',
    returned((world) => [world.header(VIRTIO_BLK_T_FLUSH)]),
  ),
  both(
    'V27',
    'one writable byte alone is a status: IOERR',
    failed(() => [{ at: STATUS, length: 1, flags: W }]),
  ),
  both(
    'V28',
    'a header of 15 bytes is none: IOERR',
    failed((world) => [
      { ...world.header(VIRTIO_BLK_T_FLUSH), length: 15 },
      { at: STATUS, length: 1, flags: W },
    ]),
  ),
  both('V29', 'a header in three descriptors is served', (world) => {
    const [header, ...rest] = read(world) as [Part, Part, Part];
    const at = (offset: number, length: number): Part => ({
      ...header,
      at: HEADER + offset,
      length,
    });
    world.offer([at(0, 4), at(4, 4), at(8, 8), ...rest]);
    world.run({ used: [{ length: 513 }], writes: world.readWrites() });
  }),
  both('V30', 'header and data of a write in one descriptor are served', (world) => {
    const header = world.header(OUT, 2);
    world.ram.fill(0x77, HEADER + 16, HEADER + 16 + 512);
    world.offer([
      { ...header, length: 16 + 512 },
      { at: STATUS, length: 1, flags: W },
    ]);
    const disk = [[2 * 512, new Uint8Array(512).fill(0x77)]] as const;
    world.run({ used: [{ length: 1 }], writes: [[STATUS, [OK]]], disk });
  }),
  both('V31', 'data and status of a read in one descriptor are served', (world) => {
    world.offer([world.header(IN, 3), { at: STATUS - 512, length: 513, flags: W }]);
    world.run({ used: [{ length: 513 }], writes: world.readWrites(STATUS - 512) });
  }),
  both(
    'V32',
    'of a status of five bytes the last one counts, and the others are zeroes',
    (world) => {
      const [header, data, status] = read(world) as [Part, Part, Part];
      world.ram.fill(0xff, STATUS, STATUS + 5);
      world.offer([header, data, { ...status, length: 5 }]);
      const writes = [...world.readWrites(), [STATUS, [0, 0, 0, 0, OK]]] as const;
      world.run({ used: [{ length: 517 }], writes });
    },
  ),
  both('V33', 'reserved flags mean nothing', (world) => {
    world.offer(read(world, { flags: 0xfff8 }, { flags: W | 0xfff8 }));
    world.run({ used: [{ length: 513 }], writes: world.readWrites() });
  }),
];

/** V10 to V33. */
export const CHAIN_ROWS: readonly Row[] = [...LINK_ROWS, ...PLACE_ROWS, ...SHAPE_ROWS];
