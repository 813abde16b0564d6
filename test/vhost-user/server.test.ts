/** A server from outside: what it refuses, whom it serves, and what it tells of. */
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmSync,
  truncateSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';

import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import { serveNbd, serveVhostUser, type VhostUserServer } from '../../src/node.ts';
import { NbdClient } from '../../src/nbd/client/client.ts';
import { OFFERED_PROTOCOL, PROTOCOL } from '../../src/vhost-user/protocol.ts';
import { bytesOf, patiently, RAM_START, TestFrontEnd, USER_START } from './front-end.ts';

const ALL = OFFERED_PROTOCOL & ~PROTOCOL.STATUS;
const folder = mkdtempSync(join(tmpdir(), 'sluice-server-'));
const path = join(folder, 'socket');
const INVALID = 'ERR_SLUICE_INVALID_ARGUMENT';
let disk: Disk;
beforeEach(() => {
  disk = new Disk(new MemoryBackend({ sizeBytes: 1 << 20 }), {});
});
afterEach(() => disk.close());
afterAll(() => rmSync(folder, { recursive: true }));

describe('serving', () => {
  it.each([{}, undefined, 'disk.img', Promise.resolve()])(
    'is of a disk, not of %j',
    async (value) => {
      const none = value as never;
      const refusal = { code: INVALID, message: expect.stringMatching(/ needs a Disk, .* not /) };
      await expect(serveVhostUser(none, { socket: path })).rejects.toMatchObject(refusal);
      await expect(serveNbd(none, { socket: path })).rejects.toMatchObject(refusal);
    },
  );

  it('is at a path that a socket can have', async () => {
    for (const socket of ['', 'a\0b', `/${'x'.repeat(107)}`]) {
      const refusal = { code: INVALID, message: expect.stringMatching(/^socket must be a path/) };
      await expect(serveVhostUser(disk, { socket })).rejects.toMatchObject(refusal);
      await expect(serveNbd(disk, { socket })).rejects.toMatchObject(refusal);
    }
  });

  it('ends when the disk is closed while it begins', async () => {
    const serving = serveVhostUser(disk, { socket: path });
    await disk.close();
    await (
      await serving
    ).closed;
  });

  it('is of a disk that is served over NBD, too', async () => {
    const own = new Disk(new MemoryBackend({ sizeBytes: 1 << 20 }));
    await using nbd = await serveNbd(own, { socket: join(folder, 'nbd') });
    await using _server = await serveVhostUser(own, { socket: path });
    await using client = await NbdClient.connect(nbd.uri);
    await client.write(4096, new Uint8Array(512).fill(9));
    const frontEnd = await TestFrontEnd.connect(path);
    await frontEnd.introduce(ALL);
    frontEnd.showMemory();
    const driver = frontEnd.newDriver();
    frontEnd.start(driver);
    const read = driver.read(8, 512);
    driver.publish();
    frontEnd.ring();
    await patiently(() => (driver.poll().length > 0 ? true : undefined));
    expect(read.data()).toEqual(new Uint8Array(512).fill(9));
    frontEnd.leave();
  });

  it('of a disk with small buffers says that NBD comes first', async () => {
    await using _server = await serveVhostUser(disk, { socket: path });
    const refusal = { code: INVALID, message: expect.stringContaining('serveNbd comes before') };
    await expect(serveNbd(disk, { socket: join(folder, 'nbd') })).rejects.toMatchObject(refusal);
  });

  it('has a queue for each processor of a guest', async () => {
    await using _server = await serveVhostUser(disk, { socket: path });
    const frontEnd = await TestFrontEnd.connect(path);
    expect(await frontEnd.u64('GET_QUEUE_NUM')).toBe(63n);
    frontEnd.leave();
  });
});

describe('a server', () => {
  const faults: string[] = [];
  let server: VhostUserServer;
  let waiting = 0;
  let frontEnd: TestFrontEnd;
  beforeEach(async () => {
    faults.length = 0;
    waiting = 0;
    server = await serveVhostUser(disk, { socket: path, queues: 2 });
    server.on('fault', ({ message }) => faults.push(message));
    server.on('waiting', () => (waiting += 1));
    frontEnd = await TestFrontEnd.connect(path);
    await frontEnd.introduce(ALL);
  });
  afterEach(() => frontEnd.leave());

  /** Until the server has done all that it was told. */
  const settled = (): Promise<bigint> => frontEnd.u64('GET_QUEUE_NUM');
  /** Rings, and waits until that was heard. */
  async function ring(): Promise<void> {
    frontEnd.ring();
    await new Promise((resolve) => setTimeout(resolve, 20));
    await settled();
  }

  it('tells once of a front-end that waits', { timeout: 10_000 }, async () => {
    const second = await TestFrontEnd.connect(path);
    await patiently(() => (waiting > 0 ? true : undefined));
    await new Promise((resolve) => setTimeout(resolve, 1200));
    expect([waiting, faults]).toEqual([1, []]);
    frontEnd.leave();
    expect(await second.u64('GET_QUEUE_NUM')).toBe(2n);
    frontEnd = second;
  });

  it('has places for those that wait, and none for those that have gone', async () => {
    for (let gone = 0; gone < 20; gone++) {
      const other = await TestFrontEnd.connect(path);
      other.send('GET_FEATURES');
      other.leave();
    }
    const second = await TestFrontEnd.connect(path);
    frontEnd.leave();
    expect(await second.u64('GET_QUEUE_NUM')).toBe(2n);
    expect(waiting).toBe(0);
    frontEnd = second;
  });

  it('keeps no file of a record that no ring fits', async () => {
    frontEnd.showMemory();
    frontEnd.start(frontEnd.newDriver(16));
    const asked = bytesOf([64, 0], [64, 0], [16, 1], [16, 8]);
    await expect(frontEnd.ask('GET_INFLIGHT_FD', asked)).rejects.toThrow('closed');
    frontEnd.leave();
    frontEnd = await TestFrontEnd.connect(path);
    await settled();
    expect(faults).toHaveLength(1);
    const files = readdirSync('/proc/self/fd').map((fd) => {
      // The directory itself is gone by now.
      return existsSync(`/proc/self/fd/${fd}`) ? readlinkSync(`/proc/self/fd/${fd}`) : '';
    });
    expect(files.join('\n')).not.toContain('sluice-inflight');
  });

  it('says nothing of a front-end that comes back at once', { timeout: 10_000 }, async () => {
    frontEnd.leave();
    frontEnd = await TestFrontEnd.connect(path);
    await settled();
    await new Promise((resolve) => setTimeout(resolve, 1200));
    expect(waiting).toBe(0);
  });

  it('tells once of rings in memory that is not shown', async () => {
    const driver = frontEnd.newDriver();
    frontEnd.start(driver);
    frontEnd.start(frontEnd.newDriver(), 1);
    await settled();
    expect(faults).toEqual([]);
    driver.read(0, 512);
    driver.publish();
    await ring();
    await ring();
    expect(faults).toEqual([
      expect.stringMatching(/was rung, and lies in none of the 0 regions .*: .*,share=on /),
    ]);
  });

  it('tells once of memory that stays empty when a ring is rung', async () => {
    frontEnd.showMemory();
    const driver = frontEnd.newDriver();
    // As QEMU's bells are born.
    frontEnd.ring();
    frontEnd.start(driver);
    await settled();
    expect(faults).toEqual([]);
    await ring();
    await ring();
    expect(faults).toEqual([expect.stringMatching(/holds nothing but zeroes: .*,share=on /)]);
    // It is a guess: what comes is done all the same.
    const read = driver.read(0, 512);
    driver.publish();
    frontEnd.ring();
    await patiently(() => (driver.poll().length > 0 ? true : undefined));
    expect(read.status).toBe(0);
  });

  it('does not mind an empty ring beside one that is in use', async () => {
    frontEnd.showMemory();
    const driver = frontEnd.newDriver();
    frontEnd.start(driver);
    driver.read(0, 512);
    driver.publish();
    frontEnd.start(frontEnd.newDriver(), 1);
    await ring();
    expect(faults).toEqual([]);
  });

  it('says why memory cannot be mapped', async () => {
    const file = join(folder, 'memory');
    closeSync(openSync(file, 'w'));
    truncateSync(file, 4096);
    const fd = openSync(file, 'r');
    const region = bytesOf([64, 0], [64, RAM_START], [64, 4096], [64, USER_START], [64, 0]);
    expect(await frontEnd.acknowledged('ADD_MEM_REG', region, fd)).toBe(1n);
    closeSync(fd);
    expect(faults).toEqual([expect.stringMatching(/^4096 bytes of guest memory .*share=on/)]);
  });
});
