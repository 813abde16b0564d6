/** What a front-end may say, and what the back-end makes of it. */
import { mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';

import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import { OFFERED_PROTOCOL, PROTOCOL } from '../../src/vhost-user/protocol.ts';
import { serveVhostUser, type VhostUserServer } from '../../src/vhost-user/server.ts';
import { bytesOf, patiently, RAM_BYTES, RAM_START, TestFrontEnd, USER_START } from './front-end.ts';

const DISK_BYTES = 1 << 20;
const SECTOR = 512;
const ALL = OFFERED_PROTOCOL & ~PROTOCOL.STATUS;

describe('vhost-user', () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-vhost-'));
  const path = join(folder, 'socket');
  const faults: Error[] = [];
  let backend: MemoryBackend;
  let disk: Disk;
  let server: VhostUserServer;
  let frontEnd: TestFrontEnd;
  beforeEach(async () => {
    faults.length = 0;
    backend = new MemoryBackend({ sizeBytes: DISK_BYTES });
    disk = new Disk(backend, {});
    server = await serveVhostUser(disk, { socket: path, queues: 2, serial: 'number' });
    server.on('fault', (error) => faults.push(error));
    frontEnd = await TestFrontEnd.connect(path);
  });
  afterEach(async () => {
    frontEnd.leave();
    await disk.close();
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  async function running(protocol = ALL) {
    await frontEnd.introduce(protocol);
    frontEnd.showMemory();
    const driver = frontEnd.newDriver();
    frontEnd.start(driver);
    return driver;
  }

  /** Publishes what the driver has, and waits for all of it. */
  async function done(driver: ReturnType<TestFrontEnd['newDriver']>, count: number) {
    driver.publish();
    frontEnd.ring();
    let used = 0;
    await patiently(() => ((used += driver.poll().length) >= count ? true : undefined));
  }

  it('moves data where the guest has it, and rings', async () => {
    const driver = await running();
    const write = driver.write(8, new Uint8Array(SECTOR).fill(7));
    const flush = driver.flush();
    await done(driver, 2);
    await frontEnd.rung();
    const read = driver.read(8, SECTOR);
    await done(driver, 1);
    expect([write.status, flush.status, read.status]).toEqual([0, 0, 0]);
    expect(read.data()).toEqual(new Uint8Array(SECTOR).fill(7));
    expect(backend.volatile[8 * SECTOR]).toBe(7);
    expect(faults).toEqual([]);
  });

  it('offers what it has, and tells of the disk', async () => {
    const { offeredProtocol } = await frontEnd.introduce(ALL);
    expect(offeredProtocol).toBe(OFFERED_PROTOCOL);
    expect(await frontEnd.u64('GET_QUEUE_NUM')).toBe(2n);
    expect(await frontEnd.u64('GET_MAX_MEM_SLOTS')).toBe(127n);
    const head = bytesOf([32, 0], [32, 60], [32, 0]);
    const { payload } = await frontEnd.ask('GET_CONFIG', Buffer.concat([head, Buffer.alloc(60)]));
    expect(payload.getBigUint64(12, true)).toBe(BigInt(DISK_BYTES / SECTOR));
    const past = bytesOf([32, 200], [32, 100], [32, 0]);
    expect((await frontEnd.ask('GET_CONFIG', past)).payload.byteLength).toBe(0);
  });

  it('stops a ring where it is, and goes on from there', async () => {
    const driver = await running();
    for (let round = 0; round < 3; round++) {
      const read = driver.read(round, SECTOR);
      await done(driver, 1);
      const { payload } = await frontEnd.ask('GET_VRING_BASE', bytesOf([32, 0], [32, 0]));
      expect([payload.getUint32(0, true), payload.getUint32(4, true)]).toEqual([0, round + 1]);
      expect(read.status).toBe(0);
      frontEnd.start(driver, 0, round + 1);
    }
    expect(faults).toEqual([]);
  });

  it('takes memory away only when it is out of use, and takes new memory', async () => {
    const driver = await running();
    const slot = Buffer.concat([bytesOf([64, 0]), frontEnd.guest.region()]);
    // A ring lies in it.
    expect(await frontEnd.acknowledged('REM_MEM_REG', slot)).toBe(1n);
    await frontEnd.ask('GET_VRING_BASE', bytesOf([32, 0], [32, 0]));
    expect(await frontEnd.acknowledged('REM_MEM_REG', slot)).toBe(0n);
    expect(await frontEnd.acknowledged('REM_MEM_REG', slot)).toBe(1n);
    frontEnd.start(driver);
    expect(await frontEnd.acknowledged('ADD_MEM_REG', slot, frontEnd.guest.fd)).toBe(0n);
    const read = driver.read(0, SECTOR);
    await done(driver, 1);
    expect(read.status).toBe(0);
  });

  it('shows memory anew while a ring runs', async () => {
    const driver = await running();
    frontEnd.showMemory();
    const write = driver.write(1, new Uint8Array(SECTOR).fill(3));
    await done(driver, 1);
    expect([write.status, backend.volatile[SECTOR]]).toEqual([0, 3]);
  });

  it('turns the write cache off when the guest says so', async () => {
    const driver = await running();
    const payload = Buffer.concat([bytesOf([32, 32], [32, 1], [32, 0]), Buffer.of(0)]);
    expect(await frontEnd.acknowledged('SET_CONFIG', payload)).toBe(0n);
    const write = driver.write(2, new Uint8Array(SECTOR).fill(5));
    await done(driver, 1);
    backend.cutPower();
    expect([write.status, backend.volatile[2 * SECTOR]]).toEqual([0, 5]);
  });

  it('follows a front-end that says the status itself', async () => {
    await frontEnd.introduce(OFFERED_PROTOCOL);
    frontEnd.showMemory();
    const driver = frontEnd.newDriver();
    const read = driver.read(0, SECTOR);
    driver.publish();
    frontEnd.start(driver);
    for (const status of [1, 3, 11]) frontEnd.send('SET_STATUS', bytesOf([64, status]));
    expect(await frontEnd.u64('GET_STATUS')).toBe(11n);
    // Nothing is taken before DRIVER_OK.
    expect(driver.poll().length).toBe(0);
    frontEnd.send('SET_STATUS', bytesOf([64, 15]));
    await patiently(() => (driver.poll().length > 0 ? true : undefined));
    expect(read.status).toBe(0);
    frontEnd.send('SET_STATUS', bytesOf([64, 0]));
    expect(await frontEnd.u64('GET_STATUS')).toBe(0n);
  });

  it('tells of a broken ring, and serves the other one', async () => {
    const driver = await running();
    driver.read(0, SECTOR);
    driver.publish();
    const { driver: avail } = driver.queue.config();
    frontEnd.guest.ram.write(avail + 4n, Uint8Array.of(0xe7, 3));
    frontEnd.ring();
    await frontEnd.rung(frontEnd.error);
    expect(String(faults[0])).toMatch(/has broken queue 0/);
    const other = frontEnd.newDriver();
    frontEnd.start(other, 1);
    const read = other.read(0, SECTOR);
    await done(other, 1);
    expect(read.status).toBe(0);
  });

  it('serves the next front-end when the last one has gone', async () => {
    await running();
    frontEnd.leave();
    frontEnd = await TestFrontEnd.connect(path);
    const driver = await running();
    const read = driver.read(0, SECTOR);
    await done(driver, 1);
    expect([read.status, faults]).toEqual([0, []]);
  });

  const region = (...fields: bigint[]): Uint8Array =>
    bytesOf([64, 0], ...fields.map((field) => [64, field] as const));
  const HOSTILE: [string, (end: TestFrontEnd) => unknown][] = [
    ['a version of its own', (end) => end.sendBytes(bytesOf([32, 1], [32, 2], [32, 0]))],
    ['a reply', (end) => end.sendBytes(bytesOf([32, 1], [32, 5], [32, 0]))],
    ['4 GiB of payload', (end) => end.sendBytes(bytesOf([32, 1], [32, 1], [32, 0xffff_ffff]))],
    ['too little payload', (end) => end.send('SET_VRING_NUM', bytesOf([32, 0]))],
    ['a request that is none', (end) => end.send(999)],
    ['a ring that is not there', (end) => end.send('SET_VRING_NUM', bytesOf([32, 2], [32, 16]))],
    ['the kick of a ring that is not there', (end) => end.send('SET_VRING_KICK', bytesOf([64, 9]))],
    ['a kick without a descriptor', (end) => end.send('SET_VRING_KICK', bytesOf([64, 0]))],
    [
      'a file that rings',
      (end) => end.send('SET_VRING_KICK', bytesOf([64, 0]), openSync('/etc/hostname', 'r')),
    ],
    ['a ring to be polled', (end) => end.send('SET_VRING_KICK', bytesOf([64, 0x100]))],
    ['memory without a descriptor', (end) => end.send('SET_MEM_TABLE', bytesOf([32, 1], [32, 0]))],
    ['a table that is cut', (end) => end.send('SET_MEM_TABLE', bytesOf([32, 3], [32, 0]))],
    [
      'more memory than its file has',
      (end) => end.send('ADD_MEM_REG', region(RAM_START, 1n << 30n, 0n, 0n), end.guest.fd),
    ],
    [
      'memory past the end of addresses',
      (end) => end.send('ADD_MEM_REG', region(2n ** 64n - 4096n, 8192n, 0n, 0n), end.guest.fd),
    ],
    [
      'memory at an offset that wraps',
      (end) => end.send('ADD_MEM_REG', region(0n, 4096n, 0n, 2n ** 64n - 1n), end.guest.fd),
    ],
    [
      'memory twice',
      (end) => {
        const once = region(RAM_START, BigInt(RAM_BYTES), USER_START, 0n);
        end.send('ADD_MEM_REG', once, end.guest.fd);
        end.send('ADD_MEM_REG', once, end.guest.fd);
      },
    ],
    ['no socket for requests', (end) => end.send('SET_BACKEND_REQ_FD', undefined, end.kick)],
    [
      'a record of 70,000 rings',
      (end) =>
        end.send(
          'SET_INFLIGHT_FD',
          bytesOf([64, 64], [64, 0], [16, 65_535], [16, 65_535]),
          end.guest.fd,
        ),
    ],
    [
      'features that cannot be',
      (end) => {
        end.send('SET_FEATURES', bytesOf([64, (1n << 63n) | (1n << 32n)]));
        end.showMemory();
        end.start(end.newDriver());
      },
    ],
    [
      'a ring of 100 entries',
      (end) => {
        const driver = end.newDriver();
        end.showMemory();
        end.start(driver);
        end.send('GET_VRING_BASE', bytesOf([32, 0], [32, 0]));
        end.start({ queue: { config: () => ({ ...driver.queue.config(), size: 100 }) } } as never);
      },
    ],
  ];
  it.each(HOSTILE)('refuses %s, and serves the next front-end', async (_name, attack) => {
    await frontEnd.introduce(ALL);
    attack(frontEnd);
    while (!(await frontEnd.isClosed())) {
      // Answers to what came before.
    }
    expect(faults.length).toBeGreaterThan(0);
    frontEnd.leave();
    frontEnd = await TestFrontEnd.connect(path);
    const driver = await running();
    const read = driver.read(0, SECTOR);
    await done(driver, 1);
    expect(read.status).toBe(0);
  });

  it('outlives front-ends that leave in the middle of a message', async () => {
    for (let length = 1; length < 12; length++) {
      frontEnd.sendBytes(bytesOf([32, 5], [32, 1], [32, 8]).subarray(0, length), frontEnd.kick);
      frontEnd.leave();
      frontEnd = await TestFrontEnd.connect(path);
    }
    expect(await frontEnd.u64('GET_QUEUE_NUM')).toBe(2n);
  });
});
