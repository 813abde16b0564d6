/** `sluice measure`. */
import { type Command, Option } from 'commander';
import { invalid } from '../../arguments.ts';
import type { SnapshotChoice } from '../../image/qcow2/snapshot-header.ts';
import { image, type ImageFormat } from '../../node.ts';
import { writeResult } from '../output.ts';
import {
  addVerb,
  allowOption,
  type ChainOptions,
  type CommonOptions,
  forceShareOption,
  jsonText,
  lockOf,
  outputOption,
  policyOf,
  sourceFormatOption,
  targetFormatOption,
} from './common.ts';
import { asksForHelp, listOptions, madeOptionsOf } from './create-options.ts';
import { formatOptions } from './format-options.ts';
import { keyFileOption, readKey } from './key.ts';
import { readSecrets, type SecretOptions } from './secret.ts';
import { sizeArgument } from './size.ts';
import { snapshotOption } from './snapshot-choice.ts';

const NOTES = `
Says how large the file of a new image will be: at first, or as a copy of IMAGE
(required), and when every part of its disk was written (fully allocated).

Examples:
  sluice measure -O qcow2 --size 20G
  sluice measure -O qcow2 -o cluster_size=4k disk.img`;

interface MeasureOptions extends CommonOptions, ChainOptions, SecretOptions {
  readonly output: 'human' | 'json';
  readonly targetFormat: ImageFormat;
  readonly options: readonly string[];
  readonly snapshot?: SnapshotChoice;
  readonly size?: number;
  readonly keyFile?: string;
}

export function addMeasure(program: Command): void {
  addVerb(program, {
    name: 'measure',
    usage: '[OPTIONS] [IMAGE]',
    summary: 'say how large a new image will be',
    description: 'Says how large the file of a new image will be.',
    notes: NOTES,
    options: [
      sourceFormatOption(),
      targetFormatOption('the new image'),
      formatOptions(),
      new Option('--size <size>', 'of the disk, where no image is copied').argParser(sizeArgument),
      snapshotOption('a snapshot of the image'),
      outputOption(),
      keyFileOption(),
      forceShareOption(),
      allowOption(),
    ],
  })
    .argument('[image]', 'a regular file, a block device, or an NBD URI')
    .allowExcessArguments(false)
    .action((path: string | undefined, options: MeasureOptions) => measure(path, options));
}

async function measure(path: string | undefined, options: MeasureOptions): Promise<void> {
  const { format, targetFormat, output, size, snapshot, keyFile } = options;
  if (asksForHelp(options)) return writeResult(listOptions(targetFormat));
  const key = (await readKey({ keyFile }))?.key as Uint8Array | undefined;
  const keys = { secrets: await readSecrets(options), key, isNeeded: false };
  const { preallocation, image: made } = madeOptionsOf(targetFormat, options, keys);
  const source = sourceOf(path, size);
  if (path === undefined && (snapshot ?? format) !== undefined) {
    throw invalid('-f and -l are of an image, and --size was given; leave them out');
  }
  const found = await image.measure(source, {
    format,
    lock: lockOf(options),
    backing: path === undefined ? 'deny' : policyOf(path, options),
    snapshot,
    targetFormat,
    preallocation,
    image: made,
  });
  await writeResult(output === 'json' ? jsonText(found) : humanText(found));
}

function sourceOf(path: string | undefined, size: number | undefined) {
  if (path !== undefined && size === undefined) return path;
  if (path === undefined && size !== undefined) return { sizeBytes: size };
  throw invalid('either --size SIZE or one image is measured');
}

function humanText(found: image.ImageMeasure): string {
  const { bitmaps, required } = found;
  const lines = [
    `required size: ${required}`,
    `fully allocated size: ${found['fully-allocated']}`,
    ...(bitmaps === undefined ? [] : [`bitmaps size: ${bitmaps}`]),
  ];
  return `${lines.join('\n')}\n`;
}
