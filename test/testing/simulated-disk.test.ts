import { describe, expect, it } from 'vitest';
import { EXTENT_HOLE, EXTENT_ZERO } from '../../src/abi/request.ts';
import { Disk } from '../../src/disk.ts';
import { SluiceError } from '../../src/errors.ts';
import { SimulatedDisk } from '../../src/testing/simulated-disk.ts';
import type { SimulatedDiskOptions } from '../../src/testing/simulated-disk-options.ts';
import { DATA, Driver, expectSame, pattern } from '../backend/driver.ts';

const SIZE = 65536;
const EFAULT = 14;
const EINVAL = 22;
const EROFS = 30;
const ENOTSUP = 95;

function create(options: Partial<SimulatedDiskOptions> = {}) {
  const disk = new SimulatedDisk({ sizeBytes: SIZE, seed: 1, clock: 'manual', ...options });
  return { disk, driver: new Driver(disk) };
}

/** Runs the disk until what was asked is answered. */
async function settle<T>(disk: SimulatedDisk, asked: Promise<T>): Promise<T> {
  disk.run();
  return asked;
}

const filled = (value: number, length = 512): Uint8Array => new Uint8Array(length).fill(value);

describe('the clock of a simulated disk (D1)', () => {
  const latency = { read: 30, write: 10, stableWrite: 25, discard: 25, sync: 100 };

  it('answers in the order of due times, and of coming where they are equal', () => {
    const { disk, driver } = create({ latency });
    void driver.sync(); // 1
    void driver.tryRead(0, 512); // 2
    void driver.discard(4096, 512); // 3
    void driver.write(1024, filled(1), true); // 4
    void driver.write(2048, filled(2)); // 5
    expect(disk.inFlight.map(({ id }) => id)).toEqual([5, 3, 4, 2, 1]);
    disk.run();
    expect(driver.answered).toEqual([5, 3, 4, 2, 1]);
    expect(disk.now).toBe(100);
  });

  it('goes one answer a step, and stands when there is none', () => {
    const { disk, driver } = create({ latency });
    void driver.tryRead(0, 512);
    void driver.write(512, filled(1));
    expect(disk.step()).toMatchObject({ id: 2, op: 'write', offset: 512 });
    expect([disk.now, driver.answered]).toEqual([10, [2]]);
    expect(disk.step()?.id).toBe(1);
    expect(disk.now).toBe(30);
    expect(disk.step()).toBeUndefined();
    expect(disk.now).toBe(30);
  });

  it('runs until a time, which it has then; what comes in later is due later', () => {
    const { disk, driver } = create({ latency });
    void driver.tryRead(0, 512);
    void driver.sync();
    disk.runUntil(29);
    expect([disk.now, driver.answered]).toEqual([29, []]);
    disk.runUntil(30);
    expect(driver.answered).toEqual([1]);
    void driver.write(0, filled(1));
    disk.runUntil(1000);
    expect([disk.now, driver.answered]).toEqual([1000, [1, 3, 2]]);
    expect(disk.log.at(-1)).toMatchObject({ at: 100, event: 'answered', op: 'sync' });
    expect(() => disk.runUntil(999)).toThrow(SluiceError);
  });

  it('runs by itself, one answer in a turn of the event loop', async () => {
    const { disk, driver } = create({ latency, clock: 'automatic' });
    const read = driver.tryRead(0, 512);
    void driver.sync();
    await read;
    // What the answer leads to comes in before the next answer.
    await driver.write(0, filled(1));
    expect(driver.answered).toEqual([1, 3]);
    await driver.sync();
    expect([driver.answered, disk.now]).toEqual([[1, 3, 2, 4], 140]);
  });

  it('takes latencies from a range, by the seed', () => {
    const times = (seed: number): number[] => {
      const { disk, driver } = create({ seed, latency: { write: [10, 12] } });
      return Array.from({ length: 50 }, (_, index) => {
        const before = disk.now;
        void driver.write(512 * index, filled(1));
        disk.run();
        return disk.now - before;
      });
    };
    expect(new Set(times(1))).toEqual(new Set([10, 11, 12]));
    expect(times(1)).toEqual(times(1));
    expect(times(1)).not.toEqual(times(2));
  });
});

describe('a simulated disk', () => {
  it('is a backend under a Disk as it is', async () => {
    const backend = new SimulatedDisk({ sizeBytes: SIZE, seed: 1 });
    const disk = new Disk(backend);
    await disk.write(1000, pattern(5000));
    await disk.flush();
    expectSame(await disk.read(1000, 5000), pattern(5000));
    await disk.writeZeroes(1024, 512);
    expectSame(await disk.read(1024, 512), filled(0));
    await disk.close();
    expect(backend.closed).toBe(true);
    expect(backend.conflicts).toEqual([]);
  });

  it('keeps the rest of a sector that is written in part', async () => {
    const { disk, driver } = create({ contents: pattern(2048) });
    await settle(disk, driver.write(700, filled(9, 400)));
    const expected = pattern(2048);
    expected.fill(9, 700, 1100);
    expectSame(await settle(disk, driver.read(0, 2048)), expected);
    await settle(disk, driver.zero(1000, 800));
    expectSame(disk.contents().subarray(0, 2048), expected.fill(0, 1000, 1800));
  });

  it('moves segments in their order, and shows pages of zeroes as holes', async () => {
    const { disk, driver } = create();
    driver.bytes.set(pattern(600, 1), DATA);
    driver.bytes.set(pattern(700, 2), DATA + 1000);
    const table = driver.table([
      [DATA + 1000, 700],
      [DATA, 600],
    ]);
    await settle(
      disk,
      driver.run((id) => disk.write(id, 10_000, 1300, 2, table, false)),
    );
    expectSame(disk.contents().subarray(10_000, 10_700), pattern(700, 2));
    expectSame(disk.contents().subarray(10_700, 11_300), pattern(600, 1));
    const hole = EXTENT_HOLE | EXTENT_ZERO;
    expect(await settle(disk, driver.status(0, SIZE))).toEqual([
      [8192, hole],
      [4096, 0],
      [SIZE - 12_288, hole],
    ]);
  });

  it('makes of discarded sectors what nobody wrote, and leaves those in part alone', async () => {
    const { disk, driver } = create({ contents: filled(7, 4096) });
    await settle(disk, driver.discard(500, 1600));
    const found = disk.contents();
    expectSame(found.subarray(0, 512), filled(7));
    expectSame(found.subarray(2048, 4096), filled(7, 2048));
    const discarded = found.subarray(512, 2048);
    expect(new Set(discarded).size).toBeGreaterThan(100);
    expectSame(disk.contents().subarray(512, 2048), discarded);
  });

  it('keeps thousands of contents apart', async () => {
    const unique = (round: number): Uint8Array => {
      const bytes = pattern(SIZE, round);
      const view = new DataView(bytes.buffer);
      for (let at = 0; at < SIZE; at += 512) view.setUint32(at, round * SIZE + at);
      return bytes;
    };
    const { disk, driver } = create();
    for (let round = 0; round < 40; round++) {
      await settle(disk, driver.write(0, unique(round)));
      if (round % 8 === 0) await settle(disk, driver.sync());
    }
    expectSame(disk.contents(), unique(39));
    const [stable] = disk.crashStates({ limit: 1 });
    expectSame(stable!.contents(), unique(32));
  });

  it('notes commands that must not be in flight together', () => {
    const { disk, driver } = create({ blockSizeBytes: 4096 });
    void driver.write(0, filled(1));
    void driver.write(4096, filled(1));
    expect(disk.conflicts).toEqual([]);
    void driver.tryRead(512, 512);
    expect(disk.conflicts.map(([a, b]) => [a.id, b.id])).toEqual([[1, 3]]);
  });

  it('refuses what no disk can do', async () => {
    const { disk, driver } = create({ fastZeroes: false });
    expect((await settle(disk, driver.tryRead(SIZE - 1, 2))).errno).toBe(EINVAL);
    expect((await settle(disk, driver.tryRead(0, 512, driver.bytes.length - 1))).errno).toBe(
      EFAULT,
    );
    expect(await settle(disk, driver.zero(0, 512, false, true))).toBe(ENOTSUP);
    const readOnly = create({ readOnly: true });
    expect(await settle(readOnly.disk, readOnly.driver.write(0, filled(1)))).toBe(EROFS);
    expectSame(readOnly.disk.contents(), filled(0, SIZE));
  });

  it('has the shape that it is given', () => {
    const usual = new SimulatedDisk({ sizeBytes: SIZE, seed: 1 });
    expect(usual).toMatchObject({ sizeBytes: SIZE, blockSizeBytes: 512, depth: 256, fua: true });
    const odd = { sizeBytes: SIZE, seed: 1, blockSizeBytes: 4096, depth: 3, fua: false };
    expect(new SimulatedDisk(odd)).toMatchObject({ blockSizeBytes: 4096, depth: 3, fua: false });
  });
});

describe('the log of a simulated disk (D3)', () => {
  async function logOf(seed: number): Promise<string> {
    const faults = { eio: { probability: 0.2 }, slow: { nth: 3, micros: [10, 5000] } } as const;
    const backend = new SimulatedDisk({ sizeBytes: SIZE, seed, faults });
    const disk = new Disk(backend);
    const work = Array.from({ length: 40 }, (_, index) => [
      disk.write((index % 16) * 4096, pattern(4096, index)),
      index % 5 === 0 ? disk.flush() : disk.discard(index * 1024, 1024),
    ]);
    const ends = await Promise.allSettled(work.flat());
    const contents = backend.contents();
    const left = backend.cutPower().contents();
    const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
    return JSON.stringify([
      ends.map(({ status }) => status),
      hex(contents),
      hex(left),
      backend.log,
    ]);
  }

  it('is the same, byte for byte, for the same seed and the same calls', async () => {
    const first = await logOf(42);
    expect(first).toContain('"faults":["eio"]');
    expect(first).toContain('"faults":["slow"]');
    expect(first).toContain('power cut');
    expect(await logOf(42)).toBe(first);
    expect(await logOf(43)).not.toBe(first);
  });

  it('says what came in, when it was due, and what was answered', () => {
    const { disk, driver } = create({ latency: { write: 10, sync: 90 } });
    void driver.write(512, filled(1));
    void driver.sync();
    disk.run();
    expect(disk.log).toEqual([
      { at: 0, event: 'taken', id: 1, op: 'write', offset: 512, length: 512, due: 10 },
      { at: 0, event: 'taken', id: 2, op: 'sync', due: 90 },
      { at: 10, event: 'answered', id: 1, op: 'write', errno: 0 },
      { at: 90, event: 'answered', id: 2, op: 'sync', errno: 0 },
    ]);
  });
});

describe('an option that makes no sense', () => {
  const shape = { sizeBytes: SIZE, seed: 1 };
  it.each<[string, object]>([
    ['sizeBytes must be a whole number from 512', { ...shape, sizeBytes: 0 }],
    ['sizeBytes must be a multiple of 512, not 1000', { ...shape, sizeBytes: 1000 }],
    ['sizeBytes must be a multiple of 4096', { ...shape, sizeBytes: 512, blockSizeBytes: 4096 }],
    ['blockSizeBytes must be a whole number from 512', { ...shape, blockSizeBytes: 1 }],
    ['blockSizeBytes must be a power of two', { ...shape, blockSizeBytes: 1536 }],
    ['seed must be a whole number', { ...shape, seed: 0.5 }],
    ['seed must be a whole number', { sizeBytes: SIZE }],
    ['do not fit a disk of 65536', { ...shape, contents: new Uint8Array(SIZE + 1) }],
    ['clock must be automatic or manual, not real', { ...shape, clock: 'real' }],
    ['not for writes', { ...shape, latency: { writes: 1 } }],
    ['latency.write in microseconds', { ...shape, latency: { write: -1 } }],
    ['latency.write in microseconds', { ...shape, latency: { write: [5, 4] } }],
    ['a fault is one of eio', { ...shape, faults: { ebadf: true } }],
    ['is about sync, not about write', { ...shape, faults: { failingSync: { ops: ['write'] } } }],
    ['probability must be from 0 to 1', { ...shape, faults: { eio: { probability: 2 } } }],
    ['nth counts from 1', { ...shape, faults: { eio: { nth: 0 } } }],
    ['sectors must be [first, end)', { ...shape, faults: { eio: { sectors: [2, 2] } } }],
    ['a sync has no sectors', { ...shape, faults: { failingSync: { sectors: [0, 2] } } }],
    ['faults.slow.micros', { ...shape, faults: { slow: { micros: -1 } } }],
  ])('is refused: %s', (message, options) => {
    const make = (): SimulatedDisk => new SimulatedDisk(options as SimulatedDiskOptions);
    expect(make).toThrow(message);
    expect(make).toThrow(expect.objectContaining({ code: 'ERR_SLUICE_INVALID_ARGUMENT' }));
  });
});
