/** Where the bytes of a disk lie, in the keys of `qemu-img map --output=json`. */
import { CRYPT_NONE } from '../abi/qcow2.ts';
import { toNumber } from '../arguments.ts';
import type { ByteCount } from '../disk-types.ts';
import type { ImageAt } from '../image/image-at.ts';
import { Layers, LAYERS_OPTIONS, type LayersOptions } from '../image/layers.ts';
import { mergeExtents } from '../image/merge-extents.ts';
import { openNbdSource } from '../copy/nbd-source.ts';
import { windowOf } from '../copy/window.ts';
import { isNbdUri } from '../nbd/uri.ts';
import { checkOptions, type Checks, isByteCount, isText } from '../options.ts';

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
export interface MapOptions extends LayersOptions {
  readonly startOffset?: ByteCount | undefined;
  /** Default: up to the end of the disk. */
  readonly maxLength?: ByteCount | undefined;
}

const MAP_OPTIONS: Checks<MapOptions> = {
  ...LAYERS_OPTIONS,
  startOffset: isByteCount,
  maxLength: isByteCount,
};

/** Tells the ranges of a disk in order; neighbours that are alike are one. */
export async function* map(
  path: string,
  options: MapOptions = {},
): AsyncGenerator<MapExtent, void, void> {
  isText(path, 'path');
  checkOptions(options, MAP_OPTIONS, 'map');
  const from = toNumber(options.startOffset ?? 0, 'startOffset');
  const most = toNumber(options.maxLength ?? Number.MAX_SAFE_INTEGER, 'maxLength');
  const tell = isNbdUri(path) ? toldOfExport : toldOfImage;
  for await (const extent of mergeExtents(tell(path, options, from, most), isAlike)) {
    options.signal?.throwIfAborted();
    yield extent;
  }
}

type Told = AsyncGenerator<MapExtent, void, void>;

async function* toldOfImage(path: string, options: MapOptions, from: number, most: number): Told {
  await using layers = await Layers.open(path, options);
  yield* told(layers, from, Math.min(layers.sizeBytes, from + most));
}

/** What a server tells, as of a raw image. */
async function* toldOfExport(path: string, options: MapOptions, from: number, most: number): Told {
  await using source = windowOf(await openNbdSource(path, options), from, most);
  for await (const { start, length, kind } of source.extents()) {
    const place = { offset: start + from, filename: path };
    const isData = kind === 'data';
    const said = { depth: 0, present: true, zero: !isData, data: isData };
    yield { start: start + from, length, ...said, ...place };
  }
}

async function* told(layers: Layers, from: number, to: number): Told {
  for await (const { start, length, depth, kind, offset } of layers.extents(from, to)) {
    const { header, name } = layers.images[depth] as ImageAt;
    const data = kind === 'data' || kind === 'compressed' || kind === 'data-hole';
    const zero = !data || kind === 'data-hole';
    const hasPlace = offset !== undefined && (header?.cryptMethod ?? CRYPT_NONE) === CRYPT_NONE;
    const place = hasPlace ? { offset, filename: header?.dataFile?.name ?? name } : {};
    yield { start, length, depth, present: kind !== 'none', zero, data, ...place };
  }
}

function isAlike(one: MapExtent, { depth, present, zero, data, filename }: MapExtent): boolean {
  if (one.depth !== depth || one.present !== present || one.filename !== filename) return false;
  return one.zero === zero && one.data === data;
}
