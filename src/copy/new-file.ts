/**
 * A file that takes its name when it is whole.
 *
 * N1 What has the name until then stays as it is, and so it does when the work fails or is ended.
 * N2 A block device has no other name: it is written where it is.
 * N3 An image that somebody has open is not replaced; nor is what has got the name meanwhile.
 */
import { randomBytes } from 'node:crypto';
import {
  type FileHandle,
  link,
  open,
  readlink,
  realpath,
  rename,
  rm,
  stat,
} from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';

import { type FileBackend, openFileBackend } from '../backend/file.ts';
import { invalid } from '../arguments.ts';
import { SluiceError } from '../errors.ts';
import { refuseUri } from '../image/image-at.ts';

/** Open for writing, under a name of its own. */
export class NewFile implements AsyncDisposable {
  readonly handle: FileHandle;
  readonly isBlockDevice: boolean;
  readonly #path: string;
  readonly #temporary: string | undefined;
  /** What it takes the place of, locked. */
  readonly #old: FileBackend | undefined;
  readonly #oldIdentity: string | undefined;
  #isDone = false;

  private constructor(
    handle: FileHandle,
    path: string,
    temporary: string | undefined,
    old: FileBackend | undefined,
    oldIdentity: string | undefined,
  ) {
    this.handle = handle;
    this.isBlockDevice = temporary === undefined;
    this.#path = path;
    this.#temporary = temporary;
    this.#old = old;
    this.#oldIdentity = oldIdentity;
  }

  /** Makes the file for a path. */
  static async create(name: string): Promise<NewFile> {
    if (name === '') throw invalid('the target has no name');
    refuseUri(name);
    const found = await stat(name).catch(() => undefined);
    const path = found === undefined ? await linkEndOf(name) : await realNameOf(name);
    const old = found === undefined ? undefined : await lockOld(path);
    // Of what is locked alone: what has got the name since is somebody else's.
    const identity = old === undefined ? undefined : await identityOf(path);
    try {
      if (found?.isBlockDevice() === true)
        return new NewFile(await open(path, 'r+'), path, undefined, old, identity);
      const temporary = join(dirname(path), `.sluice-${randomBytes(8).toString('hex')}`);
      const mode = (found?.mode ?? 0o666) & 0o7777;
      const handle = await open(temporary, 'wx+', mode);
      // Who may not give files away keeps it.
      if (found !== undefined) await handle.chown(found.uid, found.gid).catch(() => undefined);
      return new NewFile(handle, path, temporary, old, identity);
    } catch (cause) {
      await old?.close();
      throw notCreated(name, cause);
    }
  }

  /** Where it is until then. */
  get workPath(): string {
    return this.#temporary ?? this.#path;
  }

  /** Of a block device. */
  get deviceBytes(): number | undefined {
    return this.isBlockDevice ? this.#old?.sizeBytes : undefined;
  }

  /** All of it is there: it is stable, and has its name. */
  async finish(isStable: boolean): Promise<void> {
    const path = this.#path;
    try {
      if (isStable) await this.handle.sync();
      if (this.#temporary !== undefined) {
        await this.#takeName(this.#temporary);
        if (isStable) await syncFolder(dirname(path));
      }
    } catch (cause) {
      if (cause instanceof SluiceError) throw cause;
      const { syscall, code = 'unknown error' } = cause as NodeJS.ErrnoException;
      const found = `${syscall ?? 'the last step'} failed: the system reported ${code}`;
      const message = `cannot create ${JSON.stringify(path)}: ${found}`;
      throw new SluiceError('ERR_SLUICE_IO', message, { operation: 'create', path, cause });
    }
    this.#isDone = true;
  }

  /** N3. */
  async #takeName(temporary: string): Promise<void> {
    const path = this.#path;
    const now = await identityOf(path);
    if (now !== undefined) {
      if (now !== this.#oldIdentity) throw taken(path);
      return rename(temporary, path);
    }
    try {
      await link(temporary, path);
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException;
      if (code === 'EEXIST') throw taken(path);
      if (!NO_LINKS.has(code)) throw error;
      return rename(temporary, path);
    }
    await rm(temporary);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handle.close();
    await this.#old?.close();
    if (this.#isDone || this.#temporary === undefined) return;
    await rm(this.#temporary, { force: true });
  }
}

/** Of file systems that have no hard links. */
const NO_LINKS: ReadonlySet<string> = new Set(['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS']);

/** Which file has a name now. */
async function identityOf(path: string): Promise<string | undefined> {
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  return found && `${found.dev}:${found.ino}`;
}

/** What a link to nothing names; QEMU makes that, too. A name that is no link is itself. */
async function linkEndOf(name: string): Promise<string> {
  const end = await readlink(name).catch(() => undefined);
  return end === undefined ? name : resolve(dirname(name), end);
}

function taken(path: string): SluiceError {
  const found = 'another file has got that name meanwhile, and is not replaced';
  const message = `cannot create ${JSON.stringify(path)}: ${found}; move it away and try again`;
  return new SluiceError('ERR_SLUICE_OPEN', message, { operation: 'create', path });
}

/** A device, or a link to one. */
export async function isBlockDevice(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found?.isBlockDevice() === true;
}

function realNameOf(name: string): Promise<string> {
  return realpath(name).catch((cause: unknown) => {
    throw notCreated(name, cause);
  });
}

/** N3: opening it for writing takes the locks of a writer. */
function lockOld(path: string): Promise<FileBackend> {
  return openFileBackend(path, { writable: true, anySize: true });
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function notCreated(path: string, cause: unknown): SluiceError {
  const { code = 'unknown error' } = cause as NodeJS.ErrnoException;
  const message = `cannot create ${JSON.stringify(path)}: the system reported ${code}`;
  return new SluiceError('ERR_SLUICE_OPEN', message, { operation: 'create', path, cause });
}
