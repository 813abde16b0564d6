/** A copy of a disk in another format. */
import { availableParallelism } from 'node:os';

import { invalid, toNumber, toWhole } from '../arguments.ts';
import { type CacheModeName, resolveCacheMode } from '../cache-mode.ts';
import { CodecPool } from '../copy/codec-pool.ts';
import { copyDisk, type CopyProgress } from '../copy/copy.ts';
import { FileWrites } from '../copy/file-writes.ts';
import { ImageTarget } from '../copy/image-target.ts';
import { NewFile } from '../copy/new-file.ts';
import { RawTarget } from '../copy/raw-target.ts';
import { openSource, type SourceOptions } from '../copy/open-source.ts';
import type { Target } from '../copy/target.ts';
import { windowOf } from '../copy/window.ts';
import type { ByteCount } from '../disk-types.ts';
import { type CreateOptions, newImageOf } from '../image/qcow2/create-options.ts';
import type { ImageFormat } from '../image/format.ts';

/** Options of `convert`; those of SourceOptions are about the source. */
export interface ConvertOptions extends SourceOptions {
  /** Copy from there on, in bytes; default 0. */
  readonly startOffset?: ByteCount | undefined;
  /** Copy so many bytes at most; default: up to the end. */
  readonly maxLength?: ByteCount | undefined;
  /** Format of what is made; default raw. */
  readonly targetFormat?: ImageFormat | undefined;
  /** Of a qcow2 image that is made; its size is the source's. */
  readonly image?: Omit<CreateOptions, 'sizeBytes' | 'preallocation' | 'encryption'> | undefined;
  /** Compress its clusters. */
  readonly compress?: boolean | undefined;
  /** Runs of zeroes of as many bytes take no space; 0: all of them do. Default 4096. */
  readonly sparseBytes?: number | undefined;
  /** Pieces of 2 MiB that are under way at once, 1 to 16; default 8. */
  readonly parallel?: number | undefined;
  /** Cache mode of the target; default `unsafe`: it is not synced, as with qemu-img. */
  readonly targetCache?: CacheModeName | undefined;
  readonly onProgress?: ((progress: CopyProgress) => void) | undefined;
}

const DEFAULT_PARALLEL = 8;
const PARALLEL_MAX = 16;
const DEFAULT_SPARSE_BYTES = 4096;

/**
 * Copies the disk of an image into a new file, which takes its name when it is whole: until then
 * what has the name stays as it is. The image must not be written meanwhile; it is locked.
 */
export async function convert(
  path: string,
  targetPath: string,
  options: ConvertOptions = {},
): Promise<void> {
  const { parallel = DEFAULT_PARALLEL, signal, onProgress } = options;
  toWhole(parallel, 'parallel', 1, PARALLEL_MAX);
  const { noFlush } = resolveCacheMode(options.targetCache ?? 'unsafe').axes;
  await using codecs = new CodecPool(Math.min(parallel, availableParallelism()));
  const topOnly = options.image?.backing !== undefined;
  await using whole = await openSource(path, { ...options, topOnly }, codecs);
  const from = toNumber(options.startOffset ?? 0, 'startOffset');
  const most = toNumber(options.maxLength ?? Number.MAX_SAFE_INTEGER, 'maxLength');
  const source = windowOf(whole, from, most);
  const makeTarget = targetOf(source.sizeBytes, options, codecs);
  await using file = await NewFile.create(targetPath);
  const target = makeTarget(new FileWrites(file.handle, targetPath));
  await copyDisk(source, target, { parallel, signal, onProgress });
  await target.finish(file);
  signal?.throwIfAborted();
  await file.finish(!noFlush);
}

/** Everything about the target that can be wrong is found before a file is made. */
function targetOf(
  sizeBytes: number,
  options: ConvertOptions,
  codecs: CodecPool,
): (writes: FileWrites) => Target {
  const { targetFormat = 'raw', compress = false, image = {} } = options;
  const sparseBytes = options.sparseBytes ?? DEFAULT_SPARSE_BYTES;
  if (targetFormat === 'raw') {
    if (compress) throw invalid('a raw image cannot be compressed; pass targetFormat: qcow2');
    return (writes) => new RawTarget(writes, { sizeBytes, sparseBytes });
  }
  const made = newImageOf({ ...image, sizeBytes });
  if (made.preallocation !== 'off' || made.encryption !== undefined) {
    throw invalid('a copy is neither preallocated nor encrypted; leave out what asks for it');
  }
  const isFull = sparseBytes === 0;
  const used = compress ? codecs : undefined;
  return (writes) => new ImageTarget(writes, { image: made, codecs: used, isFull });
}
