/** `sluice serve -f qcow2`, with its system calls on the image recorded or failing on cue. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';

import type { CacheModeName } from '../../src/cache-mode.ts';
import { type Folder, run, serve, type Serving, succeed } from '../cli/sluice.ts';
import { ONE_THREAD, readCalls, type SystemCall, underStrace } from '../support/strace.ts';
import { nbdsh } from './image.ts';

/** The calls that change an image. */
export const CHANGING = ['pwrite64', 'pwritev', 'pwritev2', 'ftruncate', 'fallocate', 'fdatasync'];

/** How an image is served. */
export interface Service {
  readonly cache?: CacheModeName;
  /** More options of `sluice serve`. Without -t it ends with its last client. */
  readonly options?: readonly string[];
  /** Runs under strace when given: the file whose calls are recorded; default: the image. */
  readonly traced?: string | true;
  /** For strace's `inject`. */
  readonly inject?: readonly string[];
  /** Of the data that calls move, so much is in the record. */
  readonly dataBytes?: number;
  readonly poolThreads?: number;
}

let serial = 0;

/** A server of an image in a folder of the caller's. */
export class ServedImage implements AsyncDisposable {
  readonly image: string;
  readonly server: Serving;
  readonly #folder: Folder;
  readonly #name: string;

  private constructor(folder: Folder, name: string, image: string, server: Serving) {
    this.#folder = folder;
    this.#name = name;
    this.image = image;
    this.server = server;
  }

  /** Serves an image. */
  static async serve(folder: Folder, image: string, service: Service = {}): Promise<ServedImage> {
    const name = `server-${serial++}`;
    const { cache = 'writeback', inject = [], dataBytes = 0, traced, poolThreads } = service;
    const path = traced === undefined || traced === true ? image : traced;
    const calls = ['openat', ...CHANGING];
    const tracing = { path, calls, inject, dataBytes };
    const under = traced === undefined ? [] : underStrace(tracing, folder.file(`${name}-calls`));
    const place = ['-k', folder.file(`${name}.sock`), '--pid-file', folder.file(`${name}.pid`)];
    // strace does not see what goes by io_uring.
    const visible = traced === undefined ? [] : ['--aio', 'threads'];
    const options = ['--cache', cache, ...visible, ...(service.options ?? [])];
    const args = ['-f', 'qcow2', ...place, ...options, image];
    const env =
      poolThreads === undefined ? ONE_THREAD : { UV_THREADPOOL_SIZE: String(poolThreads) };
    return new ServedImage(folder, name, image, await serve(args, { under, env }));
  }

  /** Runs a script in Python with `h` connected; answers the JSON of its last line. */
  async client(script: string): Promise<unknown> {
    const text = await nbdsh(this.server.uri, script);
    return JSON.parse(text.trimEnd().split('\n').at(-1) ?? '');
  }

  /** The process id of the server, which is not the one of strace. */
  async pid(): Promise<number> {
    return Number(await readFile(this.#pidFile, 'utf8'));
  }

  /** The calls so far. */
  calls(): SystemCall[] {
    return readCalls(this.#folder.path, `${this.#name}-calls`);
  }

  /** Waits for the end that came with the last client: exit code, and what stderr says of it. */
  async end(): Promise<{ readonly code: number | null; readonly errors: readonly string[] }> {
    const { code, stderr } = await this.server.outcome;
    return { code, errors: stderr.trimEnd().split('\n').slice(1) };
  }

  get #pidFile(): string {
    return this.#folder.file(`${this.#name}.pid`);
  }

  /** Ends it as `kill -9` does. */
  async kill(): Promise<void> {
    const { exitCode, signalCode } = this.server.child;
    // Without the file of its process id it has just ended by itself.
    const runs = exitCode === null && signalCode === null && existsSync(this.#pidFile);
    if (runs) process.kill(await this.pid(), 'SIGKILL');
    await this.server.outcome;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

/** `qemu-img create` of a qcow2 image; answers its path. */
export async function createImage(
  folder: Folder,
  name: string,
  options: string,
  sizeBytes: number,
  backing?: readonly [name: string, format: 'raw' | 'qcow2'],
): Promise<string> {
  const base = backing === undefined ? [] : ['-b', backing[0], '-F', backing[1]];
  const args = ['create', '-q', '-f', 'qcow2', '-o', options, ...base, name, String(sizeBytes)];
  await succeed('qemu-img', args, { cwd: folder.path });
  return folder.file(name);
}

/** Runs commands of qemu-io on an image or a URI; fails when one of them does. */
export async function qemuIo(
  target: string,
  commands: readonly string[],
  format = 'qcow2',
): Promise<string> {
  const args = ['-f', format, ...commands.flatMap((command) => ['-c', command]), target];
  const output = await succeed('qemu-io', args);
  if (/fail|error|invalid/i.test(output)) throw new Error(output);
  return output;
}

/** What `qemu-img check` counts. */
export interface Checked {
  readonly corruptions: number;
  readonly leaks: number;
  readonly errors: number;
}

/** A good image. */
export const SOUND: Checked = { corruptions: 0, leaks: 0, errors: 0 };

/** `qemu-img check`. */
export async function checkImage(image: string): Promise<Checked> {
  const args = ['check', '--output=json', '-f', 'qcow2', image];
  const { stdout, stderr } = await run('qemu-img', args, { cwd: dirname(image) });
  if (!stdout.includes('{')) throw new Error(`qemu-img check: ${stderr}`);
  const report = JSON.parse(stdout.slice(stdout.indexOf('{'))) as Record<string, number>;
  const { corruptions = 0, leaks = 0, 'check-errors': errors = 0 } = report;
  return { corruptions, leaks, errors };
}
