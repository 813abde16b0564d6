/** `sluice serve` in the ways that clients meet it: images, contexts, TCP and TLS. */

import { copyFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type * as library from '../../../src/node.ts';
import { Folder, serve, type Serving } from '../../cli/sluice.ts';
import {
  type Credentials,
  DATA,
  DATA_BYTES,
  makeCredentials,
  type Place,
  SIZE,
  writeContent,
} from './places.ts';
import { type Cell, yes } from './cells.ts';
import { Wiretap } from './wiretap.ts';

/** The built package: its threads are files. */
const BUILT = new URL('../../../dist/node.js', import.meta.url).href;
const { image, openDisk } = (await import(BUILT)) as typeof library;

/** The servers, and where their exports are. All but `scratch` stay as they are. */
export class Served implements AsyncDisposable {
  readonly folder: Folder;
  readonly #credentials: Credentials;
  readonly #servers: Serving[] = [];
  /** Hears what is asked of `raw`, `qcow2` and `scratch`. */
  tap!: Wiretap;
  /** A file with what is in every export. */
  content = '';
  raw!: Place;
  qcow2!: Place;
  scratch!: Place;
  /** With qemu:allocation-depth and qemu:dirty-bitmap:dirty; half of the data is its own. */
  contexts!: Place;
  tcp!: Place;
  x509!: Place;
  psk!: Place;
  #serial = 0;

  private constructor(folder: Folder, credentials: Credentials) {
    this.folder = folder;
    this.#credentials = credentials;
  }

  static async start(): Promise<Served> {
    const folder = await Folder.make();
    const served = new Served(folder, await makeCredentials(folder));
    served.content = await writeContent(folder.file('content.img'));
    await served.#makeImages();
    await Promise.all([
      served.#serveImages(),
      served.#serveContexts(),
      served.#serveTcp(),
      served.#serveTls(),
    ]);
    return served;
  }

  /** A path that nothing has had. */
  fresh(name: string): string {
    return this.folder.file(`${this.#serial++}-${name}`);
  }

  /** A chain of two images, each with half of the data; the half above is in the bitmap. */
  async #makeImages(): Promise<void> {
    const at = (name: string): string => this.folder.file(name);
    for (const name of ['raw', 'tcp', 'x509', 'psk']) {
      await writeContent(at(`${name}.img`));
    }
    await this.folder.image('scratch.img', SIZE);
    const [base, top] = [at('base.qcow2'), at('top.qcow2')];
    const half = DATA_BYTES / 2;
    await image.create(base, { format: 'qcow2', sizeBytes: SIZE });
    await fill(base, 0, half);
    const backing = { name: 'base.qcow2', format: 'qcow2' } as const;
    const named = { folders: [this.folder.path] };
    await image.create(top, { format: 'qcow2', image: { backing }, backing: named });
    await image.bitmap(top, 'dirty', { do: 'add' });
    await fill(top, half, half);
    await image.bitmap(top, 'dirty', { do: 'disable' });
    await copyFile(at('top.qcow2'), at('contexts.qcow2'));
  }

  async #serve(socket: string | undefined, ...args: string[]): Promise<string> {
    const place = socket === undefined ? ['-p', '0'] : ['-k', this.folder.file(socket)];
    const server = await serve(['-t', ...place, ...args]);
    this.#servers.push(server);
    return server.uri;
  }

  async #serveImages(): Promise<void> {
    const exports = ['raw', 'qcow2', 'scratch'].flatMap((name) => {
      return ['-x', name, '-D', `the ${name} one`, '-f', name === 'qcow2' ? name : 'raw'];
    });
    const images = ['raw.img', 'top.qcow2', 'scratch.img'].map((name) => this.folder.file(name));
    await this.#serve('images', ...exports, ...images);
    this.tap = await Wiretap.before(this.folder.file('images'), this.folder.file('tapped'));
    const at = (name: string): Place => ({
      ...this.#credentials,
      name,
      socket: this.tap.socket,
    });
    [this.raw, this.qcow2, this.scratch] = [at('raw'), at('qcow2'), at('scratch')];
  }

  async #serveContexts(): Promise<void> {
    const image = this.folder.file('contexts.qcow2');
    const offered = ['-r', '-A', '-B', 'dirty'];
    await this.#serve('contexts', ...offered, '-f', 'qcow2', '-x', 'disk', image);
    const socket = this.folder.file('contexts');
    this.contexts = { ...this.#credentials, name: 'disk', socket };
  }

  async #serveTcp(): Promise<void> {
    const uri = await this.#serve(
      undefined,
      '-f',
      'raw',
      '-x',
      'disk',
      this.folder.file('tcp.img'),
    );
    this.tcp = { ...this.#credentials, name: 'disk', port: portOf(uri) };
  }

  async #serveTls(): Promise<void> {
    const { certificates, keys } = this.#credentials;
    const mutual = ['--tls-certificates', certificates, '--tls-verify-peer'];
    const raw = ['-f', 'raw', '-x', 'disk'];
    const uri = await this.#serve(undefined, ...mutual, ...raw, this.folder.file('x509.img'));
    this.x509 = { ...this.#credentials, name: 'disk', port: portOf(uri), tls: 'x509' };
    await this.#serve('psk', '--tls-psk', keys, ...raw, this.folder.file('psk.img'));
    const socket = this.folder.file('psk');
    this.psk = { ...this.#credentials, name: 'disk', socket, tls: 'psk' };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.tap[Symbol.asyncDispose]();
    for (const server of this.#servers) await server.stop('SIGKILL');
    await this.folder[Symbol.asyncDispose]();
  }
}

function portOf(uri: string): number {
  return Number(new URL(uri).port);
}

/** Writes data into an image. */
async function fill(path: string, offset: number, length: number): Promise<void> {
  const backing = { folders: [dirname(path)] };
  const disk = await openDisk(path, { format: 'qcow2', writable: true, backing });
  await disk.write(offset, Buffer.alloc(length, DATA));
  await disk.close();
}

type Way = 'unix socket' | 'TCP' | 'TLS, X.509' | 'TLS, pre-shared key';

/** The cells of the ways to a server, of a program that does the same work on each. */
export function everyWay(
  work: (at: Served, place: Place) => Promise<void>,
): Record<Way, Cell<Served>> {
  return {
    'unix socket': yes((at) => work(at, at.raw)),
    TCP: yes((at) => work(at, at.tcp)),
    'TLS, X.509': yes((at) => work(at, at.x509)),
    'TLS, pre-shared key': yes((at) => work(at, at.psk)),
  };
}
