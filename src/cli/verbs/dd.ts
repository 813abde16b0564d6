/** `sluice dd`. */
import type { Command } from 'commander';
import { invalid } from '../../arguments.ts';
import { isNbdUri } from '../../nbd/uri.ts';
import { image, type ImageFormat } from '../../node.ts';
import type { Terminal } from '../terminal.ts';
import {
  addVerb,
  allowOption,
  type ChainOptions,
  type CommonOptions,
  forceShareOption,
  lockOf,
  policyOf,
  sourceFormatOption,
  targetFormatOption,
} from './common.ts';
import { type KeyOptions, keyOptions, readKey } from './key.ts';
import { withProgress } from './progress.ts';
import { parseSize } from './size.ts';

const NOTES = `
Operands, as of dd: if=FILE of=FILE [bs=SIZE] [count=N] [skip=N]. Blocks have bs
bytes, 512 without it; skip blocks of the disk are passed over, then count are
copied, all without it. The target is a new image of what was copied. FILE may
be the URI of an export of an NBD server, as with convert.

Examples:
  sluice dd -f qcow2 -O raw if=disk.qcow2 of=mbr.img bs=512 count=1
  sluice dd -O qcow2 if=disk.img of=second-gigabyte.qcow2 bs=1G skip=1 count=1`;

const DEFAULT_BLOCK_BYTES = 512;
const OPERANDS = ['if', 'of', 'bs', 'count', 'skip'] as const;

interface DdOptions extends CommonOptions, ChainOptions, KeyOptions {
  readonly targetFormat: ImageFormat;
}

export function addDd(program: Command, terminal: Terminal): void {
  addVerb(program, {
    name: 'dd',
    usage: '[OPTIONS] if=IMAGE of=TARGET [bs=SIZE] [count=N] [skip=N]',
    summary: 'copy a part of a disk',
    description: 'Copies a part of a disk into a new image.',
    notes: NOTES,
    options: [
      sourceFormatOption('-f, --format <fmt>', 'the image'),
      targetFormatOption('the target'),
      ...keyOptions(),
      forceShareOption(),
      allowOption(),
    ],
  })
    .argument('<operands...>', 'see below')
    .action((operands: string[], options: DdOptions) => dd(operands, options, terminal));
}

async function dd(operands: string[], options: DdOptions, terminal: Terminal): Promise<void> {
  const given = new Map(operands.map(operandOf));
  const source = given.get('if');
  const target = given.get('of');
  if (source === undefined || target === undefined) throw invalid('if= and of= must be there');
  const blockBytes = numberOf(given.get('bs')) ?? DEFAULT_BLOCK_BYTES;
  if (blockBytes === 0) throw invalid('bs must be at least 1');
  const count = numberOf(given.get('count'));
  const encryption = await readKey(options);
  const isThere = isNbdUri(target);
  const left = isThere ? { whatThereIs: 'the target is written in part' } : {};
  await withProgress(terminal, left, (onProgress, signal) =>
    image.convert(source, target, {
      format: options.format,
      lock: lockOf(options),
      backing: policyOf(source, options),
      targetFormat: options.targetFormat,
      encryption,
      startOffset: (numberOf(given.get('skip')) ?? 0) * blockBytes,
      maxLength: count === undefined ? undefined : count * blockBytes,
      onProgress,
      signal,
    }),
  );
}

function operandOf(text: string): [name: string, value: string] {
  const at = text.indexOf('=');
  const name = text.slice(0, Math.max(at, 0));
  if (OPERANDS.some((known) => known === name)) return [name, text.slice(at + 1)];
  throw invalid(`there is no operand '${text}': use ${OPERANDS.join('=, ')}=`);
}

function numberOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const number = parseSize(text);
  if (number !== undefined) return number;
  throw invalid(`'${text}' is no number of bytes or blocks`);
}
