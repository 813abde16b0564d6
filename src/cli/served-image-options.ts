/** The options of the image that a server serves, in the letters and words of qemu-nbd. */
import { InvalidArgumentError, Option } from 'commander';

import { CACHE_MODES, DEFAULT_CACHE_MODE } from '../cache-mode.ts';
import {
  DEFAULT_FLUSH_INTERVAL_MS,
  DEFAULT_METADATA_CACHE_BYTES,
  MAX_FLUSH_INTERVAL_MS,
  MAX_METADATA_CACHE_BYTES,
} from '../image/limits.ts';
import { LARGEST_FLUSH_WAIT_MICROS } from '../scheduling-options.ts';

/** What each cache mode means, for the end of a help. */
export const CACHE_NOTES = `
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

--aio auto makes a call that is alone in flight on the thread that serves, while
the disk answers within a millisecond and there is no second client, and others
by io_uring, or on a pool of threads where there is none. --aio io_uring insists
on it. --aio threads uses the pool alone: no sync keeps a signal waiting then.`;

/** Of any image, and of qcow2. */
export function servedImageOptions(): Option[] {
  return [...imageOptions(), ...qcow2Options()];
}

/** For whoever looks into it; what a guest asks is not in it. */
export function traceOption(what: string): Option {
  return new Option('--trace <file>', `record ${what}, one JSON object a line`);
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
    new Option('--aio <how>', 'how calls that wait for a disk are made, see below')
      .choices(['auto', 'io_uring', 'threads'])
      .default('auto'),
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

/** May be given several times; the values come in a list. */
export function collected(option: Option): Option {
  return option.argParser((text: string, texts: readonly string[] | undefined) => [
    ...(texts ?? []),
    text,
  ]);
}

/** A text that says something. */
export function notEmpty(text: string): string {
  if (text === '') throw new InvalidArgumentError('It must not be empty.');
  return text;
}

/** A whole number from `least` up to `largest`. */
export function wholeNumber(text: string, largest: number, least = 0): number {
  const number = Number(text);
  if (/^\d+$/.test(text) && number >= least && number <= largest) return number;
  const to = largest === Number.MAX_SAFE_INTEGER ? 'on' : `to ${largest}`;
  throw new InvalidArgumentError(`It must be a whole number from ${least} ${to}.`);
}
