/** What a completion's status means to a program. */
import { ERRNO_EDQUOT, ERRNO_EFBIG, ERRNO_ENOSPC } from './abi/command.ts';
import {
  STATUS_ABORTED,
  STATUS_FLUSH_LATCHED,
  STATUS_INVALID,
  STATUS_IO_ERROR,
  STATUS_NO_SPACE,
  STATUS_OUT_OF_RANGE,
  STATUS_READ_ONLY,
  STATUS_UNSUPPORTED,
} from './abi/request.ts';
import { type Corruption, corruptionText } from './corruption.ts';
import { type ErrorCode, SluiceError } from './errors.ts';

/** What was asked, for the message. */
export interface Asked {
  readonly operation: string;
  readonly offset: number;
  readonly length: number;
  readonly sizeBytes: number;
  /** What was found wrong with the image. */
  readonly corruption?: Corruption | undefined;
  /** The disk is an image with tables. */
  readonly hasTables?: boolean;
}

/** Operations that name no range of the disk. */
const RANGELESS: ReadonlySet<string> = new Set([
  'flush',
  'clear latch',
  'resize',
  'reset queue',
  'set write cache',
]);

const EIO = 5;
const FULL: ReadonlySet<number> = new Set([ERRNO_EDQUOT, ERRNO_EFBIG, ERRNO_ENOSPC]);

/** Names of the errnos that a disk commonly meets; the number stands for the others. */
const ERRNO_NAMES: Readonly<Record<number, string>> = {
  5: 'EIO',
  9: 'EBADF',
  12: 'ENOMEM',
  22: 'EINVAL',
  27: 'EFBIG',
  28: 'ENOSPC',
  30: 'EROFS',
  95: 'ENOTSUP',
  110: 'ETIMEDOUT',
  122: 'EDQUOT',
};

/** The code of a status that is not STATUS_OK. A flush fails for want of room, too. */
function codeOf(status: number, errno: number): ErrorCode {
  if (status === STATUS_IO_ERROR && FULL.has(errno)) return 'ERR_SLUICE_NO_SPACE';
  switch (status) {
    case STATUS_IO_ERROR:
    case STATUS_ABORTED:
      return 'ERR_SLUICE_IO';
    case STATUS_NO_SPACE:
      return 'ERR_SLUICE_NO_SPACE';
    case STATUS_READ_ONLY:
      return 'ERR_SLUICE_READ_ONLY';
    case STATUS_OUT_OF_RANGE:
      return 'ERR_SLUICE_OUT_OF_RANGE';
    case STATUS_INVALID:
      return 'ERR_SLUICE_INVALID_ARGUMENT';
    case STATUS_UNSUPPORTED:
      return 'ERR_SLUICE_UNSUPPORTED';
    case STATUS_FLUSH_LATCHED:
      return 'ERR_SLUICE_FLUSH_LATCHED';
    default:
      throw new Error(`the engine answered with status ${status}, which this host does not know`);
  }
}

function reasonOf(code: ErrorCode, errno: number, asked: Asked): string {
  switch (code) {
    case 'ERR_SLUICE_READ_ONLY':
      return 'the disk is open read-only; open it with writable: true';
    case 'ERR_SLUICE_OUT_OF_RANGE':
      return `the disk has ${asked.sizeBytes} bytes`;
    case 'ERR_SLUICE_NO_SPACE':
      return `the host has no space left (${nameOf(errno)}); free some and try again`;
    case 'ERR_SLUICE_UNSUPPORTED':
      return 'the host cannot do this quickly here; ask without fast';
    case 'ERR_SLUICE_FLUSH_LATCHED':
      return (
        'an earlier sync failed, so no write since the last good flush is known to be stable; ' +
        'close the disk, check the storage and its contents, then open it anew'
      );
    case 'ERR_SLUICE_IO':
      if (errno === 0) return 'a request since the last barrier failed, and so must this one';
      return errno === EIO && asked.hasTables === true
        ? 'the host reported EIO, or the image is damaged there (check it)'
        : `the host reported ${nameOf(errno)}`;
    case 'ERR_SLUICE_CORRUPT':
      return asked.corruption === undefined ? '' : corruptionText(asked.corruption);
    default:
      return 'the engine refused the request';
  }
}

function nameOf(errno: number): string {
  return ERRNO_NAMES[errno] ?? `errno ${errno}`;
}

/** The system's side of an error, in the shape of Node's own system errors. */
function systemError(errno: number, operation: string): Error {
  const name = nameOf(errno);
  return Object.assign(new Error(`${name}: ${operation}`), {
    code: name,
    errno: -errno,
    syscall: operation,
  });
}

/** The error of a request that completed with `status`. */
export function requestError(status: number, errno: number, asked: Asked): SluiceError {
  const isDamage = status === STATUS_IO_ERROR && errno === EIO && asked.corruption !== undefined;
  const code = isDamage ? 'ERR_SLUICE_CORRUPT' : codeOf(status, errno);
  const { operation, offset, length } = asked;
  const hasRange = !RANGELESS.has(operation);
  const place = hasRange ? ` of ${length} bytes at offset ${offset}` : '';
  return new SluiceError(code, `${operation}${place} failed: ${reasonOf(code, errno, asked)}`, {
    operation,
    ...(hasRange ? { offset, length } : {}),
    ...(errno === 0 ? {} : { cause: systemError(errno, operation) }),
  });
}
