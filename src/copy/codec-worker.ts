/** The thread in which clusters are compressed and decompressed. */
import { parentPort } from 'node:worker_threads';
import { deflateRawSync } from 'node:zlib';

import { type Compression, type Decompress, loadCodec } from '../image/qcow2/codec.ts';
import { loadZstdCompress } from '../image/qcow2/zstd-compress.ts';
import { inflateGrain } from '../image/vmdk/grain-stream.ts';

/** How streams are read: as qcow2 has them, or with the marker of a VMDK grain. */
export type StreamCodec = Compression | 'grain';

/** Work for the thread: clusters to compress, or streams to decompress. */
export interface CodecTask {
  readonly id: number;
  readonly compression: StreamCodec;
  readonly clusterBytes: number;
  /** Plain clusters one behind the other, or bytes of a file with streams in them. */
  readonly bytes: Uint8Array;
  /** Where the streams are in `bytes`; absent: compress. */
  readonly streams?: readonly CodecStream[];
  /** Takes what comes of it, and has room for that. */
  readonly out: Uint8Array;
}

/** Of a compressed cluster: at most these bytes. */
export interface CodecStream {
  readonly offset: number;
  readonly length: number;
}

/** What came of it. */
export interface CodecResult {
  readonly id: number;
  /** The task's `out`: streams one behind the other, or plain clusters. */
  readonly bytes: Uint8Array;
  /** The task's `bytes`, given back. */
  readonly input: Uint8Array;
  /** Of each stream; 0: the cluster did not become smaller. Decompressing: 0: it is damaged. */
  readonly lengths: readonly number[];
}

type Compress = (cluster: Uint8Array) => Uint8Array;

/** What any reader can take: QEMU's has a window of 4 KiB for clusters it has written itself. */
const DEFLATE = { windowBits: 12, memLevel: 9 };

const codecs = new Map<StreamCodec, Promise<Decompress>>();
let zstd: Promise<Compress> | undefined;

async function compressorOf(compression: StreamCodec): Promise<Compress> {
  if (compression !== 'zstd') return (cluster) => deflateRawSync(cluster, DEFLATE);
  zstd ??= loadZstdCompress();
  return zstd;
}

function decompressorOf(compression: StreamCodec): Promise<Decompress> {
  const known = codecs.get(compression) ?? loadDecompress(compression);
  codecs.set(compression, known);
  return known;
}

async function loadDecompress(codec: StreamCodec): Promise<Decompress> {
  return codec === 'grain' ? inflateGrain : loadCodec(codec);
}

async function compressAll({ id, compression, clusterBytes, bytes, out }: CodecTask) {
  const compress = await compressorOf(compression);
  const lengths: number[] = [];
  let used = 0;
  for (let at = 0; at < bytes.length; at += clusterBytes) {
    const stream = compress(bytes.subarray(at, at + clusterBytes));
    const isSmaller = stream.length < clusterBytes;
    lengths.push(isSmaller ? stream.length : 0);
    if (!isSmaller) continue;
    out.set(stream, used);
    used += stream.length;
  }
  return { id, bytes: out, input: bytes, lengths };
}

async function decompressAll(task: CodecTask, streams: readonly CodecStream[]) {
  const { id, compression, clusterBytes, bytes, out } = task;
  const decompress = await decompressorOf(compression);
  const lengths: number[] = [];
  for (const [index, { offset, length }] of streams.entries()) {
    const stream = bytes.subarray(offset, offset + length);
    const room = out.subarray(index * clusterBytes, (index + 1) * clusterBytes);
    const cluster = await decompress(stream, clusterBytes, room);
    lengths.push(cluster?.length ?? 0);
    if (cluster !== undefined && cluster !== room) room.set(cluster);
  }
  return { id, bytes: out, input: bytes, lengths };
}

let last: Promise<unknown> = Promise.resolve();

/** The buffers are handed over, not copied. */
async function answer(task: CodecTask): Promise<void> {
  const { streams } = task;
  const result = await (streams === undefined ? compressAll(task) : decompressAll(task, streams));
  const { bytes, input } = result;
  parentPort?.postMessage(result, [bytes.buffer as ArrayBuffer, input.buffer as ArrayBuffer]);
}

parentPort?.on('message', (task: CodecTask | 'end') => {
  if (task === 'end') void last.then(() => parentPort?.close());
  else last = Promise.all([last, answer(task)]);
});
