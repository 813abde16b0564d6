/** The servers that people have, each on a socket of its own, for tests of the client. */

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Running } from '../cli/sluice.ts';

/** A server that runs; disposing ends it. */
export interface PeerServer extends AsyncDisposable {
  readonly uri: string;
  readonly program: Running;
}

const LONGEST_START_MS = 20_000;

/** Servers write the file of their id when clients can connect. */
async function start(
  program: string,
  args: (socket: string, pidFile: string) => string[],
): Promise<PeerServer> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-peer-'));
  const socket = join(folder, 'socket');
  const pidFile = join(folder, 'pid');
  const running = new Running(program, args(socket, pidFile));
  const started = Date.now();
  while (!existsSync(pidFile)) {
    if (running.child.exitCode !== null || Date.now() - started > LONGEST_START_MS) {
      throw new Error(`${program} did not start: ${JSON.stringify(await running.stop('SIGKILL'))}`);
    }
    await sleep(5);
  }
  return {
    uri: `nbd+unix:///?socket=${socket}`,
    program: running,
    async [Symbol.asyncDispose]() {
      await running.stop('SIGKILL');
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** `nbdkit ARGS`, in the foreground. */
export function nbdkit(...args: string[]): Promise<PeerServer> {
  return start('nbdkit', (socket, pid) => ['-f', '-U', socket, '-P', pid, ...args]);
}

/** `qemu-nbd ARGS FILE`, for any number of clients. */
export function qemuNbd(...args: string[]): Promise<PeerServer> {
  const usual = ['-t', '-e', '16', '-x', ''];
  return start('qemu-nbd', (socket, pid) => [...usual, '-k', socket, '--pid-file', pid, ...args]);
}
