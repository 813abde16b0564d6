/**
 * Errnos as the engine knows them: positive, with Linux's numbers on every system.
 *
 * The engine tells a few errnos apart by number (abi/command.ts). libuv reports negative numbers
 * that differ between systems, but one set of names; so the names are translated.
 */
import {
  ERRNO_EDQUOT,
  ERRNO_EFBIG,
  ERRNO_EIO,
  ERRNO_ENOSPC,
  ERRNO_ENOTSUP,
} from '../abi/command.ts';

// Linux, generic (asm-generic/errno-base.h, errno.h).
export const EPERM = 1;
export const EINTR = 4;
export const ENXIO = 6;
export const EBADF = 9;
export const EAGAIN = 11;
export const EACCES = 13;
export const EFAULT = 14;
export const EBUSY = 16;
export const ENODEV = 19;
export const EINVAL = 22;
export const ENOTTY = 25;
export const EROFS = 30;
export const ENOSYS = 38;

const BY_NAME: Readonly<Record<string, number>> = {
  EPERM,
  EINTR,
  ENXIO,
  EBADF,
  EAGAIN,
  EACCES,
  EFAULT,
  EBUSY,
  ENODEV,
  EINVAL,
  ENOTTY,
  EROFS,
  ENOSYS,
  EIO: ERRNO_EIO,
  EFBIG: ERRNO_EFBIG,
  ENOSPC: ERRNO_ENOSPC,
  ENOTSUP: ERRNO_ENOTSUP,
  EOPNOTSUPP: ERRNO_ENOTSUP,
  EDQUOT: ERRNO_EDQUOT,
  // Node refused the arguments: the command names bytes outside the engine's memory.
  ERR_OUT_OF_RANGE: EFAULT,
  ERR_INVALID_ARG_VALUE: EFAULT,
};

/** Errnos are below this; numbers of libuv's own are above. */
const ERRNO_LIMIT = 4096;

/** The positive errno of what a node:fs call threw or reported; EIO when it has none. */
export function errnoOf(error: unknown): number {
  if (!(error instanceof Error)) return ERRNO_EIO;
  const { code, errno } = error as NodeJS.ErrnoException;
  const named = code === undefined ? undefined : BY_NAME[code];
  if (named !== undefined) return named;
  if (errno !== undefined && errno < 0 && errno > -ERRNO_LIMIT) return -errno;
  return ERRNO_EIO;
}

/** The call was interrupted or refused for the moment: the same call may succeed. */
export function isTransient(errno: number): boolean {
  return errno === EINTR || errno === EAGAIN;
}
