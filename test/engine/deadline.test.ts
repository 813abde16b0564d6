// The deadline elevator: invariants D1-D4 of assembly/schedule/deadline.ts, durability section 7.

import { describe, expect, it } from 'vitest';
import { COMMAND_READ } from '../../src/abi/command.ts';
import type { EngineConfig } from '../driver.ts';
import { type Build, BUILDS } from '../support/engine.ts';
import { Random } from './random.ts';
import { FUA, Rig } from './rig.ts';

const DEADLINE: Partial<EngineConfig> = { deadline: true, depth: 1, mergeBytes: 0 };
/** One batch of 100 and no expiry: a single sweep. */
const SWEEP: Partial<EngineConfig> = { ...DEADLINE, batch: 100 };

/** Kilobytes: the places in these tests. */
const KIB = 1024;

/** A rig whose host is busy with a read at 0. */
function busy(build: Build, config: Partial<EngineConfig>): Rig {
  const rig = new Rig(build, config).clean();
  rig.read(0, 512);
  rig.pump();
  rig.log.length = 0;
  return rig;
}

/** Answers one command after the other; `R` and `W` with the place in KiB. */
function order(rig: Rig): string[] {
  const found: string[] = [];
  rig.pump();
  for (let turn = 0; rig.inFlight.length > 0; turn++) {
    if (turn > 5000) throw new Error('no end');
    const { id, op, offset } = rig.inFlight.shift()!;
    found.push(`${op === COMMAND_READ ? 'R' : 'W'}${offset / KIB}`);
    rig.engine.result(id, 0);
    rig.pump();
  }
  // The read at 0 was there first.
  return found.slice(1);
}

function reads(rig: Rig, ...places: number[]): void {
  for (const place of places) rig.read(place * KIB, 512);
}

function writes(rig: Rig, ...places: number[]): void {
  for (const place of places) rig.write(place * KIB, 512);
}

describe.each(BUILDS)('batches and sweeps ($name build; durability 7)', (build) => {
  it('D1, D3: runs of one direction go in batches, reads first', () => {
    const rig = busy(build, { ...DEADLINE, batch: 2, writesStarved: 1 });
    writes(rig, 10, 12, 14, 16, 18);
    reads(rig, 20, 22, 24, 26, 28);
    expect(order(rig)).toEqual(
      // The read at 0 had gone out of turn: the host was free.
      ['R20', 'R22', 'W10', 'W12', 'R24', 'R26', 'W14', 'W16', 'R28', 'W18'],
    );
  });

  it('D1: a batch ends early when its direction has nothing left', () => {
    const rig = busy(build, { ...DEADLINE, batch: 16 });
    reads(rig, 20, 22);
    writes(rig, 10, 12);
    expect(order(rig)).toEqual(['R20', 'R22', 'W10', 'W12']);
  });

  it('D1: statuses are reads; zeroes, discards and stable writes are writes', () => {
    const rig = busy(build, { ...DEADLINE, batch: 2, writesStarved: 1 });
    rig.blockStatus(40 * KIB, 512);
    rig.discard(10 * KIB, 512);
    rig.writeZeroes(12 * KIB, 512);
    rig.write(14 * KIB, 512, FUA);
    reads(rig, 42, 44);
    rig.run();
    expect(rig.log).toEqual([
      'STATUS 40960+512',
      'READ 43008+512',
      'DISCARD 10240+512',
      'ZERO 12288+512',
      'READ 45056+512',
      'WRITE 14336+512 STABLE',
    ]);
  });

  it('D2: inside a batch runs go in ascending order, whatever their age and kind', () => {
    const rig = busy(build, SWEEP);
    reads(rig, 50, 10, 30);
    rig.blockStatus(20 * KIB, 512);
    reads(rig, 40);
    rig.run();
    expect(rig.log).toEqual([
      'READ 10240+512',
      'STATUS 20480+512',
      'READ 30720+512',
      'READ 40960+512',
      'READ 51200+512',
    ]);
  });

  it('D2: the sweep goes on from where the last run of the direction ended, then wraps', () => {
    const rig = busy(build, SWEEP);
    reads(rig, 30, 40);
    rig.pump();
    expect(rig.answerAndPump('READ 0+512')).toEqual(['READ 30720+512']);
    reads(rig, 10, 50, 20);
    rig.run();
    expect(rig.log.slice(1)).toEqual([40, 50, 10, 20].map((place) => `READ ${place * KIB}+512`));
  });

  it('D2: a run that begins right where the last one ended is ahead, not behind', () => {
    const rig = busy(build, SWEEP);
    reads(rig, 20, 30);
    rig.pump();
    rig.answerAndPump('READ 0+512');
    rig.read(20 * KIB + 512, 512);
    rig.read(20 * KIB + 511, 1);
    rig.run();
    expect(rig.log.slice(1)).toEqual(['READ 20992+512', 'READ 30720+512', 'READ 20991+1']);
  });

  it('D2: of two runs in one place the older goes first', () => {
    const rig = busy(build, SWEEP);
    rig.blockStatus(20 * KIB, 1024);
    rig.read(20 * KIB, 512);
    rig.read(20 * KIB, 1024);
    rig.run();
    // A status is the older one here; the shorter read was older than the longer one.
    expect(rig.log[0]).toBe('STATUS 20480+1024');
    const swapped = busy(build, SWEEP);
    swapped.read(20 * KIB, 512);
    swapped.blockStatus(20 * KIB, 1024);
    reads(swapped, 30);
    swapped.run();
    expect(swapped.log[0]).toBe('READ 20480+512');
  });

  it('D2: reads and writes sweep from places of their own', () => {
    const rig = busy(build, { ...DEADLINE, batch: 1, writesStarved: 1 });
    reads(rig, 50, 60, 70);
    writes(rig, 10, 20, 55);
    expect(order(rig)).toEqual(['R50', 'W10', 'R60', 'W20', 'R70', 'W55']);
  });

  it('D2: what waits goes on merging; a run is one step of the sweep', () => {
    const rig = busy(build, { ...SWEEP, mergeBytes: 65536 });
    for (const offset of [10_240, 11_264, 10_752]) rig.read(offset, 512);
    rig.read(20_480, 512);
    rig.run();
    expect(rig.log).toEqual(['READ 10240+1536', 'READ 20480+512']);
  });

  it('D3: waiting writes are passed over by at most so many batches of reads', () => {
    for (const writesStarved of [1, 2, 5]) {
      const rig = busy(build, { ...DEADLINE, batch: 2, writesStarved });
      writes(rig, 500);
      reads(rig, ...Array.from({ length: 20 }, (_, index) => 10 + index));
      expect(order(rig).indexOf('W500')).toBe(2 * writesStarved);
    }
  });

  it('D3: batches of reads count only while writes wait', () => {
    const rig = busy(build, { ...DEADLINE, batch: 1, writesStarved: 2 });
    reads(rig, 10, 11, 12, 13, 14, 15);
    rig.pump();
    for (const place of [0, 10, 11]) rig.answerAndPump(`READ ${place * KIB}+512`);
    writes(rig, 500);
    rig.run();
    // 12 is at the host when the write comes; two more batches of reads pass it over.
    expect(rig.log.indexOf('WRITE 512000+512')).toBe(rig.log.indexOf('READ 14336+512') + 1);
  });

  it('D1: when the host takes all runs, they go in order of kind and place at once', () => {
    const rig = new Rig(build, { deadline: true, depth: 32, batch: 1 });
    writes(rig, 30, 10);
    reads(rig, 40, 20);
    expect(rig.pump()).toEqual([
      'READ 20480+512',
      'READ 40960+512',
      'WRITE 10240+512',
      'WRITE 30720+512',
    ]);
  });

  it('D1: without the flag the oldest run goes first, whatever the words say', () => {
    const rig = busy(build, { ...SWEEP, deadline: false });
    reads(rig, 50, 10);
    writes(rig, 30);
    reads(rig, 20);
    expect(order(rig)).toEqual(['R50', 'R10', 'W30', 'R20']);
  });
});

describe.each(BUILDS)('expiry and time ($name build; durability 7)', (build) => {
  const EXPIRES: Partial<EngineConfig> = {
    ...DEADLINE,
    batch: 2,
    readExpiry: 1000,
    writeExpiry: 5000,
  };

  it('D4: a new batch begins at the oldest run once that has waited for its expiry', () => {
    for (const [micros, first] of [
      [999, 'READ 10240+512'],
      [1000, 'READ 51200+512'],
      [1001, 'READ 51200+512'],
    ] as const) {
      const rig = busy(build, EXPIRES);
      reads(rig, 50);
      rig.pump();
      rig.now += 1;
      reads(rig, 10, 20);
      rig.pump();
      rig.now = micros;
      expect(rig.answerAndPump('READ 0+512')).toEqual([first]);
      expect(rig.engine.counters().expired).toBe(micros < 1000 ? 0 : 1);
    }
  });

  it('D4: a batch that is going on is not broken off by an expiry', () => {
    const rig = busy(build, { ...EXPIRES, batch: 3 });
    reads(rig, 20, 30, 60, 40, 5);
    rig.pump();
    rig.answerAndPump('READ 0+512');
    rig.now = 1_000_000;
    rig.run();
    expect(rig.log).toEqual([5, 20, 30, 60, 40].map((place) => `READ ${place * KIB}+512`));
    expect(rig.engine.counters().expired).toBe(1);
  });

  it('D4: after an expired run the batch sweeps on from there', () => {
    const rig = busy(build, { ...EXPIRES, batch: 3 });
    reads(rig, 50, 10, 60, 70);
    rig.pump();
    rig.now = 1000;
    rig.run();
    expect(rig.log).toEqual([50, 60, 70, 10].map((place) => `READ ${place * KIB}+512`));
  });

  it('D4: reads and writes expire after times of their own', () => {
    const rig = busy(build, EXPIRES);
    writes(rig, 50, 10);
    rig.pump();
    rig.now = 4999;
    rig.answerAndPump('READ 0+512');
    expect(rig.log.at(-1)).toBe('WRITE 10240+512');
    const late = busy(build, EXPIRES);
    writes(late, 50, 10);
    late.pump();
    late.now = 5000;
    late.answerAndPump('READ 0+512');
    expect(late.log.at(-1)).toBe('WRITE 51200+512');
  });

  it('D4: an expired write does not go before reads: it is first of the writes', () => {
    const rig = busy(build, { ...EXPIRES, writesStarved: 1, writeExpiry: 1 });
    writes(rig, 50, 10);
    reads(rig, 20, 30);
    rig.pump();
    rig.now = 900;
    expect(order(rig)).toEqual(['R20', 'R30', 'W50', 'W10']);
  });

  it('D4: a request waits from the call that took it, not from when its conflict ended', () => {
    const rig = new Rig(build, { ...EXPIRES, batch: 1 });
    rig.read(0, 512);
    rig.discard(51_200, 512);
    rig.read(51_200, 512);
    rig.pump();
    rig.now = 600;
    rig.answerAndPump('READ 0+512');
    reads(rig, 10, 20);
    rig.now = 1000;
    expect(rig.answerAndPump('DISCARD 51200+512')).toEqual(['READ 51200+512']);
    expect(rig.engine.counters().expired).toBe(1);
  });

  it('D4: an expiry of 0 is the oldest first, batch by batch', () => {
    const rig = busy(build, { ...DEADLINE, batch: 1, readExpiry: 0 });
    reads(rig, 50, 10, 40, 20);
    expect(order(rig)).toEqual(['R50', 'R10', 'R40', 'R20']);
    expect(rig.engine.counters().expired).toBe(3);
  });

  it('time never falls: a smaller value counts as the last one', () => {
    const rig = busy(build, EXPIRES);
    rig.now = 10_000;
    reads(rig, 50, 10);
    rig.pump();
    rig.now = 0;
    rig.answerAndPump('READ 0+512');
    expect(rig.log.at(-1)).toBe('READ 10240+512');
    reads(rig, 30, 5);
    rig.pump();
    // The two new reads were taken at 10,000, so at 10,999 they are young.
    rig.now = 10_999;
    rig.answerAndPump('READ 10240+512');
    rig.answerAndPump('READ 30720+512');
    expect(rig.log.at(-1)).toBe('READ 51200+512');
    expect(rig.engine.counters().expired).toBe(0);
  });

  it('what is no time counts as no time passed', () => {
    const rig = busy(build, EXPIRES);
    reads(rig, 50, 10);
    rig.pump();
    for (const now of [Number.NaN, -1, Infinity, -Infinity]) {
      rig.now = now;
      rig.pump();
    }
    rig.answerAndPump('READ 0+512');
    expect(rig.log).toEqual(['READ 10240+512']);
  });
});

/** How many runs may go before a run that waits: see the test. */
function bound(older: number, { batch = 0, writesStarved = 0 }: Partial<EngineConfig>): number {
  return (older + 1) * (writesStarved + 1) * batch;
}

interface Waiting {
  readonly isRead: boolean;
  readonly taken: number;
  /** Requests of its direction that were taken before and not sent when it was. */
  readonly older: number;
  /** Commands that the host has got since this one had waited for its expiry. */
  passed: number;
}

describe.each(BUILDS)('nothing starves ($name build; durability 7)', (build) => {
  // Once a run has expired, every new batch of its direction begins with one that is as old or
  // older. So at most `older` whole batches of its direction go first, each with up to
  // `writesStarved` batches of the other one before it, and what is left of the running batch.
  it('D3, D4: a run waits, beyond its expiry, for a bounded number of others', () => {
    for (let seed = 1; seed <= 40; seed++) {
      const random = new Random(seed);
      const config = {
        ...DEADLINE,
        batch: random.pick([1, 2, 4, 16]),
        writesStarved: random.pick([1, 2, 3]),
        readExpiry: random.pick([0, 50, 500]),
        writeExpiry: random.pick([0, 50, 500]),
      };
      expect(longestWait(build, random, config)).toBeLessThanOrEqual(1);
    }
  });
});

/** Keeps a host of depth 1 busy; returns the largest wait, as a part of what is allowed. */
function longestWait(build: Build, random: Random, config: Partial<EngineConfig>): number {
  const rig = new Rig(build, { ...config, capacity: 2 ** 40 });
  const waiting = new Map<string, Waiting>();
  let worst = 0;
  let place = 1;
  for (let turn = 0; turn < 400; turn++) {
    for (let count = turn < 300 ? random.below(4) : 0; count > 0; count--) {
      const isRead = random.chance(0.5);
      // Mostly just ahead of the sweep, which is what starves others; each place is used once.
      const offset = (random.chance(0.8) ? 4096 + place : 2 ** 30 - place) * KIB;
      place += 1;
      const data = { data: 720896 };
      if (isRead) rig.read(offset, 512, data);
      else rig.write(offset, 512, data);
      const older = [...waiting.values()].filter((other) => other.isRead === isRead).length;
      waiting.set(`${isRead ? 'READ' : 'WRITE'} ${offset}+512`, {
        isRead,
        taken: rig.now,
        older,
        passed: 0,
      });
    }
    for (const text of rig.pump()) {
      const sent = waiting.get(text)!;
      waiting.delete(text);
      worst = Math.max(worst, sent.passed / bound(sent.older, config));
      for (const other of waiting.values()) {
        const expiry = (other.isRead ? config.readExpiry : config.writeExpiry) ?? 0;
        if (rig.now - other.taken >= expiry) other.passed += 1;
      }
    }
    rig.now += random.below(60);
    const [command] = rig.inFlight.splice(0, 1);
    if (command !== undefined) rig.engine.result(command.id, 0);
  }
  rig.run();
  for (const { passed, older } of waiting.values()) {
    worst = Math.max(worst, passed / bound(older, config));
  }
  return worst;
}
