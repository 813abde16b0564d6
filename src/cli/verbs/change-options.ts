/** Options of the verbs that change an image. */
import type { Command } from 'commander';
import type { CacheModeName } from '../../cache-mode.ts';

/** What most of them have. */
export interface ChangeOptions {
  readonly cache: CacheModeName;
  readonly quiet?: true;
}

/** An option of qemu-img whose words say enough, which may stand on the line several times. */
export function onEach(command: Command, name: string, heard: (value: string) => void): void {
  command.on(`option:${name}`, heard);
}
