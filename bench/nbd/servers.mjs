// The servers that bench:nbd compares.

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hasPeer } from '../../scripts/peers.mjs';
import { nbdFloor, nbdkit, qemuNbd, sluice } from '../nbd-servers.mjs';
import { run } from '../program.mjs';

/**
 * `family`: members of one are compared by their best. `floor`: the least that a server can do, or
 * none at all, where there is no `command` and the client has the file itself.
 * @typedef {{
 *   name: string, family: 'sluice' | 'qemu' | 'nbdkit' | 'floor',
 *   command: import('../nbd-servers.mjs').Command | undefined,
 * }} Server
 */

/** @typedef {import('./workloads.mjs').Workload} Workload */

export const SLUICE_NAME = 'sluice';

const FLOOR_SOURCE = fileURLToPath(new URL('../c/nbd-floor.c', import.meta.url));

/**
 * Compiles the least that a server can do into a folder; undefined where there is no gcc.
 * @param {string} folder
 */
export function compileFloor(folder) {
  if (!hasPeer('gcc')) return undefined;
  const program = join(folder, 'nbd-floor');
  run('gcc', ['-std=c11', '-O2', '-pthread', '-o', program, FLOOR_SOURCE]);
  return program;
}

/**
 * The contenders of a row that are installed: nbdkit serves no qcow2, and its file plugin neither
 * bypasses the page cache nor writes through; Linux AIO is for O_DIRECT.
 * @param {Workload} workload
 * @param {string[]} more arguments of further sluices
 * @param {string} [floor] the program of compileFloor
 * @returns {Server[]}
 */
export function serversOf({ kind, cache }, more, floor) {
  const served = { format: kind === 'raw' ? 'raw' : 'qcow2', cache };
  /** @type {Server[]} */
  const servers = [{ name: SLUICE_NAME, family: 'sluice', command: sluice(served) }];
  for (const text of more) {
    const args = text.split(' ').filter((part) => part !== '');
    const command = sluice(served, args);
    servers.push({ name: `${SLUICE_NAME} ${text}`, family: 'sluice', command });
  }
  if (hasPeer('qemu-nbd')) {
    for (const aio of ['threads', 'io_uring', ...(cache === 'none' ? ['native'] : [])]) {
      servers.push({ name: `qemu-nbd ${aio}`, family: 'qemu', command: qemuNbd(served, aio) });
    }
  }
  if (kind !== 'raw') return servers;
  if (cache === 'none') servers.push({ name: 'no server', family: 'floor', command: undefined });
  if (cache !== 'writeback') return servers;
  if (hasPeer('nbdkit')) servers.push({ name: 'nbdkit file', family: 'nbdkit', command: nbdkit });
  if (floor !== undefined) {
    servers.push({ name: 'nbd-floor', family: 'floor', command: nbdFloor(floor) });
  }
  return servers;
}
