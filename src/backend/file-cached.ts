/** Reads on the calling thread of what is in the page cache. */
import { loadNative, RWF_NOWAIT } from './native.ts';

/** A struct iovec of a 64-bit system: address and length. It stays where it is. */
const vector = new BigUint64Array(new ArrayBuffer(16));
const vectorBytes = new Uint8Array(vector.buffer);

/**
 * Reads what of the range is in the page cache, up to the first byte that is not. Never waits for a
 * disk. Answers the bytes read; 0: nothing, the end of the file, or the system cannot say.
 */
export function readCached(fd: number, into: Uint8Array, offset: number): number {
  const native = loadNative();
  if (native === null) return 0;
  vector[0] = BigInt(native.addressOf(into));
  vector[1] = BigInt(into.length);
  return Math.max(0, native.preadv2(fd, native.addressOf(vectorBytes), 1, offset, RWF_NOWAIT));
}
