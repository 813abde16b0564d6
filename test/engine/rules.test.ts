// The rules for flushes, order and merging as streams, one row of the list after the other: S01 to
// S18. What they rest on is in the stages' own tests.
//
// S14 is kept in a stricter way: not every part of a failed merge gets its error, but each is sent
// again alone and gets its own status, so that none is told OK that failed (durability section 7).

import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/request.ts';
import { BUILDS } from '../support/engine.ts';
import { BARRIER, FUA, type Options, Rig } from './rig.ts';

const EIO = 5;

describe.each(BUILDS)('flushes (F1-F9) ($name build)', (build) => {
  it('S01: a sync does not cover a write that completes while it runs (F2)', () => {
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

  it('S02: a flush whose writes had all completed before the running sync rides on it (F3)', () => {
    const rig = new Rig(build);
    const first = rig.flush();
    rig.pump();
    const second = rig.flush();
    rig.pump();
    expect([rig.status(first), rig.status(second)]).toEqual(['open', 'open']);
    expect(rig.answerAndPump('SYNC')).toEqual([]);
    expect([rig.status(first), rig.status(second)]).toEqual(['OK', 'OK']);
  });

  it('S02: flushes that come too late for a sync share the next one (F4)', () => {
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

  it('S03: a flush with nothing volatile since the last good sync emits nothing (F3)', () => {
    const rig = new Rig(build).clean();
    const flushes = [rig.flush(), rig.flush(), rig.flush()];
    expect(rig.pump()).toEqual([]);
    expect(flushes.map((tag) => rig.status(tag))).toEqual(['OK', 'OK', 'OK']);
    expect(rig.engine.counters().flushesElided).toBe(3);
  });

  it('S04: after a failed sync no flush is dropped: each one fails (F6; faults F14, F15)', () => {
    const rig = new Rig(build);
    rig.flush();
    rig.pump();
    rig.answerAndPump('SYNC', EIO);
    expect(rig.engine.generations()).toMatchObject({ files: [{ unproven: 1 }], latched: true });
    for (let i = 0; i < 3; i++) {
      const flush = rig.flush();
      expect(rig.pump()).toEqual([]);
      expect(rig.status(flush)).toBe('FLUSH_LATCHED');
    }
    expect(rig.engine.counters()).toMatchObject({ syncs: 1, syncsFailed: 1, flushesElided: 0 });
  });

  it('S05: a write that failed may have changed the disk, so a flush runs (F5)', () => {
    const rig = new Rig(build).clean();
    const write = rig.write(0, 512);
    rig.pump();
    rig.answerAndPump('WRITE 0+512', EIO);
    expect(rig.status(write)).toBe('IO_ERROR');
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
  });

  it('S06: write zeroes and discard are dirty (F5)', () => {
    for (const change of ['writeZeroes', 'discard'] as const) {
      const rig = new Rig(build).clean();
      rig[change](0, 512);
      rig.run();
      rig.flush();
      expect(rig.pump(), change).toEqual(['SYNC']);
    }
  });
});

describe.each(BUILDS)('order and merging (H3, E2, B1) ($name build)', (build) => {
  it('S07: writes of one place go to the host one by one, in submission order (H3)', () => {
    const rig = new Rig(build).clean();
    for (const offset of [0, 4096, 2048, 512]) rig.write(offset, 8192);
    const order = ['WRITE 0+8192', 'WRITE 4096+8192', 'WRITE 2048+8192', 'WRITE 512+8192'];
    expect(rig.pump()).toEqual([order[0]]);
    for (let i = 1; i < order.length; i++) {
      expect(rig.answerAndPump(order[i - 1]!)).toEqual([order[i]]);
    }
  });

  it('S08: reads see the write before them and not the one after (H3)', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.read(0, 512);
    rig.read(0, 512);
    rig.write(0, 512);
    expect(rig.pump()).toEqual(['WRITE 0+512']);
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['READ 0+512', 'READ 0+512']);
    expect(rig.answerAndPump('READ 0+512')).toEqual([]);
    expect(rig.answerAndPump('READ 0+512')).toEqual(['WRITE 0+512']);
  });

  it('S09: a stable write and a volatile neighbour are not merged', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512, FUA);
    rig.write(512, 512);
    expect(rig.pump()).toEqual(['WRITE 512+512', 'WRITE 0+512 STABLE']);
  });

  it('S10: a barrier between two mergeable writes is neither merged nor crossed (B1, B2)', () => {
    const rig = new Rig(build, { barrier: true }).clean();
    const before = [rig.write(0, 512), rig.write(512, 512)];
    const barrier = rig.write(1024, 512, BARRIER);
    const after = [rig.write(1536, 512), rig.write(2048, 512)];
    expect(rig.pump()).toEqual(['WRITE 0+1024']);
    expect(rig.answerAndPump('WRITE 0+1024')).toEqual(['WRITE 1024+512']);
    expect(rig.answerAndPump('WRITE 1024+512')).toEqual(['WRITE 1536+1024']);
    rig.answerAndPump('WRITE 1536+1024');
    expect(rig.statuses([...before, barrier, ...after])).toEqual(['OK', 'OK', 'OK', 'OK', 'OK']);
  });

  it('S11: a flush orders nothing: writes on both sides of it are merged', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    const flush = rig.flush();
    rig.write(512, 512);
    expect(rig.pump()).toEqual(['WRITE 0+1024']);
    expect(rig.status(flush)).toBe('OK');
  });

  it('S12: a durable barrier is flushed before; FUA stands for the second flush (B3)', () => {
    const rig = new Rig(build, { barrier: true, barrierDurable: true }).clean();
    rig.write(0, 512);
    rig.write(512, 512, { flags: abi.REQUEST_BARRIER | abi.REQUEST_FUA });
    rig.write(1024, 512);
    expect(rig.run()).toEqual(['WRITE 0+512', 'SYNC', 'WRITE 512+512 STABLE', 'WRITE 1024+512']);
    rig.flush();
    expect(rig.run()).toEqual(['SYNC']);
  });

  it('S13: a run stays within the byte limit; a request above it goes alone (E2)', () => {
    const rig = new Rig(build, { mergeBytes: 4096 });
    for (let offset = 0; offset < 16384; offset += 1024) rig.read(offset, 1024);
    expect(rig.pump()).toEqual([0, 4096, 8192, 12288].map((offset) => `READ ${offset}+4096`));
    rig.read(0, 8192);
    rig.read(8192, 512);
    expect(rig.pump()).toEqual(['READ 0+8192', 'READ 8192+512']);
  });

  it('S13: a run stays within 64 segments, however they come together (E2)', () => {
    const rig = new Rig(build);
    for (let i = 0; i < 130; i++) rig.read(i * 512, 512);
    expect(rig.pump()).toEqual(['READ 0+32768', 'READ 32768+32768', 'READ 65536+1024']);
    const segments = (count: number, bytes: number): Options => ({
      segments: count,
      data: rig.table(Array.from({ length: count }, () => [rig.allocate(bytes), bytes] as const)),
    });
    rig.read(0, 512 * 60, segments(60, 512));
    rig.read(512 * 60, 512 * 4, segments(4, 512));
    rig.read(512 * 64, 512);
    expect(rig.pump()).toEqual(['READ 0+32768', 'READ 32768+512']);
  });
});

describe.each(BUILDS)('failures of merged requests ($name build)', (build) => {
  it('S14: every part of a failed merge is sent again alone and gets a status of its own', () => {
    const rig = new Rig(build).clean();
    const tags = [0, 512, 1024].map((offset) => rig.write(offset, 512));
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+1536', EIO)).toEqual([
      'WRITE 0+512',
      'WRITE 512+512',
      'WRITE 1024+512',
    ]);
    expect(rig.completions.map(({ tag }) => tag)).toEqual([1]);
    rig.answer('WRITE 0+512');
    rig.answer('WRITE 512+512', 28);
    rig.answerAndPump('WRITE 1024+512');
    expect(tags.map((tag) => rig.status(tag))).toEqual(['OK', 'NO_SPACE', 'OK']);
    expect(rig.engine.counters().reissued).toBe(3);
  });

  it('S14: parts that are sent again join nothing, neither each other nor newcomers', () => {
    const rig = new Rig(build, { depth: 2 }).clean();
    for (const offset of [0, 512, 1024]) rig.read(offset, 512);
    rig.pump();
    rig.answer('READ 0+1536', EIO);
    rig.read(1536, 512);
    expect(rig.pump()).toEqual(['READ 0+512', 'READ 512+512']);
    expect(rig.answerAndPump('READ 0+512')).toEqual(['READ 1024+512']);
    expect(rig.answerAndPump('READ 512+512')).toEqual(['READ 1536+512']);
  });

  it('S14: a request that failed alone is not sent again', () => {
    const rig = new Rig(build);
    const read = rig.read(0, 512);
    rig.pump();
    expect(rig.answerAndPump('READ 0+512', EIO)).toEqual([]);
    expect(rig.status(read)).toBe('IO_ERROR');
    expect(rig.engine.counters().reissued).toBe(0);
  });

  it('S14: when a merged stable write fails, each part is written again and made stable', () => {
    const rig = new Rig(build, { wce: false }).clean();
    const good = rig.write(0, 512);
    const bad = rig.write(512, 512);
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+1024 STABLE', EIO)).toEqual(['WRITE 0+512', 'WRITE 512+512']);
    rig.answer('WRITE 0+512');
    expect(rig.answerAndPump('WRITE 512+512', EIO)).toEqual(['SYNC']);
    rig.answerAndPump('SYNC');
    expect([rig.status(good), rig.status(bad)]).toEqual(['OK', 'IO_ERROR']);
  });
});

describe.each(BUILDS)('the write cache (W2) ($name build)', (build) => {
  it('S15: what was volatile is flushed before the change is acknowledged', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.run();
    const off = rig.setWce(0);
    expect(rig.pump()).toEqual(['SYNC']);
    expect(rig.status(off)).toBe('open');
    expect(rig.engine.generations().wce).toBe(false);
    rig.answerAndPump('SYNC');
    expect(rig.status(off)).toBe('OK');
    rig.write(0, 512);
    expect(rig.run()).toEqual(['WRITE 0+512 STABLE']);
  });

  it('S15: a change with nothing volatile costs nothing; turning it on never does', () => {
    const rig = new Rig(build).clean();
    const changes = [rig.setWce(0), rig.setWce(1), rig.setWce(1), rig.setWce(0)];
    expect(rig.pump()).toEqual([]);
    expect(changes.map((tag) => rig.status(tag))).toEqual(['OK', 'OK', 'OK', 'OK']);
  });

  it('S16: a write taken as volatile stays volatile when the cache goes off meanwhile (W2)', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.pump();
    rig.setWce(0);
    rig.pump();
    rig.answerAndPump('WRITE 0+512');
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC']);
  });

  it('S16: a write that waits in line keeps the class it was taken with (W2)', () => {
    const rig = new Rig(build, { depth: 1, wce: false }).clean();
    rig.read(0, 512);
    rig.write(8192, 512);
    rig.pump();
    rig.setWce(1);
    rig.pump();
    expect(rig.answerAndPump('READ 0+512')).toEqual(['WRITE 8192+512 STABLE']);
  });

  it('S16: after 1000 changes with writes in flight everything acknowledged is flushed', () => {
    const rig = new Rig(build, { depth: 256 }, 4 * 1024 * 1024);
    const tags: number[] = [];
    for (let i = 0; i < 1000; i++) {
      tags.push(rig.write((i % 200) * 4096, 512), rig.setWce(i % 2 === 0 ? 0 : 1));
      if (i % 7 === 0) rig.pump();
      const command = rig.inFlight[i % 3];
      if (i % 2 === 0 && command !== undefined) {
        rig.inFlight.splice(i % 3, 1);
        rig.engine.result(command.id, 0);
      }
    }
    rig.run();
    expect(new Set(tags.map((tag) => rig.status(tag)))).toEqual(new Set(['OK']));
    rig.flush();
    rig.run();
    expect(rig.engine.generations().files).toEqual([
      { unproven: undefined, late: undefined, running: false },
    ]);
  });
});

describe.each(BUILDS)('modes and files ($name build)', (build) => {
  it('S17: with flushes ignored a flush is done at once and nothing is synced', () => {
    const rig = new Rig(build, { noFlush: true });
    rig.write(0, 512);
    rig.run();
    const flush = rig.flush();
    expect(rig.run()).toEqual([]);
    expect(rig.status(flush)).toBe('OK');
  });

  it('S18: a flush syncs the files that hold something volatile, and no others (F4)', () => {
    const rig = new Rig(build, { files: 4, chunkBytes: 4096 }).clean();
    rig.write(0, 512);
    rig.write(2 * 4096, 512);
    rig.run();
    const flush = rig.flush();
    expect(rig.pump()).toEqual(['SYNC', 'SYNC @2']);
    rig.answer('SYNC');
    rig.answerAndPump('SYNC @2');
    expect(rig.status(flush)).toBe('OK');
    rig.flush();
    expect(rig.run()).toEqual([]);
  });

  it('S18: a write to another file that completes during the flush stays dirty (F2)', () => {
    const rig = new Rig(build, { files: 4, chunkBytes: 4096 }).clean();
    rig.write(0, 512);
    rig.write(2 * 4096, 512);
    rig.run();
    rig.write(4096, 512);
    rig.flush();
    expect(rig.pump()).toEqual(['WRITE 0+512 @1', 'SYNC', 'SYNC @2']);
    rig.answer('WRITE 0+512 @1');
    rig.answer('SYNC');
    rig.answerAndPump('SYNC @2');
    rig.flush();
    expect(rig.pump()).toEqual(['SYNC @1']);
  });

  it('S18: a file whose sync failed stays dirty, until a later one succeeds (F6, F9)', () => {
    const rig = new Rig(build, { files: 4, chunkBytes: 4096 }).clean();
    rig.write(0, 512);
    rig.write(2 * 4096, 512);
    rig.run();
    const flush = rig.flush();
    rig.pump();
    rig.answer('SYNC');
    rig.answerAndPump('SYNC @2', EIO);
    expect(rig.status(flush)).toBe('IO_ERROR');
    const { files } = rig.engine.generations();
    expect(files.map(({ unproven }) => unproven !== undefined)).toEqual([
      false,
      false,
      true,
      false,
    ]);
    rig.clearLatch();
    rig.flush();
    expect(rig.run()).toEqual(['SYNC', 'SYNC @1', 'SYNC @2', 'SYNC @3']);
  });
});
