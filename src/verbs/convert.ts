/** A copy of a disk in another format. */
import { availableParallelism } from 'node:os';

import { invalid, toNumber, toSwitch, toWhole } from '../arguments.ts';
import { type CacheModeName, resolveCacheMode } from '../cache-mode.ts';
import { CodecPool } from '../copy/codec-pool.ts';
import { copyDisk, type CopyProgress } from '../copy/copy.ts';
import { FileWrites } from '../copy/file-writes.ts';
import { ImageTarget } from '../copy/image-target.ts';
import { NewFile } from '../copy/new-file.ts';
import { RawTarget } from '../copy/raw-target.ts';
import { openSource, type SourceOptions } from '../copy/open-source.ts';
import { DiskTarget } from '../copy/disk-target.ts';
import { joinSources } from '../copy/joined-source.ts';
import { type OnUnreadable, salvaged } from '../copy/salvage.ts';
import type { Source } from '../copy/source.ts';
import type { Target } from '../copy/target.ts';
import { windowOf } from '../copy/window.ts';
import type { ByteCount } from '../disk-types.ts';
import { type CreateOptions, newImageOf } from '../image/qcow2/create-options.ts';
import { checkTargetFormat, type ImageFormat } from '../image/format.ts';
import { openDisk } from '../open-disk.ts';

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
  /** The target is there already and is written as it is: it keeps its size and its format. */
  readonly existing?: boolean | undefined;
  /** With `existing`: it reads as zeroes, so that none have to be written. */
  readonly targetIsZero?: boolean | undefined;
  /** Told of sectors that cannot be read; they are zeroes then. Without it they end the copy. */
  readonly onUnreadable?: OnUnreadable | undefined;
  /** Cache mode of the target; default `unsafe`: it is not synced, as with qemu-img. */
  readonly targetCache?: CacheModeName | undefined;
  readonly onProgress?: ((progress: CopyProgress) => void) | undefined;
}

const DEFAULT_PARALLEL = 8;
const PARALLEL_MAX = 16;
const DEFAULT_SPARSE_BYTES = 4096;

/**
 * Copies the disk of an image, or several one behind the other, into a new file, which takes its
 * name when it is whole: until then what has the name stays as it is. The images must not be
 * written meanwhile; they are locked.
 */
export async function convert(
  path: string | readonly string[],
  targetPath: string,
  options: ConvertOptions = {},
): Promise<void> {
  const { parallel = DEFAULT_PARALLEL } = options;
  toWhole(parallel, 'parallel', 1, PARALLEL_MAX);
  checkSparse(options.sparseBytes);
  checkTargetFormat(options.targetFormat ?? 'raw');
  if (path.length === 0) throw invalid('there is nothing to convert: pass the path of an image');
  await using codecs = new CodecPool(Math.min(parallel, availableParallelism()));
  await using source = await openAll(typeof path === 'string' ? [path] : path, options, codecs);
  if (options.existing === true) return await copyInto(targetPath, source, options);
  const { noFlush } = resolveCacheMode(options.targetCache ?? 'unsafe').axes;
  const makeTarget = targetOf(source.sizeBytes, options, codecs);
  await using file = await NewFile.create(targetPath);
  const target = makeTarget(new FileWrites(file.handle, targetPath));
  await copyDisk(source, target, { ...options, parallel });
  await target.finish(file);
  options.signal?.throwIfAborted();
  await file.finish(!noFlush);
}

/** Granules must fit the pieces. */
function checkSparse(bytes: number | undefined): void {
  if (bytes === undefined || bytes === 0) return;
  const isGranule = Number.isInteger(Math.log2(bytes)) && bytes >= 512 && bytes <= 2 ** 21;
  if (!isGranule) throw invalid('sparseBytes is 0 or a power of two from 512 to 2 MiB');
}

async function openAll(
  paths: readonly string[],
  options: ConvertOptions,
  codecs: CodecPool,
): Promise<Source> {
  const topOnly = options.image?.backing !== undefined;
  if (topOnly && paths.length > 1) throw invalid('a backing file is for the copy of one image');
  const sources: Source[] = [];
  try {
    for (const path of paths) sources.push(await openSource(path, { ...options, topOnly }, codecs));
    const from = toNumber(options.startOffset ?? 0, 'startOffset');
    const most = toNumber(options.maxLength ?? Number.MAX_SAFE_INTEGER, 'maxLength');
    const source = windowOf(joinSources(sources), from, most);
    return options.onUnreadable === undefined ? source : salvaged(source, options.onUnreadable);
  } catch (error) {
    await Promise.all(sources.map((source) => source[Symbol.asyncDispose]()));
    throw error;
  }
}

/** Into an image that is there, which keeps its size. */
async function copyInto(path: string, source: Source, options: ConvertOptions): Promise<void> {
  const { targetFormat = 'raw', parallel = DEFAULT_PARALLEL, targetCache = 'unsafe' } = options;
  if (options.compress === true) throw invalid('an image that exists is not written compressed');
  const cache = { cache: targetCache, writable: true } as const;
  const encryption = targetFormat === 'raw' ? undefined : options.encryption;
  const backing = targetFormat === 'raw' ? undefined : options.backing;
  await using disk = await openDisk(path, { format: targetFormat, ...cache, encryption, backing });
  if (disk.size < source.sizeBytes) {
    const found = `it has ${disk.size} bytes, and the source ${source.sizeBytes}`;
    throw invalid(`cannot copy into ${JSON.stringify(path)}: ${found}; resize it first`);
  }
  const sparseBytes = options.sparseBytes ?? DEFAULT_SPARSE_BYTES;
  const target = new DiskTarget(disk, { sparseBytes, isZero: options.targetIsZero === true });
  await copyDisk(source, target, { ...options, parallel });
  await target.finish();
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
    if (toSwitch(compress, 'compress'))
      throw invalid('a raw image cannot be compressed; pass targetFormat: qcow2');
    return (writes) => new RawTarget(writes, { sizeBytes, sparseBytes });
  }
  const made = newImageOf({ ...image, sizeBytes });
  if (made.preallocation !== 'off' || made.encryption !== undefined) {
    throw invalid('a copy is neither preallocated nor encrypted; leave out what asks for it');
  }
  const isFull = sparseBytes === 0;
  const used = toSwitch(compress, 'compress') ? codecs : undefined;
  return (writes) => new ImageTarget(writes, { image: made, codecs: used, isFull });
}
