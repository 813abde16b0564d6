/** What the verbs of qemu-img have in common: their options, in its letters, and their output. */
import { dirname } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { CACHE_MODES, type CacheModeName } from '../../cache-mode.ts';
import { isReadOnlyFormat } from '../../image/format.ts';
import type { NamedFilePolicy, SourceFormat } from '../../node.ts';
import { secretOption } from './secret.ts';

/** Options that every verb has. */
export interface CommonOptions {
  readonly format?: SourceFormat;
  readonly forceShare?: true;
}

/** Options of verbs that open backing files. */
export interface ChainOptions {
  readonly allow: readonly string[];
}

/** A verb: its name, what it takes, what it does, and what else there is to know. */
export interface Verb {
  readonly name: string;
  readonly usage: string;
  readonly summary: string;
  readonly description: string;
  /** Behind the options: exit codes, examples. */
  readonly notes: string;
  readonly options: readonly Option[];
}

/** Adds a verb to the program. */
export function addVerb(program: Command, verb: Verb): Command {
  const command = program
    .command(verb.name)
    .summary(verb.summary)
    .description(verb.description)
    .usage(verb.usage)
    .helpOption('-h, --help', 'print this help')
    .allowExcessArguments(false)
    .showHelpAfterError(`Try 'sluice ${verb.name} --help'.`)
    .addHelpText('after', verb.notes);
  for (const option of [...verb.options, secretOption()]) command.addOption(option);
  refuseOption(command, '--image-opts', 'name the image by its path');
  return command;
}

/** Options of qemu-img that cannot be had: none is passed over in silence. */
function refuseOption(command: Command, flags: string, advice: string): void {
  const option = new Option(flags).hideHelp();
  command.addOption(option);
  command.hook('preAction', () => {
    if (command.getOptionValue(option.attributeName()) === undefined) return;
    command.error(`option ${option.long} is not supported: ${advice}`);
  });
}

/** Of an image that is changed, or may be. */
export function formatOption(flags = '-f, --format <fmt>', whose = 'the image'): Option {
  return writableFormat(
    new Option(flags, `format of ${whose}, raw or qcow2; without it: what it begins as`),
  );
}

/** Of an image that is only read. */
export function sourceFormatOption(flags = '-f, --format <fmt>', whose = 'the image'): Option {
  return new Option(
    flags,
    `format of ${whose}, raw, qcow2, vpc (VHD) or vmdk; without it: what it begins as; ` +
      'a fixed VHD begins as its disk, and needs -f vpc',
  ).choices(['raw', 'qcow2', 'vpc', 'vmdk']);
}

/** A format in which images are written; the others are refused by name. */
export function writableFormat(option: Option): Option {
  const formats = ['raw', 'qcow2'];
  return option.choices(formats).argParser((text: string) => {
    if (formats.includes(text)) return text;
    const advice = isReadOnlyFormat(text)
      ? ` ${text} images are only read; use qcow2, which they can be converted to.`
      : '';
    throw new InvalidArgumentError(`Allowed choices are ${formats.join(', ')}.${advice}`);
  });
}

export function outputOption(): Option {
  return new Option('--output <format>', 'how the result is written')
    .choices(['human', 'json'])
    .default('human');
}

export function quietOption(): Option {
  return new Option('-q, --quiet', 'say nothing but what cannot be done');
}

export function progressOption(): Option {
  return new Option('-p, --progress', 'say how far it is, also where there is no terminal');
}

export function cacheOption(
  flags = '-t, --cache <mode>',
  whose = 'the image',
  usual: CacheModeName = 'writeback',
): Option {
  return new Option(flags, `cache mode of ${whose}; unsafe: it is not synced`)
    .choices([...Object.keys(CACHE_MODES), 'unspecified'])
    .default(usual);
}

export function targetFormatOption(what: string): Option {
  return writableFormat(new Option('-O, --target-format <fmt>', `format of ${what}`)).default(
    'raw',
  );
}

export function forceShareOption(): Option {
  return new Option('-U, --force-share', 'take no locks: the image may be changing meanwhile');
}

export function allowOption(): Option {
  return new Option(
    '--allow <folder>',
    "also open backing and data files in this folder; those in the image's own are opened",
  )
    .argParser((folder: string, folders: readonly string[]) => [...folders, folder])
    .default([], 'none');
}

/** The locks that -U asks for. */
export function lockOf({ forceShare }: CommonOptions): 'auto' | 'none' {
  return forceShare === true ? 'none' : 'auto';
}

/** Which files an image may name: those beside it, and in the folders of --allow. */
export function policyOf(image: string, { allow }: ChainOptions): NamedFilePolicy {
  return { folders: [dirname(image), ...allow] };
}

/** As qemu-img writes it. */
export function jsonText(value: unknown): string {
  return `${JSON.stringify(value, null, 4)}\n`;
}
