// How a request is cut into buffers: rules V1 and V2 of assembly/request/blk.ts; VIRTIO 1.3, 2.7.4,
// 5.2.6.4; spec section 6.6.

import { describe, expect, it } from 'vitest';
import * as blk from '../../src/abi/virtio-blk.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import type { Descriptor } from '../../src/testing/guest/driver-queue.ts';
import {
  cutFraming,
  type Framing,
  joinedFraming,
  plainFraming,
  segmentedFraming,
  withEmptyDescriptors,
} from '../../src/testing/guest/framing.ts';
import { expectIdle, FACES, fresh, pattern, rigWith } from './face.ts';

const FIXED = { device: { flags: abi.DEVICE_RUNNING | abi.DEVICE_FIXED_FRAMING } };
const OK = blk.VIRTIO_BLK_S_OK;
const IOERR = blk.VIRTIO_BLK_S_IOERR;

const FRAMINGS: Readonly<Record<string, Framing>> = {
  'header, data, status': plainFraming,
  'one readable and one writable buffer': joinedFraming,
  'eight data buffers': segmentedFraming(8),
  'nine data buffers': segmentedFraming(9),
  'forty data buffers': segmentedFraming(40),
  'buffers of 5, 11 and 100 bytes': cutFraming([5, 11, 100]),
  'buffers of 15 and 1 bytes': cutFraming([15, 1]),
  'buffers of 16 and 512 bytes': cutFraming([16, 512]),
  'buffers of 17 bytes': cutFraming([17]),
  'buffers of 20 bytes': cutFraming([20]),
  'a buffer for each byte': cutFraming([1]),
  'empty buffers between': withEmptyDescriptors(cutFraming([3, 300])),
};

describe.each(FACES)('framing ($name)', (face) => {
  it.each(Object.keys(FRAMINGS))('V1, VIRTIO 2.7.4: %s', (name) => {
    const framing = FRAMINGS[name] as Framing;
    for (const features of [{}, { indirect: true }]) {
      const queue = { size: face.packed ? 1500 : 2048, features, driver: { framing } };
      const { rig, driver } = rigWith(face, queue);
      const write = driver.write(3, pattern(512));
      const read = driver.read(8, 512);
      rig.finish(driver);
      const flush = driver.flush();
      const strange = driver.raw(99);
      const zeroes = driver.writeZeroes([
        { sector: 20, sectors: 1 },
        { sector: 22, sectors: 1 },
      ]);
      rig.finish(driver);
      const made = [write, read, flush, strange, zeroes];
      expect(made.map(({ status }) => status)).toEqual([OK, OK, OK, 2, OK]);
      expect(made.map(({ usedLength }) => usedLength)).toEqual([1, 513, 1, 1, 1]);
      expect(made.flatMap((request) => request.damage())).toEqual([]);
      expect(rig.disk.subarray(3 * 512, 4 * 512)).toEqual(pattern(512));
      expect(read.data()).toEqual(fresh(8, 1));
      expect(rig.disk.subarray(20 * 512, 21 * 512).every((byte) => byte === 0)).toBe(true);
      expect(rig.disk.subarray(21 * 512, 22 * 512)).toEqual(fresh(21, 1));
      expectIdle(rig);
    }
  });

  it.each(Object.keys(FRAMINGS))('V1, VIRTIO 2.7.4: the id of GET_ID, %s', (name) => {
    const { rig, driver } = rigWith(face, { driver: { framing: FRAMINGS[name] as Framing } });
    const id = driver.getId();
    rig.finish(driver);
    expect([id.status, id.usedLength, id.damage()]).toEqual([OK, 21, []]);
    expect(new TextDecoder().decode(id.data())).toBe('sluice-test-serial\0\0');
  });

  it('V2: the status is the last writable byte, also of a buffer that has more', () => {
    const { rig, driver } = rigWith(face);
    for (const status of [2, 5, 100, 511]) {
      for (const make of [
        () => driver.raw(blk.VIRTIO_BLK_T_IN, { in: 512, sector: 3, status }),
        () => driver.raw(blk.VIRTIO_BLK_T_OUT, { out: pattern(512), sector: 3, status }),
        () => driver.raw(blk.VIRTIO_BLK_T_FLUSH, { status }),
        () => driver.raw(99, { status }),
      ]) {
        const request = make();
        const { type, chain } = request;
        rig.finish(driver);
        expect([type, request.status]).toEqual([type, type === 99 ? 2 : OK]);
        const data = type === blk.VIRTIO_BLK_T_IN ? 512 : 0;
        expect([type, status, request.usedLength]).toEqual([type, status, data + status]);
        // What is counted was written: zeroes before the status.
        const area = driver.queue.memory.bytes(chain.at(-1)?.address ?? 0, status);
        expect(area.subarray(0, -1).every((byte) => byte === 0)).toBe(true);
        driver.release(request);
      }
    }
  });

  it('V2: a read that failed counts the status area alone, and has not touched the data', () => {
    const { rig, driver } = rigWith(face);
    rig.errnoOf = () => 5;
    const read = driver.raw(blk.VIRTIO_BLK_T_IN, { in: 512, status: 5 });
    rig.finish(driver);
    expect([read.status, read.usedLength]).toEqual([IOERR, 5]);
  });

  it('V2, 3.1.13: a chain without a writable byte comes back with nothing written', () => {
    const { rig, driver } = rigWith(face);
    for (const type of [blk.VIRTIO_BLK_T_IN, blk.VIRTIO_BLK_T_OUT, blk.VIRTIO_BLK_T_FLUSH]) {
      const request = driver.raw(type, { out: 512, status: 0 });
      rig.finish(driver);
      expect([request.status, request.usedLength, request.damage()]).toEqual([undefined, 0, []]);
    }
    expect(rig.commands).toEqual([]);
    expectIdle(rig);
  });

  it('V2, 6.6: a short or missing header is IOERR, used length 1, and nothing is begun', () => {
    const { rig, driver } = rigWith(face);
    for (const [length, type] of [
      [0, blk.VIRTIO_BLK_T_IN],
      [1, blk.VIRTIO_BLK_T_IN],
      [15, blk.VIRTIO_BLK_T_IN],
      [4, blk.VIRTIO_BLK_T_FLUSH],
      [8, blk.VIRTIO_BLK_T_FLUSH],
      [15, blk.VIRTIO_BLK_T_FLUSH],
    ] as const) {
      const header = Uint8Array.from({ length }, (_, at) => (at === 0 ? type : 0));
      const request = driver.raw(type, { header, in: 512 });
      rig.finish(driver);
      expect([request.status, request.usedLength, request.damage()]).toEqual([IOERR, 1, []]);
      expect(request.data().every((byte) => byte === 0xa5)).toBe(true);
    }
    expect(rig.commands).toEqual([]);
    expectIdle(rig);
  });

  it('V2: a header in a writable buffer is none', () => {
    const { rig, driver } = rigWith(face);
    const request = driver.raw(blk.VIRTIO_BLK_T_IN, {
      in: 512,
      alter: (chain) => chain.map((buffer) => ({ ...buffer, writable: true })),
    });
    rig.finish(driver);
    expect([request.status, request.usedLength]).toEqual([IOERR, 1]);
    expectIdle(rig);
  });

  it('V1: the header is read before anything is written, also where the status lies on it', () => {
    const { rig, driver } = rigWith(face);
    const read = driver.raw(blk.VIRTIO_BLK_T_IN, {
      in: 512,
      // The status byte lies on the sector, and holds this before it is written.
      sector: 0xa5,
      alter: ([header, data, status]) =>
        [header, data, { ...status, address: Number(header?.address) + 8 }] as Descriptor[],
    });
    rig.finish(driver);
    expect([read.status, read.usedLength]).toEqual([OK, 513]);
    expect(read.data().subarray(0, 512)).toEqual(fresh(0xa5, 1));
  });

  it('5.2.6.4: a legacy driver without ANY_LAYOUT: 16 bytes of header, data, 1 of status', () => {
    const { rig, driver } = rigWith(face, {}, FIXED);
    const good = [
      driver.write(3, pattern(512)),
      driver.read(8, 1024, segmentedFraming(2)),
      driver.flush(),
      driver.getId(),
    ];
    rig.finish(driver);
    expect(good.map(({ status }) => status)).toEqual([OK, OK, OK, OK]);
    const bad = [
      driver.write(3, pattern(512), joinedFraming),
      driver.read(3, 512, joinedFraming),
      driver.read(3, 512, cutFraming([8, 1000])),
      driver.raw(blk.VIRTIO_BLK_T_IN, { in: 512, status: 5 }),
    ];
    rig.finish(driver);
    expect(bad.map(({ status }) => status)).toEqual(bad.map(() => IOERR));
    expectIdle(rig);
  });
});
