/** Writes to a new file that are not waited for one by one. */
import type { FileHandle } from 'node:fs/promises';

import { SluiceError } from '../errors.ts';
import type { Output } from './output.ts';

const FULL: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** The kernel takes them one after the other, and whoever waits there keeps a processor busy. */
const WRITES_AT_ONCE = 2;

/** What is written: a NewFile. */
export interface WrittenFile {
  readonly handle: FileHandle;
  /** It keeps its size. */
  readonly isBlockDevice: boolean;
}

/** Collects writes; the first that fails is told by `settled`. */
export class FileWrites implements Output {
  readonly #file: WrittenFile;
  readonly #path: string;
  #pending: Promise<void>[] = [];
  readonly #lines: Promise<void>[] = [];
  #next = 0;

  constructor(file: WrittenFile, path: string) {
    this.#file = file;
    this.#path = path;
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    const line = this.#next++ % WRITES_AT_ONCE;
    const before = this.#lines[line] ?? Promise.resolve();
    const written = before.then(() => this.#write(offset, bytes));
    // Whoever wrote is told; the ones behind are written all the same.
    this.#lines[line] = written.catch(() => undefined);
    return written;
  }

  async #write(offset: number, bytes: Uint8Array): Promise<void> {
    const { handle } = this.#file;
    try {
      for (let done = 0; done < bytes.length;) {
        const rest = bytes.length - done;
        done += (await handle.write(bytes, done, rest, offset + done)).bytesWritten;
      }
    } catch (cause) {
      throw this.#failure(offset, bytes.length, cause);
    }
  }

  later(offset: number, bytes: Uint8Array): void {
    const written = this.write(offset, bytes);
    // Told by settled(), which may be called after it has failed.
    written.catch(() => undefined);
    this.#pending.push(written);
  }

  async settled(): Promise<void> {
    const pending = this.#pending;
    this.#pending = [];
    await Promise.all(pending);
  }

  async end(sizeBytes: number): Promise<void> {
    const { handle, isBlockDevice } = this.#file;
    if (isBlockDevice) return;
    await handle.truncate(sizeBytes).catch((cause: unknown) => {
      throw this.#failure(0, sizeBytes, cause);
    });
  }

  #failure(offset: number, length: number, cause: unknown): SluiceError {
    return notWritten(this.#path, offset, length, cause);
  }
}

/** The error for bytes that could not be written, or set aside. */
export function notWritten(
  path: string,
  offset: number,
  length: number,
  cause: unknown,
): SluiceError {
  const { code = 'unknown error' } = cause as NodeJS.ErrnoException;
  const isFull = FULL.has(code);
  const reason = isFull ? `no space is left (${code}); free some and try again` : code;
  const what = `write of ${length} bytes at offset ${offset} failed: ${reason}`;
  const place = { operation: 'write', path, offset, length, cause };
  const name = isFull ? 'ERR_SLUICE_NO_SPACE' : 'ERR_SLUICE_IO';
  return new SluiceError(name, `${JSON.stringify(path)}: ${what}`, place);
}
