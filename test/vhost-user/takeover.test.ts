/** A server of qcow2 that was killed may have taken completed writes along: no flush hides it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';

import { VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK } from '../../src/abi/virtio-blk.ts';
import type { Disk } from '../../src/disk.ts';
import { image, openDisk } from '../../src/node.ts';
import { OFFERED_PROTOCOL, PROTOCOL } from '../../src/vhost-user/protocol.ts';
import { serveVhostUser } from '../../src/vhost-user/server.ts';
import { bytesOf, GuestFile, patiently, TestFrontEnd } from './front-end.ts';

const RING = 16;
const PROTOCOL_FEATURES = OFFERED_PROTOCOL & ~PROTOCOL.STATUS;

describe('a server of qcow2', () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-takeover-'));
  const path = join(folder, 'disk.qcow2');
  afterAll(() => rmSync(folder, { recursive: true }));
  beforeEach(() => image.create(path, { format: 'qcow2', sizeBytes: 1 << 20 }));

  /** Another server of the same image, as if it were another process. */
  async function backEnd(name: string, guest: GuestFile) {
    const options = { format: 'qcow2', writable: true, lock: 'none', flushIntervalMs: 0 } as const;
    const disk: Disk = await openDisk(path, options);
    const faults: string[] = [];
    const server = await serveVhostUser(disk, { socket: join(folder, name) });
    server.on('fault', (error) => faults.push(error.message));
    const frontEnd = await TestFrontEnd.connect(join(folder, name), guest);
    await frontEnd.introduce(PROTOCOL_FEATURES);
    return { disk, server, frontEnd, faults };
  }

  async function writeOnce(how: 'killed' | 'server closed' | 'disk closed') {
    const guest = new GuestFile();
    const first = await backEnd(`${how}-first`, guest);
    const shape = bytesOf([64, 0], [64, 0], [16, 1], [16, RING]);
    const { payload, fds } = await first.frontEnd.ask('GET_INFLIGHT_FD', shape);
    const record = new Uint8Array(payload.buffer);
    // QEMU sends it back at once.
    first.frontEnd.send('SET_INFLIGHT_FD', record, fds[0]);
    first.frontEnd.showMemory();
    const driver = first.frontEnd.newDriver(RING);
    first.frontEnd.start(driver);
    const write = driver.write(0, new Uint8Array(512).fill(7));
    driver.publish();
    first.frontEnd.ring();
    await patiently(() => (driver.poll().length > 0 ? true : undefined));
    expect([write.status, first.faults]).toEqual([VIRTIO_BLK_S_OK, []]);
    if (how === 'server closed') await first.server.close();
    if (how !== 'killed') {
      await first.disk.close();
      expect(first.faults).toEqual([]);
    }

    const second = await backEnd(`${how}-second`, guest);
    second.frontEnd.send('SET_INFLIGHT_FD', record, fds[0]);
    second.frontEnd.showMemory();
    second.frontEnd.start(driver, 0, 1);
    const flush = driver.flush();
    driver.publish();
    second.frontEnd.ring();
    await patiently(() => (driver.poll().length > 0 ? true : undefined));
    return { first, second, flush };
  }

  it('that was killed leaves a disk that cannot be flushed, and says why', async () => {
    const { first, second, flush } = await writeOnce('killed');
    expect(flush.status).toBe(VIRTIO_BLK_S_IOERR);
    expect(second.faults[0]).toMatch(/the last server was killed/);
    await expect(second.disk.close()).rejects.toMatchObject({ code: 'ERR_SLUICE_FLUSH_LATCHED' });
    await first.disk.close();
  });

  it.each(['server closed', 'disk closed'] as const)(
    'that has ended leaves one that can: %s',
    async (how) => {
      const { first, second, flush } = await writeOnce(how);
      expect([flush.status, second.faults]).toEqual([VIRTIO_BLK_S_OK, []]);
      const read = new Uint8Array(512);
      await second.disk.read(0, read);
      expect(read).toEqual(new Uint8Array(512).fill(7));
      await second.disk.close();
      first.frontEnd.leave();
    },
  );
});
