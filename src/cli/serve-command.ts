/** `sluice serve`: its options, in the letters and words of qemu-nbd. */
import { type Command, Option } from 'commander';

import { forkServer, isForked } from './fork.ts';
import { type EachOptions, exportsOf } from './served-exports.ts';
import { checkTls, type TlsOptions, tlsOptions } from './serve-tls.ts';
import { takePassedSocket } from './socket-activation.ts';
import type { ServedImageOptions } from './served-image.ts';
import {
  CACHE_NOTES,
  collected,
  notEmpty,
  servedImageOptions,
  traceOption,
  wholeNumber,
} from './served-image-options.ts';
import type { Terminal } from './terminal.ts';

const DEFAULT_PORT = 10809;
const DEFAULT_ADDRESS = '127.0.0.1';
/** nbdcopy opens 4 connections and fio one a job: qemu-nbd's default of 1 makes them wait. */
const DEFAULT_CLIENTS = 100;

const NOTES = `${CACHE_NOTES}

Several images are exports of one server, and named like their files, or by -x,
which is given once for each image, in their order, or not at all. -f, -D and
--key-file are given once for all images, or once for each, in their order. The
other options hold for all, as far as they fit: a --key-file for all is for the
encrypted ones, options of qcow2 for those with -f qcow2, -B for those that have
the bitmap; what fits none is refused. A client that asks for no name gets the
first.

When clients can connect, the first line on stderr is the URI, alone; of several
images there is one such line for each. Without -t sluice ends when its last
client has gone. SIGINT, SIGTERM and SIGHUP finish what is in flight, flush and
close; a second SIGINT or SIGTERM gives up. SIGUSR2 prints statistics. A socket
that systemd or libnbd passes (LISTEN_FDS) is used instead of -k, -p and -b, and
no URI is printed. With it, or with --fork, SIGHUP only reads the files of TLS
anew, for clients that come later.
Exit codes: 0 done; 1 refused or failed, with the reason on stderr; 130 gave up;
with --run the command's, or 128 and the signal that ended it.

Examples:
  sluice serve -t disk.img
  sluice serve -t --cache none -k disk.sock disk.img
  sluice serve -t -x root -f qcow2 -x data -f raw root.qcow2 data.img
  sluice serve -r --run 'nbdinfo "$uri"' disk.img
  nbdinfo -- [ sluice serve -r disk.img ]
  nbdinfo 'nbd+unix:///?socket=disk.sock'
  nbdcopy 'nbd+unix:///?socket=disk.sock' copy.img
  sluice serve -t --tls-psk keys.psk -b :: disk.img
  nbdinfo 'nbds://alice@host/?tls-psk-file=keys.psk'`;

const DEFAULT_HANDSHAKE_S = 10;
/** Of a timer. */
const LONGEST_LIMIT_S = 2_147_483;

/** The options that say where to listen. */
const PLACES = ['socket', 'port', 'bind'];
/** Longer than a client on the same machine takes from a reply to its next request. */
const DEFAULT_BUSY_POLL_MICROS = 50;

/** What the command line says, parsed. */
export interface ServeOptions
  extends Omit<ServedImageOptions, 'format' | 'keyFile'>, EachOptions, TlsOptions {
  readonly socket?: string;
  readonly port: number;
  readonly bind: string;
  readonly allocationDepth?: true;
  readonly bitmap?: readonly string[];
  /** 0: no limit. */
  readonly shared: number;
  /** Seconds; 0: no limit. */
  readonly handshakeLimit: number;
  /** Seconds; 0: no limit. */
  readonly idleLimit: number;
  /** 0: off. */
  readonly busyPoll: number;
  readonly persistent?: true;
  readonly fork?: true;
  readonly pidFile?: string;
  readonly control?: string;
  readonly run?: string;
  readonly verbose?: true;
  /** It was said where to listen. */
  readonly addressed: boolean;
  /** A socket that was passed to us, by its descriptor. */
  readonly fd?: number | undefined;
}

/** Adds the command to the program. */
export function addServe(program: Command, terminal: Terminal): void {
  const command = program
    .command('serve')
    .summary('share an image or a block device over NBD')
    .description('Shares disk images or block devices over NBD.')
    .usage('[OPTIONS] IMAGE...')
    .argument('<image...>', 'regular files or block devices')
    .helpOption('-h, --help', 'print this help')
    .showHelpAfterError("Try 'sluice serve --help'.")
    .addHelpText('after', NOTES)
    .action(async (images: string[], options: ServeOptions) => {
      const exports = exportsOf(images, options, (message) => command.error(message));
      checkTls(options, command);
      if (options.trace !== undefined && images.length > 1) {
        command.error(`--trace records one image, and ${images.length} are served`);
      }
      const fd = passedSocket(command);
      if (options.fork === true && !isForked()) return forkServer(terminal);
      // Other commands start without it.
      const { serve } = await import('./serve.ts');
      const addressed = given(command, PLACES).length > 0;
      await serve(exports, { ...options, fd, addressed }, terminal);
    });
  const groups = [
    servedImageOptions().map((option) => (PER_IMAGE.has(option.long) ? collected(option) : option)),
    [traceOption('requests and completions')],
    networkOptions(),
    tlsOptions(),
    processOptions(),
  ];
  for (const option of groups.flat()) command.addOption(option);
}

/** Of the image's options, those that may differ from image to image. */
const PER_IMAGE: ReadonlySet<string | undefined> = new Set(['--format', '--key-file']);

/** Which of these options the command line has. */
function given(command: Command, names: readonly string[]): string[] {
  return names.filter((name) => command.getOptionValueSource(name) === 'cli');
}

/** The socket that a service manager or a client has passed; it excludes other places. */
function passedSocket(command: Command): number | undefined {
  const passed = takePassedSocket(process.env, process.pid);
  if (passed === undefined) return undefined;
  if ('refusal' in passed) command.error(`cannot use the socket of LISTEN_FDS: ${passed.refusal}`);
  const others = given(command, [...PLACES, 'run', 'fork']);
  if (others.length === 0) return passed.fd;
  return command.error(
    `--${others[0]} cannot be used with socket activation: LISTEN_FDS says a socket was passed`,
  );
}

function networkOptions(): Option[] {
  return [
    new Option('-k, --socket <path>', 'listen on a unix socket')
      .argParser(notEmpty)
      .conflicts(['port', 'bind']),
    new Option('-p, --port <port>', 'listen on a TCP port; 0: any free one')
      .argParser((text) => wholeNumber(text, 65535))
      .default(DEFAULT_PORT),
    new Option('-b, --bind <address>', 'address to listen on').default(DEFAULT_ADDRESS),
    collected(
      new Option(
        '-x, --export-name <name>',
        'name of the export; of several images, given for each',
      ),
    ),
    collected(
      new Option(
        '-D, --description <text>',
        'description of the export; may be given for each image',
      ),
    ),
    new Option(
      '-A, --allocation-depth',
      'offer qemu:allocation-depth: which image of a chain has what',
    ),
    collected(
      new Option(
        '-B, --bitmap <name>',
        'offer qemu:dirty-bitmap:NAME, a stored bitmap of a qcow2 image; may be repeated',
      ),
    ),
    new Option('-e, --shared <n>', 'clients at once, more wait; 0: no limit')
      .argParser((text) => wholeNumber(text, Number.MAX_SAFE_INTEGER))
      .default(DEFAULT_CLIENTS, `${DEFAULT_CLIENTS}; qemu-nbd: 1`),
    new Option('--handshake-limit <s>', 'time to negotiate, and to wait for a place; 0: no limit')
      .argParser((text) => wholeNumber(text, LONGEST_LIMIT_S))
      .default(DEFAULT_HANDSHAKE_S),
    new Option('--idle-limit <s>', 'idle for so long, a client makes room for one that waits')
      .argParser((text) => wholeNumber(text, LONGEST_LIMIT_S))
      .default(0, '0: never'),
    new Option('--busy-poll <us>', 'wait awake for the next request of a single client; 0: off')
      .argParser((text) => wholeNumber(text, 1000))
      .default(DEFAULT_BUSY_POLL_MICROS),
  ];
}

function processOptions(): Option[] {
  return [
    new Option('-t, --persistent', 'go on when the last client has gone'),
    new Option('--fork', 'return when clients can connect, and serve in the background').conflicts([
      'run',
      'verbose',
    ]),
    new Option('--pid-file <path>', 'write the process id to a file when ready').argParser(
      notEmpty,
    ),
    new Option(
      '--run <command>',
      'serve while a shell command runs, which has $uri, $uris, $unixsocket, $port and $nbd; ' +
        'without an address on a private socket',
    ).argParser(notEmpty),
    new Option('--control <path>', 'unix socket for sluice stats and Prometheus').argParser(
      notEmpty,
    ),
    new Option('-v, --verbose', 'say who connects, what fails, and why connections end'),
  ];
}
