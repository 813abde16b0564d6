/**
 * A trace in a file, one JSON object a line: the disk, then requests as they are submitted and
 * completions as they are delivered, in that order.
 *
 *   {"trace":1,"size":1073741824,"blockSize":512,"readOnly":false}
 *   {"us":1042,"id":1,"op":"write","offset":0,"length":4096,"fua":true}
 *   {"us":1163,"id":1,"status":"ok"}
 *
 * us: microseconds since the disk was opened. id: counts requests. fua, mayUnmap, fast: only when
 * true. on: of setWce, instead of offset and length. errno: only when the host reported one.
 *
 * Lines are collected and written together; what a killed process had not written is lost. A trace
 * that cannot be written ends there, and `close` says so; the disk goes on.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import {
  OP_BLOCK_STATUS,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_SET_WCE,
  OP_WRITE,
  OP_WRITE_ZEROES,
  REQUEST_FAST_ZERO,
  REQUEST_FUA,
  REQUEST_MAY_UNMAP,
} from '../abi/request.ts';
import { SluiceError } from '../errors.ts';
import type { Tracer } from './tracer.ts';

const OPERATIONS: Readonly<Record<number, string>> = {
  [OP_READ]: 'read',
  [OP_WRITE]: 'write',
  [OP_WRITE_ZEROES]: 'writeZeroes',
  [OP_DISCARD]: 'discard',
  [OP_BLOCK_STATUS]: 'blockStatus',
  [OP_FLUSH]: 'flush',
  [OP_SET_WCE]: 'setWce',
};

/** By STATUS_* number. */
const STATUSES = [
  'ok',
  'io-error',
  'no-space',
  'read-only',
  'out-of-range',
  'invalid',
  'unsupported',
  'flush-latched',
] as const;

/** Characters collected before they are written. */
const CHUNK_LENGTH = 65_536;
/** Lines do not stay in memory for longer than this. */
const WRITE_EVERY_MS = 1000;

/** Writes what a device is asked and what it answers to a file. */
export class FileTrace implements Tracer {
  readonly #path: string;
  readonly #fd: number;
  readonly #timer: NodeJS.Timeout;
  readonly #startMs = performance.now();
  /** The number of the request that has a tag now. */
  readonly #ids: number[] = [];
  #lastId = 0;
  #lines = '';
  #failure: unknown;

  /**
   * Creates the file. What exists is never overwritten: it may be the image; nor is a pipe opened,
   * whose reader could stop the disk.
   * @throws SluiceError ERR_SLUICE_OPEN
   */
  constructor(path: string) {
    this.#path = path;
    this.#fd = create(path);
    this.#timer = setInterval(() => this.#write(), WRITE_EVERY_MS).unref();
  }

  opened(sizeBytes: number, blockSizeBytes: number, readOnly: boolean): void {
    this.#add({ trace: 1, size: sizeBytes, blockSize: blockSizeBytes, readOnly });
  }

  submitted(tag: number, op: number, flags: number, offset: number, length: number): void {
    const id = ++this.#lastId;
    this.#ids[tag] = id;
    const place = op === OP_FLUSH ? {} : { offset, length };
    this.#add({
      us: this.#elapsedMicros(),
      id,
      op: OPERATIONS[op] ?? op,
      ...(op === OP_SET_WCE ? { on: length === 1 } : place),
      ...((flags & REQUEST_FUA) === 0 ? {} : { fua: true }),
      ...((flags & REQUEST_MAY_UNMAP) === 0 ? {} : { mayUnmap: true }),
      ...((flags & REQUEST_FAST_ZERO) === 0 ? {} : { fast: true }),
    });
  }

  completed(tag: number, status: number, errno: number): void {
    const us = this.#elapsedMicros();
    const failed = errno === 0 ? {} : { errno };
    this.#add({ us, id: this.#ids[tag] ?? 0, status: STATUSES[status] ?? status, ...failed });
  }

  close(): Promise<void> {
    clearInterval(this.#timer);
    this.#write();
    closeSync(this.#fd);
    if (this.#failure === undefined) return Promise.resolve();
    return Promise.reject(
      new SluiceError('ERR_SLUICE_IO', `the trace '${this.#path}' is not complete`, {
        operation: 'trace',
        path: this.#path,
        cause: this.#failure,
      }),
    );
  }

  #elapsedMicros(): number {
    return Math.round((performance.now() - this.#startMs) * 1000);
  }

  #add(line: object): void {
    if (this.#failure !== undefined) return;
    this.#lines += `${JSON.stringify(line)}\n`;
    if (this.#lines.length >= CHUNK_LENGTH) this.#write();
  }

  #write(): void {
    const bytes = Buffer.from(this.#lines);
    this.#lines = '';
    try {
      for (let at = 0; at < bytes.length;) at += writeSync(this.#fd, bytes, at);
    } catch (error) {
      this.#failure = error;
    }
  }
}

function create(path: string): number {
  try {
    return openSync(path, 'wx', 0o600);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const reason = code === 'EEXIST' ? 'it exists; choose another name' : String(code);
    throw new SluiceError('ERR_SLUICE_OPEN', `cannot create the trace '${path}': ${reason}`, {
      operation: 'open',
      path,
      cause,
    });
  }
}
