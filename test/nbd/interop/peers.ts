/** Other servers, and sluice's own, in the ways that its verbs meet them. */

import { writeFile } from 'node:fs/promises';
import { expect } from 'vitest';
import type { image as verbs } from '../../../src/node.ts';
import { Folder, serve, sluice } from '../../cli/sluice.ts';
import { nbdkit, nbdkitTcp, type PeerServer, qemuNbd, qemuNbdTcp } from '../peer-servers.ts';
import { BLOCK_STATUS, DISC, FLUSH, READ, WRITE, WRITE_ZEROES } from '../wire.ts';
import {
  type Credentials,
  DATA_BYTES,
  expectSame,
  makeCredentials,
  SIZE,
  writeContent,
} from './places.ts';
import { type Heard, Wiretap } from './wiretap.ts';

/** The built package: its threads are files. */
const BUILT = new URL('../../../dist/node.js', import.meta.url).href;
export const { image } = (await import(BUILT)) as { image: typeof verbs };

/** The folder of the tests, what is in it, and the servers that several tests use. */
export class Work implements Credentials, AsyncDisposable {
  readonly folder: Folder;
  readonly certificates: string;
  readonly keys: string;
  /** A file with what every export has in it. */
  readonly content: string;
  /** A file of other bytes, of which some are where the content has a hole. */
  readonly noise: string;
  readonly #shared: Record<'read' | 'write', Map<Kind, Tapped>> = {
    read: new Map(),
    write: new Map(),
  };
  readonly #heard = new Map<Kind, Heard>();
  #serial = 0;

  private constructor(folder: Folder, { certificates, keys }: Credentials, content: string) {
    this.folder = folder;
    this.certificates = certificates;
    this.keys = keys;
    this.content = content;
    this.noise = folder.file('noise.img');
  }

  static async make(): Promise<Work> {
    const folder = await Folder.make();
    const content = await writeContent(folder.file('content.img'));
    const work = new Work(folder, await makeCredentials(folder), content);
    await writeFile(work.noise, Buffer.alloc(2 * DATA_BYTES, 0xa5));
    return work;
  }

  /** A path that nothing has had. */
  fresh(name: string): string {
    return this.folder.file(`${this.#serial++}-${name}`);
  }

  /** The server of a kind that is only read, or the one that is written to. */
  async shared(kind: Kind, readOnly: boolean): Promise<Tapped> {
    const servers = this.#shared[readOnly ? 'read' : 'write'];
    const there = servers.get(kind) ?? (await Tapped.start(kind, this, { readOnly }));
    servers.set(kind, there);
    return there;
  }

  /** What copies into a server of a kind and back have asked it for, all that this client knows. */
  async heardOf(kind: Kind): Promise<Heard> {
    const { uri, tap } = await this.shared(kind, false);
    const heard = this.#heard.get(kind) ?? (await tap.during(() => expectWrite(uri, this)));
    this.#heard.set(kind, heard);
    return heard;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const servers = [...this.#shared.read.values(), ...this.#shared.write.values()];
    for (const server of servers) await server[Symbol.asyncDispose]();
    await this.folder[Symbol.asyncDispose]();
  }
}

export type Secure = 'x509' | 'psk' | undefined;

/** How a server is started: on a file, and with how much. */
export interface Kind {
  readonly start: (work: Work, file: string, how: How) => Promise<PeerServer>;
}

export interface How {
  readonly tls?: Secure;
  readonly readOnly?: boolean;
  readonly tcp?: boolean;
  /** Options of the program, and parameters behind its file. */
  readonly options?: readonly string[];
  readonly parameters?: readonly string[];
}

export const QEMU_NBD: Kind = {
  start({ certificates, folder }, file, { tls, readOnly, tcp, options = [] }) {
    const object = {
      x509: `tls-creds-x509,verify-peer=yes,dir=${certificates}`,
      psk: `tls-creds-psk,dir=${folder.path}`,
    };
    const secure =
      tls === undefined
        ? []
        : ['--object', `${object[tls]},id=tls,endpoint=server`, '--tls-creds=tls'];
    const writing = readOnly === true ? ['-r'] : [];
    const begin = tcp === true ? qemuNbdTcp : qemuNbd;
    return begin('-f', 'raw', ...writing, ...secure, ...options, file);
  },
};

export const NBDKIT: Kind = {
  start({ certificates, keys }, file, { tls, readOnly, tcp, options = [], parameters = [] }) {
    const secure = {
      x509: [`--tls-certificates=${certificates}`, '--tls-verify-peer'],
      psk: [`--tls-psk=${keys}`],
    };
    const asked = tls === undefined ? [] : ['--tls=require', ...secure[tls]];
    const writing = readOnly === true ? ['-r'] : [];
    const begin = tcp === true ? nbdkitTcp : nbdkit;
    return begin(...asked, ...writing, ...options, 'file', file, ...parameters);
  },
};

export const SLUICE: Kind = {
  async start(work, file, { tls, readOnly, tcp }) {
    const { certificates, keys } = work;
    const secure = {
      x509: ['--tls-certificates', certificates, '--tls-verify-peer'],
      psk: ['--tls-psk', keys],
    };
    const socket = work.fresh('sluice');
    const place = tcp === true ? ['-p', '0'] : ['-k', socket];
    const writing = readOnly === true ? ['-r'] : [];
    const asked = tls === undefined ? [] : secure[tls];
    const server = await serve(['-t', '-f', 'raw', ...place, ...writing, ...asked, file]);
    return {
      uri: server.uri.replace(/^nbds/, 'nbd'),
      socket,
      program: server,
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    };
  },
};

/** A server of a fresh file with the content in it, behind a wiretap. */
export class Tapped implements AsyncDisposable {
  readonly tap: Wiretap;
  readonly #server: PeerServer;

  private constructor(server: PeerServer, tap: Wiretap) {
    this.#server = server;
    this.tap = tap;
  }

  static async start({ start }: Kind, work: Work, how: How): Promise<Tapped> {
    const server = await start(work, await writeContent(work.fresh('disk.img')), how);
    return new Tapped(server, await Wiretap.before(server.socket, work.fresh('tap')));
  }

  get uri(): string {
    return `nbd+unix:///?socket=${this.tap.socket}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.tap[Symbol.asyncDispose]();
    await this.#server[Symbol.asyncDispose]();
  }
}

/** The URI of a server with TLS. */
export function secured(uri: string, tls: Secure, { certificates, keys }: Credentials): string {
  if (tls === undefined) return uri;
  const added =
    tls === 'x509'
      ? `tls-certificates=${certificates}&tls-hostname=localhost`
      : `tls-psk-file=${keys}&tls-username=alice`;
  return `${uri.replace(/^nbd/, 'nbds')}&${added}`;
}

// The verbs, and what they must find.

export async function expectInfo(uri: string): Promise<void> {
  const found = await image.info(uri, { format: 'raw' });
  expect(found).toMatchObject({ format: 'raw', 'virtual-size': SIZE });
  const { required } = await image.measure(uri, { format: 'raw', targetFormat: 'qcow2' });
  expect(required).toBeGreaterThan(DATA_BYTES);
}

export async function expectMap(uri: string, dataBytes: number): Promise<void> {
  const found: [start: number, length: number, data: boolean][] = [];
  for await (const { start, length, data } of image.map(uri, { format: 'raw' })) {
    found.push([start, length, data]);
  }
  const rest = [dataBytes, SIZE - dataBytes, false];
  expect(found).toEqual([[0, dataBytes, true], ...(dataBytes < SIZE ? [rest] : [])]);
}

/** Copies what is there; the copy is the content. */
export async function expectCopy(uri: string, work: Work): Promise<void> {
  const target = work.fresh('copy.img');
  await image.convert(uri, target, { format: 'raw' });
  await expectSame(target, work.content);
}

export async function expectRead(uri: string, work: Work): Promise<void> {
  await expectCopy(uri, work);
  const both = { first: { format: 'raw' }, second: { format: 'raw' } } as const;
  expect(await image.compare(work.content, uri, both)).toMatchObject({ result: 'identical' });
  const target = work.fresh('dd.img');
  const args = ['dd', '-f', 'raw', '-O', 'raw', 'bs=64k', `if=${uri}`, `of=${target}`];
  expect(await sluice(args)).toMatchObject({ code: 0 });
  await expectSame(target, work.content);
}

/** Copies into it, over noise, and back. */
export async function expectWrite(uri: string, work: Work): Promise<void> {
  await image.convert(work.noise, uri, { format: 'raw', existing: true });
  await image.convert(work.content, uri, { format: 'raw', existing: true });
  await expectCopy(uri, work);
}

/** What a copy into an export sends. */
export async function heardOfCopy(tap: Wiretap, uri: string, { content }: Work): Promise<Heard> {
  return tap.during(() => image.convert(content, uri, { format: 'raw', existing: true }));
}

/** Every byte is there as data or as zeroes, and a flush comes last. */
export function expectStable(heard: Heard): void {
  const types = heard.requests.map(({ type }) => type).filter((type) => type !== DISC);
  expect(types.at(-1)).toBe(FLUSH);
  expect(heard.bytesOf(WRITE) + heard.bytesOf(WRITE_ZEROES)).toBe(SIZE);
}

/** A reader that asks for the map first reads the data alone. */
export function expectThrifty(heard: Heard): void {
  expect(heard.of(BLOCK_STATUS)).not.toEqual([]);
  expect(heard.bytesOf(READ)).toBeLessThan(2 * DATA_BYTES);
}
