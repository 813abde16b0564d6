/**
 * A file that takes its name when it is whole.
 *
 * N1 What has the name until then stays as it is, and so it does when the work fails or is ended.
 * N2 A block device has no other name: it is written where it is.
 * N3 An image that somebody has open is not replaced.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, realpath, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';

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
  #isDone = false;

  private constructor(
    handle: FileHandle,
    path: string,
    temporary: string | undefined,
    old: FileBackend | undefined,
  ) {
    this.handle = handle;
    this.isBlockDevice = temporary === undefined;
    this.#path = path;
    this.#temporary = temporary;
    this.#old = old;
  }

  /** Makes the file for a path. */
  static async create(name: string): Promise<NewFile> {
    if (name === '') throw invalid('the target has no name');
    refuseUri(name);
    const found = await stat(name).catch(() => undefined);
    const path = found === undefined ? name : await realNameOf(name);
    const old = found === undefined ? undefined : await lockOld(path);
    try {
      if (found?.isBlockDevice() === true)
        return new NewFile(await open(path, 'r+'), path, undefined, old);
      const temporary = join(dirname(path), `.sluice-${randomBytes(8).toString('hex')}`);
      const mode = (found?.mode ?? 0o666) & 0o7777;
      const handle = await open(temporary, 'wx+', mode);
      // Who may not give files away keeps it.
      if (found !== undefined) await handle.chown(found.uid, found.gid).catch(() => undefined);
      return new NewFile(handle, path, temporary, old);
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
        await rename(this.#temporary, path);
        if (isStable) await syncFolder(dirname(path));
      }
    } catch (cause) {
      const { syscall, code = 'unknown error' } = cause as NodeJS.ErrnoException;
      const found = `${syscall ?? 'the last step'} failed: the system reported ${code}`;
      const message = `cannot create ${JSON.stringify(path)}: ${found}`;
      throw new SluiceError('ERR_SLUICE_IO', message, { operation: 'create', path, cause });
    }
    this.#isDone = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handle.close();
    await this.#old?.close();
    if (this.#isDone || this.#temporary === undefined) return;
    await rm(this.#temporary, { force: true });
  }
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
