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
 * V5 With --run the server ends with the command, and has no words for a terminal: it is the
 *    command's. With a socket that was passed nobody waits for the URI.
 */
import type { Disk, NbdServer } from '../node.ts';
import { summaryText } from './activity.ts';
import { Control, type Controlled, controlStats } from './control.ts';
import { isForked, releaseCommand } from './fork.ts';
import { showHints, warnUnsafe } from './hints.ts';
import { listen } from './listen.ts';
import { PidFile } from './pid-file.ts';
import { PrivateFolder, runCommand } from './run-command.ts';
import type { ServeOptions } from './serve-command.ts';
import { readTls, TlsRenewal, uriForClients, warnOfFaults } from './serve-tls.ts';
import type { ServedExport } from './served-exports.ts';
import { drawStatus, sampleOf, toTheEnd, watchHealth, withImages } from './served-image.ts';
import { ServerLog } from './server-log.ts';
import { statsText } from './stats-text.ts';
import { stopRequested } from './stop.ts';
import type { Terminal } from './terminal.ts';

/** Serves until told to stop; rejects when that cannot begin, or does not end well. */
export async function serve(
  exports: readonly ServedExport[],
  options: ServeOptions,
  terminal: Terminal,
): Promise<void> {
  let code = 0;
  await toTheEnd(terminal, async () => {
    // First: whoever sees a file or a socket of ours may signal at once.
    const signals = listenToSignals(options, terminal);
    await using pidFile = new PidFile(options.pidFile);
    signals.lastActs.push(pidFile.removeNow);
    const isPrivate = options.run !== undefined && !options.addressed;
    await using folder = isPrivate ? await PrivateFolder.make() : undefined;
    if (folder !== undefined) signals.lastActs.push(folder.removeNow);
    const notices: string[] = [];
    const placed = { ...options, ...folder?.place };
    const served = { exports, options: placed, terminal, pidFile, notices, signals };
    const notice = (text: string): void => void notices.push(text);
    const outcome = await withImages(exports, options, notice, (disks) =>
      serveDisks(disks, served),
    );
    code = outcome.code;
    return outcome.summary;
  });
  // After the last close only: until then a failure has the last word (V3).
  if (code !== 0) process.exitCode = code;
}

/** What goes with the disks. */
interface Served {
  readonly exports: readonly ServedExport[];
  readonly options: ServeOptions;
  readonly terminal: Terminal;
  readonly pidFile: PidFile;
  /** Said of the images while they were opened. */
  readonly notices: readonly string[];
  readonly signals: Signals;
}

/** What signals do; what needs a server, or a command, is there when these are. */
interface Signals {
  /** Resolves with the signal that asks the server to stop. */
  readonly stop: Promise<NodeJS.Signals>;
  /** What one that ends the process at once does before: the second, and any while starting. */
  readonly lastActs: (() => void)[];
  isStarting: boolean;
  /** Of SIGHUP, to a daemon. */
  reload: () => void;
  /** Of SIGUSR2. */
  report: () => void;
}

/** On the way out the disks are flushed and closed. */
async function serveDisks(
  disks: readonly Disk[],
  served: Served,
): Promise<{ readonly code: number; readonly summary: string }> {
  const { exports, options, terminal } = served;
  const tls = await readTls(options);
  await using server = await listen(disks, exports, options, tls);
  const renewal = new TlsRenewal(server, options, terminal);
  const controlled = { server, disks: namedDisks(disks, exports), renewal };
  const { signals } = served;
  const { stop } = signals;
  signals.reload = () => renewal.request();
  signals.report = () => terminal.line(statsText(controlStats(controlled)).trimEnd());
  await using _control = await Control.open(options.control, controlled);
  await served.pidFile.write();
  signals.isStarting = false;
  const uris = server.uris.map((uri) => uriForClients(uri, options, tls));
  using _log = tell(disks, server, { ...served, uris });
  releaseCommand();
  const start = sampleOf(disks);
  const watching = controlled.disks.map((disk) => watchHealth(disk, terminal));
  const code =
    options.run === undefined
      ? await serveClients(disks, server, { stop, terminal, options })
      : await runCommand(options.run, {
          uris,
          stop,
          warn: (text) => terminal.warn(text),
          onStart: (kill) => void signals.lastActs.unshift(kill),
        });
  for (const timer of watching) clearInterval(timer);
  await server.close();
  return { code, summary: options.run === undefined ? summaryText(start, sampleOf(disks)) : '' };
}

/** Of several disks it is said which one is meant. */
function namedDisks(disks: readonly Disk[], exports: readonly ServedExport[]): Controlled['disks'] {
  return disks.map((disk, index) => {
    const image = disks.length > 1 ? exports[index]?.image : undefined;
    return { disk, name: image ?? 'the image' };
  });
}

function listenToSignals(options: ServeOptions, terminal: Terminal): Signals {
  const lastActs: (() => void)[] = [];
  // Whoever passes a socket has no terminal that could hang up.
  const isDaemon = isForked() || options.fd !== undefined;
  const lost = options.readOnly === true ? '' : ': the last flush was not finished';
  const act = (): void => {
    for (const lastAct of lastActs) lastAct();
  };
  const stop = stopRequested({
    isStarting: () => signals.isStarting,
    abandon: act,
    giveUp: () => {
      act();
      terminal.error(`gave up${lost}`);
    },
    ...(isDaemon ? { reload: () => signals.reload() } : {}),
  });
  const nothing = (): void => undefined;
  const signals: Signals = { stop, lastActs, isStarting: true, reload: nothing, report: nothing };
  process.on('SIGUSR2', () => signals.report());
  return signals;
}

/** Says that clients can connect, and from here on what else there is to say. */
function tell(
  disks: readonly Disk[],
  server: NbdServer,
  { options, terminal, notices, uris }: Served & { readonly uris: readonly string[] },
): Disposable | undefined {
  server.once('refused', (error) => terminal.warn(`a connection was refused: ${error.message}`));
  const told = options.run === undefined && options.fd === undefined;
  if (told) showHints(terminal, disks, { uris: server.uris, uri: uris[0] ?? '' }, options);
  const log = options.verbose === true ? ServerLog.of(server, terminal) : undefined;
  if (log === undefined) warnOfFaults(server, terminal);
  if (!told) for (const uri of server.uris) log?.line(`listening: ${uri}`);
  warnUnsafe(terminal, disks);
  for (const notice of notices) terminal.warn(notice);
  return log;
}

/** Until told to stop, or without -t until the last client has gone. */
async function serveClients(
  disks: readonly Disk[],
  server: NbdServer,
  until: {
    readonly stop: Promise<NodeJS.Signals>;
    readonly terminal: Terminal;
    readonly options: ServeOptions;
  },
): Promise<number> {
  const { stop, terminal, options } = until;
  const drawing = drawStatus(disks, () => server.clients, terminal);
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
