/** io_uring's system calls, its rings, and a descriptor that can be read: by koffi. */
import { closeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Socket } from 'node:net';

import type * as koffi from 'koffi';

import { ERRNO_EIO } from '../abi/command.ts';
import { loadNative } from './native.ts';

/** What Uring asks of the system. Failing calls answer a negative errno. */
export interface UringNative {
  /** io_uring_setup(2), of a struct io_uring_params that is read and written. */
  setup(entries: number, params: Uint32Array): number;
  /** Submits; answers how many entries the kernel has taken. io_uring_enter(2). */
  submit(fd: number, count: number): number;
  /** The bytes at an offset of the ring's descriptor, shared with the kernel. */
  map(fd: number, length: number, offset: number): ArrayBuffer | undefined;
  /**
   * Calls back in each turn of the event loop in which the descriptor can be read. Undefined where
   * this Node has no way to wait for a descriptor without reading from it.
   */
  watch(fd: number, readable: () => void): Watch | undefined;
}

/** A descriptor that is watched until its thread ends; it belongs to the watch. */
export interface Watch {
  /** The event loop goes on for its sake; it does not at first. */
  hold(): void;
  /** It does no more. */
  release(): void;
}

/** The same on every architecture but alpha. Linux, asm-generic/unistd.h. */
const SYS_IO_URING_SETUP = 425;
const SYS_IO_URING_ENTER = 426;
const PROT_READ_WRITE = 3;
const MAP_SHARED_POPULATE = 0x8001;
const MAP_FAILED = -1;

/** The parts of net.Socket's handle that are used: libuv's pipe, which takes any descriptor. */
interface PipeHandle {
  onread: () => void;
  open(fd: number): number | undefined;
  useUserBuffer(buffer: Uint8Array): void;
  readStart(): number;
  ref(): void;
  unref(): void;
  close(): void;
}

/** The calls, or undefined where there is no koffi or another system. */
export function loadUringNative(): UringNative | undefined {
  // Knows on which systems koffi can be had at all.
  if (loadNative() === null) return undefined;
  const found = createRequire(import.meta.url)('koffi') as typeof koffi;
  const libc = found.load(null);
  const words = ['uintptr_t', 'uintptr_t', 'uintptr_t', 'uintptr_t', 'uintptr_t', 'uintptr_t'];
  const syscall = libc.func('syscall', 'long', ['long', ...words]);
  const mmap = libc.func('mmap', 'intptr_t', [
    'uintptr_t',
    'size_t',
    'int',
    'int',
    'int',
    'int64_t',
  ]);
  const pipe = libc.func('pipe', 'int', ['uintptr_t']);
  const answer = (result: number): number => (result < 0 ? -(found.errno() || ERRNO_EIO) : result);
  return {
    setup: (entries, params) =>
      answer(syscall(SYS_IO_URING_SETUP, entries, found.address(params), 0, 0, 0, 0)),
    submit: (fd, count) => answer(syscall(SYS_IO_URING_ENTER, fd, count, 0, 0, 0, 0)),
    map: (fd, length, offset) => {
      const address = mmap(0, length, PROT_READ_WRITE, MAP_SHARED_POPULATE, fd, offset);
      return address === MAP_FAILED ? undefined : found.view(address, length);
    },
    watch: (fd, readable) => {
      const ends = new Int32Array(2);
      if (answer(pipe(Number(found.address(ends)))) !== 0) return undefined;
      return watch(fd, readable, [ends[0] ?? -1, ends[1] ?? -1]);
    },
  };
}

/**
 * A pipe's handle is the only one of Node's that waits for any descriptor. Given a buffer without
 * room, libuv tells of bytes that can be read and reads none.
 * @param ends of a pipe, to come by the handle's class
 */
function watch(
  fd: number,
  readable: () => void,
  [readEnd, writeEnd]: readonly [number, number],
): Watch | undefined {
  const socket = new Socket({ fd: readEnd, readable: true, writable: false });
  const { _handle: sample } = socket as unknown as { readonly _handle?: PipeHandle | null };
  const Handle = sample?.constructor as (new (type: number) => PipeHandle) | undefined;
  socket.destroy();
  closeSync(writeEnd);
  const methods = ['useUserBuffer', 'readStart', 'open', 'ref', 'unref'] as const;
  if (Handle === undefined || !methods.every((name) => name in Handle.prototype)) return undefined;
  const handle = new Handle(0);
  if ((handle.open(fd) ?? 0) !== 0) return undefined;
  handle.useUserBuffer(new Uint8Array(0));
  handle.onread = readable;
  handle.readStart();
  handle.unref();
  return { hold: () => handle.ref(), release: () => handle.unref() };
}
