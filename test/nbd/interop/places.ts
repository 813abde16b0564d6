/** Where an export is, in the words of each program; and how programs are run. */

import { mkdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { expect } from 'vitest';
import { type Folder, succeed } from '../../cli/sluice.ts';
import { makeCertificates, makeKeys } from '../../support/certificates.ts';

const MIB = 2 ** 20;
/** Bytes of every export. */
export const SIZE = 8 * MIB;
/** So much at its start is DATA, the rest is a hole. */
export const DATA_BYTES = MIB;
export const DATA = 0x11;

/** Certificates of both sides, and a file with the key of alice. */
export interface Credentials {
  readonly certificates: string;
  readonly keys: string;
}

/** An export of a server on this machine, on a socket or a port. */
export interface Place extends Credentials {
  readonly name: string;
  readonly socket?: string;
  readonly port?: number;
  readonly tls?: 'x509' | 'psk';
}

export async function makeCredentials(folder: Folder): Promise<Credentials> {
  const certificates = folder.file('pki');
  await mkdir(certificates);
  await makeCertificates(certificates);
  return { certificates, keys: await makeKeys(folder.path) };
}

/** Makes a file of what every export has in it. */
export async function writeContent(path: string): Promise<string> {
  await writeFile(path, Buffer.alloc(DATA_BYTES, DATA));
  await truncate(path, SIZE);
  return path;
}

/** The URI, with libnbd's parameters for TLS, which are those of sluice, too. */
export function uriOf({ name, socket, port, tls, certificates, keys }: Place): string {
  const scheme = tls === undefined ? 'nbd' : 'nbds';
  const user = tls === 'psk' ? 'alice@' : '';
  const parameters = [
    ...(socket === undefined ? [] : [`socket=${socket}`]),
    ...(tls === 'x509' ? [`tls-certificates=${certificates}`] : []),
    ...(tls === 'psk' ? [`tls-psk-file=${keys}`] : []),
  ];
  const query = parameters.length === 0 ? '' : `?${parameters.join('&')}`;
  const at = socket === undefined ? `://${user}localhost:${port}/` : `+unix://${user}/`;
  return `${scheme}${at}${name}${query}`;
}

/** The same for QEMU: options of a program before the image, and the image. */
export function qemuArgs(place: Place, ...more: string[]): string[] {
  const { name, socket, port, tls, certificates, keys } = place;
  const folder = keys.slice(0, keys.lastIndexOf('/'));
  const creds = {
    x509: `tls-creds-x509,dir=${certificates}`,
    psk: `tls-creds-psk,dir=${folder},username=alice`,
  };
  const server =
    socket === undefined
      ? ['server.type=inet', 'server.host=localhost', `server.port=${port}`]
      : ['server.type=unix', `server.path=${socket}`];
  const secure = tls === undefined ? [] : ['tls-creds=tls'];
  const image = ['driver=nbd', ...server, `export=${name}`, ...secure, ...more].join(',');
  const object = tls === undefined ? [] : ['--object', `${creds[tls]},id=tls,endpoint=client`];
  return [...object, '--image-opts', image];
}

/** The same for nbdkit's nbd plugin. */
export function nbdkitArgs({ name, socket, port, tls, certificates, keys }: Place): string[] {
  return [
    ...(socket === undefined ? ['hostname=localhost', `port=${port}`] : [`socket=${socket}`]),
    `export=${name}`,
    ...(tls === undefined ? [] : ['tls=require']),
    ...(tls === 'x509' ? [`tls-certificates=${certificates}`] : []),
    ...(tls === 'psk' ? [`tls-psk=${keys}`, 'tls-username=alice'] : []),
  ];
}

/** A file has the bytes of another, or of a part of it. */
export async function expectSame(path: string, content: string): Promise<void> {
  const [found, expected] = await Promise.all([readFile(path), readFile(content)]);
  expect(found.equals(expected)).toBe(true);
}

/** The first version with a feature, and whether this program is of it or a later one. */
export async function isVersion(
  [major, minor]: readonly [number, number],
  program: string,
  args: readonly string[],
  pattern: RegExp,
): Promise<boolean> {
  const found = pattern.exec(await succeed(program, args));
  if (found === null) throw new Error(`${program} does not say which version it is`);
  const [, first, second] = found.map(Number);
  return first! > major || (first === major && second! >= minor);
}
