/**
 * The device's word for what went wrong, in NBD's words.
 */
import {
  STATUS_FLUSH_LATCHED,
  STATUS_INVALID,
  STATUS_IO_ERROR,
  STATUS_NO_SPACE,
  STATUS_OK,
  STATUS_OUT_OF_RANGE,
  STATUS_READ_ONLY,
  STATUS_UNSUPPORTED,
} from '../abi/request.ts';
import { CMD_TRIM, NBD_EINVAL, NBD_EIO, NBD_ENOSPC, NBD_ENOTSUP, NBD_EPERM } from './protocol.ts';

/** Every STATUS_* number of abi/request.ts. */
type Status =
  | typeof STATUS_OK
  | typeof STATUS_IO_ERROR
  | typeof STATUS_NO_SPACE
  | typeof STATUS_READ_ONLY
  | typeof STATUS_OUT_OF_RANGE
  | typeof STATUS_INVALID
  | typeof STATUS_UNSUPPORTED
  | typeof STATUS_FLUSH_LATCHED;

/**
 * The error of a reply, 0 for success. NBD proto, "Error values".
 * @param type the command that was answered
 * @param status what the device answered
 */
export function replyError(type: number, status: number): number {
  // TRIM is a hint: a backend that cannot do it has done enough (NBD proto, "NBD_CMD_TRIM").
  if (type === CMD_TRIM && status === STATUS_UNSUPPORTED) return 0;
  return errorOf(status as Status);
}

function errorOf(status: Status): number {
  switch (status) {
    case STATUS_OK:
      return 0;
    case STATUS_IO_ERROR:
    case STATUS_FLUSH_LATCHED:
      return NBD_EIO;
    case STATUS_NO_SPACE:
      return NBD_ENOSPC;
    case STATUS_READ_ONLY:
      return NBD_EPERM;
    case STATUS_OUT_OF_RANGE:
    case STATUS_INVALID:
      return NBD_EINVAL;
    case STATUS_UNSUPPORTED:
      return NBD_ENOTSUP;
  }
}

/** What a status means, for people. */
export function failureText(command: string, status: number, errno: number): string {
  const host = errno === 0 ? '' : ` (errno ${errno})`;
  switch (status as Exclude<Status, typeof STATUS_OK>) {
    case STATUS_IO_ERROR:
      return `${command} failed: the storage of the server reported an error${host}`;
    case STATUS_FLUSH_LATCHED:
      return `${command} failed: an earlier flush failed, so nothing is known to be stable`;
    case STATUS_NO_SPACE:
      return `${command} failed: the storage of the server is full${host}`;
    case STATUS_READ_ONLY:
      return `${command} on a read-only disk`;
    case STATUS_OUT_OF_RANGE:
      return `${command} past the end of the disk`;
    case STATUS_INVALID:
      return `${command} is refused by the disk`;
    case STATUS_UNSUPPORTED:
      return `${command} cannot be done fast here`;
  }
}
