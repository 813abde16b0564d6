/** The clients that people have, over TLS. */

import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readPskFile } from '../../src/nbd/psk-file.ts';
import type { NbdServerOptions, NbdTlsOptions } from '../../src/nbd/server.ts';
import { makeCertificates, makeKeys } from '../support/certificates.ts';
import { describeWithPeers, peer } from '../support/peers.ts';
import { FakeDevice } from './fake-device.ts';
import { serveOn, type Serving } from './serving.ts';
import { pattern } from './wire.ts';

const MIB = 2 ** 20;
const SIZE = 16 * MIB;
const LIMIT_MS = 60_000;

const run = promisify(execFile);
let folder: string;
/** ca-cert.pem and a certificate and key of each side. */
let both: string;
/** ca-cert.pem alone. */
let known: string;
let keys: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sluice-tls-'));
  both = join(folder, 'both');
  known = join(folder, 'known');
  await Promise.all([both, known].map((path) => mkdir(path)));
  keys = await makeKeys(folder);
  if (!peer('openssl')) return;
  await makeCertificates(both);
  await writeFile(join(known, 'ca-cert.pem'), await pem('ca-cert'));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

const pem = (name: string): Promise<string> => readFile(join(both, `${name}.pem`), 'utf8');

async function x509(more: NbdTlsOptions = {}): Promise<NbdTlsOptions> {
  return { cert: await pem('server-cert'), key: await pem('server-key'), ...more };
}

function serve(options: NbdServerOptions): Promise<Serving> {
  return serveOn(new FakeDevice({ sizeBytes: SIZE, mode: 'later' }), options);
}

async function output(program: string, ...parameters: string[]): Promise<string> {
  const { stdout } = await run(program, parameters, { cwd: folder, timeout: LIMIT_MS });
  return stdout;
}

/** A URI with parameters of libnbd behind it. */
function withParameters(uri: string, parameters: Readonly<Record<string, string>>): string {
  const added = Object.entries(parameters).map(([key, value]) => `${key}=${value}`);
  return `${uri}${uri.includes('?') ? '&' : '?'}${added.join('&')}`;
}

const LOCALHOST: NbdServerOptions = { socket: undefined, host: 'localhost', port: 0, name: 'disk' };

describeWithPeers(['nbdinfo', 'nbdcopy', 'openssl'], 'libnbd', () => {
  it('with certificates: the server is looked at, nothing is told in clear', async () => {
    await using serving = await serve({ ...LOCALHOST, tls: await x509() });
    const { uri } = serving.server;
    expect(uri).toMatch(/^nbds:\/\/localhost:\d+\/disk$/);
    const secure = withParameters(uri, { 'tls-certificates': known });
    expect(await output('nbdinfo', '--size', secure)).toBe(`${SIZE}\n`);
    expect(await output('nbdinfo', '--list', secure)).toContain(
      'protocol: newstyle-fixed with TLS',
    );
    await expect(output('nbdinfo', uri.replace('nbds', 'nbd'))).rejects.toThrow(/not supported/);
    await expect(output('nbdinfo', '--list', uri.replace('nbds', 'nbd'))).rejects.toThrow();
  });

  it('with certificates of both sides', async () => {
    const tls = await x509({ ca: await pem('ca-cert') });
    await using serving = await serve({ ...LOCALHOST, tls });
    const faults: string[] = [];
    serving.server.on('fault', ({ message }) => faults.push(message));
    const { uri } = serving.server;
    const good = withParameters(uri, { 'tls-certificates': both });
    expect(await output('nbdinfo', '--size', good)).toBe(`${SIZE}\n`);
    expect(faults).toEqual([]);
    const bad = withParameters(uri, { 'tls-certificates': known });
    await expect(output('nbdinfo', '--size', bad)).rejects.toThrow();
    expect(faults).toHaveLength(1);
  });

  it('with a pre-shared key, and over a unix socket', async () => {
    await using serving = await serve({ tls: { psk: await readPskFile(keys) } });
    const { uri } = serving.server;
    expect(uri).toMatch(/^nbds\+unix:\/\/\//);
    const secure = withParameters(uri, { 'tls-psk-file': keys }).replace('///', '//alice@/');
    expect(await output('nbdinfo', '--size', secure)).toBe(`${SIZE}\n`);
    const stranger = secure.replace('alice', 'bob');
    await expect(output('nbdinfo', '--size', stranger)).rejects.toThrow();
  });

  it('copies both ways', async () => {
    await using serving = await serve({ tls: { psk: await readPskFile(keys) } });
    const uri = withParameters(serving.server.uri, { 'tls-psk-file': keys });
    const secure = uri.replace('///', '//alice@/');
    const [source, target] = [join(folder, 'source'), join(folder, 'target')];
    const data = pattern(SIZE);
    await writeFile(source, data);
    await output('nbdcopy', '--flush', source, secure);
    expect(Buffer.from(serving.device.storage).equals(data)).toBe(true);
    await output('nbdcopy', secure, target);
    expect((await readFile(target)).equals(data)).toBe(true);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('with and without TLS where it is allowed', async () => {
    const tls = { psk: await readPskFile(keys), mode: 'allow' } as const;
    await using serving = await serve({ tls });
    const { uri } = serving.server;
    expect(uri).toMatch(/^nbd\+unix:\/\/\//);
    expect(await output('nbdinfo', '--size', uri)).toBe(`${SIZE}\n`);
    const secure = withParameters(uri, { 'tls-psk-file': keys })
      .replace('nbd+', 'nbds+')
      .replace('///', '//alice@/');
    expect(await output('nbdinfo', '--size', secure)).toBe(`${SIZE}\n`);
  });
});

describeWithPeers(['qemu-img', 'openssl'], 'QEMU', () => {
  const nbd = ({ server, path }: Serving): string => {
    const [, port] = /:(\d+)\//.exec(server.uri) ?? [];
    const place =
      port === undefined
        ? `server.type=unix,server.path=${path}`
        : `server.type=inet,server.host=localhost,server.port=${port}`;
    return `driver=nbd,${place},export=,tls-creds=tls`;
  };
  const info = (creds: string, image: string): Promise<string> =>
    output(
      'qemu-img',
      'info',
      '--object',
      `${creds},id=tls,endpoint=client`,
      '--image-opts',
      image,
    );

  it('with certificates of both sides', async () => {
    const tls = await x509({ ca: await pem('ca-cert') });
    await using serving = await serve({ ...LOCALHOST, name: '', tls });
    const creds = (dir: string): string => `tls-creds-x509,dir=${dir},verify-peer=yes`;
    expect(await info(creds(both), nbd(serving))).toContain('virtual size: 16 MiB');
    await expect(info(creds(known), nbd(serving))).rejects.toThrow();
  });

  it('with a pre-shared key', async () => {
    await using serving = await serve({ tls: { psk: await readPskFile(keys) } });
    const creds = `tls-creds-psk,dir=${folder},username=alice`;
    expect(await info(creds, nbd(serving))).toContain('virtual size: 16 MiB');
    await expect(info(creds.replace('alice', 'bob'), nbd(serving))).rejects.toThrow();
  });
});
