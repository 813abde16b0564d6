// The servers that bench:nbd compares.

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hasPeer } from '../../scripts/peers.mjs';
import { nbdFloor, nbdkit, qemuNbd, sluice } from '../nbd-servers.mjs';
import { run } from '../program.mjs';

/**
 * `family`: members of one are compared by their best. `floor`: the least that a server can do.
 * @typedef {{
 *   name: string, family: 'sluice' | 'qemu' | 'nbdkit' | 'floor',
 *   command: import('../nbd-servers.mjs').Command,
 * }} Server
 */

/** @typedef {import('./workloads.mjs').Workload} Workload */

export const SLUICE_NAME = 'sluice';

/** The floors are programs in bench/c. */
const FLOORS = { cached: 'nbd-floor', sharesSyncs: 'nbd-floor-loop', direct: 'nbd-floor-direct' };

/**
 * Compiles the least that a server can do into a folder: a program for each way to do it, by name.
 * None where there is no gcc.
 * @param {string} folder
 * @returns {Map<string, string>}
 */
export function compileFloors(folder) {
  if (!hasPeer('gcc')) return new Map();
  const programs = new Map(Object.values(FLOORS).map((name) => [name, join(folder, name)]));
  for (const [name, program] of programs) {
    const source = fileURLToPath(new URL(`../c/${name}.c`, import.meta.url));
    run('gcc', ['-std=c11', '-O2', '-pthread', '-o', program, source]);
  }
  return programs;
}

/**
 * What does least in a row, if there is one: none serves qcow2 or writes through, nobody bypasses
 * the page cache who need not, and who shares syncs does so for several connections that flush.
 * @param {Workload} workload
 */
function floorsOf({ kind, cache, connections, flushes }) {
  if (kind !== 'raw' || cache === 'writethrough') return [];
  if (cache === 'none') return [FLOORS.direct];
  return flushes && connections > 1 ? [FLOORS.cached, FLOORS.sharesSyncs] : [FLOORS.cached];
}

/**
 * The contenders of a row that are installed: nbdkit serves no qcow2, and its file plugin neither
 * bypasses the page cache nor writes through; Linux AIO is for O_DIRECT.
 * @param {Workload} workload
 * @param {string[]} more arguments of further sluices
 * @param {Map<string, string>} [floors] of compileFloors
 * @returns {Server[]}
 */
export function serversOf(workload, more, floors = new Map()) {
  const { kind, cache } = workload;
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
  if (kind === 'raw' && cache === 'writeback' && hasPeer('nbdkit')) {
    servers.push({ name: 'nbdkit file', family: 'nbdkit', command: nbdkit });
  }
  for (const name of floorsOf(workload)) {
    const program = floors.get(name);
    if (program !== undefined) servers.push({ name, family: 'floor', command: nbdFloor(program) });
  }
  return servers;
}
