/**
 * `sluice serve --fork`: a second process serves, and the command ends when clients can connect.
 *
 *   command ──spawn──▶ server: open, listen, pid file, URI ──ready──▶ the command exits with 0
 *      └── the server ended before: so does the command, with the same exit code
 *
 * F1 The server has a session of its own and none of the caller's standard streams: what it says
 *    until it is ready goes through the command, and what it says later nowhere.
 * F2 Until the server is ready the two end together, however the command ends.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:os';
import { CommanderError } from 'commander';
import { Refusal } from './refusal.ts';
import { SIGNALS } from './stop.ts';
import type { Terminal } from './terminal.ts';

/** In the environment of the server. Its arguments are the command's: a value may be `--fork`. */
const FORKED = 'SLUICE_FORKED';

/** True in the process that serves for `--fork`. */
export function isForked(): boolean {
  return process.env[FORKED] === '1' && process.send !== undefined;
}

/** Starts the server; resolves when clients can connect, rejects with the server's exit code. */
export async function forkServer(terminal: Terminal): Promise<void> {
  const server = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    env: { ...process.env, [FORKED]: '1' },
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  let asked: NodeJS.Signals | undefined;
  for (const signal of SIGNALS) {
    process.on(signal, () => {
      asked = signal;
      // A server that is ready does not end by SIGHUP.
      server.kill(signal === 'SIGHUP' ? 'SIGTERM' : signal);
    });
  }
  let ready = false;
  server.on('message', () => (ready = true));
  server.stderr?.on('data', (bytes: Buffer) => process.stderr.write(bytes));
  const ended = once(server, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
  const started = Promise.all([
    once(server, 'message'),
    server.stderr && once(server.stderr, 'end'),
  ]);
  await Promise.race([started, ended]).catch((cause: unknown) => {
    throw new Refusal('start the server', cause);
  });
  if (ready && asked === undefined) return;
  const [code, signal] = await ended;
  const by = signal ?? asked ?? 'SIGTERM';
  if (!code && asked === undefined) terminal.error(`the server was ended by ${by}`);
  throw new CommanderError(code || 128 + constants.signals[by], 'sluice.fork', 'not served');
}

/** In the server: ends it, as SIGTERM does, when the command ends before the server is ready. */
export function followCommand(): void {
  if (isForked()) process.once('disconnect', stop);
}

/** In the server: lets the command end. From here on stderr leads nowhere. */
export function releaseCommand(): void {
  if (!isForked()) return;
  process.off('disconnect', stop);
  // A warning that comes later is lost (F1); without a listener it would end the server.
  process.stderr.on('error', () => undefined);
  // The command waits for this end, so it has passed on every line.
  process.stderr.end();
  process.send?.('ready', (error: Error | null) => {
    if (error !== null) stop();
  });
}

function stop(): void {
  process.kill(process.pid, 'SIGTERM');
}
