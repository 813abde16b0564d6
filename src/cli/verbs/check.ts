/** `sluice check`. */
import { type Command, Option } from 'commander';
import { image, SluiceError } from '../../node.ts';
import { writeResult } from '../output.ts';
import type { Terminal } from '../terminal.ts';
import {
  addVerb,
  type CommonOptions,
  forceShareOption,
  jsonText,
  lockOf,
  outputOption,
  quietOption,
  sourceFormatOption,
} from './common.ts';

const NOTES = `
What is wrong is said on stderr, line by line; the result is on stdout.
Exit codes, as of qemu-img: 0 nothing was found, or all of it is repaired; 1 it
could not be checked; 2 corruption; 3 leaked clusters only; 63 the format has
nothing to check.

Examples:
  sluice check disk.qcow2
  sluice check -r all disk.qcow2`;

const CODE_CORRUPT = 2;
const CODE_LEAKS = 3;
const CODE_NO_CHECK = 63;

interface CheckOptions extends CommonOptions {
  readonly output: 'human' | 'json';
  readonly repair?: 'leaks' | 'all';
  readonly quiet?: true;
}

export function addCheck(program: Command, terminal: Terminal): void {
  addVerb(program, {
    name: 'check',
    usage: '[OPTIONS] IMAGE',
    summary: 'look for damage in an image, and repair it',
    description: 'Looks for damage in the metadata of an image, and repairs it.',
    notes: NOTES,
    options: [
      sourceFormatOption(),
      outputOption(),
      new Option(
        '-r, --repair <what>',
        'leaks: give back what nothing uses, and flags that do not fit; all: also wrong refcounts',
      ).choices(['leaks', 'all']),
      quietOption(),
      forceShareOption(),
    ],
  })
    .argument('<image>', 'a regular file or a block device')
    .action((path: string, options: CheckOptions) => check(path, options, terminal));
}

async function check(path: string, options: CheckOptions, terminal: Terminal): Promise<void> {
  const { format, repair, quiet, output } = options;
  const isLoud = output === 'human' && quiet !== true;
  const onFinding = isLoud ? (text: string) => terminal.line(text) : undefined;
  try {
    const lock = lockOf(options);
    const found = await image.check(path, { format, lock, repair, onFinding });
    process.exitCode = codeOf(found);
    if (output === 'json') return await writeResult(jsonText(found));
    if (quiet !== true) await writeResult(humanText(found));
  } catch (error) {
    if (error instanceof SluiceError && error.operation === 'check') {
      process.exitCode = CODE_NO_CHECK;
    }
    throw error;
  }
}

function codeOf(found: image.ImageCheck): number {
  if (found['check-errors'] > 0) return 1;
  if (found.corruptions !== undefined) return CODE_CORRUPT;
  return found.leaks === undefined ? 0 : CODE_LEAKS;
}

function humanText(found: image.ImageCheck): string {
  const { corruptions = 0, leaks = 0 } = found;
  const errors = found['check-errors'];
  const fixed = [
    [found['corruptions-fixed'], 'corruptions'],
    [found['leaks-fixed'], 'leaked clusters'],
  ].filter(([count]) => count !== undefined);
  const total = found['total-clusters'] ?? 0;
  const allocated = found['allocated-clusters'] ?? 0;
  const share = (part: number, whole: number): string =>
    `${(whole === 0 ? 0 : (part * 100) / whole).toFixed(2)}%`;
  const isClean = corruptions + leaks + errors === 0;
  const lines = [
    ...(fixed.length > 0 ? [`Repaired: ${fixed.map((words) => words.join(' ')).join(', ')}`] : []),
    ...(isClean ? ['No errors were found.'] : []),
    ...(corruptions > 0 ? [`${corruptions} corruptions: data may be lost, and more of it.`] : []),
    ...(leaks > 0 ? [`${leaks} leaked clusters: space is lost, no data.`] : []),
    ...(errors > 0 ? [`${errors} errors of the check: not everything was looked at.`] : []),
    `${allocated}/${total} = ${share(allocated, total)} allocated, ` +
      `${share(found['fragmented-clusters'] ?? 0, allocated)} fragmented, ` +
      `${share(found['compressed-clusters'] ?? 0, allocated)} compressed clusters`,
    `Image end offset: ${found['image-end-offset'] ?? 0}`,
  ];
  return `${lines.join('\n')}\n`;
}
