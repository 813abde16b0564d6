// Flushes and syncs: invariants F1-F8 of assembly/schedule/flush.ts, durability sections 4 and 6.

import { describe, expect, it } from 'vitest';
import { BUILDS } from '../support/engine.ts';
import { FUA, Rig } from './rig.ts';

const EIO = 5;
const ENOSPC = 28;

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

  it('F2: a sync does not cover a write that completes while it runs (S01)', () => {
    const rig = new Rig(build);
    const first = rig.flush();
    rig.write(0, 512);
    expect(rig.pump()).toEqual(['WRITE 0+512', 'SYNC']);
    rig.answerAndPump('WRITE 0+512');
    const second = rig.flush();
    expect(rig.pump()).toEqual([]);
    expect(rig.answerAndPump('SYNC')).toEqual(['SYNC']);
    expect(rig.status(first)).toBe('OK');
    expect(rig.status(second)).toBe('open');
    rig.answerAndPump('SYNC');
    expect(rig.status(second)).toBe('OK');
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

  it('F3: a flush with nothing volatile since the last good sync emits nothing (S03)', () => {
    const rig = new Rig(build).clean();
    const flushes = [rig.flush(), rig.flush(), rig.flush()];
    expect(rig.pump()).toEqual([]);
    expect(flushes.map((tag) => rig.status(tag))).toEqual(['OK', 'OK', 'OK']);
    expect(rig.engine.counters().flushesElided).toBe(3);
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

  it('F3: while the sync that a flush needs is still running, the flush waits (S02)', () => {
    const rig = new Rig(build);
    const first = rig.flush();
    rig.pump();
    const second = rig.flush();
    rig.pump();
    expect([rig.status(first), rig.status(second)]).toEqual(['open', 'open']);
    expect(rig.answerAndPump('SYNC')).toEqual([]);
    expect([rig.status(first), rig.status(second)]).toEqual(['OK', 'OK']);
  });

  it('F4: one sync serves every flush that waits when it starts', () => {
    const rig = new Rig(build);
    const flushes = Array.from({ length: 16 }, () => rig.flush());
    expect(rig.pump()).toEqual(['SYNC']);
    expect(rig.answerAndPump('SYNC')).toEqual([]);
    expect(flushes.map((tag) => rig.status(tag))).toEqual(flushes.map(() => 'OK'));
    expect(rig.engine.counters()).toMatchObject({ syncs: 1, flushesCoalesced: 15 });
  });

  it('F4: flushes that come too late for a sync share the next one (S02)', () => {
    const rig = new Rig(build);
    rig.flush();
    rig.write(0, 512);
    rig.write(8192, 512);
    rig.pump();
    const late: number[] = [];
    for (const write of ['WRITE 0+512', 'WRITE 8192+512']) {
      rig.answerAndPump(write);
      late.push(rig.flush());
      expect(rig.pump()).toEqual([]);
    }
    expect(rig.answerAndPump('SYNC')).toEqual(['SYNC']);
    rig.answerAndPump('SYNC');
    expect(late.map((tag) => rig.status(tag))).toEqual(['OK', 'OK']);
    expect(rig.log.filter((text) => text === 'SYNC')).toHaveLength(2);
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

  it('F5: a write that failed may have changed the disk, so it is dirty (S05)', () => {
    const rig = new Rig(build).clean();
    const write = rig.write(0, 512);
    rig.pump();
    rig.answerAndPump('WRITE 0+512', EIO);
    expect(rig.status(write)).toBe('IO_ERROR');
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
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

  it('F5: write zeroes and discard are dirty (S06)', () => {
    for (const change of ['writeZeroes', 'discard'] as const) {
      const rig = new Rig(build).clean();
      rig[change](0, 512);
      rig.run();
      rig.flush();
      expect(rig.pump(), change).toEqual(['SYNC']);
    }
  });

  it('F7: a disk starts dirty: the first flush after open syncs once', () => {
    const rig = new Rig(build);
    const flush = rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
    rig.answerAndPump('SYNC');
    expect(rig.status(flush)).toBe('OK');
    rig.flush();
    expect(rig.run()).toEqual([]);
    expect(rig.engine.generations()).toMatchObject({ completed: 1, stable: 1, cover: 1 });
  });

  it('S11: a flush orders nothing: writes on both sides of it are merged', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    const flush = rig.flush();
    rig.write(512, 512);
    expect(rig.pump()).toEqual(['WRITE 0+1024']);
    expect(rig.status(flush)).toBe('OK');
  });

  it('S17: with flushes ignored a flush is done at once and nothing is synced', () => {
    const rig = new Rig(build, { noFlush: true });
    rig.write(0, 512);
    rig.run();
    const flush = rig.flush();
    expect(rig.run()).toEqual([]);
    expect(rig.status(flush)).toBe('OK');
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

  it('F6: after a failed sync every flush fails and none is issued (S04, F14, F15)', () => {
    const rig = new Rig(build);
    rig.flush();
    rig.pump();
    rig.answerAndPump('SYNC', EIO);
    expect(rig.engine.generations()).toMatchObject({ stable: 0, latched: true });
    for (let i = 0; i < 3; i++) {
      const flush = rig.flush();
      expect(rig.pump()).toEqual([]);
      expect(rig.status(flush)).toBe('FLUSH_LATCHED');
    }
    expect(rig.engine.counters()).toMatchObject({ syncs: 1, syncsFailed: 1, flushesElided: 0 });
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
