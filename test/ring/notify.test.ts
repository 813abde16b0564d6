// Who tells whom: T1, T3 of assembly/ring/take.ts, U3 of used.ts, Q4 and P4; VIRTIO 1.3, 2.7.7,
// 2.7.10, 2.8.14, and section 2's NOTIFY_ON_EMPTY.

import { describe, expect, it } from 'vitest';
import { COUNT_INTERRUPTS, COUNT_INTERRUPTS_SUPPRESSED } from '../../src/abi/region.ts';
import { REQUEST_SLOTS } from '../../src/abi/limits.ts';
import * as abi from '../../src/abi/virtio-device.ts';
import { ENGINE_BASE } from '../driver.ts';
import { BUILDS } from '../support/engine.ts';
import { answer, expectIdle, FACES, packedOf, rigWith, send, splitOf, waiting } from './face.ts';
import type { GuestRig } from './rig.ts';

const EVENT_IDX = { features: { eventIdx: true, indirect: true } };
const ENABLE = 0;
const DISABLE = 1;
const AT_DESCRIPTOR = 2;

/** Interrupts that were wanted, and batches for which none was. */
function interrupts(rig: GuestRig): [number, number] {
  const count = (at: number): number => Number(rig.view.getBigUint64(ENGINE_BASE + at, true));
  return [count(COUNT_INTERRUPTS), count(COUNT_INTERRUPTS_SUPPRESSED)];
}

/** Whether the queue is marked as one to look at. */
function isKicked(rig: GuestRig): boolean {
  return rig.deviceWord(abi.DEVICE_KICKED) !== 0;
}

describe.each(FACES)('notifications ($name)', (face) => {
  it('VIRTIO 3.1.1, section 1: before DRIVER_OK no buffer is used and nobody is told', () => {
    const { rig, driver } = rigWith(face, {}, { device: { flags: 0 } });
    driver.getId();
    driver.read(0, 512);
    rig.finish(driver);
    expect([rig.commands, driver.poll(), rig.takeInterrupts()]).toEqual([[], [], 0n]);
    expect(rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(0);
    rig.setDevice({ flags: abi.DEVICE_RUNNING });
    rig.settle();
    expect(driver.poll()).toHaveLength(2);
  });

  it('T1: a notification of an empty queue does nothing', () => {
    const { rig } = rigWith(face);
    rig.run();
    rig.takeInterrupts();
    for (let i = 0; i < 3; i++) rig.run();
    expect([rig.commands, rig.takeInterrupts()]).toEqual([[], 0n]);
    expectIdle(rig);
  });

  it('T1: a queue that nobody has notified of is not looked at', () => {
    const { rig, driver } = rigWith(face);
    rig.run();
    driver.read(0, 512);
    driver.publish();
    rig.pump();
    expect(rig.commands).toEqual([]);
    rig.run();
    expect(driver.poll()).toHaveLength(1);
  });

  it('T1: what was available before the queue was attached is found', () => {
    const { rig, driver } = rigWith(face);
    driver.read(0, 512);
    driver.publish();
    rig.settle();
    expect(driver.poll()).toHaveLength(1);
    expect(isKicked(rig)).toBe(false);
  });

  it('U3: used entries of one call are one interrupt, and one decision', () => {
    const { rig, driver } = rigWith(face);
    for (let i = 0; i < 5; i++) driver.getId();
    send(rig, driver);
    expect(driver.poll()).toHaveLength(5);
    expect(rig.takeInterrupts()).toBe(1n);
    expect(interrupts(rig)).toEqual([1, 0]);
    rig.pump();
    expect(rig.takeInterrupts()).toBe(0n);
    expect(interrupts(rig)).toEqual([1, 0]);
  });

  it('VIRTIO 2.7.7.2, 2.8.14: a driver that wants no interrupts gets none', () => {
    const { rig, driver } = rigWith(face);
    driver.queue.setInterrupts(false);
    for (let i = 0; i < 3; i++) {
      driver.getId();
      rig.finish(driver);
      expect(rig.takeInterrupts()).toBe(0n);
    }
    driver.queue.setInterrupts(true);
    driver.getId();
    rig.finish(driver);
    expect(rig.takeInterrupts()).toBe(1n);
    expect(interrupts(rig)).toEqual([1, 3]);
  });

  it('VIRTIO 2.7.7.2, 2.8.14: with EVENT_IDX the first decision after a start is yes', () => {
    const { rig, driver } = rigWith(face, EVENT_IDX);
    driver.queue.interruptAfter(7);
    driver.getId();
    send(rig, driver);
    expect(rig.takeInterrupts()).toBe(1n);
    driver.getId();
    send(rig, driver);
    expect(rig.takeInterrupts()).toBe(0n);
  });

  it('VIRTIO 2.7.7.2, 2.8.14: with EVENT_IDX an interrupt comes when the event is passed', () => {
    for (const batches of [[1, 1, 1, 1], [2, 2], [1, 3], [3, 1], [4]]) {
      const { rig, driver } = rigWith(face, { ...EVENT_IDX, size: 64 });
      driver.getId();
      rig.finish(driver);
      rig.takeInterrupts();
      driver.queue.interruptAfter(4);
      const seen = batches.map((count) => {
        for (let i = 0; i < count; i++) driver.getId();
        send(rig, driver);
        return rig.takeInterrupts();
      });
      expect(seen).toEqual(batches.map((_, at) => (at === batches.length - 1 ? 1n : 0n)));
      driver.getId();
      send(rig, driver);
      // It has been told once, and has not asked again.
      expect(rig.takeInterrupts()).toBe(0n);
    }
  });

  it('VIRTIO 2.7.10, 2.8.14: with EVENT_IDX the driver learns how far the device has come', () => {
    const { rig, driver } = rigWith(face, { ...EVENT_IDX, size: 4 });
    for (let i = 0; i < 11; i++) {
      driver.getId();
      expect(driver.publish()).toBe(true);
      rig.run();
      driver.poll();
      if (!face.packed) expect(splitOf(driver).availEvent).toBe(i + 1);
      else expect(packedOf(driver).deviceEvent & 0xffff).toBe(packedOf(driver).nextAvail);
      if (face.packed) expect(packedOf(driver).deviceEvent >>> 16).toBe(AT_DESCRIPTOR);
    }
  });

  it('T3: a call takes a bounded number of chains, and goes on with the next one', () => {
    for (const eventIdx of [false, true]) {
      const features = { indirect: true, eventIdx };
      const { rig, driver } = rigWith(face, { size: 4096, features, driver: { guards: false } });
      for (let i = 0; i < 3000; i++) driver.getId();
      send(rig, driver);
      expect(driver.poll()).toHaveLength(2 * abi.CHAINS);
      expect(isKicked(rig)).toBe(true);
      // As long as it has not come to the end it asks for no notification (Q4, P4).
      if (face.packed) expect(packedOf(driver).deviceEvent >>> 16).toBe(DISABLE);
      else expect(splitOf(driver).usedFlags).toBe(eventIdx ? 0 : 1);
      if (!face.packed && eventIdx) expect(splitOf(driver).availEvent).toBe(0);
      rig.pump();
      expect(driver.poll()).toHaveLength(3000 - 2 * abi.CHAINS);
      expect(isKicked(rig)).toBe(false);
      const asks = eventIdx ? AT_DESCRIPTOR : ENABLE;
      if (face.packed) expect(packedOf(driver).deviceEvent >>> 16).toBe(asks);
      else expect(splitOf(driver).usedFlags).toBe(0);
      if (!face.packed && eventIdx) expect(splitOf(driver).availEvent).toBe(3000);
    }
  });

  it('T3: what needs I/O is taken while there is room, and no more', () => {
    const { rig, driver } = rigWith(face, {
      size: 4096,
      features: { indirect: true },
      driver: { guards: false },
    });
    for (let i = 0; i < 2000; i++) driver.read(i, 512);
    send(rig, driver);
    const inFlight = rig.deviceWord(abi.DEVICE_IN_FLIGHT);
    expect(inFlight).toBeGreaterThan(800);
    expect(inFlight).toBeLessThanOrEqual(REQUEST_SLOTS - abi.HOST_REQUESTS);
    expect(isKicked(rig)).toBe(true);
    rig.settle();
    rig.settle();
    expect(driver.poll()).toHaveLength(2000);
    expect(isKicked(rig)).toBe(false);
    expectIdle(rig);
  });
});

describe.each(BUILDS)('interrupts of the split ring ($name build)', (build) => {
  const face = { name: build.name, build, packed: false };

  it('VIRTIO 2.7.7.2: EVENT_IDX decides whether used_event counts or the flag', () => {
    for (const eventIdx of [false, true]) {
      const { rig, driver } = rigWith(face, { features: { eventIdx } });
      driver.getId();
      rig.finish(driver);
      rig.takeInterrupts();
      const queue = splitOf(driver);
      queue.pokeAvailFlags(eventIdx ? 1 : 0);
      queue.pokeUsedEvent(eventIdx ? 1 : 500);
      driver.getId();
      send(rig, driver);
      expect(rig.takeInterrupts()).toBe(1n);
    }
  });

  it('VIRTIO 2.7.7.2: the formula, for every event around every step, also past 65535', () => {
    for (const position of [0, 65_533]) {
      for (let step = 1; step <= 4; step++) {
        for (let event = -3; event <= 6; event++) {
          const { rig, driver } = rigWith(face, { ...EVENT_IDX, position, size: 8 }, SMALL);
          driver.getId();
          send(rig, driver);
          driver.poll();
          rig.takeInterrupts();
          const old = position + 1;
          splitOf(driver).pokeUsedEvent(old + event);
          for (let i = 0; i < step; i++) driver.getId();
          send(rig, driver);
          const wanted = event >= 0 && event < step;
          expect([position, step, event, rig.takeInterrupts()]).toEqual([
            position,
            step,
            event,
            wanted ? 1n : 0n,
          ]);
        }
      }
    }
  });

  it('section 2: NOTIFY_ON_EMPTY: an interrupt when the queue is empty, though suppressed', () => {
    for (const features of [{ indirect: true }, { indirect: true, eventIdx: true }]) {
      const { rig, driver } = rigWith(face, { features, notifyOnEmpty: true });
      driver.getId();
      rig.finish(driver);
      rig.takeInterrupts();
      driver.queue.setInterrupts(false);
      driver.read(0, 512);
      driver.getId();
      send(rig, driver);
      expect(driver.poll()).toHaveLength(1);
      splitOf(driver).pokeUsedEvent(0x7000);
      // One is in flight: the queue is not empty.
      expect(rig.takeInterrupts()).toBe(0n);
      answer(rig, 'READ 0+512');
      expect(rig.takeInterrupts()).toBe(1n);
    }
  });

  it('section 2: NOTIFY_ON_EMPTY: a chain that is available and not taken is one too', () => {
    const { rig, driver } = rigWith(face, { notifyOnEmpty: true });
    driver.queue.setInterrupts(false);
    driver.read(0, 512);
    send(rig, driver);
    driver.read(4, 512);
    driver.publish();
    answer(rig, 'READ 0+512');
    expect(rig.takeInterrupts()).toBe(0n);
    expect(waiting(rig)).toEqual([]);
    rig.run();
    expect(rig.takeInterrupts()).toBe(1n);
  });
});

/** Little memory, for many rigs. */
const SMALL = { ramBytes: 65_536, engine: { capacity: 4096 } };

describe.each(BUILDS)('interrupts of the packed ring ($name build)', (build) => {
  const face = { name: build.name, build, packed: true };

  it('VIRTIO 2.8.14: flags ENABLE, DISABLE; DESC and its reserved value without EVENT_IDX', () => {
    const { rig, driver } = rigWith(face, { features: { indirect: true } });
    const seen = [0, 1, 2, 3].map((flags) => {
      packedOf(driver).pokeDriverEvent(0x7000, flags);
      driver.getId();
      send(rig, driver);
      return rig.takeInterrupts();
    });
    expect(seen).toEqual([1n, 0n, 1n, 1n]);
  });

  it('VIRTIO 2.8.14: with EVENT_IDX flags ENABLE and DISABLE mean what they say', () => {
    const { rig, driver } = rigWith(face, EVENT_IDX);
    const seen = [0, 0, 1, 1, 0].map((flags) => {
      packedOf(driver).pokeDriverEvent(0x7000, flags);
      driver.getId();
      send(rig, driver);
      return rig.takeInterrupts();
    });
    expect(seen).toEqual([1n, 1n, 0n, 0n, 1n]);
  });

  it('VIRTIO 2.8.14: the event is a descriptor of one lap: offset and wrap counter', () => {
    for (let start = 0; start < 6; start++) {
      for (let step = 1; step <= 3; step++) {
        for (let event = 0; event < 10; event++) {
          const { rig, driver } = rigWith(face, { ...EVENT_IDX, position: start, size: 7 }, SMALL);
          driver.getId();
          send(rig, driver);
          driver.poll();
          rig.takeInterrupts();
          driver.queue.interruptAfter(event + 1);
          for (let i = 0; i < step; i++) driver.getId();
          send(rig, driver);
          const told = rig.takeInterrupts();
          // When the ring was passed the last decision is of another lap: then it is yes for sure.
          const wrapped = start + 1 + step >= 7 && start + 1 < 7;
          if (event < step || wrapped) expect([start, step, event, told]).toContain(1n);
          else expect([start, step, event, told]).toContain(0n);
        }
      }
    }
  });
});
