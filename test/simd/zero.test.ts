import { beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../../bench/random.ts';
import { FLAVOURS, openKernels, type KernelMemory } from './kernel-memory.ts';

const BUFFER = 65536;

describe.each(FLAVOURS)('isZero, %s build', (flavour) => {
  let kernels: KernelMemory;
  beforeAll(async () => {
    kernels = await openKernels(flavour);
  });

  function isZero(address: number, lengthBytes: number): boolean {
    return kernels.exports.isZero(address, lengthBytes) !== 0;
  }

  it('finds zeroes among other bytes, for every length and alignment', () => {
    kernels.fill();
    for (let length = 0; length <= 600; length++) {
      for (const address of [BUFFER, BUFFER + 1 + (length % 15)]) {
        kernels.bytes.fill(0, address, address + length);
        expect(isZero(address, length)).toBe(true);
        kernels.bytes.fill(0xa5, address, address + length);
        expect(isZero(address, length)).toBe(length === 0);
      }
    }
  });

  it('sees a single bit at every place', () => {
    const lengths = [1, 7, 15, 16, 17, 31, 32, 33, 127, 128, 129, 255, 256, 257, 300, 512];
    for (const length of lengths) {
      const address = BUFFER + (length % 16);
      kernels.fill();
      kernels.bytes.fill(0, address, address + length);
      for (let at = address; at < address + length; at++) {
        kernels.bytes[at] = 1 << (at & 7);
        expect(isZero(address, length)).toBe(false);
        kernels.bytes[at] = 0;
      }
    }
  });

  it('agrees with a plain loop on thousands of random parts', () => {
    const random = new Random(3);
    const { bytes } = kernels;
    bytes.fill(0);
    for (let i = 0; i < 64; i++) bytes[BUFFER + random.below(65536)] = 1 + random.below(255);
    for (let round = 0; round < 5000; round++) {
      const address = BUFFER + random.below(60000);
      const length = random.below(5000) >>> random.below(10);
      const plain = bytes.subarray(address, address + length).every((byte) => byte === 0);
      if (isZero(address, length) !== plain) expect({ address, length }).toEqual(plain);
    }
  });

  it('reads nothing beyond its bytes and writes nothing', () => {
    // At the end of the memory a read of one byte too many would trap.
    const { bytes } = kernels;
    bytes.fill(0);
    for (let length = 0; length <= 300; length++)
      expect(isZero(bytes.length - length, length)).toBe(true);
    expect(isZero(0, bytes.length)).toBe(true);
    expect(Buffer.from(bytes).equals(Buffer.alloc(bytes.length))).toBe(true);
  });
});
