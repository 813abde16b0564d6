// Many flights over a cache that holds few slices (V1, V2): without turns they throw out each
// other's slices for ever.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

import type { Disk } from '../../../src/disk.ts';
import { MemoryFile } from '../../../src/image/image-file.ts';
import { createImage } from '../../../src/image/qcow2/create.ts';
import { openDisk } from '../../../src/node.ts';
import { Random } from '../../../src/testing/random.ts';
import { BUILDS } from '../../support/engine.ts';

const CLUSTER_BYTES = 512;
/** 512 slices of L2 tables and as many of refcounts; the smallest cache has 64 and 32. */
const SIZE_BYTES = 16 * 1024 * 1024;
const REQUESTS = 2000;
const DEPTH = 256;
/** A request may find nothing in the cache, and once more when it goes on. */
const LOADS_OF_A_REQUEST = 4;

const folder = mkdtempSync(join(tmpdir(), 'sluice-turns-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function fullImage(): Promise<string> {
  const file = new MemoryFile();
  await createImage(file, { sizeBytes: SIZE_BYTES, clusterBits: 9, refcountOrder: 6 });
  const path = join(folder, 'full');
  writeFileSync(path, file.bytes);
  await using disk = await open(path);
  await disk.write(0, Buffer.alloc(SIZE_BYTES, 1));
  return path;
}

function open(path: string): Promise<Disk> {
  const { module } = BUILDS[0]!;
  return openDisk(path, { format: 'qcow2', writable: true, metadataCacheBytes: 0, module });
}

describe('flights that want more slices than the cache holds', () => {
  it('load few slices more than once', async () => {
    const path = await fullImage();
    await using disk = await open(path);
    const random = new Random(1);
    const block = Buffer.alloc(CLUSTER_BYTES, 2);
    let left = REQUESTS;
    const work = async (): Promise<void> => {
      while (left-- > 0) {
        const offset = random.below(SIZE_BYTES / CLUSTER_BYTES) * CLUSTER_BYTES;
        await disk.write(offset, block);
        const { l2Loads, refcountLoads } = disk.stats().tables!;
        expect(l2Loads + refcountLoads).toBeLessThan(REQUESTS * LOADS_OF_A_REQUEST);
      }
    };
    await Promise.all(Array.from({ length: DEPTH }, work));
    expect(disk.stats().tables!.l2Loads).toBeGreaterThan(REQUESTS / 4);
  });
});
