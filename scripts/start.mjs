// npm start: serves a disk from a fresh clone.
//
//   npm start                  serves data/disk.img (1 GiB, sparse, made when there is none)
//   npm start -- ARGS          sluice serve ARGS
//
// The socket is data/sluice.sock unless ARGS name a socket or a port. package.json says `exec`, or
// a signal sent to npm would end at the shell in between.

import { spawn } from 'node:child_process';
import { closeSync, existsSync, ftruncateSync, mkdirSync, openSync } from 'node:fs';
import { constants } from 'node:os';
import { join, relative } from 'node:path';
import { ROOT } from './paths.mjs';
import { prepare } from './prepare.mjs';

const DATA_FOLDER = join(ROOT, 'data');
const DEFAULT_IMAGE = join(DATA_FOLDER, 'disk.img');
const DEFAULT_SOCKET = join(DATA_FOLDER, 'sluice.sock');
const DEFAULT_SIZE_BYTES = 2 ** 30;

// npm runs scripts in the root of the package; paths are meant where the user stands.
const underNpm = process.env['npm_lifecycle_event'] === 'start';
const userFolder = (underNpm && process.env['INIT_CWD']) || process.cwd();

/** A file below the root as seen from where the user stands: the path of a socket must be short. */
const shorten = (/** @type {string} */ file) => relative(userFolder, file);

function makeDefaultImage() {
  if (existsSync(DEFAULT_IMAGE)) return;
  const file = openSync(DEFAULT_IMAGE, 'wx');
  ftruncateSync(file, DEFAULT_SIZE_BYTES);
  closeSync(file);
}

/**
 * The command line for sluice.
 * @param {string[]} args
 */
function commandLine(args) {
  const listens = args.some((arg) => /^(-[kp]|--socket(=|$)|--port(=|$))/.test(arg));
  if (listens) return ['serve', '-t', ...args];
  mkdirSync(DATA_FOLDER, { recursive: true });
  const command = ['serve', '-t', '-k', shorten(DEFAULT_SOCKET)];
  if (args.length > 0) return [...command, ...args];
  makeDefaultImage();
  return [...command, '--cache', 'none', shorten(DEFAULT_IMAGE)];
}

/** @param {string[]} args */
function serve(args) {
  const server = spawn(process.execPath, [join(ROOT, 'dist/bin.cjs'), ...commandLine(args)], {
    cwd: userFolder,
    stdio: 'inherit',
    detached: true, // a terminal's Ctrl-C comes through us, not twice
  });
  // Once each: npm passes on what the terminal has sent us already.
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
    let sent = false;
    process.on(signal, () => {
      if (!sent) server.kill(signal);
      sent = true;
    });
  }
  server.on('exit', (code, signal) => {
    process.exitCode = code ?? 128 + constants.signals[signal ?? 'SIGKILL'];
    process.exit();
  });
}

if (prepare()) serve(process.argv.slice(2));
else process.exitCode = 1;
