// Error policies: rules O1-O4 of assembly/request/hold.ts and T5 of ring/take.ts.

import { describe, expect, it } from 'vitest';
import { COUNT_HELD } from '../../src/abi/region.ts';
import { OP_RESET_QUEUE, OP_SET_WCE } from '../../src/abi/request.ts';
import * as blk from '../../src/abi/virtio-blk.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import type { EngineConfig } from '../driver.ts';
import { ENGINE_BASE } from '../driver.ts';
import {
  answer,
  expectIdle,
  type Face,
  FACES,
  fresh,
  pattern,
  rigWith,
  send,
  sent,
  waiting,
} from './face.ts';
import type { GuestRig } from './rig.ts';

const OK = 0;
const IOERR = 1;
const EIO = 5;
const EFBIG = 27;
const ENOSPC = 28;
const ENOTSUP = 95;
const EDQUOT = 122;
const EMPTY = { flags: 0, segments: 0, data: 0, offset: 0, length: 0 };

/** A rig with a policy for both kinds of errors. */
function policy(face: Face, action: number, engine: Partial<EngineConfig> = {}, queues = 1) {
  const device = { readError: action, writeError: action };
  return rigWith(face, {}, { device, engine, queues });
}

function resume(rig: GuestRig): void {
  rig.exports.resumeDevice(ENGINE_BASE);
  rig.pump();
}

function held(rig: GuestRig): number {
  return rig.deviceWord(abi.DEVICE_HELD);
}

/** Commands fail until the returned function is called. */
function failing(rig: GuestRig, errno = EIO): () => void {
  rig.errnoOf = () => errno;
  return () => {
    rig.errnoOf = () => 0;
  };
}

function heldCount(rig: GuestRig): bigint {
  return rig.view.getBigUint64(ENGINE_BASE + COUNT_HELD, true);
}

describe.each(FACES)('error policies ($name)', (face) => {
  it('REPORT: the guest is told', () => {
    const { rig, driver } = policy(face, abi.ON_ERROR_REPORT);
    failing(rig, ENOSPC);
    const [read, write] = [driver.read(0, 512), driver.write(8, pattern(512))];
    rig.finish(driver);
    expect([read.status, write.status, held(rig)]).toEqual([IOERR, IOERR, 0]);
  });

  it('O1: STOP: the request waits, and says why and where', () => {
    const { rig, driver } = policy(face, abi.ON_ERROR_STOP);
    const heal = failing(rig, ENOSPC);
    const write = driver.write(8, pattern(512));
    rig.finish(driver);
    expect([write.used, held(rig)]).toEqual([false, 1]);
    expect(rig.deviceWord(abi.DEVICE_HELD_ERRNO)).toBe(ENOSPC);
    expect(rig.deviceWord(abi.DEVICE_HELD_OFFSET)).toBe(4096);
    expect(rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(1);
    expect(heldCount(rig)).toBe(1n);
    heal();
    resume(rig);
    expect(waiting(rig)).toEqual(['WRITE 4096+512']);
    rig.settle();
    driver.poll();
    expect([write.status, held(rig)]).toEqual([OK, 0]);
    expect(rig.disk.subarray(4096, 4608)).toEqual(pattern(512));
    expectIdle(rig);
  });

  it('O1: STOP: a read is resumed too, and may fail and be held again', () => {
    const { rig, driver } = policy(face, abi.ON_ERROR_STOP);
    const heal = failing(rig);
    const read = driver.read(3, 512);
    rig.finish(driver);
    for (let i = 0; i < 3; i++) {
      expect([read.used, held(rig)]).toEqual([false, 1]);
      resume(rig);
      rig.settle();
    }
    heal();
    resume(rig);
    rig.settle();
    driver.poll();
    expect([read.status, read.data()]).toEqual([OK, fresh(3, 1)]);
    expect(heldCount(rig)).toBe(4n);
  });

  it('T5, O1: while a request is held no chain is taken; in flight goes on', () => {
    const { rig, driver } = policy(face, abi.ON_ERROR_STOP);
    rig.errnoOf = ({ offset }) => (offset === 0 ? EIO : 0);
    driver.write(0, pattern(512));
    const beside = driver.write(100, pattern(512));
    send(rig, driver);
    answer(rig, 'WRITE 0+512');
    const later = driver.getId();
    send(rig, driver);
    expect(waiting(rig)).toEqual(['WRITE 51200+512']);
    answer(rig, 'WRITE 51200+512');
    expect(driver.poll()).toEqual([beside]);
    rig.errnoOf = () => 0;
    rig.exports.resumeDevice(ENGINE_BASE);
    rig.settle();
    expect(driver.poll()).toContain(later);
    expectIdle(rig);
  });

  it('O1: what overlaps a held write waits, and takes effect after it', () => {
    const { rig, driver } = policy(face, abi.ON_ERROR_STOP);
    const heal = failing(rig);
    const first = driver.write(0, pattern(1024, 1));
    const between = driver.read(0, 512);
    const second = driver.write(1, pattern(512, 2));
    send(rig, driver);
    answer(rig, 'WRITE 0+1024');
    expect([waiting(rig), held(rig)]).toEqual([[], 1]);
    heal();
    resume(rig);
    expect(waiting(rig)).toEqual(['WRITE 0+1024']);
    rig.settle();
    driver.poll();
    expect([first, between, second].map(({ status }) => status)).toEqual([OK, OK, OK]);
    expect(between.data()).toEqual(pattern(512, 1));
    expect(rig.disk.subarray(512, 1024)).toEqual(pattern(512, 2));
  });

  it('O1: all that are held are resumed, in the order in which they were stopped', () => {
    const { rig, driver } = policy(face, abi.ON_ERROR_STOP, { depth: 1 });
    const heal = failing(rig);
    const made = [40, 20, 60].map((sector) => driver.write(sector, pattern(512)));
    rig.finish(driver);
    expect(held(rig)).toBe(3);
    const before = sent(rig).length;
    heal();
    resume(rig);
    rig.settle();
    driver.poll();
    expect(made.map(({ status }) => status)).toEqual([OK, OK, OK]);
    expect(sent(rig).slice(before)).toHaveLength(3);
    expect([held(rig), heldCount(rig)]).toEqual([0, 3n]);
  });

  it('O1: resuming when nothing is held does nothing', () => {
    const { rig, driver } = policy(face, abi.ON_ERROR_STOP);
    resume(rig);
    const read = driver.read(0, 512);
    rig.finish(driver);
    expect(read.status).toBe(OK);
  });

  it.each([
    ['STOP', abi.ON_ERROR_STOP, EIO, true],
    ['STOP_ENOSPC', abi.ON_ERROR_STOP_ENOSPC, ENOSPC, true],
    ['STOP_ENOSPC', abi.ON_ERROR_STOP_ENOSPC, EDQUOT, true],
    ['STOP_ENOSPC', abi.ON_ERROR_STOP_ENOSPC, EFBIG, true],
    ['STOP_ENOSPC', abi.ON_ERROR_STOP_ENOSPC, EIO, false],
  ])('%s (%d): errno %d stops: %s', (_name, action, errno, stops) => {
    const { rig, driver } = policy(face, action);
    failing(rig, errno);
    const write = driver.write(0, pattern(512));
    rig.finish(driver);
    expect([held(rig), write.status]).toEqual(stops ? [1, undefined] : [0, IOERR]);
  });

  it('reads and writes have a policy each; zeroing and discarding are writes', () => {
    const device = { readError: abi.ON_ERROR_REPORT, writeError: abi.ON_ERROR_STOP };
    for (const make of ['write', 'writeZeroes', 'discard', 'read'] as const) {
      const { rig, driver } = rigWith(face, {}, { device });
      failing(rig);
      if (make === 'read') driver.read(0, 512);
      else if (make === 'write') driver.write(0, pattern(512));
      else driver[make]([{ sector: 0, sectors: 1 }]);
      rig.finish(driver);
      expect([make, held(rig)]).toEqual([make, make === 'read' ? 0 : 1]);
    }
  });

  it('O2: IGNORE: the guest is told that it went well', () => {
    const { rig, driver } = policy(face, abi.ON_ERROR_IGNORE);
    failing(rig);
    const read = driver.read(3, 512);
    const write = driver.write(8, pattern(512));
    const zeroes = driver.writeZeroes([{ sector: 20, sectors: 1 }]);
    rig.finish(driver);
    expect([read.status, write.status, zeroes.status]).toEqual([OK, OK, OK]);
    expect(held(rig)).toBe(0);
  });

  it('O2: IGNORE: never a write that was to be stable, by whatever way', () => {
    for (const engine of [{ wce: false }, { wce: false, fua: false }]) {
      const { rig, driver } = policy(face, abi.ON_ERROR_IGNORE, engine);
      failing(rig);
      const write = driver.write(8, pattern(512));
      const zeroes = driver.writeZeroes([{ sector: 20, sectors: 1 }]);
      const discard = driver.discard([{ sector: 40, sectors: 1 }]);
      rig.finish(driver);
      const made = [write, zeroes, discard];
      expect(made.map(({ status }) => status)).toEqual([IOERR, IOERR, IOERR]);
    }
  });

  it('O2: IGNORE: with the write cache turned off a write is stable, and never ignored', () => {
    const { rig, driver } = policy(face, abi.ON_ERROR_IGNORE);
    rig.engine.submit({ ...EMPTY, tag: 1, op: OP_SET_WCE });
    rig.settle();
    failing(rig);
    const write = driver.write(8, pattern(512));
    rig.finish(driver);
    expect(write.status).toBe(IOERR);
  });

  it('O3, F6: a failed sync is reported, whatever the policy; no flush succeeds after it', () => {
    for (const action of [abi.ON_ERROR_IGNORE, abi.ON_ERROR_STOP, abi.ON_ERROR_STOP_ENOSPC]) {
      const { rig, driver } = policy(face, action);
      const heal = failing(rig, ENOSPC);
      const flush = driver.flush();
      rig.finish(driver);
      heal();
      const again = driver.flush();
      rig.finish(driver);
      expect([flush.status, again.status, held(rig)]).toEqual([IOERR, IOERR, 0]);
    }
  });

  it('O3: what the backend cannot do is reported, whatever the policy', () => {
    for (const action of [abi.ON_ERROR_IGNORE, abi.ON_ERROR_STOP, abi.ON_ERROR_STOP_ENOSPC]) {
      const { rig, driver } = policy(face, action);
      failing(rig, ENOTSUP);
      const discard = driver.discard([{ sector: 0, sectors: 1 }]);
      rig.finish(driver);
      expect([discard.status, held(rig)]).toEqual([blk.VIRTIO_BLK_S_UNSUPP, 0]);
    }
  });

  it('a request of the host has no policy', () => {
    for (const action of [abi.ON_ERROR_IGNORE, abi.ON_ERROR_STOP]) {
      const { rig } = policy(face, action);
      failing(rig);
      rig.engine.submit({ ...EMPTY, tag: 5, op: 0, segments: 1, data: rig.ram, length: 512 });
      rig.settle();
      expect(rig.engine.takeCompletions()).toMatchObject([{ tag: 5, status: 1, errno: EIO }]);
      expect(held(rig)).toBe(0);
    }
  });
});

describe.each(FACES)('held requests and resets ($name)', (face) => {
  it('O1, R1: the reset of its queue ends a held request', () => {
    const { rig, driver } = policy(face, abi.ON_ERROR_STOP);
    const heal = failing(rig);
    driver.write(0, pattern(512));
    driver.read(0, 512);
    rig.finish(driver);
    expect(held(rig)).toBe(1);
    rig.reset();
    expect([held(rig), rig.deviceWord(abi.DEVICE_IN_FLIGHT)]).toEqual([0, 0]);
    heal();
    const again = rig.addQueue(0, { packed: face.packed });
    const read = again.read(0, 512);
    rig.finish(again);
    expect([read.status, read.data()]).toEqual([OK, fresh(0, 1)]);
  });

  it('O1: the reset of another queue leaves it held, and counted once', () => {
    const { rig, driver } = policy(face, abi.ON_ERROR_STOP, {}, 2);
    const other = rig.addQueue(1, { packed: face.packed });
    const heal = failing(rig);
    driver.write(0, pattern(512));
    const kept = other.write(8, pattern(512));
    other.publish();
    rig.notify(1);
    rig.finish(driver);
    expect(held(rig)).toBe(2);
    rig.reset(0);
    expect(held(rig)).toBe(1);
    expect(heldCount(rig)).toBe(2n);
    heal();
    resume(rig);
    rig.settle();
    other.poll();
    expect(kept.status).toBe(OK);
  });

  it('O4, R3: what fails while its queue is being reset is not held', () => {
    for (const isFirst of [true, false]) {
      const { rig, driver } = policy(face, abi.ON_ERROR_STOP);
      failing(rig);
      driver.write(0, pattern(512));
      send(rig, driver);
      rig.setQueueState(abi.QUEUE_DEAD);
      // The host's answer comes before the reset is taken, in the same call, or after it.
      if (isFirst) rig.answer();
      rig.engine.submit({ ...EMPTY, tag: 1, op: OP_RESET_QUEUE, queue: 1 });
      rig.pump();
      if (!isFirst) rig.answer();
      rig.settle();
      expect(rig.engine.takeCompletions()).toMatchObject([{ tag: 1, status: 0 }]);
      expect([isFirst, held(rig), rig.detach()]).toEqual([isFirst, 0, 0]);
    }
  });

  it('O1, B2: a barrier waits for what is held; a reset of that queue lets it go', () => {
    const device = {
      writeError: abi.ON_ERROR_STOP,
      flags: abi.DEVICE_RUNNING | abi.DEVICE_BARRIER,
    };
    const options = { device, engine: { barrier: true }, queues: 2 };
    for (const ends of ['resume', 'reset'] as const) {
      const { rig, driver } = rigWith(face, {}, options);
      const other = rig.addQueue(1, { packed: face.packed });
      rig.errnoOf = ({ offset }) => (offset === 0 ? EIO : 0);
      const type = blk.VIRTIO_BLK_T_IN + blk.VIRTIO_BLK_T_BARRIER;
      driver.write(0, pattern(512));
      const fence = other.raw(type, { in: 512, sector: 9 });
      other.publish();
      driver.publish();
      rig.notify(0);
      rig.notify(1);
      rig.settle();
      expect([held(rig), other.poll()]).toEqual([1, []]);
      rig.errnoOf = () => 0;
      if (ends === 'reset') rig.reset(0);
      else resume(rig);
      rig.settle();
      expect(other.poll()).toEqual([fence]);
      expect([fence.status, held(rig)]).toEqual([OK, 0]);
    }
  });

  it('O1, B1: a barrier that is held itself is resumed, or reset', () => {
    const device = {
      writeError: abi.ON_ERROR_STOP,
      flags: abi.DEVICE_RUNNING | abi.DEVICE_BARRIER,
    };
    for (const ends of ['resume', 'reset'] as const) {
      const { rig, driver } = rigWith(face, {}, { device, engine: { barrier: true } });
      const heal = failing(rig);
      const type = blk.VIRTIO_BLK_T_OUT + blk.VIRTIO_BLK_T_BARRIER;
      const fence = driver.raw(type, { out: pattern(512) });
      const later = driver.read(9, 512);
      rig.finish(driver);
      expect([held(rig), later.used]).toEqual([1, false]);
      heal();
      if (ends === 'reset') rig.reset();
      else resume(rig);
      rig.settle();
      driver.poll();
      const statuses = ends === 'reset' ? [undefined, undefined] : [OK, OK];
      expect([fence.status, later.status]).toEqual(statuses);
      expect([held(rig), rig.deviceWord(abi.DEVICE_IN_FLIGHT)]).toEqual([0, 0]);
    }
  });
});
