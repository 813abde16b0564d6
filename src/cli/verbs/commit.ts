/** `sluice commit`. */
import { type Command, Option } from 'commander';
import { image } from '../../node.ts';
import { writeResult } from '../output.ts';
import type { Terminal } from '../terminal.ts';
import { type ChangeOptions } from './change-options.ts';
import {
  addVerb,
  allowOption,
  cacheOption,
  type ChainOptions,
  type CommonOptions,
  formatOption,
  policyOf,
  progressOption,
  quietOption,
} from './common.ts';
import { type KeyOptions, keyOptions, readKey } from './key.ts';
import { withProgress } from './progress.ts';
import { sizeArgument } from './size.ts';

const NOTES = `
The image is empty afterwards, unless -d or -b is passed: then it should not be
used any more. Other images over the backing file do not read as before.
Exit codes: 0 done; 1 failed; 130 interrupted: what has been written to the
backing file stays there, and the disk of the image reads as it did.

Examples:
  sluice commit disk.qcow2
  sluice commit -p -b base.qcow2 disk.qcow2        several layers down`;

interface CommitOptions extends CommonOptions, ChainOptions, ChangeOptions, KeyOptions {
  readonly base?: string;
  readonly rate?: number;
  readonly drop?: true;
  readonly progress?: true;
}

export function addCommit(program: Command, terminal: Terminal): void {
  addVerb(program, {
    name: 'commit',
    usage: '[OPTIONS] IMAGE',
    summary: 'write what an image has into its backing file',
    description: 'Writes what an image has into its backing file, and empties it.',
    notes: NOTES,
    options: [
      formatOption(),
      cacheOption(),
      new Option('-b, --base <file>', 'the file that is written, some layers down; implies -d'),
      new Option('-r, --rate <size>', 'bytes in a second, at most; 0: any').argParser(sizeArgument),
      new Option('-d, --drop', 'do not empty the image'),
      ...keyOptions(),
      progressOption(),
      quietOption(),
      allowOption(),
    ],
  })
    .argument('<image>', 'a regular file or a block device')
    .action((path: string, options: CommitOptions) => commit(path, options, terminal));
}

async function commit(path: string, options: CommitOptions, terminal: Terminal): Promise<void> {
  const { format, cache, base, rate, drop: keep, quiet } = options;
  const encryption = await readKey(options);
  const backing = policyOf(path, options);
  const onNotice = quiet === true ? undefined : (text: string) => terminal.line(text);
  const how = { format, cache, base, keep, encryption, backing, onNotice };
  const untouched = 'the disk reads as it did';
  const bytesPerSecond = rate === 0 ? undefined : rate;
  await withProgress(
    terminal,
    { ...options, whatThereIs: untouched },
    async (onProgress, signal) => {
      onProgress({ doneBytes: 0, totalBytes: 1 });
      await image.commit(path, { ...how, bytesPerSecond, onProgress, signal });
    },
  );
  if (quiet !== true) await writeResult('Image committed.\n');
}
