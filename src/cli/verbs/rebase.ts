/** `sluice rebase`. */
import { type Command, Option } from 'commander';
import { type CacheModeName } from '../../cache-mode.ts';
import { image } from '../../node.ts';
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

const NOTES = `
The disk reads the same afterwards, and at any moment: what the new backing file
has otherwise is copied into the image first. With -u only the name is changed,
and no other file is looked at. A relative name begins in the image's folder.
Exit codes: 0 done; 1 failed; 130 interrupted. Until it is done the image has
the backing file that it had, and reads the same.

Examples:
  sluice rebase -b new-base.qcow2 -F qcow2 disk.qcow2
  sluice rebase -b '' disk.qcow2                   no backing file any more
  sluice rebase -u -b moved.qcow2 -F qcow2 disk.qcow2`;

interface RebaseOptions extends CommonOptions, ChainOptions, ChangeOptions, KeyOptions {
  readonly unsafe?: true;
  readonly backing?: string;
  readonly backingFormat?: 'raw' | 'qcow2';
  readonly sourceCache: CacheModeName;
  readonly progress?: true;
}

export function addRebase(program: Command, terminal: Terminal): void {
  const verb = addVerb(program, {
    name: 'rebase',
    usage: '[OPTIONS] IMAGE',
    summary: 'let an image have another backing file',
    description: 'Lets an image have another backing file.',
    notes: NOTES,
    options: [
      new Option('-u, --unsafe', 'change the name alone'),
      new Option('-b, --backing <file>', 'the new backing file; nothing: none'),
      new Option('-F, --backing-format <fmt>', 'format of the new backing file').choices([
        'raw',
        'qcow2',
      ]),
      formatOption(),
      cacheOption(),
      cacheOption('-T, --source-cache <mode>', 'the backing files'),
      ...keyOptions(),
      progressOption(),
      quietOption(),
      allowOption(),
    ],
  });
  verb
    .argument('<image>', 'a regular file or a block device')
    .action((path: string, options: RebaseOptions) => {
      const { backing: name, backingFormat: format, unsafe } = options;
      if (name === undefined && unsafe === undefined) {
        verb.error('which backing file? Pass it with -b, or change the name alone with -u');
      }
      if (!name && format !== undefined) verb.error('a format was given (-F), and no file (-b)');
      if (!name) return rebase(path, 'none', options, terminal);
      if (format === undefined) {
        return verb.error('the format of the backing file is missing: pass -F raw or -F qcow2');
      }
      return rebase(path, { name, format }, options, terminal);
    });
}

async function rebase(
  path: string,
  backing: image.NewBackingFile | 'none',
  options: RebaseOptions,
  terminal: Terminal,
): Promise<void> {
  const { format, cache, sourceCache, unsafe, quiet } = options;
  const encryption = await readKey(options);
  const allow = policyOf(path, options);
  const onNotice = quiet === true ? undefined : (text: string) => terminal.line(text);
  const how = { format, cache, sourceCache, unsafe, encryption, allow, backing, onNotice };
  const untouched = 'the backing file is the one that it was';
  await withProgress(
    terminal,
    { ...options, whatThereIs: untouched },
    async (onProgress, signal) => {
      onProgress({ doneBytes: 0, totalBytes: 1 });
      await image.rebase(path, { ...how, onProgress, signal });
      onProgress({ doneBytes: 1, totalBytes: 1 });
    },
  );
}
