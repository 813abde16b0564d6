/** `sluice vhost-user`: its options. */
import { type Command, Option } from 'commander';

import { forkServer, isForked } from './fork.ts';
import type { ServedImageOptions } from './served-image.ts';
import {
  CACHE_NOTES,
  notEmpty,
  servedImageOptions,
  traceOption,
  wholeNumber,
} from './served-image-options.ts';
import type { Terminal } from './terminal.ts';

const NOTES = `${CACHE_NOTES}

Needs Linux and the package koffi. The virtual machine needs its memory in a
file that both can map, as in the example (share=on), and less of it than 4 GiB.
QEMU asks for a queue for each processor of the guest, and gets up to 63; with
more processors it wants ,num-queues=63, as it wants what --num-queues says.
The server goes on when its front-end has gone, and the next one may come. A
server that was killed is started again with the same command: QEMU with
reconnect=1 goes on where it was, and what was in flight is done. On qcow2 that
takes --cache writethrough or directsync, or a guest that has turned its write
cache off: else its flushes fail, as writes that had completed may be gone.
SIGINT, SIGTERM and SIGHUP finish what is in flight, flush and close; a second
SIGINT or SIGTERM gives up. Exit codes: 0 done; 1 refused or failed, with the
reason on stderr; 130 gave up.

Examples:
  sluice vhost-user -k disk.sock disk.img
  qemu-system-x86_64 -m 1G \\
    -object memory-backend-memfd,id=mem,size=1G,share=on \\
    -machine memory-backend=mem \\
    -chardev socket,id=disk,path=disk.sock,reconnect=1 \\
    -device vhost-user-blk-pci,chardev=disk`;

/** What the command line says, parsed. */
export interface VhostUserCommandOptions extends ServedImageOptions {
  readonly socket: string;
  readonly numQueues: number;
  readonly serial?: string;
  readonly packed?: true;
  readonly fork?: true;
  readonly pidFile?: string;
}

const MOST_QUEUES = 63;

/** Adds the command to the program. */
export function addVhostUser(program: Command, terminal: Terminal): void {
  const command = program
    .command('vhost-user')
    .summary('give an image or a block device to a virtual machine')
    .description('Serves a disk image or a block device as a vhost-user-blk device.')
    .usage('[OPTIONS] -k SOCKET IMAGE')
    .argument('<image>', 'a regular file or a block device')
    .helpOption('-h, --help', 'print this help')
    .allowExcessArguments(false)
    .showHelpAfterError("Try 'sluice vhost-user --help'.")
    .addHelpText('after', NOTES)
    .action(async (image: string, options: VhostUserCommandOptions) => {
      if (options.fork === true && !isForked()) return forkServer(terminal);
      // Other commands start without it.
      const { serveVhost } = await import('./vhost-user.ts');
      await serveVhost(image, options, terminal);
    });
  for (const option of [...servedImageOptions(), ...deviceOptions()]) command.addOption(option);
}

function deviceOptions(): Option[] {
  return [
    new Option('-k, --socket <path>', 'unix socket to listen on')
      .argParser(notEmpty)
      .makeOptionMandatory(),
    new Option('--num-queues <n>', `request queues, 1 to ${MOST_QUEUES}`)
      .argParser((text) => wholeNumber(text, MOST_QUEUES, 1))
      .default(MOST_QUEUES),
    new Option('--serial <text>', 'serial number that the guest sees, at most 20 bytes'),
    new Option('--packed', 'offer packed rings'),
    traceOption('the write cache and the flushes of the server, not what the guest asks'),
    new Option('--fork', 'return when a front-end can connect, and serve in the background'),
    new Option('--pid-file <path>', 'write the process id to a file when ready').argParser(
      notEmpty,
    ),
  ];
}
