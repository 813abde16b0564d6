/** How much room an image will take, in the keys of `qemu-img measure --output=json`. */
import { BITMAP_ENTRY_BYTES, L2_ENTRY_BYTES } from '../abi/qcow2.ts';
import { toNumber } from '../arguments.ts';
import type { ByteCount } from '../disk-types.ts';
import type { ImageFormat } from '../image/format.ts';
import { Layers, LAYERS_OPTIONS, type LayersOptions } from '../image/layers.ts';
import { openNbdSource } from '../copy/nbd-source.ts';
import type { Source } from '../copy/source.ts';
import { isNbdUri } from '../nbd/uri.ts';
import { readBitmapDirectory } from '../image/qcow2/bitmap-directory.ts';
import { layoutOf } from '../image/qcow2/create-layout.ts';
import {
  checkRawImage,
  isPreallocation,
  NEW_QCOW2_OPTIONS,
  type NewImage,
  newImageOf,
  type NewQcow2Options,
  type Preallocation,
} from '../image/qcow2/create-options.ts';
import { toSectors } from '../image/sectors.ts';
import { checkOptions, type Checks, isByteCount, isOneOf, objectOf } from '../options.ts';

/** Bytes of a file. */
export interface ImageMeasure {
  /** Of bitmaps that are copied too; absent where one of the two images can have none. */
  readonly bitmaps?: number;
  /** What a new image takes, or one with the data that there is. */
  readonly required: number;
  /** What it takes when every part of the disk was written. */
  readonly 'fully-allocated': number;
}

/** Options of `measure`; those of LayersOptions are about the source. */
export interface MeasureOptions extends LayersOptions {
  /** Format of the image that is to be made; default raw. */
  readonly targetFormat?: ImageFormat | undefined;
  /** Of that image. */
  readonly preallocation?: Preallocation | undefined;
  /** Of that image, if it is a qcow2 one. */
  readonly image?: NewQcow2Options | undefined;
}

const MEASURE_OPTIONS: Checks<MeasureOptions> = {
  ...LAYERS_OPTIONS,
  targetFormat: isOneOf('raw', 'qcow2'),
  preallocation: isPreallocation,
  image: objectOf(NEW_QCOW2_OPTIONS),
};

const isSize = objectOf({ sizeBytes: isByteCount }, ['sizeBytes']);

/**
 * Says how much room an image of a disk takes: of one that is a copy of the image at a path, or of
 * an empty one. Names of other files stand for nothing here; none is opened but the source's own.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT for an image that cannot be made
 */
export async function measure(
  source: string | { readonly sizeBytes: ByteCount },
  options: MeasureOptions = {},
): Promise<ImageMeasure> {
  checkOptions(options, MEASURE_OPTIONS, 'measure');
  if (typeof source !== 'string') {
    isSize(source, 'source');
    const image = targetOf(toNumber(source.sizeBytes, 'sizeBytes'), options);
    return typeof image === 'number' ? rawMeasure(image) : measureOf(image, 0);
  }
  await using layers = await (isNbdUri(source)
    ? openNbdSource(source, options)
    : Layers.open(source, options));
  const image = targetOf(layers.sizeBytes, options);
  if (typeof image === 'number') return rawMeasure(image);
  const isWhole = image.backing !== undefined;
  // How much of the source its backing file has is not known.
  const dataBytes = isWhole ? image.sizeBytes : await dataBytesOf(layers, image, options.signal);
  const hasBitmaps = layers instanceof Layers && image.version === 3;
  const bitmaps = hasBitmaps ? await bitmapBytes(layers, image) : undefined;
  const measured = measureOf(image, dataBytes);
  return bitmaps === undefined ? measured : { bitmaps, ...measured };
}

/** What is to be made; a number is the size of a raw image. */
function targetOf(sizeBytes: number, options: MeasureOptions): NewImage | number {
  const { targetFormat = 'raw', preallocation = 'off', image = {} } = options;
  if (targetFormat === 'qcow2') return newImageOf({ ...image, preallocation, sizeBytes });
  checkRawImage(preallocation, image);
  return toSectors(sizeBytes);
}

function rawMeasure(sizeBytes: number): ImageMeasure {
  return { required: sizeBytes, 'fully-allocated': sizeBytes };
}

/** Of an image in which so many bytes of clusters are data. */
function measureOf(image: NewImage, dataBytes: number): ImageMeasure {
  const { clusterBytes, sizeBytes, preallocation } = image;
  // A data file does not change it: what is measured is the image and its data.
  const { dataFile: _, ...inside } = image;
  const { clusters } = layoutOf({ ...inside, preallocation: 'metadata' });
  const diskBytes = Math.ceil(sizeBytes / clusterBytes) * clusterBytes;
  const isThere = preallocation === 'falloc' || preallocation === 'full';
  const whole = clusters * clusterBytes;
  const needed = isThere ? diskBytes : Math.ceil(dataBytes / clusterBytes) * clusterBytes;
  return { required: whole - diskBytes + needed, 'fully-allocated': whole };
}

/** Bytes of the clusters of a new image in which there is data. */
async function dataBytesOf(
  layers: Layers | Source,
  { clusterBytes }: NewImage,
  signal: AbortSignal | undefined,
): Promise<number> {
  let clusters = 0;
  let next = 0;
  for await (const { start, length, kind } of layers.extents()) {
    signal?.throwIfAborted();
    if (kind !== 'data' && kind !== 'compressed') continue;
    const first = Math.max(next, Math.floor(start / clusterBytes));
    next = Math.max(first, Math.ceil((start + length) / clusterBytes));
    clusters += next - first;
  }
  return clusters * clusterBytes;
}

/** Room for the bitmaps of the source; undefined where its format has none. */
async function bitmapBytes(
  { images: [top], sizeBytes }: Layers,
  { clusterBytes }: NewImage,
): Promise<number | undefined> {
  if (top?.header?.version !== 3) return undefined;
  const { bitmaps } = await readBitmapDirectory(top.file, top.header, top.path);
  let clusters = 0;
  let directoryBytes = 0;
  for (const { name, granularityBits, inUse } of bitmaps) {
    // One that was not closed says nothing, and is not copied.
    if (inUse) continue;
    const bits = Math.ceil(sizeBytes / 2 ** granularityBits);
    const own = Math.ceil(bits / 8 / clusterBytes);
    clusters += own + Math.ceil((own * L2_ENTRY_BYTES) / clusterBytes);
    const entryBytes = BITMAP_ENTRY_BYTES + new TextEncoder().encode(name).length;
    directoryBytes += Math.ceil(entryBytes / 8) * 8;
  }
  return (clusters + Math.ceil(directoryBytes / clusterBytes)) * clusterBytes;
}
