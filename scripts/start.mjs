// npm start: serves a disk from a fresh clone.
//
//   npm start                  serves data/disk.img (1 GiB, sparse, made when there is none)
//   npm start -- ARGS          sluice serve ARGS; the same disk unless ARGS name an image
//
// The socket is data/sluice.sock unless ARGS name a socket, a port or an address. The cache mode of
// the default disk is none unless ARGS name one. package.json says `exec`, or a signal sent to npm
// would end at the shell in between.

import { spawn } from 'node:child_process';
import { closeSync, existsSync, ftruncateSync, mkdirSync, openSync, statfsSync } from 'node:fs';
import { constants } from 'node:os';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { ROOT } from './paths.mjs';
import { prepare } from './prepare.mjs';

const DATA_FOLDER = join(ROOT, 'data');
const DEFAULT_IMAGE = join(DATA_FOLDER, 'disk.img');
const DEFAULT_SOCKET = join(DATA_FOLDER, 'sluice.sock');
const DEFAULT_SIZE_BYTES = 2 ** 30;
/** Nobody presses Ctrl-C twice in this time. */
const ECHO_MS = 200;
/** f_type of tmpfs and ramfs, which have no O_DIRECT. */
const MEMORY_FILE_SYSTEMS = [0x01021994, 0x858458f6];

const text = /** @type {const} */ ({ type: 'string' });
/** The options of sluice serve that take a value: what else has no dash is the image. */
const VALUED = {
  format: { ...text, short: 'f' },
  cache: text,
  discard: text,
  aio: text,
  socket: { ...text, short: 'k' },
  port: { ...text, short: 'p' },
  bind: { ...text, short: 'b' },
  'export-name': { ...text, short: 'x' },
  description: { ...text, short: 'D' },
  bitmap: { ...text, short: 'B' },
  shared: { ...text, short: 'e' },
  'handshake-limit': text,
  'idle-limit': text,
  'busy-poll': text,
  tls: text,
  'tls-certificates': text,
  'tls-psk': text,
  elevator: text,
  'flush-wait': text,
  allow: text,
  'backing-format': text,
  'key-file': text,
  'metadata-cache': text,
  'flush-interval': text,
  trace: text,
  'pid-file': text,
  run: text,
  control: text,
};

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
 * The command line for sluice. What is wrong with `args` is for sluice to say.
 * @param {string[]} args
 */
function commandLine(args) {
  const { values, positionals } = parseArgs({
    args,
    options: { ...VALUED, help: { type: 'boolean', short: 'h' } },
    allowPositionals: true,
    strict: false,
  });
  if (values.help !== undefined) return ['serve', ...args];
  const command = ['serve', '-t'];
  mkdirSync(DATA_FOLDER, { recursive: true });
  const listens = [values.socket, values.port, values.bind].some((value) => value !== undefined);
  if (!listens) command.push('-k', shorten(DEFAULT_SOCKET));
  if (positionals.length > 0) return [...command, ...args];
  makeDefaultImage();
  if (values.cache === undefined) command.push('--cache', 'none');
  return [...command, shorten(DEFAULT_IMAGE), ...args];
}

/** The default disk bypasses the page cache, which a file system in memory cannot do. */
function explainDirect() {
  if (!MEMORY_FILE_SYSTEMS.includes(statfsSync(DATA_FOLDER).type)) return;
  process.stderr.write('Try: npm start -- --cache writeback\n');
}

/** @param {string[]} args */
function serve(args) {
  const server = spawn(process.execPath, [join(ROOT, 'dist/bin.cjs'), ...commandLine(args)], {
    cwd: userFolder,
    stdio: 'inherit',
    detached: true, // a terminal's Ctrl-C comes through us, not twice
  });
  // npm passes on what the terminal has sent us already: of two at once one is an echo.
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
    let sentAt = -Infinity;
    process.on(signal, () => {
      if (performance.now() - sentAt < ECHO_MS) return;
      sentAt = performance.now();
      server.kill(signal);
    });
  }
  // The terminal tells its size to its own session only.
  process.on('SIGWINCH', () => server.kill('SIGWINCH'));
  server.on('exit', (code, signal) => {
    if (code === 1 && args.length === 0) explainDirect();
    process.exitCode = code ?? 128 + constants.signals[signal ?? 'SIGKILL'];
    process.exit();
  });
}

if (prepare()) serve(process.argv.slice(2));
else process.exitCode = 1;
