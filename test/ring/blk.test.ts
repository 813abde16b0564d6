// virtio-blk requests: rules V3-V6 of assembly/request/blk.ts, W1-W3 of blk-answer.ts; VIRTIO 1.3,
// 5.2.6; spec sections 6.3, 6.4 and 6.6. DISCARD and WRITE_ZEROES are in blk-ranges.test.ts.

import { describe, expect, it } from 'vitest';
import { MAX_TRANSFER_BYTES } from '../../src/abi/limits.ts';
import * as blk from '../../src/abi/virtio-blk.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import type { Descriptor } from '../../src/testing/guest/driver-queue.ts';
import { answer, expectIdle, FACES, fresh, pattern, rigWith, send, sent, waiting } from './face.ts';
import type { GuestRig } from './rig.ts';

const OK = blk.VIRTIO_BLK_S_OK;
const IOERR = blk.VIRTIO_BLK_S_IOERR;
const UNSUPP = blk.VIRTIO_BLK_S_UNSUPP;
const READ_ONLY = { engine: { readOnly: true } };
/** Sectors of the rig's disk. */
const SECTORS = 4096;
const EIO = 5;
const ENOSPC = 28;
const ENOTSUP = 95;
const serial = (text: string): Uint8Array => {
  const bytes = new Uint8Array(20);
  bytes.set(new TextEncoder().encode(text));
  return bytes;
};

/** The disk is as it was made. */
function expectUntouched(rig: GuestRig): void {
  expect(Buffer.compare(rig.disk, fresh(0, rig.disk.length / 512))).toBe(0);
}

describe.each(FACES)('virtio-blk ($name)', (face) => {
  it('6.3: IN reads whole sectors; used length is what was read and the status', () => {
    const { rig, driver } = rigWith(face);
    for (const sectors of [1, 2, 8, 100]) {
      const read = driver.read(5, sectors * 512);
      rig.finish(driver);
      expect([read.status, read.usedLength]).toEqual([OK, sectors * 512 + 1]);
      expect(Buffer.compare(read.data(), fresh(5, sectors))).toBe(0);
      expect(read.damage()).toEqual([]);
    }
    expectIdle(rig);
  });

  it('6.3: OUT writes whole sectors; used length is the status', () => {
    const { rig, driver } = rigWith(face);
    const write = driver.write(6, pattern(2048));
    rig.finish(driver);
    expect([write.status, write.usedLength, write.damage()]).toEqual([OK, 1, []]);
    expect(rig.disk.subarray(6 * 512, 10 * 512)).toEqual(pattern(2048));
    expect(rig.disk.subarray(10 * 512, 11 * 512)).toEqual(fresh(10, 1));
    expect(rig.disk.subarray(5 * 512, 6 * 512)).toEqual(fresh(5, 1));
  });

  it('6.3: FLUSH and FLUSH_OUT sync, whatever data or sector they have', () => {
    for (const type of [blk.VIRTIO_BLK_T_FLUSH, blk.VIRTIO_BLK_T_FLUSH_OUT]) {
      for (const more of [{}, { out: 512, sector: 7 }, { in: 512 }, { sector: (1n << 64n) - 1n }]) {
        const { rig, driver } = rigWith(face);
        const flush = driver.raw(type, more);
        rig.finish(driver);
        expect([flush.status, flush.usedLength, flush.damage()]).toEqual([OK, 1, []]);
        expect(sent(rig)).toEqual(['SYNC']);
      }
    }
  });

  it.each([0, 1, 4, 19, 20, 21, 100, 512, 600])(
    '6.3: GET_ID with room for %d bytes gets at most 20, and not one more',
    (room) => {
      const { rig, driver } = rigWith(face);
      const id = driver.raw(blk.VIRTIO_BLK_T_GET_ID, { in: room });
      rig.finish(driver);
      const length = Math.min(room, 20);
      expect([id.status, id.usedLength, id.damage()]).toEqual([OK, length + 1, []]);
      const all = id.data();
      expect(all.subarray(0, length)).toEqual(serial('sluice-test-serial').subarray(0, length));
      expect(all.subarray(length).every((byte) => byte === 0xa5)).toBe(true);
      expect(rig.commands).toEqual([]);
    },
  );

  it('6.3: the id is padded with NUL, and not ended by one when it has 20 bytes', () => {
    for (const id of ['', 'a', 'exactly-twenty-bytes', 'more than twenty bytes of it']) {
      const { rig, driver } = rigWith(face, {}, { device: { id } });
      const request = driver.getId();
      rig.finish(driver);
      expect(request.data()).toEqual(serial(id.slice(0, 20)));
    }
  });

  it.each([2, 3, 6, 7, 9, 10, 12, 14, 15, 16, 18, 20, 22, 24, 26, 0x1234, 0x7fff_ffff])(
    'V4, 6.4.2: type %d is unknown or not negotiated: UNSUPP, used length 1',
    (type) => {
      const { rig, driver } = rigWith(face);
      for (const data of [{}, { in: 512 }, { out: 512 }]) {
        const request = driver.raw(type, data);
        rig.finish(driver);
        expect([request.status, request.usedLength, request.damage()]).toEqual([UNSUPP, 1, []]);
      }
      expect(rig.commands).toEqual([]);
      expectIdle(rig);
    },
  );

  it('V4, 6.4.2: DISCARD and WRITE_ZEROES that were not negotiated are UNSUPP', () => {
    const { rig, driver } = rigWith(face, {}, { device: { flags: abi.DEVICE_RUNNING } });
    const range = [{ sector: 0, sectors: 8 }];
    const [discard, zeroes] = [driver.discard(range), driver.writeZeroes(range)];
    rig.finish(driver);
    expect([discard.status, zeroes.status, rig.commands]).toEqual([UNSUPP, UNSUPP, []]);
    expectUntouched(rig);
  });

  it('V3, 6.4.1: on a read-only disk all that would change it is IOERR, negotiated or not', () => {
    for (const flags of [abi.DEVICE_RUNNING, undefined]) {
      const device = flags === undefined ? {} : { device: { flags } };
      const { rig, driver } = rigWith(face, {}, { ...READ_ONLY, ...device });
      const range = [{ sector: 0, sectors: 8 }];
      const made = [
        driver.write(0, pattern(512)),
        driver.raw(blk.VIRTIO_BLK_T_OUT),
        driver.raw(blk.VIRTIO_BLK_T_OUT, { out: 5 }),
        driver.discard(range),
        driver.discard([{ sector: 0, sectors: 8, flags: 1 }]),
        driver.writeZeroes(range),
        driver.writeZeroes([]),
        driver.secureErase(range),
      ];
      const read = driver.read(7, 512);
      const flush = driver.flush();
      const strange = driver.raw(16);
      rig.finish(driver);
      expect(made.map(({ status }) => status)).toEqual(made.map(() => IOERR));
      expect(made.map(({ usedLength }) => usedLength)).toEqual(made.map(() => 1));
      expect([read.status, flush.status, strange.status]).toEqual([OK, OK, UNSUPP]);
      expect(read.data()).toEqual(fresh(7, 1));
      expectUntouched(rig);
    }
  });

  it.each([
    ['the first sector past the end', SECTORS, 1],
    ['one sector more than there are', SECTORS - 1, 2],
    ['sector 2^64 - 1', (1n << 64n) - 1n, 1],
    ['sector 2^55, whose byte offset wraps to 0', 1n << 55n, 1],
    ['sector 2^55 - 1', (1n << 55n) - 1n, 1],
    ['sector 2^63', 1n << 63n, 1],
    ['the whole disk and one more', 0, SECTORS + 1],
  ])('V5, 6.4.10: %s is IOERR, and nothing is begun', (_name, sector, sectors) => {
    const { rig, driver } = rigWith(face);
    const read = driver.read(sector, sectors * 512);
    rig.finish(driver);
    driver.release(read);
    const write = driver.raw(blk.VIRTIO_BLK_T_OUT, { sector, out: sectors * 512 });
    rig.finish(driver);
    expect([read.status, read.usedLength]).toEqual([IOERR, 1]);
    expect([write.status, write.usedLength]).toEqual([IOERR, 1]);
    expect(rig.commands).toEqual([]);
    expectUntouched(rig);
    expectIdle(rig);
  });

  it('6.4.10: the last sector is read and written', () => {
    const { rig, driver } = rigWith(face);
    const read = driver.read(SECTORS - 1, 512);
    const write = driver.write(SECTORS - 2, pattern(1024));
    rig.finish(driver);
    expect([read.status, write.status]).toEqual([OK, OK]);
    expect(rig.disk.subarray(-1024)).toEqual(pattern(1024));
  });

  it.each([1, 511, 513, 1000])('V5, 6.6: %d bytes are not whole sectors: IOERR', (bytes) => {
    const { rig, driver } = rigWith(face);
    const read = driver.read(0, bytes);
    const write = driver.raw(blk.VIRTIO_BLK_T_OUT, { out: bytes });
    rig.finish(driver);
    expect([read.status, write.status]).toEqual([IOERR, IOERR]);
    expect([read.usedLength, write.usedLength]).toEqual([1, 1]);
    expect(read.data().every((byte) => byte === 0xa5)).toBe(true);
    expect(rig.commands).toEqual([]);
  });

  it('V5, 6.6: sector and length are multiples of the logical block', () => {
    for (const [sector, sectors, status] of [
      [0, 8, OK],
      [8, 16, OK],
      [4, 8, IOERR],
      [1, 8, IOERR],
      [0, 4, IOERR],
      [8, 9, IOERR],
      [0, 0, OK],
    ] as const) {
      const { rig, driver } = rigWith(face, {}, { device: { blockSectors: 8 } });
      const read = driver.read(sector, sectors * 512);
      const write = driver.write(sector, pattern(sectors * 512));
      rig.finish(driver);
      expect([sector, sectors, read.status, write.status]).toEqual([
        sector,
        sectors,
        status,
        status,
      ]);
      if (status !== OK) expect(rig.commands).toEqual([]);
    }
  });

  it('6.6: IN and OUT without data are done at once', () => {
    const { rig, driver } = rigWith(face);
    const [read, write] = [driver.read(9, 0), driver.write(9, new Uint8Array(0))];
    const beyond = driver.read(SECTORS + 1, 0);
    rig.finish(driver);
    expect([read.status, read.usedLength, write.status, write.usedLength]).toEqual([OK, 1, OK, 1]);
    expect(beyond.status).toBe(IOERR);
    expect(rig.commands).toEqual([]);
  });

  it('V5, 6.6: IN with readable data and OUT with writable data are IOERR', () => {
    const { rig, driver } = rigWith(face);
    const read = driver.raw(blk.VIRTIO_BLK_T_IN, { out: 512 });
    const both = driver.raw(blk.VIRTIO_BLK_T_IN, { out: 512, in: 512 });
    const write = driver.raw(blk.VIRTIO_BLK_T_OUT, { in: 512 });
    const mixed = driver.raw(blk.VIRTIO_BLK_T_OUT, { in: 1024, out: 512 });
    rig.finish(driver);
    for (const request of [read, both, write, mixed]) {
      expect([request.status, request.usedLength, request.damage()]).toEqual([IOERR, 1, []]);
      expect(request.data().every((byte) => byte === 0xa5)).toBe(true);
    }
    expect(rig.commands).toEqual([]);
    expectUntouched(rig);
  });

  it('6.6: a request larger than any transfer is IOERR', () => {
    const capacity = 4 * 1024 * 1024;
    const { rig, driver } = rigWith(
      face,
      { features: { indirect: true } },
      { engine: { capacity } },
    );
    // Many descriptors name the same megabyte.
    const parts = MAX_TRANSFER_BYTES / (1024 * 1024) + 1;
    const megabyte: Descriptor = {
      address: rig.guestAddress + 2n * 1048576n,
      length: 1048576,
      writable: true,
    };
    const read = driver.raw(blk.VIRTIO_BLK_T_IN, {
      alter: ([header, status]) => [
        header as Descriptor,
        ...Array.from({ length: parts }, () => megabyte),
        status as Descriptor,
      ],
    });
    rig.finish(driver);
    expect([read.status, rig.commands]).toEqual([IOERR, []]);
  });

  it('W1, W3: an error of the host is IOERR with the status alone as used length', () => {
    for (const errno of [EIO, ENOSPC]) {
      const { rig, driver } = rigWith(face);
      rig.errnoOf = () => errno;
      const read = driver.read(0, 512);
      const write = driver.write(8, pattern(512));
      const flush = driver.flush();
      rig.finish(driver);
      for (const request of [read, write, flush]) {
        expect([request.status, request.usedLength, request.damage()]).toEqual([IOERR, 1, []]);
      }
      expectUntouched(rig);
      expectIdle(rig);
    }
  });

  it('O3: what the host cannot do is UNSUPP', () => {
    const { rig, driver } = rigWith(face);
    rig.errnoOf = () => ENOTSUP;
    const discard = driver.discard([{ sector: 0, sectors: 8 }]);
    rig.finish(driver);
    expect(discard.status).toBe(UNSUPP);
  });

  it('E2: of requests that were merged, each has the status of its own', () => {
    const { rig, driver } = rigWith(face);
    const made = [0, 1, 2].map((sector) => driver.write(sector, pattern(512, sector)));
    rig.errnoOf = ({ offset, length }) => (offset <= 512 && offset + length > 512 ? EIO : 0);
    rig.finish(driver);
    expect(sent(rig)[0]).toBe('WRITE 0+1536');
    expect(made.map(({ status }) => status)).toEqual([OK, IOERR, OK]);
  });

  it('W2, U1: the status is written after the data, the used entry after the status', () => {
    const { rig, driver } = rigWith(face);
    const { memory, device, desc } = driver.queue;
    const read = driver.raw(blk.VIRTIO_BLK_T_IN, {
      in: 512,
      sector: 77,
      // The status byte is one of the data's, in its middle.
      alter: ([header, data, status]) =>
        [header, data, { ...status, address: Number(data?.address) + 100 }] as Descriptor[],
    });
    rig.finish(driver);
    const data = fresh(77, 1);
    data[100] = OK;
    expect(memory.bytes(read.chain[1]?.address ?? 0, 512)).toEqual(data);
    // Here it is the length in the used entry, which must be right in the end.
    const element = face.packed ? desc + 16n * 3n + 8n : device + 4n + 8n + 4n;
    driver.raw(blk.VIRTIO_BLK_T_IN, {
      in: 1024,
      sector: 78,
      alter: ([header, bytes, status]) =>
        [header, bytes, { ...status, address: element }] as Descriptor[],
    });
    rig.finish(driver);
    expect(memory.getU32(element)).toBe(1025);
  });

  it('V6: the legacy barrier bit is ignored when it was not negotiated', () => {
    const { rig, driver } = rigWith(face);
    const read = driver.raw(blk.VIRTIO_BLK_T_IN + blk.VIRTIO_BLK_T_BARRIER, { in: 512, sector: 3 });
    const write = driver.raw(blk.VIRTIO_BLK_T_OUT + blk.VIRTIO_BLK_T_BARRIER, {
      out: pattern(512),
      sector: 9,
    });
    send(rig, driver);
    expect(waiting(rig)).toEqual(['READ 1536+512', 'WRITE 4608+512']);
    rig.settle();
    driver.poll();
    expect([read.status, write.status]).toEqual([OK, OK]);
    expect(rig.engine.counters().barriers).toBe(0);
  });

  it('6.3: the word between type and sector, once a priority, is ignored', () => {
    const { rig, driver } = rigWith(face);
    const read = driver.raw(blk.VIRTIO_BLK_T_IN, { in: 512, sector: 3, reserved: 0xffff_ffff });
    rig.finish(driver);
    expect(read.data()).toEqual(fresh(3, 1));
  });

  it('hazards: requests of one batch that overlap take effect in the order of the ring', () => {
    const { rig, driver } = rigWith(face);
    const before = driver.read(4, 512);
    driver.write(4, pattern(512, 1));
    const between = driver.read(4, 512);
    driver.write(4, pattern(512, 2));
    const after = driver.read(4, 512);
    send(rig, driver);
    while (rig.inFlight.length > 0) {
      rig.answer(rig.inFlight.length - 1);
      rig.pump();
    }
    driver.poll();
    expect(before.data()).toEqual(fresh(4, 1));
    expect(between.data()).toEqual(pattern(512, 1));
    expect(after.data()).toEqual(pattern(512, 2));
  });

  it('the tags of the host do not meet those of chains', () => {
    const { rig, driver } = rigWith(face);
    driver.read(0, 512);
    driver.publish();
    rig.notify();
    const none = { flags: 0, segments: 0, data: 0, offset: 0, length: 0 };
    rig.engine.submit({ ...none, tag: 0x7fff_ffff, op: 5 });
    rig.pump();
    answer(rig, 'SYNC');
    expect(rig.engine.takeCompletions()).toMatchObject([{ tag: 0x7fff_ffff, status: 0 }]);
    answer(rig, 'READ 0+512');
    expect(rig.engine.takeCompletions()).toEqual([]);
    expect(driver.poll()).toHaveLength(1);
  });
});
