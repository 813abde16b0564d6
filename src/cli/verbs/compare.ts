/** `sluice compare`. */
import { type Command, Option } from 'commander';
import type { CacheModeName } from '../../cache-mode.ts';
import { image, type SourceFormat, SluiceError } from '../../node.ts';
import { writeResult } from '../output.ts';
import type { Terminal } from '../terminal.ts';
import {
  addVerb,
  allowOption,
  cacheOption,
  type ChainOptions,
  type CommonOptions,
  forceShareOption,
  jsonText,
  lockOf,
  outputOption,
  policyOf,
  progressOption,
  quietOption,
  sourceFormatOption,
} from './common.ts';
import { type KeyOptions, keyOptions, readKey } from './key.ts';
import { type ProgressOptions, withProgress } from './progress.ts';

const NOTES = `
Where one disk is longer, the rest of it must be zeroes.
Exit codes, as of qemu-img: 0 the disks are the same; 1 they differ; 2 an image
could not be opened; 4 one could not be read.

Examples:
  sluice compare disk.img disk.qcow2
  sluice compare -s -f raw -F qcow2 disk.img disk.qcow2`;

const CODE_DIFFERENT = 1;
const CODE_NOT_OPEN = 2;
const CODE_NOT_READ = 4;

interface CompareOptions extends CommonOptions, ChainOptions, ProgressOptions, KeyOptions {
  readonly sourceCache: CacheModeName;
  readonly output: 'human' | 'json';
  readonly secondFormat?: SourceFormat;
  readonly strict?: true;
}

export function addCompare(program: Command, terminal: Terminal): void {
  addVerb(program, {
    name: 'compare',
    usage: '[OPTIONS] IMAGE IMAGE',
    summary: 'say whether two disks are the same',
    description: 'Compares the disks of two images.',
    notes: NOTES,
    options: [
      sourceFormatOption('-f, --format <fmt>', 'the first image'),
      sourceFormatOption('-F, --second-format <fmt>', 'the second image'),
      outputOption(),
      cacheOption('-T, --source-cache <mode>', 'the images'),
      new Option('-s, --strict', 'other sizes and other allocations are differences, too'),
      ...keyOptions(),
      progressOption(),
      quietOption(),
      forceShareOption(),
      allowOption(),
    ],
  })
    .argument('<first>', 'a regular file, a block device, or an NBD URI')
    .argument('<second>', 'another one')
    .action((first: string, second: string, options: CompareOptions) =>
      compare(first, second, options, terminal),
    );
}

async function compare(
  first: string,
  second: string,
  options: CompareOptions,
  terminal: Terminal,
): Promise<void> {
  const { format, secondFormat, strict, quiet, output } = options;
  try {
    const encryption = await readKey(options);
    const how = { lock: lockOf(options), encryption, cache: options.sourceCache };
    const found = await withProgress(terminal, options, (onProgress, signal) =>
      image.compare(first, second, {
        first: { ...how, format, backing: policyOf(first, options) },
        second: { ...how, format: secondFormat, backing: policyOf(second, options) },
        strict,
        onProgress,
        signal,
      }),
    );
    if (found.result !== 'identical') process.exitCode = CODE_DIFFERENT;
    if (output === 'json') return await writeResult(jsonText(found));
    if (quiet !== true) await writeResult(`${humanText(found)}\n`);
  } catch (error) {
    const isReading = error instanceof SluiceError && error.operation === 'read';
    process.exitCode ??= isReading ? CODE_NOT_READ : CODE_NOT_OPEN;
    throw error;
  }
}

function humanText(found: image.Comparison): string {
  const others = found.sizesDiffer ? ', and have other sizes' : '';
  switch (found.result) {
    case 'identical':
      return found.sizesDiffer
        ? 'The disks have other sizes, and are the same otherwise.'
        : 'The disks are the same.';
    case 'size':
      return 'The disks have other sizes.';
    case 'allocation':
      return `The disks are allocated otherwise, first at offset ${found.offset}${others}.`;
    default:
      return `The disks differ, first at offset ${found.offset}${others}.`;
  }
}
