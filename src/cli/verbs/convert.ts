/** `sluice convert`. */
import { dirname } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { CacheModeName } from '../../cache-mode.ts';
import { image, type ImageFormat } from '../../node.ts';
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
import { keyOption, readKey } from './key.ts';
import { formatOptions, imageOptionsOf } from './format-options.ts';
import type { SnapshotChoice } from '../../image/qcow2/snapshot-header.ts';
import { withProgress } from './progress.ts';
import { parseSize } from './size.ts';
import { snapshotOption } from './snapshot-choice.ts';

const NOTES = `
The target takes its name when it is whole: until then what has the name stays,
also when the work fails or is ended by Ctrl-C.

Examples:
  sluice convert -O qcow2 disk.img disk.qcow2
  sluice convert -c -o compression_type=zstd -O qcow2 disk.img small.qcow2
  sluice convert -O qcow2 -B base.qcow2 -F qcow2 overlay.qcow2 copy.qcow2
  sluice convert -n -O qcow2 disk.img scratch.qcow2`;

interface ConvertOptions extends CommonOptions, ChainOptions {
  readonly targetFormat: ImageFormat;
  readonly cache: CacheModeName;
  readonly options: readonly string[];
  readonly backing?: string;
  readonly backingFormat?: 'raw' | 'qcow2';
  readonly compress?: true;
  readonly sparse?: number;
  readonly snapshot?: SnapshotChoice;
  readonly skipCreate?: true;
  readonly targetIsZero?: true;
  readonly salvage?: true;
  readonly coroutines?: number;
  readonly keyFile?: string;
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
    .argument('<paths...>', 'images, and then the file that is made, or a block device')
    .action((paths: string[], given: ConvertOptions) => {
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
    keyOption(),
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
    new Option('-c, --compress', 'compress the clusters of the target'),
    new Option(
      '-S, --sparse <size>',
      'runs of as many zeroes take no space; 0: all do (4k)',
    ).argParser(sparseSize),
    new Option('-n, --skip-create', 'the target is there, and keeps its size').conflicts('options'),
    new Option('--target-is-zero', 'with -n: it reads as zeroes, none are written'),
  ];
}

function workOptions(): Option[] {
  return [
    new Option('-m, --coroutines <n>', 'pieces under way at once, 1 to 16 (8)').argParser(pieces),
    cacheOption('-t, --cache <mode>', 'the target', 'unsafe'),
    progressOption(),
    quietOption(),
    new Option('-W, --out-of-order', 'taken; order costs nothing here'),
  ];
}

async function convert(
  paths: readonly string[],
  target: string,
  options: ConvertOptions,
  terminal: Terminal,
): Promise<void> {
  const { format, targetFormat, compress, sparse, coroutines, cache } = options;
  const folders = paths.map((path) => dirname(path));
  const existing = options.skipCreate ?? false;
  if (existing) folders.push(dirname(target));
  const encryption = await readKey(options.keyFile);
  const onUnreadable = (offset: number, length: number, { message }: Error): void =>
    terminal.warn(`${length} bytes at offset ${offset} of the disk are zeroes now: ${message}`);
  await withProgress(terminal, options, (onProgress, signal) =>
    image.convert(paths, target, {
      format,
      lock: lockOf(options),
      backing: { folders: [...folders, ...options.allow] },
      snapshot: options.snapshot,
      encryption,
      targetFormat,
      image: imageOptionsOf(targetFormat, options),
      compress,
      sparseBytes: sparse,
      existing,
      targetIsZero: options.targetIsZero,
      ...(options.salvage === true ? { onUnreadable } : {}),
      parallel: coroutines,
      targetCache: cache,
      onProgress,
      signal,
    }),
  );
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
