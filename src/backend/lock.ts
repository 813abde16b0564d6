/**
 * Image locks that QEMU understands: open file description locks on bytes that stand for
 * permissions (QEMU block/file-posix.c, RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE).
 *
 *     byte 100 + p   held (read lock) by everybody who uses permission p
 *     byte 200 + p   held (read lock) by everybody who does not share permission p with others
 *
 * All locks are read locks, so taking them always works; a conflict is found by asking whether a
 * write lock would fit: on 200 + p for a permission we use, on 100 + p for one that we do not
 * share. Both sides take first and ask then, so of two that start together at least one gives up.
 *
 * L1 A writer uses consistent-read and write, and shares consistent-read and write-unchanged:
 *    like QEMU's virtio-blk, but not resize, because the capacity is fixed while we run.
 * L2 A reader uses consistent-read and shares the same: it is refused while somebody writes, and
 *    a writer is refused while it reads.
 * L3 The locks belong to the open file description: two opens in one process conflict, and
 *    closing that descriptor, or dying, releases them.
 */
import { SluiceError } from '../errors.ts';
import { EACCES, EAGAIN } from './errno.ts';
import type { Native } from './native.ts';

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;

const PERMISSION_BASE = 100;
const SHARED_BASE = 200;
const PERMISSIONS = ['consistent-read', 'write', 'write-unchanged', 'resize'] as const;
type Permission = (typeof PERMISSIONS)[number];
/** What we do not share: others may read (and rewrite the same bytes) while we run, no more. */
const KEPT: readonly Permission[] = ['write', 'resize'];
/** How a message calls the permissions. */
const VERBS: Readonly<Record<Permission, string>> = {
  'consistent-read': 'read',
  write: 'write',
  'write-unchanged': 'rewrite',
  resize: 'resize',
};

/** `auto` locks wherever that is possible, and a writer must; `none` trusts the caller. */
export type LockMode = 'auto' | 'none';

/** What is to be locked; `fd` must stay open as long as the lock is wanted. */
export interface LockRequest {
  readonly fd: number;
  readonly path: string;
  readonly writable: boolean;
  readonly native: Native | null;
}

/**
 * Locks the image for as long as `fd` is open. Throws ERR_SLUICE_LOCKED when somebody else's
 * use conflicts, ERR_SLUICE_LOCK_UNAVAILABLE when a writer cannot lock at all; a reader that
 * cannot lock goes on without.
 */
export function lockImage(request: LockRequest): void {
  const { fd, path, writable, native } = request;
  if (native === null) {
    if (writable) throw unavailable(path, 'koffi is not installed or not usable here');
    return;
  }
  const used: Permission[] = writable ? ['consistent-read', 'write'] : ['consistent-read'];
  const locks = new RangeLocks(native, fd);
  const bytes = [...bytesOf(PERMISSION_BASE, used), ...bytesOf(SHARED_BASE, KEPT)];
  for (const byte of bytes) {
    const errno = locks.take(byte);
    if (errno === 0) continue;
    locks.release(bytes);
    if (errno === EAGAIN || errno === EACCES) throw locked(request, { byte, pid: 0 });
    if (writable) throw unavailable(path, `its file system refused the lock (errno ${errno})`);
    return;
  }
  const conflict = locks.findConflict(used);
  if (conflict === undefined) return;
  locks.release(bytes);
  throw locked(request, conflict);
}

/** A byte that somebody else holds; `pid` is positive when the kernel told who. */
interface Conflict {
  readonly byte: number;
  readonly pid: number;
}

// struct flock on 64-bit Linux: s16 type, s16 whence, pad, s64 start, s64 length, s32 pid, pad.
const FLOCK_SIZE = 32;
const FLOCK_TYPE = 0;
const FLOCK_WHENCE = 2;
const FLOCK_START = 8;
const FLOCK_LENGTH = 16;
const FLOCK_PID = 24;

/** One-byte open file description locks. */
class RangeLocks {
  readonly #native: Native;
  readonly #fd: number;
  readonly #address: number;
  readonly #record: DataView;

  constructor(native: Native, fd: number) {
    this.#native = native;
    this.#fd = fd;
    const buffer = new ArrayBuffer(FLOCK_SIZE);
    this.#address = native.addressOf(new Uint8Array(buffer));
    this.#record = new DataView(buffer);
  }

  /** Answers 0 or an errno. */
  take(byte: number): number {
    return this.#call(F_OFD_SETLK, F_RDLCK, byte) < 0 ? this.#native.errno() : 0;
  }

  release(bytes: readonly number[]): void {
    for (const byte of bytes) this.#call(F_OFD_SETLK, F_UNLCK, byte);
  }

  /** Uses first: "somebody writes" says more than "somebody lets nobody write". */
  findConflict(used: readonly Permission[]): Conflict | undefined {
    for (const byte of [...bytesOf(PERMISSION_BASE, KEPT), ...bytesOf(SHARED_BASE, used)]) {
      const conflict = this.#holderOf(byte);
      if (conflict !== undefined) return conflict;
    }
    return undefined;
  }

  #holderOf(byte: number): Conflict | undefined {
    if (this.#call(F_OFD_GETLK, F_WRLCK, byte) < 0) return undefined;
    if (this.#record.getInt16(FLOCK_TYPE, true) === F_UNLCK) return undefined;
    return { byte, pid: this.#record.getInt32(FLOCK_PID, true) };
  }

  #call(command: number, type: number, byte: number): number {
    const record = this.#record;
    record.setInt16(FLOCK_TYPE, type, true);
    record.setInt16(FLOCK_WHENCE, 0, true);
    record.setBigInt64(FLOCK_START, BigInt(byte), true);
    record.setBigInt64(FLOCK_LENGTH, 1n, true);
    record.setInt32(FLOCK_PID, 0, true);
    return this.#native.fcntl(this.#fd, command, this.#address);
  }
}

function bytesOf(base: number, permissions: readonly Permission[]): number[] {
  return permissions.map((permission) => base + PERMISSIONS.indexOf(permission));
}

function locked({ path, writable }: LockRequest, { byte, pid }: Conflict): SluiceError {
  const who = pid > 0 ? `process ${pid}` : 'another process, or another open in this one,';
  const isUse = byte < SHARED_BASE;
  const permission = PERMISSIONS[byte - (isUse ? PERMISSION_BASE : SHARED_BASE)];
  const verb = permission === undefined ? 'use' : VERBS[permission];
  const state = isUse ? `has it open to ${verb} it` : `has it open and lets nobody else ${verb}`;
  const advice = "close it there, or pass lock: 'none' if you know that it is safe";
  const purpose = writable ? 'writing' : 'reading';
  const message = `cannot lock ${JSON.stringify(path)} for ${purpose}: ${who} ${state}; ${advice}`;
  return new SluiceError('ERR_SLUICE_LOCKED', message, { operation: 'open', path });
}

function unavailable(path: string, reason: string): SluiceError {
  const advice = "install the optional package koffi, or pass lock: 'none'";
  const message = `cannot lock ${JSON.stringify(path)} for writing: ${reason}; ${advice}`;
  return new SluiceError('ERR_SLUICE_LOCK_UNAVAILABLE', message, { operation: 'open', path });
}
