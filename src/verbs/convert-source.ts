/** The disk that a copy is made of. */
import { invalid, toNumber } from '../arguments.ts';
import type { CodecPool } from '../copy/codec-pool.ts';
import { joinSources } from '../copy/joined-source.ts';
import { openSource, SOURCE_OPTIONS, type SourceOptions } from '../copy/open-source.ts';
import { type OnUnreadable, salvaged } from '../copy/salvage.ts';
import type { Source } from '../copy/source.ts';
import { wholeSectors } from '../copy/whole-sectors.ts';
import { windowOf } from '../copy/window.ts';
import type { ByteCount } from '../disk-types.ts';
import { type Checks, isByteCount, isCallback, toPaths } from '../options.ts';

import type { TargetOptions } from './convert-target.ts';

/** What is copied of images, and how they are opened. */
export interface CopiedOptions extends SourceOptions {
  /** Copy from there on, in bytes; default 0. */
  readonly startOffset?: ByteCount | undefined;
  /** Copy so many bytes at most, and zeroes up to a whole sector; default: up to the end. */
  readonly maxLength?: ByteCount | undefined;
  /** Told of sectors that cannot be read; they are zeroes then. Without it they end the copy. */
  readonly onUnreadable?: OnUnreadable | undefined;
}

/** Checks of CopiedOptions. */
export const COPIED_OPTIONS: Checks<CopiedOptions> = {
  ...SOURCE_OPTIONS,
  startOffset: isByteCount,
  maxLength: isByteCount,
  onUnreadable: isCallback,
};

/** One image, or several one behind the other; over a backing file only what it has not. */
export async function openCopied(
  path: string | readonly string[],
  options: CopiedOptions & Pick<TargetOptions, 'image'>,
  codecs: CodecPool,
): Promise<Source> {
  const paths = toPaths(path);
  const topOnly = options.image?.backing !== undefined;
  const [first, second] = paths;
  if (first === undefined) throw invalid('there is nothing to convert: pass the path of an image');
  if (topOnly && second !== undefined) throw invalid('a backing file is for the copy of one image');
  const sources: Source[] = [];
  try {
    for (const path of paths) sources.push(await openSource(path, { ...options, topOnly }, codecs));
    const from = toNumber(options.startOffset ?? 0, 'startOffset');
    const most = toNumber(options.maxLength ?? Number.MAX_SAFE_INTEGER, 'maxLength');
    const source = wholeSectors(windowOf(joinSources(sources), from, most));
    return options.onUnreadable === undefined ? source : salvaged(source, options.onUnreadable);
  } catch (error) {
    await Promise.all(sources.map((source) => source[Symbol.asyncDispose]()));
    throw error;
  }
}
