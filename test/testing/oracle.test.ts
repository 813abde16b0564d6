/**
 * The crash oracle on histories made by hand: each clause (A1 to A7) has one that it accepts and
 * one that it refuses.
 */

import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/request.ts';
import { INITIAL, OLDER } from '../../src/testing/history.ts';
import { Oracle, type OracleOptions } from '../../src/testing/oracle.ts';
import { ANYTHING } from '../../src/testing/sector-image.ts';
import type { GuestRequest } from '../../src/testing/stream.ts';

const SECTORS = 3;

function request(op: number, from = 0, to = 0, flags = 0, queue = 0): GuestRequest {
  return { op, flags, queue, from, to };
}

const write = (from: number, to = from + 1, flags = 0): GuestRequest =>
  request(abi.OP_WRITE, from, to, flags);
const read = (from: number, to = from + 1): GuestRequest => request(abi.OP_READ, from, to);
const FLUSH = request(abi.OP_FLUSH);
const WCE_OFF = request(abi.OP_SET_WCE, 0, 0);
const WCE_ON = request(abi.OP_SET_WCE, 0, 1);
const CLEAR = request(abi.OP_CLEAR_LATCH);
const RESET = request(abi.OP_RESET);
const FUA = abi.REQUEST_FUA;
const FENCE = abi.REQUEST_BARRIER;
const { STATUS_OK: OK, STATUS_IO_ERROR: EIO, STATUS_ABORTED: ABORTED } = abi;

/** An oracle, and words for what is done to it. */
class Disk {
  readonly oracle: Oracle;

  constructor(options: Partial<OracleOptions> = {}) {
    this.oracle = new Oracle({ sectors: SECTORS, wce: true, ...options });
  }

  submit(...requests: GuestRequest[]): this {
    for (const next of requests) this.oracle.submit(next);
    return this;
  }

  complete(number: number, status: number = OK, values?: number[]): this {
    this.oracle.complete(number, status, values);
    return this;
  }

  /** Submits a request that completes at once. */
  does(next: GuestRequest, status: number = OK): this {
    return this.complete(this.oracle.submit(next), status);
  }

  fails(next: GuestRequest): this {
    const number = this.oracle.submit(next);
    this.oracle.hostFailed(number, false);
    return this.complete(number, EIO);
  }

  syncFails(): this {
    this.oracle.syncFailed();
    this.oracle.latch();
    return this;
  }

  /** Cuts the power; what is not named holds what was there at first. */
  cut(...survivors: number[][]): number {
    return this.oracle.checkCut((sector, values) => put(values, survivors[sector]));
  }

  kill(...survivors: number[][]): void {
    this.oracle.checkKill((sector, values) => put(values, survivors[sector]));
  }
}

function put(values: number[], survivors: number[] = [INITIAL]): number {
  for (const [index, value] of survivors.entries()) values[index] = value;
  return survivors.length;
}

const broken = (rule: string): unknown => expect.objectContaining({ rule });

describe('A1: order', () => {
  it('lets requests that do not overlap, and reads, complete in any order', () => {
    new Disk().submit(write(0), write(1), FLUSH).complete(3).complete(2).complete(1);
    new Disk().submit(read(0), read(0)).complete(2, OK, [INITIAL]).complete(1, OK, [INITIAL]);
  });

  it('refuses a request that completes before an earlier one that it overlaps', () => {
    const disk = new Disk().submit(write(0, 2), write(1));
    expect(() => disk.complete(2)).toThrow(broken('order'));
    const reads = new Disk().submit(read(0), write(0));
    expect(() => reads.complete(2)).toThrow(broken('order'));
  });

  it('counts in granules', () => {
    const disk = new Disk({ granuleSectors: 2 }).submit(write(0), write(1));
    expect(() => disk.complete(2)).toThrow(broken('order'));
  });

  it('fences barriers both ways', () => {
    const fence = write(1, 2, FENCE);
    new Disk({ barrier: 'order' }).submit(write(0), fence, write(2)).complete(1).complete(2);
    const early = new Disk({ barrier: 'order' }).submit(write(0), fence);
    expect(() => early.complete(2)).toThrow(broken('order'));
    const late = new Disk({ barrier: 'order' }).submit(fence, write(0));
    expect(() => late.complete(2)).toThrow(broken('order'));
  });

  it('lets a reset complete after what it ends', () => {
    new Disk().submit(write(0), RESET).complete(1, ABORTED).complete(2);
    const disk = new Disk().submit(write(0), RESET);
    expect(() => disk.complete(2)).toThrow(broken('order'));
  });
});

describe('A2: reads', () => {
  it('find the last write before them', () => {
    const disk = new Disk().does(write(0, 2)).does(write(1)).submit(read(0, 3), write(0));
    disk.complete(3, OK, [1, 2, INITIAL]);
    const stale = new Disk().does(write(0)).does(write(0)).submit(read(0));
    expect(() => stale.complete(3, OK, [1])).toThrow(broken('read'));
    const early = new Disk().submit(read(0), write(0));
    expect(() => early.complete(1, OK, [2])).toThrow(broken('read'));
  });

  it('may find a part of what failed, and anything after a discard', () => {
    new Disk().does(write(0)).fails(write(0)).submit(read(0)).complete(3, OK, [1]);
    new Disk().does(write(0)).fails(write(0)).submit(read(0)).complete(3, OK, [2]);
    const discard = request(abi.OP_DISCARD, 0, 1);
    new Disk().does(discard).submit(read(0)).complete(2, OK, [ANYTHING]);
    const covered = new Disk().does(discard).does(write(0)).submit(read(0));
    expect(() => covered.complete(3, OK, [ANYTHING])).toThrow(broken('read'));
  });
});

describe('A3: durability', () => {
  it('promises nothing for a volatile write, and never what nobody wrote', () => {
    const disk = new Disk().does(write(0));
    expect(disk.cut([OLDER, INITIAL, 1], [OLDER])).toBe(3);
    expect(() => disk.cut([2])).toThrow(broken('durability'));
    expect(() => disk.cut([INITIAL], [1])).toThrow(broken('durability'));
    expect(() => disk.cut([ANYTHING])).toThrow(broken('durability'));
  });

  it('a flush promises what had succeeded before it was submitted, INITIAL included (F7)', () => {
    const disk = new Disk().does(write(0)).submit(FLUSH).does(write(1)).complete(2);
    disk.cut([1], [INITIAL, 3]);
    expect(() => disk.cut([INITIAL])).toThrow(broken('durability'));
    expect(() => disk.cut([1], [OLDER])).toThrow(broken('durability'));
  });

  it('a flush owes nothing for what was open when it was submitted', () => {
    new Disk().submit(write(0), FLUSH).complete(1).complete(2).cut([INITIAL, 1]);
  });

  it('a flush that fails promises nothing', () => {
    new Disk().does(write(0)).submit(FLUSH).syncFails().complete(2, EIO).cut([INITIAL, 1]);
  });

  it('a stable write promises itself: FUA, or no write cache', () => {
    const fua = new Disk().does(write(0, 1, FUA));
    fua.cut([1]);
    expect(() => fua.cut([INITIAL])).toThrow(broken('durability'));
    const through = new Disk({ wce: false }).does(write(0));
    expect(() => through.cut([INITIAL])).toThrow(broken('durability'));
    const off = new Disk().does(WCE_OFF).does(write(0));
    expect(() => off.cut([INITIAL])).toThrow(broken('durability'));
    new Disk({ wce: false }).does(WCE_ON).does(write(0)).cut([INITIAL, 2]);
    new Disk({ wce: false }).does(WCE_ON).does(RESET).does(WCE_ON).does(write(0)).cut([OLDER]);
    const reset = new Disk({ wce: false }).does(WCE_ON).does(RESET).does(write(0));
    expect(() => reset.cut([INITIAL])).toThrow(broken('durability'));
  });

  it('turning the write cache off promises what a flush would', () => {
    const disk = new Disk().does(write(0)).does(WCE_OFF);
    disk.cut([1]);
    expect(() => disk.cut([INITIAL])).toThrow(broken('durability'));
  });

  it('where flushes are ignored nothing is promised', () => {
    const disk = new Disk({ noFlush: true }).does(write(0, 1, FUA)).does(FLUSH);
    disk.cut([OLDER, INITIAL, 1]);
    expect(() => disk.cut([2])).toThrow(broken('durability'));
  });

  it('a later write may be found, an older one may not', () => {
    const disk = new Disk()
      .does(write(0))
      .does(write(0, 1, FUA))
      .submit(write(0));
    disk.cut([2, 3]);
    expect(() => disk.cut([1])).toThrow(broken('durability'));
  });

  it('zeroes are zeroes, and a stable discard is anything until the next write', () => {
    const zeroes = request(abi.OP_WRITE_ZEROES, 0, 1, FUA);
    const disk = new Disk().does(write(0)).does(zeroes);
    disk.cut([0]);
    expect(() => disk.cut([1])).toThrow(broken('durability'));
    const discard = new Disk().does(write(0)).does(request(abi.OP_DISCARD, 0, 1, FUA));
    discard.cut([1]);
    discard.cut([ANYTHING]);
    discard.does(write(0, 1, FUA));
    expect(() => discard.cut([ANYTHING])).toThrow(broken('durability'));
  });

  it('a failed write leaves old or new, and a flush after it settles which', () => {
    const disk = new Disk().does(write(0, 1, FUA)).fails(write(0, 1, FUA));
    disk.cut([1, 2]);
    disk.does(FLUSH);
    disk.cut([1]);
    disk.cut([2]);
    expect(() => disk.cut([1, 2])).toThrow(broken('durability'));
  });
});

describe('A4: durable barriers', () => {
  it('promise everything before them when they succeed, themselves included', () => {
    const disk = new Disk({ barrier: 'durable' }).does(write(0)).does(write(1, 2, FENCE));
    disk.cut([1], [2]);
    expect(() => disk.cut([INITIAL], [2])).toThrow(broken('durability'));
    expect(() => disk.cut([1], [INITIAL])).toThrow(broken('durability'));
  });

  it('may be found only when everything before them is stable', () => {
    const disk = new Disk({ barrier: 'durable' }).does(write(0)).submit(write(1, 2, FENCE));
    disk.cut([INITIAL, 1], [INITIAL]);
    disk.cut([1], [INITIAL, 2]);
    expect(() => disk.cut([INITIAL, 1], [INITIAL, 2])).toThrow(broken('durability'));
  });

  it('that are an order only promise nothing', () => {
    new Disk({ barrier: 'order' })
      .does(write(0))
      .does(write(1, 2, FENCE))
      .cut([INITIAL], [2]);
  });
});

describe('A5: kill', () => {
  it('leaves what has succeeded, and of what is in flight old or new', () => {
    const disk = new Disk().does(write(0)).submit(write(0));
    disk.kill([1, 2]);
    expect(() => disk.kill([INITIAL])).toThrow(broken('kill'));
  });
});

describe('A6: once', () => {
  it('refuses a second completion, one that nobody asked for, and none', () => {
    const disk = new Disk().does(write(0));
    disk.oracle.checkIdle();
    expect(() => disk.complete(1)).toThrow(broken('once'));
    expect(() => disk.complete(2)).toThrow(broken('once'));
    disk.submit(FLUSH);
    expect(() => disk.oracle.checkIdle()).toThrow(broken('lost'));
  });
});

describe('A7: status', () => {
  it('needs something that explains an error', () => {
    const none = new Disk().submit(write(0));
    expect(() => none.complete(1, EIO)).toThrow(broken('status'));
    expect(() => none.complete(1, abi.STATUS_NO_SPACE)).toThrow(broken('status'));
    expect(() => none.complete(1, ABORTED)).toThrow(broken('status'));
    none.oracle.hostFailed(1, true);
    none.complete(1, abi.STATUS_NO_SPACE);
  });

  it('is ABORTED only where a reset of the queue has come by', () => {
    const other = request(abi.OP_RESET_QUEUE, 0, 0, 0, 1);
    const disk = new Disk().submit(write(0), other);
    expect(() => disk.complete(1, ABORTED)).toThrow(broken('status'));
    const before = new Disk().submit(write(0), RESET).complete(1, ABORTED).complete(2);
    expect(() => before.does(write(0), ABORTED)).toThrow(broken('status'));
  });

  it('after a failed sync no flush succeeds before the latch is opened (durability 6)', () => {
    const disk = new Disk().submit(FLUSH).syncFails().complete(1, EIO);
    disk.does(FLUSH, abi.STATUS_FLUSH_LATCHED);
    expect(() => disk.does(FLUSH)).toThrow(broken('latch'));
    const opened = new Disk().submit(FLUSH).syncFails().complete(1, EIO).does(CLEAR).does(FLUSH);
    expect(() => opened.does(FLUSH, abi.STATUS_FLUSH_LATCHED)).toThrow(broken('status'));
  });

  it('a barrier fails after an error where that is asked for', () => {
    const options = { barrier: 'order', barrierFails: true } as const;
    const fence = write(1, 2, FENCE);
    new Disk(options).fails(write(0)).does(fence, EIO).does(fence);
    expect(() => new Disk(options).fails(write(0)).does(fence)).toThrow(broken('status'));
    expect(() => new Disk(options).does(write(0)).does(fence, EIO)).toThrow(broken('status'));
  });
});

describe('a copy of an oracle', () => {
  it('goes its own way', () => {
    const disk = new Disk().does(write(0)).submit(FLUSH);
    const copy = new Disk();
    copy.oracle.copyFrom(disk.oracle);
    copy.complete(2);
    expect(() => copy.cut([INITIAL])).toThrow(broken('durability'));
    expect(disk.cut([INITIAL, 1])).toBe(2);
  });
});
