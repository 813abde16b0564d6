/** `sluice amend`. */
import { type Command, Option } from 'commander';
import { image } from '../../node.ts';
import { invalid } from '../../arguments.ts';
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
import { formatOptions, isOn, optionPairs, versionOf } from './format-options.ts';
import { type KeyOptions, keyOptions, readKey } from './key.ts';
import { withProgress } from './progress.ts';
import { parseSize } from './size.ts';

const NOTES = `
Options to amend, with -o:
  compat=0.10|1.1          version of qcow2: 2 or 3
  lazy_refcounts=on|off    refcounts may be written late
  refcount_bits=N          1, 2, 4, 8, 16, 32 or 64
  backing_file=FILE        another name for it; nothing: none. As rebase -u
  backing_fmt=raw|qcow2    its format
  data_file_raw=off        the data file needs not be what the disk reads as
  size=SIZE                of the disk

Exit codes: 0 done; 1 failed.

Examples:
  sluice amend -o compat=0.10 disk.qcow2
  sluice amend -o lazy_refcounts=on,refcount_bits=64 disk.qcow2`;

interface AmendOptions extends CommonOptions, ChainOptions, ChangeOptions, KeyOptions {
  readonly options: readonly string[];
  readonly progress?: true;
  readonly force?: true;
}

export function addAmend(program: Command, terminal: Terminal): void {
  const verb = addVerb(program, {
    name: 'amend',
    usage: '[OPTIONS] IMAGE',
    summary: 'change what an image is',
    description: 'Changes options of an image; what its disk reads as stays.',
    notes: NOTES,
    options: [
      formatOptions(),
      formatOption(),
      cacheOption(),
      new Option('--force', 'let the disk become smaller: what lies behind its end is lost'),
      ...keyOptions(),
      progressOption(),
      quietOption(),
      allowOption(),
    ],
  });
  verb
    .argument('[image]', 'a regular file or a block device')
    .action((path: string | undefined, options: AmendOptions) => {
      if (options.options.length === 0) verb.error('what is to be changed? Pass it with -o');
      if (options.options.some((list) => list === 'help' || list === '?')) {
        return writeResult(NOTES.slice(1, NOTES.indexOf('\nExit')));
      }
      if (path === undefined) return verb.error("missing required argument 'image'");
      return amend(path, options, terminal);
    });
}

async function amend(path: string, options: AmendOptions, terminal: Terminal): Promise<void> {
  const { format, cache, force } = options;
  const changes = changesOf(optionPairs(options.options));
  const encryption = await readKey(options);
  const backing = policyOf(path, options);
  await withProgress(terminal, options, async (show, signal) => {
    const onProgress = ({ done, total }: image.AmendProgress): void =>
      show({ doneBytes: done, totalBytes: total });
    onProgress({ done: 0, total: 1 });
    const how = { format, cache, backing, encryption, shrink: force, onProgress, signal };
    await image.amend(path, changes, how);
    onProgress({ done: 1, total: 1 });
  });
}

type Changes = { -readonly [K in keyof image.ImageAmendment]: image.ImageAmendment[K] };

const SETTERS: Readonly<Record<string, (text: string, name: string) => Changes>> = {
  compat: (text) => ({ version: versionOf(text) }),
  lazy_refcounts: (text, name) => ({ lazyRefcounts: isOn(text, name) }),
  refcount_bits: (text) => ({ refcountBits: Number(text) }),
  data_file_raw: (text, name) => ({ dataFileRaw: isOn(text, name) }),
  size: (text) => {
    const sizeBytes = parseSize(text);
    if (sizeBytes === undefined) throw invalid(`size is bytes, as 4096, 64k, 1.5G, not '${text}'`);
    return { sizeBytes };
  },
};

function changesOf(pairs: Map<string, string>): Changes {
  const backing = backingOf(pairs);
  pairs.delete('backing_file');
  pairs.delete('backing_fmt');
  const parts = [...pairs].map(([name, text]): Changes => {
    const setter = SETTERS[name];
    if (setter !== undefined) return setter(text, name);
    const reason = reasonAgainst(name);
    if (reason !== undefined) throw invalid(`cannot amend '${name}': ${reason}`);
    const names = [...Object.keys(SETTERS), 'backing_file', 'backing_fmt'];
    throw invalid(`there is no option '${name}' to amend: use ${names.join(', ')}`);
  });
  return Object.assign({}, backing === undefined ? {} : { backing }, ...parts) as Changes;
}

/** Of what qemu-img amends. */
function reasonAgainst(name: string): string | undefined {
  if (name === 'data_file') return 'the name of a data file cannot be changed: convert the image';
  if (!name.startsWith('encrypt.')) return undefined;
  return 'keys cannot be changed: convert the image to one with another key';
}

function backingOf(pairs: ReadonlyMap<string, string>): Changes['backing'] {
  const name = pairs.get('backing_file');
  const format = pairs.get('backing_fmt');
  if (name === '') return 'none';
  if (name === undefined && format === undefined) return undefined;
  if (name === undefined) throw invalid('backing_fmt was given, and no backing_file');
  if (format === 'raw' || format === 'qcow2') return { name, format };
  throw invalid('the format of the backing file is missing: backing_fmt is raw or qcow2');
}
