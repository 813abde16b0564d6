/** V38 to V49: indirect tables. */

import {
  RING_ERROR_BYTES,
  RING_ERROR_DESCRIPTORS,
  RING_ERROR_INDIRECT_FEATURE,
  RING_ERROR_INDIRECT_LENGTH,
  RING_ERROR_INDIRECT_NESTED,
  RING_ERROR_INDIRECT_NEXT,
  RING_ERROR_LOOP,
  RING_ERROR_NEXT,
  RING_ERROR_RANGE,
} from '../../../src/abi/virtio-device.ts';
import { VIRTIO_BLK_T_IN } from '../../../src/abi/virtio-blk.ts';
import { both, each, type Play, type Row } from './row.ts';
import { BODY, I, MEM, N, type Part, STATUS, TABLE, W, type World } from './world.ts';

const IN = VIRTIO_BLK_T_IN;
const OK = 0;
const IOERR = 1;
const MIB = 1024 * 1024;

/** An indirect read of sector 3: what names its table. */
function indirect(world: World): Part {
  return world.table(world.request(IN, 3, 512));
}

/** The read of sector 3 is served. */
function served(world: World): void {
  world.run({ used: [{ length: 513 }], writes: world.readWrites() });
}

/** The table is named wrongly. */
function named(change: Partial<Part>, error: number): Play {
  return (world) => {
    world.offer([{ ...indirect(world), ...change }]);
    world.run({ error });
  };
}

/** An entry of the table has other flags and another next. */
function entry(world: World, index: number, change: Partial<Part>, next: number): void {
  const parts = world.request(IN, 3, 512);
  world.offer([world.table(parts)]);
  world.put(index, { ...parts[index]!, ...change }, next, TABLE);
}

/** A read into one buffer again and again, in a table of so many entries. */
function repeated(entries: number, data: Part, error: number, descriptor: number): Play {
  return (world) => {
    const [header, , status] = world.request(IN, 0, 512);
    const body = Array.from({ length: entries - 2 }, () => data);
    world.offer([world.table([header, ...body, status])]);
    world.run({ error, descriptor });
  };
}

/** Indirect tables. */
export const INDIRECT_ROWS: readonly Row[] = [
  both('V38', 'an indirect chain is served', (world) => {
    world.offer([indirect(world)]);
    served(world);
  }),
  both(
    'V38',
    'an indirect chain breaks a queue that has not negotiated it',
    (world) => {
      world.offer([indirect(world)]);
      world.run({ error: RING_ERROR_INDIRECT_FEATURE });
    },
    { indirect: false },
  ),
  both(
    'V39',
    'a table of no bytes breaks the queue',
    named({ length: 0 }, RING_ERROR_INDIRECT_LENGTH),
  ),
  both(
    'V40',
    'a table of 47 bytes breaks the queue',
    named({ length: 47 }, RING_ERROR_INDIRECT_LENGTH),
  ),
  both(
    'V41',
    'a table that is not all in the guest memory breaks the queue',
    named({ at: MEM - 16 }, RING_ERROR_RANGE),
  ),
  each('V42', 'a table in a table breaks a split queue; a packed table has no such flag', {
    split(world) {
      entry(world, 0, { at: TABLE + 0x100, length: 48, flags: I | N }, 1);
      world.run({ error: RING_ERROR_INDIRECT_NESTED });
    },
    packed(world) {
      // 2.8.7: WRITE alone counts, so this is a header of 48 bytes: a read that has data already.
      entry(world, 0, { at: TABLE + 0x100, length: 48, flags: I }, 0);
      world.run({ used: [{ length: 1 }], writes: [[STATUS, [IOERR]]] });
    },
  }),
  each('V43', 'INDIRECT together with NEXT breaks the queue', {
    split: named({ flags: I | N }, RING_ERROR_INDIRECT_NEXT),
    packed: named({ flags: I | N }, RING_ERROR_INDIRECT_NEXT),
  }),
  both('V44', 'INDIRECT together with WRITE is served: WRITE means nothing there', (world) => {
    world.offer([{ ...indirect(world), flags: I | W }]);
    served(world);
  }),
  each('V45', 'a next that loops in a table breaks a split queue; a packed table has none', {
    split(world) {
      entry(world, 1, { flags: W | N }, 1);
      world.run({ error: RING_ERROR_LOOP, descriptor: 1 });
    },
    packed(world) {
      entry(world, 1, { flags: W | N }, 1);
      served(world);
    },
  }),
  each('V46', 'a next past a table breaks a split queue; a packed table has none', {
    split(world) {
      entry(world, 1, { flags: W | N }, 99);
      world.run({ error: RING_ERROR_NEXT, descriptor: 99 });
    },
    packed(world) {
      entry(world, 2, { flags: W | N }, 99);
      served(world);
    },
  }),
  each('V47', 'a direct header and an indirect rest are served (2.7.5.3.2), on a split ring', {
    split(world) {
      const [header, ...rest] = world.request(IN, 3, 512);
      world.offer([header, world.table(rest)]);
      served(world);
    },
    packed(world) {
      // 2.8.7: a packed list is direct or indirect.
      const [header, ...rest] = world.request(IN, 3, 512);
      world.offer([header, world.table(rest)]);
      world.run({ error: RING_ERROR_INDIRECT_NEXT, descriptor: 1 });
    },
  }),
  both(
    'V48',
    'a table of 2048 entries breaks the queue at the first past 1024',
    repeated(2048, { at: BODY, length: 512, flags: W }, RING_ERROR_DESCRIPTORS, 1024),
  ),
  both('V48', 'a table of 1024 entries, more than the queue has, is served', (world) => {
    const [header, , status] = world.request(IN, 0, 512);
    const at = (i: number): number => 0x8_0000 + 512 * (i % 1000);
    const body = Array.from({ length: 1022 }, (_, i) => ({ at: at(i), length: 512, flags: W }));
    world.offer([world.table([header, ...body, status])]);
    const written = body.map(({ at }, i) => [at, world.sectors(i)] as const);
    const writes = [...written, [STATUS, [OK]]] as const;
    world.run({ used: [{ length: 1022 * 512 + 1 }], writes });
  }),
  both(
    'V49',
    'more than 4 GiB from repeated buffers breaks the queue at the first past 1024',
    repeated(6000, { at: 0x8_0000, length: 0x8_0000, flags: W }, RING_ERROR_DESCRIPTORS, 1024),
  ),
  both(
    'V49',
    'more than 4 GiB from few buffers breaks the queue',
    repeated(1024, { at: 0, length: 8 * MIB, flags: W }, RING_ERROR_BYTES, 0),
    { ramBytes: 8 * MIB },
  ),
];
