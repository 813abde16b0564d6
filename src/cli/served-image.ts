/** The disk behind a server of the command line: opening it, and watching it. */
import { dirname } from 'node:path';

import type { CacheModeName } from '../cache-mode.ts';
import { corruptionText } from '../corruption.ts';
import { type Disk, FileTrace, type ImageFormat, type NamedFilePolicy, openDisk } from '../node.ts';
import { type Sample, statusTexts, sumOf } from './activity.ts';
import { followCommand } from './fork.ts';
import type { ServedExport } from './served-exports.ts';
import type { Terminal } from './terminal.ts';
import { readKey } from './verbs/key.ts';

/** What the command line says of it, parsed. */
export interface ServedImageOptions {
  readonly format?: string | undefined;
  readonly cache: CacheModeName;
  readonly discard: 'unmap' | 'ignore';
  readonly aio: 'auto' | 'io_uring' | 'threads';
  readonly elevator: 'none' | 'deadline';
  /** 0: off. */
  readonly flushWait: number;
  readonly readOnly?: true;
  readonly lock: boolean;
  readonly allow: readonly string[];
  readonly backingFormat?: 'raw' | 'qcow2';
  readonly keyFile?: string | undefined;
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

/**
 * Opens images in turn, and closes them when `work` has ended, however it does.
 * @param opened those that are open already
 */
export async function withImages<Result>(
  exports: readonly ServedExport[],
  options: Omit<ServedImageOptions, 'format' | 'keyFile'>,
  onNotice: (text: string) => void,
  work: (disks: readonly Disk[]) => Promise<Result>,
  opened: readonly Disk[] = [],
): Promise<Result> {
  const next = exports[opened.length];
  if (next === undefined) return await work(opened);
  const { image, format, keyFile } = next;
  const prefix = exports.length > 1 ? `${image}: ` : '';
  await using disk = await openImage(image, { ...options, format, keyFile }, (text) =>
    onNotice(`${prefix}${text}`),
  );
  return await withImages(exports, options, onNotice, work, [...opened, disk]);
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
  disks: readonly Disk[],
  clients: () => number,
  terminal: Terminal,
): NodeJS.Timeout | undefined {
  if (!terminal.interactive) return undefined;
  let last = sampleOf(disks);
  return setInterval(() => {
    const now = sampleOf(disks);
    terminal.status(statusTexts(last, now, clients()));
    last = now;
  }, REDRAW_MS);
}

/** A disk, and what it is called. */
export interface NamedDisk {
  readonly disk: Disk;
  readonly name: string;
}

/** Why flushes or writes do not succeed any more: nothing, or up to two sentences. */
export function ailments({ disk, name }: NamedDisk): string[] {
  const { latched, corruption } = disk;
  return [
    latched ? `a sync of ${name} failed: every flush fails until it is opened anew` : [],
    corruption === undefined ? [] : corruptionText(corruption, name),
  ].flat();
}

/** Says each ailment once: clients may keep it to themselves. */
export function watchHealth(disk: NamedDisk, terminal: Terminal): NodeJS.Timeout {
  let known: readonly string[] = [];
  return setInterval(() => {
    const found = ailments(disk);
    for (const ailment of found) if (!known.includes(ailment)) terminal.warn(ailment);
    known = found;
  }, REDRAW_MS);
}

/** What disks have done so far, together. */
export function sampleOf(disks: readonly Disk[]): Sample {
  return { atMs: performance.now(), counts: sumOf(disks.map((disk) => disk.stats())) };
}
