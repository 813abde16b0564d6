// On what machine, and with which versions, a run was made.

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';

/** The first version number that a program prints. */
function versionOf(/** @type {string} */ program) {
  const { stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  return /\d+(?:\.\d+)+/.exec(stdout ?? '')?.[0] ?? 'none';
}

/** What the numbers depend on. */
export function machine() {
  const all = cpus();
  const { version } = JSON.parse(
    readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
  );
  return {
    processors: all.length,
    model: all[0]?.model ?? 'unknown',
    memoryMib: Math.round(totalmem() / 2 ** 20),
    kernel: release(),
    versions: {
      sluice: /** @type {string} */ (version),
      node: process.versions.node,
      'qemu-nbd': versionOf('qemu-nbd'),
      nbdkit: versionOf('nbdkit'),
      fio: versionOf('fio'),
    },
  };
}
