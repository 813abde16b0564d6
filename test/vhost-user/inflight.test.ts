/** A back-end that is killed, and the next one: nothing is lost, and nothing done twice. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

import * as abi from '../../src/abi/virtio-device.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import { Random } from '../../src/testing/random.ts';
import { Inflight, inflightBytes } from '../../src/vhost-user/inflight.ts';
import { OFFERED_PROTOCOL, PROTOCOL } from '../../src/vhost-user/protocol.ts';
import { serveVhostUser } from '../../src/vhost-user/server.ts';
import { bytesOf, GuestFile, patiently, TestFrontEnd } from './front-end.ts';

const DISK_BYTES = 1 << 20;
const SECTOR = 512;
const RING = 16;
const PROTOCOL_FEATURES = OFFERED_PROTOCOL & ~PROTOCOL.STATUS;
const SHAPE = { queues: 1, queueSize: RING };
const ROUNDS = 12;

describe('a back-end that was killed', () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-inflight-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  /** A back-end that holds what it is asked, and a front-end of it. */
  async function backEnd(name: string, guest: GuestFile, bytes?: Uint8Array) {
    const backend = new MemoryBackend({ sizeBytes: DISK_BYTES, hold: true });
    if (bytes !== undefined) backend.volatile.set(bytes);
    const disk = new Disk(backend, {});
    const path = join(folder, name);
    await serveVhostUser(disk, { socket: path });
    const frontEnd = await TestFrontEnd.connect(path, guest);
    await frontEnd.introduce(PROTOCOL_FEATURES);
    const end = async (): Promise<void> => {
      backend.hold = false;
      backend.releaseAll();
      frontEnd.leave();
      await disk.close();
    };
    return { backend, disk, frontEnd, end };
  }

  it.each(Array.from({ length: ROUNDS }, (_, seed) => seed))(
    'has its requests done by the next one, round %i',
    async (seed) => {
      const random = new Random(seed + 1);
      const guest = new GuestFile();
      const first = await backEnd(`first-${seed}`, guest);
      const shape = bytesOf([64, 0], [64, 0], [16, 1], [16, RING]);
      const { payload, fds } = await first.frontEnd.ask('GET_INFLIGHT_FD', shape);
      const [record] = fds;
      first.frontEnd.showMemory();
      const driver = first.frontEnd.newDriver(RING);
      first.frontEnd.start(driver);
      const count = 1 + random.below(10);
      const writes = Array.from({ length: count }, (_, index) =>
        driver.write(index * 8, new Uint8Array(SECTOR).fill(index + 1)),
      );
      driver.publish();
      first.frontEnd.ring();
      await patiently(() => (first.backend.held.length === count ? true : undefined));
      // Some are answered, in any order; the driver may have looked, or not.
      const answered = random.below(count + 1);
      for (let done = 0; done < answered; done++) {
        first.backend.release(first.backend.held[random.below(first.backend.held.length)]?.id);
      }
      await patiently(() => (usedIndex(guest, driver) === answered ? true : undefined));
      if (random.below(2) === 0) driver.poll();

      const second = await backEnd(`second-${seed}`, guest, first.backend.volatile);
      second.frontEnd.send('SET_INFLIGHT_FD', new Uint8Array(payload.buffer), record);
      second.frontEnd.showMemory();
      second.frontEnd.start(driver, 0, count);
      const left = count - answered;
      await patiently(() => (second.backend.held.length === left ? true : undefined));
      second.backend.hold = false;
      second.backend.releaseAll();
      await patiently(() => (usedIndex(guest, driver) === count ? true : undefined));
      driver.poll();
      expect(writes.map(({ status }) => status)).toEqual(writes.map(() => 0));
      for (let index = 0; index < count; index++) {
        expect(second.backend.volatile[index * 8 * SECTOR]).toBe(index + 1);
      }
      // The ring goes on.
      const read = driver.read(0, SECTOR);
      driver.publish();
      second.frontEnd.ring();
      await patiently(() => (driver.poll().length > 0 ? true : undefined));
      expect(read.data()).toEqual(new Uint8Array(SECTOR).fill(1));
      await second.end();
      await first.end();
    },
  );

  it('has them done in the order in which they came', async () => {
    const guest = new GuestFile();
    const first = await backEnd('order-first', guest);
    const shape = bytesOf([64, 0], [64, 0], [16, 1], [16, RING]);
    const { payload, fds } = await first.frontEnd.ask('GET_INFLIGHT_FD', shape);
    first.frontEnd.showMemory();
    const driver = first.frontEnd.newDriver(RING);
    first.frontEnd.start(driver);
    const publish = async (held: number): Promise<void> => {
      driver.publish();
      first.frontEnd.ring();
      await patiently(() => (first.backend.held.length === held ? true : undefined));
    };
    for (let index = 1; index < RING; index++) driver.read(100 + index * 8, SECTOR);
    await publish(RING - 1);
    driver.write(5, new Uint8Array(SECTOR).fill(1));
    await publish(RING);
    // Every free head is smaller than that of the first write then.
    for (let index = 1; index < RING; index++) first.backend.release(first.backend.held[0]?.id);
    let used = 0;
    await patiently(() => ((used += driver.poll().length) === RING - 1 ? true : undefined));
    driver.write(5, new Uint8Array(SECTOR).fill(2));
    await publish(1);
    await patiently(() => (first.disk.stats().requests.write === 2 ? true : undefined));

    const second = await backEnd('order-second', guest);
    second.backend.hold = false;
    second.frontEnd.send('SET_INFLIGHT_FD', new Uint8Array(payload.buffer), fds[0]);
    second.frontEnd.showMemory();
    second.frontEnd.start(driver, 0, RING + 1);
    await patiently(() => (usedIndex(guest, driver) === RING + 1 ? true : undefined));
    expect(second.backend.volatile[5 * SECTOR]).toBe(2);
    await second.end();
    await first.end();
  });

  it('leaves the write cache as the guest had it', async () => {
    const guest = new GuestFile();
    const first = await backEnd('cache-first', guest);
    const shape = bytesOf([64, 0], [64, 0], [16, 1], [16, RING]);
    const { payload, fds } = await first.frontEnd.ask('GET_INFLIGHT_FD', shape);
    first.frontEnd.showMemory();
    const driver = first.frontEnd.newDriver(RING);
    first.frontEnd.start(driver);
    first.backend.hold = false;
    const off = Buffer.concat([bytesOf([32, 32], [32, 1], [32, 0]), Buffer.of(0)]);
    expect(await first.frontEnd.acknowledged('SET_CONFIG', off)).toBe(0n);

    const second = await backEnd('cache-second', guest);
    second.backend.hold = false;
    expect(second.disk.wce).toBe(true);
    second.frontEnd.send('SET_INFLIGHT_FD', new Uint8Array(payload.buffer), fds[0]);
    second.frontEnd.showMemory();
    const write = driver.write(0, new Uint8Array(SECTOR).fill(9));
    driver.publish();
    second.frontEnd.start(driver);
    await patiently(() => (driver.poll().length > 0 ? true : undefined));
    second.backend.cutPower();
    expect([write.status, second.backend.volatile[0]]).toEqual([0, 9]);
    await second.end();
    await first.end();
  });
});

/** What the back-end has used, as the driver can see it. */
function usedIndex(guest: GuestFile, driver: ReturnType<TestFrontEnd['newDriver']>): number {
  const { device } = driver.queue.config();
  const [low = 0, high = 0] = guest.ram.bytes(device + 2n, 2);
  return low + high * 256;
}

describe('a record of what is in flight', () => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const view = new DataView(memory.buffer, 64);
  const stateOf = (head: number): number => abi.INFLIGHT_STATES + head * abi.INFLIGHT_STATE_SIZE;
  const open = (): Inflight =>
    new Inflight({ address: 0, release: () => undefined }, memory, SHAPE);

  function fresh(): Inflight {
    new Uint8Array(memory.buffer).fill(0);
    const inflight = open();
    inflight.begin(0, RING, 0);
    return inflight;
  }

  function enter(head: number, counter: bigint): void {
    view.setUint8(stateOf(head) + abi.INFLIGHT_STATE_FLAG, 1);
    view.setBigUint64(stateOf(head) + abi.INFLIGHT_STATE_COUNTER, counter, true);
  }

  function order(count: number): number[] {
    return Array.from({ length: count }, (_, at) => view.getUint16(stateOf(RING) + at * 2, true));
  }

  it('says what was left, in the order in which it was taken', () => {
    const inflight = fresh();
    enter(3, 7n);
    enter(1, 9n);
    enter(8, 8n);
    const found = inflight.begin(0, RING, 0);
    expect(found).toMatchObject({ resubmits: 3, counter: 10n });
    expect(order(3)).toEqual([3, 8, 1]);
  });

  it('ends a batch that the driver has seen, and was not struck out', () => {
    const inflight = fresh();
    for (const head of [2, 4, 6]) enter(head, BigInt(head));
    // 4, then 2 were returned, and the used index has moved.
    view.setUint16(stateOf(4) + abi.INFLIGHT_STATE_NEXT, 0, true);
    view.setUint16(stateOf(2) + abi.INFLIGHT_STATE_NEXT, 4, true);
    view.setUint16(abi.INFLIGHT_LAST_BATCH_HEAD, 2, true);
    expect(inflight.begin(0, RING, 2)).toMatchObject({ resubmits: 1 });
    expect(order(1)).toEqual([6]);
  });

  it('keeps a batch that the driver has not seen', () => {
    const inflight = fresh();
    for (const head of [2, 4]) enter(head, BigInt(head));
    view.setUint16(abi.INFLIGHT_LAST_BATCH_HEAD, 2, true);
    expect(inflight.begin(0, RING, 0)).toMatchObject({ resubmits: 2 });
  });

  it('is refused for a ring of another size, and where there is none', () => {
    const inflight = fresh();
    expect(() => inflight.begin(0, 8, 0)).toThrow(/16 descriptors in flight for ring 0 of 8/);
    expect(() => inflight.begin(1, RING, 0)).toThrow(/ring 1 of 16 entries/);
    expect(() => inflight.begin(0, 32, 0)).toThrow(/ring 0 of 32 entries/);
  });

  it('survives any bytes', () => {
    const random = new Random(5);
    for (let round = 0; round < 200; round++) {
      fresh();
      const bytes = new Uint8Array(memory.buffer, 64, inflightBytes(SHAPE) - 64);
      for (let at = abi.INFLIGHT_LAST_BATCH_HEAD; at < bytes.length; at++) {
        bytes[at] = random.below(256);
      }
      const { resubmits } = open().begin(0, RING, random.below(65_536));
      expect(resubmits).toBeLessThanOrEqual(RING);
      expect(order(resubmits).every((head) => head < RING)).toBe(true);
    }
  });
});
