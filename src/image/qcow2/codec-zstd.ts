/**
 * Zstandard streams (RFC 8878): frames until the cluster is full, and then the end of a frame.
 *
 * The decoder is libzstd, the system's or in WebAssembly (zstddec). It takes whole frames and a
 * size to stay below, so this finds where a frame ends and what it claims to hold before it is
 * decoded. The frames of the next cluster often follow directly: none is decoded once this is full.
 */
import { zstdLibrary } from './zstd-library.ts';

const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
/** The low four bits of a skippable frame's magic are free. */
const SKIPPABLE_MASK = 0xfffffff0;
const MAGIC_BYTES = 4;
const SKIPPABLE_HEADER_BYTES = 8;

// Frame header descriptor.
const CONTENT_SIZE_SHIFT = 6;
const SINGLE_SEGMENT = 0x20;
const HAS_CHECKSUM = 0x04;
const DICTIONARY_MASK = 3;
const DICTIONARY_BYTES = [0, 1, 2, 4] as const;
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const;
/** A content size of two bytes counts from here. */
const CONTENT_SIZE_2_BASE = 256n;
const CHECKSUM_BYTES = 4;

// Block header, 24 bits: last, type, size.
const BLOCK_HEADER_BYTES = 3;
const BLOCK_LAST = 1;
const BLOCK_TYPE_SHIFT = 1;
const BLOCK_TYPE_MASK = 3;
const BLOCK_SIZE_SHIFT = 3;
const BLOCK_RLE = 1;

/** Where a frame ends and what it says that it holds; undefined when it does not say. */
interface Frame {
  readonly lengthBytes: number;
  readonly contentBytes: number | undefined;
}

/** Decodes a frame; answers its length, 0 for one that is damaged or longer than the room. */
type DecodeFrame = (frame: Uint8Array, room: Uint8Array) => number;

/** One cluster, or undefined when the stream is damaged or shorter. */
type DecodeCluster = (
  stream: Uint8Array,
  clusterBytes: number,
  room?: Uint8Array,
) => Uint8Array | undefined;

/** Loads the fastest decoder that there is. */
export async function loadZstd(): Promise<DecodeCluster> {
  return decoderWith(systemDecoder() ?? (await wasmDecoder()));
}

/** A decoder of clusters over one of frames. */
export function decoderWith(decode: DecodeFrame): DecodeCluster {
  return (stream, clusterBytes, room = new Uint8Array(clusterBytes)) =>
    decodeCluster(decode, stream, room);
}

/** The system's library; undefined where it cannot be had. */
export function systemDecoder(): DecodeFrame | undefined {
  const library = zstdLibrary();
  if (library === undefined) return undefined;
  const context: unknown = library.func('void *ZSTD_createDCtx()')();
  const decompress = library.func(
    'size_t ZSTD_decompressDCtx(void *ctx, void *dst, size_t room, const void *src, size_t n)',
  ) as (...args: unknown[]) => number | bigint;
  return (frame, room) => {
    // An error is a number past all lengths.
    const length = Number(decompress(context, room, room.length, frame, frame.length));
    return length > room.length ? 0 : length;
  };
}

/** libzstd in WebAssembly: always there. */
export async function wasmDecoder(): Promise<DecodeFrame> {
  const { ZSTDDecoder } = await import('zstddec');
  const decoder = new ZSTDDecoder();
  await decoder.init();
  return (frame, room) => {
    const plain = decoder.decode(frame, room.length);
    room.set(plain);
    return plain.length;
  };
}

function decodeCluster(
  decode: DecodeFrame,
  stream: Uint8Array,
  cluster: Uint8Array,
): Uint8Array | undefined {
  let filled = 0;
  for (let position = 0; filled < cluster.length;) {
    const frame = frameAt(stream, position);
    if (frame === undefined) return undefined;
    const end = position + frame.lengthBytes;
    if (frame.contentBytes !== 0) {
      const room = cluster.subarray(filled);
      if (frame.contentBytes !== undefined && frame.contentBytes > room.length) return undefined;
      const length = decode(stream.subarray(position, end), room);
      if (length === 0) return undefined;
      filled += length;
    }
    position = end;
  }
  return cluster;
}

/** The frame at this position, when it is whole. */
function frameAt(stream: Uint8Array, position: number): Frame | undefined {
  const view = new DataView(stream.buffer, stream.byteOffset + position, stream.length - position);
  if (view.byteLength < SKIPPABLE_HEADER_BYTES) return undefined;
  const magic = view.getUint32(0, true);
  if (magic === FRAME_MAGIC) return dataFrame(view);
  if ((magic & SKIPPABLE_MASK) >>> 0 !== SKIPPABLE_MAGIC) return undefined;
  const lengthBytes = SKIPPABLE_HEADER_BYTES + view.getUint32(MAGIC_BYTES, true);
  return lengthBytes > view.byteLength ? undefined : { lengthBytes, contentBytes: 0 };
}

function dataFrame(view: DataView): Frame | undefined {
  const descriptor = view.getUint8(MAGIC_BYTES);
  const isSingle = (descriptor & SINGLE_SEGMENT) !== 0;
  const windowBytes = isSingle ? 0 : 1;
  const dictionaryBytes = DICTIONARY_BYTES[descriptor & DICTIONARY_MASK] ?? 0;
  const sizeOffset = MAGIC_BYTES + 1 + windowBytes + dictionaryBytes;
  const sizeBytes = CONTENT_SIZE_BYTES[descriptor >> CONTENT_SIZE_SHIFT] || Number(isSingle);
  const blocks = sizeOffset + sizeBytes;
  if (blocks > view.byteLength) return undefined;
  const end = endOfBlocks(view, blocks);
  if (end === undefined) return undefined;
  const lengthBytes = end + ((descriptor & HAS_CHECKSUM) === 0 ? 0 : CHECKSUM_BYTES);
  if (lengthBytes > view.byteLength) return undefined;
  return { lengthBytes, contentBytes: contentSize(view, sizeOffset, sizeBytes) };
}

function contentSize(view: DataView, offset: number, sizeBytes: number): number | undefined {
  if (sizeBytes === 0) return undefined;
  let size = 0n;
  for (let index = sizeBytes - 1; index >= 0; index--) {
    size = (size << 8n) | BigInt(view.getUint8(offset + index));
  }
  return Number(sizeBytes === 2 ? size + CONTENT_SIZE_2_BASE : size);
}

/** Follows the headers of the blocks to the end of the last one. */
function endOfBlocks(view: DataView, first: number): number | undefined {
  for (let position = first; position + BLOCK_HEADER_BYTES <= view.byteLength;) {
    const header = view.getUint16(position, true) | (view.getUint8(position + 2) << 16);
    const isRle = ((header >> BLOCK_TYPE_SHIFT) & BLOCK_TYPE_MASK) === BLOCK_RLE;
    position += BLOCK_HEADER_BYTES + (isRle ? 1 : header >> BLOCK_SIZE_SHIFT);
    if ((header & BLOCK_LAST) !== 0) return position;
  }
  return undefined;
}
