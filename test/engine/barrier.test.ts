// Barriers: invariants B1-B5 of assembly/schedule/barrier.ts, durability section 7.

import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/request.ts';
import type { EngineConfig } from '../driver.ts';
import { BUILDS } from '../support/engine.ts';
import { BARRIER, FUA, Rig } from './rig.ts';

const EIO = 5;
const ENOSPC = 28;
const ENOTSUP = 95;

const ORDER: Partial<EngineConfig> = { barrier: true };
const DURABLE: Partial<EngineConfig> = { barrier: true, barrierDurable: true };
const FAILS: Partial<EngineConfig> = { barrier: true, barrierFails: true };

/** Every request that can be a barrier, at 8192, and its command. */
const BARRIERS = {
  READ: [(rig: Rig) => rig.read(8192, 512, BARRIER), 'READ 8192+512'],
  WRITE: [(rig: Rig) => rig.write(8192, 512, BARRIER), 'WRITE 8192+512'],
  WRITE_ZEROES: [(rig: Rig) => rig.writeZeroes(8192, 512, BARRIER), 'ZERO 8192+512'],
  DISCARD: [(rig: Rig) => rig.discard(8192, 512, BARRIER), 'DISCARD 8192+512'],
  FLUSH: [(rig: Rig) => rig.flush(BARRIER), 'SYNC'],
} as const;

type Kind = keyof typeof BARRIERS;
const KINDS = Object.keys(BARRIERS) as Kind[];

describe.each(BUILDS)('fences ($name build; durability 7)', (build) => {
  it.each(KINDS)('B1, B2: nothing crosses a %s that is a barrier, in either direction', (kind) => {
    const [submit, command] = BARRIERS[kind];
    const rig = new Rig(build, ORDER);
    const before = rig.write(0, 512);
    const barrier = submit(rig);
    const after = rig.read(16384, 512);
    expect(rig.pump()).toEqual(['WRITE 0+512']);
    expect(rig.engine.requestsWaiting()).toBe(1);
    expect(rig.answerAndPump('WRITE 0+512')).toEqual([command]);
    expect(rig.statuses([before, barrier, after])).toEqual(['OK', 'open', 'open']);
    expect(rig.pump()).toEqual([]);
    expect(rig.answerAndPump(command)).toEqual(['READ 16384+512']);
    rig.run();
    expect(rig.completions.map(({ tag }) => tag)).toEqual([before, barrier, after]);
    expect(rig.engine.counters()).toMatchObject({ barriers: 1, ordered: 0 });
  });

  it('B1: even what needs no I/O waits behind a barrier: refusals, flushes, changes', () => {
    const rig = new Rig(build, ORDER).clean();
    rig.write(0, 512, BARRIER);
    const waiting = [rig.submit({ op: 255 }), rig.flush(), rig.setWce(0)];
    rig.pump();
    expect(rig.statuses(waiting)).toEqual(['open', 'open', 'open']);
    expect(rig.engine.counters().refused).toBe(0);
    expect(rig.engine.generations().wce).toBe(true);
    rig.run();
    // The flush owes the barrier: it was taken after it.
    expect(rig.log).toEqual(['WRITE 0+512', 'SYNC']);
    expect(rig.statuses(waiting)).toEqual(['INVALID', 'OK', 'OK']);
  });

  it('B1: a reset waits behind a barrier, and ends what was taken after it', () => {
    const rig = new Rig(build, ORDER);
    const barrier = rig.write(0, 512, BARRIER);
    const reset = rig.reset(0);
    rig.pump();
    expect(rig.statuses([barrier, reset])).toEqual(['open', 'open']);
    rig.answerAndPump('WRITE 0+512');
    expect(rig.statuses([barrier, reset])).toEqual(['OK', 'OK']);
  });

  it('B1: a barrier of one queue stops all of them', () => {
    const rig = new Rig(build, ORDER);
    rig.read(0, 512, { queue: 1 });
    rig.read(8192, 512, { ...BARRIER, queue: 2 });
    rig.read(16384, 512, { queue: 3 });
    expect(rig.run()).toEqual(['READ 0+512', 'READ 8192+512', 'READ 16384+512']);
  });

  it('B1: barriers in a row go one by one, each in a call of its own when the host is slow', () => {
    const rig = new Rig(build, ORDER);
    const barriers = [0, 512, 1024].map((offset) => rig.write(offset, 512, BARRIER));
    expect(rig.pump()).toEqual(['WRITE 0+512']);
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['WRITE 512+512']);
    expect(rig.answerAndPump('WRITE 512+512')).toEqual(['WRITE 1024+512']);
    rig.answerAndPump('WRITE 1024+512');
    expect(rig.statuses(barriers)).toEqual(['OK', 'OK', 'OK']);
  });

  it('B1: barriers that need no I/O all pass in one call (P1)', () => {
    const rig = new Rig(build, ORDER).clean();
    const barriers = Array.from({ length: 50 }, (_, index) =>
      index % 2 === 0 ? rig.flush(BARRIER) : rig.write(0, 0, BARRIER),
    );
    const last = rig.read(0, 512);
    expect(rig.pump()).toEqual(['READ 0+512']);
    expect(new Set(rig.statuses(barriers))).toEqual(new Set(['OK']));
    expect(rig.status(last)).toBe('open');
  });

  it('B1: a refused barrier is no fence', () => {
    const rig = new Rig(build, ORDER);
    rig.write(0, 512);
    const refused = rig.write(2 ** 40, 512, BARRIER);
    rig.write(512, 512);
    expect(rig.pump()).toEqual(['WRITE 0+1024']);
    expect(rig.status(refused)).toBe('OUT_OF_RANGE');
  });

  it('B2: a barrier waits until earlier stable writes are stable, not only written', () => {
    const rig = new Rig(build, { ...ORDER, wce: false }).clean();
    rig.write(0, 512);
    rig.writeZeroes(4096, 512);
    rig.read(8192, 512, BARRIER);
    expect(rig.pump()).toEqual(['WRITE 0+512 STABLE', 'ZERO 4096+512']);
    rig.answer('WRITE 0+512 STABLE');
    expect(rig.answerAndPump('ZERO 4096+512')).toEqual(['SYNC']);
    expect(rig.answerAndPump('SYNC')).toEqual(['READ 8192+512']);
  });

  it('B2: a barrier waits for the parts of a merged write that are sent again', () => {
    const rig = new Rig(build, ORDER);
    rig.write(0, 512);
    rig.write(512, 512);
    rig.read(8192, 512, BARRIER);
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+1024', EIO)).toEqual(['WRITE 0+512', 'WRITE 512+512']);
    expect(rig.answerAndPump('WRITE 0+512')).toEqual([]);
    expect(rig.answerAndPump('WRITE 512+512', EIO)).toEqual(['READ 8192+512']);
  });

  it('B2: a barrier of no bytes drains all the same', () => {
    const rig = new Rig(build, ORDER);
    rig.write(0, 512);
    const barrier = rig.write(0, 0, BARRIER);
    rig.pump();
    expect(rig.status(barrier)).toBe('open');
    rig.answerAndPump('WRITE 0+512');
    expect(rig.status(barrier)).toBe('OK');
  });

  it('B2: a barrier that stands behind the reset of another queue starts when that is done', () => {
    const rig = new Rig(build, ORDER);
    rig.write(0, 512, { queue: 1 });
    rig.pump();
    const reset = rig.reset(1);
    const barrier = rig.write(8192, 512, { ...BARRIER, queue: 2 });
    expect(rig.pump()).toEqual([]);
    expect(rig.statuses([reset, barrier])).toEqual(['open', 'open']);
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['WRITE 8192+512']);
    expect(rig.status(reset)).toBe('OK');
  });

  it('B2: a barrier behind a full engine waits in the ring and drains what was taken', () => {
    const rig = new Rig(build, { ...ORDER, depth: 256 });
    for (let i = 0; i < 1024; i++) rig.read(i * 1024, 512, { data: 720896 });
    const barrier = rig.write(0, 512, BARRIER);
    rig.read(512, 512);
    rig.run();
    expect(rig.log.slice(-2)).toEqual(['WRITE 0+512', 'READ 512+512']);
    expect(rig.status(barrier)).toBe('OK');
    expect(rig.completions.at(-2)?.tag).toBe(barrier);
  });
});

interface Mode {
  readonly mode: string;
  readonly config: Partial<EngineConfig>;
  /** The commands of a barrier write when something is volatile, and when nothing is. */
  readonly dirty: readonly string[];
  readonly clean: readonly string[];
}

/** The modes of durability section 7; each command is answered before the next one comes. */
const MODES: readonly Mode[] = [
  {
    mode: 'DRAIN (no volatile cache)',
    config: { ...DURABLE, wce: false },
    dirty: ['WRITE 8192+512 STABLE'],
    clean: ['WRITE 8192+512 STABLE'],
  },
  {
    mode: 'DRAIN (no volatile cache, no FUA descriptor)',
    config: { ...DURABLE, wce: false, fua: false },
    dirty: ['WRITE 8192+512', 'SYNC'],
    clean: ['WRITE 8192+512', 'SYNC'],
  },
  {
    mode: 'DRAIN_FLUSH (volatile cache, no FUA descriptor)',
    config: { ...DURABLE, fua: false },
    dirty: ['SYNC', 'WRITE 8192+512', 'SYNC'],
    clean: ['WRITE 8192+512', 'SYNC'],
  },
  {
    mode: 'DRAIN_FUA (volatile cache and FUA descriptor)',
    config: DURABLE,
    dirty: ['SYNC', 'WRITE 8192+512 STABLE'],
    clean: ['WRITE 8192+512 STABLE'],
  },
  {
    mode: 'DRAIN (ordered, not durable)',
    config: ORDER,
    dirty: ['WRITE 8192+512'],
    clean: ['WRITE 8192+512'],
  },
  {
    mode: 'DRAIN (flushes ignored)',
    config: { ...DURABLE, noFlush: true },
    dirty: ['WRITE 8192+512'],
    clean: ['WRITE 8192+512'],
  },
];

describe.each(BUILDS)('the modes of durability 7 ($name build)', (build) => {
  it.each(MODES)('B3, B4: $mode', ({ config, dirty, clean }) => {
    for (const [isDirty, expected] of [
      [true, dirty],
      [false, clean],
    ] as const) {
      const rig = new Rig(build, config).clean();
      // With the write cache off nothing is volatile, whatever was written.
      if (isDirty) rig.write(0, 512);
      rig.run();
      rig.log.length = 0;
      const barrier = rig.write(8192, 512, BARRIER);
      const later = rig.read(16384, 512);
      rig.pump();
      for (const command of expected) {
        expect(rig.inFlight).toHaveLength(1);
        expect(rig.status(barrier)).toBe('open');
        rig.answerAndPump(command);
      }
      expect(rig.log).toEqual([...expected, 'READ 16384+512']);
      expect(rig.statuses([barrier, later])).toEqual(['OK', 'open']);
      const flushed = expected[0] === 'SYNC' ? 1 : 0;
      expect(rig.engine.counters()).toMatchObject({ barriers: 1, barrierFlushes: flushed });
    }
  });

  it.each(KINDS)('B3: a durable %s finds everything earlier stable, itself when done', (kind) => {
    const [submit, command] = BARRIERS[kind];
    const steps = { READ: [], WRITE: [], WRITE_ZEROES: ['SYNC'], DISCARD: ['SYNC'], FLUSH: [] };
    const rig = new Rig(build, DURABLE).clean();
    rig.write(0, 512);
    submit(rig);
    const own = kind === 'WRITE' ? `${command} STABLE` : command;
    const before = kind === 'FLUSH' ? [] : ['SYNC'];
    expect(rig.run()).toEqual(['WRITE 0+512', ...before, own, ...steps[kind]]);
    rig.flush();
    expect(rig.run()).toEqual([]);
  });

  it('NONE: where barriers are not offered they are refused', () => {
    for (const kind of KINDS) {
      const rig = new Rig(build, { barrierDurable: true, barrierFails: true });
      const tag = BARRIERS[kind][0](rig);
      expect(rig.run()).toEqual([]);
      expect(rig.status(tag)).toBe('INVALID');
    }
  });

  it('B3: a durable barrier of no bytes flushes all the same', () => {
    const rig = new Rig(build, DURABLE).clean();
    rig.write(0, 512);
    const barrier = rig.write(0, 0, BARRIER);
    expect(rig.run()).toEqual(['WRITE 0+512', 'SYNC']);
    expect(rig.status(barrier)).toBe('OK');
  });

  it('B3: when the first flush fails, the barrier fails with its errno and writes nothing', () => {
    const rig = new Rig(build, DURABLE).clean();
    rig.write(0, 512);
    const barrier = rig.write(8192, 512, BARRIER);
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['SYNC']);
    expect(rig.answerAndPump('SYNC', ENOSPC)).toEqual([]);
    expect(rig.completions.at(-1)).toEqual({ tag: barrier, status: 1, value: 0, errno: ENOSPC });
  });

  it('B3: after a failed sync no durable barrier succeeds, not even on a clean disk', () => {
    for (const kind of KINDS) {
      const rig = new Rig(build, DURABLE).latched();
      const barrier = BARRIERS[kind][0](rig);
      const empty = rig.write(0, 0, BARRIER);
      expect(rig.run()).toEqual([]);
      expect(rig.statuses([barrier, empty])).toEqual(['FLUSH_LATCHED', 'FLUSH_LATCHED']);
    }
  });

  it('B4: a barrier that is not durable needs no sync, so a failed one does not matter', () => {
    const rig = new Rig(build, ORDER).latched();
    const barrier = rig.write(0, 512, BARRIER);
    expect(rig.run()).toEqual(['WRITE 0+512']);
    expect(rig.status(barrier)).toBe('OK');
  });

  it('B3: FUA asks a barrier that is not durable for its own stability only', () => {
    const rig = new Rig(build, ORDER).clean();
    rig.write(0, 512);
    rig.write(8192, 512, { flags: abi.REQUEST_BARRIER | abi.REQUEST_FUA });
    expect(rig.run()).toEqual(['WRITE 0+512', 'WRITE 8192+512 STABLE']);
    rig.flush();
    expect(rig.run()).toEqual(['SYNC']);
  });
});

describe.each(BUILDS)('a barrier after a failure ($name build; durability 7)', (build) => {
  it.each([
    [EIO, 'IO_ERROR'],
    [ENOSPC, 'IO_ERROR'],
    [ENOTSUP, 'OK'],
    [0, 'OK'],
  ] as const)('B5: after errno %i of an earlier request it is answered %s', (errno, status) => {
    const rig = new Rig(build, FAILS);
    rig.write(0, 512);
    const barrier = rig.write(8192, 512, BARRIER);
    rig.pump();
    const commands = rig.answerAndPump('WRITE 0+512', errno);
    expect(commands).toEqual(status === 'OK' ? ['WRITE 8192+512'] : []);
    rig.run();
    expect(rig.status(barrier)).toBe(status);
    expect(rig.completions.at(-1)).toMatchObject({ errno: 0 });
  });

  it('B5: a flush that found the disk latched counts as a failure', () => {
    const rig = new Rig(build, FAILS).latched();
    rig.write(0, 0, BARRIER);
    rig.pump();
    rig.flush();
    const barrier = rig.write(8192, 512, BARRIER);
    expect(rig.run()).toEqual([]);
    expect(rig.status(barrier)).toBe('IO_ERROR');
  });

  it('B5: failures before the last barrier, and its own, do not count', () => {
    const rig = new Rig(build, FAILS);
    rig.write(0, 512);
    rig.pump();
    rig.answerAndPump('WRITE 0+512', EIO);
    const barriers = [rig.flush(BARRIER), rig.write(0, 512, BARRIER)];
    rig.pump();
    rig.answerAndPump('WRITE 0+512', EIO);
    expect(rig.completions.at(-1)).toMatchObject({ status: 1, errno: EIO });
    barriers.push(rig.write(512, 512, BARRIER));
    rig.run();
    expect(rig.statuses(barriers)).toEqual(['IO_ERROR', 'IO_ERROR', 'OK']);
  });

  it('B5: a request that was refused or aborted has not failed', () => {
    const rig = new Rig(build, { ...FAILS, depth: 1 });
    rig.read(0, 512);
    rig.write(4096, 512, { queue: 1 });
    rig.submit({ op: 255 });
    rig.reset(1);
    const barrier = rig.write(8192, 512, BARRIER);
    rig.run();
    expect(rig.completions.map(({ status }) => status)).toContain(abi.STATUS_ABORTED);
    expect(rig.status(barrier)).toBe('OK');
  });

  it('B5: a write that was superseded fails with the one that took its place', () => {
    const rig = new Rig(build, { ...FAILS, depth: 1 });
    rig.read(65536, 512);
    rig.write(0, 512);
    rig.write(0, 512);
    const barrier = rig.write(8192, 512, BARRIER);
    rig.pump();
    rig.answerAndPump('READ 65536+512');
    expect(rig.answerAndPump('WRITE 0+512', EIO)).toEqual([]);
    expect(rig.status(barrier)).toBe('IO_ERROR');
  });

  it('B5: where it is not asked for, a barrier succeeds after a failure', () => {
    const rig = new Rig(build, ORDER);
    rig.write(0, 512, FUA);
    const barrier = rig.write(8192, 512, BARRIER);
    rig.pump();
    rig.answerAndPump(rig.log[0]!, EIO);
    rig.run();
    expect(rig.status(barrier)).toBe('OK');
  });

  it('W2, W3: a write that is alone before a barrier goes to the O_DSYNC descriptor', () => {
    const rig = new Rig(build, DURABLE).clean();
    rig.write(0, 512, FUA);
    rig.write(8192, 512, BARRIER);
    expect(rig.run()).toEqual(['WRITE 0+512 STABLE', 'WRITE 8192+512 STABLE']);
  });

  it('F10: the flush of a barrier waits for no companions: none can come', () => {
    const rig = new Rig(build, { ...DURABLE, flushWait: 100 }).clean();
    rig.write(0, 512);
    rig.run();
    for (let i = 0; i < 3; i++) rig.flush();
    rig.run();
    rig.write(0, 512);
    rig.write(8192, 512, BARRIER);
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['SYNC']);
  });
});
