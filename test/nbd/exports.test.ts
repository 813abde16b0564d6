/** Several exports in one server. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import type { DeviceExport } from '../../src/nbd/options.ts';
import { serveNbd } from '../../src/node.ts';
import { contextData, hex, infoData, option, request, TestClient } from './client.ts';
import { FakeDevice, type FakeDeviceOptions } from './fake-device.ts';
import { serveOn, settle, until } from './serving.ts';
import { ACK, BLOCK_STATUS, EINVAL, EPERM, ERR_UNKNOWN, INFO, pattern, READ } from './wire.ts';
import { SERVER, WRITE } from './wire.ts';

const MIB = 2 ** 20;
const LIST = 3;
const GO = 7;

function fake(name: string, options: Partial<DeviceExport & FakeDeviceOptions> = {}) {
  return { device: new FakeDevice(options), name, ...pickExport(options) };
}

function pickExport({ description, readOnly, maxClients }: Partial<DeviceExport>) {
  return { description, readOnly, maxClients };
}

/** A client that has said hello. */
async function met(path: string): Promise<TestClient> {
  const client = await TestClient.connect(path);
  await client.hello();
  return client;
}

/** A client in transmission with the export of a name. */
async function goTo(path: string, name: string): Promise<TestClient> {
  const client = await met(path);
  expect(await client.types(GO, infoData(name))).toEqual([INFO, ACK]);
  return client;
}

/** The names and descriptions of a list. */
async function listed(client: TestClient): Promise<string[]> {
  client.send(option(LIST));
  const replies = await client.replies();
  return replies
    .filter(({ type }) => type === SERVER)
    .map(({ data }) => {
      const length = data.readUInt32BE();
      return `${data.toString('utf8', 4, 4 + length)}|${data.toString('utf8', 4 + length)}`;
    });
}

describe('exports', () => {
  it('are listed in order, with their descriptions', async () => {
    const exports = [fake('root', { description: 'the first' }), fake('data'), fake('ü')];
    await using serving = await serveOn(exports);
    await using client = await met(serving.path);
    expect(await listed(client)).toEqual(['root|the first', 'data|', 'ü|']);
  });

  it('are chosen by name, and each is its own disk', async () => {
    const exports = [fake('a', { sizeBytes: MIB }), fake('b', { sizeBytes: 2 * MIB })];
    await using serving = await serveOn(exports);
    await using first = await goTo(serving.path, 'a');
    await using second = await goTo(serving.path, 'b');
    const beyond = { type: WRITE, offset: MIB, data: pattern(512) };
    expect((await first.ask(beyond)).error).not.toBe(0);
    expect((await second.ask(beyond)).error).toBe(0);
    const [a, b] = exports;
    expect(a?.device.log).toHaveLength(0);
    expect(Buffer.from(b?.device.storage.subarray(MIB, MIB + 512) ?? [])).toEqual(pattern(512));
  });

  it('are chosen by EXPORT_NAME, too', async () => {
    await using serving = await serveOn([fake('a'), fake('b', { sizeBytes: 2 * MIB })]);
    await using client = await met(serving.path);
    client.send(option(1, Buffer.from('b')));
    expect((await client.read(10)).readBigUInt64BE()).toBe(BigInt(2 * MIB));
    await using lost = await met(serving.path);
    lost.send(option(1, Buffer.from('c')));
    expect(await lost.rest()).toHaveLength(0);
  });

  it.each([
    ['the first', ['a', 'b'], 'a'],
    ['the one that is named so', ['a', ''], ''],
  ])('of the empty name is %s', async (_title, names, expected) => {
    await using serving = await serveOn(names.map((name) => fake(name)));
    await using client = await met(serving.path);
    client.send(option(6, infoData('', 1)));
    const [, name] = await client.replies();
    expect(name?.data.toString('utf8', 2)).toBe(expected);
  });

  it('of an unknown name are ERR_UNKNOWN, and the next option is answered', async () => {
    await using serving = await serveOn([fake('a'), fake('b')]);
    await using client = await met(serving.path);
    expect(await client.types(6, infoData('c'))).toEqual([ERR_UNKNOWN]);
    expect(await client.types(GO, infoData('A'))).toEqual([ERR_UNKNOWN]);
    await client.types(8);
    expect(await client.types(10, contextData('c', 'base:allocation'))).toEqual([ERR_UNKNOWN]);
    expect(await client.types(GO, infoData('b'))).toEqual([INFO, ACK]);
  });

  it('have their own access: readOnly of one, or of the server for all', async () => {
    const write = { type: WRITE, data: pattern(512) };
    await using serving = await serveOn([fake('a'), { ...fake('b'), readOnly: true }]);
    await using first = await goTo(serving.path, 'a');
    await using second = await goTo(serving.path, 'b');
    expect([(await first.ask(write)).error, (await second.ask(write)).error]).toEqual([0, EPERM]);
    await using all = await serveOn([fake('a')], { readOnly: true });
    await using third = await goTo(all.path, 'a');
    expect((await third.ask(write)).error).toBe(EPERM);
  });

  it('do not share metadata contexts (NBD_OPT_SET_META_CONTEXT)', async () => {
    await using serving = await serveOn([fake('a'), fake('b')]);
    const status = { type: BLOCK_STATUS, length: 512 };
    for (const [name, error] of [
      ['a', 0],
      ['b', EINVAL],
    ] as const) {
      await using client = await met(serving.path);
      await client.types(8);
      await client.types(10, contextData('a', 'base:allocation'));
      await client.types(GO, infoData(name));
      expect((await client.ask(status)).error).toBe(error);
    }
  });

  it('may be of one device, which is kicked for all of them', async () => {
    const device = new FakeDevice();
    await using serving = await serveOn([
      { device, name: 'rw' },
      { device, name: 'ro', readOnly: true },
    ]);
    await using writer = await goTo(serving.path, 'rw');
    await using reader = await goTo(serving.path, 'ro');
    expect((await writer.ask({ type: WRITE, data: pattern(512) })).error).toBe(0);
    expect((await reader.ask({ type: READ, length: 512 })).data).toEqual(pattern(512));
    expect((await reader.ask({ type: WRITE, data: pattern(512) })).error).toBe(EPERM);
  });

  it.each([
    ['no export', [], {}, /a disk, or a list of at least one export/],
    ['two of one name', [fake('a'), fake('a')], {}, /two exports are named "a"/],
    [
      'two without a name',
      [fake(''), { device: new FakeDevice() }],
      {},
      /two exports are named ""/,
    ],
    ['a name for all', [fake('a')], { name: 'x' }, /each has its own name/],
    ['a long name', [fake('a'), fake('b'.repeat(4097))], {}, /exports\[1\]\.name .* 4096 bytes/],
    ['a misspelt option', [{ ...fake('a'), nmae: 'b' }], {}, /exports\[0\] has no option 'nmae'/],
  ] as const)('that make no sense are refused: %s', async (_title, exports, options, message) => {
    await expect(serveOn(exports, options)).rejects.toMatchObject({
      code: 'ERR_SLUICE_INVALID_ARGUMENT',
      message: expect.stringMatching(message) as string,
    });
  });

  it('have a URI each', async () => {
    await using serving = await serveOn([fake('a b'), fake('')]);
    const { server, path } = serving;
    expect(server.uris).toEqual([
      `nbd+unix:///a%20b?socket=${path}`,
      `nbd+unix:///?socket=${path}`,
    ]);
    expect(server.uri).toBe(server.uris[0]);
  });
});

describe('limits of exports', () => {
  it('clients wait for their export alone, and the server has a limit for all', async () => {
    const exports = [fake('a', { maxClients: 1 }), fake('b')];
    await using serving = await serveOn(exports, { maxClients: 3 });
    await using first = await goTo(serving.path, 'a');
    await using second = await met(serving.path);
    second.send(option(GO, infoData('a')));
    await settle();
    await using third = await goTo(serving.path, 'b');
    await using fourth = await goTo(serving.path, 'b');
    await using fifth = await met(serving.path);
    fifth.send(option(GO, infoData('b')));
    await settle();
    expect(serving.server.clients).toBe(3);
    third.destroy();
    // The second one waits longer, but its export is taken.
    expect((await fifth.replies()).at(-1)?.type).toBe(ACK);
    first.destroy();
    expect((await second.replies()).at(-1)?.type).toBe(ACK);
    expect((await fourth.ask({ type: READ, length: 512 })).error).toBe(0);
  });

  it('say CAN_MULTI_CONN of those that take several clients', async () => {
    await using serving = await serveOn([fake('one', { maxClients: 1 }), fake('many')]);
    await using client = await met(serving.path);
    for (const [name, flag] of [
      ['one', 0],
      ['many', 0x100],
    ] as const) {
      client.send(option(6, infoData(name)));
      const [info] = await client.replies();
      expect((info?.data.readUInt16BE(10) ?? 0) & 0x100).toBe(flag);
    }
  });
});

describe('an export that is withdrawn', () => {
  it('answers what was sent, lets its clients go, and others stay', async () => {
    const exports = [fake('a', { mode: 'held' }), fake('b')];
    const [a] = exports;
    await using serving = await serveOn(exports);
    await using leaving = await goTo(serving.path, 'a');
    await using idle = await goTo(serving.path, 'a');
    await using staying = await goTo(serving.path, 'b');
    await using talking = await met(serving.path);
    leaving.send(request({ type: WRITE, data: pattern(512) }));
    await until(() => a?.device.open === 1);
    let withdrawn = false;
    const withdrawal = serving.server.withdraw(a?.device as FakeDevice).then(() => {
      withdrawn = true;
    });
    expect(await idle.rest()).toHaveLength(0);
    expect(await listed(talking)).toEqual(['b|']);
    expect(await talking.types(6, infoData('a'))).toEqual([ERR_UNKNOWN]);
    await settle();
    expect(withdrawn).toBe(false);
    a?.device.release();
    expect((await leaving.reply()).error).toBe(0);
    expect(await leaving.rest()).toHaveLength(0);
    leaving.destroy();
    await withdrawal;
    expect(a?.device.arenaIsWhole).toBe(true);
    expect((await staying.ask({ type: READ, length: 512 })).error).toBe(0);
    expect(await talking.types(GO, infoData(''))).toEqual([INFO, ACK]);
    expect(serving.server.clients).toBe(2);
  });

  it('is not waited for: those who want it are dropped', async () => {
    const exports = [fake('a', { maxClients: 1 }), fake('b')];
    await using serving = await serveOn(exports);
    await using client = await goTo(serving.path, 'a');
    await using waiting = await met(serving.path);
    waiting.send(option(GO, infoData('a')));
    await settle();
    await serving.server.withdraw(exports[0]?.device as FakeDevice);
    expect(await waiting.rest()).toHaveLength(0);
    expect(await client.rest()).toHaveLength(0);
  });

  it('was the last: the server closes', async () => {
    const exports = [fake('a'), fake('b')];
    await using serving = await serveOn(exports);
    await Promise.all(exports.map(({ device }) => serving.server.withdraw(device)));
    await serving.server.closed;
    await expect(serving.connect()).rejects.toThrow();
  });
});

describe('disks', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sluice-exports-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const memoryDisk = (): Disk => new Disk(new MemoryBackend({ sizeBytes: MIB }));

  it('that are closed leave their server to the others', async () => {
    const [a, b] = [memoryDisk(), memoryDisk()];
    const socket = join(folder, 'socket');
    await using server = await serveNbd(
      [
        { disk: a, name: 'a' },
        { disk: b, name: 'b' },
      ],
      { socket },
    );
    await using first = await goTo(socket, 'a');
    await using second = await goTo(socket, 'b');
    expect((await first.ask({ type: WRITE, data: pattern(512) })).error).toBe(0);
    await a.close();
    expect(await first.rest()).toHaveLength(0);
    expect((await second.ask({ type: READ, length: 512 })).error).toBe(0);
    await using third = await met(socket);
    expect(await listed(third)).toEqual(['b|']);
    await b.close();
    await server.closed;
    expect(await second.rest()).toEqual(hex(''));
  });

  it('are what a list is of', async () => {
    const refusal = (message: RegExp) => ({
      code: 'ERR_SLUICE_INVALID_ARGUMENT',
      message: expect.stringMatching(message) as string,
    });
    const options = { socket: join(folder, 'socket') };
    const disk = memoryDisk();
    const serve = (list: unknown): Promise<unknown> => serveNbd(list as never, options);
    await expect(serve([{ disk }, { name: 'b' }])).rejects.toMatchObject(
      refusal(/exports\[1\] needs a Disk/),
    );
    await expect(serve([disk])).rejects.toMatchObject(refusal(/exports\[0\] needs a Disk/));
    await expect(serve([null])).rejects.toMatchObject(refusal(/exports\[0\] must be an object/));
    await disk.close();
  });
});
