/**
 * Compressed grains (VMware, Virtual Disk Format 5.0, Stream-Optimized Compressed Sparse Extents):
 * a marker with the number of the grain's first sector and the length of what follows, and then a
 * zlib stream (RFC 1950), whose checksum is checked.
 */
import { inflateSync } from 'node:zlib';

/** Of the marker. */
export const MARKER_BYTES = 12;
const MARKER_SIZE = 8;

/** The grain, or undefined when it is damaged. The last one of a disk may be a part of a grain. */
export function inflateGrain(stream: Uint8Array, grainBytes: number): Uint8Array | undefined {
  if (stream.length < MARKER_BYTES) return undefined;
  const view = new DataView(stream.buffer, stream.byteOffset, stream.byteLength);
  const length = view.getUint32(MARKER_SIZE, true);
  if (length === 0 || length > stream.length - MARKER_BYTES) return undefined;
  const packed = stream.subarray(MARKER_BYTES, MARKER_BYTES + length);
  try {
    return inflateSync(packed, {
      chunkSize: grainBytes + SLACK_BYTES,
      maxOutputLength: grainBytes,
    });
  } catch {
    // Damaged, cut off, or longer than a grain.
    return undefined;
  }
}

/** Room after the grain, so that a stream that fits ends in the first buffer. */
const SLACK_BYTES = 64;
