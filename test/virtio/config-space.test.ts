// The configuration space of virtio-blk. VIRTIO 1.3, 5.2.4.

import { describe, expect, it } from 'vitest';
import { VIRTIO_BLK_F_FLUSH } from '../../src/abi/virtio-blk.ts';
import { ConfigSpace, type ConfigValues, isWritebackByte } from '../../src/virtio/config-space.ts';
import { feature, type FeatureSwitches, offeredFeatures } from '../../src/virtio/features.ts';
import { VALUES } from './fake-queues.ts';

function setUp(values: Partial<ConfigValues> = {}, switches: FeatureSwitches = {}): ConfigSpace {
  const all = { ...VALUES, ...values };
  const context = { readOnly: false, legacy: false, barriers: false, queues: all.queues };
  const sizeMax = all.sizeMaxBytes > 0;
  return new ConfigSpace(all, offeredFeatures(switches, { ...context, sizeMax }));
}

function view(space: ConfigSpace, offset = 0, length = 96): DataView {
  const bytes = new Uint8Array(length).fill(0xee);
  space.read(offset, bytes);
  return new DataView(bytes.buffer);
}

describe('the fields', () => {
  it('VIRTIO 5.2.4: lie where the standard says, little-endian', () => {
    const space = setUp({ queues: 4, sizeMaxBytes: 65_536, capacityBytes: 2 ** 40 });
    space.showWriteback(true);
    const bytes = view(space);
    expect(bytes.getBigUint64(0, true)).toBe(2n ** 31n);
    expect(bytes.getUint32(8, true)).toBe(65_536);
    expect(bytes.getUint32(12, true)).toBe(254);
    expect([bytes.getUint16(16, true), bytes.getUint8(18), bytes.getUint8(19)]).toEqual([
      65_535, 16, 63,
    ]);
    expect(bytes.getUint32(20, true)).toBe(512);
    expect([bytes.getUint8(24), bytes.getUint8(25), bytes.getUint16(26, true)]).toEqual([3, 0, 8]);
    expect(bytes.getUint8(32)).toBe(1);
    expect(bytes.getUint16(34, true)).toBe(4);
    expect([36, 40, 44].map((at) => bytes.getUint32(at, true))).toEqual([1 << 20, 64, 8]);
    expect([48, 52].map((at) => bytes.getUint32(at, true))).toEqual([1 << 20, 64]);
    expect(bytes.getUint8(56)).toBe(1);
  });

  it('VIRTIO 5.2.5.2: write_zeroes_may_unmap is 0 where nothing can be deallocated', () => {
    expect(view(setUp({ mayUnmap: false })).getUint8(56)).toBe(0);
    expect(view(setUp({ mayUnmap: true })).getUint8(56)).toBe(1);
  });

  it('VIRTIO 5.2.4: unused bytes and those of features that are never offered are 0', () => {
    const bytes = view(setUp({ queues: 4 }));
    for (const at of [33, 57, 58, 59]) expect(bytes.getUint8(at)).toBe(0);
    for (let at = 60; at < 96; at++) expect(bytes.getUint8(at)).toBe(0);
  });

  it('C1: a field without its feature is 0', () => {
    const off = { segMax: false, blockSize: false, topology: false, configWce: false };
    const space = setUp({}, { ...off, geometry: false, discard: false, writeZeroes: false });
    space.showWriteback(true);
    const bytes = view(space);
    expect(bytes.getBigUint64(0, true)).toBe(2048n);
    for (let at = 8; at < 96; at++) expect(bytes.getUint8(at)).toBe(0);
  });

  it('the capacity counts whole blocks, in sectors of 512 bytes', () => {
    const space = setUp({ capacityBytes: 10_000, blockSizeBytes: 4096 });
    expect(view(space).getBigUint64(0, true)).toBe(16n);
  });

  it('a tiny disk has one cylinder', () => {
    expect(view(setUp({ capacityBytes: 512 })).getUint16(16, true)).toBe(1);
  });
});

describe('seg_max (C4)', () => {
  const segMax = (space: ConfigSpace): number => view(space).getUint32(12, true);

  it('leaves room for header and status in the ring where INDIRECT is not offered', () => {
    expect(segMax(setUp({ queueSizeMax: 16 }, { indirect: false }))).toBe(14);
    expect(segMax(setUp({ queueSizeMax: 16 }))).toBe(254);
  });

  it('does so when the driver does not accept INDIRECT', () => {
    const space = setUp({ queueSizeMax: 16 });
    space.showFeatures(feature(VIRTIO_BLK_F_FLUSH));
    expect(segMax(space)).toBe(14);
  });
});

describe('reads (C2)', () => {
  it('VIRTIO 2.5: of any width and offset give the bytes that lie there', () => {
    const space = setUp();
    const whole = new Uint8Array(view(space, 0, 128).buffer);
    for (let offset = 0; offset < 100; offset++) {
      for (const width of [1, 2, 3, 4, 8, 57]) {
        const part = new Uint8Array(view(space, offset, width).buffer);
        const wanted = new Uint8Array(width);
        wanted.set(whole.subarray(offset, offset + width));
        expect(part).toEqual(wanted);
      }
    }
  });

  it.each([96, 97, 1e9, 2 ** 40, -1, Number.NaN, Infinity])('at %d read 0', (offset) => {
    expect(view(setUp(), offset, 4).getUint32(0)).toBe(0);
  });
});

describe('a new capacity (C3)', () => {
  it('VIRTIO 2.5.3: changes the generation, and the field', () => {
    const space = setUp();
    expect(space.resize(2 << 20)).toBe(true);
    expect(space.generation).toBe(1);
    expect(view(space).getBigUint64(0, true)).toBe(4096n);
  });

  it('leaves the generation alone when the driver sees no change', () => {
    const space = setUp();
    expect(space.resize((1 << 20) + 100)).toBe(false);
    expect(space.generation).toBe(0);
  });

  it('keeps the writeback byte', () => {
    const space = setUp();
    space.showWriteback(true);
    space.resize(2 << 20);
    expect(view(space).getUint8(32)).toBe(1);
  });

  it('wraps the generation at 32 bits', () => {
    const space = setUp();
    space.generation = 0xffff_ffff;
    space.resize(2 << 20);
    expect(space.generation).toBe(0);
  });
});

it('C2: only one byte at 32 is the writeback byte', () => {
  expect(isWritebackByte(32, 1)).toBe(true);
  expect([isWritebackByte(32, 4), isWritebackByte(31, 2), isWritebackByte(33, 1)]).toEqual([
    false,
    false,
    false,
  ]);
});
