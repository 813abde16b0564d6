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
import { dirname } from 'node:path';

import {
  type Disk,
  FileTrace,
  type ImageFormat,
  type NamedFilePolicy,
  type NbdServer,
  openDisk,
} from '../node.ts';
import { type Sample, statusTexts, summaryText } from './activity.ts';
import { followCommand, releaseCommand } from './fork.ts';
import { showHints } from './hints.ts';
import { listen } from './listen.ts';
import { PidFile } from './pid-file.ts';
import { corruptionText } from '../corruption.ts';
import type { ServeOptions } from './serve-command.ts';
import { stopRequested } from './stop.ts';
import type { Terminal } from './terminal.ts';
import { readKey } from './verbs/key.ts';

const REDRAW_MS = 500;

/** Serves until told to stop; rejects when that cannot begin, or does not end well. */
export async function serve(
  image: string,
  options: ServeOptions,
  terminal: Terminal,
): Promise<void> {
  followCommand();
  let summary: string;
  try {
    summary = await serveImage(image, options, terminal);
  } finally {
    await terminal.clear();
  }
  if (terminal.interactive) terminal.line(summary);
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
  const drawing = drawStatus(disk, server, terminal);
  const watching = watchHealth(disk, terminal);
  await (options.persistent === true ? stop : Promise.race([stop, lastClientGone(server)]));
  clearInterval(drawing);
  clearInterval(watching);
  terminal.status(['Stopping: requests are finished, then flushed. Ctrl-C gives up.']);
  await server.close();
  return summaryText(start, sampleOf(disk));
}

async function openImage(
  image: string,
  options: ServeOptions,
  onNotice: (text: string) => void,
): Promise<Disk> {
  const tracer = options.trace === undefined ? undefined : new FileTrace(options.trace);
  try {
    return await openDisk(image, {
      // openDisk says which formats there are.
      format: options.format as ImageFormat | undefined,
      cache: options.cache,
      writable: options.readOnly !== true,
      lock: options.lock ? 'auto' : 'none',
      discard: options.discard,
      elevator: options.elevator,
      flushWaitMicros: options.flushWait,
      backing: policyOf(image, options),
      backingFormat: options.backingFormat,
      encryption: await readKey({ keyFile: options.keyFile }),
      metadataCacheBytes: options.metadataCache,
      flushIntervalMs: options.flushInterval,
      onNotice,
      tracer,
    });
  } catch (error) {
    await tracer?.close();
    throw error;
  }
}

/** Raw disks name no files: then it is said that --allow is not for them. */
function policyOf(image: string, { format, allow }: ServeOptions): NamedFilePolicy | undefined {
  if (format !== 'qcow2' && allow.length === 0) return undefined;
  return { folders: [dirname(image), ...allow] };
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

/** Redraws the status line twice a second; on a terminal only. */
function drawStatus(disk: Disk, server: NbdServer, terminal: Terminal): NodeJS.Timeout | undefined {
  if (!terminal.interactive) return undefined;
  let last = sampleOf(disk);
  return setInterval(() => {
    const now = sampleOf(disk);
    terminal.status(statusTexts(last, now, server.clients));
    last = now;
  }, REDRAW_MS);
}

/** Says once what no request succeeds for any more: clients may keep it to themselves. */
function watchHealth(disk: Disk, terminal: Terminal): NodeJS.Timeout {
  let latched = false;
  let corrupt = false;
  return setInterval(() => {
    const { corruption } = disk;
    if (disk.latched && !latched) {
      terminal.warn('a sync of the image failed: every flush fails until it is opened anew');
    }
    if (corruption !== undefined && !corrupt) terminal.warn(corruptionText(corruption));
    latched = disk.latched;
    corrupt = corruption !== undefined;
  }, REDRAW_MS);
}

function sampleOf(disk: Disk): Sample {
  return { atMs: performance.now(), stats: disk.stats() };
}
