/** The disk behind a server of the command line: opening it, and watching it. */
import { dirname } from 'node:path';

import type { CacheModeName } from '../cache-mode.ts';
import { corruptionText } from '../corruption.ts';
import { SluiceError } from '../errors.ts';
import { UnusedKey } from '../image/qcow2/encryption.ts';
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

/** The options of a command line for its images. */
type SharedOptions = Omit<ServedImageOptions, 'format' | 'keyFile'>;

/**
 * Opens images in turn, and closes them when `work` has ended, however it does. What is said once
 * for several images is for those that it fits: options of qcow2 for qcow2 images, a key for those
 * that are encrypted. Rejects where it fits none.
 */
export async function withImages<Result>(
  exports: readonly ServedExport[],
  options: SharedOptions,
  onNotice: (text: string) => void,
  work: (disks: readonly Disk[]) => Promise<Result>,
): Promise<Result> {
  let isKeyUsed = false;
  const openOne = async (served: ServedExport): Promise<Disk> => {
    const { image, keyFile } = served;
    const prefix = exports.length > 1 ? `${image}: ` : '';
    const notice = (text: string): void => onNotice(`${prefix}${text}`);
    const fitting = fittingOptions(served, options, exports);
    try {
      const disk = await openImage(image, fitting, notice);
      isKeyUsed ||= fitting.keyFile !== undefined;
      return disk;
    } catch (error) {
      if (!(error instanceof SluiceError)) throw error;
      if (!served.isKeyShared || !(error instanceof UnusedKey)) throw named(image, error);
      notice(`it is not encrypted: the key of ${JSON.stringify(keyFile)} is not for it`);
    }
    return await openImage(image, { ...fitting, keyFile: undefined }, notice);
  };
  const openNext = async (opened: readonly Disk[]): Promise<Result> => {
    const next = exports[opened.length];
    if (next !== undefined) {
      await using disk = await openOne(next);
      return await openNext([...opened, disk]);
    }
    if (exports[0]?.isKeyShared === true && !isKeyUsed) throw keyForNone(exports);
    return await work(opened);
  };
  return await openNext([]);
}

/** What of the options is for an image: among several, those of qcow2 are for qcow2 images. */
function fittingOptions(
  { format, keyFile, isKeyShared }: ServedExport,
  options: SharedOptions,
  exports: readonly ServedExport[],
): ServedImageOptions {
  const isMixed = exports.some(({ format }) => format === 'qcow2');
  if (format === 'qcow2' || !isMixed) return { ...options, format, keyFile };
  const { backingFormat: _backing, metadataCache: _cache, flushInterval: _flush, ...any } = options;
  return { ...any, allow: [], format, keyFile: isKeyShared ? undefined : keyFile };
}

function keyForNone(exports: readonly ServedExport[]): SluiceError {
  const [first] = exports;
  const images = exports.map(({ image }) => JSON.stringify(image)).join(', ');
  const found = `--key-file ${JSON.stringify(first?.keyFile)} is for encrypted images`;
  const message = `${found}, and none of ${images} is encrypted; leave it out if that is right`;
  return new SluiceError('ERR_SLUICE_INVALID_ARGUMENT', message);
}

/** The error of an image, which says which one it is. */
export function named(image: string, error: SluiceError): SluiceError {
  if (error.message.includes(image)) return error;
  const { code, message, operation, cause = error } = error;
  const place = { path: image, cause, ...(operation === undefined ? {} : { operation }) };
  return new SluiceError(code, `${JSON.stringify(image)}: ${message}`, place);
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
