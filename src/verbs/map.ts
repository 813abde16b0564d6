/** Where the bytes of a disk lie, in the keys of `qemu-img map --output=json`. */
import { CRYPT_NONE } from '../abi/qcow2.ts';
import { toNumber } from '../arguments.ts';
import type { ByteCount } from '../disk-types.ts';
import {
  backingFormatOf,
  type BackingFormat,
  Chain,
  type NamedFilePolicy,
  resolveNamed,
} from '../image/chain.ts';
import { mergeExtents } from '../image/merge-extents.ts';
import { tableExtents } from '../image/qcow2/extents.ts';
import type { Qcow2Header } from '../image/qcow2/header.ts';
import { type ImageAt, type ImageOptions, openImageAt } from './image-at.ts';

/** A range of a disk. */
export interface MapExtent {
  /** Byte offset on the disk. */
  readonly start: number;
  readonly length: number;
  /** 0: this image says it; 1: its backing file; and so on. */
  readonly depth: number;
  /** An image of the chain says something of it. */
  readonly present: boolean;
  /** It reads as zeroes. */
  readonly zero: boolean;
  /** Data is stored for it. */
  readonly data: boolean;
  /** Where the bytes lie in `filename`: not for compressed and encrypted ones. */
  readonly offset?: number;
  readonly filename?: string;
}

/** Options of `map`. */
export interface MapOptions extends ImageOptions {
  readonly startOffset?: ByteCount | undefined;
  /** Default: up to the end of the disk. */
  readonly maxLength?: ByteCount | undefined;
  /** Which files images may name; default none. */
  readonly backing?: NamedFilePolicy | undefined;
  /** The format of the backing file, where the image does not say it. */
  readonly backingFormat?: BackingFormat | undefined;
}

/** Tells the ranges of a disk in order; neighbours that are alike are one. */
export async function* map(
  path: string,
  options: MapOptions = {},
): AsyncGenerator<MapExtent, void, void> {
  await using layers = new Layers();
  await layers.open(path, options);
  const from = toNumber(options.startOffset ?? 0, 'startOffset');
  const most = toNumber(options.maxLength ?? Number.MAX_SAFE_INTEGER, 'maxLength');
  const to = Math.min(layers.sizeBytes, from + most);
  for await (const extent of mergeExtents(layers.extents(0, from, to), isAlike)) {
    options.signal?.throwIfAborted();
    yield extent;
  }
}

/** An image and its backing files. */
class Layers implements AsyncDisposable {
  readonly #images: ImageAt[] = [];

  /** Of the top one. */
  get sizeBytes(): number {
    const [top] = this.#images;
    return top === undefined ? 0 : sizeOf(top);
  }

  async open(path: string, options: MapOptions): Promise<void> {
    const { backing: policy = 'deny', format: given, backingFormat, ...others } = options;
    const chain = new Chain();
    let next: string | undefined = path;
    let format = given;
    while (next !== undefined) {
      await chain.add(next);
      const image: ImageAt = await openImageAt(next, { ...others, format }, false);
      this.#images.push(image);
      const backing: Qcow2Header['backing'] = image.header?.backing;
      if (backing === undefined) return;
      const isTop = this.#images.length === 1;
      format = backingFormatOf(backing, image.path, isTop ? backingFormat : undefined);
      next = await resolveNamed('backing', backing.name, image.path, policy);
    }
  }

  /** What the images from `depth` on say of the range, which is inside the first of them. */
  async *extents(depth: number, from: number, to: number): AsyncGenerator<MapExtent, void, void> {
    const [image, below] = this.#images.slice(depth, depth + 2);
    if (image === undefined) return;
    for await (const extent of ownExtents(image, depth, from, to)) {
      const end = extent.start + extent.length;
      // What a shorter backing file does not have reads as zeroes, whatever is below it.
      const border = below === undefined || extent.present ? extent.start : sizeOf(below);
      if (border > extent.start) {
        yield* this.extents(depth + 1, extent.start, Math.min(end, border));
      }
      if (border < end) yield behind(extent, Math.max(border, extent.start));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#images.map((image) => image[Symbol.asyncDispose]()));
  }
}

/** The extent from `start` on. */
function behind(extent: MapExtent, start: number): MapExtent {
  const skipped = start - extent.start;
  const place = extent.offset === undefined ? {} : { offset: extent.offset + skipped };
  return { ...extent, start, length: extent.length - skipped, ...place };
}

function sizeOf({ header, file }: ImageAt): number {
  return header?.sizeBytes ?? file.sizeBytes;
}

/** What an image says itself; not `present` where it says nothing. */
async function* ownExtents(
  image: ImageAt,
  depth: number,
  from: number,
  to: number,
): AsyncGenerator<MapExtent, void, void> {
  const { header, file, path } = image;
  if (from >= to) return;
  if (header === undefined) return yield* rawExtents(file, path, depth, from, to);
  const hasPlaces = header.cryptMethod === CRYPT_NONE;
  const mayBeHoles = await image.hasPreallocation();
  const filename = header.dataFile?.name ?? path;
  for await (const extent of tableExtents(file, header, path, from, to)) {
    const { start, length, kind, offset } = extent;
    const isData = kind === 'data' || kind === 'compressed';
    const said = { depth, present: kind !== 'none', zero: !isData, data: isData };
    if (offset === undefined || !hasPlaces) yield { start, length, ...said };
    else if (kind !== 'data' || !mayBeHoles) yield { start, length, ...said, offset, filename };
    else {
      for await (const piece of rawExtents(file, path, depth, offset, offset + length)) {
        const at = start + piece.start - offset;
        yield { ...piece, start: at, data: true };
      }
    }
  }
}

async function* rawExtents(
  file: ImageAt['file'],
  path: string,
  depth: number,
  from: number,
  to: number,
): AsyncGenerator<MapExtent, void, void> {
  for (let at = from; at < to;) {
    for (const { offset, length, kind } of await file.extents(at, to - at)) {
      const isData = kind === 'data';
      const said = { present: true, zero: !isData, data: isData };
      yield { start: offset, length, depth, ...said, offset, filename: path };
      at = offset + length;
    }
  }
}

function isAlike(one: MapExtent, { depth, present, zero, data, filename }: MapExtent): boolean {
  if (one.depth !== depth || one.present !== present || one.filename !== filename) return false;
  return one.zero === zero && one.data === data;
}
