/** V83, V84, V86, V88: what changes while requests are under way. */

import { expect } from 'vitest';
import { COMMAND_STABLE, COMMAND_SYNC, COMMAND_WRITE } from '../../../src/abi/command.ts';
import { OP_RESET_QUEUE, OP_SET_WCE, STATUS_INVALID, STATUS_OK } from '../../../src/abi/request.ts';
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../../src/abi/virtio-blk.ts';
import * as abi from '../../../src/abi/virtio-device.ts';
import { both, each, type Row } from './row.ts';
import { BODY, HEADER, type Part, STATUS, TABLE, UNTOUCHED, W, type World } from './world.ts';

const IN = VIRTIO_BLK_T_IN;
const OUT = VIRTIO_BLK_T_OUT;
const NOTHING = { flags: 0, segments: 0, data: 0, offset: 0, length: 0 };

/** Places of requests that are many: header and status in TABLE, data from 0x8_0000 on. */
const MANY_DATA = 0x8_0000;
const ROOM = 0x1000;

function manyStatus(index: number): number {
  return TABLE + ROOM * 2 + index;
}

/** Offers the `index`th of many requests of one sector each, in a table. */
function offerOneOfMany(world: World, type: number, index: number, sector: number): void {
  const header = world.header(type, sector, TABLE + 16 * index);
  const flags = type === IN ? W : 0;
  world.ram[manyStatus(index)] = UNTOUCHED;
  const data = { at: MANY_DATA + 512 * index, length: 512, flags };
  const parts = [header, data, { at: manyStatus(index), length: 1, flags: W }];
  world.offer([world.table(parts, TABLE + ROOM * 3 + 48 * index)], index, index);
}

/** Kicks, and hands the commands to the host, which does not answer. */
function start(world: World): void {
  world.rig.notify(0);
  world.rig.pump();
}

/** 64 reads are at the host; the queue dies, and the reset is on its way. */
function beginReset(world: World): void {
  for (let i = 0; i < 64; i++) offerOneOfMany(world, IN, i, 8 * i);
  world.keep();
  start(world);
  expect(world.rig.inFlight.length).toBe(64);
  expect(world.rig.setQueueState(abi.QUEUE_DEAD)).toBe(0);
  world.rig.engine.submit({ tag: 7, op: OP_RESET_QUEUE, queue: 1, ...NOTHING });
  world.rig.pump();
}

const RESET_ROWS: readonly Row[] = [
  both(
    'V86',
    'a reset waits for what the host has; its ring is not touched once it has begun',
    (world) => {
      beginReset(world);
      expect(world.rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(64);
      for (let i = 0; i < 64; i++) {
        world.check({
          writes: i === 0 ? [] : [[MANY_DATA + 512 * (i - 1), world.sectors(8 * i - 8)]],
        });
        expect(world.rig.detach()).toBe(abi.ATTACH_BUSY);
        world.rig.answer();
        world.rig.pump();
      }
      // No status, no used entry, no interrupt: the data of the reads is all that came.
      const done = { tag: 7, status: STATUS_OK, value: 0, errno: 0 };
      expect(world.rig.engine.takeCompletions()).toEqual([done]);
      const data = [MANY_DATA + 512 * 63, world.sectors(8 * 63)] as const;
      world.check({ writes: [data] });
      world.rig.notify(0);
      for (let i = 0; i < 3; i++) world.rig.pump();
      world.check();
      expect(world.rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(0);
      expect(world.rig.detach()).toBe(0);
      world.check();
    },
  ),
  both(
    'V86',
    'a reset ends at once what the host has not got',
    (world) => {
      for (let i = 0; i < 64; i++) offerOneOfMany(world, IN, i, 8 * i);
      world.keep();
      start(world);
      expect(world.rig.inFlight.length).toBe(1);
      expect(world.rig.setQueueState(abi.QUEUE_DEAD)).toBe(0);
      world.rig.engine.submit({ tag: 7, op: OP_RESET_QUEUE, queue: 1, ...NOTHING });
      world.rig.settle();
      expect(world.rig.commands.length).toBe(1);
      expect(world.rig.engine.takeCompletions().map(({ tag }) => tag)).toEqual([7]);
      world.check({ writes: [[MANY_DATA, world.sectors(0)]] });
      expect(world.rig.detach()).toBe(0);
    },
    { engine: { depth: 1 } },
  ),
];

/** What changes under way. */
export const TIME_ROWS: readonly Row[] = [
  both('V82', 'a chain that changes after it was taken is served as it was', (world) => {
    const [header, data, status] = world.request(IN, 3, 512);
    world.offer([header, data, status]);
    start(world);
    const wrong = { at: 2n ** 64n - 1n, length: 0xffff_ffff, flags: 0xffff };
    const id = world.packed ? 0xffff : 0;
    for (let index = 0; index < 3; index++) world.put(index, wrong, id);
    world.ram.fill(0xff, HEADER, HEADER + 16);
    world.keep();
    world.rig.settle();
    world.check({ used: [{ length: 513 }], writes: world.readWrites() });
  }),
  both('V82', 'an indirect table that changes after it was taken means nothing', (world) => {
    const table = world.table(world.request(IN, 3, 512));
    world.offer([table]);
    start(world);
    world.ram.fill(0xff, TABLE, TABLE + 48);
    world.keep();
    world.rig.settle();
    world.check({ used: [{ length: 513 }], writes: world.readWrites() });
  }),
  each('V83', "what is made available after the index was read is the next batch's", {
    split(world) {
      offerOneOfMany(world, IN, 0, 3);
      // The entry is there, the index not yet.
      offerOneOfMany(world, IN, 1, 5);
      world.bump(-1);
      const data = (i: number, sector: number): (readonly [number, ArrayLike<number>])[] => [
        [MANY_DATA + 512 * i, world.sectors(sector)],
        [manyStatus(i), [0]],
      ];
      world.run({ used: [{ id: 0, length: 513 }], writes: data(0, 3) });
      world.bump(1);
      world.run({ used: [{ id: 1, length: 513 }], writes: data(1, 5) });
    },
    packed(world) {
      offerOneOfMany(world, IN, 0, 3);
      // All of the descriptor is there but its flags.
      offerOneOfMany(world, IN, 1, 5);
      const flags = world.view.getUint16(16 + 14, true);
      world.view.setUint16(16 + 14, 0, true);
      const data = (i: number, sector: number): (readonly [number, ArrayLike<number>])[] => [
        [MANY_DATA + 512 * i, world.sectors(sector)],
        [manyStatus(i), [0]],
      ];
      world.run({ used: [{ id: 0, length: 513 }], writes: data(0, 3) });
      world.view.setUint16(16 + 14, flags, true);
      world.run({ used: [{ id: 1, length: 513 }], writes: data(1, 5) });
    },
  }),
  both(
    'V84',
    'data that changes after it was sent is on the disk as it was or as it is',
    (world) => {
      // Sixteen neighbours, which are merged.
      for (let i = 0; i < 16; i++) offerOneOfMany(world, OUT, i, 40 + i);
      world.ram.fill(0x11, MANY_DATA, MANY_DATA + 16 * 512);
      start(world);
      expect(world.rig.inFlight.length).toBe(1);
      // Header and descriptors were read; data is read once, when the host writes it.
      world.ram.fill(0x22, MANY_DATA + 512 * 4, MANY_DATA + 512 * 9);
      world.ram.fill(0xff, TABLE, TABLE + 16 * 16);
      world.keep();
      world.rig.settle();
      const ids = Array.from({ length: 16 }, (_, i) => i);
      world.check({
        used: ids.map((id) => ({ id, length: 1 })),
        writes: ids.map((i) => [manyStatus(i), [0]]),
        disk: [[40 * 512, world.ram.slice(MANY_DATA, MANY_DATA + 16 * 512)]],
      });
    },
  ),
  ...RESET_ROWS,
  both(
    'V88',
    'a write cache is on or off, and is switched off with a sync before it is answered',
    (world) => {
      const setWce = (length: number): void => {
        world.rig.engine.submit({ ...NOTHING, tag: 9, op: OP_SET_WCE, length });
      };
      setWce(2);
      world.rig.settle();
      expect(world.rig.engine.takeCompletions()[0]?.status).toBe(STATUS_INVALID);
      const write = (fill: number): Part[] => {
        world.ram.fill(fill, BODY, BODY + 512);
        return world.request(OUT, 3, 512);
      };
      world.offer(write(1));
      const back = { used: [{ length: 1 }], writes: [[STATUS, [0]]] as const };
      world.run({ ...back, disk: [[3 * 512, new Uint8Array(512).fill(1)]] });
      setWce(0);
      world.rig.pump();
      expect(world.rig.engine.takeCompletions()).toEqual([]);
      expect(world.rig.inFlight.map(({ op }) => op)).toEqual([COMMAND_SYNC]);
      world.rig.settle();
      expect(world.rig.engine.takeCompletions()[0]?.status).toBe(STATUS_OK);
      world.offer(write(2));
      world.run({ ...back, disk: [[3 * 512, new Uint8Array(512).fill(2)]] });
      const last = world.rig.commands.at(-1);
      expect([last?.op, last?.flags]).toEqual([COMMAND_WRITE, COMMAND_STABLE]);
    },
    { engine: { fua: true } },
  ),
];
