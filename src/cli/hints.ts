/** What `sluice serve` says when clients can connect. */
import type { Disk } from '../node.ts';
import { formatBytes } from './format.ts';
import type { ServeOptions } from './serve-command.ts';
import type { Terminal } from './terminal.ts';

/** Said of a disk that loses what it was told to keep. */
const UNSAFE =
  'cache=unsafe: flushes do nothing; a power cut or a crash of this host loses data ' +
  'and may destroy the file systems on the disk';

/** Warns of a disk that loses what it was told to keep. */
export function warnUnsafe(terminal: Terminal, disk: Disk): void {
  if (disk.cacheMode === 'unsafe' && !disk.readOnly) terminal.warn(UNSAFE);
}

/** The URI, and on a terminal what to type next. */
export function showHints(
  terminal: Terminal,
  disk: Disk,
  uri: string,
  options: ServeOptions,
): void {
  terminal.line(uri);
  const access = disk.readOnly ? 'read-only' : 'read-write';
  const end =
    options.persistent === true ? 'Ctrl-C ends it' : 'ends with its last client (-t: stays)';
  terminal.hint(`${formatBytes(disk.size)}, cache=${disk.cacheMode}, ${access}; ${end}. Try:`);
  for (const command of commandsFor(uri)) terminal.hint(`  ${command}`);
}

function commandsFor(uri: string): string[] {
  const word = /^[\w@%+=:,./-]+$/.test(uri) ? uri : `'${uri.replaceAll("'", String.raw`'\''`)}'`;
  return [
    `nbdinfo ${word}`,
    `nbdcopy ${word} copy.img`,
    `qemu-img info ${word}`,
    `qemu-system-x86_64 -m 1G -drive file=${word},format=raw,if=virtio`,
  ];
}
