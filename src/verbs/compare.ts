/** Whether two images have the same disk. */
import { CodecPool } from '../copy/codec-pool.ts';
import { type CompareProgress, firstDifference } from '../copy/compare.ts';
import { openSource, type SourceOptions } from '../copy/open-source.ts';
import { Layers, type LayersOptions } from '../image/layers.ts';

/** Options of `compare`. */
export interface CompareImagesOptions {
  /** How the images are opened. */
  readonly first?: SourceOptions | undefined;
  readonly second?: SourceOptions | undefined;
  /** Other sizes and other allocations are differences, too. Default false. */
  readonly strict?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: CompareProgress) => void) | undefined;
}

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
  const { first = {}, second = {}, strict = false, signal, onProgress } = options;
  await using codecs = new CodecPool();
  await using one = await openSource(path, { ...first, signal }, codecs);
  await using other = await openSource(otherPath, { ...second, signal }, codecs);
  const sizesDiffer = one.sizeBytes !== other.sizeBytes;
  if (strict && sizesDiffer) return { result: 'size', sizesDiffer };
  const content = await firstDifference([one, other], { signal, onProgress });
  const allocation = strict ? await firstStatus([path, first], [otherPath, second]) : undefined;
  if (allocation !== undefined && allocation <= (content ?? Infinity)) {
    return { result: 'allocation', offset: allocation, sizesDiffer };
  }
  if (content === undefined) return { result: 'identical', sizesDiffer };
  return { result: 'content', offset: content, sizesDiffer };
}

/** Where one disk has data, compressed data, zeroes or nothing, and the other something else. */
async function firstStatus(
  ...images: readonly [readonly [string, LayersOptions], readonly [string, LayersOptions]]
): Promise<number | undefined> {
  await using one = await Layers.open(...images[0]);
  await using other = await Layers.open(...images[1]);
  const walks = [one.extents(), other.extents()] as const;
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

function statusOf(kind: string): string {
  return kind === 'zero-allocated' || kind === 'hole' ? 'zero' : kind;
}
