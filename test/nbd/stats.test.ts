/** What a server counts and tells: stats(), events, and channels of node:diagnostics_channel. */

import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { STATUS_IO_ERROR, STATUS_OK } from '../../src/abi/request.ts';
import {
  type NbdClientEnd,
  type NbdServerStats,
  type NbdUnserved,
  openDisk,
} from '../../src/node.ts';
import { serveNbd } from '../../src/node.ts';
import { BurstClock } from '../../src/nbd/stats/clock.ts';
import { Counts, LATENCY_BOUNDS_SECONDS } from '../../src/nbd/stats/counts.ts';
import { Turn } from '../../src/nbd/turn.ts';
import { contextData, hex, infoData, option, request, TestClient } from './client.ts';
import { FakeDevice } from './fake-device.ts';
import { serveFake, settle, until } from './serving.ts';
import { CACHE, DISC, FLUSH, pattern, READ, TRIM, WRITE, WRITE_ZEROES } from './wire.ts';

const MIB = 2 ** 20;

/** Numbers that are not 0, by name. */
function seen(stats: NbdServerStats): Record<string, number> {
  const { commands } = stats.exports[0]!;
  const entries = Object.entries(commands).map(([name, { requests }]) => [name, requests] as const);
  return Object.fromEntries(entries.filter(([, count]) => count > 0));
}

/** Everything that a channel says while `work` runs. */
async function heard(name: string, work: () => Promise<void>): Promise<unknown[]> {
  const events: unknown[] = [];
  const listener = (event: unknown): void => void events.push(event);
  subscribe(name, listener);
  try {
    await work();
  } finally {
    unsubscribe(name, listener);
  }
  return events;
}

describe('requests', () => {
  it('are counted by command, with their bytes and errors', async () => {
    await using serving = await serveFake({ sizeBytes: MIB });
    await using client = await serving.go(option(8));
    for (let read = 0; read < 3; read++) await client.ask({ type: READ, length: 4096 });
    await client.ask({ type: READ, offset: MIB, length: 1 });
    await client.ask({ type: WRITE, data: pattern(1000) });
    await client.ask({ type: WRITE, offset: MIB, data: pattern(10) });
    await client.ask({ type: WRITE_ZEROES, length: 5000 });
    await client.ask({ type: TRIM, length: 6000 });
    await client.ask({ type: CACHE, length: 400_000 });
    await client.ask({ type: FLUSH });
    await client.ask({ type: 99 });
    serving.device.statusOf = () => STATUS_IO_ERROR;
    await client.ask({ type: FLUSH });
    const [found] = serving.server.stats().exports;
    expect(found).toMatchObject({ name: '', sizeBytes: MIB, readOnly: false, clients: 1 });
    expect(found!.commands).toEqual({
      read: { requests: 4, bytes: 3 * 4096, errors: { EINVAL: 1 } },
      write: { requests: 2, bytes: 1000, errors: { ENOSPC: 1 } },
      unknown: { requests: 1, bytes: 0, errors: { EINVAL: 1 } },
      flush: { requests: 2, bytes: 0, errors: { EIO: 1 } },
      trim: { requests: 1, bytes: 6000, errors: {} },
      cache: { requests: 1, bytes: 0, errors: {} },
      write_zeroes: { requests: 1, bytes: 5000, errors: {} },
      block_status: { requests: 0, bytes: 0, errors: {} },
    });
    for (const [name, { requests }] of Object.entries(found!.commands)) {
      const latencies = found!.latencies[name as 'read'].counts;
      expect(latencies.reduce((sum, count) => sum + count)).toBe(requests);
      expect(latencies).toHaveLength(LATENCY_BOUNDS_SECONDS.length + 1);
    }
  });

  it('are in flight until their replies are sent', async () => {
    await using serving = await serveFake({ mode: 'held' });
    await using client = await serving.go();
    for (let cookie = 0; cookie < 5; cookie++) {
      client.send(request({ type: READ, length: 4096, cookie }));
    }
    await until(() => serving.device.open === 5);
    const busy = serving.server.stats();
    expect([busy.exports[0]!.inFlight, busy.clients[0]!.inFlight]).toEqual([5, 5]);
    expect(busy.clients[0]!.heldBytes).toBe(5 * 4096);
    expect(seen(busy)).toEqual({});
    serving.device.mode = 'inline';
    serving.device.release();
    for (let reply = 0; reply < 5; reply++) await client.reply(4096);
    const idle = serving.server.stats();
    expect([idle.exports[0]!.inFlight, idle.clients[0]!.heldBytes]).toEqual([0, 0]);
    expect(seen(idle)).toEqual({ read: 5 });
  });

  it('have the time from their header to their reply, in its bucket', async () => {
    await using serving = await serveFake({ mode: 'held' });
    await using client = await serving.go();
    client.send(request({ type: FLUSH }));
    await until(() => serving.device.open === 1);
    const waitedMs = 60;
    const beganAt = performance.now();
    await settle(waitedMs);
    serving.device.mode = 'inline';
    serving.device.release();
    await client.reply();
    const mostSeconds = (performance.now() - beganAt) / 1000 + 0.05;
    const { exports, latencyBoundsSeconds } = serving.server.stats();
    const { counts, sumSeconds } = exports[0]!.latencies.flush;
    expect(sumSeconds).toBeGreaterThan(waitedMs / 1000 - 0.002);
    expect(sumSeconds).toBeLessThan(mostSeconds);
    const bucket = counts.indexOf(1);
    expect(sumSeconds).toBeLessThanOrEqual(latencyBoundsSeconds[bucket]!);
    expect(sumSeconds).toBeGreaterThan(latencyBoundsSeconds[bucket - 1]!);
  });

  it('of clients that are gone are kept, with the bytes of their sockets', async () => {
    await using serving = await serveFake();
    for (let round = 1; round <= 3; round++) {
      await using client = await serving.go();
      await client.ask({ type: WRITE, data: pattern(100) });
      client.send(request({ type: DISC }));
      await until(() => serving.server.clients === 0);
      const { exports, clients } = serving.server.stats();
      expect(clients).toEqual([]);
      expect(exports[0]).toMatchObject({ clients: 0, bytesReceived: round * (28 + 100 + 28) });
      expect(exports[0]!.bytesSent).toBe(round * 16);
      expect(exports[0]!.commands.write).toEqual({
        requests: round,
        bytes: round * 100,
        errors: {},
      });
    }
  });
});

describe('buckets of latencies', () => {
  it.each([
    [0, 0],
    [0.008, 0],
    [0.0081, 1],
    [0.016, 1],
    [1, 7],
    [16_777.216, 21],
    [16_777.3, 22],
    [1e12, 22],
  ])('%d ms belong to bucket %d', (elapsedMs, bucket) => {
    const counts = new Counts();
    counts.count(READ, 1, 0, elapsedMs);
    expect(counts.latencies(READ).indexOf(1)).toBe(bucket);
    const bound = LATENCY_BOUNDS_SECONDS[bucket] ?? Infinity;
    expect(elapsedMs / 1000).toBeLessThanOrEqual(bound);
    expect(elapsedMs / 1000).toBeGreaterThan(LATENCY_BOUNDS_SECONDS[bucket - 1] ?? -1);
  });

  it('a clock stands still until time has passed', async () => {
    const clock = new BurstClock();
    const first = clock.read();
    await settle(5);
    expect(clock.read()).toBe(first);
    clock.expire();
    expect(clock.read()).toBeGreaterThan(first + 3);
  });
});

describe('the clock of turns', () => {
  it('goes on before the device runs, and after every turn', () => {
    const pause = (): void => {
      const endMs = performance.now() + 3;
      while (performance.now() < endMs);
    };
    const times: number[] = [];
    const look = (): void => {
      times.push(turn.clock.read());
      pause();
    };
    const device = new FakeDevice();
    device.kick = look;
    const turn = new Turn(device);
    const submits = [true, false];
    const attend = (): boolean => {
      look();
      return submits.shift() === true;
    };
    turn.run({ woken: false, attend });
    turn.run({ woken: false, attend });
    look();
    expect(times).toHaveLength(4);
    for (const [index, time] of times.entries()) {
      expect(time).toBeGreaterThanOrEqual((times[index - 1] ?? 0) + 2);
    }
  });
});

describe('connections', () => {
  type Say = (client: TestClient) => Promise<void> | void;
  const UNSERVED: readonly [reason: string, detail: string, say: Say][] = [
    ['abort', '', (client) => client.send(option(2))],
    ['gone', '', (client) => client.destroy()],
    ['protocol', 'it does not speak NBD', (client) => client.send('GET / HTTP/1.1\r\n')],
    ['protocol', 'no such export', (client) => client.send(option(1, Buffer.from('none')))],
    ['protocol', 'it sent an absurd length', (client) => client.send(option(9, hex(''), 2 ** 31))],
    [
      'abort',
      'no such export',
      async (client) => {
        await client.types(7, infoData('none'));
        client.send(option(2));
      },
    ],
    ['abort', '', async (client) => client.types(77).then(() => client.send(option(2)))],
  ];

  it.each(UNSERVED)('that end before transmission: %s %s', async (reason, detail, say) => {
    await using serving = await serveFake();
    const ends: NbdUnserved[] = [];
    serving.server.on('unserved', (end) => ends.push(end));
    const events = await heard('sluice:nbd:unserved', async () => {
      await using client = await serving.connect();
      await client.hello();
      await say(client);
      await until(() => ends.length > 0);
    });
    const end = { server: serving.server.uri, id: 1, address: '', reason, detail };
    expect(ends).toEqual([end]);
    expect(events).toEqual([end]);
    const { accepted, unserved, ended, negotiating } = serving.server.stats().connections;
    expect({ accepted, unserved, ended, negotiating }).toEqual({
      accepted: 1,
      unserved: { [reason]: 1 },
      ended: {},
      negotiating: 0,
    });
  });

  it('that are too slow, or come when too many wait, end with that reason', async () => {
    await using serving = await serveFake({}, { handshakeTimeoutMs: 200, maxClients: 1 });
    await using first = await serving.go();
    const second = await serving.connect();
    await second.hello();
    second.send(option(7, infoData()));
    await until(() => serving.server.stats().connections.waiting === 1);
    expect(serving.server.stats().connections).toMatchObject({ serving: 1, limit: 1 });
    await second.rest();
    await until(() => serving.server.stats().connections.unserved.timeout === 1);
    expect((await first.ask({ type: FLUSH })).error).toBe(0);
  });

  const ENDED: readonly [reason: string, say: Say][] = [
    ['disconnect', (client) => client.send(request({ type: DISC }))],
    ['gone', (client) => client.destroy()],
    ['protocol', (client) => client.send(request({ type: READ, magic: 1 }))],
  ];

  it.each(ENDED)('that end after it began: %s', async (reason, say) => {
    await using serving = await serveFake();
    const ends: NbdClientEnd[] = [];
    serving.server.on('disconnect', (_, end) => ends.push(end));
    await using client = await serving.go();
    await client.ask({ type: READ, length: 10 });
    await client.ask({ type: 99 });
    await say(client);
    await until(() => ends.length > 0);
    expect(ends).toEqual([
      {
        reason,
        seconds: expect.closeTo(0, 0) as number,
        requests: 2,
        errors: 1,
        bytesReceived: reason === 'gone' ? 56 : 84,
        bytesSent: 16 + 10 + 16,
      },
    ]);
    expect(serving.server.stats().connections).toMatchObject({
      ended: { [reason]: 1 },
      serving: 0,
    });
  });

  it('that the server ends are told from those', async () => {
    await using serving = await serveFake();
    await using _client = await serving.go();
    await using _waiting = await serving.connect();
    await until(() => serving.server.stats().connections.negotiating === 1);
    await serving.server.close();
    expect(serving.server.stats().connections).toMatchObject({
      ended: { shutdown: 1 },
      unserved: { shutdown: 1 },
    });
  });

  it('in transmission say what they have negotiated, also where they come from', async () => {
    await using serving = await serveFake({}, { name: 'x', readOnly: true });
    const told: unknown[] = [];
    serving.server.on('connect', (client) => told.push(client));
    const context = option(10, contextData('x', 'base:allocation'));
    await using _client = await serving.go(option(8), context);
    const info = {
      server: serving.server.uri,
      id: 1,
      address: '',
      tls: false,
      export: 'x',
      readOnly: true,
      structuredReplies: true,
      extendedHeaders: false,
      contexts: ['base:allocation'],
    };
    expect(told).toEqual([info]);
    expect(serving.server.stats().clients).toEqual([expect.objectContaining(info)]);
  });
});

describe('channels', () => {
  it('tell each request and each error to those who listen, and never data', async () => {
    await using serving = await serveFake();
    await using client = await serving.go();
    const work = async (): Promise<void> => {
      await client.ask({ type: WRITE, offset: 512, flags: 1, data: pattern(100) });
      await client.ask({ type: READ, offset: 2 ** 40, length: 100 });
    };
    const info = serving.server.stats().clients[0]!;
    const who = expect.objectContaining({ id: info.id, export: '' }) as unknown;
    const seconds = expect.any(Number) as unknown;
    const write = { client: who, command: 'write', type: 1, flags: 1, offset: 512, length: 100 };
    const read = { client: who, command: 'read', type: 0, flags: 0, offset: 2 ** 40, length: 100 };
    expect(await heard('sluice:nbd:request', work)).toEqual([
      { ...write, error: undefined, seconds },
      { ...read, error: 'EINVAL', seconds },
    ]);
    expect(await heard('sluice:nbd:error', work)).toEqual([{ ...read, error: 'EINVAL', seconds }]);
  });

  it('tell syncs of a file', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sluice-sync-'));
    const path = join(folder, 'disk.img');
    await writeFile(path, '');
    await truncate(path, MIB);
    const events = await heard('sluice:disk:sync', async () => {
      await using disk = await openDisk(path, { writable: true });
      await disk.write(0, pattern(512));
      await disk.flush();
    });
    await rm(folder, { recursive: true });
    expect(events).toEqual([{ path, seconds: expect.any(Number) as number, errno: 0 }]);
  });

  it('tell of clients that come and go', async () => {
    await using serving = await serveFake();
    let begun: unknown[] = [];
    const ended = await heard('sluice:nbd:disconnect', async () => {
      begun = await heard('sluice:nbd:connect', async () => {
        await using client = await serving.go();
        client.send(request({ type: DISC }));
        await until(() => serving.server.clients === 0);
      });
    });
    const client = expect.objectContaining({ id: 1, server: serving.server.uri }) as unknown;
    expect(begun).toEqual([{ client }]);
    const end = expect.objectContaining({ reason: 'disconnect', requests: 0 }) as unknown;
    expect(ended).toEqual([{ client, end }]);
  });
});

describe('the disk behind an export', () => {
  it('has its own counters beside those of the server', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sluice-stats-'));
    const path = join(folder, 'disk.img');
    await writeFile(path, '');
    await truncate(path, MIB);
    await using disk = await openDisk(path, { writable: true });
    await using server = await serveNbd(disk, { socket: join(folder, 's') });
    {
      await using client = await TestClient.go(join(folder, 's'));
      await client.ask({ type: WRITE, data: pattern(4096) });
      await client.ask({ type: FLUSH });
      await client.ask({ type: FLUSH });
    }
    const [found] = server.stats().exports;
    expect(found!.disk).toEqual(disk.stats());
    expect(found!.disk!.flushes).toEqual({ received: 2, elided: 1, coalesced: 0 });
    expect(found!.latched).toBe(false);
    await rm(folder, { recursive: true });
  });

  it('may have no engine, and then has none', async () => {
    await using serving = await serveFake();
    serving.device.statusOf = () => STATUS_OK;
    expect(serving.server.stats().exports[0]!.disk).toBe(undefined);
  });
});
