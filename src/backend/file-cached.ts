/** Reads on the calling thread of what is in the page cache. */
import { loadNative } from './native.ts';

const RWF_NOWAIT = 8;
/** struct iovec on 64-bit systems. */
const IOVEC_BYTES = 16;

/**
 * Reads what of the range is in the page cache, up to the first byte that is not. Never waits for a
 * disk. Answers the bytes read; 0: nothing, the end of the file, or the system cannot say.
 */
export function readCached(fd: number, into: Uint8Array, offset: number): number {
  const native = loadNative();
  if (native === null) return 0;
  const vector = new BigUint64Array(IOVEC_BYTES / 8);
  vector[0] = BigInt(native.addressOf(into));
  vector[1] = BigInt(into.length);
  const address = native.addressOf(new Uint8Array(vector.buffer));
  return Math.max(0, native.preadv2(fd, address, 1, offset, RWF_NOWAIT));
}
