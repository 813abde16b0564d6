/** Certificates and keys of a test, made for it: nothing that is checked in expires. */

import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];

/** A certificate and its key in a folder, signed by the authority there unless it is one. */
async function certificate(folder: string, name: string, ...extensions: string[]): Promise<void> {
  const authority = ['-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem'];
  const added = extensions.flatMap((extension) => ['-addext', extension]);
  const files = ['-keyout', `${name}-key.pem`, '-out', `${name}-cert.pem`];
  const subject = ['-subj', `/CN=sluice test ${name}`];
  const signed = name === 'ca' ? [] : authority;
  await run('openssl', ['req', '-x509', ...NEW_KEY, ...files, ...subject, ...signed, ...added], {
    cwd: folder,
  });
}

/**
 * Makes ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem and client-key.pem, the names
 * that QEMU, nbdkit and libnbd look for. The server is localhost, 127.0.0.1 and ::1.
 */
export async function makeCertificates(folder: string): Promise<void> {
  await certificate(folder, 'ca', 'keyUsage=critical,keyCertSign');
  const names = 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1';
  const leaf = 'basicConstraints=critical,CA:FALSE';
  const usage = 'keyUsage=critical,digitalSignature';
  await certificate(folder, 'server', leaf, usage, names, 'extendedKeyUsage=serverAuth');
  await certificate(folder, 'client', leaf, usage, 'extendedKeyUsage=clientAuth');
}

/** Makes a file of pre-shared keys with one user; answers its path. */
export async function makeKeys(folder: string, user = 'alice'): Promise<string> {
  const path = join(folder, 'keys.psk');
  await writeFile(path, `# a comment\n${user}:${randomBytes(32).toString('hex')}\n`);
  return path;
}
