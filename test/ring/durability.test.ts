// When a guest may believe that its data is stable: spec sections 6.4.7 and 6.5 on the rings, over
// F1-F9 of assembly/schedule/flush.ts and W1-W4 of stability.ts; U1 of ring/used.ts.

import { describe, expect, it } from 'vitest';
import { COMMAND_SYNC } from '../../src/abi/command.ts';
import { OP_RESET, OP_SET_WCE } from '../../src/abi/request.ts';
import { answer, expectIdle, FACES, fresh, pattern, rigWith, send, waiting } from './face.ts';
import type { GuestRig } from './rig.ts';

const EMPTY = { flags: 0, segments: 0, data: 0, offset: 0, length: 0 };

/** Turns the write cache on or off, as the host does when the guest writes `writeback`. */
function setWce(rig: GuestRig, on: 0 | 1): void {
  rig.engine.submit({ ...EMPTY, tag: 7, op: OP_SET_WCE, length: on });
  rig.pump();
}

/** Pays for what an earlier process may have left volatile (F7). */
function clean(rig: GuestRig): void {
  rig.engine.submit({ ...EMPTY, tag: 6, op: 5 });
  rig.settle();
  rig.engine.takeCompletions();
}

describe.each(FACES)('stability ($name)', (face) => {
  it('6.4.7 c: a flush comes back only when the sync was answered', () => {
    const { rig, driver } = rigWith(face);
    driver.write(0, pattern(512));
    rig.finish(driver);
    const flush = driver.flush();
    send(rig, driver);
    for (let i = 0; i < 3; i++) rig.pump();
    expect([waiting(rig), driver.poll(), rig.takeInterrupts()]).toEqual([['SYNC'], [], 1n]);
    answer(rig, 'SYNC');
    expect(driver.poll()).toEqual([flush]);
    expect([flush.status, rig.takeInterrupts()]).toEqual([0, 1n]);
  });

  it('F5: a write that has come back owes a sync to the flush after it', () => {
    const { rig, driver } = rigWith(face);
    clean(rig);
    driver.write(0, pattern(512));
    send(rig, driver);
    rig.answer();
    // The write and the flush after it in one call: the answer is taken first.
    driver.flush();
    send(rig, driver);
    expect([driver.poll().length, waiting(rig)]).toEqual([1, ['SYNC']]);
  });

  it('F1: a flush owes nothing for a write that has not come back', () => {
    const { rig, driver } = rigWith(face);
    clean(rig);
    const write = driver.write(0, pattern(512));
    const flush = driver.flush();
    send(rig, driver);
    expect([driver.poll(), waiting(rig)]).toEqual([[flush], ['WRITE 0+512']]);
    answer(rig, 'WRITE 0+512');
    expect(driver.poll()).toEqual([write]);
    driver.flush();
    send(rig, driver);
    expect(waiting(rig)).toEqual(['SYNC']);
  });

  it('F2: a sync proves nothing of a write that comes back while it is at the host', () => {
    const { rig, driver } = rigWith(face);
    driver.write(0, pattern(512));
    driver.write(9, pattern(512));
    send(rig, driver);
    answer(rig, 'WRITE 0+512');
    const early = driver.flush();
    send(rig, driver);
    answer(rig, 'WRITE 4608+512');
    const late = driver.flush();
    send(rig, driver);
    answer(rig, 'SYNC');
    expect(driver.poll()).toContain(early);
    expect([late.used, waiting(rig)]).toEqual([false, ['SYNC']]);
    answer(rig, 'SYNC');
    expect(driver.poll()).toEqual([late]);
  });

  it('F3: a flush with nothing to make stable is done without a sync', () => {
    const { rig, driver } = rigWith(face);
    driver.flush();
    rig.finish(driver);
    const commands = rig.commands.length;
    driver.read(0, 512);
    rig.finish(driver);
    const flush = driver.flush();
    rig.finish(driver);
    expect([flush.status, rig.commands.length]).toEqual([0, commands + 1]);
  });

  it('F7: the first flush of a disk always syncs', () => {
    const { rig, driver } = rigWith(face);
    driver.flush();
    send(rig, driver);
    expect(waiting(rig)).toEqual(['SYNC']);
  });

  it('6.4.7 a: without a write cache a write comes back when it is stable', () => {
    const { rig, driver } = rigWith(face, {}, { engine: { wce: false } });
    const write = driver.write(0, pattern(512));
    send(rig, driver);
    expect(waiting(rig)).toEqual(['STABLE WRITE 0+512']);
    answer(rig, 'STABLE WRITE 0+512');
    expect(driver.poll()).toEqual([write]);
    expect(rig.commands).toHaveLength(1);
  });

  it('6.4.7 a: where the host has no stable write, a sync comes before the used entry', () => {
    const { rig, driver } = rigWith(face, {}, { engine: { wce: false, fua: false } });
    const write = driver.write(0, pattern(512));
    send(rig, driver);
    answer(rig, 'WRITE 0+512');
    expect([driver.poll(), waiting(rig)]).toEqual([[], ['SYNC']]);
    answer(rig, 'SYNC');
    expect(driver.poll()).toEqual([write]);
  });

  it('6.4.7 a: zeroes and discards that must be stable come back after a sync', () => {
    const { rig, driver } = rigWith(face, {}, { engine: { wce: false } });
    for (const make of ['writeZeroes', 'discard'] as const) {
      const request = driver[make]([{ sector: 0, sectors: 1 }]);
      send(rig, driver);
      rig.answer();
      rig.pump();
      expect([driver.poll(), waiting(rig)]).toEqual([[], ['SYNC']]);
      answer(rig, 'SYNC');
      expect(driver.poll()).toEqual([request]);
    }
  });

  it('6.4.7 b, 6.5: after SET_WCE 0 writes come back when they are stable; after 1 at once', () => {
    const { rig, driver } = rigWith(face);
    clean(rig);
    setWce(rig, 0);
    driver.write(0, pattern(512));
    send(rig, driver);
    expect(waiting(rig)).toEqual(['STABLE WRITE 0+512']);
    rig.settle();
    setWce(rig, 1);
    const write = driver.write(9, pattern(512));
    send(rig, driver);
    expect(waiting(rig)).toEqual(['WRITE 4608+512']);
    answer(rig, 'WRITE 4608+512');
    expect(driver.poll()).toContain(write);
  });

  it('6.5, V88: turning the write cache off has a sync of what was volatile first', () => {
    const { rig, driver } = rigWith(face);
    clean(rig);
    driver.write(0, pattern(512));
    rig.finish(driver);
    setWce(rig, 0);
    expect([waiting(rig), rig.engine.takeCompletions()]).toEqual([['SYNC'], []]);
    answer(rig, 'SYNC');
    expect(rig.engine.takeCompletions()).toMatchObject([{ tag: 7, status: 0 }]);
  });

  it('6.5: a reset of the device restores the write cache of the start', () => {
    const { rig, driver } = rigWith(face);
    setWce(rig, 0);
    rig.settle();
    rig.engine.submit({ ...EMPTY, tag: 8, op: OP_RESET });
    rig.settle();
    driver.write(0, pattern(512));
    send(rig, driver);
    expect(waiting(rig)).toEqual(['WRITE 0+512']);
  });

  it('6.5: a queue that was reset leaves what it wrote to the next flush of any queue', () => {
    const { rig, driver } = rigWith(face);
    clean(rig);
    driver.write(0, pattern(512));
    send(rig, driver);
    rig.reset();
    const again = rig.addQueue(0, { packed: face.packed });
    again.flush();
    send(rig, again);
    expect(waiting(rig)).toEqual(['SYNC']);
  });

  it('F6: after a failed sync neither flush nor stable write succeeds', () => {
    const { rig, driver } = rigWith(face);
    rig.errnoOf = ({ op }) => (op === COMMAND_SYNC ? 5 : 0);
    const flush = driver.flush();
    rig.finish(driver);
    rig.errnoOf = () => 0;
    const again = driver.flush();
    rig.finish(driver);
    setWce(rig, 0);
    const write = driver.write(0, pattern(512));
    rig.finish(driver);
    const read = driver.read(20, 512);
    rig.finish(driver);
    expect([flush, again, write, read].map(({ status }) => status)).toEqual([1, 1, 1, 0]);
    expect(read.data()).toEqual(fresh(20, 1));
  });

  it('W3, F8: stable writes that wait together share one sync, and none comes before it', () => {
    const { rig, driver } = rigWith(face, {}, { engine: { wce: false } });
    const made = [0, 10, 20].map((sector) => driver.write(sector, pattern(512)));
    send(rig, driver);
    while (waiting(rig).some((name) => name !== 'SYNC')) {
      expect(driver.poll()).toEqual([]);
      rig.answer(rig.inFlight.findIndex(({ op }) => op !== COMMAND_SYNC));
      rig.pump();
    }
    expect(driver.poll()).toEqual([]);
    rig.settle();
    expect(driver.poll().sort((a, b) => a.token - b.token)).toEqual(made);
    expectIdle(rig);
  });
});
