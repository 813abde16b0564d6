// Flushes and syncs: invariants F1-F8 of assembly/schedule/flush.ts, durability sections 4 and 6.

import { describe, expect, it } from 'vitest';
import { STATE_WAIT_NEVER as NEVER } from '../../src/abi/region.ts';
import { BUILDS } from '../support/engine.ts';
import { FUA, Rig } from './rig.ts';

const EIO = 5;
const ENOSPC = 28;
/** A file in which nothing is volatile. */
const CLEAN = { unproven: undefined, late: undefined, running: false };

describe.each(BUILDS)('need, cover and elision ($name build; durability 4)', (build) => {
  it('F1: a flush owes nothing of a write that completes after it was taken', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.pump();
    const flush = rig.flush();
    expect(rig.pump()).toEqual([]);
    expect(rig.status(flush)).toBe('OK');
  });

  it('F1: a flush owes every volatile write that completed before it was taken', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.run();
    const flush = rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
    expect(rig.status(flush)).toBe('open');
    rig.answerAndPump('SYNC');
    expect(rig.status(flush)).toBe('OK');
  });

  it('F1: a flush behind a full engine owes what completes until it is taken', () => {
    const rig = new Rig(build, { depth: 1 }).clean();
    for (let i = 0; i < 1024; i++) rig.write(i * 1024, 512);
    const flush = rig.flush();
    rig.pump();
    expect(rig.engine.requestsWaiting()).toBe(1);
    rig.answerAndPump('WRITE 0+512');
    expect(rig.status(flush)).toBe('open');
    expect(rig.log.at(-1)).toBe('SYNC');
  });

  it('F2: a write that completes while a sync runs is dirty after it', () => {
    const rig = new Rig(build);
    rig.flush();
    rig.write(0, 512);
    rig.pump();
    rig.answerAndPump('WRITE 0+512');
    rig.answerAndPump('SYNC');
    const late = rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
    expect(rig.status(late)).toBe('open');
  });

  it('F2: a write answered in the same call as the sync is dirty after it', () => {
    for (const order of [
      ['WRITE 0+512', 'SYNC'],
      ['SYNC', 'WRITE 0+512'],
    ]) {
      const rig = new Rig(build);
      rig.flush();
      rig.write(0, 512);
      rig.pump();
      for (const text of order) rig.answer(text);
      const late = rig.flush();
      expect(rig.pump()).toEqual(['SYNC']);
      expect(rig.status(late)).toBe('open');
    }
  });

  it('F3: reads and stable writes make nothing dirty', () => {
    const rig = new Rig(build).clean();
    rig.read(0, 512);
    rig.blockStatus(0, 512);
    rig.write(4096, 512, FUA);
    rig.run();
    rig.flush();
    expect(rig.pump()).toEqual([]);
  });

  it('F4: one sync serves every flush that waits when it starts', () => {
    const rig = new Rig(build);
    const flushes = Array.from({ length: 16 }, () => rig.flush());
    expect(rig.pump()).toEqual(['SYNC']);
    expect(rig.answerAndPump('SYNC')).toEqual([]);
    expect(flushes.map((tag) => rig.status(tag))).toEqual(flushes.map(() => 'OK'));
    expect(rig.engine.counters()).toMatchObject({ syncs: 1, flushesCoalesced: 15 });
  });

  it('F4: a sync needs no room among the data commands', () => {
    const rig = new Rig(build, { depth: 1 });
    rig.read(0, 512);
    rig.read(8192, 512);
    rig.flush();
    expect(rig.pump()).toEqual(['READ 0+512', 'SYNC']);
  });
});

describe.each(BUILDS)('what is dirty ($name build; durability 4)', (build) => {
  it('F5: a flush taken in the same call as the answer of a write owes that write', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.pump();
    rig.answer('WRITE 0+512');
    const flush = rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
    expect(rig.status(flush)).toBe('open');
  });

  it('F5: a stable write that failed is in an unknown state, so it is dirty', () => {
    const rig = new Rig(build, { wce: false }).clean();
    rig.write(0, 512);
    rig.pump();
    rig.answerAndPump('WRITE 0+512 STABLE', EIO);
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
  });

  it('F5: every part of a merged write is dirty', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.write(512, 512);
    expect(rig.run()).toEqual(['WRITE 0+1024']);
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
  });

  it('F7: a disk starts dirty: the first flush after open syncs once', () => {
    const rig = new Rig(build);
    const flush = rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
    rig.answerAndPump('SYNC');
    expect(rig.status(flush)).toBe('OK');
    rig.flush();
    expect(rig.run()).toEqual([]);
    expect(rig.engine.generations()).toMatchObject({ completed: 1, files: [CLEAN] });
  });
});

describe.each(BUILDS)('a failed sync ($name build; durability 6)', (build) => {
  it('F6: a failed sync fails everyone who waits, with the errno of the host', () => {
    const rig = new Rig(build);
    const before = rig.flush();
    rig.pump();
    const during = rig.flush();
    rig.pump();
    expect(rig.answerAndPump('SYNC', ENOSPC)).toEqual([]);
    expect([rig.status(before), rig.status(during)]).toEqual(['IO_ERROR', 'IO_ERROR']);
    expect(rig.completions.map(({ errno }) => errno)).toEqual([ENOSPC, ENOSPC]);
  });

  it('F6: turning the write cache off fails as a flush does', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.run();
    rig.flush();
    rig.pump();
    rig.answerAndPump('SYNC', EIO);
    const wce = rig.setWce(0);
    rig.pump();
    expect(rig.status(wce)).toBe('FLUSH_LATCHED');
  });

  it('F6: a flush taken in the same call as the failed sync fails', () => {
    const rig = new Rig(build);
    rig.flush();
    rig.pump();
    rig.answer('SYNC', EIO);
    const flush = rig.flush();
    expect(rig.pump()).toEqual([]);
    expect(rig.status(flush)).toBe('FLUSH_LATCHED');
  });

  it('F6: reads and volatile writes go on after a failed sync', () => {
    const rig = new Rig(build);
    rig.flush();
    rig.pump();
    rig.answerAndPump('SYNC', EIO);
    const write = rig.write(0, 512);
    const read = rig.read(4096, 512);
    rig.run();
    expect([rig.status(write), rig.status(read)]).toEqual(['OK', 'OK']);
  });

  it('F6, F8: a stable request whose write returns after the failure is not called stable', () => {
    const rig = new Rig(build, { wce: false });
    const zeroes = rig.writeZeroes(0, 512);
    const write = rig.write(4096, 512);
    const beside = rig.write(8192, 512);
    rig.flush();
    expect(rig.pump()).toEqual(['WRITE 4096+512', 'WRITE 8192+512', 'ZERO 0+512', 'SYNC']);
    rig.answerAndPump('WRITE 4096+512');
    rig.answerAndPump('SYNC', EIO);
    rig.answer('WRITE 8192+512');
    expect(rig.answerAndPump('ZERO 0+512')).toEqual([]);
    expect(rig.status(write)).toBe('IO_ERROR');
    expect(rig.status(beside)).toBe('FLUSH_LATCHED');
    expect(rig.status(zeroes)).toBe('FLUSH_LATCHED');
    expect(rig.engine.counters().groupCommits).toBe(1);
  });
});

describe.each(BUILDS)('opening the latch ($name build; durability 6)', (build) => {
  it('F9: after it flushes sync and succeed again', () => {
    const rig = new Rig(build).latched();
    const clear = rig.clearLatch();
    const flush = rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
    expect(rig.status(clear)).toBe('OK');
    expect(rig.engine.generations().latched).toBe(false);
    rig.answerAndPump('SYNC');
    expect(rig.status(flush)).toBe('OK');
    rig.flush();
    expect(rig.run()).toEqual([]);
  });

  it('F9: the disk is as dirty as at first, whatever had been proven', () => {
    const rig = new Rig(build).clean();
    const { completed } = rig.engine.generations();
    rig.clearLatch();
    rig.pump();
    const unproven = completed + 1;
    expect(rig.engine.generations()).toMatchObject({ completed: unproven, files: [{ unproven }] });
    rig.flush();
    expect(rig.run()).toEqual(['SYNC']);
  });

  it('F9: what raced with the failed sync completes before: it is a fence', () => {
    const rig = new Rig(build, { fua: false }).clean();
    const writes = [rig.write(0, 512, FUA), rig.write(8192, 512)];
    rig.pump();
    rig.writeZeroes(16_384, 512);
    rig.pump();
    rig.answerAndPump('ZERO 16384+512');
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
    rig.answerAndPump('SYNC', EIO);
    const clear = rig.clearLatch();
    const later = rig.read(0, 512);
    expect(rig.pump()).toEqual([]);
    expect(rig.engine.requestsWaiting()).toBe(1);
    rig.answerAndPump('WRITE 0+512');
    expect(rig.statuses([...writes, clear])).toEqual(['FLUSH_LATCHED', 'open', 'open']);
    expect(rig.answerAndPump('WRITE 8192+512')).toEqual(['READ 0+512']);
    expect(rig.statuses([...writes, clear, later])).toEqual(['FLUSH_LATCHED', 'OK', 'OK', 'open']);
    expect(rig.engine.counters().barriers).toBe(0);
  });

  it('F9: a sync that started before it proves nothing after it', () => {
    const rig = new Rig(build);
    rig.flush({ queue: 1 });
    rig.pump();
    rig.reset(1);
    rig.clearLatch();
    const flush = rig.flush();
    expect(rig.pump()).toEqual([]);
    expect(rig.answerAndPump('SYNC')).toEqual(['SYNC']);
    expect(rig.status(flush)).toBe('open');
    rig.answerAndPump('SYNC');
    expect(rig.status(flush)).toBe('OK');
  });

  it('F9: the next failure closes it again', () => {
    const rig = new Rig(build).latched();
    rig.clearLatch();
    const first = rig.flush();
    rig.pump();
    rig.answerAndPump('SYNC', EIO);
    const second = rig.flush();
    rig.pump();
    expect(rig.statuses([first, second])).toEqual(['IO_ERROR', 'FLUSH_LATCHED']);
    expect(rig.engine.counters()).toMatchObject({ syncs: 2, syncsFailed: 2 });
  });

  it('F9: where flushes are ignored it opens nothing and syncs nothing', () => {
    const rig = new Rig(build, { noFlush: true });
    const tags = [rig.clearLatch(), rig.flush()];
    expect(rig.run()).toEqual([]);
    expect(rig.statuses(tags)).toEqual(['OK', 'OK']);
  });
});

describe.each(BUILDS)('companions ($name build; durability 4)', (build) => {
  /** A rig whose last sync has served `served`, and on which something is volatile again. */
  function after(served: number, flushWait = 100): Rig {
    const rig = new Rig(build, { flushWait });
    for (let i = 0; i < served; i++) rig.flush();
    rig.write(0, 512);
    rig.run();
    rig.log.length = 0;
    return rig;
  }

  it('F10: after a sync that served several the next one waits until as many wait', () => {
    const rig = after(3);
    const flushes = [rig.flush()];
    expect(rig.pump()).toEqual([]);
    expect(rig.engine.wait()).toBe(100);
    flushes.push(rig.flush());
    expect(rig.pumpAfter(40)).toEqual([]);
    expect(rig.engine.wait()).toBe(60);
    flushes.push(rig.flush());
    expect(rig.pumpAfter(10)).toEqual(['SYNC']);
    expect(rig.engine.wait()).toBe(NEVER);
    rig.answerAndPump('SYNC');
    expect(rig.statuses(flushes)).toEqual(['OK', 'OK', 'OK']);
    expect(rig.engine.counters()).toMatchObject({ syncs: 2, syncsDelayed: 1 });
  });

  it('F10: it waits for a bounded time only', () => {
    const rig = after(3);
    rig.flush();
    rig.pump();
    expect(rig.pumpAfter(99)).toEqual([]);
    expect(rig.engine.wait()).toBe(1);
    expect(rig.pumpAfter(1)).toEqual(['SYNC']);
    expect(rig.engine.wait()).toBe(NEVER);
  });

  it('F10: the time counts from when the first of those who wait now began to wait', () => {
    const rig = after(3);
    for (let i = 0; i < 3; i++) rig.flush();
    rig.write(8192, 512);
    expect(rig.pump()).toEqual(['WRITE 8192+512', 'SYNC']);
    rig.answerAndPump('WRITE 8192+512');
    rig.flush();
    expect(rig.pumpAfter(50)).toEqual([]);
    rig.now = 90;
    expect(rig.answerAndPump('SYNC')).toEqual([]);
    expect(rig.engine.wait()).toBe(60);
    expect(rig.pumpAfter(60)).toEqual(['SYNC']);
  });

  it('F10: after a sync that served one, or without the word, nothing waits', () => {
    for (const rig of [after(1), after(3, 0)]) {
      rig.flush();
      expect(rig.pump()).toEqual(['SYNC']);
      expect(rig.engine.wait()).toBe(NEVER);
      expect(rig.engine.counters().syncsDelayed).toBe(0);
    }
  });

  it('F10: the last sync counts: after one that served one nothing waits any more', () => {
    const rig = after(3);
    rig.flush();
    rig.pump();
    expect(rig.pumpAfter(100)).toEqual(['SYNC']);
    rig.write(0, 512);
    rig.run();
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
  });

  it('F10: stable writes are companions too', () => {
    const rig = after(2);
    rig.writeZeroes(0, 512, FUA);
    rig.flush();
    rig.pump();
    expect(rig.answerAndPump('ZERO 0+512')).toEqual(['SYNC']);
  });

  it('F3: what is elided does not wait for companions', () => {
    const rig = after(3);
    rig.flush();
    rig.pump();
    rig.pumpAfter(100);
    rig.answerAndPump('SYNC');
    const flush = rig.flush();
    expect(rig.pump()).toEqual([]);
    expect(rig.status(flush)).toBe('OK');
  });

  it('F10: while nothing can start nobody is asked to call: not while a sync runs', () => {
    const rig = after(3);
    expect(rig.engine.wait()).toBe(NEVER);
    for (let i = 0; i < 3; i++) rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
    rig.flush();
    rig.pump();
    expect(rig.engine.wait()).toBe(NEVER);
  });

  it('F10: who waits for companions and is aborted leaves nothing behind', () => {
    const rig = after(3);
    rig.flush();
    rig.pump();
    rig.reset(0);
    expect(rig.pump()).toEqual([]);
    expect(rig.engine.wait()).toBe(NEVER);
    expect(rig.pumpAfter(1000)).toEqual([]);
    for (let i = 0; i < 3; i++) rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
    expect(rig.engine.counters().syncsDelayed).toBe(0);
  });

  it('a new engine asks for no call', () => {
    expect(new Rig(build, { flushWait: 100 }).engine.wait()).toBe(NEVER);
  });
});
