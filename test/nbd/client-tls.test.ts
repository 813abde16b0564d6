/** The client over TLS: against this package's server, qemu-nbd and nbdkit, and hostile ones. */

import { mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { NbdClient } from '../../src/nbd/client/client.ts';
import { readPskFile } from '../../src/nbd/psk-file.ts';
import type { NbdTlsOptions } from '../../src/nbd/server.ts';
import { expectRefusal } from '../image/scratch.ts';
import { makeCertificates, makeKeys } from '../support/certificates.ts';
import { describeWithPeers, peer } from '../support/peers.ts';
import { exercise, SIZE } from './exercise.ts';
import { nbdkit, qemuNbd } from './peer-servers.ts';
import { type Script, serveScript } from './scripted-server.ts';
import { serveFake, type Serving } from './serving.ts';
import { ACK, ERR_POLICY, ERR_UNSUP, pattern } from './wire.ts';

const STARTTLS = 5;
const TCP = { socket: undefined, host: 'localhost', port: 0 };

let folder: string;
let keys: string;
let both: string;
let known: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sluice-client-tls-'));
  keys = await makeKeys(folder);
  [both, known] = [join(folder, 'both'), join(folder, 'known')];
  await Promise.all([both, known].map((path) => mkdir(path)));
  if (!peer('openssl')) return;
  await makeCertificates(both);
  await writeFile(join(known, 'ca-cert.pem'), await pem('ca-cert'));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

const pem = (name: string): Promise<string> => readFile(join(both, `${name}.pem`), 'utf8');

/** The URI of a server, with TLS by certificates of a folder, or by the file of keys. */
function secure(uri: string, parameters: string): string {
  const tls = uri.replace(/^nbds?/, 'nbds');
  return `${tls}${tls.includes('?') ? '&' : '?'}${parameters}`;
}

const byKey = (uri: string): string => secure(uri, `tls-psk-file=${keys}&tls-username=alice`);

async function serve(tls: NbdTlsOptions, place = {}): Promise<Serving> {
  return serveFake({ sizeBytes: SIZE, mode: 'later' }, { tls, ...place });
}

const failure = async (uri: string, code: ErrorCode, message: RegExp): Promise<void> =>
  expectRefusal(NbdClient.connect(uri), code, message);

describe('the client over TLS with a pre-shared key', () => {
  it('writes and reads', async () => {
    await using serving = await serve({ psk: await readPskFile(keys) });
    await exercise(byKey(serving.server.uri), 11);
    expect(serving.device.arenaIsWhole).toBe(true);
  });

  it('is refused without the right one, and says so', async () => {
    await using serving = await serve({ psk: new Map([['alice', pattern(32)]]) });
    const { uri } = serving.server;
    await failure(
      byKey(uri),
      'ERR_SLUICE_CONNECTION',
      /no TLS with the server: it refuses the key of user "alice"/,
    );
    const bob = secure(uri, `tls-psk-file=${keys}&tls-username=bob`);
    await failure(
      bob,
      'ERR_SLUICE_INVALID_ARGUMENT',
      /has no key of "bob": it has keys of "alice"; name the user/,
    );
    const none = secure(uri, `tls-psk-file=${keys}.none`);
    await failure(
      none,
      'ERR_SLUICE_OPEN',
      /cannot read the keys in ".*": no such file or directory$/,
    );
    await failure(uri.replace('nbds', 'nbd'), 'ERR_SLUICE_OPEN', /asks for TLS; write nbds/);
  });
});

describeWithPeers(['openssl'], 'the client over TLS with certificates', () => {
  const x509 = async (more = {}): Promise<NbdTlsOptions> => ({
    cert: await pem('server-cert'),
    key: await pem('server-key'),
    ...more,
  });

  it.each([
    ['a host', TCP],
    ['a socket', {}],
  ])('of %s writes and reads', async (_title, place) => {
    await using serving = await serve(await x509({ ca: await pem('ca-cert') }), place);
    await exercise(secure(serving.server.uri, `tls-certificates=${both}`), 12);
  });

  it('looks at the certificate of the server, unless it is told not to', async () => {
    await using serving = await serve(await x509(), TCP);
    const { uri } = serving.server;
    await failure(secure(uri, ''), 'ERR_SLUICE_CONNECTION', /no TLS with the server: /);
    const other = secure(uri, `tls-certificates=${known}&tls-hostname=example.com`);
    await failure(other, 'ERR_SLUICE_CONNECTION', /is for "DNS:localhost, .*not for "example.com"/);
    await using trusting = await NbdClient.connect(secure(uri, 'tls-verify-peer=false'));
    expect(trusting.size).toBe(SIZE);
    await using knowing = await NbdClient.connect(secure(uri, `tls-certificates=${known}`));
    expect(knowing.size).toBe(SIZE);
  });

  it('is refused without the one that is asked for', async () => {
    await using serving = await serve(await x509({ ca: await pem('ca-cert') }));
    const uri = secure(serving.server.uri, `tls-certificates=${known}`);
    await expect(NbdClient.connect(uri)).rejects.toMatchObject({ code: 'ERR_SLUICE_CONNECTION' });
  });

  it('says which file is missing or is none', async () => {
    const uri = 'nbds+unix:///?socket=/none';
    const at = (path: string): string => `${uri}&tls-certificates=${path}`;
    await failure(
      at(folder),
      'ERR_SLUICE_OPEN',
      /cannot read ".*ca-cert.pem": no such file or directory$/,
    );
    const noise = join(folder, 'noise');
    await mkdir(noise);
    await Promise.all(
      ['ca-cert', 'client-cert', 'client-key'].map((name) =>
        writeFile(join(noise, `${name}.pem`), 'noise'),
      ),
    );
    await failure(
      at(noise),
      'ERR_SLUICE_INVALID_ARGUMENT',
      /ca-cert.pem" cannot be used: its 5 bytes are no certificate/,
    );
  });
});

describeWithPeers(['qemu-nbd', 'openssl'], 'the client and qemu-nbd over TLS', () => {
  it.each([
    ['certificates', 'tls-creds-x509,verify-peer=yes', 'both'],
    ['a pre-shared key', 'tls-creds-psk', 'psk'],
  ])('agree with %s', async (_title, creds, which) => {
    const image = join(folder, `${which}.img`);
    await writeFile(image, '');
    await truncate(image, SIZE);
    const dir = which === 'psk' ? folder : both;
    const object = `${creds},id=tls0,endpoint=server,dir=${dir}`;
    await using server = await qemuNbd('-f', 'raw', '--object', object, '--tls-creds=tls0', image);
    const uri =
      which === 'psk' ? byKey(server.uri) : secure(server.uri, `tls-certificates=${both}`);
    await exercise(uri, 13);
    await failure(server.uri, 'ERR_SLUICE_OPEN', /asks for TLS/);
  });
});

describeWithPeers(['nbdkit', 'openssl'], 'the client and nbdkit over TLS', () => {
  it('agree with certificates', async () => {
    const tls = ['--tls=require', `--tls-certificates=${both}`, '--tls-verify-peer'];
    await using server = await nbdkit(...tls, 'memory', `${SIZE}`);
    await exercise(secure(server.uri, `tls-certificates=${both}`), 14);
  });

  it('agree with a pre-shared key', async () => {
    await using server = await nbdkit('--tls=on', `--tls-psk=${keys}`, 'memory', `${SIZE}`);
    await exercise(byKey(server.uri), 15);
    await using clear = await NbdClient.connect(server.uri);
    expect(clear.size).toBe(SIZE);
  });
});

describe('hostile servers', () => {
  /** Does something when STARTTLS has come. */
  const atStartTls =
    (work: Script): Script =>
    async (peer) => {
      await peer.greet();
      expect((await peer.option()).code).toBe(STARTTLS);
      await work(peer);
    };

  it.each([
    [ERR_POLICY, 'no TLS here', /the server has no TLS \("no TLS here"\); set it up there/],
    [ERR_UNSUP, '', /the server has no TLS; set it up there, or write nbd:\/\//],
  ])('that refuse TLS (%d) are told nothing in clear', async (type, text, message) => {
    let asked: number | undefined;
    const script = atStartTls(async (peer) => {
      peer.reply(STARTTLS, type, Buffer.from(text));
      asked = (await peer.option()).code;
    });
    await using server = await serveScript(script);
    await failure(byKey(server.uri), 'ERR_SLUICE_UNSUPPORTED', message);
    expect(asked).toBeUndefined();
  });

  it('that greet without options cannot have TLS', async () => {
    await using server = await serveScript((peer) => peer.greet(0));
    await failure(byKey(server.uri), 'ERR_SLUICE_UNSUPPORTED', /the server has no TLS/);
  });

  it('that say more in clear than the acknowledgement are left (CVE-2021-3716)', async () => {
    const script = atStartTls((peer) => {
      peer.socket.cork();
      peer.reply(STARTTLS, ACK);
      peer.reply(7, ACK);
      peer.socket.uncork();
      return Promise.resolve();
    });
    await using server = await serveScript(script);
    await failure(byKey(server.uri), 'ERR_SLUICE_CONNECTION', /bytes in clear where TLS begins/);
  });

  it('that speak no TLS after they agreed to it are left', async () => {
    const script = atStartTls((peer) => {
      peer.reply(STARTTLS, ACK);
      setTimeout(() => peer.send('HTTP/1.1 200 OK\r\n\r\n'), 20);
      return Promise.resolve();
    });
    await using server = await serveScript(script);
    await failure(
      byKey(server.uri),
      'ERR_SLUICE_CONNECTION',
      /no TLS with the server: what it says is not TLS/,
    );
  });

  it('that close in the middle of TLS, or say nothing, are not waited for', async () => {
    const closes = atStartTls((peer) => {
      peer.reply(STARTTLS, ACK);
      setTimeout(() => peer.socket.end(), 20);
      return Promise.resolve();
    });
    await using closing = await serveScript(closes);
    await failure(byKey(closing.uri), 'ERR_SLUICE_CONNECTION', /no TLS with the server/);
    const silent = atStartTls((peer) => Promise.resolve(peer.reply(STARTTLS, ACK)));
    await using waiting = await serveScript(silent);
    const connecting = NbdClient.connect(byKey(waiting.uri), { negotiationMs: 200 });
    await expectRefusal(connecting, 'ERR_SLUICE_CONNECTION', /did not answer in 200 ms/);
  });
});
