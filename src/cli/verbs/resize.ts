/** `sluice resize`. */
import { type Command, Option } from 'commander';
import { image } from '../../node.ts';
import { writeResult } from '../output.ts';
import type { Terminal } from '../terminal.ts';
import {
  addVerb,
  allowOption,
  type ChainOptions,
  type CommonOptions,
  formatOption,
  policyOf,
  quietOption,
} from './common.ts';
import { type KeyOptions, keyOptions, readKey } from './key.ts';
import { parseSize } from './size.ts';

const NOTES = `
SIZE is a size in bytes, as 4096, 64k, 1.5G; +SIZE adds to what the disk has,
-SIZE takes away. What is new reads as zeroes; bitmaps get the length of the disk.
--preallocation=metadata (qcow2) gives what is new its clusters, which may be
holes; falloc lets the host set space aside for it; full writes it.
Exit codes: 0 done; 1 failed, and the disk has the size it had.

Examples:
  sluice resize disk.qcow2 40G
  sluice resize disk.qcow2 +10G
  sluice resize --shrink -f raw disk.img -1G`;

interface ResizeOptions extends CommonOptions, ChainOptions, KeyOptions {
  readonly preallocation: image.Preallocation;
  readonly shrink?: true;
  readonly quiet?: true;
}

export function addResize(program: Command, terminal: Terminal): void {
  const verb = addVerb(program, {
    name: 'resize',
    usage: '[OPTIONS] IMAGE SIZE',
    summary: 'change the size of a disk',
    description: 'Changes the size of the disk in an image.',
    notes: NOTES,
    options: [
      formatOption(),
      new Option('--preallocation <mode>', 'what is new has its place, or takes space, at once')
        .choices(['off', 'metadata', 'falloc', 'full'])
        .default('off'),
      new Option('--shrink', 'let it become smaller: what lies behind its end is lost'),
      ...keyOptions(),
      quietOption(),
      allowOption(),
    ],
  });
  // `-1G` is no option.
  verb
    .allowUnknownOption()
    .argument('<image>', 'a regular file or a block device')
    .argument('<size>', 'how many bytes')
    .action((path: string, text: string, options: ResizeOptions) => {
      const unknown = [path, text].find((word) => /^-(?!\d)/.test(word));
      if (unknown !== undefined) verb.error(`unknown option '${unknown}'`);
      const size = newSize(text);
      if (size === undefined) {
        return verb.error(`'${text}' is no size: pass bytes, as 4096, 64k, 1.5G, +1G`);
      }
      return resize(path, size, options, terminal);
    });
}

function newSize(text: string): image.NewSize | undefined {
  const [, sign, rest = ''] = /^([+-]?)(.*)$/.exec(text) ?? [];
  const bytes = parseSize(rest);
  if (bytes === undefined || sign === '') return bytes;
  return { by: sign === '-' ? -bytes : bytes };
}

async function resize(
  path: string,
  size: image.NewSize,
  options: ResizeOptions,
  terminal: Terminal,
): Promise<void> {
  const { format, shrink, preallocation, quiet } = options;
  const encryption = await readKey(options);
  const backing = policyOf(path, options);
  if (format === undefined && quiet !== true && (await image.info(path)).format === 'raw') {
    terminal.warn(`${JSON.stringify(path)} is taken for a raw image; pass -f raw to say so`);
  }
  await image.resize(path, size, { format, shrink, preallocation, backing, encryption });
  if (quiet !== true) await writeResult('Image resized.\n');
}
