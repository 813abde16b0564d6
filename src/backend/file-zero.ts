/**
 * Zeroes and holes: fallocate where it works, written zeroes where it does not.
 *
 *     write zeroes   punch hole (may unmap, and the image is opened to pass discards on)
 *                    -> zero range -> zeroes written, or ENOTSUP when only a fast way will do
 *     discard        punch hole -> nothing; the contents are undefined afterwards either way
 *
 * fallocate waits for the journal, and on many kernels for dirty pages of the range, so it always
 * runs on the pool (in place it takes 2 us instead of 40 when nothing is in its way). A kind that
 * the file system does not know is not tried again. A failure that is not "unsupported" is
 * reported and nothing else is tried: a half-done punch must not be papered over.
 *
 * fallocate keeps the size, so past the end of a file that was cut behind our back it succeeds
 * and changes nothing that can be read. As for reads, such a file is EIO.
 */
import { fstatSync } from 'node:fs';

import { ERRNO_EIO, ERRNO_ENOTSUP } from '../abi/command.ts';
import { type BounceBuffers, writeBounced } from './file-bounce.ts';
import { EBUSY, EINTR, EINVAL, ENODEV, ENOSYS, ENOTTY, errnoOf } from './errno.ts';
import { type Settle, settled, writePooled } from './file-transfer.ts';
import type { Native } from './native.ts';

const FALLOC_FL_KEEP_SIZE = 1;
const PUNCH_HOLE = 2 | FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE = 16 | FALLOC_FL_KEEP_SIZE;

/** "This file cannot do that", whatever the range. */
const NEVER: ReadonlySet<number> = new Set([ERRNO_ENOTSUP, ENOSYS, ENODEV, ENOTTY]);
/** "Not this range" (a block device wants whole sectors) or "not now" (it is mounted). */
const NOT_THIS_TIME: ReadonlySet<number> = new Set([EINVAL, EBUSY]);

const INTERRUPTIONS = 100;
const ZERO_BUFFER_BYTES = 1024 * 1024;
let zeroBuffer: Uint8Array | undefined;

/** The file that the zeroes go to, and how it was opened. */
export interface ZeroTarget {
  readonly fd: number;
  readonly native: Native | null;
  readonly isBlockDevice: boolean;
  /** 1 in page-cache mode. */
  readonly blockBytes: number;
  /** Holes may be made. */
  readonly unmap: boolean;
  readonly buffers: BounceBuffers;
  readonly counters: { fallocates: number };
}

/** Executes WRITE_ZEROES and DISCARD for one file. */
export class Zeroes {
  readonly #target: ZeroTarget;
  readonly #unsupported = new Set<number>();

  constructor(target: ZeroTarget) {
    this.#target = target;
  }

  /** The range reads as zeroes when `settle` is called with 0. */
  write(offset: number, length: number, mayUnmap: boolean, fast: boolean, settle: Settle): void {
    void this.#write(offset, length, mayUnmap, fast).then(settle);
  }

  /** Gives the range back to the file system if it can. */
  discard(offset: number, length: number, settle: Settle): void {
    void this.#punch(offset, length).then((errno) => settle(errno === ERRNO_ENOTSUP ? 0 : errno));
  }

  async #write(offset: number, length: number, mayUnmap: boolean, fast: boolean): Promise<number> {
    const punched = mayUnmap ? await this.#punch(offset, length) : ERRNO_ENOTSUP;
    if (punched !== ERRNO_ENOTSUP) return punched;
    const zeroed = await this.#zeroRange(offset, length, fast);
    if (zeroed !== ERRNO_ENOTSUP || fast) return zeroed;
    return settled((settle) => this.#writeBytes(offset, length, settle));
  }

  async #punch(offset: number, length: number): Promise<number> {
    return this.#target.unmap ? this.#fallocate(PUNCH_HOLE, offset, length) : ERRNO_ENOTSUP;
  }

  /** For a block device the kernel itself falls back to writing zeroes, which is not fast. */
  async #zeroRange(offset: number, length: number, fast: boolean): Promise<number> {
    if (fast && this.#target.isBlockDevice) return ERRNO_ENOTSUP;
    return this.#fallocate(ZERO_RANGE, offset, length);
  }

  /** 0, an errno, or ENOTSUP for "another way must be found". Parts of blocks: B3. */
  async #fallocate(mode: number, offset: number, length: number): Promise<number> {
    const { native, blockBytes, buffers } = this.#target;
    if (native === null || this.#unsupported.has(mode)) return ERRNO_ENOTSUP;
    const call = (): Promise<number> => this.#callFallocate(native, mode, offset, length);
    if (offset % blockBytes === 0 && length % blockBytes === 0) return call();
    return buffers.turns.run(offset, length, blockBytes, call);
  }

  async #callFallocate(
    native: Native,
    mode: number,
    offset: number,
    length: number,
  ): Promise<number> {
    const { fd, counters } = this.#target;
    let errno = EINTR;
    for (let tries = 0; errno === EINTR && tries < INTERRUPTIONS; tries++) {
      counters.fallocates++;
      errno = await settled((settle) => native.fallocatePooled(fd, mode, offset, length, settle));
    }
    if (errno === 0) return this.#errnoOfEnd(offset + length);
    if (NEVER.has(errno)) this.#unsupported.add(mode);
    return NEVER.has(errno) || NOT_THIS_TIME.has(errno) ? ERRNO_ENOTSUP : errno;
  }

  /** EIO when the file ends before `end`. In place: fallocate just had the inode in memory. */
  #errnoOfEnd(end: number): number {
    const { fd, isBlockDevice } = this.#target;
    if (isBlockDevice) return 0;
    try {
      return fstatSync(fd).size < end ? ERRNO_EIO : 0;
    } catch (error) {
      return errnoOf(error);
    }
  }

  #writeBytes(offset: number, length: number, settle: Settle): void {
    const { blockBytes, buffers, fd } = this.#target;
    if (blockBytes > 1) writeBounced(buffers, { fd, blockBytes, offset, length }, null, settle);
    else void writeZeroChunks(fd, offset, length).then(settle);
  }
}

async function writeZeroChunks(fd: number, offset: number, length: number): Promise<number> {
  zeroBuffer ??= new Uint8Array(ZERO_BUFFER_BYTES);
  let errno = 0;
  for (let done = 0; done < length && errno === 0; done += ZERO_BUFFER_BYTES) {
    const zeroes = zeroBuffer.subarray(0, Math.min(ZERO_BUFFER_BYTES, length - done));
    const views = (skip: number): Uint8Array[] => [zeroes.subarray(skip)];
    const request = {
      fd,
      offset: offset + done,
      length: zeroes.length,
      views,
      granuleBytes: 1,
    };
    errno = await settled((settle) => writePooled(request, settle));
  }
  return errno;
}
