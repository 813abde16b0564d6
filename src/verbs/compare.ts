/** Whether two images have the same disk. */
import { CodecPool } from '../copy/codec-pool.ts';
import { type CompareProgress, firstDifference } from '../copy/compare.ts';
import { openSource, SOURCE_OPTIONS, type SourceOptions } from '../copy/open-source.ts';
import type { Source } from '../copy/source.ts';
import { Layers, type LayersOptions } from '../image/layers.ts';
import { isNbdUri } from '../nbd/uri.ts';
import {
  checkOptions,
  type Checks,
  isCallback,
  isSignal,
  isSwitch,
  isText,
  objectOf,
} from '../options.ts';

/** Options of `compare`. */
export interface CompareImagesOptions {
  /** How the images are opened. */
  readonly first?: SourceOptions | undefined;
  readonly second?: SourceOptions | undefined;
  /** Other sizes and other allocations are differences, too. Default false. */
  readonly strict?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: CompareProgress) => unknown) | undefined;
}

const COMPARE_OPTIONS: Checks<CompareImagesOptions> = {
  first: objectOf(SOURCE_OPTIONS),
  second: objectOf(SOURCE_OPTIONS),
  strict: isSwitch,
  signal: isSignal,
  onProgress: isCallback,
};

/** What was found; offsets are those of sectors of 512 bytes. */
export type Comparison =
  | { readonly result: 'identical'; readonly sizesDiffer: boolean }
  | {
      readonly result: 'content' | 'allocation';
      readonly offset: number;
      readonly sizesDiffer: boolean;
    }
  | { readonly result: 'size'; readonly sizesDiffer: true };

/** Compares two images. What only the longer disk has must be zeroes. */
export async function compare(
  path: string,
  otherPath: string,
  options: CompareImagesOptions = {},
): Promise<Comparison> {
  isText(path, 'path');
  isText(otherPath, 'otherPath');
  checkOptions(options, COMPARE_OPTIONS, 'compare');
  const { first = {}, second = {}, strict = false, signal, onProgress } = options;
  await using codecs = new CodecPool();
  await using one = await openSource(path, { ...first, signal }, codecs);
  await using other = await openSource(otherPath, { ...second, signal }, codecs);
  const sizesDiffer = one.sizeBytes !== other.sizeBytes;
  if (strict && sizesDiffer) return { result: 'size', sizesDiffer };
  const content = await firstDifference([one, other], { signal, onProgress });
  const sides = [
    [path, first, one],
    [otherPath, second, other],
  ] as const;
  const allocation = strict ? await firstStatus(...sides) : undefined;
  if (allocation !== undefined && allocation <= (content ?? Infinity)) {
    return { result: 'allocation', offset: allocation, sizesDiffer };
  }
  if (content === undefined) return { result: 'identical', sizesDiffer };
  return { result: 'content', offset: content, sizesDiffer };
}

type Side = readonly [path: string, options: LayersOptions, source: Source];

/** Where one disk has data, compressed data, zeroes or nothing, and the other something else. */
async function firstStatus(...sides: readonly [Side, Side]): Promise<number | undefined> {
  await using one = await openTables(...sides[0]);
  await using other = await openTables(...sides[1]);
  const walks = [one, other].map((tables) => tables.extents()[Symbol.asyncIterator]());
  const heads = await Promise.all(walks.map((walk) => walk.next()));
  for (let at = 0; ;) {
    const [a, b] = heads;
    if (a?.value === undefined || b?.value === undefined) return undefined;
    if (statusOf(a.value.kind) !== statusOf(b.value.kind)) return at;
    const ends = [a, b].map(({ value }) => (value?.start ?? 0) + (value?.length ?? 0));
    at = Math.min(...ends);
    for (const [index, end] of ends.entries()) {
      const walk = walks[index];
      if (end === at && walk !== undefined) heads[index] = await walk.next();
    }
  }
}

interface Tables extends AsyncDisposable {
  extents(): AsyncIterable<{
    readonly start: number;
    readonly length: number;
    readonly kind: string;
  }>;
}

/** What says where the data of an image is; a server is asked over the connection that there is. */
async function openTables(...[path, options, source]: Side): Promise<Tables> {
  if (!isNbdUri(path)) return await Layers.open(path, options);
  return { extents: () => source.extents(), [Symbol.asyncDispose]: () => Promise.resolve() };
}

function statusOf(kind: string): string {
  return kind === 'zero-allocated' || kind === 'hole' ? 'zero' : kind;
}
