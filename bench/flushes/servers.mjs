// The servers that bench:flush compares, each on its own copy of the image, with or without strace.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { accepts } from '../accepts.mjs';
import { hasPeer } from '../../scripts/peers.mjs';

const SLUICE = fileURLToPath(new URL('../../dist/bin.cjs', import.meta.url));

/**
 * A server of the comparison. `traceable`: its syncs are system calls; with io_uring they are not.
 * @typedef {{
 *   name: string, traceable: boolean, needs: import('../../scripts/peers.mjs').Peer[],
 *   command(image: string, socket: string): string[],
 * }} Server
 */

export const SLUICE_NAME = 'sluice';
export const QEMU_NAME = 'qemu-nbd threads';

/** @type {(aio: string) => Server} */
const qemuNbd = (aio) => ({
  name: `qemu-nbd ${aio}`,
  traceable: aio === 'threads',
  needs: ['qemu-nbd'],
  command: (image, socket) =>
    `qemu-nbd -t -e 0 -f raw --aio=${aio} --cache=writeback -k`.split(' ').concat(socket, image),
});

/** @type {Server[]} */
const SERVERS = [
  {
    name: SLUICE_NAME,
    traceable: true,
    needs: [],
    command: (image, socket) =>
      [process.execPath, SLUICE].concat(
        'serve -f raw -t -e 0 --cache writeback -k'.split(' '),
        socket,
        image,
      ),
  },
  qemuNbd('threads'),
  qemuNbd('io_uring'),
  {
    name: 'nbdkit file',
    traceable: true,
    needs: ['nbdkit'],
    command: (image, socket) => ['nbdkit', '-f', '-U', socket, 'file', image],
  },
];

/** The servers that are installed. */
export function installedServers() {
  return SERVERS.filter(({ needs }) => needs.every((program) => hasPeer(program)));
}

/** What runs under strace: its only child. */
function tracedPid(/** @type {number} */ pid) {
  const [child] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim().split(' ');
  return Number(child);
}

/** strace that stops the server at syncs only (seccomp), and makes each wait if told to. */
function underStrace(/** @type {string} */ log, /** @type {number} */ delayMicros) {
  const delay = `inject=fdatasync,fsync:delay_enter=${delayMicros}`;
  return 'strace -f --seccomp-bpf -qq -ttt -e trace=fdatasync,fsync -o'
    .split(' ')
    .concat(log, delayMicros > 0 ? ['-e', delay] : []);
}

const START_TRIES = 1000;
const START_PAUSE_MS = 10;

/**
 * Runs `use` with a server that greets clients; stops it after that. Answers what `use` answered,
 * and with `tracing` the times of the syncs, in seconds since the epoch.
 * @template T
 * @param {{
 *   server: Server, image: string, socket: string,
 *   tracing?: { log: string, delayMicros: number } | undefined,
 * }} run
 * @param {() => Promise<T>} use
 */
export async function withServer({ server, image, socket, tracing }, use) {
  const command = server.command(image, socket);
  const under = tracing === undefined ? [] : underStrace(tracing.log, tracing.delayMicros);
  const [program = '', ...args] = [...under, ...command];
  const child = spawn(program, args, { stdio: 'ignore' });
  const ended = once(child, 'exit');
  try {
    for (let tries = 0; !(await accepts(socket)); tries++) {
      if (child.exitCode !== null || tries === START_TRIES) {
        throw new Error(`${server.name} did not open its socket`);
      }
      await sleep(START_PAUSE_MS);
    }
    const value = await use();
    return { value, syncs: () => (tracing === undefined ? [] : syncTimes(tracing.log)) };
  } finally {
    if (child.exitCode === null && child.pid !== undefined) {
      process.kill(tracing === undefined ? child.pid : tracedPid(child.pid), 'SIGTERM');
    }
    await ended;
    // nbdkit leaves its socket behind.
    rmSync(socket, { force: true });
  }
}

/** When the syncs in strace's log began; call it when strace has ended. */
function syncTimes(/** @type {string} */ log) {
  const begins = /^\d+ +(?<seconds>[\d.]+) f(?:data)?sync\(/gm;
  return Array.from(readFileSync(log, 'latin1').matchAll(begins), ({ groups }) =>
    Number(groups?.['seconds']),
  );
}
