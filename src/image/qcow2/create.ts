/**
 * A new image without a snapshot, where no cluster of the disk is written.
 *
 * C1 What the file held before is void first, then everything but the header is written, then the
 *    header; each is stable before the next. So an image that opens is whole. The header is void
 *    where its first sector is, and whole when that is written: a sector is never half there.
 * C2 Every cluster of the metadata is written, zeroes too: a block device keeps what it held.
 * C3 Where every cluster is mapped from the start, none shows what the file held before, and none
 *    of an encrypted image shows noise: it is written, or said to read as zeroes.
 *
 * With a raw data file every cluster is allocated: it lies there at the offset that it has on the
 * disk, so that the two never differ.
 */
import { type FillFile, fill, type FillWork } from '../fill.ts';
import type { SectorCipher } from './crypt-view.ts';
import { type HeaderPlaces, headerOf } from './create-header.ts';
import { firstClusters, isMappedWhole, layoutOf, type NewLayout } from './create-layout.ts';
import { metadata } from './create-metadata.ts';
import { type CreateOptions, type NewImage, newImageOf } from './create-options.ts';
import { makeLuksArea } from './luks-create.ts';

export type { CreateOptions } from './create-options.ts';

/** What else there is to say of the making of an image. */
export interface CreateWork extends FillWork {
  /** Gets the size that it must have, and its clusters; without it that is the caller's. */
  readonly dataFile?: FillFile | undefined;
}

/**
 * Makes the file an empty image; what it held is lost.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT, before the file is touched
 */
export async function createImage(
  file: FillFile,
  options: CreateOptions,
  work: CreateWork = {},
): Promise<void> {
  const image = newImageOf(options);
  const { clusterBytes, encryption } = image;
  const layout = layoutOf(image);
  const header = headerOf(image, placesOf(image, layout));
  const luks = encryption === undefined ? undefined : await makeLuksArea(encryption);
  work.signal?.throwIfAborted();
  await file.truncate(0);
  await file.truncate(layout.clusters * clusterBytes);
  await file.write(0, new Uint8Array(SECTOR_BYTES));
  await file.sync();
  await writeClusters(file, clusterBytes, metadata(image, layout, luks?.bytes), work);
  await placeData(file, image, layout, luks?.cipher, work);
  if (clusterBytes > SECTOR_BYTES) await file.write(SECTOR_BYTES, header.subarray(SECTOR_BYTES));
  await file.sync();
  await file.write(0, header.subarray(0, SECTOR_BYTES));
  await file.sync();
}

function placesOf({ clusterBytes }: NewImage, layout: NewLayout): HeaderPlaces {
  const { l1, luks } = firstClusters(layout);
  return {
    ...layout,
    refcountTableOffset: clusterBytes,
    l1Offset: l1 * clusterBytes,
    luksOffset: luks * clusterBytes,
  };
}

const SECTOR_BYTES = 512;
const PIECE_BYTES = 1024 * 1024;

/** Writes the clusters behind the first one, one after the other. */
async function writeClusters(
  file: FillFile,
  clusterBytes: number,
  clusters: Iterable<Uint8Array>,
  { signal }: CreateWork,
): Promise<void> {
  const piece = new Uint8Array(Math.max(PIECE_BYTES, clusterBytes));
  let offset = clusterBytes;
  let used = 0;
  for (const cluster of clusters) {
    piece.set(cluster, used);
    used += clusterBytes;
    if (used < piece.length) continue;
    signal?.throwIfAborted();
    await file.write(offset, piece);
    offset += used;
    used = 0;
  }
  if (used > 0) await file.write(offset, piece.subarray(0, used));
}

/** The clusters of the disk, in the image or in its data file. C3 */
async function placeData(
  file: FillFile,
  image: NewImage,
  layout: NewLayout,
  cipher: SectorCipher | undefined,
  work: CreateWork,
): Promise<void> {
  const { clusterBytes, preallocation, extendedL2 } = image;
  const { dataFile } = work;
  const isMapped = isMappedWhole(image);
  const dataBytes = isMapped ? layout.guestClusters * clusterBytes : image.sizeBytes;
  if (image.dataFile !== undefined) {
    if (dataFile === undefined) return;
    await dataFile.truncate(0);
    await dataFile.truncate(dataBytes);
  }
  if (!isMapped) return;
  const target = image.dataFile === undefined ? file : (dataFile as FillFile);
  const end = image.dataFile === undefined ? layout.clusters * clusterBytes : dataBytes;
  const how = target.keepsBytes === true ? 'full' : preallocation;
  // What extended entries do not say to be data is not read.
  const encrypted = preallocation === 'full' && !extendedL2 ? cipher : undefined;
  await fill(target, { from: end - dataBytes, to: end, how, cipher: encrypted }, work);
  if (target !== file) await target.sync();
}
