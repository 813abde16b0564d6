/**
 * The system calls that node:fs lacks, by koffi: RWF_NOWAIT, fallocate, SEEK_DATA / SEEK_HOLE,
 * open file description locks, statx, recv.
 *
 * koffi is an optional dependency. Everything here is null together: without koffi, on another
 * system than 64-bit little-endian Linux, or on a libc that lacks one of the calls, loadNative()
 * answers null and the callers do without. SLUICE_NO_KOFFI=1 in the environment pretends that it
 * is not installed.
 *
 * Pointers are numbers: a user-space address has at most 47 bits. ioctl and fcntl are variadic in
 * C; on Linux their integer arguments travel as those of an ordinary function.
 */
import { createRequire } from 'node:module';
import { endianness } from 'node:os';
import process from 'node:process';

import type * as koffi from 'koffi';

import { ERRNO_EIO } from '../abi/command.ts';
import { EINVAL } from './errno.ts';

/** Answer of a pooled call: the errno is 0, or positive and then `result` means nothing. */
export type NativeAnswer = (errno: number, result: number) => void;

/** libc, as far as the backends need it. Failing calls answer -1 and leave errno(). */
export interface Native {
  /** errno of the last synchronous call on this thread, which has failed; never 0. */
  errno(): number;
  /** Address of the first byte, fixed as long as the view's ArrayBuffer or memory lives. */
  addressOf(bytes: Uint8Array): number;
  pwrite(fd: number, address: number, length: number, offset: number): number;
  preadv2(fd: number, iov: number, count: number, offset: number, flags: number): number;
  pwritev2(fd: number, iov: number, count: number, offset: number, flags: number): number;
  lseek(fd: number, offset: number, whence: number): number;
  /** The request's third argument is an address. */
  ioctl(fd: number, request: number, address: number): number;
  /** The command's third argument is the address of a struct flock. */
  fcntl(fd: number, command: number, address: number): number;
  recv(fd: number, address: number, length: number, flags: number): number;
  /** statx(2) of an open descriptor into 256 bytes at `address`. */
  statxDescriptor(fd: number, mask: number, address: number): number;
  /** lseek on the libuv pool. */
  lseekPooled(fd: number, offset: number, whence: number, answer: NativeAnswer): void;
  /** fallocate on the libuv pool. */
  fallocatePooled(
    fd: number,
    mode: number,
    offset: number,
    length: number,
    answer: NativeAnswer,
  ): void;
}

type Koffi = typeof koffi;
type PooledCall = (...args: [...number[], (error: Error | null, result: number) => void]) => void;

/** preadv2(2): rather less than waiting for the disk. */
export const RWF_NOWAIT = 8;
const AT_EMPTY_PATH = 0x1000;
/**
 * Pooled calls under way at once. koffi keeps 8 sets of stacks for them, allocates 256 KiB for
 * each call beyond and throws past 256; the libuv pool rarely has more threads than this.
 */
const POOLED_CALLS = 8;

let loaded: Native | null | undefined;

/** The native calls, or null where they cannot be had. Loads koffi on the first use. */
export function loadNative(): Native | null {
  if (process.env['SLUICE_NO_KOFFI']) return null;
  loaded ??= isSupportedPlatform() ? bind() : null;
  return loaded;
}

function isSupportedPlatform(): boolean {
  const is64Bit = ['x64', 'arm64', 'riscv64', 'loong64', 'ppc64'].includes(process.arch);
  return process.platform === 'linux' && is64Bit && endianness() === 'LE';
}

function bind(): Native | null {
  try {
    const koffi = createRequire(import.meta.url)('koffi') as Koffi;
    return bindCalls(koffi, koffi.load(null));
  } catch (error) {
    // Not installed, no prebuilt binary for this system, or a libc without one of the calls:
    // in each case the answer to the caller is the same, "no native calls here".
    if (error instanceof Error) return null;
    throw error;
  }
}

function bindCalls(koffi: Koffi, libc: koffi.LibraryHandle): Native {
  const vector = ['int', 'uintptr_t', 'int', 'int64_t', 'int'];
  const lseek = libc.func('lseek', 'int64_t', ['int', 'int64_t', 'int']);
  const fallocate = libc.func('fallocate', 'int', ['int', 'int', 'int64_t', 'int64_t']);
  const statxArguments = ['int', 'str', 'int', 'uint', 'uintptr_t'];
  const statx: (...args: (number | string)[]) => number = libc.func('statx', 'int', statxArguments);
  // A failure without an errno must not pass for a success.
  const errno = (): number => koffi.errno() || ERRNO_EIO;
  const pooled = new PooledCalls(errno);
  return {
    errno,
    addressOf: (bytes) => Number(koffi.address(bytes)),
    pwrite: libc.func('pwrite', 'int64_t', ['int', 'uintptr_t', 'size_t', 'int64_t']),
    preadv2: libc.func('preadv2', 'int64_t', vector),
    pwritev2: libc.func('pwritev2', 'int64_t', vector),
    lseek,
    ioctl: libc.func('ioctl', 'int', ['int', 'ulong', 'uintptr_t']),
    fcntl: libc.func('fcntl', 'int', ['int', 'int', 'uintptr_t']),
    recv: libc.func('recv', 'int64_t', ['int', 'uintptr_t', 'size_t', 'int']),
    statxDescriptor: (fd, mask, address) => statx(fd, '', AT_EMPTY_PATH, mask, address),
    lseekPooled: (fd, offset, whence, answer) =>
      pooled.submit({ call: lseek.async, args: [fd, offset, whence], answer }),
    fallocatePooled: (fd, mode, offset, length, answer) =>
      pooled.submit({ call: fallocate.async, args: [fd, mode, offset, length], answer }),
  };
}

interface PooledJob {
  readonly call: PooledCall;
  readonly args: number[];
  readonly answer: NativeAnswer;
}

/** First in, first out, at most POOLED_CALLS under way. */
class PooledCalls {
  readonly #errno: () => number;
  readonly #waiting: PooledJob[] = [];
  #running = 0;

  constructor(errno: () => number) {
    this.#errno = errno;
  }

  submit(job: PooledJob): void {
    if (this.#running < POOLED_CALLS) this.#start(job);
    else this.#waiting.push(job);
  }

  #start(job: PooledJob): void {
    this.#running++;
    job.call(...job.args, (error, result) => {
      // Taken first: koffi restores the errno of the pool's thread around this callback only.
      const errno = result < 0 ? this.#errno() : 0;
      this.#running--;
      const next = this.#waiting.shift();
      if (next !== undefined) this.#start(next);
      // An error is koffi refusing an argument; the call was not made.
      job.answer(error === null ? errno : EINVAL, result);
    });
  }
}
