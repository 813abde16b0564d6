/** What `sluice serve` says when clients can connect. */
import type { Disk } from '../node.ts';
import { formatBytes } from './format.ts';
import type { ServeOptions } from './serve-command.ts';
import type { Terminal } from './terminal.ts';

/** Said of a disk that loses what it was told to keep. */
const UNSAFE =
  'cache=unsafe: flushes do nothing; a power cut or a crash of this host loses data ' +
  'and may destroy the file systems on the disk';

/** Warns of disks that lose what they were told to keep; the mode is one for all. */
export function warnUnsafe(terminal: Terminal, [disk]: readonly Disk[]): void {
  if (disk?.cacheMode === 'unsafe' && !disk.readOnly) terminal.warn(UNSAFE);
}

/**
 * The URIs, and on a terminal what to type next.
 * @param uri of the first image, with what clients on this machine need besides
 */
export function showHints(
  terminal: Terminal,
  disks: readonly Disk[],
  { uris, uri }: { readonly uris: readonly string[]; readonly uri: string },
  options: ServeOptions,
): void {
  // Together: who waits for the first line has them all.
  terminal.line(uris.join('\n'));
  const [disk] = disks;
  if (disk === undefined) return;
  const access = disk.readOnly ? 'read-only' : 'read-write';
  const end =
    options.persistent === true ? 'Ctrl-C ends it' : 'ends with its last client (-t: stays)';
  const sizes = disks.map(({ size }) => formatBytes(size)).join(' + ');
  terminal.hint(`${sizes}, cache=${disk.cacheMode}, ${access}; ${end}. Try:`);
  for (const command of commandsFor(uri)) terminal.hint(`  ${command}`);
}

function commandsFor(uri: string): string[] {
  const word = /^[\w@%+=:,./-]+$/.test(uri) ? uri : `'${uri.replaceAll("'", String.raw`'\''`)}'`;
  const commands = [`nbdinfo ${word}`, `nbdcopy ${word} copy.img`];
  // QEMU is told of TLS by other options than the URI's.
  if (uri.startsWith('nbds')) return commands;
  return [
    ...commands,
    `qemu-img info ${word}`,
    `qemu-system-x86_64 -m 1G -drive file=${word},format=raw,if=virtio`,
  ];
}
