/**
 * `sluice serve --run COMMAND`: the server lives as long as a shell command, which finds it by
 * variables, as nbdkit's does.
 *
 * R1 The exit code is the command's, or 128 and the signal that ended it.
 * R2 What asks the server to stop is passed on to the command; Ctrl-C is not, since the terminal
 *    sends it to both. The server goes on until it has ended, or FAREWELL_MS are over: then the
 *    command is killed. A second signal kills it at once.
 * R3 The command has a process group of its own, which gets the signals, unless there is a
 *    terminal: it may want to read from it, and then it alone is killed.
 * R4 The private folder is removed however the process ends, if it is not killed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isatty } from 'node:tty';
import { parseNbdUri } from '../nbd/uri.ts';
import { Refusal } from './refusal.ts';

/** A command that was asked to end may flush and disconnect meanwhile. */
const FAREWELL_MS = 5000;
/** Between two looks whether something of a process group is left. */
const LOOK_MS = 20;
/** What is killed ends at once, but for a call that hangs in the kernel. */
const KILLED_MS = 1000;
const STANDARD_STREAMS = [0, 1, 2];

/** A folder that only we can enter, for the socket; gone when it is disposed of (R4). */
export class PrivateFolder implements AsyncDisposable {
  /** Where to listen. */
  readonly place: { readonly socket: string };
  readonly #path: string;
  /** Removes it at once, when nothing else will. */
  readonly removeNow = (): void => rmSync(this.#path, { recursive: true, force: true });

  private constructor(path: string) {
    this.#path = path;
    this.place = { socket: join(path, 'nbd.sock') };
    process.on('exit', this.removeNow);
  }

  static async make(): Promise<PrivateFolder> {
    return new PrivateFolder(await mkdtemp(join(tmpdir(), 'sluice-')));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#path, { recursive: true, force: true });
    process.off('exit', this.removeNow);
  }
}

/** What a command is told, and who is told of it. */
export interface RunContext {
  /** Of the exports. */
  readonly uris: readonly string[];
  /** Resolves with the signal that asks the server to stop. */
  readonly stop: Promise<NodeJS.Signals>;
  /** Says that the command was killed. */
  readonly warn: (text: string) => void;
  /** Gets what kills the command at once. */
  readonly onStart: (kill: () => void) => void;
}

/** Runs a shell command until it ends; resolves with its exit code (R1). */
export async function runCommand(command: string, context: RunContext): Promise<number> {
  const isAlone = !STANDARD_STREAMS.some((fd) => isatty(fd));
  const child = spawn('/bin/sh', ['-c', command], {
    stdio: 'inherit',
    env: { ...process.env, ...variables(context.uris) },
    detached: isAlone,
  });
  const group = new CommandGroup(child, isAlone);
  context.onStart(() => group.kill('SIGKILL'));
  const ended = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  let stopped: Promise<void> | undefined;
  void context.stop.then((signal) => {
    stopped = farewell(group, signal, context.warn);
    return stopped;
  });
  try {
    const [code, signal] = await ended;
    // Those that it started may be there still.
    await stopped;
    return code ?? 128 + constants.signals[signal ?? 'SIGTERM'];
  } catch (cause) {
    throw new Refusal('run the command with /bin/sh', cause);
  }
}

/** Asks a command to end, and sees to it (R2). */
async function farewell(
  group: CommandGroup,
  signal: NodeJS.Signals,
  warn: (text: string) => void,
): Promise<void> {
  if (signal !== 'SIGINT' || group.isAlone) group.kill(signal);
  if (await group.hasEnded(FAREWELL_MS)) return;
  warn(`the command did not end in ${FAREWELL_MS / 1000} s after ${signal}: it is killed`);
  group.kill('SIGKILL');
  await group.hasEnded(KILLED_MS);
}

/** The processes of a command (R3). */
class CommandGroup {
  readonly isAlone: boolean;
  readonly #child: ChildProcess;

  constructor(child: ChildProcess, isAlone: boolean) {
    this.#child = child;
    this.isAlone = isAlone;
  }

  kill(signal: NodeJS.Signals): void {
    this.#send(signal);
  }

  /** Resolves with whether nothing of it is left; false comes when the time is over. */
  async hasEnded(limitMs: number): Promise<boolean> {
    const deadlineMs = performance.now() + limitMs;
    while (this.#send(0)) {
      if (performance.now() >= deadlineMs) return false;
      await sleep(LOOK_MS);
    }
    return true;
  }

  /** Answers whether there is somebody who gets it. */
  #send(signal: NodeJS.Signals | 0): boolean {
    const { pid } = this.#child;
    if (pid === undefined) return false;
    if (!this.isAlone) return this.#child.kill(signal);
    try {
      return process.kill(-pid, signal);
    } catch (error) {
      // Somebody with other rights is somebody.
      return (error as NodeJS.ErrnoException).code === 'EPERM';
    }
  }
}

/** What the command finds in its environment: the first export, and the URIs of all. */
function variables(uris: readonly string[]): Record<string, string> {
  const [uri = ''] = uris;
  const { exportName, place, tls } = parseNbdUri(uri);
  const [unixsocket, port] = 'path' in place ? [place.path, ''] : ['', String(place.port)];
  const where = 'path' in place ? `unix:${place.path}` : `${bracketed(place.host)}:${place.port}`;
  const name = exportName === '' ? '' : `:exportname=${exportName}`;
  // QEMU's old form has no words for TLS.
  const nbd = tls === undefined ? `nbd:${where}${name}` : '';
  return { uri, uris: uris.join(' '), unixsocket, port, exportname: exportName, nbd };
}

/** The colons of an IPv6 address are not the one before the port. */
function bracketed(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}
