/**
 * Compression of clusters with Zstandard, by the fastest there is: node:zlib where it knows zstd
 * (Node 22.15), the system's libzstd through koffi, or libzstd in WebAssembly.
 */
import zlib from 'node:zlib';

import { zstdLibrary } from './zstd-library.ts';

/** A frame; one that is not smaller than the cluster may be cut. */
export type ZstdCompress = (cluster: Uint8Array) => Uint8Array;

/** zstd's own default. */
const LEVEL = 3;

/** What newer Nodes have. */
interface ZlibWithZstd {
  zstdCompressSync(bytes: Uint8Array): Uint8Array;
}

/** Finds the compressor. */
export async function loadZstdCompress(): Promise<ZstdCompress> {
  const newer = zlib as Partial<ZlibWithZstd>;
  if (newer.zstdCompressSync !== undefined) {
    return (cluster) => (newer as ZlibWithZstd).zstdCompressSync(cluster);
  }
  return systemCompress() ?? (await wasmCompress());
}

/** The system's library; undefined where koffi or the library is not installed. */
export function systemCompress(): ZstdCompress | undefined {
  const library = zstdLibrary();
  if (library === undefined) return undefined;
  const context: unknown = library.func('void *ZSTD_createCCtx()')();
  const compress = library.func(
    'size_t ZSTD_compressCCtx(void *ctx, void *dst, size_t room, const void *src, size_t n, int l)',
  ) as (...args: unknown[]) => number | bigint;
  return (cluster) => {
    const out = new Uint8Array(cluster.length);
    // An error is a number past all lengths; here there is one: no room.
    const length = Number(compress(context, out, out.length, cluster, cluster.length, LEVEL));
    return out.subarray(0, Math.min(length, out.length));
  };
}

/** The one that is always there. */
export async function wasmCompress(): Promise<ZstdCompress> {
  const { init, compress } = await import('@bokuweb/zstd-wasm');
  await init();
  return (cluster) => compress(cluster, LEVEL);
}
