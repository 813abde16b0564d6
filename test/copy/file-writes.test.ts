/** Writes of copies: here while that is fast, elsewhere when it is not; others have their turn. */
import { readFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';

import { FileWrites } from '../../src/copy/file-writes.ts';
import { SluiceError } from '../../src/errors.ts';
import { imageFolder } from '../image/scratch.ts';

const PART_BYTES = 4096;
const SLOW_MS = 50;

afterEach(() => {
  vi.restoreAllMocks();
});

/** Writes that wait for each other, of different bytes. */
async function writeMany(writes: FileWrites, count: number): Promise<Buffer> {
  const parts = Array.from({ length: count }, (_, index) =>
    Buffer.alloc(PART_BYTES, (index % 255) + 1),
  );
  for (const [index, part] of parts.entries()) await writes.write(index * PART_BYTES, part);
  return Buffer.concat(parts);
}

/** Each look at the clock is `ms` later than the one before it. */
function slowClock(ms: number): void {
  let now = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => (now += ms));
}

/** Calls on the pool. */
function pooledCalls(handle: FileHandle) {
  return vi.spyOn(handle, 'writev');
}

describe('writes of a copy', () => {
  it('are made on the calling thread while they are fast', async () => {
    const path = join(imageFolder(), 'fast');
    const handle = await open(path, 'wx+');
    vi.spyOn(performance, 'now').mockReturnValue(0);
    const pooled = pooledCalls(handle);
    const bytes = await writeMany(new FileWrites({ handle, isBlockDevice: false }, path), 100);
    expect(pooled).not.toHaveBeenCalled();
    await handle.close();
    expect(readFileSync(path).equals(bytes)).toBe(true);
  });

  it('are made on the pool after one was slow, longer each time', async () => {
    const path = join(imageFolder(), 'slow');
    const handle = await open(path, 'wx+');
    slowClock(SLOW_MS);
    const pooled = pooledCalls(handle);
    // One here, 16 on the pool, one here, 32 on the pool, one here, 49 of 64 on the pool.
    const bytes = await writeMany(new FileWrites({ handle, isBlockDevice: false }, path), 100);
    expect(pooled).toHaveBeenCalledTimes(97);
    await handle.close();
    expect(readFileSync(path).equals(bytes)).toBe(true);
  });

  it('fail when nothing is written, rather than going on for ever', async () => {
    const path = join(imageFolder(), 'nothing');
    const handle = await open(path, 'wx+');
    slowClock(SLOW_MS);
    vi.spyOn(handle, 'writev').mockResolvedValue({ bytesWritten: 0, buffers: [] });
    const writes = new FileWrites({ handle, isBlockDevice: false }, path);
    await writes.write(0, Buffer.alloc(PART_BYTES));
    const failed = writes.write(PART_BYTES, Buffer.alloc(PART_BYTES));
    await expect(failed).rejects.toMatchObject({ code: 'ERR_SLUICE_IO', offset: PART_BYTES });
    await handle.close();
  });

  it('fail with what the system said, here as on the pool', async () => {
    for (const isSlow of [false, true]) {
      if (isSlow) slowClock(SLOW_MS);
      const handle = await open('/dev/full', 'r+');
      const writes = new FileWrites({ handle, isBlockDevice: true }, '/dev/full');
      for (const offset of [0, PART_BYTES]) {
        const failed = writes.write(offset, Buffer.alloc(PART_BYTES));
        await expect(failed).rejects.toThrow(SluiceError);
        await expect(failed).rejects.toMatchObject({ code: 'ERR_SLUICE_NO_SPACE', offset });
      }
      await handle.close();
    }
  });
});
