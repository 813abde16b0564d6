/**
 * Where a disk may read differently over another backing file, found out by tables alone.
 *
 * R1 A range that both sides know to be zeroes, or that both have at one place of one file, reads
 *    the same and need not be read. All else is to be compared.
 */
import { stat } from 'node:fs/promises';

import type { LayerExtent, Layers } from '../image/layers.ts';

/** A range of the disk whose bytes may differ. */
export interface Run {
  readonly start: number;
  readonly length: number;
  /** The old side reads as zeroes there. */
  readonly wasZero: boolean;
  /** The new side reads as zeroes there. */
  readonly isZero: boolean;
}

/** The images of a chain from `depth` on: what a disk shows where the images above are silent. */
export interface Side {
  readonly layers: Layers;
  readonly depth: number;
  readonly sizeBytes: number;
  /** Of the file of each image: which file it is. */
  readonly files: readonly string[];
}

type Extent = Pick<LayerExtent, 'start' | 'length' | 'kind' | 'offset' | 'stream' | 'depth'>;

const DATA: ReadonlySet<LayerExtent['kind']> = new Set(['data', 'compressed']);

/** A chain without its first images. */
export async function sideOf(layers: Layers, depth: number): Promise<Side> {
  const files = await Promise.all(layers.images.map(({ path }) => fileAt(path)));
  const image = layers.images[depth];
  const sizeBytes = image === undefined ? 0 : (image.header?.sizeBytes ?? image.file.sizeBytes);
  return { layers, depth, sizeBytes, files };
}

/** Which file a path leads to. */
export async function fileAt(path: string): Promise<string> {
  const { dev, ino } = await stat(path, { bigint: true });
  return `${dev}:${ino}`;
}

/** The ranges where the disk shows what is below its own image, and may not read as it did. */
export async function* runsOf(was: Side, is: Side): AsyncGenerator<Run, void, void> {
  for await (const { start, length, depth, kind } of was.layers.extents(0, undefined, 0, 1)) {
    const isSilent = depth > 0 || kind === 'none';
    if (isSilent) yield* differences(was, is, start, start + length);
  }
}

async function* differences(
  was: Side,
  is: Side,
  from: number,
  to: number,
): AsyncGenerator<Run, void, void> {
  const other = extentsOf(is, from, to);
  let next = await other.next();
  for await (const one of extentsOf(was, from, to)) {
    const end = one.start + one.length;
    for (let at = one.start; at < end;) {
      while (!next.done && next.value.start + next.value.length <= at) next = await other.next();
      if (next.done) return;
      const two = next.value;
      const last = Math.min(end, two.start + two.length);
      const wasZero = !DATA.has(one.kind);
      const isZero = !DATA.has(two.kind);
      const isSame = (wasZero && isZero) || isOnePlace(was, one, is, two);
      if (!isSame) yield { start: at, length: last - at, wasZero, isZero };
      at = last;
    }
  }
}

/** All of the range: what is behind the end of a side reads as zeroes. */
async function* extentsOf(side: Side, from: number, to: number): AsyncGenerator<Extent> {
  const { layers, depth, sizeBytes } = side;
  const end = Math.max(from, Math.min(to, sizeBytes));
  yield* layers.extents(from, end, depth);
  if (end < to) yield { start: end, length: to - end, kind: 'none', depth };
}

/** R1. Extents that say where data lies are cut at different places. */
function isOnePlace(was: Side, one: Extent, is: Side, two: Extent): boolean {
  if (was.files[one.depth] !== is.files[two.depth] || one.kind !== two.kind) return false;
  if (one.stream !== undefined) return one.stream.offset === two.stream?.offset;
  if (one.offset === undefined || two.offset === undefined) return false;
  return one.offset - one.start === two.offset - two.start;
}
