/** A copy of a disk in another format. */
import { availableParallelism } from 'node:os';

import { invalid } from '../arguments.ts';
import { type CacheModeName, resolveCacheMode } from '../cache-mode.ts';
import { CodecPool } from '../copy/codec-pool.ts';
import { copyDisk, type CopyOptions } from '../copy/copy.ts';
import { DiskTarget } from '../copy/disk-target.ts';
import { isBlockDevice } from '../copy/new-file.ts';
import type { Source } from '../copy/source.ts';
import { openDisk } from '../open-disk.ts';
import { type CopiedOptions, openCopied } from './convert-source.ts';
import {
  checkRaw,
  checkSparse,
  DEFAULT_SPARSE_BYTES,
  newQcow2Of,
  newTarget,
  type TargetOptions,
} from './convert-target.ts';
import { type CopyingOptions, copyingOf } from './copying.ts';
import { type BitmapChoice, checkBitmaps, copyBitmaps } from './copy-bitmaps.ts';

/** Options of `convert`; those of CopiedOptions are about the source. */
export interface ConvertOptions extends CopiedOptions, TargetOptions, CopyingOptions {
  /** Copy the bitmaps of the image, too: `all`, and then none may be unusable, or the `usable`. */
  readonly bitmaps?: BitmapChoice | undefined;
  /** The target is there already and is written as it is: it keeps its size and its format. */
  readonly existing?: boolean | undefined;
  /** With `existing`: it reads as zeroes, so that none have to be written. */
  readonly targetIsZero?: boolean | undefined;
  /** Cache mode of the target; default `unsafe`: it is not synced, as with qemu-img. */
  readonly targetCache?: CacheModeName | undefined;
}

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
  const copying = copyingOf(options);
  const paths = typeof path === 'string' ? [path] : path;
  await checkBefore(paths, options);
  await using codecs = new CodecPool(Math.min(copying.parallel, availableParallelism()));
  const topOnly = options.image?.backing !== undefined;
  await using source = await openCopied(paths, { ...options, topOnly }, codecs);
  const addBitmaps = async (into: string): Promise<void> => {
    const { bitmaps } = options;
    if (bitmaps !== undefined) await copyBitmaps(paths[0] as string, into, bitmaps, options);
  };
  if (await isWrittenInPlace(targetPath, options)) {
    await copyInto(targetPath, source, options, copying);
    return await addBitmaps(targetPath);
  }
  const { noFlush } = resolveCacheMode(options.targetCache ?? 'unsafe').axes;
  await using made = await newTarget(targetPath, source.sizeBytes, options, codecs);
  await copyDisk(source, made.target, copying);
  await made.target.finish();
  await addBitmaps(made.file.workPath);
  options.signal?.throwIfAborted();
  await made.finish(!noFlush);
}

/** What can be said without the disk. */
async function checkBefore(paths: readonly string[], options: ConvertOptions): Promise<void> {
  const { targetFormat = 'raw', existing, bitmaps, startOffset, maxLength, snapshot } = options;
  checkSparse(options.sparseBytes);
  const [first, second] = paths;
  if (existing === true && options.compress === true)
    throw invalid('an image that exists is not written compressed');
  if (targetFormat === 'raw') checkRaw(options);
  else if (existing !== true) newQcow2Of(0, options);
  if (bitmaps === undefined || first === undefined) return;
  if (targetFormat === 'raw') throw invalid('a raw image has no bitmaps: pass targetFormat: qcow2');
  if (second !== undefined || (startOffset ?? maxLength ?? snapshot) !== undefined)
    throw invalid('bitmaps are for the copy of one image, all of it and as it is');
  await checkBitmaps(first, bitmaps, options);
}

/** A block device that is to be raw is there already, and shows what it held before. */
async function isWrittenInPlace(path: string, options: ConvertOptions): Promise<boolean> {
  if (options.existing === true) return true;
  return (options.targetFormat ?? 'raw') === 'raw' && (await isBlockDevice(path));
}

/** Into an image that is there, which keeps its size. */
async function copyInto(
  path: string,
  source: Source,
  options: ConvertOptions,
  copying: CopyOptions,
): Promise<void> {
  const { targetFormat = 'raw', targetCache = 'unsafe', preallocation = 'off' } = options;
  const cache = { cache: targetCache, writable: true } as const;
  const encryption = targetFormat === 'raw' ? undefined : options.encryption;
  const backing = targetFormat === 'raw' ? undefined : options.backing;
  await using disk = await openDisk(path, { format: targetFormat, ...cache, encryption, backing });
  if (disk.size < source.sizeBytes) {
    const found = `it has ${disk.size} bytes, and the source ${source.sizeBytes}`;
    throw invalid(`cannot copy into ${JSON.stringify(path)}: ${found}; resize it first`);
  }
  const granule = options.sparseBytes ?? DEFAULT_SPARSE_BYTES;
  const sparseBytes = preallocation === 'off' ? granule : 0;
  const target = new DiskTarget(disk, { sparseBytes, isZero: options.targetIsZero === true });
  await copyDisk(source, target, copying);
  await target.finish();
}
