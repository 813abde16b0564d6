/**
 * `sluice serve`: opens the images, then listens, then waits for the end.
 *
 *   open ──▶ listen ──▶ ready ──signal, or last client gone──▶ drain, flush, close ──▶ done
 *     └─────────┴── refused: what was opened is closed again
 *
 * V1 Clients are greeted only once every image is open.
 * V2 The first line on stderr is the URI, alone, and of several images there is one for each; they
 *    come when clients can connect and the pid file is there.
 * V3 The exit code is 0 only if the last flush and all closes were good.
 * V4 The pid file goes last: when it is gone, the images are free.
 */
import type { Disk, NbdServer } from '../node.ts';
import { summaryText } from './activity.ts';
import { releaseCommand } from './fork.ts';
import { showHints } from './hints.ts';
import { listen } from './listen.ts';
import { PidFile } from './pid-file.ts';
import type { ServeOptions } from './serve-command.ts';
import type { ServedExport } from './served-exports.ts';
import { drawStatus, sampleOf, toTheEnd, watchHealth, withImages } from './served-image.ts';
import { warnOfFaults } from './serve-tls.ts';
import { stopRequested } from './stop.ts';
import type { Terminal } from './terminal.ts';

/** Serves until told to stop; rejects when that cannot begin, or does not end well. */
export async function serve(
  exports: readonly ServedExport[],
  options: ServeOptions,
  terminal: Terminal,
): Promise<void> {
  await toTheEnd(terminal, async () => {
    await using pidFile = new PidFile(options.pidFile);
    const notices: string[] = [];
    const served = { exports, options, terminal, pidFile, notices };
    const notice = (text: string): void => void notices.push(text);
    return await withImages(exports, options, notice, (disks) => serveDisks(disks, served));
  });
}

/** What goes with the disks. */
interface Served {
  readonly exports: readonly ServedExport[];
  readonly options: ServeOptions;
  readonly terminal: Terminal;
  readonly pidFile: PidFile;
  /** Said of the images while they were opened. */
  readonly notices: readonly string[];
}

/** Answers with what was done. On the way out the disks are flushed and closed. */
async function serveDisks(disks: readonly Disk[], served: Served): Promise<string> {
  const { exports, options, terminal } = served;
  await using server = await listen(disks, exports, options);
  await served.pidFile.write();
  const stop = stopRequested(() => terminal.error('gave up: the last flush was not finished'));
  server.once('refused', (error) => terminal.warn(`a connection was refused: ${error.message}`));
  warnOfFaults(server, terminal);
  showHints(terminal, disks, server.uris, options);
  for (const notice of served.notices) terminal.warn(notice);
  releaseCommand();
  const start = sampleOf(disks);
  const drawing = drawStatus(disks, () => server.clients, terminal);
  const watching = disks.map((disk, index) =>
    watchHealth(disk, terminal, disks.length > 1 ? exports[index]?.image : undefined),
  );
  await (options.persistent === true ? stop : Promise.race([stop, lastClientGone(server)]));
  for (const timer of [drawing, ...watching]) clearInterval(timer);
  terminal.status(['Stopping: requests are finished, then flushed. Ctrl-C gives up.']);
  await server.close();
  return summaryText(start, sampleOf(disks));
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
