// Guest memory: rules I1-I3 of assembly/guest.ts and K4 of ring/walk.ts: regions that come and go,
// buffers that straddle them, addresses up to 2^64; spec section 3.1.8.

import { describe, expect, it } from 'vitest';
import { REGION_SIZE } from '../../src/abi/region.ts';
import { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT } from '../../src/abi/virtio-blk.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import type { Descriptor } from '../../src/testing/guest/driver-queue.ts';
import { ENGINE_BASE } from '../driver.ts';
import { expectBroken, expectIdle, FACES, fresh, pattern, rigWith, send } from './face.ts';
import { GuestRig } from './rig.ts';

const KiB = 1024;
/** Half of the RAM of a small rig is unmapped and mapped again in pieces. */
const SMALL = { ramBytes: 256 * KiB };

/** A request whose data lies elsewhere. */
function at(address: bigint, length: number): (chain: Descriptor[]) => Descriptor[] {
  return (chain) =>
    chain.map((buffer) => (buffer.length === length ? { ...buffer, address } : buffer));
}

describe.each(FACES)('guest memory ($name)', (face) => {
  it.each([0n, 0x59a_d000n, 0x7f59_7f22_a000n, (1n << 63n) - 4096n, (1n << 64n) - 4n * 1048576n])(
    'I1, I3: memory at guest address %d serves a disk',
    (guestAddress) => {
      const { rig, driver } = rigWith(face, {}, { guestAddress });
      const end = guestAddress + BigInt(rig.ramBytes);
      const write = driver.write(1, pattern(512));
      const read = driver.raw(VIRTIO_BLK_T_IN, { in: 512, sector: 5, alter: at(end - 512n, 512) });
      rig.finish(driver);
      expect([write.status, read.status]).toEqual([0, 0]);
      expect(rig.guest.bytes(rig.ram + rig.ramBytes - 512, 512)).toEqual(fresh(5, 1));
      expect(rig.disk.subarray(512, 1024)).toEqual(pattern(512));
      expectIdle(rig);
    },
  );

  it('K4: a buffer that two regions hold is one buffer, wherever the regions lie', () => {
    const { rig, driver } = rigWith(face, {}, SMALL);
    const page = rig.guest.allocate(8 * KiB, 4096);
    const other = rig.guest.allocate(4 * KiB, 4096);
    const base = 0xffff_0000_0000n;
    // Three in a row in guest addresses: the middle one lies behind the last in memory.
    expect(rig.map(base, 4096, page)).toBe(0);
    expect(rig.map(base + 4096n, 4096, other)).toBe(0);
    expect(rig.map(base + 8192n, 4096, page + 4096)).toBe(0);
    for (const [offset, length] of [
      [4000n, 512],
      [0n, 12288],
      [3584n, 5120],
    ] as const) {
      const read = driver.raw(VIRTIO_BLK_T_IN, {
        in: length,
        sector: 9,
        alter: at(base + offset, length),
      });
      rig.finish(driver);
      expect([read.status, read.usedLength]).toEqual([0, length + 1]);
      const parts = [page, other, page + 4096].map((place) => rig.guest.bytes(place, 4096));
      const all = Buffer.concat(parts).subarray(Number(offset), Number(offset) + length);
      expect(Buffer.compare(all, fresh(9, length / 512))).toBe(0);
    }
    for (const place of [page, other, page + 4096]) rig.guest.bytes(place, 4096).fill(place >> 12);
    driver.raw(VIRTIO_BLK_T_OUT, { out: 1024, sector: 1, alter: at(base + 7680n, 1024) });
    rig.finish(driver);
    expect(rig.disk[512]).toBe((other >> 12) & 0xff);
    expect(rig.disk[1024]).toBe(((page + 4096) >> 12) & 0xff);
    expectIdle(rig);
  });

  it('K4, V2: header, data, id and status may each straddle regions', () => {
    const { rig, driver } = rigWith(face, {}, SMALL);
    const first = rig.guest.allocate(4 * KiB, 4096);
    const gap = rig.guest.allocate(4 * KiB, 4096);
    const second = rig.guest.allocate(4 * KiB, 4096);
    const base = 0x1_0000_0000_0000n;
    expect(rig.map(base, 4096, first)).toBe(0);
    expect(rig.map(base + 4096n, 4096, second)).toBe(0);
    rig.guest.bytes(gap, 4096).fill(0x5a);
    const header = base + 4096n - 7n;
    rig.guest.bytes(first + 4096 - 7, 7).fill(0);
    rig.guest.bytes(second, 9).fill(0);
    rig.guest.setU8(second + 1, 3);
    driver.queue.add([
      { address: header, length: 16, writable: false },
      { address: base + 4096n - 500n, length: 513, writable: true },
    ]);
    rig.finish(driver);
    // The header was read before the data landed on it: a read of sector 3.
    expect(driver.strays.length + driver.queue.inFlight).toBe(1);
    expect(rig.guest.bytes(first + 4096 - 500, 500)).toEqual(fresh(3, 1).subarray(0, 500));
    expect(rig.guest.bytes(second, 12)).toEqual(fresh(3, 1).subarray(500));
    expect(rig.guest.getU8(second + 12)).toBe(0);
    expect(rig.guest.bytes(gap, 4096).every((byte) => byte === 0x5a)).toBe(true);
  });

  it('K4, I1: a buffer across a hole between regions breaks the queue', () => {
    const { rig, driver } = rigWith(face, {}, SMALL);
    const page = rig.guest.allocate(8 * KiB, 4096);
    const base = 0x8000_0000n;
    expect(rig.map(base, 4096, page)).toBe(0);
    expect(rig.map(base + 4112n, 4080, page + 4112)).toBe(0);
    driver.raw(VIRTIO_BLK_T_IN, { in: 512, alter: at(base + 4000n, 512) });
    rig.finish(driver);
    expectBroken(rig, abi.RING_ERROR_RANGE);
    expect(rig.commands).toEqual([]);
  });

  it('K4, I1: a table or a ring lies in one region', () => {
    const { rig, driver } = rigWith(face, { features: { indirect: true } }, SMALL);
    const page = rig.guest.allocate(8 * KiB, 4096);
    const base = 0x8000_0000n;
    expect(rig.map(base, 4096, page)).toBe(0);
    expect(rig.map(base + 4096n, 4096, page + 4096)).toBe(0);
    const config = { ...driver.queue.config(), desc: base + 4096n - 512n };
    rig.reset();
    expect(rig.attach(0, config)).toBe(abi.ATTACH_RANGE);
    expect(rig.attach(0, { ...config, desc: base + 4096n })).toBe(0);
  });

  it('K4: segments that regions cut count: 1024 of them are a chain, one more breaks it', () => {
    const framed = (cuts: number): number => {
      const { rig, driver } = rigWith(face, { features: { indirect: true } }, SMALL);
      const page = rig.guest.allocate(8 * KiB, 4096);
      const base = 0x8000_0000n;
      expect(rig.map(base, 4096, page)).toBe(0);
      expect(rig.map(base + 4096n, 4096, page + 4096)).toBe(0);
      const straddling = { address: base + 4095n, length: 2, writable: false };
      driver.queue.add(
        Array.from({ length: cuts }, () => straddling),
        0,
      );
      send(rig, driver);
      return rig.queueWord(abi.QUEUE_ERROR);
    };
    expect([framed(512), framed(513)]).toEqual([0, abi.RING_ERROR_DESCRIPTORS]);
  });

  it('I2: regions that overlap in guest addresses, or wrap, or are empty, are refused', () => {
    const { rig } = rigWith(face, {}, SMALL);
    const { guestAddress: start, ramBytes, ram } = rig;
    for (const address of [start, start + 16n, start + BigInt(ramBytes) - 16n, start - 16n]) {
      expect(rig.map(address, 32, ram)).toBe(abi.MAP_RANGE);
    }
    expect(rig.map(start - 16n, ramBytes, ram)).toBe(abi.MAP_RANGE);
    expect(rig.map(0n, 0, ram)).toBe(abi.MAP_RANGE);
    expect(rig.map((1n << 64n) - 16n, 17, ram)).toBe(abi.MAP_RANGE);
    expect(rig.map(start - 16n, 16, ram)).toBe(0);
    expect(rig.map((1n << 64n) - 16n, 16, ram)).toBe(0);
    expect(rig.map(start + BigInt(ramBytes), 16, ram)).toBe(0);
  });

  it('I2: no region is the engine, its device, or past the memory', () => {
    const { rig } = rigWith(face, {}, SMALL);
    const deviceEnd = ENGINE_BASE + REGION_SIZE + (rig.exports.deviceSize(1) >>> 0);
    const end = rig.memory.buffer.byteLength;
    for (const [size, place] of [
      [64, ENGINE_BASE],
      [64, ENGINE_BASE - 16],
      [64, ENGINE_BASE + REGION_SIZE],
      [64, deviceEnd - 16],
      [2 * deviceEnd, 0],
      [32, end - 16],
      [1n << 32n, 0],
      [(1n << 32n) + 16n, rig.ram],
      [(1n << 63n) + 16n, rig.ram],
      [(1n << 64n) - 16n, 16],
    ] as const) {
      expect([size, place, rig.map(0n, size, place)]).toEqual([size, place, abi.MAP_RANGE]);
    }
    expect(rig.map(0n, 64, ENGINE_BASE - 64)).toBe(0);
    expect(rig.map(0x1000n, 64, Math.ceil(deviceEnd / 16) * 16)).toBe(0);
    expect(rig.map(0x2000n, 16, end - 16)).toBe(0);
  });

  it('a region whose place and guest address differ modulo 16 is refused', () => {
    const { rig } = rigWith(face, {}, SMALL);
    expect(rig.map(8n, 64, rig.ram)).toBe(abi.MAP_ALIGN_BROKEN);
    expect(rig.map(8n, 64, rig.ram + 8)).toBe(0);
  });

  it('there is room for GUEST_REGIONS - 1 regions', () => {
    const { rig, driver } = rigWith(face, {}, SMALL);
    const page = rig.guest.allocate(4096, 4096);
    // The last of these is refused; the RAM is one already.
    const results = Array.from({ length: 127 }, (_, index) =>
      rig.map(BigInt(index + 1) << 32n, 4096, page),
    );
    expect(results.slice(0, 126).every((error) => error === 0)).toBe(true);
    expect(results[126]).toBe(abi.MAP_FULL);
    driver.raw(VIRTIO_BLK_T_IN, { in: 512, sector: 8, alter: at(126n << 32n, 512) });
    rig.finish(driver);
    expect(rig.guest.bytes(page, 512)).toEqual(fresh(8, 1));
    driver.raw(VIRTIO_BLK_T_IN, { in: 512, sector: 8, alter: at(127n << 32n, 512) });
    rig.finish(driver);
    expectBroken(rig, abi.RING_ERROR_RANGE);
  });

  it('a region is removed when nothing is in flight and no ring lies in it', () => {
    const { rig, driver } = rigWith(face, {}, SMALL);
    const page = rig.guest.allocate(8192, 4096);
    expect(rig.map(0x1000n, 4096, page)).toBe(0);
    expect(rig.map(0x4000n, 4096, page + 4096)).toBe(0);
    expect(rig.unmap(rig.guestAddress)).toBe(abi.ATTACH_BUSY);
    expect(rig.unmap(0x2000n)).toBe(abi.ATTACH_UNKNOWN);
    expect(rig.unmap(0x1010n)).toBe(abi.ATTACH_UNKNOWN);
    driver.raw(VIRTIO_BLK_T_IN, { in: 512, sector: 2, alter: at(0x1000n, 512) });
    send(rig, driver);
    expect(rig.unmap(0x1000n)).toBe(abi.ATTACH_BUSY);
    rig.settle();
    expect(rig.unmap(0x1000n)).toBe(0);
    expect(rig.unmap(0x1000n)).toBe(abi.ATTACH_UNKNOWN);
    driver.raw(VIRTIO_BLK_T_IN, { in: 512, sector: 3, alter: at(0x4000n, 512) });
    rig.finish(driver);
    expect(rig.guest.bytes(page + 4096, 512)).toEqual(fresh(3, 1));
    driver.raw(VIRTIO_BLK_T_IN, { in: 512, alter: at(0x1000n, 512) });
    rig.finish(driver);
    expectBroken(rig, abi.RING_ERROR_RANGE);
  });

  it('I1: what was the last region found is forgotten when it is removed', () => {
    const { rig, driver } = rigWith(face, {}, SMALL);
    const page = rig.guest.allocate(4096, 4096);
    expect(rig.map(0x1000n, 4096, page)).toBe(0);
    driver.queue.add([
      { address: rig.guestAddress, length: 16, writable: false },
      { address: 0x1000n, length: 16, writable: false },
    ]);
    send(rig, driver);
    expect(rig.unmap(0x1000n)).toBe(0);
    driver.queue.add([{ address: 0x1000n, length: 16, writable: false }]);
    send(rig, driver);
    expectBroken(rig, abi.RING_ERROR_RANGE);
  });

  it('each part of a ring keeps the region in which it lies', () => {
    for (const part of ['desc', 'driver', 'device'] as const) {
      const { rig, driver } = rigWith(face, { size: 8 }, SMALL);
      const config = driver.queue.config();
      rig.reset();
      const page = rig.guest.allocateCleared(4096, 4096);
      expect(rig.map(0x1000n, 4096, page)).toBe(0);
      expect(rig.attach(0, { ...config, [part]: 0x1800n })).toBe(0);
      expect(rig.unmap(0x1000n)).toBe(abi.ATTACH_BUSY);
      rig.setQueueState(abi.QUEUE_DEAD);
      expect(rig.unmap(0x1000n)).toBe(abi.ATTACH_BUSY);
      expect(rig.detach()).toBe(0);
      expect(rig.unmap(0x1000n)).toBe(0);
    }
  });

  it('memory that is mapped while requests are in flight serves the next one', () => {
    const { rig, driver } = rigWith(face, {}, SMALL);
    const page = rig.guest.allocate(4096, 4096);
    driver.read(0, 512);
    send(rig, driver);
    expect(rig.map(0x1000n, 4096, page)).toBe(0);
    driver.raw(VIRTIO_BLK_T_IN, { in: 512, sector: 2, alter: at(0x1000n, 512) });
    rig.finish(driver);
    expect(rig.guest.bytes(page, 512)).toEqual(fresh(2, 1));
    expectIdle(rig);
  });

  it('a device without memory has no place for a ring', () => {
    const rig = new GuestRig(face.build, SMALL);
    expect(rig.unmap(rig.guestAddress)).toBe(0);
    expect(() => rig.addQueue(0, { packed: face.packed })).toThrow('refused');
  });
});
