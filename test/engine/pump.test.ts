// One call of the engine: invariants P1 and P2 of assembly/pump.ts, the rings and the region.

import { describe, expect, it } from 'vitest';
import { REGION_SIZE } from '../../src/abi/region.ts';
import { createMemory, DATA_BASE, ENGINE_BASE, EngineDriver } from '../driver.ts';
import { ModelEngine } from '../model.ts';
import { BUILDS, instantiate } from '../support/engine.ts';
import { Lockstep } from './lockstep.ts';
import { randomStream } from './random-stream.ts';
import { CONFIG, Rig } from './rig.ts';
import { Simulator } from './simulator.ts';
import { perform, type Stream } from './streams.ts';

describe.each(BUILDS)('one call ($name build)', (build) => {
  it('P1: it takes everything that waits: refused requests leave room for the next at once', () => {
    const rig = new Rig(build);
    for (let i = 0; i < 2048; i++) rig.submit({ op: i % 2 === 0 ? 255 : 5 });
    rig.pump();
    expect(rig.engine.requestsWaiting()).toBe(0);
    expect(rig.completions).toHaveLength(1024);
    rig.run();
    expect(rig.completions).toHaveLength(2048);
  });

  it('P1: answers, what they unblock, new requests and a new sync are one call', () => {
    const rig = new Rig(build, { depth: 1 });
    rig.write(0, 512);
    rig.read(0, 512);
    rig.flush();
    rig.pump();
    rig.answer('WRITE 0+512');
    rig.answer('SYNC');
    rig.flush();
    expect(rig.pump()).toEqual(['READ 0+512', 'SYNC']);
    expect(rig.completions.map(({ tag }) => tag).toSorted((a, b) => a - b)).toEqual([1, 3]);
  });

  it('P1: with nothing to do it does nothing', () => {
    const rig = new Rig(build);
    const before = rig.engine.digest();
    expect(rig.pump()).toEqual([]);
    expect(rig.engine.digest()).toBe(before);
  });

  it('P1: commands that the host has not taken wait in their ring', () => {
    const rig = new Rig(build);
    for (let i = 0; i < 10; i++) {
      rig.read(i * 4096, 512);
      rig.engine.pump();
    }
    expect(rig.pump()).toHaveLength(10);
  });
});

describe.each(BUILDS)('the rings and the region ($name build)', (build) => {
  it('ring positions are free-running: nothing happens where they pass 2^32', () => {
    const rig = new Rig(build, { depth: 3 });
    rig.engine.setRingPositions(2 ** 32 - 100);
    for (let round = 0; round < 20; round++) {
      for (let i = 0; i < 50; i++) rig.read(i * 1024, 512, { data: DATA_BASE });
      rig.run();
    }
    expect(rig.completions.map(({ status }) => status)).toEqual(Array(1000).fill(0));
  });

  it('a full ring holds its 2048 entries wherever they start', () => {
    const rig = new Rig(build);
    rig.engine.setRingPositions(1000);
    for (let i = 0; i < 2048; i++) rig.submit({ op: 255 });
    expect(() => rig.flush()).toThrow('the ring is full');
    rig.pump();
    expect(rig.completions.map(({ tag }) => tag)).toEqual(
      Array.from({ length: 2048 }, (_, index) => index + 1),
    );
  });

  it('the engine touches its region only, whatever its base', () => {
    for (const base of [64, ENGINE_BASE, ENGINE_BASE + 64]) {
      const memory = createMemory(1024 * 1024);
      const bytes = new Uint8Array(memory.buffer);
      bytes.fill(0xa5);
      bytes.fill(0, base, base + REGION_SIZE);
      const engine = EngineDriver.over(build, memory, base);
      expect(engine.init(CONFIG)).toBe(true);
      for (let i = 0; i < 600; i++) {
        const io = { flags: 0, offset: (i % 50) * 1024, length: 1024, segments: 1 };
        engine.submit({ ...io, tag: i, op: i % 3, data: DATA_BASE + i * 1024 });
        engine.pump();
        for (const { id } of engine.takeCommands()) if (i % 2 === 0) engine.result(id, i % 7);
      }
      expect(bytes.subarray(0, base).every((byte) => byte === 0xa5)).toBe(true);
      expect(bytes.subarray(base + REGION_SIZE).every((byte) => byte === 0xa5)).toBe(true);
    }
  });

  it('two engines in one memory do not see each other', () => {
    const memory = createMemory(2 * 1024 * 1024);
    const exports = instantiate(build, memory);
    const first = new EngineDriver(exports, memory);
    const second = new EngineDriver(exports, memory, 1024 * 1024);
    expect([first.init(CONFIG), second.init({ ...CONFIG, wce: false })]).toEqual([true, true]);
    const before = second.digest();
    first.submit({ tag: 1, op: 1, flags: 0, segments: 1, data: DATA_BASE, offset: 0, length: 512 });
    first.pump();
    expect(first.takeCommands()).toHaveLength(1);
    expect(second.digest()).toBe(before);
  });

  it('init refuses what breaks a limit', () => {
    const engine = EngineDriver.over(build, createMemory(0));
    const refused = [
      { capacity: 2n ** 53n },
      { capacity: 2n ** 64n - 1n },
      { blockSize: 0 },
      { blockSize: 3 },
      { blockSize: 1 << 21 },
      { depth: 0 },
      { depth: 257 },
      { files: 0 },
      { files: 9 },
      { files: 2, chunkBytes: 0 },
      { files: 2, chunkBytes: 3072 },
      { files: 2, chunkBytes: 256, blockSize: 1 },
      { files: 2, chunkBytes: 2048, blockSize: 4096 },
      { deadline: true, batch: 0 },
      { deadline: true, writesStarved: 0 },
    ];
    for (const wrong of refused) expect(engine.init({ ...CONFIG, ...wrong })).toBe(false);
    const allowed = [
      { capacity: 2 ** 53 - 1 },
      { capacity: 0 },
      { blockSize: 1 },
      { depth: 256 },
      { files: 1, chunkBytes: 3 },
      { files: 8, chunkBytes: 512 },
      { files: 2, chunkBytes: 2 ** 31, blockSize: 1 << 20 },
      { deadline: false, batch: 0, writesStarved: 0 },
      { deadline: true, batch: 1, writesStarved: 1, readExpiry: 0, writeExpiry: 0 },
    ];
    for (const right of allowed) expect(engine.init({ ...CONFIG, ...right })).toBe(true);
  });

  it('init refuses a base that is not on a 64-byte boundary', () => {
    const memory = createMemory(0);
    expect(EngineDriver.over(build, memory, ENGINE_BASE + 32).init(CONFIG)).toBe(false);
    expect(instantiate(build, memory).regionSize()).toBe(REGION_SIZE);
  });

  it('init makes a new engine of a used region', () => {
    const rig = new Rig(build);
    for (let i = 0; i < 1500; i++) rig.write(i * 512, 512, { data: DATA_BASE });
    rig.flush();
    rig.pump();
    expect(rig.engine.init(CONFIG)).toBe(true);
    expect(rig.engine.generations()).toMatchObject({
      completed: 1,
      files: [{ unproven: 1, running: false }],
    });
    expect(Object.values(rig.engine.counters()).every((count) => count === 0)).toBe(true);
    rig.inFlight.length = 0;
    rig.completions.length = 0;
    const tag = rig.read(0, 512);
    rig.run();
    expect(rig.status(tag)).toBe('OK');
  });
});

/** Runs a stream in a memory of its own; returns digests of the region along the way. */
function digests(stream: Stream, build: (typeof BUILDS)[number], base = ENGINE_BASE): string[] {
  const engine = EngineDriver.over(build, createMemory(1024 * 1024), base);
  engine.init(stream.setup);
  const simulator = new Simulator(engine, engine.view, stream.setup);
  const found: string[] = [];
  for (const [index, action] of stream.actions.entries()) {
    perform(simulator, action);
    if (index % 16 === 0) found.push(engine.digest());
  }
  simulator.finish();
  return [...found, engine.digest()];
}

describe('the same bytes in give the same bytes out', () => {
  it.each([1, 2, 3, 4, 5, 6])('P2: stream %i gives one digest of the whole region', (seed) => {
    const stream = randomStream(seed);
    const runs = [...BUILDS, ...BUILDS].map((build) => digests(stream, build));
    for (const run of runs) expect(run).toEqual(runs[0]);
  });

  it.each(BUILDS)('P2: a copy of the region is the whole state: forks agree ($name)', (build) => {
    const stream = randomStream(77);
    const engine = EngineDriver.over(build, createMemory(1024 * 1024));
    engine.init(stream.setup);
    for (let i = 0; i < 40; i++) {
      const io = { flags: 0, offset: stream.setup.origin, length: 512, segments: 1 };
      engine.submit({ ...io, tag: i, op: [0, 1, 5][i % 3]!, data: DATA_BASE });
      if (i % 5 === 0) engine.pump();
    }
    const commands = engine.takeCommands();
    const fork = engine.snapshot();
    const ends = [0, 1].map(() => {
      engine.restore(fork);
      for (const { id } of commands) engine.result(id, 0);
      engine.pump();
      return [engine.digest(), JSON.stringify(engine.takeCompletions())];
    });
    expect(ends[1]).toEqual(ends[0]);
  });

  it.each(BUILDS)('P2: a fork goes another way without disturbing the first ($name)', (build) => {
    const rig = new Rig(build);
    rig.write(0, 512);
    const flush = rig.flush();
    rig.pump();
    const fork = rig.engine.snapshot();
    rig.engine.result(256, 5);
    rig.engine.pump();
    expect(rig.engine.generations().latched).toBe(true);
    rig.engine.restore(fork);
    rig.answerAndPump('SYNC');
    expect(rig.status(flush)).toBe('OK');
    expect(rig.engine.generations().latched).toBe(false);
  });
});

describe.each(BUILDS)('the model ($name build)', (build) => {
  it('agrees under back-pressure: 3000 requests, few completions taken at a time', () => {
    const setup = { ...CONFIG, cellBytes: 512, origin: 0, seed: 5, depth: 17, capacity: 512 * 256 };
    const engine = EngineDriver.over(build, createMemory(4 * 1024 * 1024));
    engine.init(setup);
    const pair = new Lockstep(engine, new ModelEngine(setup, engine.view));
    const simulator = new Simulator(pair, engine.view, setup);
    let submitted = 0;
    for (let step = 0; step < 1000 && submitted < 3000; step++) {
      for (let i = 0; i < 200 && submitted < 3000; i++) {
        const op = submitted % 4;
        const io = { op, flags: 0, at: (submitted * 7) % 256, cells: 1, pieces: 1, gap: false };
        if (!simulator.submit(io)) break;
        submitted += 1;
      }
      simulator.pump(step % 40);
      for (let i = 0; i < 9; i++) simulator.answer(i * 5);
    }
    simulator.finish();
    expect(simulator.completed).toHaveLength(3000);
  });
});
