/**
 * Another backing file for an image.
 *
 *     both chains opened ─▶ what would differ is copied ─▶ stable ─▶ HEADER
 *
 * The disk reads the same at every moment: over the old backing file until one sector of the header
 * is written, over the new one after it.
 */
import { dirname, resolve } from 'node:path';

import { invalid } from '../arguments.ts';
import { type CacheModeName, isCacheMode } from '../cache-mode.ts';
import { SluiceError } from '../errors.ts';
import {
  backingFormatOf,
  type BackingFormat,
  isPolicy,
  type NamedFilePolicy,
  resolveNamed,
} from '../image/chain.ts';
import { IMAGE_OPTIONS, type ImageOptions, openImageAt, qcow2HeaderOf } from '../image/image-at.ts';
import { Layers } from '../image/layers.ts';
import { isBackingChoice } from '../image/qcow2/create-options.ts';
import { type EncryptionOptions, isEncryption } from '../image/qcow2/encryption.ts';
import type { Qcow2Header } from '../image/qcow2/header.ts';
import { checkBacking, setBacking } from '../image/qcow2/set-backing.ts';
import { openDisk } from '../open-disk.ts';
import { checkOptions, type Checks, isCallback, isSwitch, isText } from '../options.ts';
import { copyDifferences, type RebaseProgress } from './rebase-copy.ts';
import { fileAt, sideOf } from './rebase-runs.ts';

/** The backing file that an image is to have; a relative name begins in the image's folder. */
export interface NewBackingFile {
  readonly name: string;
  readonly format: BackingFormat;
}

/** Options of `rebase`. */
export interface RebaseOptions extends ImageOptions {
  /** `none`: the image will have no backing file. */
  readonly backing?: NewBackingFile | 'none' | undefined;
  /**
   * Only the name is changed, and no other file is looked at: for a backing file that was moved,
   * or is known to have the same contents. Default false.
   */
  readonly unsafe?: boolean | undefined;
  /** Which files the image and the new backing file may name; default none. */
  readonly allow?: NamedFilePolicy | undefined;
  /** The key of encrypted images. */
  readonly encryption?: EncryptionOptions | undefined;
  /** Cache mode of the backing files; default writeback. */
  readonly sourceCache?: CacheModeName | undefined;
  /** Told, in a line each, what was found and mended before. */
  readonly onNotice?: ((text: string) => unknown) | undefined;
  readonly onProgress?: ((progress: RebaseProgress) => unknown) | undefined;
}

const REBASE_OPTIONS: Checks<RebaseOptions> = {
  ...IMAGE_OPTIONS,
  backing: isBackingChoice,
  unsafe: isSwitch,
  allow: isPolicy,
  encryption: isEncryption,
  sourceCache: isCacheMode,
  onNotice: isCallback,
  onProgress: isCallback,
};

/**
 * Lets a qcow2 image have another backing file. What the disk reads as stays, unless `unsafe`: what
 * the new backing file has otherwise is copied into the image first. Stopped before its end, it has
 * copied some of that, and the backing file is the old one.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED for an image with snapshots, which would change;
 *   ERR_SLUICE_FILE_REFUSED, ERR_SLUICE_LOCKED, ERR_SLUICE_NO_SPACE ...
 */
export async function rebase(path: string, options: RebaseOptions = {}): Promise<void> {
  isText(path, 'path');
  checkOptions(options, REBASE_OPTIONS, 'rebase');
  const { backing, unsafe = false, signal } = options;
  if (backing === undefined) {
    throw invalid("backing is missing: pass { name, format }, or 'none' for no backing file");
  }
  const named = backing === 'none' ? undefined : backing;
  if (!unsafe) await makeIndependent(path, named, options);
  signal?.throwIfAborted();
  await using image = await openImageAt(path, options, true);
  const header = qcow2HeaderOf(image, 'backing file');
  await setBacking(image.file, header, path, named);
}

/** Afterwards the disk reads the same over both backing files, and that is stable. */
async function makeIndependent(
  path: string,
  named: NewBackingFile | undefined,
  options: RebaseOptions,
): Promise<void> {
  const { lock, cache, signal, allow = 'deny', encryption, onNotice, onProgress } = options;
  const header = await headerOf(path, named, options);
  const next = named === undefined ? undefined : await newBackingAt(path, named, allow);
  const layered = { lock: 'none', cache: options.sourceCache, signal } as const;
  await using above = await openNewLayers(next, layered);
  const target = above && (await sideOf(above, 0));
  if (target?.files.includes(await fileAt(path))) throw loop(path);
  const shared = { lock, signal, encryption };
  const writing = { format: 'qcow2', writable: true, cache, onNotice } as const;
  await using disk = await openDisk(path, { ...shared, ...writing, backing: allow });
  const { encryption: _, ...rawShared } = shared;
  const how = { cache: options.sourceCache };
  const opened =
    next?.format === 'qcow2'
      ? await openDisk(next.path, { ...shared, ...how, format: 'qcow2', backing: next.policy })
      : next && (await openDisk(next.path, { ...rawShared, ...how, format: 'raw' }));
  await using _newDisk = opened;
  await using old = await Layers.open(path, { ...layered, format: 'qcow2', backing: allow });
  const was = await sideOf(old, 1);
  const is = target ?? (await sideOf(old, old.images.length));
  await copyDifferences({ disk, header, next: opened, was, is, signal, onProgress });
  await onProgress?.({ doneBytes: disk.size, totalBytes: disk.size });
  await disk.flush();
}

/** What is refused is refused before anything is opened for writing. */
async function headerOf(
  path: string,
  named: NewBackingFile | undefined,
  options: RebaseOptions,
): Promise<Qcow2Header> {
  await using image = await openImageAt(path, options, false);
  const header = qcow2HeaderOf(image, 'backing file');
  checkBacking(header, path, named);
  if (header.snapshots === 0) return header;
  const what = `cannot rebase ${JSON.stringify(path)}`;
  const found = `its snapshots (${header.snapshots}) read its backing file too, and would change`;
  const advice = 'delete them, or change the name alone with unsafe: true';
  const place = { operation: 'rebase', path };
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `${what}: ${found}; ${advice}`, place);
}

/** Where the new backing file is; the files beside it are those that it may name. */
async function newBackingAt(path: string, named: NewBackingFile, allow: NamedFilePolicy) {
  const folder = dirname(resolve(dirname(path), named.name));
  const format = backingFormatOf(named, path);
  const real = await resolveNamed('backing', named.name, path, { folders: [folder] });
  const folders = allow === 'deny' ? [] : allow.folders;
  return { path: real, format, policy: { folders: [folder, ...folders] } };
}

type Next = Awaited<ReturnType<typeof newBackingAt>>;

async function openNewLayers(
  next: Next | undefined,
  options: ImageOptions,
): Promise<Layers | undefined> {
  if (next === undefined) return undefined;
  const { path, format, policy: backing } = next;
  return Layers.open(path, { ...options, format, backing });
}

function loop(path: string): SluiceError {
  const found = `${JSON.stringify(path)} is among the files of the new backing file`;
  return invalid(`${found}: an image cannot be below itself`);
}
