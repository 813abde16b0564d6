/** Metadata contexts of real images: what they say, what is refused, and what qemu-nbd says. */

import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DirtyBits } from '../../src/image/qcow2/dirty-bits.ts';
import { type NbdServerOptions, openDisk, serveNbd } from '../../src/node.ts';
import { describeWithPeers } from '../support/peers.ts';
import { bytes, contextData, option, type Reply, request, TestClient } from './client.ts';
import { qemuNbd } from './peer-servers.ts';
import { BLOCK_STATUS, EINVAL, REQ_ONE } from './wire.ts';

const run = promisify(execFile);
const MIB = 2 ** 20;
const NAMES = [
  'base:allocation',
  'qemu:allocation-depth',
  'qemu:dirty-bitmap:b0',
  'qemu:dirty-bitmap:b1',
  'qemu:dirty-bitmap:off',
];

describe('the bits of a bitmap', () => {
  const bits = Uint8Array.of(0b0000_0110, 0, 0xff, 0x80);
  // Clusters of 4 bytes stand for 32 granules of 512 bytes each.
  const map = new DirtyBits(512, 4, [false, bits, true, true, false]);
  const SPAN = 32 * 512;

  it('are found at every place, and none are behind them', () => {
    for (let granule = 0; granule < 6 * 32; granule++) {
      const cluster = Math.floor(granule / 32);
      const bit = ((bits[(granule % 32) >> 3] ?? 0) >> (granule % 8)) & 1;
      const dirty = cluster === 1 ? bit === 1 : cluster === 2 || cluster === 3;
      expect(map.isDirty(granule * 512 + (granule % 512))).toBe(dirty);
    }
  });

  it('are told in runs that end where they change, or where they are asked to', () => {
    const runs: number[] = [];
    for (let at = 0; at < 7 * SPAN; at = map.runEnd(at, 7 * SPAN)) runs.push(at / 512);
    expect(runs).toEqual([0, 32, 33, 35, 48, 56, 63, 64, 128, 160]);
    expect(map.runEnd(700, 701)).toBe(701);
    expect(map.runEnd(2 * SPAN + 1, 2 ** 50)).toBe(4 * SPAN);
  });

  it('are looked at a part at a time', () => {
    const large = new DirtyBits(512, 65_536, [new Uint8Array(65_536)]);
    const end = large.runEnd(5 * 512, 2 ** 40);
    expect(end).toBe((5 + 4096 * 8) * 512);
  });
});

describeWithPeers(
  ['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo'],
  'contexts of a chain with bitmaps',
  () => {
    let folder: string;
    let top: string;
    const at = (name: string): string => join(folder, name);
    const img = (...args: string[]) => run('qemu-img', args);
    const io = (image: string, ...commands: string[]) =>
      run('qemu-io', [...commands.flatMap((command) => ['-c', command]), image]);

    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'sluice-contexts-'));
      top = at('top.qcow2');
      const [base, mid] = [at('base.img'), at('mid.qcow2')];
      await img('create', '-q', '-f', 'raw', base, '3M');
      await img('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', mid, '8M');
      await io(mid, 'write -P 2 128k 128k', 'write -z 1M 128k');
      await img('bitmap', '--add', mid, 'below');
      await io(mid, 'write -P 2 3M 64k');
      await img('create', '-q', '-f', 'qcow2', '-b', mid, '-F', 'qcow2', top, '16M');
      await img('bitmap', '--add', '-g', '64k', top, 'b0');
      await io(top, 'write -P 3 256k 64k', 'write -z 2M 64k', 'write -P 4 12M 192k');
      await img('bitmap', '--add', '-g', '128k', top, 'b1');
      await io(top, 'write -P 5 4M 64k', 'write -P 6 16320k 64k');
      await img('bitmap', '--add', '--disable', top, 'off');
      await img('bitmap', '--merge', 'b1', top, 'off');
    }, 60_000);

    afterAll(() => rm(folder, { recursive: true, force: true }));

    const open = (writable: boolean) =>
      openDisk(top, { format: 'qcow2', backing: { folders: [folder] }, writable });

    /** Serves it for one client, which has selected what it is told to. */
    async function served(
      options: NbdServerOptions,
      work: (client: TestClient) => Promise<void>,
      names = NAMES,
      headers = 11,
    ): Promise<void> {
      await using disk = await open(false);
      const socket = at('socket');
      await using server = await serveNbd(disk, { socket, ...options });
      const select = option(10, contextData('', ...names));
      await using client = await TestClient.go(socket, option(headers), select);
      await work(client);
      expect(server.clients).toBe(1);
    }

    const ALL = { allocationDepth: true, bitmaps: ['b0', 'b1', 'off'] };

    it.each(['qemu:allocation-depth', 'qemu:dirty-bitmap:b0', 'qemu:dirty-bitmap:off'])(
      '%s is what qemu-nbd says',
      async (name) => {
        const bitmaps = ['b0', 'b1', 'off'].flatMap((bitmap) => ['-B', bitmap]);
        await using theirs = await qemuNbd('-r', '-f', 'qcow2', '-A', ...bitmaps, top);
        await using disk = await open(false);
        await using ours = await serveNbd(disk, { socket: at('socket'), ...ALL });
        const [expected, found] = await Promise.all(
          [theirs, ours].map(async ({ uri }) => {
            const { stdout } = await run('nbdinfo', [`--map=${name}`, '--json', uri]);
            return JSON.parse(stdout) as { offset: number; length: number; type: number }[];
          }),
        );
        expect(found!.length).toBeGreaterThan(2);
        expect(found).toEqual(expected);
      },
    );

    it('have the depth 0 where no image of a chain says anything, as with qemu-nbd', async () => {
      const [alone, above] = [at('alone.qcow2'), at('above.qcow2')];
      await img('create', '-q', '-f', 'qcow2', alone, '4M');
      await io(alone, 'write -P 1 1M 64k', 'write -z 2M 64k');
      await img('create', '-q', '-f', 'qcow2', '-b', alone, '-F', 'qcow2', above, '8M');
      await io(above, 'write -P 2 0 64k');
      for (const image of [alone, above]) {
        await using theirs = await qemuNbd('-r', '-f', 'qcow2', '-A', image);
        const backing = { folders: [folder] };
        await using disk = await openDisk(image, { format: 'qcow2', backing });
        const socket = at('socket');
        await using ours = await serveNbd(disk, { socket, allocationDepth: true });
        const [expected, found] = await Promise.all(
          [theirs, ours].map(async ({ uri }) => {
            return (await run('nbdinfo', ['--map=qemu:allocation-depth', uri])).stdout;
          }),
        );
        expect(found).toBe(expected);
        expect(found).toMatch(/ 0 +absent/);
      }
    });

    it('are answered in one chunk each, in both shapes', async () => {
      for (const headers of [8, 11]) {
        const extended = headers === 11;
        await served(
          ALL,
          async (client) => {
            client.send(request({ type: BLOCK_STATUS, length: 16 * MIB, extended }));
            const chunks = await client.chunks();
            expect(chunks.map(({ type, flags }) => [type, flags])).toEqual(
              [0, 0, 0, 0, 1].map((done) => [extended ? 6 : 5, done]),
            );
            expect(chunks.map(({ data }) => data.readUInt32BE())).toEqual([1, 2, 3, 4, 5]);
            // The image tells what it knows; then its backing file is to be asked.
            const sums = chunks.map((chunk) => sum(chunk, extended));
            expect(sums).toEqual([262_144, 262_144, 16 * MIB, 16 * MIB, 16 * MIB]);
            client.send(request({ type: BLOCK_STATUS, length: MIB, flags: REQ_ONE, extended }));
            for (const { data } of await client.chunks()) {
              expect(data).toHaveLength(extended ? 24 : 12);
            }
          },
          NAMES,
          headers,
        );
      }
    });

    it('of bitmaps alone are answered without the disk', async () => {
      await served(
        ALL,
        async (client) => {
          const ask = { type: BLOCK_STATUS, offset: 16_320 * 1024, extended: true };
          const reply = await client.ask({ ...ask, length: 65_536 });
          expect(reply.data).toEqual(bytes([4, 4], [4, 1], [8, 65_536], [8, 1]));
          expect((await client.ask({ ...ask, length: 65_537 })).error).toBe(EINVAL);
        },
        ['qemu:dirty-bitmap:b1'],
      );
    });

    it('are found in backing files, and are clean behind the end of theirs', async () => {
      await served(
        { bitmaps: ['below'] },
        async (client) => {
          const reply = await client.ask({ type: BLOCK_STATUS, length: 16 * MIB, extended: true });
          const extents = [3 * MIB, 0, 65_536, 1, 13 * MIB - 65_536, 0];
          const said = extents.map((value) => [8, value] as const);
          expect(reply.data).toEqual(bytes([4, 2], [4, 3], ...said));
        },
        ['qemu:dirty-bitmap:below'],
      );
    });

    it('stay together when a thousand replies are not read', async () => {
      await served(ALL, async (client) => {
        const count = 1000;
        const one = request({ type: BLOCK_STATUS, length: 16 * MIB, extended: true });
        client.send(...Array.from({ length: count }, () => one));
        for (let seen = 0; seen < count; seen++) {
          const chunks = await client.chunks();
          expect(chunks.map(({ data }) => data.readUInt32BE())).toEqual([1, 2, 3, 4, 5]);
        }
      });
    });

    it('of a disk that is written are those that do not record it', async () => {
      await using disk = await open(true);
      const socket = at('socket');
      await expect(serveNbd(disk, { socket, bitmaps: ['off', 'b0'] })).rejects.toMatchObject({
        code: 'ERR_SLUICE_UNSUPPORTED',
        message: expect.stringContaining('open the disk read-only, or disable it') as string,
      });
      await using server = await serveNbd(disk, { socket, bitmaps: ['off', 'below'] });
      expect(server.clients).toBe(0);
    });

    it('that are not there, or asked for wrongly, are refused at the start', async () => {
      await using disk = await open(false);
      const serve = (bitmaps: unknown) => serveNbd(disk, { bitmaps: bitmaps as string[] });
      await expect(serve(['nope'])).rejects.toThrow('the disk has no bitmap "nope"');
      await expect(serve(['b0', 'b0'])).rejects.toThrow('bitmaps has "b0" twice');
      await expect(serve('b0')).rejects.toThrow('bitmaps must be an array of names');
      const many = Array.from({ length: 31 }, (_, index) => `b${index}`);
      await expect(serve(many)).rejects.toThrow('bitmaps may be at most 30, not 31');
    });

    it('that nobody closed are refused', async () => {
      const image = at('open.qcow2');
      await img('create', '-q', '-f', 'qcow2', image, '1M');
      await img('bitmap', '--add', image, 'b');
      const copy = at('copy.qcow2');
      await using disk = await openDisk(image, { format: 'qcow2', writable: true });
      await run('cp', [image, copy]);
      expect(disk.size).toBe(MIB);
      await using stale = await openDisk(copy, { format: 'qcow2' });
      await expect(serveNbd(stale, { bitmaps: ['b'] })).rejects.toMatchObject({
        code: 'ERR_SLUICE_CORRUPT',
        message: expect.stringContaining('its bitmap "b" is out of date; remove it') as string,
      });
    });

    it('of a raw disk are its allocation alone', async () => {
      const image = at('disk.img');
      await img('create', '-q', '-f', 'raw', image, '1M');
      await using disk = await openDisk(image, { format: 'raw' });
      await expect(serveNbd(disk, { bitmaps: ['b'] })).rejects.toThrow('no other has any');
    });
  },
);

/** The bytes that the extents of a chunk are for. */
function sum({ data }: Reply, extended: boolean): number {
  let bytes = 0;
  if (extended) expect(data.readUInt32BE(4)).toBe((data.length - 8) / 16);
  for (let at = extended ? 8 : 4; at < data.length; at += extended ? 16 : 8) {
    bytes += extended ? Number(data.readBigUInt64BE(at)) : data.readUInt32BE(at);
  }
  return bytes;
}
