// DISCARD and WRITE_ZEROES: rules L1-L4 of assembly/request/blk-ranges.ts, W1 of blk-answer.ts;
// VIRTIO 1.3, 5.2.6.2; spec sections 6.3, 6.4.3-6.4.6 and 6.6.

import { describe, expect, it } from 'vitest';
import * as blk from '../../src/abi/virtio-blk.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import { type BlkRange, encodeRanges } from '../../src/testing/guest/blk.ts';
import { cutFraming } from '../../src/testing/guest/framing.ts';
import { answer, expectIdle, FACES, fresh, pattern, rigWith, send, sent, waiting } from './face.ts';

const OK = blk.VIRTIO_BLK_S_OK;
const IOERR = blk.VIRTIO_BLK_S_IOERR;
const UNSUPP = blk.VIRTIO_BLK_S_UNSUPP;
const UNMAP = blk.VIRTIO_BLK_RANGE_F_UNMAP;
const SECTORS = 4096;

/** Both operations: the type, and the command of 8 sectors at sector 16. */
const OPERATIONS = [
  ['DISCARD', blk.VIRTIO_BLK_T_DISCARD],
  ['WRITE_ZEROES', blk.VIRTIO_BLK_T_WRITE_ZEROES],
] as const;

/** Ranges of one sector each, two sectors apart. */
function apart(count: number): BlkRange[] {
  return Array.from({ length: count }, (_, index) => ({ sector: 2 * index, sectors: 1 }));
}

describe.each(FACES)('ranges ($name)', (face) => {
  it('6.4.4: WRITE_ZEROES zeroes its range and no other byte, with or without unmap', () => {
    for (const flags of [0, UNMAP]) {
      const { rig, driver } = rigWith(face);
      const zeroes = driver.writeZeroes([{ sector: 16, sectors: 8, flags }]);
      rig.finish(driver);
      const read = driver.read(15, 10 * 512);
      rig.finish(driver);
      expect([zeroes.status, zeroes.usedLength, zeroes.damage()]).toEqual([OK, 1, []]);
      const data = read.data();
      expect(data.subarray(0, 512)).toEqual(fresh(15, 1));
      expect(data.subarray(512, -512).every((byte) => byte === 0)).toBe(true);
      expect(data.subarray(-512)).toEqual(fresh(24, 1));
      const name = flags === 0 ? 'ZERO 8192+4096' : 'UNMAP ZERO 8192+4096';
      expect(sent(rig)[0]).toBe(name);
    }
  });

  it('6.3: DISCARD gives up its range and no other', () => {
    const { rig, driver } = rigWith(face);
    const discard = driver.discard([{ sector: 16, sectors: 8 }]);
    rig.finish(driver);
    expect([discard.status, discard.usedLength, discard.damage()]).toEqual([OK, 1, []]);
    expect(sent(rig)).toEqual(['DISCARD 8192+4096']);
    expect(rig.disk.subarray(15 * 512, 16 * 512)).toEqual(fresh(15, 1));
    expect(rig.disk.subarray(24 * 512, 25 * 512)).toEqual(fresh(24, 1));
  });

  it.each(OPERATIONS)('6.3: the sector in the header of %s means nothing', (_name, type) => {
    const { rig, driver } = rigWith(face);
    const out = encodeRanges([{ sector: 16, sectors: 8 }]);
    const request = driver.raw(type, { out, sector: (1n << 64n) - 1n });
    rig.finish(driver);
    expect([request.status, rig.commands.length]).toEqual([OK, 1]);
  });

  it.each(OPERATIONS)('L1: the list of %s is copied before it is judged', (_name, type) => {
    const { rig, driver } = rigWith(face, { features: { indirect: true } });
    const framing = cutFraming([16, 7, 30, 1]);
    const request = driver.raw(type, { out: encodeRanges(apart(5)), framing });
    send(rig, driver);
    for (const { address, length, writable } of request.chain) {
      if (!writable) rig.guest.bytes(address, length).fill(0xff);
    }
    expect(waiting(rig)).toHaveLength(5);
    rig.settle();
    driver.poll();
    expect(request.status).toBe(OK);
  });

  it.each(OPERATIONS)('L1, 6.6: one bad range of %s, and none is begun', (_name, type) => {
    for (const at of [0, 1, 2]) {
      for (const [bad, status] of [
        [{ sector: SECTORS, sectors: 1 }, IOERR],
        [{ sector: 0, sectors: 1, flags: 2 }, UNSUPP],
        [{ sector: 0, sectors: SECTORS + 1 }, IOERR],
      ] as const) {
        const { rig, driver } = rigWith(face);
        const ranges = apart(3);
        ranges[at] = bad;
        const request = driver.raw(type, { out: encodeRanges(ranges) });
        rig.finish(driver);
        expect([request.status, request.usedLength, rig.commands]).toEqual([status, 1, []]);
        expectIdle(rig);
      }
    }
  });

  it.each(OPERATIONS)('L2: a list of %s is whole ranges, at least one', (_name, type) => {
    const { rig, driver } = rigWith(face);
    for (const bytes of [0, 1, 15, 17, 31, 33]) {
      const request = driver.raw(type, { out: bytes });
      rig.finish(driver);
      expect([bytes, request.status]).toEqual([bytes, IOERR]);
    }
    expect(rig.commands).toEqual([]);
  });

  it.each(OPERATIONS)('L2: as many ranges of %s as the limit says, and no more', (name, type) => {
    for (const limit of [1, 5, abi.BLK_RANGES, 1000]) {
      const words = { discardSegments: limit, zeroesSegments: limit };
      // The other operation's limit is another.
      if (name === 'DISCARD') words.zeroesSegments = 2;
      else words.discardSegments = 2;
      const { rig, driver } = rigWith(face, {}, { device: words });
      const most = Math.min(limit, abi.BLK_RANGES);
      const good = driver.raw(type, { out: encodeRanges(apart(most)) });
      rig.finish(driver);
      expect([limit, good.status, rig.commands.length]).toEqual([limit, OK, most]);
      const bad = driver.raw(type, { out: encodeRanges(apart(most + 1)) });
      rig.finish(driver);
      expect([limit, bad.status, rig.commands.length]).toEqual([limit, IOERR, most]);
    }
  });

  it('L3, 6.4.3: a flag that means nothing is UNSUPP; unmap of a discard too', () => {
    const { rig, driver } = rigWith(face);
    for (const flags of [2, 4, 3, 0x8000_0000, 0xffff_ffff]) {
      const zeroes = driver.writeZeroes([{ sector: 0, sectors: 8, flags }]);
      const discard = driver.discard([{ sector: 0, sectors: 8, flags }]);
      rig.finish(driver);
      expect([flags, zeroes.status, discard.status]).toEqual([flags, UNSUPP, UNSUPP]);
    }
    const discard = driver.discard([{ sector: 0, sectors: 8, flags: UNMAP }]);
    rig.finish(driver);
    expect(discard.status).toBe(UNSUPP);
    expect(rig.commands).toEqual([]);
  });

  it.each(OPERATIONS)('L4: a range of %s is no longer than the limit says', (name, type) => {
    const words = name === 'DISCARD' ? { discardSectors: 8 } : { zeroesSectors: 8 };
    const { rig, driver } = rigWith(face, {}, { device: words });
    const send8 = driver.raw(type, { out: encodeRanges([{ sector: 0, sectors: 8 }]) });
    const send9 = driver.raw(type, { out: encodeRanges([{ sector: 0, sectors: 9 }]) });
    rig.finish(driver);
    expect([send8.status, send9.status, rig.commands.length]).toEqual([OK, IOERR, 1]);
  });

  it.each(OPERATIONS)('L4, 6.4.10: a range of %s that leaves the disk is IOERR', (_name, type) => {
    const big = { discardSectors: 0xffff_ffff, zeroesSectors: 0xffff_ffff };
    const { rig, driver } = rigWith(face, {}, { device: big });
    for (const [sector, sectors] of [
      [SECTORS, 1],
      [SECTORS - 1, 2],
      [0, 0xffff_ffff],
      [1n << 63n, 1],
      [1n << 55n, 8],
      [(1n << 64n) - 1n, 1],
      [(1n << 64n) - 8n, 16],
      [SECTORS + 1, 0],
    ] as const) {
      const request = driver.raw(type, { out: encodeRanges([{ sector, sectors }]) });
      rig.finish(driver);
      expect([sector, sectors, request.status]).toEqual([sector, sectors, IOERR]);
    }
    const all = driver.raw(type, { out: encodeRanges([{ sector: 0, sectors: SECTORS }]) });
    rig.finish(driver);
    expect([all.status, rig.commands.length]).toEqual([OK, 1]);
  });

  it.each(OPERATIONS)('6.3: a range of %s of no sectors is done', (_name, type) => {
    const { rig, driver } = rigWith(face);
    const none = driver.raw(type, { out: encodeRanges([{ sector: 3, sectors: 0 }]) });
    const some = driver.raw(type, {
      out: encodeRanges([
        { sector: 3, sectors: 0 },
        { sector: 16, sectors: 1 },
        { sector: SECTORS, sectors: 0 },
      ]),
    });
    rig.finish(driver);
    expect([none.status, some.status, rig.commands.length]).toEqual([OK, OK, 1]);
  });

  it.each(OPERATIONS)('L2: writable data of %s is not looked at', (_name, type) => {
    const { rig, driver } = rigWith(face);
    const request = driver.raw(type, { out: encodeRanges(apart(1)), in: 512 });
    rig.finish(driver);
    expect([request.status, request.usedLength, request.damage()]).toEqual([OK, 1, []]);
    expect(request.data().every((byte) => byte === 0xa5)).toBe(true);
  });

  it.each(OPERATIONS)('W1: %s is decided by the last of its ranges', (name, type) => {
    const command = name === 'DISCARD' ? 'DISCARD' : 'ZERO';
    const { rig, driver } = rigWith(face);
    const request = driver.raw(type, { out: encodeRanges(apart(3)) });
    send(rig, driver);
    for (const offset of [1024, 2048, 0]) {
      expect(driver.poll()).toEqual([]);
      answer(rig, `${command} ${offset}+512`);
    }
    expect(driver.poll()).toEqual([request]);
    expect(request.status).toBe(OK);
  });

  it.each(OPERATIONS)('W1: %s has the status of the first range that failed', (name, type) => {
    const command = name === 'DISCARD' ? 'DISCARD' : 'ZERO';
    for (const [first, status] of [
      [95, UNSUPP],
      [5, IOERR],
    ] as const) {
      const { rig, driver } = rigWith(face);
      const request = driver.raw(type, { out: encodeRanges(apart(3)) });
      rig.errnoOf = ({ offset }) => (offset === 1024 ? first : offset === 2048 ? 100 - first : 0);
      send(rig, driver);
      for (const offset of [1024, 2048, 0]) answer(rig, `${command} ${offset}+512`);
      driver.poll();
      expect(request.status).toBe(status);
      expectIdle(rig);
    }
  });

  it('hazards: a write and a zeroing of the same sectors keep their order', () => {
    const { rig, driver } = rigWith(face);
    driver.write(16, pattern(512));
    driver.writeZeroes([{ sector: 16, sectors: 1 }]);
    const between = driver.read(16, 512);
    driver.write(16, pattern(512, 3));
    rig.finish(driver);
    expect(between.data().every((byte) => byte === 0)).toBe(true);
    expect(rig.disk.subarray(8192, 8704)).toEqual(pattern(512, 3));
  });
});
