/**
 * Compressed clusters back to plain bytes (qcow2.md, section 4).
 *
 * The bytes of a stream are hostile. A codec answers with exactly one cluster or, when the stream
 * is damaged or too short, with undefined; it never uses more memory than a few clusters. What
 * follows the stream in its last sector is somebody else's and is not looked at.
 */
import { inflateCluster } from './codec-deflate.ts';
import { loadZstd } from './codec-zstd.ts';

/** How the clusters of an image are compressed (header, compression_type). */
export type Compression = 'deflate' | 'zstd';

/**
 * One plain cluster, or undefined for a damaged stream; small clusters are answered at once. It may
 * be made in `room`, which is a cluster long, and then is the answer.
 */
export type Decompress = (
  stream: Uint8Array,
  clusterBytes: number,
  room?: Uint8Array,
) => Uint8Array | undefined | Promise<Uint8Array | undefined>;

/** Makes the codec ready: the module for zstd is loaded when an image needs it. */
export async function loadCodec(compression: Compression): Promise<Decompress> {
  return compression === 'zstd' ? loadZstd() : inflateCluster;
}
