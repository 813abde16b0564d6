// The servers that bench:flush compares, each on its own copy of the image, with or without strace.

import { readFileSync } from 'node:fs';
import { hasPeer } from '../../scripts/peers.mjs';
import { nbdkit, qemuNbd, sluice } from '../nbd-servers.mjs';
import { withServer } from '../with-server.mjs';

/**
 * A server of the comparison. `traceable`: its syncs are system calls; with io_uring they are not.
 * @typedef {{
 *   name: string, traceable: boolean, needs: import('../../scripts/peers.mjs').Peer[],
 *   command: import('../nbd-servers.mjs').Command,
 * }} Server
 */

export const SLUICE_NAME = 'sluice';
export const QEMU_NAME = 'qemu-nbd threads';

/** What all of them serve. */
const SERVED = { format: 'raw', cache: 'writeback' };

/** @type {(aio: string) => Server} */
const qemu = (aio) => ({
  name: `qemu-nbd ${aio}`,
  traceable: aio === 'threads',
  needs: ['qemu-nbd'],
  command: qemuNbd(SERVED, aio),
});

/** @type {Server[]} */
const SERVERS = [
  { name: SLUICE_NAME, traceable: true, needs: [], command: sluice(SERVED) },
  qemu('threads'),
  qemu('io_uring'),
  { name: 'nbdkit file', traceable: true, needs: ['nbdkit'], command: nbdkit },
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
export async function withFlushServer({ server, image, socket, tracing }, use) {
  const command = server.command(image, socket);
  if (tracing === undefined) {
    return { value: await withServer(command, socket, use), syncs: () => [] };
  }
  const under = [...underStrace(tracing.log, tracing.delayMicros), ...command];
  const value = await withServer(under, socket, use, tracedPid);
  return { value, syncs: () => syncTimes(tracing.log) };
}

/** When the syncs in strace's log began; call it when strace has ended. */
function syncTimes(/** @type {string} */ log) {
  const begins = /^\d+ +(?<seconds>[\d.]+) f(?:data)?sync\(/gm;
  return Array.from(readFileSync(log, 'latin1').matchAll(begins), ({ groups }) =>
    Number(groups?.['seconds']),
  );
}
