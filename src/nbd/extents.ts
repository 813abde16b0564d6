/**
 * A table of extents of the device, turned into NBD's.
 *
 *   device   u64 length, u32 flags, u32 depth    little-endian, abi/request.ts
 *   NBD      u32 length, u32 flags           big-endian, "NBD_REPLY_TYPE_BLOCK_STATUS"
 *
 * EXTENT_HOLE and EXTENT_ZERO are those of base:allocation; other flags stay here.
 */
import {
  EXTENT_FLAGS,
  EXTENT_HOLE,
  EXTENT_LENGTH,
  EXTENT_SIZE,
  EXTENT_ZERO,
} from '../abi/request.ts';

/** Bytes of an extent on the wire. */
export const WIRE_EXTENT_SIZE = 8;

const WORD = 2 ** 32;

/**
 * Rewrites the table in place: neighbours with equal flags are joined, and what lies past the
 * request is cut off, so that every length fits its u32.
 * @param extents entries of the table
 * @param requestBytes the length of the request
 * @param one keep the first only (NBD_CMD_FLAG_REQ_ONE)
 * @returns entries that are left; 0 when the table describes nothing
 */
export function packExtents(
  view: DataView,
  address: number,
  extents: number,
  requestBytes: number,
  one: boolean,
): number {
  let packed = 0;
  let length = 0;
  let flags = -1;
  let left = requestBytes;
  for (let index = 0; index < extents && left > 0; index++) {
    const from = address + index * EXTENT_SIZE;
    const high = view.getUint32(from + EXTENT_LENGTH + 4, true);
    const whole = high * WORD + view.getUint32(from + EXTENT_LENGTH, true);
    const next = Math.min(whole, left);
    if (next === 0) continue;
    const nextFlags = view.getUint32(from + EXTENT_FLAGS, true) & (EXTENT_HOLE | EXTENT_ZERO);
    const joined = nextFlags === flags;
    if (!joined && one && packed === 1) break;
    if (!joined) packed++;
    length = joined ? length + next : next;
    flags = nextFlags;
    left -= next;
    // An entry on the wire is half as long, so nothing is overwritten before it was read.
    const to = address + (packed - 1) * WIRE_EXTENT_SIZE;
    view.setUint32(to, length);
    view.setUint32(to + 4, flags);
  }
  return packed;
}
