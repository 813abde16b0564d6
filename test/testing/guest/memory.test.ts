import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../../../src/testing/guest/index.ts';

const HIGH = 0x7f59_7f22_a000n;
const TOP = (1n << 64n) - 4096n;

function threeRegions(): GuestMemory {
  return new GuestMemory(new ArrayBuffer(65536), [
    { guestAddress: HIGH, sizeBytes: 4096, address: 8192 },
    { guestAddress: 0n, sizeBytes: 4096, address: 32768 },
    { guestAddress: TOP, sizeBytes: 4096, address: 0 },
  ]);
}

describe('GuestMemory', () => {
  it('knows each byte by its place and by its guest address', () => {
    const memory = threeRegions();
    for (const [place, address] of [
      [8192, HIGH],
      [12287, HIGH + 4095n],
      [32769, 1n],
      [4095, (1n << 64n) - 1n],
    ] as const) {
      expect(memory.addressOf(place)).toBe(address);
      expect(memory.placeOf(address)).toBe(place);
      memory.setU8(address, place & 0xff);
      expect(memory.getU8(place)).toBe(place & 0xff);
    }
  });

  it('maps a range only when one region holds all of it', () => {
    const memory = threeRegions();
    expect(memory.placeOf(HIGH - 1n)).toBeUndefined();
    expect(memory.placeOf(HIGH + 4000n, 96)).toBe(12192);
    expect(memory.placeOf(HIGH + 4000n, 97)).toBeUndefined();
    expect(() => memory.getU32(4094n)).toThrow(/0xffe, 4 bytes, is not mapped/);
    expect(() => memory.addressOf(5000)).toThrow(/place 5000/);
  });

  it('reads and writes little-endian, at any alignment', () => {
    const memory = threeRegions();
    memory.setU64(HIGH + 1n, 0x0102_0304_0506_0708n);
    expect([...memory.bytes(HIGH, 10)]).toEqual([0, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
    expect(memory.getU64(HIGH + 1n)).toBe(0x0102_0304_0506_0708n);
    memory.setU16(3n, 0xabcd);
    memory.setU32(5n, 0x8000_0001);
    expect([memory.getU16(3n), memory.getU32(5n)]).toEqual([0xabcd, 0x8000_0001]);
    memory.write(100n, Uint8Array.of(1, 2));
    expect(memory.getU16(100n)).toBe(0x0201);
  });

  it('goes on over a WebAssembly.Memory that has grown', () => {
    const wasm = new WebAssembly.Memory({ initial: 1 });
    const memory = new GuestMemory(wasm, [{ guestAddress: 16n, sizeBytes: 4096, address: 4096 }]);
    memory.setU32(16n, 7);
    wasm.grow(1);
    expect(memory.getU32(16n)).toBe(7);
    memory.setU32(20n, 8);
    expect(new DataView(wasm.buffer).getUint32(4100, true)).toBe(8);
  });

  it('lives in shared memory, a view, or what a function returns', () => {
    const shared = new WebAssembly.Memory({ initial: 1, maximum: 2, shared: true });
    const view = new Uint8Array(new ArrayBuffer(4096), 1024, 512);
    let buffer = new ArrayBuffer(4096);
    for (const memory of [
      new GuestMemory(shared),
      new GuestMemory(view),
      new GuestMemory(() => buffer),
    ]) {
      memory.setU32(8n, 5);
      expect(memory.getU32(8n)).toBe(5);
      expect(() => memory.getU8(65536n)).toThrow(/not mapped/);
    }
    expect(view[8]).toBe(5);
    const moved = new GuestMemory(() => buffer);
    buffer = new ArrayBuffer(4096);
    moved.setU8(0n, 9);
    expect(new Uint8Array(buffer)[0]).toBe(9);
  });

  it.each([
    ['no region', []],
    ['past the buffer', [{ guestAddress: 0n, sizeBytes: 65537, address: 0 }]],
    ['empty', [{ guestAddress: 0n, sizeBytes: 0, address: 0 }]],
    ['past the addresses', [{ guestAddress: TOP, sizeBytes: 4097, address: 0 }]],
    ['negative', [{ guestAddress: -16n, sizeBytes: 16, address: 0 }]],
    ['not aligned alike', [{ guestAddress: 8n, sizeBytes: 16, address: 0 }]],
    [
      'in the same place',
      [
        { guestAddress: 0n, sizeBytes: 4096, address: 0 },
        { guestAddress: 8192n, sizeBytes: 4096, address: 4080 },
      ],
    ],
    [
      'at the same addresses',
      [
        { guestAddress: 0n, sizeBytes: 4096, address: 0 },
        { guestAddress: 4080n, sizeBytes: 4096, address: 8176 },
      ],
    ],
  ])('refuses regions: %s', (_, regions) => {
    expect(() => new GuestMemory(new ArrayBuffer(65536), regions)).toThrow(
      expect.objectContaining({ code: 'ERR_SLUICE_INVALID_ARGUMENT' }),
    );
  });
});

describe('the allocator', () => {
  it('lends aligned blocks that do not overlap, and the same ones again', () => {
    const step = fc.record({
      length: fc.oneof(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 700 })),
      align: fc.constantFrom(16, 16, 64, 512),
      free: fc.option(fc.nat()),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
        const memory = threeRegions();
        const lent: { place: number; length: number }[] = [];
        for (const { length, align, free } of steps) {
          if (free !== null && lent.length > 0) {
            const [block] = lent.splice(free % lent.length, 1);
            memory.free(block!.place, block!.length);
            continue;
          }
          if (lent.length > 8) continue;
          const place = memory.allocate(length, align);
          expect(memory.addressOf(place) % BigInt(align)).toBe(0n);
          if (length > 0) expect(memory.addressOf(place + length - 1)).toBeDefined();
          for (const other of lent) {
            const apart = place >= other.place + other.length || other.place >= place + length;
            expect(apart).toBe(true);
          }
          lent.push({ place, length });
        }
      }),
    );
  });

  it('goes on in the next region, or takes the region that it is told', () => {
    const memory = threeRegions();
    expect(memory.addressOf(memory.allocate(4096))).toBe(HIGH);
    expect(memory.addressOf(memory.allocate(16))).toBe(0n);
    expect(memory.addressOf(memory.allocate(16, 16, 2))).toBe(TOP);
    expect(() => memory.allocate(16, 16, 0)).toThrow(/no room for 16 bytes/);
    memory.reset();
    expect(memory.addressOf(memory.allocate(16))).toBe(HIGH);
  });

  it('does not run dry when blocks of one size come and go', () => {
    const memory = threeRegions();
    for (let i = 0; i < 1000; i++) memory.free(memory.allocate(1000), 1000);
    expect(memory.allocateCleared(1000)).toBe(8192);
  });
});
