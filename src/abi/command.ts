// The command record (engine -> host) and the result record (host -> engine), little-endian.
//
//   command     0        4    5     6      8             12      16        24        32       40
//               | id     | op |flags| file | segments    | data  | offset  | length  | guest  |
//   result      0        4        8        12     16
//               | id     | errno  | value  |  -   |
//
// data and segments as in a request: the address of the bytes, or of a table when segments > 1.
// file: index of the host file; offsets are the file's. guest: where the first byte of a transfer
// lies on the disk; 0 in commands that carry no request's data. The sync of file f has the id
// COMMAND_SLOTS + f; a mapping's commands for metadata have the ids from METADATA_IDS on.
// A command is executed once and answered by exactly one result; its id is free after that.

export const COMMAND_ID = 0;
export const COMMAND_OP = 4;
export const COMMAND_FLAGS = 5;
export const COMMAND_FILE = 6;
export const COMMAND_SEGMENTS = 8;
export const COMMAND_DATA = 12;
export const COMMAND_OFFSET = 16;
export const COMMAND_LENGTH = 24;
export const COMMAND_GUEST = 32;
export const COMMAND_SIZE = 40;

export const RESULT_ID = 0;
/** 0, or the positive errno of the host; ENOTSUP for what the backend cannot do. */
export const RESULT_ERRNO = 4;
export const RESULT_VALUE = 8;
export const RESULT_SIZE = 16;

export const COMMAND_READ = 0;
export const COMMAND_WRITE = 1;
export const COMMAND_WRITE_ZEROES = 2;
export const COMMAND_DISCARD = 3;
export const COMMAND_BLOCK_STATUS = 4;
/** Make every write that returned before this command was taken stable (fdatasync). */
export const COMMAND_SYNC = 5;

/**
 * The file has at least COMMAND_LENGTH bytes afterwards; what is new reads as zeroes. It is never
 * cut.
 */
export const COMMAND_EXTEND = 6;

/** WRITE: stable when it returns (the O_DSYNC descriptor). */
export const COMMAND_STABLE = 1;
/** WRITE_ZEROES: the range may be unmapped. */
export const COMMAND_MAY_UNMAP = 2;
/** WRITE_ZEROES: answer ENOTSUP rather than write zeroes slowly. */
export const COMMAND_FAST_ZERO = 4;

// Errnos that the engine tells apart (Linux, generic).
export const ERRNO_EIO = 5;
export const ERRNO_EFBIG = 27;
export const ERRNO_ENOSPC = 28;
export const ERRNO_ENOTSUP = 95;
export const ERRNO_EDQUOT = 122;
