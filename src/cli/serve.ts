/**
 * `sluice serve`: opens the image, then listens, then waits for the end.
 *
 *   open ──▶ listen ──▶ ready ──signal, or last client gone──▶ drain, flush, close ──▶ done
 *     └─────────┴── refused: what was opened is closed again
 *
 * V1 Clients are greeted only once the image is open.
 * V2 The first line on stderr is the URI, alone; it comes when clients can connect and the pid
 *    file is there.
 * V3 The exit code is 0 only if the last flush and all closes were good.
 * V4 The pid file goes last: when it is gone, the image is free.
 */
import type { NbdServer } from '../node.ts';
import { summaryText } from './activity.ts';
import { releaseCommand } from './fork.ts';
import { showHints } from './hints.ts';
import { listen } from './listen.ts';
import { PidFile } from './pid-file.ts';
import { drawStatus, openImage, sampleOf, toTheEnd, watchHealth } from './served-image.ts';
import type { ServeOptions } from './serve-command.ts';
import { stopRequested } from './stop.ts';
import type { Terminal } from './terminal.ts';

/** Serves until told to stop; rejects when that cannot begin, or does not end well. */
export async function serve(
  image: string,
  options: ServeOptions,
  terminal: Terminal,
): Promise<void> {
  await toTheEnd(terminal, () => serveImage(image, options, terminal));
}

/** Answers with what was done. On the way out the disk is flushed and closed. */
async function serveImage(
  image: string,
  options: ServeOptions,
  terminal: Terminal,
): Promise<string> {
  await using pidFile = new PidFile(options.pidFile);
  const notices: string[] = [];
  await using disk = await openImage(image, options, (text) => notices.push(text));
  await using server = await listen(disk, options);
  await pidFile.write();
  const stop = stopRequested(() => terminal.error('gave up: the last flush was not finished'));
  server.once('refused', (error) => terminal.warn(`a connection was refused: ${error.message}`));
  showHints(terminal, disk, server.uri, options);
  for (const notice of notices) terminal.warn(notice);
  releaseCommand();
  const start = sampleOf(disk);
  const drawing = drawStatus(disk, () => server.clients, terminal);
  const watching = watchHealth(disk, terminal);
  await (options.persistent === true ? stop : Promise.race([stop, lastClientGone(server)]));
  clearInterval(drawing);
  clearInterval(watching);
  terminal.status(['Stopping: requests are finished, then flushed. Ctrl-C gives up.']);
  await server.close();
  return summaryText(start, sampleOf(disk));
}

function lastClientGone(server: NbdServer): Promise<void> {
  return new Promise((resolve) => {
    server.on('disconnect', () => {
      // Whoever waited for the slot takes it before this turn ends.
      setImmediate(() => {
        if (server.clients === 0) resolve();
      });
    });
  });
}
