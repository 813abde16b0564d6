/** Writes to a new file that are not waited for one by one. */
import { writevSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';

import { Patience } from '../backend/patience.ts';
import { SluiceError } from '../errors.ts';
import type { Output } from './output.ts';
import { awaitTurn } from './turns.ts';

const FULL: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** What is written: a NewFile. */
export interface WrittenFile {
  readonly handle: FileHandle;
  /** It keeps its size. */
  readonly isBlockDevice: boolean;
}

/** Bytes that wait to be written. */
interface Waiting {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Of one call. */
const CALL_BYTES_MAX = 8 * 1024 * 1024;
const CALL_PARTS_MAX = 64;
/** A call that takes longer waits for a disk, not for the page cache. */
const PATIENCE = { slowMs: 20, firstRest: 16, longestRest: 1024 };

/**
 * Collects writes; the first that fails is told by `settled`. One call is under way at a time: the
 * kernel takes one at a time into a file, and whoever waits there keeps a processor busy. Meanwhile
 * others come together, and those that follow each other in the file are one call.
 */
export class FileWrites implements Output {
  readonly #file: WrittenFile;
  readonly #path: string;
  readonly #waiting: Waiting[] = [];
  #pending: Promise<void>[] = [];
  #isWriting = false;
  readonly #patience = new Patience(PATIENCE);

  constructor(file: WrittenFile, path: string) {
    this.#file = file;
    this.#path = path;
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ offset, bytes, resolve, reject });
      if (!this.#isWriting) void this.#writeAll();
    });
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

  /** Those that have failed are told; the ones behind are written all the same. */
  async #writeAll(): Promise<void> {
    this.#isWriting = true;
    for (let run = this.#takeRun(); run.length > 0; run = this.#takeRun()) {
      try {
        await this.#writeRun(run);
        for (const { resolve } of run) resolve();
      } catch (error) {
        for (const { reject } of run) reject(error);
      }
    }
    this.#isWriting = false;
  }

  /** The first ones that wait, as far as each begins where the one before it ends. */
  #takeRun(): Waiting[] {
    let count = 0;
    let end = this.#waiting[0]?.offset ?? 0;
    let length = 0;
    for (const { offset, bytes } of this.#waiting) {
      const isNext = offset === end && length + bytes.length <= CALL_BYTES_MAX;
      if (count > 0 && (!isNext || count === CALL_PARTS_MAX)) break;
      count += 1;
      end += bytes.length;
      length += bytes.length;
    }
    return this.#waiting.splice(0, count);
  }

  async #writeRun(run: readonly Waiting[]): Promise<void> {
    const [{ offset } = { offset: 0 }] = run;
    let parts = run.map(({ bytes }) => bytes);
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    try {
      for (let done = 0; done < length;) {
        const written = await this.#writeSome(parts, offset + done);
        if (written === 0) throw Object.assign(new Error('nothing was written'), { code: 'EIO' });
        done += written;
        parts = behind(parts, written);
      }
    } catch (cause) {
      throw this.#failure(offset, length, cause);
    }
  }

  /**
   * A write to the page cache is a copy, and made here: to hand it to a thread and back takes as
   * long. Where one had to wait the next ones do so elsewhere.
   */
  async #writeSome(parts: readonly Uint8Array[], offset: number): Promise<number> {
    const { handle } = this.#file;
    if (!this.#patience.ask()) return (await handle.writev(parts, offset)).bytesWritten;
    await awaitTurn();
    const start = performance.now();
    const written = writevSync(handle.fd, parts, offset);
    this.#patience.took(performance.now() - start);
    return written;
  }

  #failure(offset: number, length: number, cause: unknown): SluiceError {
    const advice = this.#file.isBlockDevice ? 'use a larger device' : undefined;
    return notWritten(this.#path, offset, length, cause, advice);
  }
}

/** What is left of parts of which so many bytes are done. */
function behind(parts: readonly Uint8Array[], done: number): Uint8Array[] {
  let skipped = done;
  return parts.flatMap((part) => {
    const from = Math.min(skipped, part.length);
    skipped -= from;
    return from === part.length ? [] : [part.subarray(from)];
  });
}

/** The error for bytes that could not be written, or set aside. */
export function notWritten(
  path: string,
  offset: number,
  length: number,
  cause: unknown,
  advice = 'free some and try again',
): SluiceError {
  const { code = 'unknown error' } = cause as NodeJS.ErrnoException;
  const isFull = FULL.has(code);
  const reason = isFull ? `no space is left (${code}); ${advice}` : code;
  const what = `write of ${length} bytes at offset ${offset} failed: ${reason}`;
  const place = { operation: 'write', path, offset, length, cause };
  const name = isFull ? 'ERR_SLUICE_NO_SPACE' : 'ERR_SLUICE_IO';
  return new SluiceError(name, `${JSON.stringify(path)}: ${what}`, place);
}
