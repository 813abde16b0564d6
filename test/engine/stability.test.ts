// The class of a request: invariants W1-W3 of assembly/schedule/stability.ts and F8 of flush.ts,
// durability sections 2 and 5.

import { describe, expect, it } from 'vitest';
import { BUILDS } from '../support/engine.ts';
import { FUA, Rig } from './rig.ts';

const EIO = 5;

describe.each(BUILDS)('the class of a request ($name build; durability 2)', (build) => {
  it('W1: with the write cache on, a plain write is volatile', () => {
    const rig = new Rig(build).clean();
    const write = rig.write(0, 512);
    expect(rig.run()).toEqual(['WRITE 0+512']);
    expect(rig.status(write)).toBe('OK');
    expect(rig.engine.generations()).toMatchObject({ completed: 2, files: [{ unproven: 2 }] });
  });

  it('W1: a write that carries FUA is stable, and leaves nothing to flush', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512, FUA);
    expect(rig.run()).toEqual(['WRITE 0+512 STABLE']);
    rig.flush();
    expect(rig.run()).toEqual([]);
  });

  it('W1: with the write cache off, every write-class request is stable', () => {
    const rig = new Rig(build, { wce: false });
    const write = rig.write(0, 512);
    expect(rig.run()).toEqual(['WRITE 0+512 STABLE']);
    const zeroes = rig.writeZeroes(512, 512);
    expect(rig.run()).toEqual(['ZERO 512+512', 'SYNC']);
    const discard = rig.discard(1024, 512);
    expect(rig.run()).toEqual(['DISCARD 1024+512', 'SYNC']);
    expect([write, zeroes, discard].map((tag) => rig.status(tag))).toEqual(['OK', 'OK', 'OK']);
  });

  it('W1: with flushes ignored nothing is stable: no sync, no O_DSYNC write', () => {
    for (const wce of [true, false]) {
      const rig = new Rig(build, { noFlush: true, wce });
      rig.write(0, 512);
      rig.write(8192, 512, FUA);
      rig.writeZeroes(16384, 512, FUA);
      rig.discard(32768, 512, FUA);
      rig.setWce(0);
      rig.write(65536, 512);
      expect(rig.run().filter((text) => /STABLE|SYNC/.test(text))).toEqual([]);
      expect(rig.completions.map(({ status }) => status)).toEqual([0, 0, 0, 0, 0, 0]);
    }
  });

  it('W2: a change of the write cache counts from the next request on (durability 5)', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.setWce(0);
    rig.write(8192, 512);
    rig.setWce(1);
    rig.write(16384, 512);
    expect(rig.pump()).toEqual(['WRITE 0+512', 'WRITE 16384+512', 'WRITE 8192+512 STABLE']);
  });
});

describe.each(BUILDS)('stable writes and group commit ($name build; durability 2)', (build) => {
  it('W3: a stable write that is alone goes to the O_DSYNC descriptor, without a sync', () => {
    const rig = new Rig(build, { wce: false });
    const write = rig.write(0, 512);
    rig.read(8192, 512);
    expect(rig.run()).toEqual(['READ 8192+512', 'WRITE 0+512 STABLE']);
    expect(rig.status(write)).toBe('OK');
  });

  it('W3: stable neighbours that are one run are one O_DSYNC write', () => {
    const rig = new Rig(build, { wce: false });
    rig.write(0, 512);
    rig.write(512, 512);
    rig.write(1024, 512);
    expect(rig.run()).toEqual(['WRITE 0+1536 STABLE']);
  });

  it('W3, F8: several stable writes at once are written plainly and share one sync', () => {
    const rig = new Rig(build, { wce: false });
    const writes = [rig.write(0, 512), rig.write(8192, 512), rig.write(16384, 512)];
    expect(rig.pump()).toEqual(['WRITE 0+512', 'WRITE 8192+512', 'WRITE 16384+512']);
    for (const at of [0, 8192, 16384]) rig.answer(`WRITE ${at}+512`);
    expect(rig.pump()).toEqual(['SYNC']);
    expect(writes.map((tag) => rig.status(tag))).toEqual(['open', 'open', 'open']);
    rig.answerAndPump('SYNC');
    expect(writes.map((tag) => rig.status(tag))).toEqual(['OK', 'OK', 'OK']);
    expect(rig.engine.counters()).toMatchObject({ groupCommits: 3, flushesCoalesced: 2, syncs: 1 });
  });

  it('F8: a sync that started before a stable write returned does not make it stable', () => {
    const rig = new Rig(build, { wce: false });
    const first = rig.write(0, 512);
    const second = rig.write(8192, 512);
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['SYNC']);
    rig.answerAndPump('WRITE 8192+512');
    expect(rig.answerAndPump('SYNC')).toEqual(['SYNC']);
    expect([rig.status(first), rig.status(second)]).toEqual(['OK', 'open']);
    rig.answerAndPump('SYNC');
    expect(rig.status(second)).toBe('OK');
  });

  it('F8: a stable zeroing waits for a sync that started after it returned', () => {
    const rig = new Rig(build, { wce: false });
    rig.flush();
    const zeroes = rig.writeZeroes(0, 512);
    expect(rig.pump()).toEqual(['ZERO 0+512', 'SYNC']);
    rig.answerAndPump('ZERO 0+512');
    expect(rig.answerAndPump('SYNC')).toEqual(['SYNC']);
    expect(rig.status(zeroes)).toBe('open');
    rig.answerAndPump('SYNC');
    expect(rig.status(zeroes)).toBe('OK');
    expect(rig.engine.counters().groupCommits).toBe(0);
  });

  it('F8: a stable write that failed does not wait for a sync', () => {
    const rig = new Rig(build, { wce: false });
    const failed = rig.write(0, 512);
    rig.write(8192, 512);
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+512', EIO)).toEqual([]);
    expect(rig.status(failed)).toBe('IO_ERROR');
  });

  it('W3: a stable write is not alone while another one waits for its sync', () => {
    const rig = new Rig(build, { wce: false }).clean();
    rig.write(0, 512);
    rig.write(8192, 512);
    rig.pump();
    rig.answerAndPump('WRITE 0+512');
    rig.answerAndPump('WRITE 8192+512');
    rig.answerAndPump('SYNC');
    rig.write(16384, 512);
    expect(rig.pump()).toEqual(['WRITE 16384+512']);
    rig.answer('SYNC');
    expect(rig.answerAndPump('WRITE 16384+512')).toEqual(['SYNC']);
  });

  it('W4: after a failed sync no stable write succeeds, alone or not', () => {
    const rig = new Rig(build, { wce: false }).latched();
    const alone = rig.write(0, 512);
    expect(rig.run()).toEqual(['WRITE 0+512']);
    const writes = [rig.write(0, 512), rig.write(8192, 512, FUA)];
    expect(rig.run()).toEqual(['WRITE 0+512', 'WRITE 8192+512']);
    expect(rig.statuses([alone, ...writes])).toEqual([
      'FLUSH_LATCHED',
      'FLUSH_LATCHED',
      'FLUSH_LATCHED',
    ]);
  });

  it('W4: the latch that shuts while stable writes queue stops them too', () => {
    const rig = new Rig(build, { wce: false, depth: 1 });
    rig.flush();
    rig.read(16384, 512);
    const writes = [rig.write(0, 512), rig.write(8192, 512)];
    rig.pump();
    rig.answerAndPump('SYNC', EIO);
    rig.answer('READ 16384+512');
    expect(rig.run()).toEqual(['WRITE 0+512', 'WRITE 8192+512']);
    expect(rig.statuses(writes)).toEqual(['FLUSH_LATCHED', 'FLUSH_LATCHED']);
  });

  it('W3: where the host has no stable write, it is always a plain write and a sync', () => {
    const rig = new Rig(build, { fua: false }).clean();
    const write = rig.write(0, 512, FUA);
    expect(rig.pump()).toEqual(['WRITE 0+512']);
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['SYNC']);
    expect(rig.status(write)).toBe('open');
    rig.answerAndPump('SYNC');
    expect(rig.status(write)).toBe('OK');
    expect(rig.engine.counters()).toMatchObject({ groupCommits: 1 });
  });

  it('W3, F6: without it no stable write succeeds after a failed sync', () => {
    const rig = new Rig(build, { fua: false, wce: false }).latched();
    const tags = [rig.write(0, 512), rig.writeZeroes(8192, 512)];
    expect(rig.run()).toEqual(['WRITE 0+512', 'ZERO 8192+512']);
    expect(rig.statuses(tags)).toEqual(['FLUSH_LATCHED', 'FLUSH_LATCHED']);
  });
});
