// The programs that tests compare sluice with or drive it by, and the Debian packages they are in.

import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Program -> packages. */
export const PEERS = {
  'qemu-img': ['qemu-utils'],
  'qemu-io': ['qemu-utils'],
  'qemu-nbd': ['qemu-utils'],
  'qemu-system-x86_64': ['qemu-system-x86'],
  nbdkit: ['nbdkit'],
  nbdcopy: ['libnbd-bin'],
  nbdfuse: ['libnbd-bin'],
  nbdinfo: ['libnbd-bin'],
  nbdsh: ['python3-libnbd'],
  openssl: ['openssl'],
  fio: ['fio'],
  strace: ['strace'],
  curl: ['curl'],
  'nbd-client': ['nbd-client'],
  'systemd-socket-activate': ['systemd'],
  'systemd-analyze': ['systemd'],
  'mkfs.ext4': ['e2fsprogs'],
  gcc: ['gcc', 'libc6-dev'],
};

/** @typedef {keyof typeof PEERS} Peer */

/** gcc without the headers of the C library compiles nothing. */
const C_HEADER = '/usr/include/stdio.h';
/** Where mkfs and its like are; not in every user's PATH. */
const SYSTEM_FOLDERS = ['/usr/sbin', '/sbin'];

/**
 * True when the program is installed.
 * @param {Peer} program
 */
export function hasPeer(program) {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), ...SYSTEM_FOLDERS];
  const found = folders.some((folder) => isExecutable(join(folder, program)));
  return found && (program !== 'gcc' || existsSync(C_HEADER));
}

/** The programs that are not installed. */
export function missingPeers() {
  return /** @type {Peer[]} */ (Object.keys(PEERS)).filter((program) => !hasPeer(program));
}

/** @param {string} file */
function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
