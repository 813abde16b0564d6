// A guest in a plain ArrayBuffer: the engine works on a mirror, and the guest must not notice.

import { afterEach, describe, expect, it } from 'vitest';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import {
  BlkDriver,
  createDriverQueue,
  cutFraming,
  GuestMemory,
  indirectFraming,
  plainFraming,
  type RingFeatures,
  segmentedFraming,
} from '../../src/testing/guest/index.ts';
import { createVirtioBlk } from '../../src/virtio/create-virtio-blk.ts';
import type { QueueConfig } from '../../src/virtio/virtqueue-types.ts';
import { turn } from './fake-queues.ts';

const MIB = 1 << 20;
const SETTINGS = {
  fixedFraming: false,
  barrier: false,
  discard: true,
  writeZeroes: true,
  blockSectors: 1,
  discardSectors: 4096,
  discardSegments: 4,
  zeroesSectors: 4096,
  zeroesSegments: 4,
  id: new Uint8Array(20).fill(65),
  readError: 'report',
  writeError: 'report',
} as const;
const disks: Disk[] = [];
const backends: MemoryBackend[] = [];

afterEach(async () => {
  for (const backend of backends.splice(0)) {
    backend.hold = false;
    backend.releaseAll();
  }
  await Promise.all(disks.splice(0).map((disk) => disk.close()));
});

function setUp(packed: boolean, features: RingFeatures, hold = false) {
  const backend = new MemoryBackend({ sizeBytes: MIB, hold });
  const disk = new Disk(backend, { bufferBytes: 65_536 });
  disks.push(disk);
  backends.push(backend);
  const buffer = new ArrayBuffer(MIB);
  const interrupts: number[] = [];
  const failures: string[] = [];
  const blk = createVirtioBlk(disk, {
    guest: buffer,
    onInterrupt: (_kind, queue) => interrupts.push(queue),
    onError: (error) => failures.push(error.message),
  });
  const memory = new GuestMemory(buffer);
  const queue = createDriverQueue(packed, { memory, size: packed ? 33 : 32, features });
  blk.queues.configure(SETTINGS);
  blk.queues.attach(0, queue.config() satisfies QueueConfig);
  blk.queues.running = true;
  const driver = new BlkDriver({ queue });
  const finish = async (): Promise<void> => {
    if (driver.publish()) blk.queues.notify(0);
    for (let turns = 0; queue.inFlight > 0 && turns < 200; turns++) {
      if (hold) backend.releaseAll();
      driver.poll();
      await turn();
    }
    driver.poll();
  };
  return { backend, disk, blk, buffer, driver, queue, finish, interrupts, failures };
}

describe.each([
  ['split', false, {}],
  ['split, EVENT_IDX, indirect', false, { eventIdx: true, indirect: true }],
  ['packed', true, {}],
  ['packed, EVENT_IDX, indirect', true, { eventIdx: true, indirect: true }],
] as const)('a copied guest on a %s ring', (_name, packed, features) => {
  it('reads what it has written, in any framing, many times around the ring', async () => {
    const { driver, disk, finish } = setUp(packed, features);
    const framings = [undefined, segmentedFraming(3), cutFraming([7, 700])];
    for (let i = 0; i < 60; i++) {
      const framing = framings[i % framings.length];
      const data = new Uint8Array(1536).fill(i + 1);
      const write = driver.write(i * 3, data, framing);
      await finish();
      const read = driver.read(i * 3, 1536, framing);
      const flush = driver.flush();
      await finish();
      expect([write.status, read.status, flush.status]).toEqual([0, 0, 0]);
      expect(read.data()).toEqual(data);
      expect(read.usedLength).toBe(1537);
      expect([...write.damage(), ...read.damage()]).toEqual([]);
      expect(await disk.read(i * 1536, 1536)).toEqual(data);
      for (const request of [write, read, flush]) driver.release(request);
    }
  });

  it('GET_ID, DISCARD and WRITE_ZEROES work, and failures say so', async () => {
    const { driver, finish, disk } = setUp(packed, features);
    await disk.write(0, new Uint8Array(4096).fill(9));
    const id = driver.getId();
    const zeroes = driver.writeZeroes([{ sector: 1, sectors: 2 }]);
    const beyond = driver.read(4096, 512);
    const unknown = driver.raw(99);
    await finish();
    expect(new TextDecoder().decode(id.data())).toBe('A'.repeat(20));
    expect([id.status, zeroes.status, beyond.status, unknown.status]).toEqual([0, 0, 1, 2]);
    expect((await disk.read(0, 2048)).filter((byte) => byte === 9).length).toBe(1024);
    expect(beyond.usedLength).toBe(1);
  });

  it('what is added and notified of while I/O is in flight is not lost', async () => {
    const { driver, finish, blk } = setUp(packed, features, true);
    const requests = [];
    for (let i = 0; i < 8; i++) {
      requests.push(driver.write(i * 8, new Uint8Array(512).fill(i + 1)));
      if (driver.publish()) blk.queues.notify(0);
      await turn();
      driver.poll();
    }
    await finish();
    expect(requests.map(({ status }) => status)).toEqual(requests.map(() => 0));
  });

  it('nothing is written to it after a reset, though I/O was in flight', async () => {
    const { driver, backend, blk, buffer } = setUp(packed, features, true);
    driver.read(0, 4096);
    driver.publish();
    blk.queues.notify(0);
    const before = new Uint8Array(buffer).slice();
    const reset = blk.queues.reset(0);
    backend.releaseAll();
    await reset;
    for (let turns = 0; turns < 10; turns++) await turn();
    expect(Buffer.compare(new Uint8Array(buffer), before)).toBe(0);
  });
});

it('an indirect table after direct descriptors is copied too (2.7.5.3.2)', async () => {
  const { driver, finish } = setUp(false, { indirect: true });
  const write = driver.write(4, new Uint8Array(1024).fill(3), indirectFraming(plainFraming, 1));
  await finish();
  const read = driver.read(4, 1024, indirectFraming(plainFraming, 1));
  await finish();
  expect([write.status, read.status]).toEqual([0, 0]);
  expect(read.data()).toEqual(new Uint8Array(1024).fill(3));
});

it('a chain that breaks a rule breaks the queue, with the guest as it was', async () => {
  const { driver, blk, finish } = setUp(false, {});
  driver.raw(0, { in: 512, alter: (chain) => chain.toReversed() });
  await finish();
  expect(blk.queues.state(0)).toBe('broken');
});

it('memory that a thread shares is refused, and so is IN_ORDER', () => {
  const disk = new Disk(new MemoryBackend({ sizeBytes: MIB }), { bufferBytes: 65_536 });
  disks.push(disk);
  const shared = new Uint8Array(new SharedArrayBuffer(MIB));
  expect(() => createVirtioBlk(disk, { guest: shared })).toThrow(/cannot be copied/);
  const guest = new ArrayBuffer(MIB);
  expect(() => createVirtioBlk(disk, { guest, features: { inOrder: true } })).toThrow(/IN_ORDER/);
});

it('memory that was transferred away breaks the device, and is told', async () => {
  const { buffer, blk, driver, failures } = setUp(false, {});
  driver.read(0, 512);
  driver.publish();
  structuredClone(buffer, { transfer: [buffer] });
  blk.queues.notify(0);
  expect(failures).toEqual([expect.stringMatching(/detached/)]);
  blk.queues.notify(0);
  expect(failures).toHaveLength(1);
  await blk.close();
});
