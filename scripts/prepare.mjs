// From a fresh clone to a built package: dependencies when they are missing or older than the
// lock file, then the build. Nothing is done twice. Output goes to stderr.
//
//   node scripts/prepare.mjs [ARGS FOR build.mjs]

import { spawnSync } from 'node:child_process';
import { pathToFileURL } from 'node:url';
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

/**
 * Dependencies and build; false when one of them failed, which has said why.
 * @param {string[]} args for build.mjs
 */
export function prepare(args = []) {
  const installed =
    isFresh([INSTALLED_LOCK], ['package-lock.json']) ||
    run('npm', ['ci', '--include=dev', '--include=optional']);
  return installed && run(process.execPath, ['scripts/build.mjs', ...args]);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  process.exitCode = prepare(process.argv.slice(2)) ? 0 : 1;
}
