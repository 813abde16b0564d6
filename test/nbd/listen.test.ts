import { spawnSync } from 'node:child_process';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type NbdServerOptions, serveNbd } from '../../src/nbd/server.ts';
import { tcpUri, unixUri } from '../../src/nbd/uri.ts';
import { infoData, option, TestClient } from './client.ts';
import { FakeDevice } from './fake-device.ts';
import { READ } from './wire.ts';

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sluice-listen-'));
  path = join(folder, 'socket');
});

afterEach(() => rm(folder, { recursive: true, force: true }));

describe('a unix socket', () => {
  it('is there while the server is, and its URI names it', async () => {
    const server = await serveNbd(new FakeDevice(), { socket: path, name: 'a/b c' });
    expect(server.uri).toBe(`nbd+unix:///a%2Fb%20c?socket=${path}`);
    expect((await stat(path)).isSocket()).toBe(true);
    await server.close();
    await expect(stat(path)).rejects.toThrow('ENOENT');
  });

  it('that a killed server left behind is replaced', async () => {
    const die = '() => process.kill(process.pid, 9)';
    const script = `require('net').createServer().listen(process.argv[1], ${die})`;
    spawnSync(process.execPath, ['-e', script, path]);
    expect((await stat(path)).isSocket()).toBe(true);
    await using server = await serveNbd(new FakeDevice(), { socket: path });
    await using client = await TestClient.go(path);
    expect((await client.ask({ type: READ, length: 512 })).error).toBe(0);
    expect(server.clients).toBe(1);
  });

  it('that somebody serves is left alone', async () => {
    await using first = await serveNbd(new FakeDevice(), { socket: path });
    await expect(serveNbd(new FakeDevice(), { socket: path })).rejects.toThrow('EADDRINUSE');
    await using client = await TestClient.go(path);
    expect((await client.ask({ type: READ, length: 512 })).error).toBe(0);
    expect(first.clients).toBe(1);
  });

  it('never replaces a file of another kind', async () => {
    await writeFile(path, 'data');
    const refused = serveNbd(new FakeDevice(), { socket: path });
    await expect(refused).rejects.toMatchObject({ code: 'EEXIST', syscall: 'listen', path });
    expect((await stat(path)).size).toBe(4);
  });

  it('in a folder that is not there: said so', async () => {
    const lost = join(folder, 'none', 'socket');
    const refused = serveNbd(new FakeDevice(), { socket: lost });
    await expect(refused).rejects.toMatchObject({ code: 'ENOENT', syscall: 'listen', path: lost });
  });
});

describe('TCP', () => {
  it('serves at the port that the URI names', async () => {
    await using server = await serveNbd(new FakeDevice(), { port: 0, name: 'disk' });
    const { port, hostname, pathname } = new URL(server.uri.replace('nbd:', 'http:'));
    expect([hostname, pathname]).toEqual(['127.0.0.1', '/disk']);
    await using client = new TestClient(connect({ port: Number(port), host: hostname }));
    await client.hello();
    client.send(option(7, infoData('disk')));
    await client.replies();
    expect((await client.ask({ type: READ, length: 2 ** 20 })).error).toBe(0);
  });
});

describe('options', () => {
  it.each<[string, NbdServerOptions, string]>([
    ['a socket and a port', { socket: 'x', port: 1 }, 'socket excludes host and port'],
    ['an empty path', { socket: '' }, 'socket must be a path'],
    ['a path that would be cut off', { socket: `/${'x'.repeat(107)}` }, 'of at most 107 bytes'],
    ['a port out of range', { port: 65_536 }, 'port must be a whole number from 0 to 65535'],
    ['a name that is too long', { name: 'ä'.repeat(2049) }, 'at most 4096 bytes'],
    ['a description with NUL', { description: 'a\0' }, 'without NUL'],
    ['a fraction of clients', { maxClients: 0.5 }, 'maxClients must be a whole number'],
    ['negative time', { handshakeTimeoutMs: -1 }, 'handshakeTimeoutMs must be'],
  ])('%s: refused', async (_what, options, message) => {
    const serving = serveNbd(new FakeDevice(), options);
    await expect(serving).rejects.toMatchObject({ code: 'ERR_SLUICE_INVALID_ARGUMENT' });
    await expect(serving).rejects.toThrow(message);
  });

  it('an arena below a megabyte: refused', async () => {
    const device = new FakeDevice({ arenaBytes: 2 ** 19 });
    await expect(serveNbd(device, { socket: path })).rejects.toThrow('2097152');
  });
});

describe('URIs', () => {
  it('are percent-encoded', () => {
    expect(unixUri('', '/run/a b/ü?&s')).toBe('nbd+unix:///?socket=/run/a%20b/%C3%BC%3F%26s');
    expect(tcpUri('ü/1', 'localhost', 10809)).toBe('nbd://localhost/%C3%BC%2F1');
    expect(tcpUri('', '::1', 10810)).toBe('nbd://[::1]:10810/');
  });
});
