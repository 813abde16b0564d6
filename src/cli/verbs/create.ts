/** `sluice create`. */
import { dirname, resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { invalid } from '../../arguments.ts';
import { image, type ImageFormat } from '../../node.ts';
import { humanSize } from '../format.ts';
import { writeResult } from '../output.ts';
import type { Terminal } from '../terminal.ts';
import { addVerb, allowOption, type ChainOptions, quietOption, writableFormat } from './common.ts';
import { asksForHelp, listOptions, madeOptionsOf } from './create-options.ts';
import { formatOptions } from './format-options.ts';
import { keyFileOption, readKey } from './key.ts';
import { withProgress } from './progress.ts';
import { readSecrets, type SecretOptions } from './secret.ts';
import { sizeArgument } from './size.ts';

const NOTES = `
SIZE is that of the disk: 4096, 64k, 1.5G; without it, the backing file's.
The image takes its name when it is whole: until then what has the name stays,
also when the work fails or is ended by Ctrl-C.

Examples:
  sluice create -f qcow2 disk.qcow2 20G
  sluice create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2
  sluice create -f qcow2 -o encrypt.format=luks --key-file key disk.qcow2 1G`;

interface CreateOptions extends ChainOptions, SecretOptions {
  readonly format: ImageFormat;
  readonly options: readonly string[];
  readonly backing?: string;
  readonly backingFormat?: 'raw' | 'qcow2';
  readonly unsafe?: true;
  readonly keyFile?: string;
  readonly quiet?: true;
}

export function addCreate(program: Command, terminal: Terminal): void {
  addVerb(program, {
    name: 'create',
    usage: '[OPTIONS] FILE [SIZE]',
    summary: 'make an empty image',
    description: 'Makes an image of an empty disk, or of one over a backing file.',
    notes: NOTES,
    options: [
      writableFormat(new Option('-f, --format <fmt>', 'format of the image')).default('raw'),
      new Option('-b, --backing <file>', 'backing file, which has what the image has not'),
      new Option('-F, --backing-format <fmt>', 'format of the backing file').choices([
        'raw',
        'qcow2',
      ]),
      new Option('-u, --unsafe', 'do not open the backing file'),
      formatOptions(),
      keyFileOption(),
      quietOption(),
      allowOption(),
    ],
  })
    .argument('[file]', 'a file that is made, or a block device')
    .argument('[size]', 'of the disk', sizeArgument)
    .allowExcessArguments(false)
    .action((path: string | undefined, size: number | undefined, options: CreateOptions) =>
      create(path, size, options, terminal),
    );
}

async function create(
  path: string | undefined,
  size: number | undefined,
  options: CreateOptions,
  terminal: Terminal,
): Promise<void> {
  const { format, keyFile, unsafe, quiet } = options;
  if (asksForHelp(options)) return writeResult(listOptions(format));
  if (path === undefined) throw invalid('the file that is to be made is missing; pass FILE');
  const key = (await readKey({ keyFile }))?.key as Uint8Array | undefined;
  const keys = { secrets: await readSecrets(options), key, isNeeded: true };
  const { sizeBytes, preallocation, image: made } = madeOptionsOf(format, options, keys);
  if (size !== undefined && sizeBytes !== undefined) {
    throw invalid('there are two sizes, SIZE and -o size; leave one out');
  }
  const created = await withProgress(terminal, options, (onProgress, signal) =>
    image.create(path, {
      format,
      sizeBytes: size ?? sizeBytes,
      preallocation,
      image: made,
      backing: { folders: [...foldersOf(path, made), ...options.allow] },
      openBacking: unsafe !== true,
      onProgress,
      signal,
    }),
  );
  if (quiet !== true) await writeResult(`${told(created, made)}\n`);
}

/** Where the image is, and where the backing file is that was named here. */
function foldersOf(path: string, { backing }: image.NewQcow2Options): string[] {
  const folder = dirname(path);
  return backing === undefined ? [folder] : [folder, dirname(resolve(folder, backing.name))];
}

/** One line: what was made. */
function told(created: image.CreatedImage, made: image.NewQcow2Options): string {
  const { path, format, sizeBytes } = created;
  const { backing, dataFile, encryption } = made;
  const parts = [
    `Made '${path}': ${format}, ${humanSize(sizeBytes)} (${sizeBytes} bytes)`,
    ...(encryption === undefined ? [] : ['encrypted (LUKS)']),
    ...(backing === undefined ? [] : [`backing file '${backing.name}' (${backing.format})`]),
    ...(dataFile === undefined ? [] : [`data file '${dataFile.name}'`]),
  ];
  return parts.join(', ');
}
