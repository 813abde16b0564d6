// The split virtqueue: rules Q1-Q4 of assembly/ring/split.ts; VIRTIO 1.3, 2.7.

import { describe, expect, it } from 'vitest';
import * as abi from '../../src/abi/virtio-device.ts';
import { BlkDriver } from '../../src/testing/guest/blk.ts';
import { SplitDriver } from '../../src/testing/guest/split.ts';
import { BUILDS } from '../support/engine.ts';
import {
  answer,
  expectBroken,
  expectIdle,
  fresh,
  rigWith,
  send,
  splitOf,
  waiting,
} from './face.ts';

describe.each(BUILDS)('split virtqueue ($name build)', (build) => {
  const face = { name: build.name, build, packed: false };

  it('Q1, 3.1.1: an index more than the queue ahead breaks it, and no stale entry is taken', () => {
    const { rig, driver } = rigWith(face, { size: 4 });
    driver.read(0, 512);
    driver.publish();
    splitOf(driver).availIdx = 5;
    rig.run();
    expectBroken(rig, abi.RING_ERROR_AVAIL_INDEX);
    expect(rig.commands).toEqual([]);
    expect(splitOf(driver).usedIdx).toBe(0);
    expect(rig.deviceWord(abi.DEVICE_IN_FLIGHT)).toBe(0);
  });

  it('Q1, 3.1.1: an index exactly as far ahead as the queue is long is good', () => {
    const { rig, driver } = rigWith(face, { size: 4, features: { indirect: true } });
    for (let i = 0; i < 4; i++) driver.read(i, 512);
    rig.finish(driver);
    expect(splitOf(driver).usedIdx).toBe(4);
    expectIdle(rig);
  });

  it('Q1, 3.1.1: an index that goes back breaks the queue', () => {
    const { rig, driver } = rigWith(face, { size: 4, position: 100 });
    splitOf(driver).availIdx = 99;
    rig.run();
    expectBroken(rig, abi.RING_ERROR_AVAIL_INDEX);
  });

  it('Q1, 3.1.11: what is in flight counts: no more than the queue holds in all', () => {
    const { rig, driver } = rigWith(face, { size: 4, features: { indirect: true } });
    for (let i = 0; i < 3; i++) driver.read(i * 2, 512);
    send(rig, driver);
    expect(rig.queueWord(abi.QUEUE_IN_FLIGHT)).toBe(3);
    splitOf(driver).availIdx = 5;
    rig.notify();
    rig.pump();
    expectBroken(rig, abi.RING_ERROR_AVAIL_INDEX);
    expect(rig.queueWord(abi.QUEUE_IN_FLIGHT)).toBe(3);
    rig.settle();
    expect(driver.poll().map(({ status }) => status)).toEqual([0, 0, 0]);
  });

  it('Q1, 3.1.1: an index that goes back over what is in flight breaks the queue', () => {
    const { rig, driver } = rigWith(face, { size: 8, features: { indirect: true } });
    for (let i = 0; i < 3; i++) driver.read(i * 2, 512);
    send(rig, driver);
    splitOf(driver).availIdx = 2;
    rig.notify();
    rig.pump();
    expectBroken(rig, abi.RING_ERROR_AVAIL_INDEX);
    expect(waiting(rig)).toHaveLength(3);
  });

  it('Q1: entries behind the index that was read are not looked at', () => {
    const { rig, driver } = rigWith(face, { size: 8 });
    driver.read(0, 512);
    driver.publish();
    splitOf(driver).offer(0xffff);
    rig.run();
    expect(driver.poll()).toHaveLength(1);
    expectIdle(rig);
  });

  it('VIRTIO 2.7.6, 2.7.8: indices run on modulo 65536, entries lie at the index modulo N', () => {
    const { rig, driver } = rigWith(face, { size: 8, position: 65_530 });
    for (let i = 0; i < 30; i++) {
      const read = driver.read(i, 512);
      rig.finish(driver);
      expect(read.status).toBe(0);
      expect(read.data()).toEqual(fresh(i, 1));
      driver.release(read);
    }
    expect(splitOf(driver).usedIdx).toBe((65_530 + 30) & 0xffff);
    expectIdle(rig);
  });

  it('Q2, VIRTIO 2.7.8: a used element is the head and the bytes written', () => {
    const { rig, driver } = rigWith(face, { size: 16 });
    const queue = splitOf(driver);
    driver.write(1, new Uint8Array(512));
    const read = driver.read(4, 1024);
    send(rig, driver);
    answer(rig, 'READ 2048+1024');
    const used = queue.memory.resolve(queue.device);
    expect(queue.usedIdx).toBe(1);
    expect(queue.memory.getU32(used + 4)).toBe(read.token);
    expect(queue.memory.getU32(used + 8)).toBe(1025);
    expect(waiting(rig)).toEqual(['WRITE 512+512']);
    answer(rig, 'WRITE 512+512');
    expect(queue.usedIdx).toBe(2);
    expect(queue.memory.getU32(used + 12)).toBe(0);
    expect(queue.memory.getU32(used + 16)).toBe(1);
  });

  it('Q3, VIRTIO 2.7.5, 2.7.6: descriptors and available ring are never written', () => {
    const { rig, driver } = rigWith(face, { size: 16, features: { indirect: true } });
    const queue = splitOf(driver);
    for (let i = 0; i < 40; i++) {
      const made = [driver.read(i, 512), driver.write(i, new Uint8Array(512)), driver.flush()];
      driver.publish();
      const table = queue.memory.bytes(queue.desc, 16 * 16).slice();
      const avail = queue.memory.bytes(queue.driver, 6 + 2 * 16).slice();
      rig.run();
      expect(queue.memory.bytes(queue.desc, 16 * 16)).toEqual(table);
      expect(queue.memory.bytes(queue.driver, 6 + 2 * 16)).toEqual(avail);
      driver.poll();
      for (const request of made) driver.release(request);
    }
    expectIdle(rig);
  });

  it('Q3: no byte behind the used ring is written', () => {
    for (const size of [1, 2, 32]) {
      const { rig, driver } = rigWith(face, { size, features: { indirect: true } });
      const queue = splitOf(driver);
      const behind = queue.memory.bytes(queue.device, 6 + 8 * size + 10).subarray(6 + 8 * size);
      rig.guest.allocate(64);
      behind.fill(0x5a);
      for (let i = 0; i < 2 * size; i++) {
        const flush = driver.flush();
        rig.finish(driver);
        driver.release(flush);
      }
      expect([...behind]).toEqual(Array.from({ length: 10 }, () => 0x5a));
    }
  });

  it('Q4, VIRTIO 2.7.10: once the queue is empty the driver is asked to notify again', () => {
    for (const eventIdx of [false, true]) {
      const { rig, driver } = rigWith(face, { size: 16, features: { eventIdx } });
      for (let i = 0; i < 20; i++) {
        driver.flush();
        expect(driver.publish()).toBe(true);
        rig.run();
        driver.poll();
        if (eventIdx) expect(splitOf(driver).availEvent).toBe(i + 1);
        expect(splitOf(driver).usedFlags).toBe(0);
      }
    }
  });

  it.each([4, 5, 300, 0xffff])('3.1.2: head %d of a queue of 4 breaks it', (head) => {
    const { rig, driver } = rigWith(face, { size: 4 });
    splitOf(driver).offer(head);
    driver.publish();
    rig.run();
    expectBroken(rig, abi.RING_ERROR_HEAD);
    expect(rig.queueWord(abi.QUEUE_ERROR_HEAD)).toBe(head);
  });

  it('T4, 3.1.11: a head that is in flight breaks the queue, in one batch or in two', () => {
    for (const batches of [1, 2]) {
      const { rig, driver } = rigWith(face, { size: 8 });
      const read = driver.read(0, 512);
      if (batches === 2) send(rig, driver);
      splitOf(driver).offer(read.token);
      send(rig, driver);
      expectBroken(rig, abi.RING_ERROR_IN_FLIGHT);
      expect(waiting(rig)).toEqual(['READ 0+512']);
      rig.settle();
      expect(driver.poll()).toEqual([read]);
      expect(read.status).toBe(0);
      expect(splitOf(driver).usedIdx).toBe(1);
    }
  });

  it('T4: a head that came back may be made available again', () => {
    const { rig, driver } = rigWith(face, { size: 8 });
    const read = driver.read(0, 512);
    rig.finish(driver);
    driver.again(read);
    rig.finish(driver);
    expect(read.status).toBe(0);
    expectIdle(rig);
  });

  it('VIRTIO 2.7.2: the legacy layout is one like any other', () => {
    const { rig } = rigWith(face, { size: 4 });
    rig.reset();
    const queue = new SplitDriver({ memory: rig.guest, size: 16, legacyAlign: 4096 });
    expect(rig.attach(0, queue.config())).toBe(0);
    const driver = new BlkDriver({ queue });
    const read = driver.read(3, 512);
    rig.finish(driver);
    expect(read.data()).toEqual(fresh(3, 1));
  });

  it('VIRTIO 2.7.5: `next` means nothing without NEXT, reserved flags mean nothing', () => {
    const { rig, driver } = rigWith(face, { size: 16 });
    const read = driver.read(3, 512);
    splitOf(driver).pokeDescriptor(2, { next: 0xffff, flags: 2 | 0xfff8 });
    rig.finish(driver);
    expect(read.status).toBe(0);
    expect(read.usedLength).toBe(513);
  });
});
