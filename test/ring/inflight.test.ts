// The record of what is in flight: rules Y1-Y4 of assembly/ring/inflight.ts.

import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/virtio-device.ts';
import { BlkDriver } from '../../src/testing/guest/blk.ts';
import { SplitDriver } from '../../src/testing/guest/split.ts';
import { BUILDS } from '../support/engine.ts';
import { expectBroken, send, splitOf, waiting } from './face.ts';
import { DEVICE_WORDS, GuestRig } from './rig.ts';

const SIZE = 8;

/** The record of the only queue, behind the guest's RAM. */
class Recorded {
  readonly rig: GuestRig;
  readonly driver: BlkDriver;
  readonly #at: number;

  /** `left`: heads that the last process has left, which are of the driver's first requests. */
  constructor(build: (typeof BUILDS)[number], left: readonly number[] = []) {
    this.rig = new GuestRig(build);
    this.#at = this.rig.ram + this.rig.ramBytes;
    const { view, guest } = this.rig;
    const words = this.rig.queueAt(0);
    view.setUint32(words + abi.QUEUE_INFLIGHT, this.#at, true);
    view.setUint32(words + abi.QUEUE_RESUBMITS, left.length, true);
    view.setBigUint64(words + abi.QUEUE_COUNTER, 100n, true);
    left.forEach((head, index) => view.setUint16(this.#state(SIZE) + index * 2, head, true));
    const queue = new SplitDriver({ memory: guest, size: SIZE, features: { indirect: true } });
    this.driver = new BlkDriver({ queue });
    if (left.length === 0) this.attach(0);
  }

  /** Attaches the queue behind what was taken. */
  attach(nextAvail: number): number {
    const config = splitOf(this.driver).config();
    return this.rig.attach(0, { ...config, position: { nextAvail, nextUsed: 0 } });
  }

  /** Heads that are marked, with their counters. */
  marked(): [head: number, counter: bigint][] {
    return Array.from({ length: SIZE }, (_, head) => head).flatMap((head) => {
      const at = this.#state(head);
      if (this.rig.view.getUint8(at + abi.INFLIGHT_STATE_FLAG) === 0) return [];
      return [[head, this.rig.view.getBigUint64(at + abi.INFLIGHT_STATE_COUNTER, true)]];
    });
  }

  mark(head: number): void {
    this.rig.view.setUint8(this.#state(head) + abi.INFLIGHT_STATE_FLAG, 1);
  }

  /** The heads of the last batch, the last one first. */
  batch(count: number): number[] {
    const { view } = this.rig;
    const heads: number[] = [];
    for (let head = view.getUint16(this.#at + abi.INFLIGHT_LAST_BATCH_HEAD, true); ;) {
      heads.push(head);
      if (heads.length === count) return heads;
      head = view.getUint16(this.#state(head) + abi.INFLIGHT_STATE_NEXT, true);
    }
  }

  get usedIndex(): number {
    return this.rig.view.getUint16(this.#at + abi.INFLIGHT_USED_INDEX, true);
  }

  #state(head: number): number {
    return this.#at + abi.INFLIGHT_STATES + head * abi.INFLIGHT_STATE_SIZE;
  }
}

describe.each(BUILDS)('the record of what is in flight ($name build)', (build) => {
  it('Y1: has a chain while it is in flight, with the order in which it was taken', () => {
    const recorded = new Recorded(build);
    const { rig, driver } = recorded;
    for (const sector of [3, 1, 2]) driver.read(sector * 8, 512);
    send(rig, driver);
    expect(rig.inFlight.length).toBe(3);
    expect(recorded.marked().map(([, counter]) => counter)).toEqual([100n, 101n, 102n]);
    rig.settle();
    expect(recorded.marked()).toEqual([]);
  });

  it('Y2: strikes out what the driver can see, and says which batch it was', () => {
    const recorded = new Recorded(build);
    const { rig, driver } = recorded;
    for (const sector of [0, 10, 20, 30]) driver.read(sector, 512);
    send(rig, driver);
    const heads = recorded.marked().map(([head]) => head);
    rig.answer(2);
    rig.answer(0);
    rig.pump();
    expect(recorded.usedIndex).toBe(2);
    expect(recorded.batch(2)).toEqual([heads[0], heads[2]]);
    expect(recorded.marked().map(([head]) => head)).toEqual([heads[1], heads[3]]);
    rig.settle();
    expect([recorded.usedIndex, recorded.marked()]).toEqual([4, []]);
  });

  it('Y3: what was left comes first, in its order, and keeps its place in the record', () => {
    const recorded = new Recorded(build, [2, 0]);
    const { rig, driver } = recorded;
    for (let index = 0; index < 4; index++) driver.write(index, new Uint8Array(512).fill(index));
    driver.publish();
    for (const head of [2, 0]) recorded.mark(head);
    expect(recorded.attach(2)).toBe(0);
    rig.notify();
    rig.pump();
    // 2 and 3 are the next in the ring: 2 is in flight already.
    expectBroken(rig, abi.RING_ERROR_IN_FLIGHT);
    expect(waiting(rig).toSorted()).toEqual(['WRITE 0+512', 'WRITE 1024+512']);
    expect(recorded.marked()).toEqual([
      [0, 0n],
      [2, 0n],
    ]);
    rig.settle();
    expect(recorded.marked()).toEqual([]);
  });

  it('Y3: goes on with the ring behind what was left', () => {
    const recorded = new Recorded(build, [0, 1]);
    const { rig, driver } = recorded;
    for (let index = 0; index < 4; index++) driver.read(index * 10, 512);
    driver.publish();
    recorded.attach(2);
    rig.run();
    expect(driver.poll().length).toBe(4);
    expect([recorded.usedIndex, recorded.marked()]).toEqual([4, []]);
  });

  it('Y4: a head that is none, or is there twice, breaks the queue', () => {
    for (const [left, error] of [
      [[SIZE], abi.RING_ERROR_HEAD],
      [[1, 1], abi.RING_ERROR_IN_FLIGHT],
    ] as const) {
      const recorded = new Recorded(build, left);
      const { rig, driver } = recorded;
      for (let index = 0; index < 2; index++) driver.read(index, 512);
      driver.publish();
      recorded.attach(left.length);
      rig.notify();
      rig.pump();
      expectBroken(rig, error);
    }
  });

  it('is refused for rings that have none', () => {
    const { rig, driver } = new Recorded(build, [1, 2, 3]);
    const config = splitOf(driver).config();
    const position = { nextAvail: 3, nextUsed: 0 };
    expect(rig.attach(0, { ...config, packed: true, position })).toBe(abi.ATTACH_INFLIGHT);
    expect(rig.attach(0, { ...config, inOrder: true, position })).toBe(abi.ATTACH_INFLIGHT);
    // More was left than was taken.
    expect(rig.attach(0, { ...config, position: { nextAvail: 2, nextUsed: 0 } })).toBe(
      abi.ATTACH_INFLIGHT,
    );
    rig.setDevice({ flags: DEVICE_WORDS.flags | abi.DEVICE_COPIED });
    expect(rig.attach(0, { ...config, position })).toBe(abi.ATTACH_INFLIGHT);
  });
});
