/** The control socket of `sluice serve --control`, and who asks it. */
import { once } from 'node:events';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { get } from 'node:http';
import { connect, createServer } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import packageJson from '../../package.json' with { type: 'json' };
import { describeWithPeers } from '../support/peers.ts';
import { parsePrometheus } from '../support/prometheus.ts';
import { NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_WRITE, NbdClient } from './nbd-client.ts';
import { Folder, Running, serve, type Serving, sluice, SLUICE, succeed } from './sluice.ts';

const MEGABYTE = 2 ** 20;

let folder: Folder;
let image: string;
let socket: string;
let control: string;
beforeEach(async () => {
  folder = await Folder.make();
  image = await folder.image('disk.img', MEGABYTE);
  socket = folder.file('a.sock');
  control = folder.file('ctl');
});
afterEach(() => folder[Symbol.asyncDispose]());

function serveControlled(): Promise<Serving> {
  return serve(['-t', '-k', socket, '--control', control, image]);
}

interface Answer {
  readonly status: number | undefined;
  readonly type: string | undefined;
  readonly body: string;
}

function ask(path: string, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asked = get({ socketPath: control, path, method, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text: string) => (body += text));
      response.on('end', () => {
        resolve({ status: response.statusCode, type: response.headers['content-type'], body });
      });
    });
    asked.on('error', reject);
  });
}

/** Everything that comes until the server closes; undefined: it did not within 10 s. */
async function rest(bytes: string): Promise<string | undefined> {
  const client = connect(control);
  let text = '';
  client.setEncoding('utf8').on('data', (more: string) => (text += more));
  client.write(bytes);
  const signal = AbortSignal.timeout(10_000);
  const closed = await once(client, 'close', { signal }).then(
    () => true,
    () => false,
  );
  client.destroy();
  return closed ? text : undefined;
}

describe('the control socket', () => {
  it('is for its owner only, is there with the URI and gone at the end', async () => {
    const server = await serveControlled();
    await using _server = server;
    const { mode } = await stat(control);
    expect((mode & 0o777).toString(8)).toBe('600');
    // What else the server makes has the usual mode.
    const usual = (await stat(socket)).mode & 0o777;
    expect(usual.toString(8)).toBe((0o777 & ~process.umask()).toString(8));
    expect(await server.stop()).toMatchObject({ code: 0 });
    await expect(stat(control)).rejects.toThrow('ENOENT');
  });

  it('tells statistics as JSON', async () => {
    await using server = await serveControlled();
    await using client = await NbdClient.connect(server.uri);
    await client.request(NBD_CMD_WRITE, 0, 512, Buffer.alloc(512));
    await client.request(NBD_CMD_READ, 0, 512);
    await client.request(NBD_CMD_FLUSH);
    const { status, type, body } = await ask('/stats?x=1');
    expect([status, type]).toEqual([200, 'application/json']);
    const told = JSON.parse(body) as Record<string, unknown>;
    expect(told).toMatchObject({
      sluice: packageJson.version,
      node: process.versions.node,
      pid: server.child.pid,
      healthy: true,
      server: {
        uri: server.uri,
        connections: { accepted: 1, serving: 1, limit: 100 },
        exports: [
          {
            name: '',
            sizeBytes: MEGABYTE,
            commands: { write: { requests: 1, bytes: 512 }, flush: { requests: 1 } },
            disk: { syncs: 1, flushes: { received: 1 } },
          },
        ],
        clients: [{ id: 1, address: '', commands: { read: { requests: 1, bytes: 512 } } }],
      },
    });
  });

  it('tells metrics as Prometheus reads them', async () => {
    await using server = await serveControlled();
    await using client = await NbdClient.connect(server.uri);
    await client.request(NBD_CMD_FLUSH);
    const { status, type, body } = await ask('/metrics');
    expect([status, type]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8']);
    const families = parsePrometheus(body);
    const values = new Map(families.map(({ name, samples }) => [name, samples.at(0)?.value]));
    expect(values.get('sluice_build_info')).toBe(1);
    expect(values.get('sluice_nbd_clients')).toBe(1);
    expect(values.get('process_resident_memory_bytes')).toBeGreaterThan(10 * MEGABYTE);
    const startedAt = values.get('process_start_time_seconds')!;
    expect(Math.abs(startedAt - Date.now() / 1000)).toBeLessThan(60);
  });

  it('has metrics of its own, which docs/metrics.md names', async () => {
    const keys = folder.file('keys.psk');
    await writeFile(keys, `alice:${'0f'.repeat(16)}\n`);
    const secure = ['--tls-psk', keys];
    await using _server = await serve(['-t', '-k', socket, '--control', control, ...secure, image]);
    const document = await readFile(new URL('../../docs/metrics.md', import.meta.url), 'utf8');
    for (const { name } of parsePrometheus((await ask('/metrics')).body)) {
      expect(document).toContain(`\`${name}\``);
    }
    const { tlsReloads } = JSON.parse((await ask('/stats')).body) as Record<string, unknown>;
    expect(tlsReloads).toEqual({ done: 0, failed: 0, stale: false });
  });

  it('tells health, and what else it is asked', async () => {
    await using _server = await serveControlled();
    expect(await ask('/health')).toMatchObject({ status: 200, body: 'ok\n' });
    expect(await ask('/health', 'HEAD')).toMatchObject({ status: 200, body: '' });
    expect(await ask('/stats', 'POST')).toMatchObject({ status: 405, body: 'GET or HEAD\n' });
    const body = 'there is /stats, /metrics, /health\n';
    for (const path of ['/', '/stats/x', '/%73tats', '/../stats']) {
      expect(await ask(path)).toMatchObject({ status: 404, body });
    }
  });

  it('takes the absolute form of a target, as proxies send it (RFC 9112, 3.2.2)', async () => {
    await using _server = await serveControlled();
    const lines = async (target: string): Promise<string> => {
      const text = await rest(`GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`);
      return `${text!.split('\r\n')[0]} ${text!.split('\r\n\r\n')[1]}`;
    };
    for (const target of ['http://x/health', 'HTTP://x:80/health?y', 'https://[::1]/health']) {
      expect(await lines(target)).toBe('HTTP/1.1 200 OK ok\n');
    }
    for (const target of ['http://x', 'http://x/', 'http://x?/health', 'x/health', '//health']) {
      expect(await lines(target)).toMatch(/^HTTP\/1.1 40[04] /);
    }
  });

  it('ends connections that are slow, idle, wrong or too large', async () => {
    await using server = await serveControlled();
    await using client = await NbdClient.connect(server.uri);
    const twice = 'GET /health HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(2);
    const [silent, slow, wrong, large, pipelined] = await Promise.all([
      rest(''),
      rest('GET /stats HTTP/1.1\r\nHost'),
      rest('\x00\x01NBDMAGIC'),
      rest(`GET /stats HTTP/1.1\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`),
      rest(twice),
    ]);
    expect(silent).toBe('');
    expect(slow).toMatch(/^(HTTP\/1.1 408 [^]*)?$/);
    expect(wrong).toMatch(/^HTTP\/1.1 400 /);
    expect(large).toMatch(/^HTTP\/1.1 431 /);
    expect(pipelined!.match(/ok\n/g)).toHaveLength(1);
    await client.request(NBD_CMD_FLUSH);
  });

  it('has room again after many who hold on', { timeout: 30_000 }, async () => {
    await using server = await serveControlled();
    await using client = await NbdClient.connect(server.uri);
    // They read, so that they see the end behind a 408.
    const holders = Array.from({ length: 64 }, () =>
      connect(control)
        .on('error', () => undefined)
        .resume(),
    );
    await Promise.all(holders.map((holder) => once(holder, 'close')));
    expect(await ask('/health')).toMatchObject({ status: 200 });
    await client.request(NBD_CMD_FLUSH);
  });

  it('takes the place of one whose server was killed, and of nothing else', async () => {
    {
      await using server = await serveControlled();
      await server.stop('SIGKILL');
    }
    await using _server = await serveControlled();
    const other = await folder.image('other.img', MEGABYTE);
    const args = ['serve', '-k', folder.file('b.sock'), '--control'];
    const busy = await sluice([...args, control, other]);
    expect(busy).toMatchObject({ code: 1, stdout: '' });
    expect(busy.stderr).toMatch(/^sluice: cannot listen on ".*ctl": address already in use; .*\n$/);
    const file = folder.file('precious');
    await writeFile(file, 'x');
    const refused = await sluice([...args, file, other]);
    expect(refused.stderr).toMatch(/a file that is not a socket is in the way; .*--control \(EEXI/);
    await expect(stat(folder.file('b.sock'))).rejects.toThrow('ENOENT');
  });

  it('is there with --fork too', async () => {
    const pidFile = folder.file('pid');
    const args = ['serve', '--fork', '-t', '-k', socket, '--pid-file', pidFile];
    expect(await sluice([...args, '--control', control, image])).toMatchObject({ code: 0 });
    const { body } = await ask('/stats');
    const { pid } = JSON.parse(body) as { pid: number };
    // A daemon has no terminal that hangs up; SIGUSR2 has nowhere to print to.
    for (const signal of ['SIGHUP', 'SIGUSR2'] as const) process.kill(pid, signal);
    await using client = await NbdClient.connect(`nbd+unix:///?socket=${socket}`);
    await client.request(NBD_CMD_FLUSH);
    expect(await ask('/health')).toMatchObject({ status: 200 });
    process.kill(pid, 'SIGTERM');
    for (;;) {
      const gone = await stat(pidFile).then(
        () => false,
        () => true,
      );
      if (gone) break;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });
});

describeWithPeers(['curl'], 'curl', () => {
  it('gets metrics', async () => {
    await using _server = await serveControlled();
    const text = await succeed('curl', [
      '-sS',
      '--fail',
      '--unix-socket',
      control,
      'http://localhost/metrics',
    ]);
    expect(parsePrometheus(text).length).toBeGreaterThan(30);
  });
});

describe('sluice stats', () => {
  it('prints a table, or the JSON as it came', async () => {
    await using server = await serveControlled();
    await using client = await NbdClient.connect(server.uri);
    await client.request(NBD_CMD_WRITE, 0, 512, Buffer.alloc(512));
    await expect(client.request(NBD_CMD_READ, MEGABYTE, 1)).rejects.toThrow('error 22');
    const text = await succeed(process.execPath, [SLUICE, 'stats', control]);
    expect(text).toMatch(/^nbd\+unix:\S+ {2}pid \d+, up \d+ s, /);
    expect(text).toContain('connections: 1 of 100 served, 0 wait, 0 negotiate; 1 accepted');
    expect(text).toMatch(/^ {2}command +requests +bytes +errors +mean +p50 +p99 +p99.9$/m);
    expect(text).toMatch(/^ {2}read +1 +- +EINVAL 1 +\S+ \w+ +<\S+ us +<\S+ us +<\S+ us$/m);
    expect(text).toMatch(/^ {2}write +1 +512 B +- /m);
    expect(text).toMatch(/^ {2}1 unix "": \d+ s, /m);
    const json = await succeed(process.execPath, [SLUICE, 'stats', '--output', 'json', control]);
    expect(JSON.parse(json)).toMatchObject({ pid: server.child.pid });
    expect(JSON.parse(json)).not.toHaveProperty('tlsReloads');
  });

  it('goes on with --watch until Ctrl-C', async () => {
    await using _server = await serveControlled();
    const args = [SLUICE, 'stats', '--watch', '1', '--output', 'json', control];
    await using watching = new Running(process.execPath, args);
    await watching.shows(/uptimeSeconds[^]*uptimeSeconds/);
    expect(await watching.stop('SIGINT')).toMatchObject({ signal: 'SIGINT' });
  });

  it('ends in silence with --watch when its reader goes away', async () => {
    await using _server = await serveControlled();
    const args = [SLUICE, 'stats', '--watch', '1', control];
    await using watching = new Running(process.execPath, args);
    await watching.shows(/connections: /);
    watching.child.stdout!.destroy();
    expect(await watching.outcome).toMatchObject({ code: 0, stderr: '' });
  });

  it('says what is wrong where no server answers', { timeout: 30_000 }, async () => {
    await using _server = await serveControlled();
    const ends = async (path: string): Promise<string> => {
      const { code, stdout, stderr } = await sluice(['stats', path]);
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      return stderr;
    };
    expect(await ends(folder.file('none'))).toMatch(/no such file or directory \(ENOENT\)\n$/);
    expect(await ends(socket)).toMatch(/does not speak HTTP, so it is no control .*\(EPROTO\)\n$/);
    const mute = createServer(() => undefined).listen(folder.file('mute'));
    const strange = createServer((client) => {
      client.end('HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{');
    }).listen(folder.file('strange'));
    expect(await ends(folder.file('mute'))).toMatch(/: no answer for 5 s \(ETIMEDOUT\)\n$/);
    expect(await ends(folder.file('strange'))).toMatch(/the answer is no JSON \(EPROTO\)\n$/);
    mute.close();
    strange.close();
  });

  it('says so when the answer is cut off, or that of somebody else', async () => {
    const bodies = new Map([
      ['cut', 'HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{"a"'],
      ...['null', '[]', '7', '{}', '{"server":{}}'].map((body): [string, string] => [
        body,
        `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      ]),
    ]);
    for (const [body, answer] of bodies) {
      const path = folder.file('odd');
      const odd = createServer((client) => void client.end(answer)).listen(path);
      const { code, stdout, stderr } = await sluice(['stats', path]);
      odd.close();
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      const reason =
        body === 'cut' ? 'it closed before the end of its answer' : 'the answer is not that of a';
      expect(stderr).toContain(reason);
    }
  });

  it('shows no control characters of a server', async () => {
    await using _server = await serveControlled();
    const stats = JSON.parse((await ask('/stats')).body) as { server: { uri: string } };
    stats.server.uri = 'nbd://\u001b[2J\u009b2J';
    const body = JSON.stringify(stats);
    const path = folder.file('odd');
    const head = `HTTP/1.1 200 OK\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n`;
    const odd = createServer((client) => void client.end(head + body)).listen(path);
    const { stdout } = await sluice(['stats', path]);
    odd.close();
    expect(stdout).toMatch(/^nbd:\/\/\?\[2J\?2J {2}pid /);
  });
});

describe('SIGUSR2', () => {
  it('prints the table on stderr, and the server goes on', async () => {
    await using server = await serve(['-t', '-k', socket, image]);
    await using client = await NbdClient.connect(server.uri);
    server.child.kill('SIGUSR2');
    await client.request(NBD_CMD_FLUSH);
    const { stderr, code } = await server.stop();
    expect(code).toBe(0);
    expect(stderr).toContain('connections: 1 of 100 served');
  });
});
