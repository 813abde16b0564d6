/**
 * A new image without a snapshot, where no cluster of the disk is allocated.
 *
 * C1 What the file held before is void first, then everything but the header is written, then the
 *    header; each is stable before the next. So an image that opens is whole.
 * C2 Every cluster of the metadata is written, zeroes too: a block device keeps what it held.
 *
 * With a raw data file every cluster is allocated: it lies there at the offset that it has on the
 * disk, so that the two never differ.
 */
import { EXTENDED_L2_ENTRY_BYTES, L2_ENTRY_BYTES } from '../../abi/qcow2.ts';
import type { ImageFile } from '../image-file.ts';
import { headerOf } from './create-header.ts';
import { layoutOf, type NewLayout } from './create-layout.ts';
import { type CreateOptions, type NewImage, newImageOf } from './create-options.ts';

export type { CreateOptions } from './create-options.ts';

/**
 * Makes the file an empty image; what it held is lost.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT, before the file is touched
 */
export async function createImage(file: ImageFile, options: CreateOptions): Promise<void> {
  const image = newImageOf(options);
  const layout = layoutOf(image);
  const header = headerOf(image, layout);
  await file.truncate(0);
  await file.truncate(layout.clusters * image.clusterBytes);
  await file.write(0, new Uint8Array(image.clusterBytes));
  await file.sync();
  await writeClusters(file, image.clusterBytes, metadata(image, layout));
  await file.sync();
  await file.write(0, header);
  await file.sync();
}

const PIECE_BYTES = 1024 * 1024;

/** Writes the clusters behind the first one, one after the other. */
async function writeClusters(
  file: ImageFile,
  clusterBytes: number,
  clusters: Iterable<Uint8Array>,
): Promise<void> {
  const piece = new Uint8Array(Math.max(PIECE_BYTES, clusterBytes));
  let offset = clusterBytes;
  let used = 0;
  for (const cluster of clusters) {
    piece.set(cluster, used);
    used += clusterBytes;
    if (used < piece.length) continue;
    await file.write(offset, piece);
    offset += used;
    used = 0;
  }
  if (used > 0) await file.write(offset, piece.subarray(0, used));
}

/** Everything behind the header, by clusters. */
function* metadata(image: NewImage, layout: NewLayout): Generator<Uint8Array, void, void> {
  const { clusterBytes, extendedL2 } = image;
  const { refcountTableClusters, refcountBlocks, l1Entries, l1Clusters, l2Tables } = layout;
  const firstBlock = 1 + refcountTableClusters;
  const firstL2 = firstBlock + refcountBlocks + l1Clusters;
  yield* table(refcountTableClusters, clusterBytes, L2_ENTRY_BYTES, (view, index) => {
    if (index < refcountBlocks) setOffset(view, (firstBlock + index) * clusterBytes, false);
  });
  yield* refcounts(image, layout);
  yield* table(l1Clusters, clusterBytes, L2_ENTRY_BYTES, (view, index) => {
    if (index < l1Entries && l2Tables > 0) setOffset(view, (firstL2 + index) * clusterBytes, true);
  });
  const entryBytes = extendedL2 ? EXTENDED_L2_ENTRY_BYTES : L2_ENTRY_BYTES;
  yield* table(l2Tables, clusterBytes, entryBytes, (view, index) => {
    if (index >= layout.guestClusters) return;
    setOffset(view, index * clusterBytes, true);
    if (extendedL2) view.setUint32(ALLOCATED_SUBCLUSTERS, 0xffffffff);
  });
}

/** The low half of the bitmap of an extended entry. */
const ALLOCATED_SUBCLUSTERS = 12;

/** Clusters of a table; `write` gets each entry, which is zero. */
function* table(
  clusters: number,
  clusterBytes: number,
  entryBytes: number,
  write: (entry: DataView, index: number) => void,
): Generator<Uint8Array, void, void> {
  const entries = clusterBytes / entryBytes;
  for (let cluster = 0; cluster < clusters; cluster++) {
    const bytes = new Uint8Array(clusterBytes);
    for (let at = 0; at < entries; at++) {
      write(new DataView(bytes.buffer, at * entryBytes, entryBytes), cluster * entries + at);
    }
    yield bytes;
  }
}

const TWO_POW_32 = 4294967296;
const COPIED_HIGH = 0x80000000;

function setOffset(entry: DataView, offset: number, copied: boolean): void {
  entry.setUint32(0, Math.floor(offset / TWO_POW_32) + (copied ? COPIED_HIGH : 0));
  entry.setUint32(4, offset % TWO_POW_32);
}

/** The refcount blocks: every cluster has one reference. */
function* refcounts(image: NewImage, layout: NewLayout): Generator<Uint8Array, void, void> {
  const { clusterBytes, refcountOrder } = image;
  const bits = 2 ** refcountOrder;
  const entries = (clusterBytes * 8) / bits;
  for (let block = 0; block < layout.refcountBlocks; block++) {
    const bytes = new Uint8Array(clusterBytes);
    const used = Math.min(entries, layout.clusters - block * entries);
    for (let index = 0; index < used; index++) setOne(bytes, index, bits);
    yield bytes;
  }
}

/** Below 8 bits entries count from the lowest bit of a byte; longer ones are big-endian. */
function setOne(block: Uint8Array, index: number, bits: number): void {
  const at = bits < 8 ? Math.floor((index * bits) / 8) : (index + 1) * (bits / 8) - 1;
  block[at] = (block[at] ?? 0) | (1 << (bits < 8 ? (index * bits) % 8 : 0));
}
