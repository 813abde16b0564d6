/** `sluice serve`: its options, in the letters and words of qemu-nbd. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { CACHE_MODES, type CacheModeName, DEFAULT_CACHE_MODE } from '../cache-mode.ts';
import {
  DEFAULT_FLUSH_INTERVAL_MS,
  DEFAULT_METADATA_CACHE_BYTES,
  MAX_FLUSH_INTERVAL_MS,
  MAX_METADATA_CACHE_BYTES,
} from '../image/limits.ts';
import { forkServer, isForked } from './fork.ts';
import { LARGEST_FLUSH_WAIT_MICROS } from '../scheduling-options.ts';
import type { Terminal } from './terminal.ts';

const DEFAULT_PORT = 10809;
const DEFAULT_ADDRESS = '127.0.0.1';
/** nbdcopy opens 4 connections and fio one a job: qemu-nbd's default of 1 makes them wait. */
const DEFAULT_CLIENTS = 100;

const NOTES = `
Cache modes, and what a completed write survives:
                host cache  kill of sluice  power cut of the host
  writeback     used        yes             after a flush (the default)
  none          bypassed    yes             after a flush
  writethrough  used        yes             yes
  directsync    bypassed    yes             yes
  unsafe        used        yes             NO, not even after a flush
  unspecified   is writeback
A write to a new cluster of qcow2 survives a kill of sluice after a flush, or
when it is older than --flush-interval.

When clients can connect, the first line on stderr is the URI, alone. Without -t
sluice ends when its last client has gone. SIGINT and SIGTERM finish what is in
flight, flush and close; a second one gives up. Exit codes: 0 done; 1 refused or
failed, with the reason on stderr; 130 gave up.

Examples:
  sluice serve -t disk.img
  sluice serve -t --cache none -k disk.sock disk.img
  nbdinfo 'nbd+unix:///?socket=disk.sock'
  nbdcopy 'nbd+unix:///?socket=disk.sock' copy.img`;

/** Longer than a client on the same machine takes from a reply to its next request. */
const DEFAULT_BUSY_POLL_MICROS = 50;

/** What the command line says, parsed. */
export interface ServeOptions {
  readonly format?: string;
  readonly cache: CacheModeName;
  readonly discard: 'unmap' | 'ignore';
  readonly elevator: 'none' | 'deadline';
  /** 0: off. */
  readonly flushWait: number;
  readonly readOnly?: true;
  readonly lock: boolean;
  readonly allow: readonly string[];
  readonly backingFormat?: 'raw' | 'qcow2';
  readonly keyFile?: string;
  readonly metadataCache?: number;
  readonly flushInterval?: number;
  readonly socket?: string;
  readonly port: number;
  readonly bind: string;
  readonly exportName: string;
  readonly description?: string;
  /** 0: no limit. */
  readonly shared: number;
  /** 0: off. */
  readonly busyPoll: number;
  readonly persistent?: true;
  readonly fork?: true;
  readonly pidFile?: string;
  readonly trace?: string;
}

/** Adds the command to the program. */
export function addServe(program: Command, terminal: Terminal): void {
  const command = program
    .command('serve')
    .summary('share an image or a block device over NBD')
    .description('Shares a disk image or a block device over NBD.')
    .usage('[OPTIONS] IMAGE')
    .argument('<image>', 'a regular file or a block device')
    .helpOption('-h, --help', 'print this help')
    .allowExcessArguments()
    .showHelpAfterError("Try 'sluice serve --help'.")
    .addHelpText('after', NOTES)
    .action(async (image: string, options: ServeOptions) => {
      const [, second] = command.args;
      if (second !== undefined) {
        command.error(`too many arguments: one image is served, and '${second}' is another`);
      }
      if (options.fork === true && !isForked()) return forkServer(terminal);
      // Other commands start without it.
      const { serve } = await import('./serve.ts');
      await serve(image, options, terminal);
    });
  const groups = [imageOptions(), qcow2Options(), networkOptions()];
  for (const option of groups.flat()) command.addOption(option);
}

function imageOptions(): Option[] {
  return [
    new Option(
      '-f, --format <format>',
      'format of the image: raw or qcow2. Without it an image that begins like another format ' +
        'than raw is refused',
    ),
    new Option('--cache <mode>', 'cache mode, see below')
      .choices([...Object.keys(CACHE_MODES), 'unspecified'])
      .default('unspecified', DEFAULT_CACHE_MODE),
    new Option('--discard <mode>', 'whether TRIM and zeroes may punch holes')
      .choices(['unmap', 'ignore'])
      .default('unmap'),
    new Option('--elevator <name>', 'order of requests that have to queue for the host')
      .choices(['none', 'deadline'])
      .default('none', 'none: oldest first'),
    new Option(
      '--flush-wait <us>',
      'wait for more flushes after one sync has served several, at most 1000000',
    )
      .argParser((text) => wholeNumber(text, LARGEST_FLUSH_WAIT_MICROS))
      .default(0, '0: off'),
    new Option('-r, --read-only', 'refuse writes'),
    new Option(
      '--no-lock',
      'take no image locks; the default keeps out other writers as QEMU does',
    ),
  ];
}

function qcow2Options(): Option[] {
  return [
    new Option(
      '--allow <folder>',
      "qcow2: also use backing and data files in this folder; those in the image's own are used",
    )
      .argParser((folder: string, folders: readonly string[]) => [...folders, folder])
      .default([], 'none'),
    new Option(
      '--backing-format <format>',
      'qcow2: format of the backing file, where the image does not say it',
    ).choices(['raw', 'qcow2']),
    new Option(
      '--key-file <path>',
      'qcow2: file that holds the key of an encrypted image; a line feed at its end counts',
    ),
    new Option(
      '--metadata-cache <bytes>',
      `qcow2: memory for L2 tables (default: ${DEFAULT_METADATA_CACHE_BYTES})`,
    ).argParser((text) => wholeNumber(text, MAX_METADATA_CACHE_BYTES)),
    new Option(
      '--flush-interval <ms>',
      'qcow2: write changed tables after that long, so that a kill loses no more; 0: never ' +
        `(default: ${DEFAULT_FLUSH_INTERVAL_MS})`,
    ).argParser((text) => wholeNumber(text, MAX_FLUSH_INTERVAL_MS)),
  ];
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
    new Option('-x, --export-name <name>', 'name of the export').default('', 'none'),
    new Option('-D, --description <text>', 'description of the export'),
    new Option('-e, --shared <n>', 'clients at once, more wait 10 s; 0: no limit')
      .argParser((text) => wholeNumber(text, Number.MAX_SAFE_INTEGER))
      .default(DEFAULT_CLIENTS, `${DEFAULT_CLIENTS}; qemu-nbd: 1`),
    new Option('--busy-poll <us>', 'wait awake for the next request of a single client; 0: off')
      .argParser((text) => wholeNumber(text, 1000))
      .default(DEFAULT_BUSY_POLL_MICROS),
    new Option('-t, --persistent', 'go on when the last client has gone'),
    new Option('--trace <file>', 'record requests and completions, one JSON object a line'),
    new Option('--fork', 'return when clients can connect, and serve in the background'),
    new Option('--pid-file <path>', 'write the process id to a file when ready').argParser(
      notEmpty,
    ),
  ];
}

function notEmpty(text: string): string {
  if (text === '') throw new InvalidArgumentError('It must not be empty.');
  return text;
}

function wholeNumber(text: string, largest: number): number {
  const number = Number(text);
  if (/^\d+$/.test(text) && number <= largest) return number;
  const range = largest === Number.MAX_SAFE_INTEGER ? '' : ` from 0 to ${largest}`;
  throw new InvalidArgumentError(`It must be a whole number${range}.`);
}
