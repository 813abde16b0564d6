// The servers that bench:nbd compares.

import { hasPeer } from '../../scripts/peers.mjs';
import { nbdkit, qemuNbd, sluice } from '../nbd-servers.mjs';

/**
 * `family`: members of one are compared by their best.
 * @typedef {{
 *   name: string, family: 'sluice' | 'qemu' | 'nbdkit',
 *   command: import('../nbd-servers.mjs').Command,
 * }} Server
 */

/** @typedef {import('./workloads.mjs').Workload} Workload */

export const SLUICE_NAME = 'sluice';

/**
 * The contenders of a row that are installed: nbdkit serves no qcow2, and its file plugin neither
 * bypasses the page cache nor writes through; Linux AIO is for O_DIRECT.
 * @param {Workload} workload
 * @param {string[]} more arguments of further sluices
 * @returns {Server[]}
 */
export function serversOf({ kind, cache }, more) {
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
  return servers;
}
