/** `sluice vhost-user`: opens the image, then listens, then waits for a signal. */
import { type Disk, serveVhostUser, type VhostUserServer } from '../node.ts';
import { summaryText } from './activity.ts';
import { isForked, releaseCommand } from './fork.ts';
import { warnUnsafe } from './hints.ts';
import { listenRefusal, socketPath } from './listen.ts';
import { PidFile } from './pid-file.ts';
import { drawStatus, openImage, sampleOf, toTheEnd, watchHealth } from './served-image.ts';
import { stopRequested } from './stop.ts';
import type { Terminal } from './terminal.ts';
import type { VhostUserCommandOptions } from './vhost-user-command.ts';

/** A front-end that comes back every second is wrong in the same way each time. */
const SAME_WARNING_MS = 60_000;
const WAITING = 'another front-end waits: one is served at a time';

/** Serves until told to stop; rejects when that cannot begin, or does not end well. */
export async function serveVhost(
  image: string,
  options: VhostUserCommandOptions,
  terminal: Terminal,
): Promise<void> {
  await toTheEnd(terminal, () => serveImage(image, options, terminal));
}

async function serveImage(
  image: string,
  options: VhostUserCommandOptions,
  terminal: Terminal,
): Promise<string> {
  await using pidFile = new PidFile(options.pidFile);
  const notices: string[] = [];
  await using disk = await openImage(image, options, (text) => notices.push(text));
  await using server = await listen(disk, options);
  let frontEnds = 0;
  server.on('connect', () => (frontEnds += 1));
  server.on('disconnect', () => (frontEnds -= 1));
  server.on('waiting', () => terminal.warn(WAITING));
  const warn = sparingly((text) => terminal.warn(text));
  server.on('fault', (error) => warn(error.message));
  await pidFile.write();
  const stop = stopRequested({
    giveUp: () => terminal.error('gave up: the last flush was not finished'),
    // There are no files to read anew.
    ...(isForked() ? { reload: () => undefined } : {}),
  });
  terminal.line(`vhost-user-blk at ${socketPath(options.socket)}`);
  warnUnsafe(terminal, [disk]);
  for (const notice of notices) terminal.warn(notice);
  releaseCommand();
  const start = sampleOf([disk]);
  const drawing = drawStatus([disk], () => frontEnds, terminal);
  const watching = watchHealth({ disk, name: 'the image' }, terminal);
  await stop;
  clearInterval(drawing);
  clearInterval(watching);
  terminal.status(['Stopping: requests are finished, then flushed. Ctrl-C gives up.']);
  await server.close();
  return summaryText(start, sampleOf([disk]));
}

async function listen(disk: Disk, options: VhostUserCommandOptions): Promise<VhostUserServer> {
  const { socket, numQueues: queues, serial, packed } = options;
  try {
    return await serveVhostUser(disk, { socket: socketPath(socket), queues, serial, packed });
  } catch (cause) {
    throw listenRefusal(cause, JSON.stringify(socket), '-k');
  }
}

/** Says a text once in SAME_WARNING_MS, unless it has said another one meanwhile. */
function sparingly(say: (text: string) => void): (text: string) => void {
  let last = '';
  let lastMs = 0;
  return (text) => {
    const now = performance.now();
    if (text === last && now - lastMs < SAME_WARNING_MS) return;
    last = text;
    lastMs = now;
    say(text);
  };
}
