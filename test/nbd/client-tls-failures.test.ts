/** What is said where there is no TLS with a server: what was asked, what was found, what to do. */

import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { NbdClient } from '../../src/nbd/client/client.ts';
import { readPskFile } from '../../src/nbd/psk-file.ts';
import type { NbdTlsOptions } from '../../src/nbd/server.ts';
import { sluice } from '../cli/sluice.ts';
import { makeCertificates, makeKeys } from '../support/certificates.ts';
import { describeWithPeers, peer } from '../support/peers.ts';
import { serveFake, type Serving } from './serving.ts';

const TCP = { socket: undefined, host: 'localhost', port: 0 };

let folder: string;
let keys: string;
let others: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sluice-tls-failures-'));
  const other = join(folder, 'other');
  await mkdir(other);
  [keys, others] = [await makeKeys(folder), await makeKeys(other)];
  if (!peer('openssl')) return;
  await makeCertificates(folder);
  await makeCertificates(other);
});

afterAll(() => rm(folder, { recursive: true, force: true }));

const pem = (name: string): Promise<string> => readFile(join(folder, `${name}.pem`), 'utf8');

const serve = (tls: NbdTlsOptions | undefined, place = {}): Promise<Serving> =>
  serveFake({}, { ...(tls && { tls }), ...place });

const x509 = async (more = {}): Promise<NbdTlsOptions> => ({
  cert: await pem('server-cert'),
  key: await pem('server-key'),
  ...more,
});

/** The URI of a server with TLS, and what a query says of it. */
function secure({ server: { uri } }: Serving, query: string): string {
  const tls = uri.replace(/^nbds?/, 'nbds');
  return query === '' ? tls : `${tls}${tls.includes('?') ? '&' : '?'}${query}`;
}

/** What is said of a URI, behind the URI and without OpenSSL's numbers. */
async function said(uri: string, code: ErrorCode = 'ERR_SLUICE_CONNECTION'): Promise<string> {
  const error = await NbdClient.connect(uri).then(
    () => new Error('it connects'),
    (error: unknown) => error as Error,
  );
  expect(error).toMatchObject({ code });
  expect(error.message).not.toMatch(/alert|routines|[0-9A-F]{8}:/);
  return error.message.replace(`${JSON.stringify(uri)}: `, '').replaceAll(folder, 'DIR');
}

describe('with a pre-shared key it is said', () => {
  it('that the key is another one', async () => {
    for (const place of [{}, TCP]) {
      await using serving = await serve({ psk: await readPskFile(keys) }, place);
      const uri = secure(serving, `tls-psk-file=${others}&tls-username=alice`);
      expect(await said(uri)).toBe(
        'no TLS with the server: it refuses the key of user "alice" in "DIR/other/keys.psk": its ' +
          'own is another one; copy the line of "alice" from the server\'s file of keys',
      );
    }
  });

  it('that the server does not know the user', async () => {
    await using serving = await serve({ psk: new Map([['bob', Buffer.alloc(16)]]) });
    const uri = secure(serving, `tls-psk-file=${keys}&tls-username=alice`);
    expect(await said(uri)).toMatch(
      /it knows no user "alice" \(of "DIR\/keys.psk"\), or takes no .*; name a user that it has, /,
    );
  });

  it('that nobody is named, and whom the file has', async () => {
    const path = join(folder, 'many.psk');
    const users = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];
    await writeFile(path, users.map((user) => `${user}:${'12'.repeat(16)}\n`).join(''));
    const none = await said(
      `nbds+unix:///?socket=/none&tls-psk-file=${path}`,
      'ERR_SLUICE_INVALID_ARGUMENT',
    );
    expect(none).toMatch(
      /^"DIR\/many.psk" has no key of ".+", the user of this process, since none is named: it has /,
    );
    expect(none).toMatch(
      /of "a", "b", "c", "d", "e" and 2 more; name the user with tls-username=NAME$/,
    );
  });

  it('which line of which file is none', async () => {
    const path = join(folder, 'bad.psk');
    await writeFile(path, '# keys\nalice\n');
    const uri = `nbds+unix:///?socket=/none&tls-psk-file=${path}&tls-username=alice`;
    expect(await said(uri, 'ERR_SLUICE_INVALID_ARGUMENT')).toBe(
      '"DIR/bad.psk" is no file of pre-shared keys: line 2 is not USER:KEY with a key in hex; ' +
        'make it with psktool -u USER -p FILE',
    );
  });
});

describe('it is said where a server cannot be reached', () => {
  it.each([
    ['nbd+unix:///?socket=DIR/none', /there is no socket "DIR\/none" \(ENOENT\); start the server/],
    ['nbd+unix:///?socket=DIR/keys.psk', /nobody listens at "DIR\/keys.psk": .*ECONNREFUSED\)/],
    ['nbd://localhost:1/', /nobody listens on port 1 of "localhost" \(ECONNREFUSED\); start/],
    ['nbd://none.invalid/', /"none.invalid" has no address \(E\w+\); check the name of the host/],
  ])('%s', async (uri, message) => {
    expect(await said(uri.replace('DIR', folder))).toMatch(message);
  });

  it('or has no TLS', async () => {
    await using serving = await serve(undefined);
    const uri = secure(serving, `tls-psk-file=${keys}&tls-username=alice`);
    expect(await said(uri, 'ERR_SLUICE_UNSUPPORTED')).toMatch(
      /the server has no TLS .*; set it up there, or write nbd:\/\/ to do without$/,
    );
  });
});

describeWithPeers(['openssl'], 'with certificates it is said', () => {
  it('that the authority is not known, and how to name it', async () => {
    await using serving = await serve(await x509(), TCP);
    expect(await said(secure(serving, ''))).toMatch(
      /signed by no authority .*; name a folder with the ca-cert.pem .*, tls-certificates=FOLDER$/,
    );
    expect(await said(secure(serving, `tls-certificates=${folder}/other`))).toMatch(
      /its certificate is not signed by "DIR\/other\/ca-cert.pem"; put the server's authority/,
    );
  });

  it('whom the certificate is for', async () => {
    await using serving = await serve(await x509(), TCP);
    const uri = secure(serving, `tls-certificates=${folder}&tls-hostname=example.com`);
    expect(await said(uri)).toMatch(
      /is for "DNS:localhost, .*", not for "example.com"; connect by .* tls-hostname=NAME/,
    );
  });

  it.each([
    ['a socket', {}],
    ['a host', TCP],
  ])('that the server of %s wants one of the client', async (_title, place) => {
    await using serving = await serve(await x509({ ca: await pem('ca-cert') }), place);
    const known = join(folder, 'known');
    await mkdir(known, { recursive: true });
    await writeFile(join(known, 'ca-cert.pem'), await pem('ca-cert'));
    expect(await said(secure(serving, `tls-certificates=${known}`))).toMatch(
      /wants a certificate of the client, and there was none; put client-cert.pem .* "DIR\/known"/,
    );
    const wrong = secure(serving, `tls-certificates=${folder}/other&tls-verify-peer=false`);
    expect(await said(wrong)).toMatch(/may not accept the client's certificate; check client-cert/);
  });

  it('that the server wants keys', async () => {
    await using serving = await serve({ psk: await readPskFile(keys) });
    expect(await said(secure(serving, `tls-certificates=${folder}`))).toMatch(
      /it may want a pre-shared key, .*; write tls-psk-file=FILE&tls-username=NAME, or put/,
    );
  });

  it('that a server shows one where a key was asked for, whoever has signed it', async () => {
    await using serving = await serve(await x509(), TCP);
    const uri = secure(serving, `tls-psk-file=${keys}&tls-username=alice`);
    const message = /a pre-shared key was to prove who it is, and it shows a certificate instead; /;
    expect(await said(uri)).toMatch(message);
    const env = { NODE_EXTRA_CA_CERTS: join(folder, 'ca-cert.pem') };
    const trusting = await sluice(['info', '-f', 'raw', uri], { env });
    expect([trusting.code, trusting.stdout]).toEqual([1, '']);
    expect(trusting.stderr).toMatch(message);
  });

  it.each([
    ['ca-cert', 'noise', /ca-cert.pem" cannot be used: its 5 bytes are no certificate; put one in/],
    ['client-cert', 'noise', /client-cert.pem" cannot be used: its 5 bytes are no certificate/],
    ['client-key', 'secret', /client-key.pem" cannot be used: its 6 bytes are no private key; put/],
    ['client-key', 'server-key', /client-key.pem" is not the key of client-cert.pem; put the two/],
    ['client-key', undefined, /client-key.pem" is missing beside client-cert.pem; add it/],
    ['client-cert', undefined, /client-cert.pem" is missing beside client-key.pem; add it/],
  ])('that the file %s is %j', async (name, content, message) => {
    const bad = await mkdtemp(join(folder, 'bad-'));
    for (const file of ['ca-cert', 'client-cert', 'client-key']) {
      const text = file === name ? content : file;
      if (text === undefined) continue;
      await writeFile(join(bad, `${file}.pem`), text.includes('-') ? await pem(text) : text);
    }
    const uri = `nbds+unix:///?socket=/none&tls-certificates=${bad}`;
    const told = await said(uri, 'ERR_SLUICE_INVALID_ARGUMENT');
    expect(told).toMatch(message);
    expect(told).not.toContain('secret');
  });
});
