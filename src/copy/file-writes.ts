/** Writes to a new file that are not waited for one by one. */
import type { FileHandle } from 'node:fs/promises';

import { SluiceError } from '../errors.ts';

const FULL: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** Collects writes; the first that fails is told by `settled`. */
export class FileWrites {
  readonly #handle: FileHandle;
  readonly #path: string;
  #pending: Promise<void>[] = [];

  constructor(handle: FileHandle, path: string) {
    this.#handle = handle;
    this.#path = path;
  }

  /** Writes the bytes; they must stay as they are until it resolves. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    try {
      for (let done = 0; done < bytes.length;) {
        const rest = bytes.length - done;
        done += (await this.#handle.write(bytes, done, rest, offset + done)).bytesWritten;
      }
    } catch (cause) {
      throw this.#failure(offset, bytes.length, cause);
    }
  }

  /** Writes bytes that nobody changes any more. */
  later(offset: number, bytes: Uint8Array): void {
    const written = this.write(offset, bytes);
    // Told by settled(), which may be called after it has failed.
    written.catch(() => undefined);
    this.#pending.push(written);
  }

  /** All of them are there. Rejects with the first failure. */
  async settled(): Promise<void> {
    const pending = this.#pending;
    this.#pending = [];
    await Promise.all(pending);
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
