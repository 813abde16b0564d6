/** The disk behind a server of the command line: opening it, and watching it. */
import { dirname } from 'node:path';

import type { CacheModeName } from '../cache-mode.ts';
import { corruptionText } from '../corruption.ts';
import { type Disk, FileTrace, type ImageFormat, type NamedFilePolicy, openDisk } from '../node.ts';
import { type Sample, statusTexts } from './activity.ts';
import { followCommand } from './fork.ts';
import type { Terminal } from './terminal.ts';
import { readKey } from './verbs/key.ts';

/** What the command line says of it, parsed. */
export interface ServedImageOptions {
  readonly format?: string;
  readonly cache: CacheModeName;
  readonly discard: 'unmap' | 'ignore';
  readonly aio: 'auto' | 'threads';
  readonly elevator: 'none' | 'deadline';
  /** 0: off. */
  readonly flushWait: number;
  readonly readOnly?: true;
  readonly lock: boolean;
  readonly allow: readonly string[];
  readonly backingFormat?: 'raw' | 'qcow2';
  readonly keyFile?: string;
  readonly metadataCache?: number;
  readonly flushInterval?: number;
  readonly trace?: string;
}

const REDRAW_MS = 500;

/** Serves, and says on a terminal what was done. */
export async function toTheEnd(terminal: Terminal, serve: () => Promise<string>): Promise<void> {
  followCommand();
  let summary: string;
  try {
    summary = await serve();
  } finally {
    await terminal.clear();
  }
  if (terminal.interactive && summary !== '') terminal.line(summary);
}

/** Opens what is served. */
export async function openImage(
  image: string,
  options: ServedImageOptions,
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
      aio: options.aio,
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
function policyOf(
  image: string,
  { format, allow }: ServedImageOptions,
): NamedFilePolicy | undefined {
  if (format !== 'qcow2' && allow.length === 0) return undefined;
  return { folders: [dirname(image), ...allow] };
}

/** Redraws the status line twice a second; on a terminal only. */
export function drawStatus(
  disk: Disk,
  clients: () => number,
  terminal: Terminal,
): NodeJS.Timeout | undefined {
  if (!terminal.interactive) return undefined;
  let last = sampleOf(disk);
  return setInterval(() => {
    const now = sampleOf(disk);
    terminal.status(statusTexts(last, now, clients()));
    last = now;
  }, REDRAW_MS);
}

/** Says once what no request succeeds for any more: clients may keep it to themselves. */
export function watchHealth(disk: Disk, terminal: Terminal): NodeJS.Timeout {
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

/** What it has done so far. */
export function sampleOf(disk: Disk): Sample {
  return { atMs: performance.now(), stats: disk.stats() };
}
