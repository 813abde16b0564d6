import { describe, expect, it } from 'vitest';

import { openFileBackend } from '../../src/backend/file.ts';
import { Driver, expectSame, pattern } from './driver.ts';
import { hasDirect, scratchFile, scratchFolder } from './scratch.ts';

const EBADF = 9;
const MIB = 1024 * 1024;
const folder = scratchFolder();

describe('the twin of a file backend', () => {
  it('reads and writes the same file from a memory of its own', async () => {
    const file = await openFileBackend(scratchFile(folder), { writable: true });
    const [one, other] = [new Driver(file), new Driver(file.twin())];
    expect(await one.write(4096, pattern(4096))).toBe(0);
    expectSame(await other.read(4096, 4096), pattern(4096));
    expect(await other.write(0, pattern(512, 2), true)).toBe(0);
    expectSame(await one.read(0, 512), pattern(512, 2));
    await file.close();
  });

  it('sees the file grow, and ends with it', async () => {
    const file = await openFileBackend(scratchFile(folder), { writable: true });
    const twin = file.twin();
    const [one, other] = [new Driver(file), new Driver(twin)];
    expect(await other.write(MIB, pattern(512))).toBe(22);
    expect(await one.extend(2 * MIB)).toBe(0);
    expect(twin.sizeBytes).toBe(2 * MIB);
    expect(await other.write(MIB, pattern(512))).toBe(0);
    await Promise.all([twin.close(), file.close()]);
    expect(await one.write(0, pattern(512))).toBe(EBADF);
    expect(await other.sync()).toBe(EBADF);
  });

  it('takes turns with it where both write a part of a block', async (context) => {
    if (!hasDirect(folder)) context.skip('the file system of the temporary folder has no O_DIRECT');
    const path = scratchFile(folder);
    const file = await openFileBackend(path, { writable: true, direct: true });
    const drivers = [new Driver(file), new Driver(file.twin())];
    const unit = file.blockSizeBytes / 8;
    const expected = new Uint8Array(MIB);
    const writes: Promise<number>[] = [];
    for (let index = 0; index < 64; index++) {
      const bytes = pattern(unit, index);
      expected.set(bytes, index * unit);
      const address = 65536 + index * 4096;
      const driver = drivers[index % 2]!;
      writes.push(driver.write(index * unit, bytes, false, address));
    }
    expect(await Promise.all(writes)).toEqual(writes.map(() => 0));
    expectSame(await drivers[0]!.read(0, MIB), expected);
    await file.close();
  });
});
