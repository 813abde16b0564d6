/**
 * Raw deflate streams. Success is a full cluster: a stream may be longer, or be cut off after it.
 *
 * QEMU compresses with a window of 4 KiB and takes what was made with a larger one, so this
 * inflates with the largest.
 */
import { constants, createInflateRaw, inflateRawSync } from 'node:zlib';

/** Larger clusters are inflated on the pool; for smaller ones the change of threads costs more. */
const INLINE_CLUSTER_BYTES = 65536;
/** Room after the cluster, so that a stream that fits ends in the first buffer. */
const SLACK_BYTES = 64;

const OPTIONS = { windowBits: 15, finishFlush: constants.Z_SYNC_FLUSH };

/** The cluster, or undefined when the stream is damaged or shorter. */
export function inflateCluster(
  stream: Uint8Array,
  clusterBytes: number,
): Uint8Array | undefined | Promise<Uint8Array | undefined> {
  if (clusterBytes > INLINE_CLUSTER_BYTES) return inflatePooled(stream, clusterBytes);
  const chunkSize = clusterBytes + SLACK_BYTES;
  try {
    const options = { ...OPTIONS, chunkSize, maxOutputLength: clusterBytes };
    const plain = inflateRawSync(stream, options);
    return plain.length === clusterBytes ? plain : undefined;
  } catch {
    // Damaged, or longer than the cluster: the other way stops where the cluster is full.
    return inflatePooled(stream, clusterBytes);
  }
}

/** The first buffer that comes out is the cluster, or all that the stream has. */
function inflatePooled(stream: Uint8Array, clusterBytes: number): Promise<Uint8Array | undefined> {
  return new Promise((resolve) => {
    const inflate = createInflateRaw({ ...OPTIONS, chunkSize: clusterBytes });
    inflate.on('data', (plain: Uint8Array) => {
      inflate.destroy();
      resolve(plain.length === clusterBytes ? plain : undefined);
    });
    inflate.on('end', () => resolve(undefined));
    inflate.on('error', () => resolve(undefined));
    inflate.end(stream);
  });
}
