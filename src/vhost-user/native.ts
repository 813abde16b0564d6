/**
 * What a vhost-user back-end asks of the system and node:fs lacks: messages with descriptors, and
 * memory of another process in the memory of the engine. By koffi.
 *
 * Pointers are numbers: a user-space address has at most 47 bits.
 */
import { closeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { endianness } from 'node:os';

import type * as koffi from 'koffi';

import { RWF_NOWAIT } from '../backend/native.ts';
import { SluiceError } from '../errors.ts';
import { MAX_FDS } from './protocol.ts';

/** What came of a call. A front-end that was killed has ended, too. */
export type Received = { readonly length: number; readonly fds: number[] } | 'later' | 'ended';

/** The system calls. */
export interface VhostNative {
  /** Address of the first byte of a memory, fixed as long as it lives. */
  addressOf(buffer: ArrayBufferLike): number;
  /** Reads from a unix socket, without waiting. @throws the system's error */
  receive(fd: number, into: Uint8Array): Received;
  /**
   * Writes a whole message, with a descriptor or without; to somebody who has gone, nothing.
   * @throws the system's error
   */
  send(fd: number, bytes: Uint8Array, passed?: number): void;
  /** Puts a part of a file in the place of memory. @throws the system's error */
  mapFile(address: number, length: number, fd: number, offset: number): void;
  /** Puts zeroes there again. @throws the system's error */
  mapNothing(address: number, length: number): void;
  /** A file in memory that has no name, of `length` zeroes. @throws the system's error */
  createFile(name: string, length: number): number;
  /** Nobody is at the other end of a socket any more. */
  hasHungUp(fd: number): boolean;
  /** Reads what a bell has counted, without waiting; false: it cannot be read. */
  silence(fd: number): boolean;
  /** Rings a bell, without waiting; nobody hears of what goes wrong. */
  ring(fd: number): void;
}

type Koffi = typeof koffi;

const PROT_READ_WRITE = 3;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;
const MSG_CTRUNC = 0x08;
const MFD_CLOEXEC = 1;
const POLLOUT = 4;
const POLLHUP = 16;
// An iovec for the count of a bell, the count, and a struct pollfd.
const COUNT_AT = 16;
const COUNT_BYTES = 8;
const POLLFD_AT = 24;
const EAGAIN = 11;
const EINTR = 4;
/** The other side has gone, with messages of ours that it has not read. */
const ECONNRESET = 104;
const EPIPE = 32;

const CMSG_HEAD_BYTES = 16;
const CONTROL_BYTES = CMSG_HEAD_BYTES + 4 * MAX_FDS;
// struct msghdr and struct iovec of a 64-bit Linux, then the control data.
const MSGHDR_BYTES = 56;
const IOVEC_AT = MSGHDR_BYTES;
const CONTROL_AT = IOVEC_AT + 16;

let loaded: VhostNative | undefined;

/** @throws SluiceError ERR_SLUICE_UNSUPPORTED where there is no koffi, or no such system */
export function loadVhostNative(): VhostNative {
  loaded ??= bind();
  return loaded;
}

function bind(): VhostNative {
  const is64Bit = ['x64', 'arm64', 'riscv64'].includes(process.arch);
  if (process.platform !== 'linux' || !is64Bit || endianness() !== 'LE') {
    throw unsupported(`it is for 64-bit Linux, not ${process.platform} on ${process.arch}`);
  }
  if (process.env['SLUICE_NO_KOFFI']) throw unsupported('SLUICE_NO_KOFFI is set');
  try {
    const koffi = createRequire(import.meta.url)('koffi') as Koffi;
    return new LibcCalls(koffi, koffi.load(null));
  } catch (cause) {
    throw unsupported("the package 'koffi' is missing; install it with npm install koffi", cause);
  }
}

function unsupported(why: string, cause?: unknown): SluiceError {
  return new SluiceError('ERR_SLUICE_UNSUPPORTED', `vhost-user cannot be served: ${why}`, {
    cause,
  });
}

/** One message is built at a time. */
class LibcCalls implements VhostNative {
  readonly #koffi: Koffi;
  readonly #recvmsg: (fd: number, message: number, flags: number) => number;
  readonly #sendmsg: (fd: number, message: number, flags: number) => number;
  readonly #mmap: (...args: number[]) => number;
  readonly #memfd: (name: string, flags: number) => number;
  readonly #ftruncate: (fd: number, length: number) => number;
  readonly #preadv2: (...args: number[]) => number;
  readonly #poll: (address: number, count: number, timeout: number) => number;
  readonly #write: (fd: number, address: number, length: number) => number;
  readonly #message = new DataView(new ArrayBuffer(CONTROL_AT + CONTROL_BYTES));
  readonly #messageAddress: number;
  readonly #bell = new DataView(new ArrayBuffer(POLLFD_AT + 8));
  readonly #bellAddress: number;

  constructor(koffi: Koffi, libc: koffi.LibraryHandle) {
    this.#koffi = koffi;
    this.#recvmsg = libc.func('recvmsg', 'int64_t', ['int', 'uintptr_t', 'int']);
    this.#sendmsg = libc.func('sendmsg', 'int64_t', ['int', 'uintptr_t', 'int']);
    const mmapArguments = ['uintptr_t', 'size_t', 'int', 'int', 'int', 'int64_t'];
    this.#mmap = libc.func('mmap', 'int64_t', mmapArguments);
    this.#memfd = libc.func('memfd_create', 'int', ['str', 'uint']);
    this.#ftruncate = libc.func('ftruncate', 'int', ['int', 'int64_t']);
    const vector = ['int', 'uintptr_t', 'int', 'int64_t', 'int'];
    this.#preadv2 = libc.func('preadv2', 'int64_t', vector);
    this.#poll = libc.func('poll', 'int', ['uintptr_t', 'ulong', 'int']);
    this.#write = libc.func('write', 'int64_t', ['int', 'uintptr_t', 'size_t']);
    this.#messageAddress = this.addressOf(this.#message.buffer);
    this.#bellAddress = this.addressOf(this.#bell.buffer);
    this.#bell.setBigUint64(0, BigInt(this.#bellAddress + COUNT_AT), true);
    this.#bell.setBigUint64(8, BigInt(COUNT_BYTES), true);
  }

  addressOf(buffer: ArrayBufferLike): number {
    return Number(this.#koffi.address(new Uint8Array(buffer)));
  }

  receive(fd: number, into: Uint8Array): Received {
    this.#setMessage(into, CONTROL_BYTES);
    const length = this.#recvmsg(fd, this.#messageAddress, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length < 0) {
      const errno = this.#koffi.errno();
      if (errno === EAGAIN || errno === EINTR) return 'later';
      if (errno === ECONNRESET) return 'ended';
      throw systemError('recvmsg', errno);
    }
    const fds = this.#receivedFds();
    return length === 0 && fds.length === 0 ? 'ended' : { length, fds };
  }

  send(fd: number, bytes: Uint8Array, passed?: number): void {
    this.#setMessage(bytes, passed === undefined ? 0 : CMSG_HEAD_BYTES + 8);
    if (passed !== undefined) {
      this.#message.setBigUint64(CONTROL_AT, BigInt(CMSG_HEAD_BYTES + 4), true);
      this.#message.setInt32(CONTROL_AT + 8, SOL_SOCKET, true);
      this.#message.setInt32(CONTROL_AT + 12, SCM_RIGHTS, true);
      this.#message.setInt32(CONTROL_AT + CMSG_HEAD_BYTES, passed, true);
    }
    const sent = this.#sendmsg(fd, this.#messageAddress, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      const errno = this.#koffi.errno();
      if (errno === EPIPE || errno === ECONNRESET) return;
      throw systemError('sendmsg', errno);
    }
    // A reply is smaller than any socket's buffer: who leaves none of it free does not read.
    if (sent < bytes.length) throw systemError('sendmsg', EAGAIN);
  }

  mapFile(address: number, length: number, fd: number, offset: number): void {
    this.#map([address, length, PROT_READ_WRITE, MAP_SHARED | MAP_FIXED, fd, offset]);
  }

  mapNothing(address: number, length: number): void {
    const flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE;
    this.#map([address, length, PROT_READ_WRITE, flags, -1, 0]);
  }

  createFile(name: string, length: number): number {
    const fd = this.#memfd(name, MFD_CLOEXEC);
    if (fd < 0) throw systemError('memfd_create', this.#koffi.errno());
    if (this.#ftruncate(fd, length) === 0) return fd;
    const errno = this.#koffi.errno();
    closeSync(fd);
    throw systemError('ftruncate', errno);
  }

  silence(fd: number): boolean {
    const length = this.#preadv2(fd, this.#bellAddress, 1, -1, RWF_NOWAIT);
    return length > 0 || (length < 0 && this.#koffi.errno() === EAGAIN);
  }

  ring(fd: number): void {
    this.#bell.setBigUint64(COUNT_AT, 1n, true);
    // An eventfd knows no other way not to wait.
    if (this.#eventsOf(fd, POLLOUT) !== 0)
      this.#write(fd, this.#bellAddress + COUNT_AT, COUNT_BYTES);
  }

  hasHungUp(fd: number): boolean {
    return (this.#eventsOf(fd, 0) & POLLHUP) !== 0;
  }

  /** What poll(2) says of a descriptor now. */
  #eventsOf(fd: number, asked: number): number {
    this.#bell.setInt32(POLLFD_AT, fd, true);
    this.#bell.setInt16(POLLFD_AT + 4, asked, true);
    const ready = this.#poll(this.#bellAddress + POLLFD_AT, 1, 0);
    return ready > 0 ? this.#bell.getInt16(POLLFD_AT + 6, true) : 0;
  }

  #map(args: number[]): void {
    if (this.#mmap(...args) === -1) throw systemError('mmap', this.#koffi.errno());
  }

  #setMessage(bytes: Uint8Array, controlBytes: number): void {
    const view = this.#message;
    const base = this.#messageAddress;
    new Uint8Array(view.buffer).fill(0);
    view.setBigUint64(16, BigInt(base + IOVEC_AT), true);
    view.setBigUint64(24, 1n, true);
    view.setBigUint64(32, controlBytes === 0 ? 0n : BigInt(base + CONTROL_AT), true);
    view.setBigUint64(40, BigInt(controlBytes), true);
    view.setBigUint64(IOVEC_AT, BigInt(Number(this.#koffi.address(bytes))), true);
    view.setBigUint64(IOVEC_AT + 8, BigInt(bytes.length), true);
  }

  /** What the system could not pass on it has closed. */
  #receivedFds(): number[] {
    const view = this.#message;
    const fds: number[] = [];
    if (Number(view.getBigUint64(40, true)) >= CMSG_HEAD_BYTES) {
      const end = Number(view.getBigUint64(CONTROL_AT, true));
      const isRights =
        view.getInt32(CONTROL_AT + 8, true) === SOL_SOCKET &&
        view.getInt32(CONTROL_AT + 12, true) === SCM_RIGHTS;
      const to = isRights ? end : 0;
      for (let at = CMSG_HEAD_BYTES; at + 4 <= to; at += 4) {
        fds.push(view.getInt32(CONTROL_AT + at, true));
      }
    }
    const isCut = (view.getInt32(48, true) & MSG_CTRUNC) !== 0;
    // Told by the count: a message that lacks descriptors is refused by whoever needs them.
    return isCut ? [...fds, -1] : fds;
  }
}

function systemError(call: string, errno: number): Error {
  return Object.assign(new Error(`${call} failed with errno ${errno}`), { errno, syscall: call });
}
