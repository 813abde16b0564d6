/** Options of the verbs that change an image. */
import { type Command, Option } from 'commander';
import { CACHE_MODES, type CacheModeName } from '../../cache-mode.ts';

/** What most of them have. */
export interface ChangeOptions {
  readonly cache: CacheModeName;
  readonly quiet?: true;
}

export function quietOption(): Option {
  return new Option('-q, --quiet', 'say nothing but what cannot be done');
}

export function progressOption(): Option {
  return new Option('-p, --progress', 'say how far it is, also where there is no terminal');
}

export function cacheOption(flags = '-t, --cache <mode>', whose = 'the image'): Option {
  return new Option(flags, `cache mode of ${whose}; unsafe: it is not synced`)
    .choices([...Object.keys(CACHE_MODES), 'unspecified'])
    .default('writeback');
}

/** An option of qemu-img whose words say enough, which may stand on the line several times. */
export function onEach(command: Command, name: string, heard: (value: string) => void): void {
  command.on(`option:${name}`, heard);
}
