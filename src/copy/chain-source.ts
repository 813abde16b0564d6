/**
 * An image and its backing files to copy from. Nobody writes them meanwhile, so what the tables say
 * is read once, in order, and data from where it lies, in pieces as long as it lies together.
 *
 * With a direct cache mode data is read past the page cache where it lies on whole blocks, in the
 * file and in memory; the rest, and streams, through it.
 *
 * H1 A damaged cluster fails the copy, with its place; so does one that lies past the end of its
 *    file.
 */
import type { FileHandle } from 'node:fs/promises';

import { CRYPT_NONE } from '../abi/qcow2.ts';
import { readCached } from '../backend/file-cached.ts';
import { openToRead } from '../backend/file-open.ts';
import { resolveCacheMode } from '../cache-mode.ts';
import { SluiceError } from '../errors.ts';
import type { ImageAt } from '../image/image-at.ts';
import { type LayerExtent, Layers, type LayersOptions } from '../image/layers.ts';
import type { CodecPool } from './codec-pool.ts';
import type { Source, SourceExtent } from './source.ts';

/** How a chain is copied. */
export interface ChainSourceOptions extends LayersOptions {
  /** Only what the image itself says; what its backing file says is `none`. Default false. */
  readonly topOnly?: boolean;
}

/** A range of the disk, and where it lies. */
interface ChainExtent extends SourceExtent {
  readonly layer: Layer;
  /** Where the byte at `origin` on the disk lies; zeroes lie nowhere. */
  readonly offset: number | undefined;
  readonly origin: number;
  readonly stream: LayerExtent['stream'];
}

/** An image of the chain, and a descriptor for its data. */
interface Layer {
  readonly image: ImageAt;
  readonly handle: FileHandle;
  /** It reads past the page cache. */
  readonly direct: FileHandle | undefined;
}

const READS_AS_ZEROES: ReadonlySet<LayerExtent['kind']> = new Set([
  'none',
  'zero',
  'zero-allocated',
  'hole',
  'data-hole',
]);
/** Streams are read together when no more than this lies between them, and not more than that. */
const GAP_BYTES = 65536;
const GROUP_BYTES_MAX = 8 * 1024 * 1024;
const INTERRUPTIONS_MAX = 100;
/** What O_DIRECT asks for is this at most. */
const DIRECT_BYTES = 4096;

/** Opens a chain. Undefined where images are encrypted or have data files. */
export async function openChainSource(
  path: string,
  options: ChainSourceOptions,
  codecs: CodecPool,
): Promise<Source<ChainExtent> | undefined> {
  const layers = await Layers.open(path, options);
  const opened: Layer[] = [];
  const close = async (): Promise<void> => {
    const handles = opened
      .flatMap(({ direct }) => direct ?? [])
      .concat(opened.map(({ handle }) => handle));
    await Promise.all(handles.map((handle) => handle.close()));
    await layers[Symbol.asyncDispose]();
  };
  try {
    if (!layers.images.every(isPlain)) {
      await close();
      return undefined;
    }
    const isDirect = resolveCacheMode(options.cache).axes.direct;
    for (const image of layers.images) {
      const handle = await openToRead(image.path, false);
      const index = opened.push({ image, handle, direct: undefined }) - 1;
      if (!isDirect) continue;
      const direct = await openToRead(image.path, true);
      opened[index] = { image, handle, direct };
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    sizeBytes: layers.sizeBytes,
    extents: () => extentsOf(layers, opened, options.topOnly === true),
    read: (extents, start, into) => readAll(extents, start, into, codecs),
    [Symbol.asyncDispose]: close,
  };
}

function isPlain({ header }: ImageAt): boolean {
  return header === undefined || (header.cryptMethod === CRYPT_NONE && !header.dataFile);
}

async function* extentsOf(
  layers: Layers,
  opened: readonly Layer[],
  topOnly: boolean,
): AsyncGenerator<ChainExtent, void, void> {
  for await (const { start, length, kind, depth, offset, stream } of layers.extents()) {
    // Where the image is silent and nothing is below it, it says zeroes.
    const isLeft = topOnly && depth > 0;
    const copied = READS_AS_ZEROES.has(kind) ? 'zero' : 'data';
    const layer = opened[depth] as Layer;
    const place = copied === 'zero' ? undefined : offset;
    const range = { start, length, origin: start };
    yield { ...range, kind: isLeft ? 'none' : copied, layer, offset: place, stream };
  }
}

async function readAll(
  extents: readonly ChainExtent[],
  start: number,
  into: Uint8Array,
  codecs: CodecPool,
): Promise<void> {
  const work: Promise<void>[] = [];
  const compressed: ChainExtent[] = [];
  for (const extent of extents) {
    const target = into.subarray(extent.start - start, extent.start - start + extent.length);
    if (extent.stream !== undefined) compressed.push(extent);
    else if (extent.offset === undefined) target.fill(0);
    else work.push(readData(extent, extent.offset, target));
  }
  for (const group of groupsOf(compressed)) work.push(readStreams(group, start, into, codecs));
  // What is under way has its descriptor, its thread and its place in the buffer until it is done.
  const settled = await Promise.allSettled(work);
  for (const result of settled) if (result.status === 'rejected') throw result.reason;
}

/**
 * The rest of what a file ends in reads as zeroes: with `clusterBytes` that is a cluster, and what
 * lies behind it is damage.
 */
async function readAt(
  layer: Layer,
  offset: number,
  into: Uint8Array,
  clusterBytes?: number,
): Promise<void> {
  const { path } = layer.image;
  for (let done = 0; done < into.length;) {
    const at = offset + done;
    const length = into.length - done;
    const bytesRead = await readSome(layer, at, into.subarray(done)).catch((cause: unknown) => {
      const what = `read of ${length} bytes at offset ${at} failed: ${String(cause)}`;
      const place = { operation: 'read', path, offset: at, cause };
      throw new SluiceError('ERR_SLUICE_IO', `${JSON.stringify(path)}: ${what}`, place);
    });
    done += bytesRead;
    if (bytesRead > 0) continue;
    // What was there when the file was opened is gone.
    if (at < layer.image.file.sizeBytes) throw cutOff(path, at);
    const left = clusterBytes === undefined ? length : clusterBytes - (at % clusterBytes);
    if (left === clusterBytes) throw cutOff(path, at);
    into.fill(0, done, done + left);
    done += left;
  }
}

function readData({ layer, start, origin }: ChainExtent, offset: number, into: Uint8Array) {
  return readAt(layer, offset + start - origin, into, layer.image.header?.clusterBytes);
}

function cutOff(path: string, offset: number): SluiceError {
  const found = `what belongs at offset ${offset} lies past the end of the file; it was cut off`;
  const advice = 'get the whole image, or salvage what is there';
  const message = `${JSON.stringify(path)}: ${found}: ${advice}`;
  return new SluiceError('ERR_SLUICE_CORRUPT', message, { operation: 'read', path, offset });
}

async function readSome(
  { handle, direct }: Layer,
  offset: number,
  into: Uint8Array,
): Promise<number> {
  const isAligned = (offset | into.byteOffset | into.length) % DIRECT_BYTES === 0;
  if (direct !== undefined && isAligned) {
    try {
      return await readPooled(direct, offset, into);
    } catch (error) {
      // The memory may not be aligned where its view is.
      if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw error;
    }
  }
  const cached = readCached(handle.fd, into, offset);
  return cached > 0 ? cached : readPooled(handle, offset, into);
}

/** libuv repeats writes that a signal has interrupted, and no reads. */
async function readPooled(handle: FileHandle, offset: number, into: Uint8Array): Promise<number> {
  for (let interruptions = 0; ; interruptions++) {
    try {
      return (await handle.read(into, 0, into.length, offset)).bytesRead;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'EINTR' || interruptions === INTERRUPTIONS_MAX) throw error;
    }
  }
}

type Stream = NonNullable<LayerExtent['stream']>;

/** Streams of one image that lie close to each other, in the order of the disk. */
interface StreamGroup {
  readonly layer: Layer;
  readonly extents: ChainExtent[];
  from: number;
  to: number;
}

function groupsOf(extents: readonly ChainExtent[]): StreamGroup[] {
  const groups: StreamGroup[] = [];
  for (const extent of extents) {
    const { layer } = extent;
    const { offset, length } = extent.stream as Stream;
    const last = groups.at(-1);
    const isNear =
      last?.layer === layer &&
      offset >= last.from &&
      offset <= last.to + GAP_BYTES &&
      offset + length <= last.from + GROUP_BYTES_MAX;
    if (isNear) {
      last.extents.push(extent);
      last.to = Math.max(last.to, offset + length);
    } else {
      groups.push({ layer, extents: [extent], from: offset, to: offset + length });
    }
  }
  return groups;
}

async function readStreams(
  { layer, extents, from, to }: StreamGroup,
  start: number,
  into: Uint8Array,
  codecs: CodecPool,
): Promise<void> {
  const { header, disk, path } = layer.image;
  const { clusterBytes, compression } = header ?? disk ?? {};
  if (!clusterBytes || !compression) throw new Error('an image without streams has one');
  const bytes = codecs.take(to - from);
  await readAt(layer, from, bytes);
  const streams = extents.map(({ stream }) => {
    const { offset, length } = stream as Stream;
    return { offset: offset - from, length };
  });
  const plain = await codecs.decompress(compression, clusterBytes, bytes, streams);
  try {
    for (const [index, extent] of extents.entries()) {
      // The extent may be a part of the cluster.
      const skipped = extent.start % clusterBytes;
      // The last grain of a VMDK image may be as short as the disk.
      if ((plain.lengths[index] ?? 0) < skipped + extent.length)
        throw damaged(path, extent, extent.start - skipped);
      const at = index * clusterBytes + skipped;
      into.set(plain.bytes.subarray(at, at + extent.length), extent.start - start);
    }
  } finally {
    plain.release();
  }
}

function damaged(path: string, { stream }: ChainExtent, offset: number): SluiceError {
  const found = `the compressed cluster at offset ${stream?.offset} of the image is damaged`;
  const message = `${JSON.stringify(path)}: ${found}: read at offset ${offset} of the disk failed`;
  return new SluiceError('ERR_SLUICE_CORRUPT', message, { operation: 'read', path, offset });
}
