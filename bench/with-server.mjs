// A server that runs while it is measured.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { accepts } from './accepts.mjs';

const START_TRIES = 1000;
const START_PAUSE_MS = 10;

/**
 * Runs `use` with a server that greets clients; stops it after that. Answers what `use` answered.
 * @template T
 * @param {string[]} command
 * @param {string} socket
 * @param {(pid: number) => Promise<T>} use gets the process id of the command
 * @param {(pid: number) => number} [pidOf] whom to stop, when the command only starts it
 */
export async function withServer(command, socket, use, pidOf = (pid) => pid) {
  const [program = '', ...args] = command;
  const child = spawn(program, args, { stdio: 'ignore' });
  const ended = once(child, 'exit');
  const { pid } = child;
  if (pid === undefined) throw new Error(`cannot start ${program}`);
  try {
    for (let tries = 0; !(await accepts(socket)); tries++) {
      if (child.exitCode !== null || tries === START_TRIES) {
        throw new Error(`${command.join(' ')} did not open its socket`);
      }
      await sleep(START_PAUSE_MS);
    }
    return await use(pid);
  } finally {
    if (child.exitCode === null) process.kill(pidOf(pid), 'SIGTERM');
    await ended;
    // nbdkit leaves its socket behind.
    rmSync(socket, { force: true });
  }
}
