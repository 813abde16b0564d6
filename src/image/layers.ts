/** An image and its backing files, and what each of them says of the disk. */
import {
  backingFormatOf,
  type BackingFormat,
  Chain,
  isPolicy,
  nameBeside,
  type NamedFilePolicy,
  resolveNamed,
} from './chain.ts';
import { type Checks, isOneOf } from '../options.ts';
import {
  diskBytesOf,
  IMAGE_OPTIONS,
  type ImageAt,
  type ImageOptions,
  openImageAt,
  qcow2HeaderOf,
} from './image-at.ts';
import { type TableExtent, tableExtents } from './qcow2/extents.ts';
import type { Qcow2Header } from './qcow2/header.ts';
import {
  headerAtSnapshot,
  isSnapshotChoice,
  type SnapshotChoice,
} from './qcow2/snapshot-header.ts';

/** How an image with backing files is opened. */
export interface LayersOptions extends ImageOptions {
  /** Which files images may name; default none. */
  readonly backing?: NamedFilePolicy | undefined;
  /** The format of the backing file, where the image does not say it. */
  readonly backingFormat?: BackingFormat | undefined;
  /** A snapshot of the image: the disk is what it was then, and as large as it is now. */
  readonly snapshot?: SnapshotChoice | undefined;
}

/** Checks of LayersOptions. */
export const LAYERS_OPTIONS: Checks<LayersOptions> = {
  ...IMAGE_OPTIONS,
  backing: isPolicy,
  backingFormat: isOneOf('raw', 'qcow2'),
  snapshot: isSnapshotChoice,
};

/**
 * A range of the disk, and what says it. Besides the kinds of tables: `hole`: a hole of a raw
 * image; `data-hole`: data that is a hole of the image, so it was never written.
 */
export interface LayerExtent extends Omit<TableExtent, 'kind'> {
  readonly kind: TableExtent['kind'] | 'hole' | 'data-hole';
  /** 0: the image; 1: its backing file; and so on. */
  readonly depth: number;
}

/** Open images, the top one first. */
export class Layers implements AsyncDisposable {
  readonly images: readonly ImageAt[];

  private constructor(images: readonly ImageAt[]) {
    this.images = images;
  }

  /** Opens an image and all below it, for reading. */
  static async open(path: string, options: LayersOptions): Promise<Layers> {
    const images: ImageAt[] = [];
    try {
      for await (const image of chainOf(path, options)) images.push(image);
      return new Layers(images);
    } catch (error) {
      await closeAll(images);
      throw error;
    }
  }

  /** Of the disk. */
  get sizeBytes(): number {
    const [top] = this.images;
    return top === undefined ? 0 : diskBytesOf(top);
  }

  /**
   * What the first image from `depth` on that says something says; `none` where all are silent.
   * The range is inside the image there. Images from `until` on are not asked: what is left to
   * them is `none` with that depth.
   */
  async *extents(
    from = 0,
    to = this.sizeBytes,
    depth = 0,
    until = this.images.length,
  ): AsyncGenerator<LayerExtent, void, void> {
    const [image, below] = this.images.slice(depth, depth + 2);
    if (image === undefined) return;
    if (depth === until) {
      if (from < to) yield { start: from, length: to - from, kind: 'none', depth };
      return;
    }
    for await (const extent of ownExtents(image, from, to)) {
      const end = extent.start + extent.length;
      // What a shorter backing file does not have reads as zeroes, whatever is below it.
      const isSilent = below !== undefined && extent.kind === 'none';
      const border = isSilent ? diskBytesOf(below) : extent.start;
      if (border > extent.start) {
        yield* this.extents(extent.start, Math.min(end, border), depth + 1, until);
      }
      if (border < end) yield { ...behind(extent, Math.max(border, extent.start)), depth };
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return closeAll(this.images);
  }
}

async function* chainOf(path: string, options: LayersOptions): AsyncGenerator<ImageAt, void, void> {
  const { backing: policy = 'deny', format: given, backingFormat, snapshot, ...others } = options;
  const chain = new Chain();
  let next = path;
  let name = path;
  let format = given;
  for (let depth = 0; ; depth++) {
    // What is wrong with the first of them is said as it is said of every image.
    if (depth > 0) await chain.add(next);
    const image: ImageAt = {
      ...(await openImageAt(next, { ...others, format }, false)),
      name,
    };
    yield depth === 0 && snapshot !== undefined ? await atSnapshot(image, snapshot) : image;
    if (depth === 0) await chain.add(next);
    const backing: Qcow2Header['backing'] = image.header?.backing;
    if (backing === undefined) return;
    format = backingFormatOf(backing, image.path, depth === 0 ? backingFormat : undefined);
    name = nameBeside(name, backing.name);
    next = await resolveNamed('backing', backing.name, image.path, policy);
  }
}

/** The image with the tables of a snapshot; it is closed where there is none. */
async function atSnapshot(image: ImageAt, choice: SnapshotChoice): Promise<ImageAt> {
  try {
    const header = qcow2HeaderOf(image, 'snapshots');
    return { ...image, header: await headerAtSnapshot(image.file, header, image.path, choice) };
  } catch (error) {
    await image[Symbol.asyncDispose]();
    throw error;
  }
}

async function closeAll(images: readonly ImageAt[]): Promise<void> {
  await Promise.all(images.map((image) => image[Symbol.asyncDispose]()));
}

type OwnExtent = Omit<LayerExtent, 'depth'>;

/** The extent from `start` on. */
function behind(extent: OwnExtent, start: number): OwnExtent {
  const skipped = start - extent.start;
  const place = extent.offset === undefined ? {} : { offset: extent.offset + skipped };
  return { ...extent, start, length: extent.length - skipped, ...place };
}

/** What an image says itself. */
async function* ownExtents(
  image: ImageAt,
  from: number,
  to: number,
): AsyncGenerator<OwnExtent, void, void> {
  const { file } = image;
  if (from >= to) return;
  const told = toldExtents(image, from, to);
  if (told === undefined) return yield* rawExtents(file, from, to);
  const mayBeHoles = await image.hasPreallocation();
  for await (const extent of told) {
    const { start, length, kind, offset } = extent;
    if (!mayBeHoles || kind !== 'data' || offset === undefined) yield extent;
    else yield* fileExtents(file, offset, offset + length, start, 'data-hole');
  }
}

/** What the image says by its tables; undefined: it is raw. */
function toldExtents(
  { header, disk, file, path }: ImageAt,
  from: number,
  to: number,
): AsyncIterable<TableExtent> | undefined {
  if (header === undefined) return disk?.extents(from, to);
  return tableExtents(file, header, path, from, to);
}

/** The rest of a last sector, which the file has not, reads as zeroes. */
async function* rawExtents(
  file: ImageAt['file'],
  from: number,
  to: number,
): AsyncGenerator<OwnExtent, void, void> {
  const end = Math.min(to, Math.max(from, file.sizeBytes));
  yield* fileExtents(file, from, end, from, 'hole');
  if (end < to) yield { start: end, length: to - end, kind: 'hole', offset: end };
}

/** What of a file is data; its first byte is the one at `start` on the disk. */
async function* fileExtents(
  file: ImageAt['file'],
  from: number,
  to: number,
  start: number,
  hole: 'hole' | 'data-hole',
): AsyncGenerator<OwnExtent, void, void> {
  const end = Math.max(from, Math.min(to, file.sizeBytes));
  for (let at = from; at < end;) {
    for (const { offset, length, kind } of await file.extents(at, end - at)) {
      yield { start: start + offset - from, length, kind: kind === 'data' ? kind : hole, offset };
      at = offset + length;
    }
  }
  // Whoever reads it is told that it is missing.
  if (end < to) yield { start: start + end - from, length: to - end, kind: 'data', offset: end };
}
