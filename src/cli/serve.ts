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
 * V5 With --run the server ends with the command, and has no words for a terminal: it is the
 *    command's. With a socket that was passed nobody waits for the URI.
 */
import type { Disk, NbdServer } from '../node.ts';
import { summaryText } from './activity.ts';
import { Control, controlStats } from './control.ts';
import { isForked, releaseCommand } from './fork.ts';
import { showHints, warnUnsafe } from './hints.ts';
import { listen } from './listen.ts';
import { PidFile } from './pid-file.ts';
import { PrivateFolder, runCommand } from './run-command.ts';
import { drawStatus, openImage, sampleOf, toTheEnd, watchHealth } from './served-image.ts';
import type { ServeOptions } from './serve-command.ts';
import { ServerLog } from './server-log.ts';
import { statsText } from './stats-text.ts';
import { stopRequested } from './stop.ts';
import type { Terminal } from './terminal.ts';

/** Serves until told to stop; rejects when that cannot begin, or does not end well. */
export async function serve(
  image: string,
  options: ServeOptions,
  terminal: Terminal,
): Promise<void> {
  let code = 0;
  await toTheEnd(terminal, async () => {
    const outcome = await serveImage(image, options, terminal);
    code = outcome.code;
    return outcome.summary;
  });
  // After the last close only: until then a failure has the last word (V3).
  if (code !== 0) process.exitCode = code;
}

/** On the way out the disk is flushed and closed. */
async function serveImage(
  image: string,
  options: ServeOptions,
  terminal: Terminal,
): Promise<{ readonly code: number; readonly summary: string }> {
  await using pidFile = new PidFile(options.pidFile);
  const isPrivate = options.run !== undefined && !options.addressed;
  await using folder = isPrivate ? await PrivateFolder.make() : undefined;
  const notices: string[] = [];
  await using disk = await openImage(image, options, (text) => notices.push(text));
  await using server = await listen(disk, { ...options, ...folder?.place });
  await using _control = await Control.open(options.control, { server, disk });
  await pidFile.write();
  const stop = stopRequested(
    () => terminal.error('gave up: the last flush was not finished'),
    isForked(),
  );
  process.on('SIGUSR2', () => terminal.line(statsText(controlStats({ server, disk })).trimEnd()));
  server.once('refused', (error) => terminal.warn(`a connection was refused: ${error.message}`));
  const told = options.run === undefined && options.fd === undefined;
  if (told) showHints(terminal, disk, server.uri, options);
  using log = options.verbose === true ? ServerLog.of(server, terminal) : undefined;
  if (!told) log?.line(`listening: ${server.uri}`);
  warnUnsafe(terminal, disk);
  for (const notice of notices) terminal.warn(notice);
  releaseCommand();
  const start = sampleOf(disk);
  const watching = watchHealth(disk, terminal);
  const code =
    options.run === undefined
      ? await serveClients(disk, server, { stop, terminal, options })
      : await runCommand(options.run, server.uri, stop);
  clearInterval(watching);
  await server.close();
  return { code, summary: options.run === undefined ? summaryText(start, sampleOf(disk)) : '' };
}

/** Until told to stop, or without -t until the last client has gone. */
async function serveClients(
  disk: Disk,
  server: NbdServer,
  until: {
    readonly stop: Promise<NodeJS.Signals>;
    readonly terminal: Terminal;
    readonly options: ServeOptions;
  },
): Promise<number> {
  const { stop, terminal, options } = until;
  const drawing = drawStatus(disk, () => server.clients, terminal);
  await (options.persistent === true ? stop : Promise.race([stop, lastClientGone(server)]));
  clearInterval(drawing);
  terminal.status(['Stopping: requests are finished, then flushed. Ctrl-C gives up.']);
  return 0;
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
