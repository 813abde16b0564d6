/** Numbers of the protocol as tests write them: by hand, apart from those under test. */

export const READ = 0;
export const WRITE = 1;
export const DISC = 2;
export const FLUSH = 3;
export const TRIM = 4;
export const CACHE = 5;
export const WRITE_ZEROES = 6;
export const BLOCK_STATUS = 7;

export const FUA = 1;
export const NO_HOLE = 2;
export const DF = 4;
export const REQ_ONE = 8;
export const FAST_ZERO = 16;
export const PAYLOAD_LEN = 32;

export const EPERM = 1;
export const EIO = 5;
export const EINVAL = 22;
export const ENOSPC = 28;
export const ENOTSUP = 95;

export const ACK = 1;
export const SERVER = 2;
export const INFO = 3;
export const META_CONTEXT = 4;
export const ERR_UNSUP = 0x80000001;
export const ERR_POLICY = 0x80000002;
export const ERR_INVALID = 0x80000003;
export const ERR_TLS_REQD = 0x80000005;
export const ERR_UNKNOWN = 0x80000006;
export const ERR_TOO_BIG = 0x80000009;
export const ERR_EXT_HEADER_REQD = 0x8000000a;

/** `length` bytes that tell where they are. */
export function pattern(length: number, seed = 1): Buffer {
  const data = Buffer.allocUnsafe(length);
  for (let at = 0; at < length; at++) data[at] = (at * 7 + (at >> 8) + seed) & 255;
  return data;
}
