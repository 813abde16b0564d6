/** `sluice convert`. */
import { dirname } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { invalid } from '../../arguments.ts';
import type { CacheModeName } from '../../cache-mode.ts';
import { isNbdUri } from '../../nbd/uri.ts';
import { image, type ImageFormat } from '../../node.ts';
import { writeResult } from '../output.ts';
import { Refusal } from '../refusal.ts';
import type { Terminal } from '../terminal.ts';
import {
  addVerb,
  allowOption,
  cacheOption,
  type ChainOptions,
  type CommonOptions,
  forceShareOption,
  lockOf,
  progressOption,
  quietOption,
  sourceFormatOption,
  targetFormatOption,
} from './common.ts';
import { asksForHelp, listOptions, madeOptionsOf } from './create-options.ts';
import { formatOptions } from './format-options.ts';
import { type KeyOptions, keyOptions, readKey } from './key.ts';
import type { SnapshotChoice } from '../../image/qcow2/snapshot-header.ts';
import { withProgress } from './progress.ts';
import { readSecrets } from './secret.ts';
import { parseSize, sizeArgument } from './size.ts';
import { snapshotOption } from './snapshot-choice.ts';

const NOTES = `
A target of - is stdout; the disk is read twice for a qcow2 image there.
The target takes its name when it is whole: until then what has the name stays,
also when the work fails or is ended by Ctrl-C. An export of an NBD server
(nbd://HOST[:PORT]/NAME, nbd+unix:///NAME?socket=PATH) is written where it is,
as raw; it keeps its size, and is flushed at the end.

Examples:
  sluice convert -O qcow2 disk.img disk.qcow2
  sluice convert -c -o compression_type=zstd -O qcow2 disk.img small.qcow2
  sluice convert -O qcow2 -B base.qcow2 -F qcow2 overlay.qcow2 copy.qcow2
  sluice convert -n -O qcow2 disk.img scratch.qcow2
  sluice convert -c -O qcow2 disk.img - | ssh host 'cat > disk.qcow2'
  sluice convert -O qcow2 'nbd+unix:///?socket=disk.sock' copy.qcow2
  sluice convert disk.qcow2 nbd://host/export`;

interface ConvertOptions extends CommonOptions, ChainOptions, KeyOptions {
  readonly object: readonly string[];
  readonly targetFormat: ImageFormat;
  readonly cache: CacheModeName;
  readonly sourceCache: CacheModeName;
  readonly options: readonly string[];
  readonly backing?: string;
  readonly backingFormat?: 'raw' | 'qcow2';
  readonly compress?: true;
  readonly sparse?: number;
  readonly snapshot?: SnapshotChoice;
  readonly skipCreate?: true;
  readonly targetIsZero?: true;
  readonly salvage?: true;
  readonly bitmaps?: true;
  readonly skipBrokenBitmaps?: true;
  readonly rate?: number;
  readonly coroutines?: number;
  readonly progress?: true;
  readonly quiet?: true;
}

export function addConvert(program: Command, terminal: Terminal): void {
  const options = [...sourceOptions(), ...targetOptions(), ...workOptions()];
  const command = addVerb(program, {
    name: 'convert',
    usage: '[OPTIONS] IMAGE... TARGET',
    summary: 'copy a disk into another format',
    description: 'Copies the disk of an image, or of several one behind the other, into a new one.',
    notes: NOTES,
    options,
  });
  command
    .argument(
      '<paths...>',
      'images or NBD URIs, and then what is made: a file, a block device, an NBD URI',
    )
    .action((paths: string[], given: ConvertOptions) => {
      if (asksForHelp(given)) return writeResult(listOptions(given.targetFormat));
      const target = paths.at(-1);
      if (target === undefined || paths.length < 2) {
        return command.error('an image and a target are needed');
      }
      return convert(paths.slice(0, -1), target, given, terminal);
    });
}

function sourceOptions(): Option[] {
  return [
    sourceFormatOption('-f, --format <fmt>', 'the images'),
    snapshotOption('the disk as a snapshot of the image has it'),
    new Option('--salvage', 'what cannot be read is zeroes, and said'),
    cacheOption('-T, --source-cache <mode>', 'the images'),
    ...keyOptions(),
    forceShareOption(),
    allowOption(),
  ];
}

function targetOptions(): Option[] {
  return [
    targetFormatOption('the target'),
    formatOptions(),
    new Option('-B, --backing <file>', 'backing file of the target: only the rest is copied'),
    new Option('-F, --backing-format <fmt>', 'format of the backing file').choices([
      'raw',
      'qcow2',
    ]),
    new Option('--bitmaps', 'copy the bitmaps of the image, too'),
    new Option('--skip-broken-bitmaps', 'with --bitmaps: leave out what cannot be used'),
    new Option('-c, --compress', 'compress the clusters of the target'),
    new Option(
      '-S, --sparse <size>',
      'aligned runs of as many zeroes take no space; 0: all do (4k)',
    ).argParser(sparseSize),
    new Option('-n, --skip-create', 'the target is there, and keeps its size').conflicts('options'),
    new Option('--target-is-zero', 'with -n: it reads as zeroes, none are written'),
  ];
}

function workOptions(): Option[] {
  return [
    new Option('-m, --coroutines <n>', 'pieces under way at once, 1 to 16 (3)').argParser(pieces),
    cacheOption('-t, --cache <mode>', 'the target', 'unsafe'),
    progressOption(),
    quietOption(),
    new Option('-r, --rate <size>', 'bytes that are copied in a second, at most; 0: any').argParser(
      sizeArgument,
    ),
    new Option('-W, --out-of-order', 'taken; order costs nothing here'),
    new Option('-C, --copy-range', 'taken; data passes through memory all the same'),
  ];
}

async function convert(
  paths: readonly string[],
  target: string,
  options: ConvertOptions,
  terminal: Terminal,
): Promise<void> {
  const copied = await copiedOf(paths, options, terminal);
  if (target === STDOUT) return await toStdout(paths, copied, options, terminal);
  const existing = options.skipCreate ?? false;
  if (options.targetIsZero === true && !existing && !isNbdUri(target))
    throw invalid('--target-is-zero is for a target that is there: pass -n');
  if (existing && !isNbdUri(target)) copied.backing.folders.push(dirname(target));
  const isThere = existing || isNbdUri(target);
  const left = isThere ? { whatThereIs: 'the target is written in part' } : {};
  await withProgress(terminal, { ...options, ...left }, (onProgress, signal) =>
    image.convert(paths, target, {
      ...copied,
      bitmaps: bitmapsOf(options),
      existing,
      targetIsZero: options.targetIsZero,
      targetCache: options.cache,
      onProgress,
      signal,
    }),
  );
}

/** What is copied, and into what. */
async function copiedOf(paths: readonly string[], options: ConvertOptions, terminal: Terminal) {
  const { targetFormat } = options;
  const secrets = await readSecrets(options);
  const keys = { secrets, key: null, isNeeded: true };
  const { sizeBytes, preallocation, image: made } = madeOptionsOf(targetFormat, options, keys);
  if (sizeBytes !== undefined) throw invalid('a copy is as large as its source; leave out size');
  const onUnreadable = (offset: number, length: number, { message }: Error): void =>
    terminal.warn(`${length} bytes at offset ${offset} of the disk are zeroes now: ${message}`);
  return {
    format: options.format,
    lock: lockOf(options),
    backing: { folders: [...paths.map((path) => dirname(path)), ...options.allow] },
    snapshot: options.snapshot,
    encryption: await readKey(options, secrets),
    cache: options.sourceCache,
    targetFormat,
    image: made,
    preallocation,
    compress: options.compress,
    sparseBytes: options.sparse,
    parallel: options.coroutines,
    rateBytes: options.rate === 0 ? undefined : options.rate,
    ...(options.salvage === true ? { onUnreadable } : {}),
  };
}

const STDOUT = '-';

async function toStdout(
  paths: readonly string[],
  copied: image.StreamOptions,
  options: ConvertOptions,
  terminal: Terminal,
): Promise<void> {
  const file = ['skipCreate', 'bitmaps', 'targetIsZero', 'progress'] as const;
  const other = file.find((name) => options[name] !== undefined);
  if (other !== undefined) throw invalid(`${FLAGS[other]} is not for a copy to stdout`);
  if (process.stdout.isTTY) throw invalid('an image is not for a terminal: redirect stdout');
  await withProgress(terminal, options, async (onProgress, signal) => {
    const bytes = image.stream(paths, { ...copied, onProgress, signal });
    await pipeline(bytes, process.stdout, { end: false }).catch((cause: unknown) => {
      const { syscall } = cause as NodeJS.ErrnoException;
      throw syscall === 'write' ? new Refusal('write to stdout', cause) : cause;
    });
  });
}

const FLAGS = {
  skipCreate: '-n',
  bitmaps: '--bitmaps',
  targetIsZero: '--target-is-zero',
  progress: '-p',
} as const;

function bitmapsOf({ bitmaps, skipBrokenBitmaps }: ConvertOptions) {
  if (bitmaps === true) return skipBrokenBitmaps === true ? 'usable' : 'all';
  if (skipBrokenBitmaps === true) throw invalid('--skip-broken-bitmaps is for --bitmaps');
  return undefined;
}

function sparseSize(text: string): number {
  const bytes = parseSize(text);
  const isGranule = bytes !== undefined && (bytes === 0 || Math.log2(bytes / 512) % 1 === 0);
  if (isGranule && bytes <= 2 ** 21) return bytes;
  throw new InvalidArgumentError('It must be 0 or a power of two from 512 to 2M.');
}

function pieces(text: string): number {
  const count = Number(text);
  if (/^\d+$/.test(text) && count >= 1 && count <= 16) return count;
  throw new InvalidArgumentError('It must be a whole number from 1 to 16.');
}
