// The images that the fuzzer begins with are sound, and read as it thinks.

import { describe, expect, it } from 'vitest';
import { checkBytes } from '../../../src/image/qcow2/check.ts';
import { parseHeader } from '../../../src/image/qcow2/header.ts';
import { guestSize, readGuest } from '../../model/qcow2.ts';
import { imageOf } from './image.ts';
import { setupOf } from './input.ts';
import type { ImageShape } from './shape.ts';

/** Shapes of setups that differ in one byte or two. */
function shapes(): ImageShape[] {
  const found = new Map<string, ImageShape>();
  for (let size = 0; size < 8; size++) {
    for (const [at, count] of [
      [2, 80],
      [3, 72],
      [4, 96],
      [5, 72],
    ] as const) {
      for (let value = 0; value < count; value++) {
        const bytes = Uint8Array.from([0, size, 0, 0, 4, 0]);
        bytes[at] = value;
        const { shape } = setupOf(bytes);
        found.set(JSON.stringify(shape), shape);
      }
    }
  }
  return [...found.values()];
}

describe('the images of the fuzzer', () => {
  it('have nothing that the checker could find, and read as they should', () => {
    const all = shapes();
    expect(all.length).toBeGreaterThan(250);
    for (const shape of all) {
      const { image, backing, data, disk } = imageOf(shape);
      const report = checkBytes(image, parseHeader(image, 'image'));
      expect({ shape, findings: report.findings }).toEqual({ shape, findings: [] });
      if (shape.files.includes('ciphered')) continue;
      const found = readGuest(image, backing, 0, guestSize(image), data);
      expect({ shape, same: Buffer.compare(found, disk) }).toEqual({ shape, same: 0 });
    }
  });

  it('fill their refcount table when they are asked to', () => {
    const { shape } = setupOf(Uint8Array.from([0, 0, 0, 0, 0xff]));
    const { image } = imageOf(shape);
    expect(shape.isFull).toBe(true);
    expect(image.length).toBe(4096 * 512);
    expect(checkBytes(image, parseHeader(image, 'image')).findings).toEqual([]);
  });
});
