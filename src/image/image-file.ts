/**
 * An image as bytes, for the work beside the hot path: opening, checking, repairing, creating.
 *
 * Ranges are checked against the file before memory is taken for them, so a number that was read
 * from an image never decides how much memory is used.
 */
import { ERRNO_EDQUOT, ERRNO_EFBIG, ERRNO_ENOSPC } from '../abi/command.ts';
import { STATUS_IO_ERROR, STATUS_NO_SPACE } from '../abi/request.ts';
import type { Backend } from '../backend/backend.ts';
import { extentsAt } from '../disk-extents.ts';
import type { DiskExtent } from '../disk-types.ts';
import { SluiceError } from '../errors.ts';
import { requestError } from '../request-error.ts';

/** Bytes of an image; one user at a time. */
export interface ImageFile {
  readonly sizeBytes: number;
  /** Exactly `length` bytes. Rejects with ERR_SLUICE_IMAGE when the range passes the end. */
  read(offset: number, length: number): Promise<Uint8Array>;
  /** Writes the bytes. May extend the file; what lies between reads as zeroes. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** Cuts or extends the file; what is new reads as zeroes. */
  truncate(sizeBytes: number): Promise<void>;
  /** What was written before is on stable storage afterwards. */
  sync(): Promise<void>;
}

const PAGE_BYTES = 65536;
const BUFFER_PAGES = 16;
const BUFFER_BYTES = BUFFER_PAGES * PAGE_BYTES;
const FULL: ReadonlySet<number> = new Set([ERRNO_ENOSPC, ERRNO_EDQUOT, ERRNO_EFBIG]);
/** The operation of a sync, in errors. */
const SYNC = 'flush';
/** One command is in flight at a time. */
const ID = 0;

/**
 * A backend as an ImageFile. It attaches a memory of its own, so the backend must not be attached
 * to anything that is in use; attach it elsewhere when this is done with. Rejects with
 * ERR_SLUICE_IO or ERR_SLUICE_NO_SPACE when the host fails.
 */
export class BackendFile implements ImageFile {
  readonly #backend: Backend;
  readonly #path: string;
  readonly #memory = new WebAssembly.Memory({ initial: BUFFER_PAGES, maximum: BUFFER_PAGES });
  readonly #buffer = new Uint8Array(this.#memory.buffer);
  #answer: (errno: number, value: number) => void = () => undefined;
  /** The end of the work that was asked for so far; never rejects. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(backend: Backend, path: string) {
    this.#backend = backend;
    this.#path = path;
    backend.attach(this.#memory, (_id, errno, value) => this.#answer(errno, value));
  }

  get sizeBytes(): number {
    return this.#backend.sizeBytes;
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return this.#queue(() => this.#read(offset, length));
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#queue(() => this.#write(offset, bytes));
  }

  truncate(sizeBytes: number): Promise<void> {
    return this.#queue(() => this.#resize(sizeBytes));
  }

  sync(): Promise<void> {
    const start = (): void => this.#backend.sync(ID);
    return this.#queue(async () => {
      await this.#run(SYNC, 0, 0, start);
    });
  }

  /** The host sets a range of the file aside, which reads as zeroes then; or zeroes are written. */
  allocate(offset: number, length: number): Promise<boolean> {
    const start = (): void => this.#backend.writeZeroes(ID, offset, length, false, false);
    return this.#queue(async () => {
      await this.#run('write zeroes', offset, length, start);
      return true;
    });
  }

  /** What of the range is data, and what is a hole: at least the first extent of it. */
  extents(offset: number, length: number): Promise<DiskExtent[]> {
    return this.#queue(async () => {
      const start = (): void => this.#backend.blockStatus(ID, offset, length, 0);
      const count = await this.#run('block status', offset, length, start);
      return extentsAt(this.#buffer, 0, count, offset);
    });
  }

  #queue<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => undefined);
    return result;
  }

  async #read(offset: number, length: number): Promise<Uint8Array> {
    refuseOutside(this, offset, length, this.#path);
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; done += BUFFER_BYTES) {
      const part = Math.min(BUFFER_BYTES, length - done);
      const at = offset + done;
      await this.#run('read', at, part, () => this.#backend.read(ID, at, part, 1, 0));
      bytes.set(this.#buffer.subarray(0, part), done);
    }
    return bytes;
  }

  async #write(offset: number, bytes: Uint8Array): Promise<void> {
    if (offset + bytes.length > this.sizeBytes) await this.#resize(offset + bytes.length);
    for (let done = 0; done < bytes.length; done += BUFFER_BYTES) {
      const part = bytes.subarray(done, done + BUFFER_BYTES);
      const at = offset + done;
      this.#buffer.set(part);
      const start = (): void => this.#backend.write(ID, at, part.length, 1, 0, false);
      await this.#run('write', at, part.length, start);
    }
  }

  /** With O_DIRECT a file has whole blocks. */
  async #resize(sizeBytes: number): Promise<void> {
    const granule = this.#backend.blockSizeBytes;
    if (this.#backend.resize === undefined) {
      const message = `cannot resize ${JSON.stringify(this.#path)}: its backend has a fixed size`;
      throw new SluiceError('ERR_SLUICE_UNSUPPORTED', message, { path: this.#path });
    }
    await this.#backend.resize(Math.ceil(sizeBytes / granule) * granule);
  }

  /** Answers with the value of the command. */
  async #run(
    operation: string,
    offset: number,
    length: number,
    start: () => void,
  ): Promise<number> {
    const { errno, value } = await new Promise<{ errno: number; value: number }>((resolve) => {
      this.#answer = (errno, value) => resolve({ errno, value });
      start();
    });
    if (errno === 0) return value;
    const status = FULL.has(errno) ? STATUS_NO_SPACE : STATUS_IO_ERROR;
    const asked = { operation, offset, length, sizeBytes: this.sizeBytes };
    const { code, message, cause } = requestError(status, errno, asked);
    const place = { operation, offset, length, path: this.#path, cause };
    throw new SluiceError(code, `${JSON.stringify(this.#path)}: ${message}`, place);
  }
}

/**
 * True when what a BackendFile rejected with is a failed sync: nothing since the last one is known
 * to be stable, whatever a later sync says.
 */
export function isFailedSync(error: unknown): boolean {
  return error instanceof SluiceError && error.operation === SYNC;
}

/** An image in memory. */
export class MemoryFile implements ImageFile {
  #bytes: Uint8Array;

  /** Takes the bytes over. */
  constructor(bytes: Uint8Array = new Uint8Array(0)) {
    this.#bytes = bytes;
  }

  /** The image as it is now; another array after it has grown or was cut. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  get sizeBytes(): number {
    return this.#bytes.length;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    refuseOutside(this, offset, length, 'the image in memory');
    return new Uint8Array(this.#bytes.subarray(offset, offset + length));
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    const endOffset = offset + bytes.length;
    if (endOffset > this.#bytes.length) this.#resize(endOffset);
    this.#bytes.set(bytes, offset);
    return Promise.resolve();
  }

  truncate(sizeBytes: number): Promise<void> {
    this.#resize(sizeBytes);
    return Promise.resolve();
  }

  sync(): Promise<void> {
    return Promise.resolve();
  }

  #resize(sizeBytes: number): void {
    const bytes = new Uint8Array(sizeBytes);
    bytes.set(this.#bytes.subarray(0, sizeBytes));
    this.#bytes = bytes;
  }
}

function refuseOutside(file: ImageFile, offset: number, length: number, path: string): void {
  const isRange = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  if (isRange && offset >= 0 && length >= 0 && offset + length <= file.sizeBytes) return;
  const range = `${length} bytes at offset ${offset}`;
  const message =
    `cannot read ${range} of ${JSON.stringify(path)}: the file has ${file.sizeBytes} bytes; ` +
    'it is cut off, or damaged where it says where this is';
  throw new SluiceError('ERR_SLUICE_IMAGE', message, { operation: 'read', offset, length, path });
}
