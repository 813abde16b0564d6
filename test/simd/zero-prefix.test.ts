import { beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../../bench/random.ts';
import { FLAVOURS, openKernels, type KernelMemory } from './kernel-memory.ts';

const BUFFER = 65536;

describe.each(FLAVOURS)('zeroPrefix, %s build', (flavour) => {
  let kernels: KernelMemory;
  beforeAll(async () => {
    kernels = await openKernels(flavour);
  });

  it('stops at the first byte that is not zero, wherever that is', () => {
    const { bytes, exports } = kernels;
    for (const length of [0, 1, 15, 16, 17, 31, 32, 33, 64, 100, 512]) {
      for (const address of [BUFFER, BUFFER + 1, BUFFER + 13]) {
        kernels.fill();
        bytes.fill(0, address, address + length);
        expect(exports.zeroPrefix(address, length)).toBe(length);
        for (let at = 0; at < length; at++) {
          bytes[address + at] = 1 << (at & 7);
          expect(exports.zeroPrefix(address, length)).toBe(at);
          bytes[address + at] = 0;
        }
      }
    }
  });

  it('says what a plain loop says about thousands of random parts', () => {
    const random = new Random(5);
    const { bytes, exports } = kernels;
    bytes.fill(0);
    for (let i = 0; i < 600; i++) bytes[BUFFER + random.below(65536)] = 1 + random.below(255);
    for (let round = 0; round < 5000; round++) {
      const address = BUFFER + random.below(60000);
      const length = random.below(5000) >>> random.below(10);
      const first = bytes.subarray(address, address + length).findIndex((byte) => byte !== 0);
      const wanted = first < 0 ? length : first;
      const found = exports.zeroPrefix(address, length);
      if (found !== wanted) expect({ address, length, found }).toEqual(wanted);
    }
  });

  it('reads nothing behind its bytes and writes nothing', () => {
    const { bytes, exports } = kernels;
    bytes.fill(0);
    for (let length = 0; length <= 100; length++) {
      expect(exports.zeroPrefix(bytes.length - length, length)).toBe(length);
    }
    expect(Buffer.from(bytes).equals(Buffer.alloc(bytes.length))).toBe(true);
  });
});
