// From a fresh clone to a built package: dependencies when they are missing or older than the
// lock file, then the build. Nothing is done twice. Output goes to stderr.

import { spawnSync } from 'node:child_process';
import { isFresh, ROOT } from './paths.mjs';

/** Written by npm at the end of an installation. */
const INSTALLED_LOCK = 'node_modules/.package-lock.json';

/**
 * True when the program exits with 0.
 * @param {string} program
 * @param {string[]} args
 */
function run(program, args) {
  return spawnSync(program, args, { cwd: ROOT, stdio: ['ignore', 2, 2] }).status === 0;
}

/** Dependencies and build; false when one of them failed, which has said why. */
export function prepare() {
  const installed =
    isFresh([INSTALLED_LOCK], ['package-lock.json']) ||
    run('npm', ['ci', '--include=dev', '--include=optional']);
  return installed && run(process.execPath, ['scripts/build.mjs']);
}
