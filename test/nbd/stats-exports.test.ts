/** What is told of several exports, of extended headers, and of what ends connections with them. */

import { describe, expect, it } from 'vitest';
import { STATUS_NO_SPACE, STATUS_UNSUPPORTED } from '../../src/abi/request.ts';
import { MAX_STRING_BYTES } from '../../src/nbd/protocol.ts';
import { toPrometheus } from '../../src/node.ts';
import { bytes, contextData, hex, infoData, option, request, TestClient } from './client.ts';
import { FakeDevice } from './fake-device.ts';
import { serveFake, serveOn, until } from './serving.ts';
import { BLOCK_STATUS, CACHE, DISC, FAST_ZERO, FLUSH, pattern, READ, WRITE } from './wire.ts';
import { WRITE_ZEROES } from './wire.ts';

const MIB = 2 ** 20;
const EXTENDED = option(11);
const DEPTH = 'qemu:allocation-depth';
const BOTH = option(10, contextData('', 'base:allocation', DEPTH));

function two(): [FakeDevice, FakeDevice] {
  return [new FakeDevice({ sizeBytes: MIB }), new FakeDevice({ sizeBytes: 2 * MIB })];
}

/** A client in transmission with the export of a name. */
async function goTo(path: string, name: string): Promise<TestClient> {
  const client = await TestClient.connect(path);
  await client.hello();
  await client.types(7, infoData(name));
  return client;
}

describe('several exports', () => {
  it('are counted apart, and clients by the export that they have chosen', async () => {
    const [a, b] = two();
    await using serving = await serveOn([
      { device: a, name: 'a' },
      { device: b, name: 'b', readOnly: true },
    ]);
    await using first = await goTo(serving.path, 'a');
    await using second = await goTo(serving.path, 'b');
    await using unnamed = await goTo(serving.path, '');
    await first.ask({ type: WRITE, data: pattern(512) });
    await second.ask({ type: WRITE, data: pattern(512) });
    await second.ask({ type: READ, length: 4096 });
    await unnamed.ask({ type: READ, length: 100 });
    const { exports, clients } = serving.server.stats();
    expect(exports).toMatchObject([
      { name: 'a', sizeBytes: MIB, readOnly: false, clients: 2 },
      { name: 'b', sizeBytes: 2 * MIB, readOnly: true, clients: 1 },
    ]);
    expect(exports[0]!.commands).toMatchObject({ write: { bytes: 512 }, read: { bytes: 100 } });
    expect(exports[1]!.commands).toMatchObject({
      write: { requests: 1, bytes: 0, errors: { EPERM: 1 } },
      read: { requests: 1, bytes: 4096 },
    });
    expect(clients.map(({ id, export: name }) => [id, name])).toEqual([
      [1, 'a'],
      [2, 'b'],
      [3, 'a'],
    ]);
    const text = toPrometheus(serving.server.stats());
    expect(text).toContain('\nsluice_nbd_clients{export="a"} 2\n');
    expect(text).toContain('\nsluice_nbd_clients{export="b"} 1\n');
  });

  it('keep what clients that are gone have done, each its own', async () => {
    const [a, b] = two();
    await using serving = await serveOn([
      { device: a, name: 'a' },
      { device: b, name: 'b' },
    ]);
    for (const name of ['a', 'b', 'b']) {
      await using client = await goTo(serving.path, name);
      await client.ask({ type: FLUSH });
    }
    await until(() => serving.server.clients === 0);
    const counts = serving.server.stats().exports.map(({ commands }) => commands.flush.requests);
    expect(counts).toEqual([1, 2]);
  });

  it('that are withdrawn are not told of any more; their clients end by a shutdown', async () => {
    const [a, b] = two();
    await using serving = await serveOn([
      { device: a, name: 'a' },
      { device: b, name: 'b' },
    ]);
    await using _first = await goTo(serving.path, 'a');
    await using second = await goTo(serving.path, 'b');
    await serving.server.withdraw(a);
    const { exports, connections } = serving.server.stats();
    expect(exports.map(({ name }) => name)).toEqual(['b']);
    expect(connections).toMatchObject({ ended: { shutdown: 1 }, serving: 1 });
    expect((await second.ask({ type: FLUSH })).error).toBe(0);
  });

  it('are none of a closed server; what connections there were is told', async () => {
    const [a, b] = two();
    await using serving = await serveOn([
      { device: a, name: 'a' },
      { device: b, name: 'b' },
    ]);
    {
      await using _client = await goTo(serving.path, 'a');
      await serving.server.close();
    }
    const stats = serving.server.stats();
    expect([stats.exports, stats.clients]).toEqual([[], []]);
    expect(stats.connections).toMatchObject({ accepted: 1, serving: 0, ended: { shutdown: 1 } });
    expect(toPrometheus(stats)).not.toMatch(/^sluice_nbd_export_size_bytes/m);
  });
});

describe('extended headers', () => {
  it('are told, with all contexts that were selected, by name', async () => {
    await using serving = await serveFake({}, { allocationDepth: true });
    await using _client = await serving.go(EXTENDED, BOTH);
    await using _depth = await serving.go(option(8), option(10, contextData('', DEPTH)));
    expect(serving.server.stats().clients).toMatchObject([
      { structuredReplies: true, extendedHeaders: true, contexts: ['base:allocation', DEPTH] },
      { structuredReplies: true, extendedHeaders: false, contexts: [DEPTH] },
    ]);
  });

  it.each([
    ['extended', [EXTENDED], true],
    ['structured', [option(8)], false],
    ['simple', [], false],
  ] as const)('every way to answer is counted once: %s', async (_name, options, extended) => {
    await using serving = await serveFake({ sizeBytes: MIB });
    await using client = await serving.go(...options);
    const { device } = serving;
    const ask = (parts: Parameters<typeof request>[0]) => client.ask({ ...parts, extended });
    await ask({ type: READ, length: 4096 });
    await ask({ type: READ, length: 0 });
    await ask({ type: READ, offset: MIB - 1, length: 2 });
    await ask({ type: WRITE, data: pattern(512) });
    await ask({ type: WRITE, offset: MIB - 1, data: pattern(2) });
    await ask({ type: CACHE, length: 400_000 });
    device.statusOf = () => STATUS_UNSUPPORTED;
    await ask({ type: WRITE_ZEROES, flags: FAST_ZERO, length: 512 });
    device.statusOf = () => STATUS_NO_SPACE;
    await ask({ type: WRITE, data: pattern(512) });
    const { commands } = serving.server.stats().exports[0]!;
    expect(commands).toMatchObject({
      read: { requests: 3, bytes: 4096, errors: { EINVAL: 1 } },
      write: { requests: 3, bytes: 512, errors: { ENOSPC: 2 } },
      cache: { requests: 1, errors: {} },
      write_zeroes: { requests: 1, bytes: 0, errors: { ENOTSUP: 1 } },
    });
    expect(serving.server.stats().clients[0]!.inFlight).toBe(0);
  });

  it('a BLOCK_STATUS of several contexts is one request, with ids or without', async () => {
    await using serving = await serveFake({ sizeBytes: MIB }, { allocationDepth: true });
    await using client = await serving.go(EXTENDED, BOTH);
    client.send(request({ type: BLOCK_STATUS, length: 4096, extended: true }));
    for (let chunk = 0; chunk < 2; chunk++) await client.reply();
    const ids = (...list: number[]): Buffer =>
      bytes([8, 4096], ...list.map((id) => [4, id] as const));
    client.send(request({ type: BLOCK_STATUS, data: ids(1), extended: true }));
    await client.reply();
    client.send(request({ type: BLOCK_STATUS, data: ids(77), extended: true }));
    await client.reply();
    expect(serving.server.stats().exports[0]!.commands.block_status).toEqual({
      requests: 3,
      bytes: 0,
      errors: { EINVAL: 1 },
    });
  });
});

describe('connections that end before transmission', () => {
  it.each([
    ['it sent EXPORT_NAME after extended headers', [EXTENDED, option(1)]],
    ['the name of the export is too long', [option(1, Buffer.alloc(MAX_STRING_BYTES + 1))]],
    ['no such export', [option(1, Buffer.from('none'))]],
    ['it does not speak NBD', [option(7, infoData('none')), hex('00'.repeat(16))]],
  ])('%s', async (detail, sent) => {
    await using serving = await serveFake();
    const ends: unknown[] = [];
    serving.server.on('unserved', (end) => ends.push(end));
    await using client = await serving.connect();
    await client.hello();
    client.send(...sent);
    await until(() => ends.length > 0);
    expect(ends).toMatchObject([{ reason: 'protocol', detail }]);
  });
});

describe('connections that make room', () => {
  it('end as idle', { timeout: 20_000 }, async () => {
    await using serving = await serveFake({}, { maxClients: 1, idleTimeoutMs: 1000 });
    await using idle = await serving.go();
    await idle.ask({ type: FLUSH });
    await using client = await serving.go();
    expect(serving.server.stats().connections.ended).toEqual({ idle: 1 });
    client.send(request({ type: DISC }));
    await until(() => serving.server.stats().connections.ended.disconnect === 1);
  });
});
