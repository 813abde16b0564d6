/** V34 to V37: what the device writes lies where it reads. */

import { RING_ERROR_AVAIL_INDEX } from '../../../src/abi/virtio-device.ts';
import { RING_EVENT_FLAGS_DISABLE, VIRTQ_DESC_F_AVAIL } from '../../../src/abi/virtio-ring.ts';
import { VIRTIO_BLK_T_IN } from '../../../src/abi/virtio-blk.ts';
import { both, each, type Row } from './row.ts';
import {
  BODY,
  DESC,
  DEVICE,
  DRIVER,
  HEADER,
  type Part,
  STATUS,
  TABLE,
  UNTOUCHED,
  W,
  type World,
} from './world.ts';

const IN = VIRTIO_BLK_T_IN;
const OK = 0;

/** The read of sector 3, its data at `at`; its chain. */
function read(world: World, at: number): [Part, Part, Part] {
  const [header, data, status] = world.request(IN, 3, 512);
  return [header, { ...data, at }, status];
}

/** Makes sector 3 these bytes. */
function fillSector(world: World, fill: (view: DataView) => void): Uint8Array {
  const sector = new Uint8Array(512).fill(0x05);
  fill(new DataView(sector.buffer));
  world.rig.disk.set(sector, 3 * 512);
  world.disk.set(sector, 3 * 512);
  return sector;
}

/** A read of sector 7 into the page after TABLE, which an indirect table describes. */
function secondRead(world: World): Part {
  const header = world.header(IN, 7, TABLE + 0x800);
  const data = { at: TABLE + 0x1000, length: 512, flags: W };
  return world.table([header, data, { at: STATUS, length: 1, flags: W }]);
}

/** The second read is served as it is now. */
function servedAgain(world: World, id = world.id): void {
  world.ram[STATUS] = UNTOUCHED;
  const data = [TABLE + 0x1000, world.sectors(7)] as const;
  world.run({ used: [{ id, length: 513 }], writes: [data, [STATUS, [OK]]] });
}

/** What lands where it is read. */
export const LANDING_ROWS: readonly Row[] = [
  both(
    'V34',
    'data that lands on the descriptors comes back once; the next kick sees them',
    (world) => {
      // The sector is a table of descriptors, of which one is the second read.
      const next = world.packed ? 3 : 0;
      const table = secondRead(world);
      fillSector(world, (view) => {
        view.setBigUint64(next * 16, world.address(TABLE), true);
        view.setUint32(next * 16 + 8, table.length, true);
        view.setUint16(next * 16 + 12, world.packed ? world.id : table.flags, true);
        view.setUint16(next * 16 + 14, world.packed ? table.flags | VIRTQ_DESC_F_AVAIL : 0, true);
      });
      world.offer(read(world, DESC));
      world.run({ used: [{ length: 513 }], writes: world.readWrites(DESC) });
      if (world.packed) world.skip(1);
      else world.avail(0);
      servedAgain(world);
    },
  ),
  each('V35', "data that lands on the driver area comes back once; the position is the device's", {
    split(world) {
      // The sector says that there are two entries, of which the first was never offered.
      world.put(9, secondRead(world), 0);
      fillSector(world, (view) => {
        view.setUint16(0, 1, true);
        view.setUint16(2, 2, true);
        view.setUint16(4, 0xffff, true);
        view.setUint16(6, 9, true);
      });
      world.offer(read(world, DRIVER));
      world.run({ used: [{ length: 513 }], writes: world.readWrites(DRIVER), interrupt: false });
      world.view.setUint16(DRIVER, 0, true);
      servedAgain(world, 9);
    },
    packed(world) {
      fillSector(world, (view) => view.setUint16(2, RING_EVENT_FLAGS_DISABLE, true));
      world.offer(read(world, DRIVER));
      world.run({ used: [{ length: 513 }], writes: world.readWrites(DRIVER), interrupt: false });
      world.view.setUint16(DRIVER + 2, 0, true);
      world.offer([secondRead(world)]);
      servedAgain(world);
    },
  }),
  each('V35', 'an index that lands on the available ring breaks the queue when it is looked at', {
    split(world) {
      world.offer(read(world, DRIVER));
      // Sector 3 says 0x0303 entries, and no interrupts.
      world.run({ used: [{ length: 513 }], writes: world.readWrites(DRIVER), interrupt: false });
      world.run({ error: RING_ERROR_AVAIL_INDEX, head: 1 });
    },
    packed: 'a packed ring has no index',
  }),
  both(
    'V36',
    "data that lands on the device area comes back once; the index is the device's",
    (world) => {
      world.offer(read(world, DEVICE));
      world.run({ used: [{ length: 513 }], writes: world.readWrites(DEVICE) });
      world.offer([secondRead(world)]);
      servedAgain(world);
    },
  ),
  both('V37', 'a status in the request header is written after the header was read', (world) => {
    const [header, data] = read(world, BODY);
    world.offer([header, data, { at: HEADER, length: 1, flags: W }]);
    world.run({
      used: [{ length: 513 }],
      writes: [
        [BODY, world.sectors(3)],
        [HEADER, [OK]],
      ],
    });
  }),
  both(
    'V37',
    'data and status that cover the request header leave the request as it was',
    (world) => {
      const parts = read(world, HEADER - 8);
      world.offer([...parts.slice(0, 2), { at: HEADER + 8, length: 1, flags: W }]);
      const writes = [
        [HEADER - 8, world.sectors(3)],
        [HEADER + 8, [OK]],
      ] as const;
      world.run({ used: [{ length: 513 }], writes });
    },
  ),
];
