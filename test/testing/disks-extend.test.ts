// Disks in memory that grow: what reads see, what a power cut leaves.

import { describe, expect, it } from 'vitest';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { SluiceError } from '../../src/errors.ts';
import { SimulatedDisk } from '../../src/testing/simulated-disk.ts';
import type { SimulatedDiskOptions } from '../../src/testing/simulated-disk-options.ts';
import { Driver, expectSame, pattern } from '../backend/driver.ts';

const EIO = 5;
const EINVAL = 22;
const ENOSPC = 28;
const EROFS = 30;
const SIZE = 4096;

const filled = (value: number, length = 512): Uint8Array => new Uint8Array(length).fill(value);

describe('an extend of a memory disk', () => {
  function create(options = {}) {
    const backend = new MemoryBackend({ sizeBytes: SIZE, ...options });
    return { backend, driver: new Driver(backend) };
  }

  it('makes it longer, never shorter, with zeroes', async () => {
    const { backend, driver } = create();
    backend.volatile.fill(7);
    expect((await driver.tryRead(SIZE, 512)).errno).toBe(EINVAL);
    expect(await driver.extend(2 * SIZE + 1)).toBe(0);
    expect(await driver.extend(SIZE / 2)).toBe(0);
    expect([backend.sizeBytes, backend.volatile.length]).toEqual([2 * SIZE + 1, 2 * SIZE + 1]);
    expectSame(await driver.read(SIZE, SIZE), new Uint8Array(SIZE));
    expect(backend.log.map(({ op, length }) => [op, length])).toContainEqual(['extend', SIZE / 2]);
    expect(backend.conflicts).toEqual([]);
  });

  it('is lost in a power cut without a later sync, with what was written there', async () => {
    const { backend, driver } = create();
    await driver.extend(2 * SIZE);
    await driver.write(SIZE, filled(1));
    backend.cutPower();
    expect([backend.sizeBytes, backend.volatile.length, backend.stable.length]).toEqual([
      SIZE,
      SIZE,
      SIZE,
    ]);
    expect(await driver.extend(2 * SIZE)).toBe(0);
    expectSame(await driver.read(SIZE, SIZE), new Uint8Array(SIZE));
  });

  it('is stable after a sync that was called later, and after a stable write', async () => {
    const { backend, driver } = create({ hold: true });
    const sync = driver.sync();
    const extended = driver.extend(2 * SIZE);
    backend.releaseAll();
    await Promise.all([sync, extended]);
    expect(backend.stable.length).toBe(SIZE);
    const later = driver.sync();
    backend.releaseAll();
    await later;
    backend.cutPower();
    expect(backend.sizeBytes).toBe(2 * SIZE);
    backend.hold = false;
    await driver.extend(3 * SIZE);
    await driver.write(2 * SIZE, pattern(512), true);
    backend.cutPower();
    expect(backend.sizeBytes).toBe(3 * SIZE);
    expectSame(await driver.read(2 * SIZE, 512), pattern(512));
  });

  it('fails on cue and on a read-only disk, and changes nothing then', async () => {
    const { backend, driver } = create();
    backend.fail('extend', { errno: ENOSPC });
    expect(await driver.extend(2 * SIZE)).toBe(ENOSPC);
    expect(backend.sizeBytes).toBe(SIZE);
    expect(await create({ readOnly: true }).driver.extend(2 * SIZE)).toBe(EROFS);
  });
});

describe('an extend of a simulated disk', () => {
  const latency = { read: 10, write: 10, stableWrite: 10, sync: 30, extend: 20 };

  function create(options: Partial<SimulatedDiskOptions> = {}) {
    const shape = { sizeBytes: SIZE, mostBytes: 4 * SIZE, seed: 3, clock: 'manual' } as const;
    const disk = new SimulatedDisk({ ...shape, latency, ...options });
    return { disk, driver: new Driver(disk) };
  }

  /** Size and first byte behind SIZE, of each state; and whether these are all. */
  function statesOf(disk: SimulatedDisk, limit?: number) {
    const states: string[] = [];
    const found = disk.crashStates(limit === undefined ? {} : { limit });
    for (let next = found.next(); ; next = found.next()) {
      if (next.done === true) return { states, all: next.value };
      const contents = next.value.contents();
      const restarted = next.value.restart();
      expect(restarted.sizeBytes).toBe(contents.length);
      expectSame(restarted.contents(), contents);
      states.push(`${contents.length / SIZE}:${contents[SIZE] ?? ''}`);
    }
  }

  it('takes its time, then the disk is longer, in whole blocks and with zeroes', async () => {
    const { disk, driver } = create({ blockSizeBytes: 1024, contents: filled(7, SIZE) });
    const extended = driver.extend(SIZE + 1);
    expect(disk.sizeBytes).toBe(SIZE);
    disk.run();
    expect(await extended).toBe(0);
    expect([disk.sizeBytes, disk.now]).toEqual([SIZE + 1024, 20]);
    expectSame(disk.contents(), Uint8Array.from([...filled(7, SIZE), ...filled(0, 1024)]));
    void driver.extend(512);
    disk.run();
    expect(disk.sizeBytes).toBe(SIZE + 1024);
  });

  it('may be left by a power cut from its beginning on, or not, until a later sync', () => {
    const { disk, driver } = create();
    expect(statesOf(disk)).toEqual({ states: ['1:'], all: true });
    void driver.extend(2 * SIZE);
    expect(statesOf(disk)).toEqual({ states: ['1:', '2:0'], all: true });
    disk.run();
    void driver.write(SIZE, filled(5));
    void driver.sync();
    // The write is not covered by the sync, the size is.
    expect(statesOf(disk)).toEqual({ states: ['1:', '2:0', '2:5'], all: true });
    disk.run();
    expect(statesOf(disk)).toEqual({ states: ['2:0', '2:5'], all: true });
    void driver.sync();
    disk.run();
    expect(statesOf(disk)).toEqual({ states: ['2:5'], all: true });
  });

  it('stays volatile through a sync that began before its answer', () => {
    const { disk, driver } = create();
    void driver.extend(2 * SIZE);
    void driver.sync();
    disk.run();
    expect(statesOf(disk).states).toEqual(['1:', '2:0']);
  });

  it('is stable with a stable write', () => {
    const { disk, driver } = create();
    void driver.extend(2 * SIZE);
    disk.run();
    void driver.write(SIZE, filled(5), true);
    disk.run();
    expect(statesOf(disk)).toEqual({ states: ['2:5'], all: true });
  });

  it('has a share of the limit for each size', () => {
    const { disk, driver } = create();
    for (const count of [2, 3, 4]) {
      void driver.extend(count * SIZE);
      disk.run();
      void driver.write((count - 1) * SIZE, filled(count));
      disk.run();
    }
    const { states, all } = statesOf(disk, 4);
    expect([states.map((state) => state[0]), all]).toEqual([['1', '2', '3', '4'], false]);
    expect(statesOf(disk, 2).states.map((state) => state[0])).toEqual(['1', '2']);
    expect(statesOf(disk)).toMatchObject({ all: true });
    expect(new Set(statesOf(disk).states.map((state) => state[0])).size).toBe(4);
  });

  it('is there or not after a power cut and after a kill, by the seed', () => {
    const sizes = { cut: new Set<number>(), kill: new Set<number>() };
    for (let seed = 0; seed < 20; seed++) {
      const { disk, driver } = create({ seed });
      void driver.extend(2 * SIZE);
      disk.run();
      const { disk: other, driver: otherDriver } = create({ seed });
      void otherDriver.extend(2 * SIZE);
      sizes.cut.add(disk.cutPower().sizeBytes / SIZE);
      sizes.kill.add(other.killProcess().sizeBytes / SIZE);
    }
    expect(sizes).toEqual({ cut: new Set([1, 2]), kill: new Set([1, 2]) });
    // What was answered outlives a kill, and a power cut after it may still undo it.
    const { disk, driver } = create();
    void driver.extend(2 * SIZE);
    disk.run();
    const killed = disk.killProcess();
    expect([killed.sizeBytes, statesOf(killed).states]).toEqual([2 * SIZE, ['1:', '2:0']]);
  });

  it('fails where the disk cannot grow further, on a read-only disk, and by plan', async () => {
    const { disk, driver } = create();
    const answers = [driver.extend(4 * SIZE + 1), create({ readOnly: true }).driver.extend(1)];
    disk.run();
    expect(await answers[0]).toBe(ENOSPC);
    expect(disk.sizeBytes).toBe(SIZE);
    for (const [name, errno] of [
      ['eio', EIO],
      ['enospc', ENOSPC],
    ] as const) {
      const faulty = create({ faults: { [name]: { ops: ['extend'] } } });
      const answer = faulty.driver.extend(2 * SIZE);
      faulty.disk.run();
      expect([await answer, faulty.disk.sizeBytes]).toEqual([errno, SIZE]);
      expect(statesOf(faulty.disk).states).toEqual(['1:']);
    }
    const fixed = create({ mostBytes: SIZE });
    const full = fixed.driver.extend(SIZE + 512);
    fixed.disk.run();
    expect(await full).toBe(ENOSPC);
  });

  it('needs a limit that fits the disk', () => {
    for (const mostBytes of [SIZE - 512, SIZE + 1, 2 ** 31]) {
      expect(() => create({ mostBytes })).toThrow(SluiceError);
    }
  });
});
