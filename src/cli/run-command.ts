/**
 * `sluice serve --run COMMAND`: the server lives as long as a shell command, which finds it by
 * variables, as nbdkit's does.
 *
 * R1 The exit code is the command's, or 128 and the signal that ended it.
 * R2 What asks the server to stop is passed on to the command; Ctrl-C is not, since the terminal
 *    sends it to both. The server goes on until the command has ended, or FAREWELL_MS are over.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isatty } from 'node:tty';
import { parseNbdUri } from '../nbd/uri.ts';
import { Refusal } from './refusal.ts';

/** A command that was asked to end may flush and disconnect meanwhile. */
const FAREWELL_MS = 5000;

/** A folder that only we can enter, for the socket; gone when it is disposed of. */
export class PrivateFolder implements AsyncDisposable {
  /** Where to listen. */
  readonly place: { readonly socket: string };
  readonly #path: string;

  private constructor(path: string) {
    this.#path = path;
    this.place = { socket: join(path, 'nbd.sock') };
  }

  static async make(): Promise<PrivateFolder> {
    return new PrivateFolder(await mkdtemp(join(tmpdir(), 'sluice-')));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return rm(this.#path, { recursive: true, force: true });
  }
}

/**
 * Runs a shell command until it ends; resolves with its exit code (R1).
 * @param uris of the exports
 * @param stop resolves with the signal that asks the server to stop
 */
export async function runCommand(
  command: string,
  uris: readonly string[],
  stop: Promise<NodeJS.Signals>,
): Promise<number> {
  const child = spawn('/bin/sh', ['-c', command], {
    stdio: 'inherit',
    env: { ...process.env, ...variables(uris) },
  });
  const ended = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  const stopped = stop.then(async (signal) => {
    if (signal !== 'SIGINT' || !isatty(0)) child.kill(signal);
    await Promise.race([ended, sleep(FAREWELL_MS, undefined, { ref: false })]);
    return [null, signal] as const;
  });
  try {
    const [code, signal] = await Promise.race([ended, stopped]);
    if (child.exitCode !== null) return child.exitCode;
    return code ?? 128 + constants.signals[signal ?? 'SIGTERM'];
  } catch (cause) {
    throw new Refusal('run the command with /bin/sh', cause);
  }
}

/** What the command finds in its environment: the first export, and the URIs of all. */
function variables(uris: readonly string[]): Record<string, string> {
  const [uri = ''] = uris;
  const { exportName, place, tls } = parseNbdUri(uri);
  const [unixsocket, port] = 'path' in place ? [place.path, ''] : ['', String(place.port)];
  const where = 'path' in place ? `unix:${place.path}` : `${place.host}:${place.port}`;
  const name = exportName === '' ? '' : `:exportname=${exportName}`;
  // QEMU's old form has no words for TLS.
  const nbd = tls === undefined ? `nbd:${where}${name}` : '';
  return { uri, uris: uris.join(' '), unixsocket, port, exportname: exportName, nbd };
}
