import { describe, expect, it } from 'vitest';

import { EXTENT_HOLE, EXTENT_ZERO } from '../../src/abi/request.ts';
import { MemoryBackend, type MemoryBackendOptions } from '../../src/backend/memory.ts';
import { SluiceError } from '../../src/errors.ts';
import { DATA, Driver, expectSame, pattern } from './driver.ts';

const EIO = 5;
const EFAULT = 14;
const EINVAL = 22;
const ENOSPC = 28;
const EROFS = 30;
const ENOTSUP = 95;
const SIZE = 65536;

function create(options: Partial<MemoryBackendOptions> = {}) {
  const backend = new MemoryBackend({ sizeBytes: SIZE, ...options });
  return { backend, driver: new Driver(backend) };
}

/** Bytes with one value. */
const filled = (value: number, length = 512): Uint8Array => new Uint8Array(length).fill(value);

describe('a memory disk', () => {
  it('answers at once and records what it was asked', async () => {
    const { backend, driver } = create();
    void driver.write(512, pattern(1000), true);
    expect(driver.inFlight).toBe(0);
    expectSame(await driver.read(512, 1000, DATA + 4096), pattern(1000));
    await driver.zero(0, 512, true, true);
    await driver.discard(512, 512);
    await driver.sync();
    expect(backend.log).toMatchObject([
      { id: 1, op: 'write', offset: 512, length: 1000, stable: true, segments: 1, data: DATA },
      { id: 2, op: 'read', offset: 512, length: 1000, stable: false },
      { id: 3, op: 'writeZeroes', offset: 0, length: 512, mayUnmap: true, fast: true },
      { id: 4, op: 'discard', offset: 512, length: 512 },
      { id: 5, op: 'sync', offset: 0, length: 0 },
    ]);
  });

  it('moves segments in their order', async () => {
    const { backend, driver } = create();
    driver.bytes.set(pattern(100, 1), DATA);
    driver.bytes.set(pattern(200, 2), DATA + 500);
    const table = driver.table([
      [DATA + 500, 200],
      [DATA, 100],
    ]);
    await driver.run((id) => backend.write(id, 7, 300, 2, table, false));
    expectSame(backend.volatile.subarray(7, 207), pattern(200, 2));
    expectSame(backend.volatile.subarray(207, 307), pattern(100, 1));
    driver.bytes.fill(0, DATA, DATA + 1000);
    await driver.run((id) => backend.read(id, 7, 300, 2, table));
    expectSame(driver.bytes.subarray(DATA, DATA + 100), pattern(100, 1));
  });

  it('shows pages of zeroes as holes', async () => {
    const { driver } = create();
    await driver.write(10_000, filled(1, 1));
    const hole = EXTENT_HOLE | EXTENT_ZERO;
    expect(await driver.status(0, SIZE)).toEqual([
      [8192, hole],
      [4096, 0],
      [SIZE - 12288, hole],
    ]);
    expect(await driver.status(12_287, 2)).toEqual([
      [1, 0],
      [1, hole],
    ]);
  });

  it('refuses what it cannot do', async () => {
    const { backend, driver } = create({ fastZeroes: false });
    expect((await driver.tryRead(SIZE - 1, 2)).errno).toBe(EINVAL);
    expect((await driver.tryRead(0, 512, driver.bytes.length - 1)).errno).toBe(EFAULT);
    expect(await driver.zero(0, 512, false, true)).toBe(ENOTSUP);
    const readOnly = create({ readOnly: true });
    expect(await readOnly.driver.write(0, filled(1))).toBe(EROFS);
    await backend.close();
    expect(backend.closed).toBe(true);
    const early = new MemoryBackend({ sizeBytes: SIZE });
    expect(() => early.sync(1)).toThrow(SluiceError);
  });
});

describe('held commands', () => {
  it('take effect when they are released, in any order', async () => {
    const { backend, driver } = create({ hold: true });
    void driver.write(0, filled(1), false, DATA);
    void driver.write(512, filled(2), false, DATA + 512);
    void driver.write(1024, filled(3), false, DATA + 1024);
    expect(backend.held.map(({ id }) => id)).toEqual([1, 2, 3]);
    expect(backend.volatile.every((byte) => byte === 0)).toBe(true);
    expect(backend.release(2)).toMatchObject({ id: 2, offset: 512 });
    expectSame(backend.volatile.subarray(512, 1024), filled(2));
    expect(backend.volatile[0]).toBe(0);
    expect(backend.release().id).toBe(1);
    backend.releaseAll();
    expect(driver.answered).toEqual([2, 1, 3]);
    expect(() => backend.release()).toThrow(SluiceError);
    backend.hold = false;
    expectSame(await driver.read(1024, 512), filled(3));
  });

  it('that share a granule and do not both read are noted', () => {
    const { backend, driver } = create({ hold: true, blockSizeBytes: 4096 });
    void driver.tryRead(0, 512);
    void driver.tryRead(512, 512);
    void driver.write(4096, filled(1));
    void driver.sync();
    expect(backend.conflicts).toEqual([]);
    void driver.write(8191, filled(1, 1));
    void driver.discard(512, 512);
    expect(backend.conflicts.map(([a, b]) => [a.id, b.id])).toEqual([
      [3, 5],
      [1, 6],
      [2, 6],
    ]);
  });
});

describe('faults', () => {
  it('hit the command they are for', async () => {
    const { backend, driver } = create();
    backend.fail('write', { nth: 2, errno: ENOSPC });
    backend.fail('read');
    expect(await driver.write(0, filled(1))).toBe(0);
    expect(await driver.write(512, filled(1))).toBe(ENOSPC);
    expect(await driver.write(512, filled(2))).toBe(0);
    expect((await driver.tryRead(0, 512)).errno).toBe(EIO);
    expect((await driver.tryRead(0, 512)).errno).toBe(0);
  });

  it('may leave a write half done', async () => {
    const { backend, driver } = create();
    backend.fail('write', { appliedBytes: 100 });
    expect(await driver.write(0, filled(9))).toBe(EIO);
    expectSame(backend.volatile.subarray(0, 512), filled(0).fill(9, 0, 100));
  });

  it('of a sync make nothing stable, and the next sync does not make up for it (M3)', async () => {
    const { backend, driver } = create();
    await driver.write(0, filled(1));
    backend.fail('sync');
    expect(await driver.sync()).toBe(EIO);
    expect(await driver.sync()).toBe(0);
    expect(backend.stable[0]).toBe(0);
    await driver.write(0, filled(2));
    expect(await driver.sync()).toBe(0);
    expect(backend.stable[0]).toBe(2);
  });
});

describe('the stable image', () => {
  it('has what was synced or written stably, and a power cut leaves that', async () => {
    const { backend, driver } = create();
    await driver.write(0, filled(1));
    await driver.write(512, filled(2), true);
    await driver.write(1024, filled(3));
    await driver.sync();
    await driver.write(1024, filled(4));
    await driver.zero(0, 512);
    expect([backend.stable[0], backend.stable[512], backend.stable[1024]]).toEqual([1, 2, 3]);
    backend.cutPower();
    expect([backend.volatile[0], backend.volatile[512], backend.volatile[1024]]).toEqual([1, 2, 3]);
    expect(await driver.sync()).toBe(0);
    expectSame(backend.stable, backend.volatile);
  });

  it('does not get the dirty neighbours of a stable write', async () => {
    const { backend, driver } = create();
    await driver.write(0, filled(1));
    await driver.write(512, filled(2), true);
    expect([backend.stable[0], backend.stable[512]]).toEqual([0, 2]);
  });

  it('gets from a sync what was answered before the sync was called (M2)', async () => {
    const { backend, driver } = create();
    await driver.write(0, filled(1));
    backend.hold = true;
    void driver.write(512, filled(2), false, DATA);
    void driver.sync();
    void driver.write(0, filled(3), false, DATA + 512);
    backend.release(2);
    backend.release(4);
    backend.release(3);
    expect([backend.stable[0], backend.stable[512]]).toEqual([1, 0]);
    void driver.sync();
    backend.releaseAll();
    expect([backend.stable[0], backend.stable[512]]).toEqual([3, 2]);
  });

  it('never goes back behind a stable write (S1) or a later sync (S2)', async () => {
    const { backend, driver } = create();
    await driver.write(0, filled(1));
    await driver.write(4096, filled(1));
    backend.hold = true;
    void driver.sync();
    void driver.write(0, filled(2), true, DATA);
    backend.release(4);
    void driver.write(4096, filled(2), false, DATA + 512);
    backend.release(5);
    void driver.sync();
    backend.release(6);
    expect([backend.stable[0], backend.stable[4096]]).toEqual([2, 2]);
    backend.release(3);
    expect([backend.stable[0], backend.stable[4096]]).toEqual([2, 2]);
  });

  it('is not changed by commands that a power cut caught', () => {
    const { backend, driver } = create({ hold: true });
    void driver.write(0, filled(1), true);
    void driver.sync();
    backend.cutPower();
    expect(backend.held).toEqual([]);
    expect(driver.inFlight).toBe(2);
    expect(backend.stable.every((byte) => byte === 0)).toBe(true);
  });
});
