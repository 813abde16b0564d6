/** What operators use, with several images and with TLS. */
import { once } from 'node:events';
import { access, readFile, writeFile } from 'node:fs/promises';
import { get } from 'node:http';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { connect } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Control, type Controlled } from '../../src/cli/control.ts';
import { makeCertificates } from '../support/certificates.ts';
import { describeWithPeers } from '../support/peers.ts';
import { NBD_CMD_READ, NbdClient } from './nbd-client.ts';
import { Folder, Running, serve, sluice, SLUICE, succeed } from './sluice.ts';

const MEGABYTE = 2 ** 20;
const SERVE = [process.execPath, SLUICE, 'serve'];
const KEYS = `alice:000102030405060708090a0b0c0d0e0f\nbob:${'ff'.repeat(16)}\n`;
/** A parent that listens and passes the socket on as fd 3. */
const PASS = `
import os, socket, sys
place, *command = sys.argv[1:]
s = socket.socket(socket.AF_UNIX)
s.bind(place)
s.listen()
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')
os.execvp(command[0], command)
`;

let folder: Folder;
let images: [string, string];
let socket: string;
let control: string;
let keys: string;
beforeEach(async () => {
  folder = await Folder.make();
  images = [await folder.image('a.img', MEGABYTE), await folder.image('b.img', 2 * MEGABYTE)];
  socket = folder.file('s.sock');
  control = folder.file('ctl');
  keys = folder.file('keys.psk');
  await writeFile(keys, KEYS);
});
afterEach(() => folder[Symbol.asyncDispose]());

function pass(...args: string[]): Running {
  return new Running('python3', ['-c', PASS, socket, ...SERVE, ...args]);
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`never true: ${holds.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** What the control socket answers. */
async function ask(path: string): Promise<string> {
  const asked = get({ socketPath: control, path, agent: false });
  const [response] = (await once(asked, 'response')) as [AsyncIterable<Buffer>];
  let body = '';
  for await (const bytes of response) body += bytes.toString();
  return body;
}

/** A client for which STARTTLS was acknowledged and TLS begun; rejects when it does not. */
async function secured(): Promise<TLSSocket> {
  const raw = connect(socket);
  const take = async (length: number): Promise<Buffer> => {
    let bytes: Buffer | null;
    while ((bytes = raw.read(length) as Buffer | null) === null) await once(raw, 'readable');
    return bytes;
  };
  await take(18);
  raw.write(Buffer.from('0000000349484156454f50540000000500000000', 'hex'));
  await take(20);
  const client = connectTls({ socket: raw, rejectUnauthorized: false });
  await once(client, 'secureConnect');
  return client;
}

/** The serial number of the certificate that the server has. */
async function serialNumber(): Promise<string> {
  const client = await secured();
  const { serialNumber } = client.getPeerCertificate();
  client.destroy();
  return serialNumber;
}

describe('several images', () => {
  it('are told apart by the control socket, by sluice stats and by SIGUSR2', async () => {
    await using server = await serve(['-t', '-k', socket, '--control', control, ...images]);
    await using client = await NbdClient.connect(server.uri, 'b.img');
    await client.request(NBD_CMD_READ, 0, 512);
    const { server: stats } = JSON.parse(await ask('/stats')) as {
      server: { exports: { name: string; commands: { read: { bytes: number } } }[] };
    };
    expect(stats.exports.map(({ name, commands }) => [name, commands.read.bytes])).toEqual([
      ['a.img', 0],
      ['b.img', 512],
    ]);
    expect(await ask('/metrics')).toMatch(
      /\nsluice_nbd_request_bytes_total\{export="b.img",command="read"\} 512\n/,
    );
    expect(await ask('/health')).toBe('ok\n');
    const table = await succeed(process.execPath, [SLUICE, 'stats', control]);
    expect(table).toMatch(
      /^export "a.img": 1 MiB, .*\n(?! {2}command).*\n\nexport "b.img": 2 MiB, /m,
    );
    expect(table).toMatch(/^ {2}1 unix "b.img": /m);
    server.child.kill('SIGUSR2');
    await until(() => server.stderr.includes('\nexport "b.img": '));
    expect(server.stderr).toContain('\nexport "a.img": ');
  });

  it('that are ill are named by /health', async () => {
    const corruption = { problem: 'a hole', value: 1n, where: 2n };
    const disks: { disk: { latched: boolean; corruption?: typeof corruption }; name: string }[] = [
      { disk: { latched: false }, name: 'a.img' },
      { disk: { latched: true, corruption }, name: 'b.img' },
    ];
    await using _control = await Control.open(control, { disks } as unknown as Controlled);
    const [, ill] = disks;
    const failed = 'a sync of b.img failed: every flush fails until it is opened anew';
    expect((await ask('/health')).split('\n')).toEqual([
      failed,
      expect.stringMatching(/^b.img is corrupt: a hole /),
      '',
    ]);
    delete ill!.disk.corruption;
    expect(await ask('/health')).toBe(`${failed}\n`);
  });

  it('are at the URIs of $uris under --run', async () => {
    const script = 'printf "%s\\n" "$uri" $uris "[$exportname]" "$unixsocket"';
    const { code, stdout } = await sluice(['serve', '--run', script, ...images]);
    const [uri, first, second, name, path] = stdout.split('\n');
    expect(code).toBe(0);
    expect([first, second]).toEqual([
      `nbd+unix:///a.img?socket=${path}`,
      `nbd+unix:///b.img?socket=${path}`,
    ]);
    expect([uri, name]).toEqual([first, '[a.img]']);
  });

  it('are served on a socket that was passed, which -v tells', async () => {
    await using server = pass('-t', '-v', '-x', 'one', '-x', 'two', ...images);
    await until(() => server.stderr.includes('/two?'));
    expect(server.stderr).toMatch(
      /listening: nbd\+unix:\/\/\/one\?.*\n.* listening: .*\/\/\/two\?/,
    );
    await using client = await NbdClient.connect(`nbd+unix:///?socket=${socket}`, 'two');
    expect(client.sizeBytes).toBe(2 * MEGABYTE);
    await until(() => server.stderr.includes('client 1: connected, export "two", read-write'));
  });
});

describe('TLS', () => {
  it('-v says who has it, and for whom it does not begin; not twice', async () => {
    const args = ['-t', '-v', '-k', socket, '--tls-psk', keys, ...images];
    await using server = await serve(args);
    const uri = `nbds+unix://alice@/b.img?socket=${socket}&tls-psk-file=`;
    expect((await sluice(['info', '-f', 'raw', `${uri}${keys}`])).code).toBe(0);
    const wrong = folder.file('wrong.psk');
    await writeFile(wrong, KEYS.replace('00', 'ff'));
    expect((await sluice(['info', '-f', 'raw', `${uri}${wrong}`])).code).toBe(1);
    await until(() => server.stderr.includes('(tls: '));
    const { stderr } = await server.stop();
    expect(stderr).toMatch(/client \d: connected, export "b.img", read-write, TLS, \w+ /);
    expect(stderr).toMatch(/client \d: ended before transmission \(tls: no TLS with a client: /);
    expect(stderr.match(/no TLS with a client/g)).toHaveLength(1);
  });

  it('is in the URIs of --run, and QEMU has no old form of it', async () => {
    const script = 'echo "$uri [$nbd]"; for u in $uris; do sluice info -f raw "$u" || exit 9; done';
    const here = script.replace('sluice', `"${process.execPath}" "${SLUICE}"`);
    const outcome = await sluice(['serve', '--tls-psk', keys, '--run', here, ...images]);
    expect(outcome).toMatchObject({ code: 0, stderr: '' });
    const [first] = outcome.stdout.split('\n');
    expect(first).toMatch(/^nbds\+unix:\/\/alice@\/a.img\?socket=\S+&tls-psk-file=\S+ \[\]$/);
    expect(outcome.stdout).toMatch(/virtual size: 1 MiB[^]*virtual size: 2 MiB/);
  });

  it('is on a socket that was passed', async () => {
    await using server = pass('-t', '-v', '--tls-psk', keys, ...images);
    await until(() => server.stderr.includes('/b.img?'));
    expect(server.stderr).toContain('listening: nbds+unix:///b.img?');
    const uri = `nbds+unix://alice@/b.img?socket=${socket}&tls-psk-file=${keys}`;
    expect((await sluice(['info', '-f', 'raw', uri])).stdout).toContain('2 MiB');
  });
});

describeWithPeers(['nbdinfo'], 'nbdinfo', () => {
  it('takes the URIs of --run with TLS', async () => {
    const args = [
      'serve',
      '--tls-psk',
      keys,
      '--run',
      'for u in $uris; do nbdinfo --size "$u"; done',
    ];
    const outcome = await sluice([...args, ...images]);
    expect(outcome).toMatchObject({ code: 0, stdout: `${MEGABYTE}\n${2 * MEGABYTE}\n` });
  });
});

describeWithPeers(['openssl'], 'SIGHUP', () => {
  it('makes a daemon read its certificates anew, and keep those it has if it cannot', async () => {
    await makeCertificates(folder.path);
    const pidFile = folder.file('pid');
    const args = ['--fork', '-t', '-k', socket, '--tls-certificates', folder.path];
    expect(await sluice(['serve', ...args, '--pid-file', pidFile, ...images])).toMatchObject({
      code: 0,
    });
    const pid = Number(await readFile(pidFile, 'utf8'));
    try {
      const before = await serialNumber();
      const there = await secured();
      await makeCertificates(folder.path);
      expect(await serialNumber()).toBe(before);
      process.kill(pid, 'SIGHUP');
      await until(async () => (await serialNumber()) !== before);
      const renewed = await serialNumber();
      await writeFile(folder.file('server-key.pem'), 'noise');
      process.kill(pid, 'SIGHUP');
      expect(await serialNumber()).toBe(renewed);
      expect(there.destroyed).toBe(false);
      there.destroy();
    } finally {
      process.kill(pid, 'SIGTERM');
      await until(async () => !(await exists(pidFile)));
    }
  });

  it('that failed is shown by the control socket, until one does not', async () => {
    await makeCertificates(folder.path);
    const args = ['-t', '--control', control, '--tls-certificates', folder.path, ...images];
    await using server = pass(...args);
    const reloads = async (): Promise<Record<string, unknown>> =>
      (JSON.parse(await ask('/stats')) as { tlsReloads: Record<string, unknown> }).tlsReloads;
    await until(() => exists(control));
    expect(await reloads()).toEqual({ done: 0, failed: 0, stale: false });
    const good = await readFile(folder.file('server-key.pem'));
    await writeFile(folder.file('server-key.pem'), 'noise');
    server.child.kill('SIGHUP');
    await until(async () => (await reloads())['failed'] === 1);
    const error = expect.stringMatching(/^the folder of --tls-certificates has .*\(ERR_\w+\)$/);
    const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    const told = { done: 0, failed: 1, stale: true, lastFailure: { time, error } };
    expect(await reloads()).toEqual(told);
    const line =
      /^TLS goes on with the files that were read before: .* \(ERR_\w+\), at 20[-\dT:.]+Z$/m;
    expect(await ask('/health')).toMatch(/^ok\nTLS goes on [^\n]*\n$/);
    expect(await ask('/health')).toMatch(line);
    expect(await succeed(process.execPath, [SLUICE, 'stats', control])).toMatch(line);
    const metrics = await ask('/metrics');
    expect(metrics).toContain('\nsluice_tls_reloads_total{result="failed"} 1\n');
    expect(metrics).toContain('\nsluice_tls_stale 1\n');
    await writeFile(folder.file('server-key.pem'), good);
    server.child.kill('SIGHUP');
    await until(async () => (await reloads())['done'] === 1);
    expect(await reloads()).toEqual({ ...told, done: 1, stale: false });
    expect(await ask('/health')).toBe('ok\n');
    expect(await ask('/metrics')).toContain('\nsluice_tls_stale 0\n');
  });

  it('says with a socket that was passed which files cannot be used', async () => {
    await makeCertificates(folder.path);
    await using server = pass('-t', '--tls-certificates', folder.path, ...images);
    await until(() => exists(socket));
    const before = await serialNumber();
    await writeFile(folder.file('server-key.pem'), 'noise');
    server.child.kill('SIGHUP');
    // What is said of the probe's own connection may come before it.
    await until(() => server.stderr.includes('TLS goes on with the files that were read before: '));
    expect(await serialNumber()).toBe(before);
    expect(await server.stop()).toMatchObject({ code: 0 });
  });
});
