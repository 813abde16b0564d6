// The servers that bench:nbd compares.

import { fileURLToPath } from 'node:url';
import { hasPeer } from '../../scripts/peers.mjs';

const SLUICE = fileURLToPath(new URL('../../dist/bin.cjs', import.meta.url));

/**
 * `family`: members of one are compared by their best.
 * @typedef {{
 *   name: string, family: 'sluice' | 'qemu' | 'nbdkit',
 *   command(image: string, socket: string): string[],
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
  const format = kind === 'raw' ? 'raw' : 'qcow2';
  const servers = [sluice(SLUICE_NAME, format, cache, [])];
  for (const text of more) {
    const args = text.split(' ').filter((part) => part !== '');
    servers.push(sluice(`${SLUICE_NAME} ${text}`, format, cache, args));
  }
  if (hasPeer('qemu-nbd')) {
    const ways = ['threads', 'io_uring', ...(cache === 'none' ? ['native'] : [])];
    servers.push(...ways.map((aio) => qemu(format, cache, aio)));
  }
  if (kind === 'raw' && cache === 'writeback' && hasPeer('nbdkit')) servers.push(NBDKIT);
  return servers;
}

/** @type {(name: string, format: string, cache: string, more: string[]) => Server} */
const sluice = (name, format, cache, more) => ({
  name,
  family: 'sluice',
  command: (image, socket) =>
    [process.execPath, SLUICE].concat(
      `serve -f ${format} -t -e 0 --cache ${cache}`.split(' '),
      more,
      ['-k', socket, image],
    ),
});

/** @type {(format: string, cache: string, aio: string) => Server} */
const qemu = (format, cache, aio) => ({
  name: `qemu-nbd ${aio}`,
  family: 'qemu',
  command: (image, socket) =>
    `qemu-nbd -t -e 0 -f ${format} --aio=${aio} --cache=${cache} -k`
      .split(' ')
      .concat(socket, image),
});

/** @type {Server} */
const NBDKIT = {
  name: 'nbdkit file',
  family: 'nbdkit',
  command: (image, socket) => ['nbdkit', '-f', '-U', socket, 'file', image],
};
