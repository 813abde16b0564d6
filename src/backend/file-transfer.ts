/**
 * Transfers on the libuv pool, carried through to the last byte.
 *
 * - A short count is continued, from the last whole block: under O_DIRECT libuv's own second
 *   call at an odd offset gets EINVAL, which it hides (facts: bytesWritten is short, no error).
 * - A read that finds nothing is EIO: the caller asks only for bytes inside the capacity, so the
 *   file was cut behind our back, and zeroes would be a lie. A write that moves nothing is EIO.
 * - EINTR is repeated at once, EAGAIN after a pause. Both, and short counts within one block, have
 *   a bound: no input makes this loop for ever. libuv repeats EINTR of writes and syncs by itself,
 *   without one; what is repeated here is that of reads, and of a libuv that does not.
 */
import { fdatasync, fdatasyncSync, readv, writev } from 'node:fs';

import { ERRNO_EIO } from '../abi/command.ts';
import { EAGAIN, EINTR, errnoOf } from './errno.ts';
import { announced } from './sync-channel.ts';

/** Called once: 0 or a positive errno. */
export type Settle = (errno: number) => void;

/**
 * The bytes to move after the first `skip`, as views. Asked for each time: a memory that has grown
 * meanwhile has left the old views empty.
 */
export type Views = (skip: number) => Uint8Array[];

/** What to move: the bytes of `views`, one after the other, from `offset` in the file on. */
export interface TransferRequest {
  readonly fd: number;
  readonly offset: number;
  readonly length: number;
  readonly views: Views;
  /** Continue only at multiples of this many bytes: the block size under O_DIRECT, or 1. */
  readonly granuleBytes: number;
  /** A short count that brings this many bytes will do; default all of `length`. */
  readonly enough?: number;
}

const INTERRUPTIONS = 100;
const REFUSALS = 10;
const STALLS = 3;

/** Reads all of it. */
export function readPooled(request: TransferRequest, settle: Settle): void {
  new Transfer(readv, request, settle).start();
}

/** Writes all of it. */
export function writePooled(request: TransferRequest, settle: Settle): void {
  new Transfer(writev, request, settle).start();
}

/**
 * Makes everything written to the file before this call stable, through any descriptor. fdatasync
 * is called in this file alone. EINTR is repeated; any other error is reported and never
 * tried again: the next sync would say OK although the data is gone (durability section 6).
 */
export function syncData(fd: number, path: string, settle: Settle): void {
  sync(fd, announced(path, settle), INTERRUPTIONS);
}

function sync(fd: number, settle: Settle, interruptions: number): void {
  fdatasync(fd, (error) => {
    const errno = error === null ? 0 : errnoOf(error);
    if (errno === EINTR && interruptions > 0) sync(fd, settle, interruptions - 1);
    else settle(errno);
  });
}

/** The same on the calling thread; answers the errno. */
export function syncDataHere(fd: number, path: string): number {
  const announce = announced(path, () => undefined);
  let errno = syncHere(fd);
  for (let left = INTERRUPTIONS; errno === EINTR && left > 0; left--) errno = syncHere(fd);
  announce(errno);
  return errno;
}

function syncHere(fd: number): number {
  try {
    fdatasyncSync(fd);
    return 0;
  } catch (error) {
    return errnoOf(error);
  }
}

/** The promise of a pooled call, for the paths where speed does not matter. */
export function settled(start: (settle: Settle) => void): Promise<number> {
  return new Promise((resolve) => {
    start(resolve);
  });
}

type VectorCall = (
  fd: number,
  views: Uint8Array[],
  position: number,
  callback: (error: NodeJS.ErrnoException | null, moved: number) => void,
) => void;

class Transfer {
  readonly #call: VectorCall;
  readonly #request: TransferRequest;
  readonly #settle: Settle;
  #moved = 0;
  #interruptions = 0;
  #refusals = 0;
  #stalls = 0;

  constructor(call: VectorCall, request: TransferRequest, settle: Settle) {
    this.#call = call;
    this.#request = request;
    this.#settle = settle;
  }

  start(): void {
    const { fd, offset, views, length, enough = length } = this.#request;
    this.#call(fd, views(this.#moved), offset + this.#moved, (error, moved) => {
      if (error !== null) this.#onError(errnoOf(error));
      else if (this.#moved + moved >= enough) this.#settle(0);
      else this.#onShort(moved);
    });
  }

  #onError(errno: number): void {
    if (errno === EINTR && this.#interruptions++ < INTERRUPTIONS) this.start();
    else if (errno === EAGAIN && this.#refusals < REFUSALS) this.#startLater();
    else this.#settle(errno);
  }

  #startLater(): void {
    setTimeout(() => this.start(), 1 << this.#refusals);
    this.#refusals++;
  }

  #onShort(moved: number): void {
    const whole = moved - (moved % this.#request.granuleBytes);
    if (moved === 0 || (whole === 0 && this.#stalls++ >= STALLS)) {
      this.#settle(ERRNO_EIO);
      return;
    }
    this.#moved += whole;
    this.start();
  }
}
