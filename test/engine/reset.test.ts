// Resets of a queue and of the disk: invariants R1-R4 of assembly/request/reset.ts.

import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/request.ts';
import { BUILDS } from '../support/engine.ts';
import { BARRIER, FUA, type Options, Rig } from './rig.ts';

const EIO = 5;
const ONE: Options = { queue: 1 };
const TWO: Options = { queue: 2 };

describe.each(BUILDS)('what is aborted ($name build)', (build) => {
  it('R1: what waits in the elevator is aborted at once, and is never sent', () => {
    const rig = new Rig(build, { depth: 1 });
    rig.read(0, 512);
    rig.pump();
    const queued = [rig.read(4096, 512, ONE), rig.write(8192, 512, ONE), rig.discard(0, 0, ONE)];
    rig.pump();
    const reset = rig.reset(1);
    expect(rig.pump()).toEqual([]);
    expect(rig.statuses(queued)).toEqual(['ABORTED', 'ABORTED', 'OK']);
    expect(rig.status(reset)).toBe('OK');
    expect(rig.run()).toEqual([]);
    expect(rig.engine.counters()).toMatchObject({ aborted: 2, commands: 1 });
  });

  it('R1: what was submitted in the same call, before the reset, is aborted as well', () => {
    const rig = new Rig(build).clean();
    const tags = [rig.write(0, 512), rig.read(0, 512), rig.reset(0)];
    expect(rig.run()).toEqual([]);
    expect(rig.statuses(tags)).toEqual(['ABORTED', 'ABORTED', 'OK']);
  });

  it('R1: what is behind a conflict is aborted, and blocks nobody any more', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    const blocked = rig.write(0, 1024, ONE);
    const behind = rig.read(512, 512);
    expect(rig.pump()).toEqual(['WRITE 0+512']);
    rig.reset(1);
    expect(rig.pump()).toEqual(['READ 512+512']);
    expect(rig.statuses([blocked, behind])).toEqual(['ABORTED', 'open']);
  });

  it('R1: a flush that waits for its sync is aborted; the sync goes on and proves the same', () => {
    const rig = new Rig(build);
    const flush = rig.flush(ONE);
    expect(rig.pump()).toEqual(['SYNC']);
    const reset = rig.reset(1);
    rig.pump();
    expect(rig.statuses([flush, reset])).toEqual(['ABORTED', 'OK']);
    expect(rig.answerAndPump('SYNC')).toEqual([]);
    const late = rig.flush();
    expect(rig.pump()).toEqual([]);
    expect(rig.status(late)).toBe('OK');
  });

  it('R1: a sync whose waiters were aborted latches the disk all the same when it fails', () => {
    const rig = new Rig(build);
    rig.flush(ONE);
    rig.pump();
    rig.reset(1);
    rig.pump();
    rig.answerAndPump('SYNC', EIO);
    const late = rig.flush();
    rig.pump();
    expect(rig.status(late)).toBe('FLUSH_LATCHED');
  });

  it('R1: no sync starts for waiters that were aborted before it', () => {
    const rig = new Rig(build);
    rig.flush(TWO);
    rig.write(0, 512);
    rig.pump();
    rig.answerAndPump('WRITE 0+512');
    const flush = rig.flush(ONE);
    rig.pump();
    rig.reset(1);
    expect(rig.answerAndPump('SYNC')).toEqual([]);
    expect(rig.status(flush)).toBe('ABORTED');
  });

  it('R1: a stable write that waits for its sync is aborted: it is not called stable', () => {
    const rig = new Rig(build, { fua: false }).clean();
    const write = rig.write(0, 512, { ...FUA, queue: 1 });
    const behind = rig.read(0, 512);
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['SYNC']);
    rig.reset(1);
    expect(rig.pump()).toEqual(['READ 0+512']);
    expect(rig.statuses([write, behind])).toEqual(['ABORTED', 'open']);
  });

  it('R1: a change of the write cache that waits for its flush is aborted, but stays', () => {
    const rig = new Rig(build);
    const off = rig.setWce(0, ONE);
    rig.pump();
    rig.reset(1);
    rig.pump();
    expect(rig.status(off)).toBe('ABORTED');
    expect(rig.engine.generations().wce).toBe(false);
  });

  it('R1: parts that are about to be sent again are aborted', () => {
    const rig = new Rig(build, { depth: 1 }).clean();
    const tags = [rig.write(0, 512, ONE), rig.write(512, 512, ONE), rig.write(1024, 512, ONE)];
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+1536', EIO)).toEqual(['WRITE 0+512']);
    rig.reset(1);
    rig.pump();
    expect(rig.statuses(tags)).toEqual(['open', 'ABORTED', 'ABORTED']);
    expect(rig.answerAndPump('WRITE 0+512')).toEqual([]);
    expect(rig.statuses(tags)).toEqual(['OK', 'ABORTED', 'ABORTED']);
  });

  it('R1: a write that was superseded is aborted with the one that took its place', () => {
    const rig = new Rig(build, { depth: 1 }).clean();
    rig.read(8192, 512);
    rig.pump();
    const tags = [rig.write(0, 512, ONE), rig.write(0, 512, ONE)];
    rig.pump();
    const reset = rig.reset(1);
    rig.pump();
    expect(rig.statuses([...tags, reset])).toEqual(['ABORTED', 'ABORTED', 'OK']);
    expect(rig.run()).toEqual([]);
  });

  it('R1: other queues are left alone', () => {
    const rig = new Rig(build, { depth: 1 }).clean();
    rig.read(0, 512);
    rig.pump();
    const others = [rig.read(4096, 512), rig.write(8192, 512, TWO), rig.flush({ queue: 63 })];
    rig.pump();
    rig.reset(1);
    expect(rig.run()).toEqual(['READ 4096+512', 'WRITE 8192+512']);
    expect(rig.statuses(others)).toEqual(['OK', 'OK', 'OK']);
    expect(rig.engine.counters().aborted).toBe(0);
  });

  it('R1: a reset of the disk ends every queue', () => {
    const rig = new Rig(build, { depth: 1 });
    rig.read(0, 512);
    rig.pump();
    const tags = [0, 1, 63].map((queue) => rig.read(4096 * (queue + 1), 512, { queue }));
    const flush = rig.flush({ queue: 5 });
    rig.pump();
    const reset = rig.reset('all');
    rig.pump();
    expect(rig.statuses([...tags, flush])).toEqual(['ABORTED', 'ABORTED', 'ABORTED', 'ABORTED']);
    expect(rig.status(reset)).toBe('open');
    rig.answer('SYNC');
    rig.answerAndPump('READ 0+512');
    expect(rig.status(reset)).toBe('OK');
  });
});

describe.each(BUILDS)('what is awaited ($name build)', (build) => {
  it('R2: what the host holds is awaited and has its own status; the reset comes after it', () => {
    const rig = new Rig(build).clean();
    const tags = [rig.write(0, 512, ONE), rig.read(8192, 512, ONE), rig.discard(4096, 512, ONE)];
    rig.pump();
    const reset = rig.reset(1);
    expect(rig.pump()).toEqual([]);
    expect(rig.statuses([...tags, reset])).toEqual(['open', 'open', 'open', 'open']);
    rig.answer('WRITE 0+512', 28);
    rig.answer('READ 8192+512');
    rig.pump();
    expect(rig.statuses([...tags, reset])).toEqual(['NO_SPACE', 'OK', 'open', 'open']);
    rig.answerAndPump('DISCARD 4096+512');
    expect(rig.statuses([...tags, reset])).toEqual(['NO_SPACE', 'OK', 'OK', 'OK']);
    expect(rig.completions.at(-1)?.tag).toBe(reset);
  });

  it('R2: a stable write at the host is awaited until it is stable', () => {
    const rig = new Rig(build, { fua: false }).clean();
    const write = rig.write(0, 512, { ...FUA, queue: 1 });
    rig.pump();
    const reset = rig.reset(1);
    rig.pump();
    expect(rig.answerAndPump('WRITE 0+512')).toEqual(['SYNC']);
    expect(rig.statuses([write, reset])).toEqual(['open', 'open']);
    rig.answerAndPump('SYNC');
    expect(rig.statuses([write, reset])).toEqual(['OK', 'OK']);
  });

  it('R2: what a write at the host has taken over shares its status', () => {
    const rig = new Rig(build, { depth: 1 }).clean();
    rig.read(8192, 512);
    rig.pump();
    const tags = [rig.write(0, 512, ONE), rig.write(0, 512, ONE)];
    rig.pump();
    rig.answerAndPump('READ 8192+512');
    rig.reset(1);
    rig.pump();
    expect(rig.statuses(tags)).toEqual(['open', 'open']);
    rig.answerAndPump('WRITE 0+512');
    expect(rig.statuses(tags)).toEqual(['OK', 'OK']);
  });

  it('R1, R2: of a merged write that fails meanwhile, the parts of the queue are aborted', () => {
    const rig = new Rig(build).clean();
    const tags = [rig.write(0, 512, ONE), rig.write(512, 512, TWO)];
    expect(rig.pump()).toEqual(['WRITE 0+1024']);
    const reset = rig.reset(1);
    rig.pump();
    expect(rig.statuses([...tags, reset])).toEqual(['open', 'open', 'open']);
    expect(rig.answerAndPump('WRITE 0+1024', EIO)).toEqual(['WRITE 512+512']);
    expect(rig.statuses([...tags, reset])).toEqual(['ABORTED', 'open', 'OK']);
  });

  it('R2: of a merged write that succeeds, every part has succeeded', () => {
    const rig = new Rig(build).clean();
    const tags = [rig.write(0, 512, ONE), rig.write(512, 512, TWO)];
    rig.pump();
    rig.reset(1);
    rig.pump();
    rig.answerAndPump('WRITE 0+1024');
    expect(rig.statuses(tags)).toEqual(['OK', 'OK']);
  });
});

describe.each(BUILDS)('the end of a reset ($name build)', (build) => {
  it('R3: a reset with nothing to end is done at once', () => {
    const rig = new Rig(build);
    rig.read(0, 512, TWO);
    const resets = [rig.reset(1), rig.reset(0), rig.reset(63)];
    rig.pump();
    expect(rig.statuses(resets)).toEqual(['OK', 'OK', 'OK']);
  });

  it('R3: until it is done, what is taken from the queue is aborted, of every kind', () => {
    const rig = new Rig(build, { barrier: true }).clean();
    rig.read(0, 512, ONE);
    rig.pump();
    const reset = rig.reset(1);
    rig.pump();
    const late = [
      rig.read(4096, 512, ONE),
      rig.write(4096, 0, ONE),
      rig.flush(ONE),
      rig.setWce(0, ONE),
      rig.clearLatch(ONE),
      rig.write(4096, 512, { ...BARRIER, queue: 1 }),
    ];
    const refused = rig.submit({ op: 255, ...ONE });
    const other = rig.read(8192, 512, TWO);
    expect(rig.pump()).toEqual(['READ 8192+512']);
    expect(new Set(rig.statuses(late))).toEqual(new Set(['ABORTED']));
    expect(rig.statuses([refused, other, reset])).toEqual(['INVALID', 'open', 'open']);
    expect(rig.engine.generations().wce).toBe(true);
    rig.answerAndPump('READ 0+512');
    const after = rig.read(4096, 512, ONE);
    expect(rig.pump()).toEqual(['READ 4096+512']);
    expect(rig.statuses([reset, after])).toEqual(['OK', 'open']);
  });

  it('R3: what follows a reset in the same call is taken before the reset is done', () => {
    const rig = new Rig(build);
    const tags = [rig.reset(1), rig.read(0, 512, ONE), rig.read(0, 512, TWO)];
    expect(rig.pump()).toEqual(['READ 0+512']);
    expect(rig.statuses(tags)).toEqual(['OK', 'ABORTED', 'open']);
  });

  it('R3: resets of one queue do not end each other; they are done in order', () => {
    const rig = new Rig(build).clean();
    rig.read(0, 512, ONE);
    rig.pump();
    const resets = [rig.reset(1), rig.reset('all'), rig.reset(1), rig.reset('all')];
    rig.pump();
    expect(rig.statuses(resets)).toEqual(['open', 'open', 'open', 'open']);
    rig.answerAndPump('READ 0+512');
    expect(rig.completions.slice(-4).map(({ tag }) => tag)).toEqual(resets);
    expect(rig.statuses(resets)).toEqual(['OK', 'OK', 'OK', 'OK']);
  });

  it('R3: the reset of a queue does not wait for another one', () => {
    const rig = new Rig(build).clean();
    rig.read(0, 512, TWO);
    rig.pump();
    const [all, one, two] = [rig.reset('all'), rig.reset(1), rig.reset(2)];
    rig.pump();
    expect(rig.statuses([all, one, two])).toEqual(['open', 'OK', 'open']);
    rig.answerAndPump('READ 0+512');
    expect(rig.statuses([all, two])).toEqual(['OK', 'OK']);
  });

  it('R3: a queue that is filled all the time is reset all the same', () => {
    const rig = new Rig(build);
    for (let i = 0; i < 32; i++) rig.read(i * 1024, 512, { data: 720896, ...ONE });
    rig.pump();
    const reset = rig.reset(1);
    for (let turn = 0; rig.status(reset) === 'open'; turn++) {
      expect(turn).toBeLessThanOrEqual(32);
      for (let i = 0; i < 100; i++) rig.read(i * 1024, 512, { data: 720896, ...ONE });
      const [command] = rig.inFlight.splice(0, 1);
      rig.engine.result(command!.id, 0);
      rig.pump();
    }
    expect(rig.engine.counters().commands).toBe(32);
  });

  it('R4: a reset of the disk puts the write cache back; one of a queue does not', () => {
    for (const wce of [true, false]) {
      const rig = new Rig(build, { wce }).clean();
      rig.setWce(wce ? 0 : 1);
      rig.reset(0);
      rig.run();
      expect(rig.engine.generations().wce).toBe(!wce);
      const reset = rig.reset('all');
      rig.run();
      expect(rig.status(reset)).toBe('OK');
      expect(rig.engine.generations().wce).toBe(wce);
    }
  });

  it('R4: what was written before a reset is as volatile after it: generations stay', () => {
    const rig = new Rig(build).clean();
    rig.write(0, 512);
    rig.run();
    const before = rig.engine.generations();
    rig.reset('all');
    rig.run();
    expect(rig.engine.generations()).toEqual(before);
    rig.flush();
    expect(rig.run()).toEqual(['SYNC']);
  });

  it('R4: a reset opens no latch', () => {
    const rig = new Rig(build).latched();
    rig.reset('all');
    rig.run();
    const flush = rig.flush();
    rig.run();
    expect(rig.status(flush)).toBe('FLUSH_LATCHED');
  });

  it('a reset asks for no range: what stands in its record is not looked at', () => {
    const rig = new Rig(build);
    const huge = 2n ** 64n - 1n;
    const rest = { offset: huge, length: huge, segments: 0xffff_ffff, data: 0xffff_ffff };
    const tags = [abi.OP_RESET_QUEUE, abi.OP_RESET, abi.OP_CLEAR_LATCH].map((op) => {
      const tag = rig.submit({ op, ...rest });
      rig.pump();
      return tag;
    });
    expect(rig.statuses(tags)).toEqual(['OK', 'OK', 'OK']);
  });
});
