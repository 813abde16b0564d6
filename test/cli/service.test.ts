/** `sluice serve` under service managers, clients that start it, and commands that it starts. */
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ServerLog } from '../../src/cli/server-log.ts';
import { takePassedSocket } from '../../src/cli/socket-activation.ts';
import { describeWithPeers } from '../support/peers.ts';
import { NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_WRITE, NbdClient } from './nbd-client.ts';
import { exists, Folder, run, Running, serve, sluice, SLUICE, succeed, until } from './sluice.ts';

const MEGABYTE = 2 ** 20;
const SERVE = [process.execPath, SLUICE, 'serve'];

let folder: Folder;
let image: string;
let socket: string;
let uri: string;
beforeEach(async () => {
  folder = await Folder.make();
  image = await folder.image('disk.img', MEGABYTE);
  socket = folder.file('a.sock');
  uri = `nbd+unix:///?socket=${socket}`;
});
afterEach(() => folder[Symbol.asyncDispose]());

/** A parent that listens and passes the socket on, as a service manager does: fd 3. */
const PASS = `
import os, socket, sys
place, count, kind, *command = sys.argv[1:]
if kind == 'file':
    s = open(place, 'w')
elif kind == 'accepted':
    s, peer = socket.socketpair()
else:
    s = socket.socket(socket.AF_INET if kind == 'tcp' else socket.AF_UNIX)
    s.bind(('127.0.0.1', 0) if kind == 'tcp' else place)
    s.listen()
if kind == 'tcp': open(place, 'w').write(str(s.getsockname()[1]))
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=count, LISTEN_FDNAMES='nbd')
os.execvp(command[0], command)
`;

function pass(kind: string, args: readonly string[], count = '1', place = socket): Running {
  return new Running('python3', ['-c', PASS, place, count, kind, ...SERVE, ...args]);
}

describe('the variables of socket activation', () => {
  const ours = { LISTEN_PID: '7', LISTEN_FDS: '1', LISTEN_FDNAMES: 'x', OTHER: 'y' };

  it('are taken when they are for us, and are gone then', () => {
    const environment: NodeJS.ProcessEnv = { ...ours };
    expect(takePassedSocket(environment, 7)).toEqual({ fd: 3 });
    expect(environment).toEqual({ OTHER: 'y' });
    expect(takePassedSocket(environment, 7)).toBe(undefined);
  });

  it('of a parent are left alone', () => {
    const environment: NodeJS.ProcessEnv = { ...ours };
    expect(takePassedSocket(environment, 8)).toBe(undefined);
    expect(environment).toEqual(ours);
  });

  it.each([
    ['0', undefined],
    ['2', { refusal: '2 sockets were passed; name one in the .socket unit' }],
    ['1x', { refusal: "LISTEN_FDS is no number: '1x'" }],
    ['', { refusal: "LISTEN_FDS is no number: ''" }],
  ])('that say %j', (count, expected) => {
    expect(takePassedSocket({ ...ours, LISTEN_FDS: count }, 7)).toEqual(expected);
  });
});

describe('a socket that was passed', () => {
  it('is used, without a word; it stays when the server ends', async () => {
    await using server = pass('unix', [image]);
    await until(() => exists(socket));
    await using client = await NbdClient.connect(uri);
    await client.request(NBD_CMD_WRITE, 0, 4, Buffer.from('here'));
    const environment = await readFile(`/proc/${server.child.pid}/environ`, 'latin1');
    expect(environment).toContain('LISTEN_PID');
    await client[Symbol.asyncDispose]();
    expect(await server.outcome).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect((await stat(socket)).isSocket()).toBe(true);
    expect((await readFile(image)).toString('latin1', 0, 4)).toBe('here');
  });

  it('may be of TCP, and its URI is told with -v', async () => {
    const portFile = folder.file('port');
    await using server = pass('tcp', ['-t', '-v', image], '1', portFile);
    await until(() => /listening: \S+/.test(server.stderr));
    const port = await readFile(portFile, 'utf8');
    expect(server.stderr).toContain(`listening: nbd://127.0.0.1:${port}/`);
    await using client = await NbdClient.connect(`nbd://127.0.0.1:${port}/`);
    expect(client.sizeBytes).toBe(MEGABYTE);
    expect(await server.stop()).toMatchObject({ code: 0 });
  });

  it.each([
    ['unix', ['-k', 'x'], '--socket cannot be used with socket activation'],
    ['unix', ['-p', '10809'], '--port cannot be used with socket activation'],
    ['unix', ['-b', '127.0.0.1'], '--bind cannot be used with socket activation'],
    ['unix', ['--run', 'true'], '--run cannot be used with socket activation'],
    ['unix', ['--fork'], '--fork cannot be used with socket activation'],
    [
      'accepted',
      [],
      'passed as descriptor 3: invalid argument; it must listen: Accept=no (EINVAL)',
    ],
    ['file', [], 'passed as descriptor 3: '],
  ])('is refused: %s %j', async (kind, args, message) => {
    await using server = pass(kind, [...args, image]);
    const { code, stdout, stderr } = await server.outcome;
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^sluice: /);
    expect(stderr).toContain(message);
  });

  it('that has another one beside it is refused', async () => {
    await using server = pass('unix', [image], '2');
    const { code, stderr } = await server.outcome;
    expect([code, stderr]).toEqual([1, expect.stringContaining('2 sockets were passed')]);
  });
});

describeWithPeers(['nbdinfo', 'nbdcopy', 'nbdsh'], 'libnbd starts the server by itself', () => {
  it('nbdinfo', async () => {
    const size = await succeed('nbdinfo', ['--size', '--', '[', ...SERVE, '-r', image, ']']);
    expect(size).toBe(`${MEGABYTE}\n`);
    const list = await succeed('nbdinfo', ['--list', '--', '[', ...SERVE, '-r', image, ']']);
    expect(list).toContain('is_read_only: true');
  });

  it('nbdcopy, both ways', async () => {
    const bytes = Buffer.from(
      Array.from({ length: MEGABYTE }, (_, at) => (at * 7 + (at >> 9)) % 256),
    );
    await writeFile(image, bytes);
    const copy = folder.file('copy.img');
    await succeed('nbdcopy', ['--', '[', ...SERVE, '-r', image, ']', copy]);
    expect((await readFile(copy)).equals(bytes)).toBe(true);
    const target = await folder.image('target.img', MEGABYTE);
    await succeed('nbdcopy', ['--', copy, '[', ...SERVE, target, ']']);
    expect((await readFile(target)).equals(bytes)).toBe(true);
  });

  it('nbdsh, which writes and flushes', async () => {
    const command = JSON.stringify([...SERVE, image]);
    const statements = [
      `h.connect_systemd_socket_activation(${command})`,
      `h.pwrite(b'here', 512)`,
      `h.flush()`,
      `print(h.pread(4, 512), h.get_size())`,
      `h.shutdown()`,
    ].flatMap((statement) => ['-c', statement]);
    const path = `/usr/bin:${process.env['PATH']}`;
    const printed = await succeed('nbdsh', statements, { env: { PATH: path } });
    expect(printed).toBe(`bytearray(b'here') ${MEGABYTE}\n`);
    expect((await readFile(image)).toString('latin1', 512, 516)).toBe('here');
  });
});

describeWithPeers(['systemd-socket-activate'], 'systemd-socket-activate', () => {
  it('starts the server with the first client', async () => {
    const args = ['-l', socket, ...SERVE, image];
    await using server = new Running('systemd-socket-activate', args);
    await until(() => exists(socket));
    await using client = await NbdClient.connect(uri);
    await client.request(NBD_CMD_FLUSH);
    await client[Symbol.asyncDispose]();
    expect(await server.outcome).toMatchObject({ code: 0 });
  });
});

describe('sluice serve --run', () => {
  it('has the server where the variables say, and its exit code', async () => {
    const script = 'echo "$uri|$unixsocket|$port|$nbd|$exportname"; stat -c %a "${unixsocket%/*}"';
    const { code, stdout, stderr } = await sluice([
      'serve',
      '-x',
      'a b',
      '--run',
      `${script}; exit 7`,
      image,
    ]);
    expect({ code, stderr }).toEqual({ code: 7, stderr: '' });
    const [variables, mode] = stdout.split('\n');
    const [found, path, ...others] = variables!.split('|');
    expect(path).toMatch(/\/sluice-\w+\/nbd\.sock$/);
    expect(found).toBe(`nbd+unix:///a%20b?socket=${path}`);
    expect(others).toEqual(['', `nbd:unix:${path}:exportname=a b`, 'a b']);
    expect(mode).toBe('700');
    expect(await exists(path!.replace(/\/nbd\.sock$/, ''))).toBe(false);
  });

  it('listens where it is told to', async () => {
    const script = 'echo "$uri $port [$unixsocket] $nbd"';
    const { stdout } = await sluice(['serve', '-p', '0', '--run', script, image]);
    expect(stdout).toMatch(/^nbd:\/\/127\.0\.0\.1:(\d+)\/ \1 \[\] nbd:127\.0\.0\.1:\1\n$/);
    const six = await sluice(['serve', '-b', '::1', '-p', '0', '--run', 'echo $nbd', image]);
    expect(six.stdout).toMatch(/^nbd:\[::1\]:\d+\n$/);
    const unix = await sluice(['serve', '-k', socket, '--run', 'echo $unixsocket', image]);
    expect(unix.stdout).toBe(`${socket}\n`);
  });

  it('goes on when clients come and go, and flushes at the end', async () => {
    const go = folder.file('go');
    const script = `while [ ! -e ${go} ]; do sleep 0.05; done`;
    await using server = new Running(SERVE[0]!, [
      ...SERVE.slice(1),
      '-k',
      socket,
      '--run',
      script,
      image,
    ]);
    await until(() => exists(socket));
    for (const text of ['once', 'more']) {
      await using client = await NbdClient.connect(uri);
      await client.request(NBD_CMD_WRITE, 0, 4, Buffer.from(text));
      expect((await client.request(NBD_CMD_READ, 0, 4)).toString()).toBe(text);
    }
    await writeFile(go, '');
    expect(await server.outcome).toMatchObject({ code: 0, stderr: '' });
    expect((await readFile(image)).toString('latin1', 0, 4)).toBe('more');
  });

  it('exits with 128 and the signal that ends the command', async () => {
    expect(await sluice(['serve', '--run', 'kill -KILL $$', image])).toMatchObject({ code: 137 });
    expect(await sluice(['serve', '--run', 'none-of-it', image])).toMatchObject({ code: 127 });
  });

  it.each(['SIGTERM', 'SIGHUP', 'SIGINT'] as const)('passes %s on, and waits', async (signal) => {
    const trap = `trap 'echo passed; exit 3' TERM INT HUP; echo ready; while :; do sleep 1; done`;
    await using server = new Running(SERVE[0]!, [...SERVE.slice(1), '--run', trap, image]);
    await server.shows(/ready/);
    expect(await server.stop(signal)).toMatchObject({ code: 3, stdout: 'ready\npassed\n' });
  });

  /** A command that says where its folder is and which process of it does not end by SIGTERM. */
  const DEAF = `trap '' TERM; sleep 600 & echo "[\${unixsocket%/*}] $! ready"; wait; wait`;
  const isThere = async (pid: number): Promise<boolean> => {
    const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '');
    // A zombie waits for its parent only. proc(5): pid (name) state.
    return text !== '' && !text.includes(') Z ');
  };
  const deaf = async (script: string) => {
    const args = [...SERVE.slice(1), '--run', script, image];
    const server = new Running(SERVE[0]!, args);
    const [, place, pid] = await server.shows(/\[(.*)\] (\d+) ready/);
    return { server, place: place!, pid: Number(pid) };
  };

  it('kills a command that does not end, and all that it started', async () => {
    const { server, place, pid } = await deaf(DEAF);
    await using _server = server;
    const began = performance.now();
    const { code, stderr } = await server.stop();
    expect(performance.now() - began).toBeGreaterThan(4900);
    expect(code).toBe(137);
    expect(stderr).toBe(
      'sluice: warning: the command did not end in 5 s after SIGTERM: it is killed\n',
    );
    expect([await isThere(pid), await exists(place)]).toEqual([false, false]);
  });

  it('kills what a command leaves that does end', async () => {
    const { server, place, pid } = await deaf(`(${DEAF}) & wait`);
    await using _server = server;
    const { code, stderr } = await server.stop();
    expect([code, stderr]).toEqual([143, expect.stringContaining('it is killed')]);
    expect([await isThere(pid), await exists(place)]).toEqual([false, false]);
  });

  it('kills the command at a second signal, and leaves no folder', async () => {
    const { server, place, pid } = await deaf(DEAF);
    await using _server = server;
    server.child.kill('SIGTERM');
    await new Promise((resolve) => setTimeout(resolve, 200));
    const { code, stderr } = await server.stop();
    expect([code, stderr]).toEqual([130, expect.stringContaining('gave up')]);
    await until(async () => !(await isThere(pid)));
    expect(await exists(place)).toBe(false);
  });

  it('leaves no folder when the signal comes before the server is up', async () => {
    const place = folder.file('tmp');
    await mkdir(place);
    const args = [...SERVE.slice(1), '--run', 'exec sleep 600', image];
    await using server = new Running(SERVE[0]!, args, { env: { TMPDIR: place } });
    await until(async () => (await readdir(place)).length > 0);
    expect(await server.stop()).toMatchObject({ code: 143 });
    expect(await readdir(place)).toEqual([]);
  });

  it('does not begin when the image cannot be served', async () => {
    const outcome = await sluice(['serve', '--run', 'echo ran', folder.file('none.img')]);
    expect(outcome).toMatchObject({ code: 1, stdout: '' });
  });
});

describe('sluice serve -v', () => {
  const TIME = String.raw`\d{4}-\d\d-\d\dT[\d:.]+Z`;

  it('says who comes, what fails and how it ends, a line each', async () => {
    await using server = await serve(['-t', '-v', '-k', socket, image]).catch((error: unknown) => {
      throw error;
    });
    {
      await using client = await NbdClient.connect(uri);
      await client.request(NBD_CMD_WRITE, 0, 6, Buffer.from('secret'));
      const refused = client.request(NBD_CMD_READ, MEGABYTE, 512);
      await expect(refused).rejects.toThrow('error 22');
    }
    const stranger = connect(socket);
    stranger.write('GET / HTTP/1.1\r\n\r\n');
    await until(
      () => server.stderr.includes('does not speak NBD') || server.stderr.includes('flags'),
    );
    stranger.destroy();
    const { stderr, code } = await server.stop();
    expect(code).toBe(0);
    const [first, ...lines] = stderr.trimEnd().split('\n');
    expect(first).toBe(uri);
    const texts = lines.map((line) => line.replace(new RegExp(`^${TIME} `), ''));
    expect(texts).toEqual([
      'client 1: connected, export "", read-write, simple replies',
      'client 1: read of 512 bytes at 1048576: EINVAL',
      expect.stringMatching(/^client 1: gone \(\w+\) after \d\.\d+ s: 2 requests, 1 errors, /),
      expect.stringMatching(/^client 2: ended before transmission \(protocol: it .*\)$/),
    ]);
    expect(stderr).not.toContain('secret');
  });

  it('says no more than somebody could want', () => {
    const said: string[] = [];
    let now = 0;
    const log = new ServerLog(
      (text) => said.push(text),
      () => now,
    );
    for (let line = 0; line < 1000; line++) log.line(`${line}`);
    expect(said).toHaveLength(100);
    expect(said[99]).toBe('1970-01-01T00:00:00.000Z 99');
    now = 1000;
    for (let line = 0; line < 1000; line++) log.line(`later ${line}`);
    expect(said[100]).toBe('1970-01-01T00:00:01.000Z 900 lines were left out');
    expect(said).toHaveLength(100 + 1 + 20);
  });

  it('says at the end what it left out, and nothing where that is nothing', () => {
    const said: string[] = [];
    {
      using log = new ServerLog(
        (text) => said.push(text),
        () => 0,
      );
      for (let line = 0; line < 103; line++) log.line(`${line}`);
    }
    expect(said.slice(99)).toEqual([
      '1970-01-01T00:00:00.000Z 99',
      '1970-01-01T00:00:00.000Z 3 lines were left out',
    ]);
    const quiet: string[] = [];
    new ServerLog((text) => quiet.push(text))[Symbol.dispose]();
    expect(quiet).toEqual([]);
  });
});

describeWithPeers(['systemd-analyze'], 'the units of the README', () => {
  it('are what systemd understands', async () => {
    const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8');
    const units = [...readme.matchAll(/```ini\n# (\S+)\n([^]*?)```/g)];
    expect(units.map(([, name]) => name)).toEqual(['sluice.socket', 'sluice.service']);
    await mkdir(folder.file('units'));
    const paths: string[] = [];
    for (const [, name, text] of units) {
      const path = folder.file(`units/${name}`);
      // The program and the user of the example need not be on this machine.
      const here = text!.replace('/usr/local/bin/sluice', '/bin/true').replace(/^User=.*$/m, '');
      await writeFile(path, here);
      paths.push(path);
    }
    const { code, stderr } = await run('systemd-analyze', ['verify', ...paths]);
    const about = stderr.split('\n').filter((line) => line.includes('sluice'));
    expect(about).toEqual([]);
    expect(code).toBe(0);
  });
});
