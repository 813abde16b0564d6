/** What a power cut and a kill leave of a simulated disk, and what a Disk over it promises then. */
import { describe, expect, it } from 'vitest';
import { Disk } from '../../src/disk.ts';
import { SluiceError } from '../../src/errors.ts';
import { Random } from '../../src/testing/random.ts';
import { SimulatedDisk } from '../../src/testing/simulated-disk.ts';
import type { SimulatedDiskOptions } from '../../src/testing/simulated-disk-options.ts';
import { Driver, expectSame } from '../backend/driver.ts';

const SIZE = 65536;
const latency = { read: 10, write: 10, stableWrite: 10, writeZeroes: 10, discard: 10, sync: 30 };

function create(options: Partial<SimulatedDiskOptions> = {}) {
  const shape = { sizeBytes: SIZE, seed: 3, clock: 'manual', latency } as const;
  const disk = new SimulatedDisk({ ...shape, ...options });
  return { disk, driver: new Driver(disk) };
}

const filled = (value: number, length = 512): Uint8Array => new Uint8Array(length).fill(value);

/** The first byte of each of the first sectors, as text. */
function digits(contents: Uint8Array, sectors: number): string {
  return Array.from({ length: sectors }, (_, sector) => contents[sector * 512]).join('');
}

/** The states, and whether the generator says that these are all. */
function statesOf(disk: SimulatedDisk, sectors: number, limit?: number) {
  const states: string[] = [];
  const found = disk.crashStates(limit === undefined ? {} : { limit });
  for (;;) {
    const { done, value } = found.next();
    if (done === true) return { states, all: value };
    states.push(digits(value.contents(), sectors));
  }
}

/** Every text of digits where the n-th digit is one of those in the n-th word. */
function product(...words: string[]): string[] {
  return words.reduce<string[]>(
    (texts, word) => texts.flatMap((text) => Array.from(word, (digit) => text + digit)),
    [''],
  );
}

describe('the states that a power cut may leave (durability 9)', () => {
  it('are all combinations of surviving sectors, the stable one first', () => {
    const { disk, driver } = create();
    expect(statesOf(disk, 4)).toEqual({ states: ['0000'], all: true });
    void driver.write(0, filled(1, 1024));
    disk.run();
    void driver.write(512, filled(2, 1024));
    const { states, all } = statesOf(disk, 4);
    expect([states[0], all]).toEqual(['0000', true]);
    expect(states.sort()).toEqual(product('01', '012', '02', '0'));
  });

  it('never lack what a sync covered, and may lack what was answered while it ran', () => {
    const { disk, driver } = create();
    void driver.write(0, filled(1));
    disk.run();
    void driver.sync();
    void driver.write(512, filled(2));
    disk.step();
    expect(statesOf(disk, 2).states.sort()).toEqual(product('01', '02'));
    disk.run();
    expect(statesOf(disk, 2).states.sort()).toEqual(product('1', '02'));
  });

  it('come once each, where different writes had equal contents', () => {
    const { disk, driver } = create();
    for (const value of [0, 1, 0, 2, 1]) {
      void driver.write(0, filled(value));
      disk.run();
    }
    expect(statesOf(disk, 1).states.sort()).toEqual(['0', '1', '2']);
  });

  it('have a stable write from its answer on, and in part before it', () => {
    const { disk, driver } = create();
    void driver.write(0, filled(1, 1024), true);
    expect(statesOf(disk, 2).states.sort()).toEqual(product('01', '01'));
    disk.run();
    expect(statesOf(disk, 2).states).toEqual(['11']);
  });

  it('have whole writes only on a drive that tears none', () => {
    const { disk, driver } = create({ torn: false });
    void driver.write(0, filled(1, 1536));
    disk.run();
    void driver.write(512, filled(2, 1536));
    const { states, all } = statesOf(disk, 4);
    expect([states.sort(), all]).toEqual([['0000', '0222', '1110', '1222'], true]);
  });

  it('are those of the moment of the call, as the disk goes on', () => {
    const { disk, driver } = create();
    void driver.write(0, filled(1));
    const before = disk.crashStates();
    disk.run();
    void driver.sync();
    disk.run();
    expect([...before].map((state) => digits(state.contents(), 1))).toEqual(['0', '1']);
    expect(statesOf(disk, 1).states).toEqual(['1']);
  });

  it.each([true, false])('past the limit are prefixes, gaps, then samples (torn: %s)', (torn) => {
    const { disk, driver } = create({ torn });
    for (let write = 0; write < 12; write++) {
      void driver.write(write * 1024, filled(1, 1024));
      disk.run();
    }
    const { states, all } = statesOf(disk, 24, 200);
    expect([states.length, new Set(states).size, all]).toEqual([200, 200, false]);
    for (let count = 0; count <= 12; count++) {
      expect(states).toContain('11'.repeat(count) + '00'.repeat(12 - count));
    }
    for (let write = 0; write < 12; write++) {
      const before = '11'.repeat(write);
      expect(states).toContain(`${before}00${'11'.repeat(11 - write)}`);
      expect(states).toContain(`${'00'.repeat(write)}11${'00'.repeat(11 - write)}`);
      if (torn) expect(states).toContain(`${before}10${'00'.repeat(11 - write)}`);
    }
    const isTorn = (state: string): boolean => /^(..)*(01|10)/.test(state);
    expect(states.some(isTorn)).toBe(torn);
    expect(statesOf(disk, 24, 200).states).toEqual(states);
    expect(statesOf(disk, 24, 3).states).toHaveLength(3);
  });

  it('can be restarted from, each by itself', async () => {
    const { disk, driver } = create();
    void driver.write(0, filled(1));
    disk.run();
    const found: string[] = [];
    for (const state of disk.crashStates()) {
      const next = state.restart({ clock: 'automatic', seed: 9 });
      const again = new Disk(next);
      found.push(digits(await again.read(0, 512), 1));
      await again.write(0, filled(5));
      expect(statesOf(next, 1).states).toContain(found.at(-1));
    }
    expect(found).toEqual(['0', '1']);
    expect(digits(disk.contents(), 1)).toBe('1');
  });

  it('need a limit of at least 1', () => {
    expect(() => create().disk.crashStates({ limit: 0 })).toThrow(SluiceError);
  });
});

describe('a power cut', () => {
  /** What is left of a flushed and a volatile write, and of one in flight. */
  function cut(seed: number, options: Partial<SimulatedDiskOptions> = {}): string {
    const { disk, driver } = create({ seed, ...options });
    void driver.write(0, filled(1));
    disk.run();
    void driver.sync();
    disk.run();
    void driver.write(0, filled(2, 1024));
    disk.run();
    void driver.write(1024, filled(3));
    return digits(disk.cutPower().contents(), 4);
  }

  it('leaves one of the allowed states, by the seed, and sooner or later each', () => {
    const seeds = Array.from({ length: 200 }, (_, seed) => seed);
    expect([...new Set(seeds.map((seed) => cut(seed)))].sort()).toEqual(
      product('12', '02', '03', '0'),
    );
    expect([...new Set(seeds.map((seed) => cut(seed, { torn: false })))].sort()).toEqual(
      ['1000', '1030', '2200', '2230'].sort(),
    );
    expect(cut(7)).toBe(cut(7));
  });

  it('ends the disk: everything fails from then on, and what is left lives on', async () => {
    const { disk, driver } = create({ clock: 'automatic' });
    const write = driver.write(0, filled(1));
    const next = disk.cutPower({ faults: { eio: { ops: ['read'] } } });
    expect(await Promise.all([write, driver.sync()])).toEqual([5, 5]);
    expect([disk.inFlight, disk.step()]).toEqual([[], undefined]);
    expect(() => disk.cutPower()).toThrow('this disk has crashed');
    expect(() => disk.crashStates()).toThrow('this disk has crashed');
    expect(() => disk.killProcess()).toThrow('this disk has crashed');
    expect(disk.log.at(-1)).toMatchObject({ event: 'power cut', left: expect.any(String) });
    const again = new Driver(next);
    expect(next.now).toBe(0);
    expect((await again.tryRead(0, 512)).errno).toBe(5);
    expect(await again.write(0, filled(4))).toBe(0);
    expect(statesOf(next, 1).states).toHaveLength(2);
  });
});

describe('a disk that has crashed', () => {
  it.each(['cutPower', 'killProcess'] as const)('can be closed after %s (D4)', async (crash) => {
    const backend = new SimulatedDisk({ sizeBytes: 8192, seed: 5 });
    const disk = new Disk(backend);
    const written = disk.write(0, filled(1, 512));
    await Promise.resolve();
    backend[crash]();
    await expect(written).rejects.toMatchObject({ code: 'ERR_SLUICE_IO' });
    await expect(disk.close()).rejects.toMatchObject({ code: 'ERR_SLUICE_IO' });
  });
});

describe('a kill of the process (durability 3)', () => {
  function kill(seed: number, torn = true): SimulatedDisk {
    const { disk, driver } = create({ seed, torn });
    void driver.write(0, filled(1));
    disk.run();
    void driver.write(512, filled(2, 1024));
    void driver.sync();
    return disk.killProcess();
  }

  it('leaves what was answered, and of what was in flight some sectors, by the seed', () => {
    const seeds = Array.from({ length: 60 }, (_, seed) => seed);
    const left = seeds.map((seed) => digits(kill(seed).contents(), 3));
    expect([...new Set(left)].sort()).toEqual(product('1', '02', '02'));
    expect(left).toEqual(seeds.map((seed) => digits(kill(seed).contents(), 3)));
    const whole = seeds.map((seed) => digits(kill(seed, false).contents(), 3));
    expect([...new Set(whole)].sort()).toEqual(['100', '122']);
  });

  it('leaves a disk that is written on, and keeps what was there', () => {
    const disk = kill(1);
    const driver = new Driver(disk);
    const before = digits(disk.contents(), 3);
    for (const value of [7, 8, 9]) {
      void driver.write(value * 512, filled(value));
      disk.run();
    }
    expect(digits(disk.contents(), 10)).toBe(`${before}0000789`);
  });

  it('makes nothing stable: a power cut after it may take it all', async () => {
    const disk = kill(1);
    const [, second, third] = digits(disk.contents(), 3);
    const words = ['01', ...new Set([`0${second}`]), `0${third}`];
    const unique = words.map((word) => [...new Set(word)].join(''));
    expect(statesOf(disk, 3).states.sort()).toEqual(product(...unique));
    const driver = new Driver(disk);
    void driver.sync();
    disk.run();
    expect(statesOf(disk, 3).states).toEqual([`1${second}${third}`]);
  });
});

// A program over the real Disk: records of two sectors, each with its number, and flushes.

const RECORD_BYTES = 1024;
const RECORDS = 6;

/** The number of the record that both sectors of a slot hold. */
function numbersIn(contents: Uint8Array, slot: number): number[] {
  return [0, 512].map((part) => {
    const bytes = contents.subarray(slot * RECORD_BYTES + part, slot * RECORD_BYTES + part + 512);
    expect(new Set(bytes).size, 'a sector is old or new, never mixed').toBe(1);
    return bytes[0]!;
  });
}

interface Promises {
  /** By slot: the number of the last record that was asked to be written. */
  readonly asked: number[];
  /** By slot: the number of the last record that a flush which succeeded covers. */
  readonly flushed: number[];
}

/** Writes records in a line of its own; flushes; notes what is promised, and when. */
async function program(disk: Disk, seed: number, rounds: number, promises: Promises) {
  const random = new Random(seed);
  const written = promises.asked.map(() => 0);
  for (let round = 1; round <= rounds; round++) {
    const slots = new Set([random.below(RECORDS), random.below(RECORDS)]);
    const writes = [...slots].map(async (slot) => {
      promises.asked[slot] = round;
      const fua = random.chance(0.2);
      await disk.write(slot * RECORD_BYTES, filled(round, RECORD_BYTES), { fua });
      written[slot] = round;
      if (fua) promises.flushed[slot] = round;
    });
    const covered = [...written];
    const flush = random.chance(0.6) ? disk.flush() : undefined;
    await Promise.all(writes.slice(random.below(2)));
    await flush;
    if (flush !== undefined) covered.forEach((number, slot) => keep(promises, slot, number));
    await Promise.all(writes);
    const later = [...written];
    if (random.chance(0.5)) {
      await disk.flush();
      later.forEach((number, slot) => keep(promises, slot, number));
    }
  }
}

function keep({ flushed }: Promises, slot: number, number: number): void {
  flushed[slot] = Math.max(flushed[slot]!, number);
}

/** Two turns of the event loop: what was answered has led to what it leads to. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Runs the program, cuts the power at every step of the clock, counts broken promises. */
async function cutEverywhere(options: Partial<SimulatedDiskOptions>, seed: number) {
  const { disk: backend } = create({ seed, sizeBytes: 8192, latency: {}, ...options });
  const promises: Promises = { asked: Array(RECORDS).fill(0), flushed: Array(RECORDS).fill(0) };
  const found = { states: 0, broken: 0, steps: 0, stableWrites: 0 };
  const look = (contents: Uint8Array): void => {
    found.states += 1;
    const isKept = promises.asked.every((asked, slot) =>
      numbersIn(contents, slot).every(
        (number) => number >= promises.flushed[slot]! && number <= asked,
      ),
    );
    if (!isKept) found.broken += 1;
  };
  let ended = false;
  const work = program(new Disk(backend), seed, 30, promises).finally(() => (ended = true));
  for (;;) {
    await turns();
    for (const state of backend.crashStates({ limit: 64 })) look(state.contents());
    if (ended) break;
    found.steps += 1;
    if (backend.step() === undefined) break;
  }
  await work;
  found.stableWrites = backend.log.filter(({ stable }) => stable).length;
  expect(backend.conflicts).toEqual([]);
  expect(promises.flushed.some((number) => number > 20)).toBe(true);
  return found;
}

describe('a Disk over a simulated disk whose power is cut at every step', () => {
  it.each([1, 2, 3])('has in every state what was flushed (seed %d)', async (seed) => {
    const { states, broken, steps } = await cutEverywhere({}, seed);
    expect(broken).toBe(0);
    expect(steps).toBeGreaterThan(60);
    expect(states).toBeGreaterThan(10 * steps);
  });

  it('has it without FUA, too: then the engine writes and syncs', async () => {
    expect((await cutEverywhere({}, 4)).stableWrites).toBeGreaterThan(0);
    expect(await cutEverywhere({ fua: false }, 4)).toMatchObject({ broken: 0, stableWrites: 0 });
  });

  it('loses it when the disk lies: the test can fail', async () => {
    for (const seed of [1, 2, 3]) {
      const { broken, states } = await cutEverywhere({ faults: { lyingSync: true } }, seed);
      expect(broken).toBeGreaterThan(states / 100);
    }
  });

  it('has after a kill what was answered, flushed or not', async () => {
    for (let seed = 1; seed <= 20; seed++) {
      const backend = new SimulatedDisk({ sizeBytes: 8192, seed });
      const disk = new Disk(backend);
      const ends: number[] = [];
      const writes = Array.from({ length: 6 }, async (_, slot) => {
        await disk.write(slot * RECORD_BYTES, filled(1, RECORD_BYTES));
        ends.push(slot);
      });
      await Promise.race(writes);
      const after = backend.killProcess().contents();
      for (const slot of ends) expect(numbersIn(after, slot)).toEqual([1, 1]);
      expect(ends.length).toBeGreaterThan(0);
    }
  });
});

describe('a stripe of simulated disks', () => {
  it('keeps after a flush what lies on each of them (durability 8)', async () => {
    const backends = [1, 2].map((seed) => new SimulatedDisk({ sizeBytes: 8192, seed })) as [
      SimulatedDisk,
      SimulatedDisk,
    ];
    const disk = new Disk(backends, { chunkBytes: 1024 });
    await disk.write(0, filled(1, 4096));
    await disk.flush();
    for (const backend of backends) {
      const { states, all } = statesOf(backend, 4);
      expect({ states, all }).toEqual({ states: ['1111'], all: true });
      expectSame(backend.cutPower().contents().subarray(0, 2048), filled(1, 2048));
    }
  });
});
