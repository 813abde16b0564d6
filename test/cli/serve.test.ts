import { access, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, type TestContext } from 'vitest';
import { CACHE_MODES } from '../../src/cache-mode.ts';
import {
  NBD_CMD_DISC,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NbdClient,
} from './nbd-client.ts';
import { Folder, serve, type Serving, sluice, until } from './sluice.ts';

const MEGABYTE = 2 ** 20;

let folder: Folder;
let image: string;
let socket: string;
beforeEach(async () => {
  folder = await Folder.make();
  image = await folder.image('disk.img', MEGABYTE);
  socket = folder.file('a.sock');
});
afterEach(() => folder[Symbol.asyncDispose]());

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('several images', () => {
  const lines = (server: Serving, count: number): string[] =>
    server.stderr.split('\n').slice(0, count);

  it('are exports that are named like their files, with a URI each', async () => {
    const other = await folder.image('other.img', 2 * MEGABYTE);
    await using server = await serve(['-t', '-k', socket, image, other]);
    expect(lines(server, 2)).toEqual([
      `nbd+unix:///disk.img?socket=${socket}`,
      `nbd+unix:///other.img?socket=${socket}`,
    ]);
    await using first = await NbdClient.connect(server.uri, 'disk.img');
    await using second = await NbdClient.connect(server.uri, 'other.img');
    await using unnamed = await NbdClient.connect(server.uri);
    const sizes = [first, second, unnamed].map(({ sizeBytes }) => sizeBytes);
    expect(sizes).toEqual([MEGABYTE, 2 * MEGABYTE, MEGABYTE]);
    await second.request(NBD_CMD_WRITE, 4096, 512, new Uint8Array(512).fill(7));
    expect((await server.stop()).code).toBe(0);
    expect((await readFile(other)).subarray(4096, 4608)).toEqual(Buffer.alloc(512, 7));
    expect((await readFile(image)).every((byte) => byte === 0)).toBe(true);
  });

  it('have names and formats in their order', async () => {
    const qcow2 = folder.file('q.qcow2');
    const made = await sluice(['create', '-f', 'qcow2', qcow2, '4M']);
    expect(made.code).toBe(0);
    const each = ['-x', 'a', '-f', 'raw', '-x', 'b', '-f', 'qcow2'];
    await using server = await serve(['-t', '-k', socket, ...each, image, qcow2]);
    await using second = await NbdClient.connect(server.uri, 'b');
    expect(second.sizeBytes).toBe(4 * MEGABYTE);
    await expect(NbdClient.connect(server.uri, 'disk.img')).rejects.toThrow();
  });

  describe('take what is said of all as far as it fits', () => {
    const args = (): string[] => ['-t', '-k', socket, '-f', 'qcow2', '-f', 'qcow2', '-f', 'raw'];
    let key: string;
    let [locked, open] = ['', ''];
    beforeEach(async () => {
      key = folder.file('key');
      [locked, open] = [folder.file('locked.qcow2'), folder.file('open.qcow2')];
      await writeFile(key, 'secret');
      const luks = ['-o', 'encrypt.format=luks,encrypt.iter-time=10', '--key-file', key];
      for (const [path, how] of [
        [locked, luks],
        [open, []],
      ] as const) {
        const made = await sluice(['create', '-f', 'qcow2', ...how, path, '4M']);
        expect(made).toMatchObject({ code: 0, stderr: '' });
      }
      expect(await sluice(['bitmap', '--add', open, 'b0'])).toMatchObject({ code: 0 });
    });

    it('a key: the encrypted ones; an image of qcow2 that is not is named', async () => {
      const shared = ['--key-file', key, '--flush-interval', '100', '--allow', folder.path];
      await using server = await serve([...args(), ...shared, locked, open, image]);
      await until(() => server.stderr.includes('is not for it'));
      const warnings = server.stderr.split('\n').filter((line) => line.includes('warning'));
      expect(warnings).toEqual([
        `sluice: warning: ${open}: it is not encrypted: the key of "${key}" is not for it`,
      ]);
      await using client = await NbdClient.connect(server.uri, 'locked.qcow2');
      expect(client.sizeBytes).toBe(4 * MEGABYTE);
    });

    it('a key that fits none, or an image that it was given for, is refused by name', async () => {
      const both = ['-f', 'qcow2', '-f', 'raw', open, image];
      const none = await sluice(['serve', '--key-file', key, ...both]);
      expect(none).toMatchObject({ code: 1 });
      expect(none.stderr).toMatch(
        /--key-file ".*key" is for encrypted images, and none of ".*open/,
      );
      expect(none.stderr).toMatch(
        /"\S+disk.img" is encrypted; leave it out .*INVALID_ARGUMENT\)\n$/,
      );
      const each = ['--key-file', key, '--key-file', key, '-f', 'qcow2', '-f', 'raw'];
      const own = await sluice(['serve', ...each, locked, image]);
      expect(own.stderr).toBe(
        `sluice: "${image}": --key-file is for qcow2 images: pass -f qcow2 ` +
          '(ERR_SLUICE_INVALID_ARGUMENT)\n',
      );
      const single = await sluice(['serve', '--flush-interval', '5', image]);
      expect(single.stderr).toContain(`sluice: "${image}": --flush-interval is for qcow2`);
      const wrong = await sluice(['serve', '--key-file', image, '-f', 'qcow2', open, locked]);
      expect(wrong.stderr).toMatch(/^sluice: .*locked.qcow2.*\(ERR_SLUICE_KEY\)\n$/);
    });

    it('a bitmap: those that have it; none is refused by name', async () => {
      const shared = ['-r', '-B', 'b0', '-f', 'qcow2', '-f', 'raw'];
      await using server = await serve(['-t', '-k', socket, ...shared, open, image]);
      await using client = await NbdClient.connect(server.uri, 'disk.img');
      expect(client.sizeBytes).toBe(MEGABYTE);
      const both = ['-f', 'qcow2', '-f', 'raw', open, image];
      const none = await sluice(['serve', '-r', '-B', 'b1', ...both]);
      expect(none).toMatchObject({ code: 1 });
      expect(none.stderr).toContain('none of "open.qcow2", "disk.img" has a bitmap "b1"; sluice');
      const only = await sluice(['serve', '-r', '-B', 'b1', '-f', 'qcow2', open]);
      expect(only.stderr).toContain(`sluice: "${open}": the disk has no bitmap "b1"; sluice info`);
    });
  });

  it('are closed again when one of them cannot be opened', async () => {
    const ended = await sluice(['serve', '-t', '-k', socket, image, folder.file('none')]);
    expect(ended).toMatchObject({ code: 1, stdout: '' });
    expect(ended.stderr).toContain('none');
    expect(ended.stderr).not.toContain('nbd+unix');
    expect(await exists(socket)).toBe(false);
  });
});

describe('TLS', () => {
  const KEYS = 'alice:000102030405060708090a0b0c0d0e0f\n';
  let keys: string;
  beforeEach(async () => {
    keys = folder.file('keys.psk');
    await writeFile(keys, KEYS);
  });

  const client = (server: Serving): string =>
    `${server.uri.replace('nbd+', 'nbds+')}&tls-psk-file=${keys}&tls-username=alice`;

  it('by a key: the URI is nbds, and nothing is served in clear', async () => {
    await using server = await serve(['-t', '-k', socket, '--tls-psk', keys, image]);
    expect(server.uri).toBe(`nbds+unix:///?socket=${socket}`);
    const told = await sluice(['info', '-f', 'raw', client(server)]);
    expect(told).toMatchObject({ code: 0, stderr: '' });
    await expect(NbdClient.connect(server.uri)).rejects.toThrow('hung up');
    expect((await server.stop()).code).toBe(0);
  });

  it('may be left to clients, or off', async () => {
    const args = ['-t', '-k', socket, '--tls-psk', keys];
    for (const [mode, secure] of [
      ['on', 0],
      ['off', 1],
    ] as const) {
      await using server = await serve([...args, '--tls', mode, image]);
      expect(server.uri).toBe(`nbd+unix:///?socket=${socket}`);
      await using clear = await NbdClient.connect(server.uri);
      expect(clear.sizeBytes).toBe(MEGABYTE);
      expect((await sluice(['info', '-f', 'raw', client(server)])).code).toBe(secure);
    }
  });

  it('tells of clients that have none, and not of each', async () => {
    await using server = await serve(['-t', '-k', socket, '--tls-psk', keys, image]);
    const wrong = folder.file('wrong.psk');
    await writeFile(wrong, KEYS.replace('00', 'ff'));
    for (let round = 0; round < 3; round++) {
      const refused = await sluice(['info', '-f', 'raw', client(server).replace('keys', 'wrong')]);
      expect(refused.code).toBe(1);
    }
    const { stderr } = await server.stop();
    expect(stderr.match(/no TLS with a client: /g)).toHaveLength(1);
  });

  it('needs files that are there, and that are what they should be', async () => {
    const none = await sluice(['serve', '--tls-certificates', folder.path, '-k', socket, image]);
    expect(none.stderr).toMatch(/cannot read ".*server-cert.pem".*\(ERR_SLUICE_OPEN\)/);
    await writeFile(folder.file('server-cert.pem'), 'noise');
    await writeFile(folder.file('server-key.pem'), 'noise');
    const noise = await sluice(['serve', '--tls-certificates', folder.path, '-k', socket, image]);
    expect(noise.stderr).toContain('the folder of --tls-certificates has a certificate or a key');
    await writeFile(keys, 'alice');
    const line = await sluice(['serve', '--tls-psk', keys, '-k', socket, image]);
    expect(line.stderr).toContain('line 1 is not USER:KEY');
    expect([none.code, noise.code, line.code]).toEqual([1, 1, 1]);
    expect(await exists(socket)).toBe(false);
  });
});

describe('the limits of time', () => {
  it('are those of the command line', async () => {
    const limits = ['--handshake-limit', '1', '--idle-limit', '1', '-e', '1'];
    await using server = await serve(['-t', '-k', socket, ...limits, image]);
    const silent = connect(socket);
    const began = performance.now();
    await once(silent.resume(), 'close');
    expect(performance.now() - began).toBeGreaterThan(900);
    const idle = await NbdClient.connect(server.uri);
    await idle.request(NBD_CMD_READ, 0, 512);
    await pause(1500);
    await using next = await NbdClient.connect(server.uri);
    expect(next.sizeBytes).toBe(MEGABYTE);
    await idle.end();
  });
});

describe('the URI', () => {
  it('of a unix socket has its absolute path', async () => {
    await using server = await serve(['-t', '-k', 'a.sock', 'disk.img'], { cwd: folder.path });
    expect(server.uri).toBe(`nbd+unix:///?socket=${socket}`);
  });

  it('has the name of the export, and the path in percent-encoding', async () => {
    const odd = folder.file('a b?&.sock');
    await using server = await serve(['-t', '-k', odd, '-x', 'x/ä', image]);
    expect(server.uri).toBe(`nbd+unix:///x%2F%C3%A4?socket=${folder.path}/a%20b%3F%26.sock`);
    await using client = await NbdClient.connect(server.uri, 'x/ä');
    expect(client.sizeBytes).toBe(MEGABYTE);
  });

  it('has the port that was found for -p 0', async () => {
    await using server = await serve(['-t', '-p', '0', image]);
    expect(server.uri).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+\/?$/);
    await using client = await NbdClient.connect(server.uri);
    expect(client.sizeBytes).toBe(MEGABYTE);
  });

  it('has the address of -b', async () => {
    await using server = await serve(['-t', '-b', 'localhost', '-p', '0', image]);
    expect(server.uri).toMatch(/^nbd:\/\/localhost:\d+\/?$/);
    await using client = await NbdClient.connect(server.uri);
    expect(client.sizeBytes).toBe(MEGABYTE);
  });

  it('is relative when the absolute path is too long for a socket', async () => {
    const deep = folder.file('d'.repeat(120));
    await mkdir(deep);
    await using server = await serve(['-t', '-k', 'a.sock', image], { cwd: deep });
    expect(server.uri).toBe('nbd+unix:///?socket=a.sock');
    expect(await exists(join(deep, 'a.sock'))).toBe(true);
  });
});

describe('the end of sluice serve', () => {
  it.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)(
    'by %s exits with 0 and leaves no socket and no pid file',
    async (signal) => {
      const pidFile = folder.file('pid');
      await using server = await serve(['-t', '-k', socket, '--pid-file', pidFile, image]);
      expect(await readFile(pidFile, 'utf8')).toBe(`${server.child.pid}\n`);
      expect((await stat(socket)).isSocket()).toBe(true);
      await using client = await NbdClient.connect(server.uri);
      await client.request(NBD_CMD_WRITE, 4096, 4, Buffer.from('here'));
      const outcome = await server.stop(signal);
      expect(outcome).toEqual({
        code: 0,
        signal: null,
        stdout: '',
        stderr: `${server.uri}\n`,
      });
      expect([await exists(socket), await exists(pidFile)]).toEqual([false, false]);
      expect((await readFile(image)).toString('latin1', 4096, 4100)).toBe('here');
    },
  );

  it('leaves the pid file of a successor alone', async () => {
    const pidFile = folder.file('pid');
    await using server = await serve(['-t', '-k', socket, '--pid-file', pidFile, image]);
    await writeFile(pidFile, '1\n');
    expect(await server.stop()).toMatchObject({ code: 0 });
    expect(await readFile(pidFile, 'utf8')).toBe('1\n');
  });

  it('comes without -t when the last client has gone', async () => {
    await using server = await serve(['-k', socket, image]);
    const one = await NbdClient.connect(server.uri);
    const other = await NbdClient.connect(server.uri);
    await one[Symbol.asyncDispose]();
    await other.request(NBD_CMD_FLUSH);
    await pause(200);
    expect(server.child.exitCode).toBe(null);
    await other[Symbol.asyncDispose]();
    expect(await server.outcome).toMatchObject({ code: 0, stderr: `${server.uri}\n` });
    expect(await exists(socket)).toBe(false);
  });

  it('does not come without -t when somebody connects who is no client', async () => {
    await using server = await serve(['-k', socket, image]);
    const stranger = connect(socket);
    await once(stranger, 'readable');
    stranger.destroy();
    await pause(200);
    await using client = await NbdClient.connect(server.uri);
    await client.request(NBD_CMD_FLUSH);
  });

  it('does not come with -t', async () => {
    await using server = await serve(['-t', '-k', socket, image]);
    for (let round = 0; round < 3; round++) {
      await using client = await NbdClient.connect(server.uri);
      await client.request(NBD_CMD_FLUSH);
    }
    await pause(200);
    expect(server.child.exitCode).toBe(null);
  });
});

describe('clients', () => {
  it('beyond -e wait for their turn', async () => {
    await using server = await serve(['-t', '-e', '1', '-k', socket, image]);
    const first = await NbdClient.connect(server.uri);
    const second = NbdClient.connect(server.uri);
    const early = await Promise.race([second, pause(300)]);
    expect(early).toBe(undefined);
    await first[Symbol.asyncDispose]();
    await using client = await second;
    expect(client.sizeBytes).toBe(MEGABYTE);
  });

  it('who wait for a slot keep a server without -t alive', async () => {
    await using server = await serve(['-e', '1', '-k', socket, image]);
    const first = await NbdClient.connect(server.uri);
    const second = NbdClient.connect(server.uri);
    await pause(100);
    await first[Symbol.asyncDispose]();
    const client = await second;
    await client.request(NBD_CMD_FLUSH);
    await client[Symbol.asyncDispose]();
    expect(await server.outcome).toMatchObject({ code: 0 });
  });

  it('are not limited to one by default', async () => {
    await using server = await serve(['-t', '-k', socket, image]);
    const clients = await Promise.all(
      Array.from({ length: 32 }, () => NbdClient.connect(server.uri)),
    );
    await Promise.all(clients.map((client) => client[Symbol.asyncDispose]()));
  });

  it('find their data again after a restart', async () => {
    const bytes = Buffer.from(Array.from({ length: 4096 }, (_, index) => index % 251));
    {
      await using server = await serve(['-k', socket, image]);
      const client = await NbdClient.connect(server.uri);
      await client.request(NBD_CMD_WRITE, 12_345, bytes.length, bytes);
      await client.request(NBD_CMD_DISC);
      expect(await server.outcome).toMatchObject({ code: 0 });
    }
    await using server = await serve(['-r', '-k', socket, image]);
    await using client = await NbdClient.connect(server.uri);
    expect(await client.request(NBD_CMD_READ, 12_345, bytes.length)).toEqual(bytes);
    await expect(client.request(NBD_CMD_WRITE, 0, 1, Buffer.alloc(1))).rejects.toThrow('error 1');
  });
});

describe('every cache mode', () => {
  it.each([...Object.keys(CACHE_MODES), 'unspecified'])('serves: %s', async (mode) => {
    await using server: Serving = await serve(['--cache', mode, '-k', socket, image]);
    {
      await using client = await NbdClient.connect(server.uri);
      await client.request(NBD_CMD_WRITE, 1000, 5, Buffer.from('hello'));
      await client.request(NBD_CMD_FLUSH);
      expect((await client.request(NBD_CMD_READ, 1000, 5)).toString()).toBe('hello');
    }
    const { code, stderr } = await server.outcome;
    expect(code).toBe(0);
    const [uri, ...rest] = stderr.trimEnd().split('\n');
    expect(uri).toBe(server.uri);
    const warning = 'sluice: warning: cache=unsafe: flushes do nothing;';
    expect(rest).toEqual(mode === 'unsafe' ? [expect.stringContaining(warning)] : []);
  });
});

describe('sluice serve refuses', () => {
  /** What it says, without `sluice: `; all refusals look alike. */
  async function refusal(args: readonly string[]): Promise<string> {
    const pidFile = folder.file('pid-of-refused');
    const { code, stdout, stderr } = await sluice(['serve', '--pid-file', pidFile, ...args]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^sluice: .* \((ERR_SLUICE_[A-Z_]+|E[A-Z]+)\)\n$/);
    expect(await exists(pidFile)).toBe(false);
    return stderr.slice('sluice: '.length, -1);
  }

  it('an image that does not exist', async () => {
    const text = await refusal(['-k', socket, folder.file('none.img')]);
    expect(text).toMatch(/no such file; check its name, or create it first \(ERR_SLUICE_OPEN\)$/);
    expect(await exists(socket)).toBe(false);
  });

  it('a folder', async () => {
    expect(await refusal(['-k', socket, folder.path])).toMatch(
      /it is a directory.*\(ERR_SLUICE_NOT_A_DISK\)$/,
    );
  });

  it('a character device', async () => {
    expect(await refusal(['-k', socket, '/dev/null'])).toMatch(/\(ERR_SLUICE_NOT_A_DISK\)$/);
  });

  it('a format that it does not know', async () => {
    expect(await refusal(['-f', 'vdi', '-k', socket, image])).toMatch(
      /as vdi: this release opens raw and qcow2 images \(ERR_SLUICE_UNSUPPORTED\)$/,
    );
  });

  it('an image that begins like another format, unless it is called raw', async () => {
    await writeFile(image, Buffer.concat([Buffer.from('QFI\xfb', 'latin1'), Buffer.alloc(4092)]));
    expect(await refusal(['-k', socket, image])).toMatch(
      /looks like a qcow2 image: pass -f qcow2; or pass -f raw .*\(ERR_SLUICE_UNSUPPORTED\)$/,
    );
    await using server = await serve(['-t', '-f', 'raw', '-k', socket, image]);
    expect(server.uri).toContain('nbd+unix:');
  });

  it('an image that another server writes to, unless it is told not to look', async () => {
    await using server = await serve(['-t', '-k', socket, image]);
    const other = folder.file('b.sock');
    const text = await refusal(['-k', other, image]);
    expect(text).toMatch(/cannot lock .*--no-lock .*\(ERR_SLUICE_LOCKED\)$/);
    expect(await refusal(['-r', '-k', other, image])).toMatch(/\(ERR_SLUICE_LOCKED\)$/);
    await using unlocked = await serve(['-t', '--no-lock', '-k', other, image]);
    expect(unlocked.uri).not.toBe(server.uri);
  });

  it('a socket that another server listens on, and leaves it alone', async () => {
    await using server = await serve(['-t', '-k', socket, image]);
    const other = await folder.image('other.img', MEGABYTE);
    expect(await refusal(['-k', socket, other])).toMatch(
      /^cannot listen on ".*a\.sock": address already in use; .*\(EADDRINUSE\)$/,
    );
    await using client = await NbdClient.connect(server.uri);
    expect(client.sizeBytes).toBe(MEGABYTE);
  });

  it('a port that is in use', async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const { port } = taken.address() as { port: number };
    const text = await refusal(['-p', String(port), image]);
    taken.close();
    expect(text).toMatch(
      new RegExp(`^cannot listen on 127\\.0\\.0\\.1 port ${port}: address already in use; `),
    );
  });

  it('an address that is not of this machine', async () => {
    expect(await refusal(['-b', '192.0.2.1', '-p', '0', image])).toMatch(
      /^cannot listen on 192\.0\.2\.1 port 0: .*\(EADDRNOTAVAIL\)$/,
    );
  });

  it('a socket in a folder that does not exist', async () => {
    const path = join(folder.path, 'none', 'a.sock');
    expect(await refusal(['-k', path, image])).toMatch(
      /^cannot listen on ".*none\/a\.sock": no such folder; create it, .*\(ENOENT\)$/,
    );
  });

  it('a socket where a file is, and leaves the file alone', async () => {
    const file = folder.file('file');
    await writeFile(file, 'precious');
    expect(await refusal(['-k', file, image])).toMatch(
      /^cannot listen on ".*file": a file that is not a socket is in the way; .*\(EEXIST\)$/,
    );
    expect(await readFile(file, 'utf8')).toBe('precious');
  });

  it('a socket path that is too long', async () => {
    const text = await refusal(['-k', folder.file('s'.repeat(120)), image]);
    expect(text).toMatch(/at most 107 bytes.*\(E[A-Z_]+\)$/);
  });

  it('a pid file that cannot be written, and serves nothing', async () => {
    const pidFile = join(folder.path, 'none', 'pid');
    expect(await refusal(['--pid-file', pidFile, '-k', socket, image])).toMatch(
      /^cannot write the pid file ".*": no such file or directory \(ENOENT\)$/,
    );
    expect(await exists(socket)).toBe(false);
  });

  it('the export name that is too long', async () => {
    expect(await refusal(['-x', 'n'.repeat(4097), '-k', socket, image])).toMatch(
      /at most 4096 bytes.*\(ERR_SLUICE_INVALID_ARGUMENT\)$/,
    );
  });

  it('O_DIRECT where there is none', async (context) => {
    const shm = await Folder.make('/dev/shm').catch(() => undefined);
    if (shm === undefined) return context.skip('needs a tmpfs at /dev/shm');
    await using folder = shm;
    const image = await folder.image('disk.img', MEGABYTE);
    const text = await refusal(['--cache', 'none', '-k', socket, image]);
    expect(text).toMatch(/; pass --cache writeback or .*\(ERR_SLUICE_DIRECT_UNSUPPORTED\)$/);
  });
});

describe('a stale socket', () => {
  it('of a server that was killed is replaced', async () => {
    {
      await using server = await serve(['-t', '-k', socket, image]);
      await server.stop('SIGKILL');
    }
    expect(await exists(socket)).toBe(true);
    await using server = await serve(['-t', '-k', socket, image]);
    await using client = await NbdClient.connect(server.uri);
    expect(client.sizeBytes).toBe(MEGABYTE);
  });
});

describe("libuv's pool", () => {
  /** Threads of a server that has just opened its image, and so has a pool. */
  async function threads(context: TestContext, env: Record<string, string>): Promise<number> {
    if (process.platform !== 'linux') context.skip('counts threads in /proc');
    await using server = await serve(['-t', '-k', socket, image], { env });
    return (await readdir(`/proc/${server.child.pid}/task`)).length;
  }

  it('has 16 threads, or as many as the environment says', async (context) => {
    const few = await threads(context, { UV_THREADPOOL_SIZE: '2' });
    const many = await threads(context, { UV_THREADPOOL_SIZE: '20' });
    const usual = await threads(context, { UV_THREADPOOL_SIZE: '' });
    expect([many - few, usual - few]).toEqual([18, 14]);
  });
});
