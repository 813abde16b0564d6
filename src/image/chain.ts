/**
 * The other files of an image: which of the names that it holds are followed.
 *
 * A name in an image was written by somebody else, perhaps to read a file of the host's.
 *
 * C1 A name is a path and nothing else: what begins with a protocol is refused, never parsed.
 * C2 A file is opened by its real path, which lies in one of the folders that the caller allowed.
 * C3 No file is in a chain twice, whatever its names are; a chain has at most 64 files.
 * C4 A format is said, by the image or by the caller; nobody looks at the contents for it, since a
 *    guest can write any header into a raw disk.
 */
import type { BigIntStats } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import { dirname, isAbsolute, relative, resolve, sep } from 'node:path';

import { invalid } from '../arguments.ts';
import { SluiceError } from '../errors.ts';
import type { Check } from '../options.ts';

/** Which files the names in images may stand for; `deny`: none. */
export type NamedFilePolicy = 'deny' | { readonly folders: readonly string[] };

/** A NamedFilePolicy. */
export const isPolicy: Check = (value, name) => {
  if (value === 'deny') return;
  const { folders, ...others } = Object(value) as { readonly folders?: unknown };
  const isList = Array.isArray(folders) && folders.every((folder) => typeof folder === 'string');
  if (isList && Object.keys(others).length === 0) return;
  throw invalid(`${name} is 'deny' or { folders: [...] } with the paths of folders`);
};

/** What an image names another file for. */
export type NamedKind = 'backing' | 'data';

/** Formats that a backing file can have. */
export type BackingFormat = 'raw' | 'qcow2';

/** Ours: deeper chains are slower than they are useful. */
const CHAIN_FILES_MAX = 64;

/**
 * The real path of the file that an image names; a relative name begins in the image's folder.
 * Open the path that is returned, not the name.
 * @throws SluiceError ERR_SLUICE_FILE_REFUSED
 */
export async function resolveNamed(
  kind: NamedKind,
  name: string,
  imagePath: string,
  policy: NamedFilePolicy,
): Promise<string> {
  const refuse = refusalOf(kind, name, imagePath);
  if (hasProtocol(name)) {
    throw refuse('it begins with a protocol, and names in images are paths only; pass it yourself');
  }
  if (policy === 'deny') {
    throw refuse('files that images name are not opened unless their folder is allowed');
  }
  const sought = resolve(dirname(imagePath), name);
  const path = await realpath(sought).catch((cause: unknown) => {
    const reason = `the file cannot be found at ${JSON.stringify(sought)} (${codeOf(cause)})`;
    throw refuse(reason, cause);
  });
  const folders = await Promise.all(policy.folders.map((folder) => realFolder(folder)));
  if (!folders.some((folder) => isInside(folder, path))) {
    throw refuse(`it is ${JSON.stringify(path)}, in none of the folders that are allowed`);
  }
  return path;
}

/**
 * The format of a backing file: what the caller says, or else what the image says.
 * @throws SluiceError ERR_SLUICE_FILE_REFUSED
 */
export function backingFormatOf(
  backing: { readonly name: string; readonly format?: string },
  imagePath: string,
  given?: BackingFormat,
): BackingFormat {
  const format = given ?? backing.format;
  if (format === 'raw' || format === 'qcow2') return format;
  const found =
    format === undefined
      ? 'the image does not say its format, and formats are never guessed'
      : `its format is ${JSON.stringify(format)}`;
  const refuse = refusalOf('backing', backing.name, imagePath);
  throw refuse(`${found}; pass backingFormat: 'raw' or 'qcow2'`);
}

/** The files of a disk: an image, its backing files and its data file. */
export class Chain {
  readonly #members = new Map<string, string>();

  get isEmpty(): boolean {
    return this.#members.size === 0;
  }

  /**
   * Adds a file that is about to be opened.
   * @throws SluiceError ERR_SLUICE_FILE_REFUSED when it is in the chain already, under any name,
   *   when the chain is too long, or when it is neither a regular file nor a block device
   */
  async add(path: string): Promise<void> {
    const stats = await stat(path, { bigint: true }).catch((cause: unknown) => {
      throw refuseFile(path, `the file cannot be found (${codeOf(cause)})`, cause);
    });
    if (!stats.isFile() && !stats.isBlockDevice()) {
      throw refuseFile(path, 'it is neither a regular file nor a block device');
    }
    const identity = identityOf(stats);
    const earlier = this.#members.get(identity);
    if (earlier !== undefined) {
      throw refuseFile(path, `it is in the chain already, as ${JSON.stringify(earlier)}: a loop`);
    }
    if (this.#members.size === CHAIN_FILES_MAX) {
      throw refuseFile(path, `the chain has ${CHAIN_FILES_MAX} files already; commit some of them`);
    }
    this.#members.set(identity, path);
  }
}

/** A block device is the same one through all of its nodes. */
function identityOf(stats: BigIntStats): string {
  return stats.isBlockDevice() ? `device ${stats.rdev}` : `${stats.dev}:${stats.ino}`;
}

/** As QEMU sees it: a colon before the first slash. `./a:b` is a path. */
export function hasProtocol(name: string): boolean {
  return /^[^/]*:/.test(name);
}

/** What the file is called that an image names: as qemu-img says it, and not to be opened. */
export function nameBeside(imageName: string, name: string): string {
  const folder = dirname(imageName);
  const isWhole = isAbsolute(name) || hasProtocol(name) || !imageName.includes('/');
  return isWhole ? name : `${folder === '/' ? '' : folder}/${name}`;
}

async function realFolder(folder: string): Promise<string> {
  return realpath(folder).catch((cause: unknown) => {
    throw refuseFile(folder, `the allowed folder cannot be found (${codeOf(cause)})`, cause);
  });
}

/** Both are real paths. */
function isInside(folder: string, path: string): boolean {
  const way = relative(folder, path);
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

function codeOf(cause: unknown): string {
  return (cause as NodeJS.ErrnoException).code ?? 'unknown error';
}

function refusalOf(kind: NamedKind, name: string, imagePath: string) {
  const title = `the ${kind} file ${JSON.stringify(name)} of ${JSON.stringify(imagePath)}`;
  return (reason: string, cause?: unknown): SluiceError => {
    const message = `cannot open ${title}: ${reason}`;
    const place = { operation: 'open', path: imagePath, cause };
    return new SluiceError('ERR_SLUICE_FILE_REFUSED', message, place);
  };
}

function refuseFile(path: string, reason: string, cause?: unknown): SluiceError {
  const message = `cannot open ${JSON.stringify(path)}: ${reason}`;
  return new SluiceError('ERR_SLUICE_FILE_REFUSED', message, { operation: 'open', path, cause });
}
