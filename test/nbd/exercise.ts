/** Work for the client: what it reads from a server is what it wrote there. */

import { expect } from 'vitest';
import { NbdClient } from '../../src/nbd/client/client.ts';
import { Random } from '../engine/random.ts';
import { pattern } from './wire.ts';

/** Bytes of the export. */
export const SIZE = 8 * 2 ** 20;
const KIB_64 = 65_536;
const STEPS = 60;

/** Writes and reads at random, side by side where they do not meet, and compares with a twin. */
export async function exercise(uri: string, seed: number): Promise<void> {
  const random = new Random(seed);
  const twin = Buffer.alloc(SIZE);
  await using client = await NbdClient.connect(uri);
  expect(client.size).toBe(SIZE);
  expect(SIZE % client.minimumBlockBytes).toBe(0);
  for (let step = 0; step < STEPS; step++) {
    // Four quarters, each with a write or zeroes that begin at a block.
    const work = [0, 1, 2, 3].map(async (quarter) => {
      const base = (quarter * SIZE) / 4;
      const start = base + random.below(16) * KIB_64;
      const length = 1 + random.below(base + SIZE / 4 - start);
      if (random.below(3) === 0) {
        twin.fill(0, start, start + length);
        return await client.writeZeroes(start, length);
      }
      const data = pattern(length, random.below(256));
      data.copy(twin, start);
      await client.write(start, data);
    });
    await Promise.all(work);
    const reads = [0, 1, 2, 3].map(async () => {
      const start = random.below(SIZE);
      const into = new Uint8Array(random.below(SIZE - start + 1));
      await client.read(start, into);
      expect(Buffer.compare(into, twin.subarray(start, start + into.length))).toBe(0);
    });
    await Promise.all(reads);
  }
  await client.flush();
  let end = 0;
  for await (const { start, length, kind } of client.extents()) {
    expect(start).toBe(end);
    end += length;
    if (kind === 'zero') expect(twin.subarray(start, end).every((byte) => byte === 0)).toBe(true);
  }
  expect(end).toBe(SIZE);
}
