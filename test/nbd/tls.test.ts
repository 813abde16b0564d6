/** TLS of the server, byte by byte: modes, what is forgotten, and clients that do it wrong. */

import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls, type ConnectionOptions } from 'node:tls';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readPskFile } from '../../src/nbd/psk-file.ts';
import type { NbdServerOptions } from '../../src/nbd/server.ts';
import { contextData, hex, infoData, option, request, TestClient } from './client.ts';
import type { FakeDeviceOptions } from './fake-device.ts';
import { rowsOf, sequencesOf } from './hostile-rows.ts';
import { expectBackPressure, serveFake, type Serving, settle, until } from './serving.ts';
import { ACK, DISC, ERR_INVALID, ERR_TLS_REQD, FLUSH, INFO, pattern, READ } from './wire.ts';
import { SERVER, WRITE } from './wire.ts';

const MIB = 2 ** 20;
const STARTTLS = 5;
const LIST = 3;
const GO = 7;
const KEY = Buffer.alloc(32, 5);
const PSK = new Map([['alice', KEY]]);

/** A server whose clients have the key of alice. */
function serve(
  device: FakeDeviceOptions = {},
  { tls, ...options }: NbdServerOptions = {},
): Promise<Serving> {
  return serveFake(device, { tls: { psk: PSK, ...tls }, ...options });
}

/** Goes on over TLS, after STARTTLS was acknowledged. */
async function secured(client: TestClient, more: ConnectionOptions = {}): Promise<TestClient> {
  const socket = connectTls({
    socket: client.socket,
    ciphers: 'PSK:TLS_AES_128_GCM_SHA256',
    pskCallback: () => ({ psk: KEY, identity: 'alice' }),
    checkServerIdentity: () => undefined,
    ...more,
  });
  const over = new TestClient(socket);
  await once(socket, 'secureConnect');
  return over;
}

/** A client that has said hello and begun TLS. */
async function begin(serving: Serving, more: ConnectionOptions = {}): Promise<TestClient> {
  const client = await serving.connect();
  await client.hello();
  expect(await client.types(STARTTLS)).toEqual([ACK]);
  return secured(client, more);
}

/** The same in transmission. */
async function go(serving: Serving, ...options: Uint8Array[]): Promise<TestClient> {
  const client = await begin(serving);
  for (const data of options) {
    client.send(data);
    await client.replies();
  }
  expect((await client.types(GO, infoData())).at(-1)).toBe(ACK);
  return client;
}

/** The messages of what goes wrong. */
function faultsOf({ server }: Serving): string[] {
  const faults: string[] = [];
  server.on('fault', ({ message }) => faults.push(message));
  return faults;
}

/** An honest client is served. */
async function serves(serving: Serving): Promise<void> {
  await using honest = await go(serving);
  expect((await honest.ask({ type: READ, length: 512 })).error).toBe(0);
}

describe('TLS that is required', () => {
  it('N54 options in clear where TLS is required: ERR_TLS_REQD, no name of an export', async () => {
    await using serving = await serve({}, { name: 'secret' });
    await using client = await serving.connect();
    await client.hello();
    for (const [code, data] of [
      [LIST, hex('')],
      [6, infoData('secret', 1, 3)],
      [GO, infoData('')],
      [8, hex('')],
      [9, contextData('')],
      [11, hex('')],
      [99, Buffer.alloc(5000)],
    ] as const) {
      client.send(option(code, data));
      const replies = await client.replies();
      expect(replies.map(({ type }) => type)).toEqual([ERR_TLS_REQD]);
      expect(replies[0]?.data.toString()).not.toContain('secret');
    }
    expect(await client.types(STARTTLS, hex('00'))).toEqual([ERR_INVALID]);
    expect(await client.types(2)).toEqual([ACK]);
    expect(await client.rest()).toHaveLength(0);
    await serves(serving);
  });

  it('N54 EXPORT_NAME in clear where TLS is required: closed, it has no error reply', async () => {
    await using serving = await serve();
    await using client = await serving.connect();
    await client.hello();
    client.send(option(1));
    expect(await client.rest()).toHaveLength(0);
  });

  it('serves everything over TLS', async () => {
    await using serving = await serve({ sizeBytes: 8 * MIB, mode: 'later' }, { name: 'disk' });
    await using client = await begin(serving);
    expect(await client.types(LIST)).toEqual([SERVER, ACK]);
    expect(await client.types(8)).toEqual([ACK]);
    expect(await client.types(GO, infoData('disk'))).toEqual([INFO, ACK]);
    for (const length of [1, 512, 5000, 65_537, 300_000, 3 * MIB]) {
      const data = pattern(length, length & 255);
      client.send(request({ type: WRITE, offset: 3, data }), request({ type: FLUSH }));
      for (let reply = 0; reply < 2; reply++) expect((await client.reply()).error).toBe(0);
      const { data: read } = await client.ask({ type: READ, offset: 3, length });
      expect(read.subarray(8).equals(data)).toBe(true);
    }
    client.send(request({ type: DISC }));
    expect(await client.rest()).toHaveLength(0);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('has a URI that says so', async () => {
    await using serving = await serve({}, { name: 'a b' });
    expect(serving.server.uri).toBe(`nbds+unix:///a%20b?socket=${serving.path}`);
  });
});

describe('TLS that is allowed', () => {
  const allowed = { tls: { psk: PSK, mode: 'allow' } } as const;

  it('leaves the choice to clients (SELECTIVETLS mode)', async () => {
    await using serving = await serve({}, allowed);
    await using clear = await serving.go();
    expect((await clear.ask({ type: READ, length: 512 })).error).toBe(0);
    await serves(serving);
    expect(serving.server.uri).toMatch(/^nbd\+unix:/);
  });

  it('forgets what was negotiated in clear (CVE-2021-3716)', async () => {
    await using serving = await serve({}, allowed);
    await using client = await serving.connect();
    await client.hello();
    await client.types(8);
    await client.types(10, contextData('', 'base:allocation'));
    await client.types(STARTTLS);
    await using over = await secured(client);
    expect(await over.types(10, contextData('', 'base:allocation'))).toEqual([ERR_INVALID]);
    expect((await over.types(GO, infoData(''))).at(-1)).toBe(ACK);
    expect((await over.ask({ type: READ, length: 512 })).kind).toBe('simple');
  });

  it('takes no data with STARTTLS, and goes on', async () => {
    await using serving = await serve({}, allowed);
    await using client = await serving.connect();
    await client.hello();
    expect(await client.types(STARTTLS, hex('00'))).toEqual([ERR_INVALID]);
    expect(await client.types(LIST)).toEqual([SERVER, ACK]);
  });
});

describe('over TLS', () => {
  it('a second STARTTLS is ERR_INVALID, and the next option is answered', async () => {
    await using serving = await serve();
    await using client = await begin(serving);
    expect(await client.types(STARTTLS)).toEqual([ERR_INVALID]);
    expect(await client.types(STARTTLS, hex('00'))).toEqual([ERR_INVALID]);
    expect(await client.types(GO, infoData(''))).toEqual([INFO, ACK]);
  });

  it.each(['TLSv1.2', 'TLSv1.3'] as const)('%s is spoken', async (version) => {
    await using serving = await serve();
    await using client = await begin(serving, { minVersion: version, maxVersion: version });
    expect(await client.types(GO, infoData(''))).toEqual([INFO, ACK]);
  });

  it('requests that come a byte at a time are understood', async () => {
    await using serving = await serve();
    await using client = await go(serving);
    for (const byte of request({ type: WRITE, data: pattern(40) })) {
      client.send(Uint8Array.of(byte));
    }
    expect((await client.reply()).error).toBe(0);
    expect(Buffer.from(serving.device.storage.subarray(0, 40))).toEqual(pattern(40));
  });

  it('back-pressure holds, and everything arrives in the end', async () => {
    await using serving = await serve({ mode: 'held', slots: 4, sizeBytes: 4 * MIB });
    await using client = await go(serving);
    await expectBackPressure(serving, client);
  });

  it('clients that read slowly cost no more than their share, and are answered', async () => {
    const arenaBytes = 16 * MIB;
    await using serving = await serve({ arenaBytes, sizeBytes: 8 * MIB });
    const clients = await Promise.all(Array.from({ length: 12 }, () => go(serving)));
    const before = process.memoryUsage().rss;
    for (const client of clients) {
      client.socket.pause();
      for (let read = 0; read < 16; read++) client.send(request({ type: READ, length: 4 * MIB }));
    }
    await settle(500);
    // All replies together are 768 MiB.
    expect(process.memoryUsage().rss - before).toBeLessThan(96 * MIB);
    const [first, ...others] = clients;
    for (const client of others) client.destroy();
    first?.socket.resume();
    for (let read = 0; read < 16; read++) expect((await first?.reply(4 * MIB))?.error).toBe(0);
    first?.destroy();
    await until(() => serving.server.clients === 0);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('a client that vanishes leaves nothing behind', async () => {
    await using serving = await serve({ mode: 'held' });
    const client = await go(serving);
    client.send(request({ type: WRITE, data: pattern(4096) }));
    await until(() => serving.device.open === 1);
    client.destroy();
    await settle();
    serving.device.release();
    await until(() => serving.server.clients === 0);
    expect(serving.device.arenaIsWhole).toBe(true);
    serving.device.mode = 'inline';
    await serves(serving);
  });

  it('the server closes in order: what was received is answered', async () => {
    await using serving = await serve({ mode: 'held' });
    const faults = faultsOf(serving);
    await using client = await go(serving);
    await using half = await serving.connect();
    await half.hello();
    await half.types(STARTTLS);
    client.send(request({ type: WRITE, data: pattern(512) }));
    await until(() => serving.device.open === 1);
    const closing = serving.server.close();
    serving.device.release();
    expect((await client.reply()).error).toBe(0);
    expect(await client.rest()).toHaveLength(0);
    expect(await half.rest()).toHaveLength(0);
    await closing;
    expect(faults).toEqual([]);
  });
});

describe('hostile clients', () => {
  it.each([
    ['an option', option(LIST)],
    ['one byte', hex('16')],
    ['more than a window', Buffer.alloc(100_000)],
  ])('N53 %s in clear behind STARTTLS: closed, never answered', async (_title, behind) => {
    await using serving = await serve({}, { tls: { psk: PSK, mode: 'allow' } });
    const faults = faultsOf(serving);
    await using client = await serving.connect();
    await client.read(18);
    client.send([4, 3], option(STARTTLS), behind);
    const said = await client.rest();
    expect(said).toEqual(hex('0003e889045565a9 00000005 00000001 00000000'));
    expect(faults).toEqual(['no TLS with a client: it sent bytes in clear behind STARTTLS']);
    await serves(serving);
  });

  it('N53 options in clear behind the acknowledgement: closed, never answered', async () => {
    await using serving = await serve();
    const faults = faultsOf(serving);
    await using client = await serving.connect();
    await client.hello();
    await client.types(STARTTLS);
    client.send(option(LIST), option(GO, infoData('')));
    expect((await client.rest()).includes(hex('0003e889045565a9'))).toBe(false);
    await until(() => faults.length === 1);
    await serves(serving);
  });

  it('half a handshake meets the limit of the negotiation, and keeps nobody out', async () => {
    await using serving = await serve({}, { handshakeTimeoutMs: 300 });
    const faults = faultsOf(serving);
    await using silent = await serving.connect();
    await silent.hello();
    await silent.types(STARTTLS);
    await using slow = await serving.connect();
    await slow.hello();
    await slow.types(STARTTLS);
    // The header of a record of 512 bytes, and then a byte now and then.
    slow.send(hex('16 03 01 02 00 01 00 01 fc 03 03'));
    const timer = setInterval(() => slow.send(hex('00')), 50);
    await serves(serving);
    expect(await silent.rest()).toHaveLength(0);
    await slow.rest();
    clearInterval(timer);
    expect(faults).toEqual([]);
  });

  it.each([
    ['an unknown user', { pskCallback: () => ({ psk: KEY, identity: 'bob' }) }],
    ['a wrong key', { pskCallback: () => ({ psk: Buffer.alloc(32), identity: 'alice' }) }],
    ['an unknown user', { pskCallback: () => ({ psk: KEY, identity: '__proto__' }) }],
    ['TLS 1.1', { minVersion: 'TLSv1', maxVersion: 'TLSv1.1' }],
    ['no key at all', { pskCallback: undefined, ciphers: undefined }],
  ] as const)('%s is not let in, and is told of', async (_title, more) => {
    await using serving = await serve();
    const faults = faultsOf(serving);
    const failed = begin(serving, more as ConnectionOptions).then((client) =>
      // TLS 1.3 lets a client believe that it is in.
      client.types(LIST),
    );
    await expect(failed).rejects.toThrow();
    await until(() => faults.length === 1);
    expect(faults[0]).toMatch(/^no TLS with a client: [\w, -]+$/);
    await serves(serving);
  });

  it('who goes in the middle of TLS is missed at once, however it goes', async () => {
    await using serving = await serve({}, { handshakeTimeoutMs: 0 });
    const reasons: string[] = [];
    serving.server.on('unserved', ({ reason }) => reasons.push(reason));
    for (const sent of [[], [hex('16 03 01 02 00 01 00 01 fc 03 03')], [pattern(4, 1)]]) {
      const client = await serving.connect();
      await client.hello();
      await client.types(STARTTLS);
      for (const bytes of sent) client.send(bytes);
      client.socket.end();
      const count = reasons.length;
      await until(() => reasons.length > count);
      client.destroy();
    }
    expect(reasons).toEqual(['gone', 'gone', 'gone']);
  });

  it('200 connections that break off in the middle of TLS leave the server as it was', async () => {
    await using serving = await serve();
    const hello = hex('16 03 01 02 00 01 00 01 fc 03 03');
    for (let round = 0; round < 10; round++) {
      await Promise.all(
        Array.from({ length: 20 }, async (_, at) => {
          const client = await serving.connect();
          await client.hello();
          if (at % 4 > 0) await client.types(STARTTLS);
          else client.send(option(STARTTLS));
          if (at % 4 === 2) client.send(hello);
          if (at % 4 === 3) client.send(pattern(300, at));
          client.destroy();
        }),
      );
    }
    await serves(serving);
    expect(serving.device.arenaIsWhole).toBe(true);
  });
});

describe('options of TLS', () => {
  it.each([
    [{}, /either cert and key/],
    [{ cert: 'x' }, /either cert and key/],
    [{ psk: PSK, key: 'x' }, /either cert and key/],
    [{ cert: 'x', key: 'y' }, /cannot be used/],
    [{ psk: new Map() }, /tls\.psk must be a Map with at least one/],
    [{ psk: { alice: KEY } }, /tls\.psk must be a Map/],
    [{ psk: new Map([['alice', 'abcd']]) }, /a Uint8Array as the key/],
    [{ psk: new Map([['alice', KEY.subarray(0, 15)]]) }, /16 bytes or more; .*"alice" has 15/],
    [{ psk: PSK, mode: 'on' }, /tls\.mode must be 'require' or 'allow'/],
    [{ psk: PSK, verify: true }, /tls has no option 'verify'/],
    [{ cert: 1, key: 2 }, /tls\.cert must be PEM/],
  ])('%j is refused', async (tls, message) => {
    await expect(serveFake({}, { tls: tls as never })).rejects.toMatchObject({
      code: 'ERR_SLUICE_INVALID_ARGUMENT',
      message: expect.stringMatching(message) as string,
    });
  });
});

describe('a file of keys', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sluice-psk-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const read = async (text: string): Promise<Map<string, Uint8Array>> => {
    const path = join(folder, 'keys');
    await writeFile(path, text);
    return readPskFile(path);
  };

  it('has a user and a key in each line', async () => {
    const [alice, bob] = ['00ff'.repeat(8), 'ABcd12'.repeat(8)];
    const keys = await read(`# keys\nalice:${alice}\r\n\nbob smith:${bob}`);
    expect([...keys]).toEqual([
      ['alice', Buffer.from(alice, 'hex')],
      ['bob smith', Buffer.from(bob, 'hex')],
    ]);
  });

  it.each([
    ['', /has no keys/],
    ['alice', /line 1 is not USER:KEY/],
    [`alice:${'12'.repeat(16)}\nbob:1`, /line 2 is not USER:KEY/],
    [`#\nuser:00`, /keys" .*: line 2 has a key of 1 byte; a key has 16 or more, make/],
    [`user:${'12'.repeat(15)}`, /line 1 has a key of 15 bytes; /],
    [':1234', /line 1 is not USER:KEY/],
    ['alice:secret', /line 1 is not USER:KEY/],
    [`${'a'.repeat(129)}:12`, /more than 128 bytes/],
    [`a:${'12'.repeat(257)}`, /key of more than 256/],
  ])('that is none is refused, without its contents: %j', async (text, message) => {
    const refused = read(text);
    await expect(refused).rejects.toMatchObject({
      code: 'ERR_SLUICE_INVALID_ARGUMENT',
      message: expect.stringMatching(message) as string,
    });
    await refused.catch(({ message }: Error) => expect(message).not.toContain('secret'));
    await expect(readPskFile(join(folder, 'none'))).rejects.toMatchObject({
      code: 'ERR_SLUICE_OPEN',
    });
  });
});

describe('what the server tells of TLS', () => {
  /** The connections that end before transmission, as they are told. */
  function endsOf({ server }: Serving): { readonly reason: string; readonly detail: string }[] {
    const ends: { readonly reason: string; readonly detail: string }[] = [];
    server.on('unserved', ({ reason, detail }) => ends.push({ reason, detail }));
    return ends;
  }

  it('a client says whether it has it', async () => {
    await using serving = await serve({}, { tls: { psk: PSK, mode: 'allow' } });
    await using _secure = await go(serving);
    await using _clear = await serving.go();
    expect(serving.server.stats().clients.map(({ tls }) => tls)).toEqual([true, false]);
  });

  it('a client with which it did not begin ended for that, and why', async () => {
    await using serving = await serve();
    const ends = endsOf(serving);
    const faults = faultsOf(serving);
    const wrong = { pskCallback: () => ({ psk: Buffer.alloc(32, 6), identity: 'alice' }) };
    await expect(begin(serving, wrong)).rejects.toThrow();
    await until(() => ends.length > 0);
    expect(ends).toEqual([{ reason: 'tls', detail: faults[0] }]);
    expect(ends[0]?.detail).toMatch(/^no TLS with a client: ./);
    expect(serving.server.stats().connections.unserved).toEqual({ tls: 1 });
  });

  const NEEDS = 'this server needs TLS: begin with STARTTLS';
  it.each([
    ['abort', [option(GO, infoData()), option(2)]],
    ['protocol', [option(1)]],
  ])('a client in clear is told of: %s', async (reason, sent) => {
    await using serving = await serve();
    const ends = endsOf(serving);
    await using client = await serving.connect();
    await client.hello();
    client.send(...sent);
    await until(() => ends.length > 0);
    expect(ends).toEqual([{ reason, detail: NEEDS }]);
  });

  it('what was wrong in clear is forgotten with the rest of it', async () => {
    await using serving = await serve();
    const ends = endsOf(serving);
    const client = await serving.connect();
    await client.hello();
    expect(await client.types(GO, infoData())).toEqual([ERR_TLS_REQD]);
    expect(await client.types(STARTTLS)).toEqual([ACK]);
    const over = await secured(client);
    expect(await over.types(2)).toEqual([ACK]);
    await until(() => ends.length > 0);
    expect(ends).toEqual([{ reason: 'abort', detail: '' }]);
  });
});

describe('keys that are renewed', () => {
  const NEW = Buffer.alloc(32, 9);
  const withNew = { pskCallback: () => ({ psk: NEW, identity: 'alice' }) };

  it('are those of clients that come later; the others go on', async () => {
    await using serving = await serve();
    await using before = await go(serving);
    serving.server.renewTls({ psk: new Map([['alice', NEW]]) });
    await expect(begin(serving)).rejects.toThrow();
    await using after = await begin(serving, withNew);
    expect((await after.types(GO, infoData())).at(-1)).toBe(ACK);
    for (const client of [before, after]) {
      expect((await client.ask({ type: READ, length: 512 })).error).toBe(0);
    }
  });

  it('that cannot be used leave the old ones', async () => {
    await using serving = await serve();
    for (const [tls, message] of [
      [{ cert: 'noise', key: 'noise' }, 'cannot be used'],
      [{ psk: PSK, mode: 'allow' }, "tls.mode must stay 'require'"],
      [{}, 'either cert and key'],
      [{ psk: 7 }, 'must be a Map'],
    ] as const) {
      expect(() => serving.server.renewTls(tls as never)).toThrow(message);
    }
    await serves(serving);
    await using clear = await serveFake();
    expect(() => clear.server.renewTls({ psk: PSK })).toThrow('cannot renew');
  });
});

describe('the table in docs/nbd.md', () => {
  it('has a line for each sequence of this file, and no other', ({ task }) => {
    expect(rowsOf('tls.test.ts')).toEqual(sequencesOf(task.file));
  });
});
