// An NBD client stays connected while the disk moves to another memory, and while that grows.

import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import { footprintBytes } from '../../src/place.ts';
import { request, type TestClient } from './client.ts';
import { serveOn, settle } from './serving.ts';

const MIB = 1 << 20;
const PAGE = 65_536;
const READ = 0;
const WRITE = 1;
/** Some go by way of the staging buffer, some straight between socket and arena. */
const LENGTHS = [512, 4096, 70_000, MIB];

async function roundTrips(client: TestClient): Promise<void> {
  for (const length of LENGTHS) {
    const data = randomBytes(length);
    expect((await client.ask({ type: WRITE, offset: 4096, data })).error).toBe(0);
    const back = await client.ask({ type: READ, offset: 4096, length });
    expect(back.data.equals(data)).toBe(true);
  }
}

describe('an NBD client', () => {
  for (const shared of [false, true]) {
    it(`is served before, after and meanwhile, ${shared ? 'shared' : 'unshared'}`, async () => {
      const arenaBytes = 8 * MIB;
      const disk = new Disk(new MemoryBackend({ sizeBytes: 4 * MIB }), { bufferBytes: arenaBytes });
      await using serving = await serveOn(disk.device);
      await using client = await serving.go();
      await roundTrips(client);

      const initial = Math.ceil(footprintBytes({ virtqueues: 1, arenaBytes }) / PAGE);
      const memory = new WebAssembly.Memory({ initial, maximum: 2 * initial, shared });
      disk.device.moveTo({ memory, virtqueues: 1, arenaBytes });
      await roundTrips(client);

      const data = randomBytes(MIB);
      const sent = request({ type: WRITE, offset: MIB, data });
      client.send(sent.subarray(0, 500_000));
      await settle();
      expect(() => disk.device.moveTo({ memory, arenaBytes })).toThrow(
        expect.objectContaining({ code: 'ERR_SLUICE_BUSY' }),
      );
      memory.grow(1);
      client.send(sent.subarray(500_000));
      expect((await client.reply()).error).toBe(0);
      memory.grow(1);
      const back = await client.ask({ type: READ, offset: MIB, length: MIB });
      expect(back.data.equals(data)).toBe(true);
      expect(Buffer.compare(await disk.read(MIB, MIB), data)).toBe(0);
      await roundTrips(client);
    });
  }
});
