/** A copy of a disk in another format. */
import { invalid } from '../arguments.ts';
import { type CacheModeName, isCacheMode, resolveCacheMode } from '../cache-mode.ts';
import { CodecPool } from '../copy/codec-pool.ts';
import { copyDisk } from '../copy/copy.ts';
import type { ImageOptions } from '../image/image-at.ts';
import { isNbdUri } from '../nbd/uri.ts';
import { checkOptions, type Checks, isOneOf, isSwitch, isText, toPaths } from '../options.ts';
import { copyInto, isThere } from './convert-existing.ts';
import { COPIED_OPTIONS, type CopiedOptions, openCopied } from './convert-source.ts';
import { checkTarget, newTarget, TARGET_OPTIONS, type TargetOptions } from './convert-target.ts';
import { COPYING_OPTIONS, type CopyingOptions, copyingOf } from './copying.ts';
import { type BitmapChoice, checkBitmaps, copyBitmaps } from './copy-bitmaps.ts';

/** Options of `convert`; those of CopiedOptions are about the source. */
export interface ConvertOptions extends CopiedOptions, TargetOptions, CopyingOptions {
  /** Copy the bitmaps of the image, too: `all`, and then none may be unusable, or the `usable`. */
  readonly bitmaps?: BitmapChoice | undefined;
  /**
   * The target is there already and is written as it is: it keeps its size and its format. So does
   * an export of an NBD server, always.
   */
  readonly existing?: boolean | undefined;
  /** Of a target that is there: it reads as zeroes, so that none have to be written. */
  readonly targetIsZero?: boolean | undefined;
  /** Cache mode of the target; default `unsafe`: it is not synced, as with qemu-img. */
  readonly targetCache?: CacheModeName | undefined;
}

const CONVERT_OPTIONS: Checks<ConvertOptions> = {
  ...COPIED_OPTIONS,
  ...TARGET_OPTIONS,
  ...COPYING_OPTIONS,
  bitmaps: isOneOf('all', 'usable'),
  existing: isSwitch,
  targetIsZero: isSwitch,
  targetCache: isCacheMode,
};

/**
 * Copies the disk of an image, or several one behind the other, into a new file, which takes its
 * name when it is whole: until then what has the name stays as it is. The images must not be
 * written meanwhile; they are locked. Both sides may be URIs of exports of NBD servers (`nbd://`,
 * `nbd+unix://`).
 */
export async function convert(
  path: string | readonly string[],
  targetPath: string,
  options: ConvertOptions = {},
): Promise<void> {
  isText(targetPath, 'targetPath');
  checkOptions(options, CONVERT_OPTIONS, 'convert');
  const copying = copyingOf(options);
  const paths = toPaths(path);
  await checkBefore(paths, targetPath, options);
  await using codecs = new CodecPool(copying.parallel);
  await using source = await openCopied(paths, options, codecs);
  const { targetCache: cache = 'unsafe' } = options;
  if (await isThere(targetPath, options)) {
    await copyInto(targetPath, source, options, copying);
    return await addBitmaps(paths, options, targetPath, { cache });
  }
  const { noFlush } = resolveCacheMode(cache).axes;
  const { target, files } = await newTarget(targetPath, source.sizeBytes, options, codecs);
  await using made = files;
  await copyDisk(source, target, copying);
  await target.finish();
  // Nobody else knows the file yet, and it is synced as a whole.
  await addBitmaps(paths, options, made.image.workPath, { cache: 'unsafe', lock: 'none' });
  options.signal?.throwIfAborted();
  await made.finish(!noFlush);
}

async function addBitmaps(
  paths: readonly string[],
  options: ConvertOptions,
  into: string,
  how: ImageOptions,
): Promise<void> {
  const [path] = paths;
  if (options.bitmaps === undefined || path === undefined) return;
  await copyBitmaps({ path, choice: options.bitmaps, options }, into, how);
}

/** What can be said without the disk. */
async function checkBefore(
  paths: readonly string[],
  targetPath: string,
  options: ConvertOptions,
): Promise<void> {
  const { targetFormat = 'raw', bitmaps, startOffset, maxLength, snapshot } = options;
  const keeps = options.existing === true || isNbdUri(targetPath);
  const [first, second] = paths;
  if (keeps && options.compress === true)
    throw invalid('an image that exists is not written compressed');
  if (targetFormat === 'raw' || !keeps) checkTarget(options);
  if (bitmaps === undefined || first === undefined) return;
  if (targetFormat === 'raw') throw invalid('a raw image has no bitmaps: pass targetFormat: qcow2');
  if (second !== undefined || (startOffset ?? maxLength ?? snapshot) !== undefined)
    throw invalid('bitmaps are for the copy of one image, all of it and as it is');
  await checkBitmaps(first, bitmaps, options);
}
