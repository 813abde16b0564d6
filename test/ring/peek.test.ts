// Guests whose memory is a copy: rules Y1-Y3 of assembly/ring/peek.ts and U5 of used.ts.

import { describe, expect, it } from 'vitest';
import * as blk from '../../src/abi/virtio-blk.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import {
  cutFraming,
  directFraming,
  indirectFraming,
  plainFraming,
} from '../../src/testing/guest/framing.ts';
import type { GuestRequest } from '../../src/testing/guest/blk-request.ts';
import { ENGINE_BASE } from '../driver.ts';
import {
  answer,
  expectBroken,
  expectIdle,
  FACES,
  fresh,
  packedOf,
  pattern,
  rigWith,
  send,
  splitOf,
} from './face.ts';
import type { GuestRig } from './rig.ts';
import { REGION_SIZE } from '../../src/abi/region.ts';

const COPIED = {
  device: {
    flags: abi.DEVICE_RUNNING | abi.DEVICE_COPIED | abi.DEVICE_DISCARD | abi.DEVICE_WRITE_ZEROES,
  },
};
const INDIRECT = { features: { indirect: true } };

/** What DEVICE_LIST holds: place and length of each entry. */
function list(rig: GuestRig, entries: number): [number, number][] {
  const start = ENGINE_BASE + REGION_SIZE + abi.DEVICE_LIST;
  return Array.from({ length: entries }, (_, index) => [
    rig.view.getUint32(start + 8 * index, true),
    rig.view.getUint32(start + 8 * index + 4, true),
  ]);
}

function begin(rig: GuestRig): void {
  rig.exports.beginPeek(ENGINE_BASE, 0);
}

/** The next chain's list, or PEEK_*. */
function peek(rig: GuestRig, hasTable = 0): [number, number][] | number {
  const entries = rig.exports.peekChain(ENGINE_BASE, 0, hasTable) >>> 0;
  return entries >= abi.PEEK_TABLE ? entries : list(rig, entries);
}

/** What the chain that waits has written, and nothing when there is none. */
function landed(rig: GuestRig): [number, number][] {
  return list(rig, rig.exports.listLanded(ENGINE_BASE) >>> 0);
}

function land(rig: GuestRig): void {
  rig.exports.landChain(ENGINE_BASE);
}

/** Place and length of the readable, or the writable buffers of a request. */
function buffers({ chain }: GuestRequest, writable: boolean): [number, number][] {
  return chain
    .filter((buffer) => buffer.writable === writable)
    .map(({ address, length }) => [Number(address), length]);
}

const NO_LANDED = 0xffff_ffff;

describe.each(FACES)('looking at chains ($name)', (face) => {
  it('Y1: with nothing available there is nothing to see', () => {
    const { rig } = rigWith(face, {}, COPIED);
    begin(rig);
    expect([peek(rig), peek(rig)]).toEqual([abi.PEEK_NONE, abi.PEEK_NONE]);
  });

  it('Y2: a chain lists its readable buffers, one after the other as they are available', () => {
    const { rig, driver } = rigWith(face, {}, COPIED);
    const made = [
      driver.write(3, pattern(1024), cutFraming([16, 100, 924])),
      driver.read(8, 512),
      driver.flush(),
    ];
    driver.publish();
    begin(rig);
    for (const request of made) expect(peek(rig)).toEqual(buffers(request, false));
    expect(peek(rig)).toBe(abi.PEEK_NONE);
    // From the start again.
    begin(rig);
    expect(peek(rig)).toEqual(buffers(made[0] as GuestRequest, false));
  });

  it('Y2: an indirect table comes first, and its buffers once it is there', () => {
    const { rig, driver } = rigWith(face, INDIRECT, COPIED);
    const write = driver.write(3, pattern(512));
    const read = driver.read(8, 512, directFraming(plainFraming));
    driver.publish();
    const queue = driver.queue.packed ? packedOf(driver) : splitOf(driver);
    const table = queue.memory.resolve(queue.memory.getU64(queue.descriptorPlace(0)));
    begin(rig);
    expect(peek(rig)).toBe(abi.PEEK_TABLE);
    expect(list(rig, 1)).toEqual([[table, 48]]);
    // Asked once more it is the same chain.
    expect(peek(rig)).toBe(abi.PEEK_TABLE);
    expect(peek(rig, 1)).toEqual(buffers(write, false));
    expect(peek(rig)).toEqual(buffers(read, false));
    expect(peek(rig)).toBe(abi.PEEK_NONE);
  });

  it('Y1: a peek takes nothing, breaks nothing and tells nobody', () => {
    const { rig, driver } = rigWith(face, INDIRECT, COPIED);
    const write = driver.write(3, pattern(512));
    driver.queue.add([{ address: 1n, length: 1, writable: false }]);
    driver.publish();
    const { memory } = driver.queue;
    const before = memory.bytes(rig.ram, rig.ramBytes).slice();
    begin(rig);
    expect(peek(rig)).toBe(abi.PEEK_TABLE);
    expect(peek(rig, 1)).toEqual(buffers(write, false));
    expect([peek(rig), peek(rig, 1)]).toEqual([abi.PEEK_NONE, abi.PEEK_NONE]);
    expect(Buffer.compare(memory.bytes(rig.ram, rig.ramBytes), before)).toBe(0);
    expectIdle(rig);
    expect(rig.takeInterrupts()).toBe(0n);
    send(rig, driver);
    expectBroken(rig, abi.RING_ERROR_RANGE);
    answer(rig, 'WRITE 1536+512');
    land(rig);
    rig.exports.publishLanded(ENGINE_BASE);
    expect(driver.poll()).toEqual([write]);
  });

  it('Y1: what was taken is not seen again, what comes later is', () => {
    const { rig, driver } = rigWith(face, { size: face.packed ? 7 : 8 }, COPIED);
    for (let i = 0; i < 10; i++) {
      const read = driver.read(i, 512);
      driver.publish();
      begin(rig);
      expect(peek(rig)).toEqual(buffers(read, false));
      expect(peek(rig)).toBe(abi.PEEK_NONE);
      rig.run();
      begin(rig);
      expect(peek(rig)).toBe(abi.PEEK_NONE);
      land(rig);
      rig.exports.publishLanded(ENGINE_BASE);
      expect(driver.poll()).toEqual([read]);
      driver.release(read);
    }
  });

  it('Y1: a full ring is seen once', () => {
    const size = face.packed ? 5 : 8;
    const { rig, driver } = rigWith(face, { ...INDIRECT, size }, COPIED);
    for (let i = 0; i < size; i++) driver.flush();
    driver.publish();
    begin(rig);
    for (let i = 0; i < size; i++) expect(peek(rig, 1)).toHaveLength(1);
    expect(peek(rig, 1)).toBe(abi.PEEK_NONE);
  });

  it('Y1: an index, a head or a chain that breaks the queue is nothing to see', () => {
    const { rig, driver } = rigWith(face, INDIRECT, COPIED);
    if (face.packed) {
      driver.read(0, 512, directFraming(plainFraming));
      driver.publish();
      for (let index = 0; index < 64; index++)
        packedOf(driver).pokeDescriptor(index, { flags: 0x81 });
    } else splitOf(driver).offer(64);
    driver.publish();
    begin(rig);
    expect(peek(rig, 1)).toBe(abi.PEEK_NONE);
    if (!face.packed) {
      splitOf(driver).availIdx = 65;
      begin(rig);
      expect(peek(rig, 1)).toBe(abi.PEEK_NONE);
    }
  });
});

describe.each(FACES)('chains that land ($name)', (face) => {
  it('U5: a chain comes back when the host has copied what it wrote', () => {
    const { rig, driver } = rigWith(face, {}, COPIED);
    const read = driver.read(8, 1024, cutFraming([16, 300, 725]));
    send(rig, driver);
    expect(rig.deviceWord(abi.DEVICE_LANDED)).toBe(NO_LANDED);
    rig.settle();
    expect([driver.poll(), rig.takeInterrupts()]).toEqual([[], 0n]);
    expect(rig.deviceWord(abi.DEVICE_LANDED)).not.toBe(NO_LANDED);
    expect(rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(1);
    land(rig);
    expect(rig.deviceWord(abi.DEVICE_LANDED)).toBe(NO_LANDED);
    expect([driver.poll(), rig.takeInterrupts()]).toEqual([[], 0n]);
    rig.exports.publishLanded(ENGINE_BASE);
    expect(driver.poll()).toEqual([read]);
    expect([read.status, read.usedLength, rig.takeInterrupts()]).toEqual([0, 1025, 1n]);
    expectIdle(rig);
  });

  it('Y3: it lists data, then the status', () => {
    const { rig, driver } = rigWith(face, INDIRECT, COPIED);
    const plain = driver.read(8, 1024);
    const long = driver.read(20, 512, indirectFraming(cutFraming([40])));
    const joined = driver.read(30, 512, cutFraming([513]));
    const write = driver.write(50, pattern(512));
    const id = driver.getId();
    const padded = driver.raw(blk.VIRTIO_BLK_T_IN, { in: 512, sector: 60, status: 5 });
    const lists = new Map<string, [number, number][]>();
    send(rig, driver);
    const take = (): void => {
      while (rig.deviceWord(abi.DEVICE_LANDED) !== NO_LANDED) {
        const entries = landed(rig);
        lists.set(String(entries.at(-1)?.[0]), entries);
        land(rig);
      }
      rig.exports.publishLanded(ENGINE_BASE);
    };
    take();
    rig.settle();
    take();
    expect(driver.poll()).toHaveLength(6);
    const listOf = (request: GuestRequest, lastOffset = 0): [number, number][] | undefined => {
      const [place] = buffers(request, true).at(-1) ?? [0, 0];
      return lists.get(String(place + lastOffset));
    };
    expect(listOf(plain)).toEqual(buffers(plain, true));
    const cut = buffers(long, true);
    const [last, bytes] = cut.at(-1) ?? [0, 0];
    expect(listOf(long, bytes - 1)).toEqual([
      ...cut.slice(0, -1),
      [last, bytes - 1],
      [last + bytes - 1, 1],
    ]);
    const [start = 0] = buffers(joined, true)[0] ?? [];
    expect(listOf(joined, 512)).toEqual([
      [start, 512],
      [start + 512, 1],
    ]);
    expect(listOf(write)).toEqual(buffers(write, true));
    expect(listOf(id)).toEqual(buffers(id, true));
    expect(listOf(padded)).toEqual(buffers(padded, true));
  });

  it('Y3: of a request that failed the status alone was written', () => {
    const { rig, driver } = rigWith(face, {}, COPIED);
    rig.errnoOf = () => 5;
    const read = driver.read(8, 1024);
    driver.publish();
    rig.run();
    expect(landed(rig)).toEqual(buffers(read, true).slice(-1));
  });

  it('Y3: a chain without a status byte has written nothing, and lands all the same', () => {
    const { rig, driver } = rigWith(face, {}, COPIED);
    const none = driver.raw(blk.VIRTIO_BLK_T_FLUSH, { status: 0 });
    driver.publish();
    rig.run();
    expect(landed(rig)).toEqual([]);
    land(rig);
    rig.exports.publishLanded(ENGINE_BASE);
    expect(driver.poll()).toEqual([none]);
    expectIdle(rig);
  });

  it('U5: chains land in the order in which they were decided', () => {
    const { rig, driver } = rigWith(face, {}, COPIED);
    const made = [0, 10, 20].map((sector) => driver.read(sector, 512));
    send(rig, driver);
    for (const at of [5120, 10240, 0]) answer(rig, `READ ${at}+512`);
    const expected = [made[1], made[2], made[0]];
    for (const request of expected) {
      expect(landed(rig)).toEqual(buffers(request as GuestRequest, true));
      land(rig);
    }
    rig.exports.publishLanded(ENGINE_BASE);
    expect(driver.poll()).toEqual(expected);
    expect(made[0]?.data()).toEqual(fresh(0, 1));
    expectIdle(rig);
  });

  it('U3, U5: what has landed is one batch for each publication', () => {
    const { rig, driver } = rigWith(face, { features: { eventIdx: true } }, COPIED);
    for (let i = 0; i < 4; i++) driver.getId();
    send(rig, driver);
    rig.pump();
    for (let i = 0; i < 4; i++) land(rig);
    rig.exports.publishLanded(ENGINE_BASE);
    expect(driver.poll()).toHaveLength(4);
    expect(rig.takeInterrupts()).toBe(1n);
    rig.exports.publishLanded(ENGINE_BASE);
    expect(rig.takeInterrupts()).toBe(0n);
  });

  it('U4, U5: what lands after its queue has died is dropped', () => {
    const { rig, driver } = rigWith(face, {}, COPIED);
    driver.getId();
    send(rig, driver);
    rig.setQueueState(abi.QUEUE_DEAD);
    const { memory } = driver.queue;
    const before = memory.bytes(rig.ram, rig.ramBytes).slice();
    expect(rig.detach()).toBe(abi.ATTACH_BUSY);
    land(rig);
    rig.exports.publishLanded(ENGINE_BASE);
    expect(Buffer.compare(memory.bytes(rig.ram, rig.ramBytes), before)).toBe(0);
    expect([rig.detach(), rig.takeInterrupts()]).toEqual([0, 0n]);
  });

  it('U5: IN_ORDER is refused: chains that land stand in another line', () => {
    const refused = `refused: ${abi.ATTACH_IN_ORDER}`;
    expect(() => rigWith(face, { features: { inOrder: true } }, COPIED)).toThrow(refused);
  });

  it('T6: of a copied guest no more is taken than has been copied; the rest waits', () => {
    const { rig, driver } = rigWith(face, {}, COPIED);
    rig.copiedChains = 2;
    for (let i = 0; i < 5; i++) driver.getId();
    send(rig, driver);
    const taken = [];
    for (let calls = 0; calls < 4; calls++) {
      rig.pump();
      taken.push(rig.deviceWord(abi.DEVICE_IN_FLIGHT));
    }
    expect(taken).toEqual([4, 5, 5, 5]);
    for (let i = 0; i < 5; i++) land(rig);
    rig.exports.publishLanded(ENGINE_BASE);
    expect(driver.poll()).toHaveLength(5);
  });
});
