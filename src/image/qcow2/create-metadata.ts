/** The clusters of a new image behind its header and before its data, in the order of the file. */
import { ENTRY_ZERO_BIT, EXTENDED_L2_ENTRY_BYTES, L2_ENTRY_BYTES } from '../../abi/qcow2.ts';
import { firstClusters, type NewLayout } from './create-layout.ts';
import type { NewImage } from './create-options.ts';

/** Everything behind the header, by clusters; `luks` are the bytes of that area. */
export function* metadata(
  image: NewImage,
  layout: NewLayout,
  luks: Uint8Array = new Uint8Array(0),
): Generator<Uint8Array, void, void> {
  const { clusterBytes } = image;
  const { refcountTableClusters, refcountBlocks, l1Entries, l1Clusters, l2Tables } = layout;
  const firstBlock = 1 + refcountTableClusters;
  const firstL2 = firstClusters(layout).l1 + l1Clusters;
  yield* table(refcountTableClusters, clusterBytes, L2_ENTRY_BYTES, (view, at, index) => {
    if (index < refcountBlocks) setOffset(view, at, (firstBlock + index) * clusterBytes, false);
  });
  yield* refcounts(image, layout);
  for (let at = 0; at < luks.length; at += clusterBytes) {
    const cluster = new Uint8Array(clusterBytes);
    cluster.set(luks.subarray(at, at + clusterBytes));
    yield cluster;
  }
  yield* table(l1Clusters, clusterBytes, L2_ENTRY_BYTES, (view, at, index) => {
    if (index >= l1Entries || l2Tables === 0) return;
    setOffset(view, at, (firstL2 + index) * clusterBytes, true);
  });
  yield* l2Clusters(image, layout, (firstL2 + l2Tables) * clusterBytes);
}

/** The low half of the bitmap of an extended entry. */
const ALLOCATED_SUBCLUSTERS = 12;

/** Tables that map every cluster to its place; `firstOffset` is that of the first one here. */
function l2Clusters(image: NewImage, layout: NewLayout, firstOffset: number) {
  const { clusterBytes, extendedL2, dataFile, encryption, preallocation } = image;
  const from = dataFile === undefined ? firstOffset : 0;
  // Subclusters that are not said to be data are read from the backing file, or as zeroes.
  const isData = dataFile?.raw === true;
  const isZero = encryption !== undefined && preallocation !== 'full' && !extendedL2;
  const entryBytes = extendedL2 ? EXTENDED_L2_ENTRY_BYTES : L2_ENTRY_BYTES;
  return table(layout.l2Tables, clusterBytes, entryBytes, (view, at, index) => {
    if (index >= layout.guestClusters) return;
    const flags = isZero ? 2 ** ENTRY_ZERO_BIT : 0;
    setOffset(view, at, from + index * clusterBytes + flags, true);
    if (extendedL2 && isData) view.setUint32(at + ALLOCATED_SUBCLUSTERS, 0xffffffff);
  });
}

/** Clusters of a table; `write` gets the place of each entry, which is zero. */
function* table(
  clusters: number,
  clusterBytes: number,
  entryBytes: number,
  write: (view: DataView, at: number, index: number) => void,
): Generator<Uint8Array, void, void> {
  const entries = clusterBytes / entryBytes;
  for (let cluster = 0; cluster < clusters; cluster++) {
    const bytes = new Uint8Array(clusterBytes);
    const view = new DataView(bytes.buffer);
    const first = cluster * entries;
    for (let entry = 0; entry < entries; entry++) write(view, entry * entryBytes, first + entry);
    yield bytes;
  }
}

const TWO_POW_32 = 4294967296;
const COPIED_HIGH = 0x80000000;

function setOffset(view: DataView, at: number, offset: number, copied: boolean): void {
  view.setUint32(at, Math.floor(offset / TWO_POW_32) + (copied ? COPIED_HIGH : 0));
  view.setUint32(at + 4, offset % TWO_POW_32);
}

/** The refcount blocks: every cluster has one reference. */
function* refcounts(image: NewImage, layout: NewLayout): Generator<Uint8Array, void, void> {
  const { clusterBytes, refcountOrder } = image;
  const bits = 2 ** refcountOrder;
  const entries = (clusterBytes * 8) / bits;
  let full: Uint8Array | undefined;
  for (let block = 0; block < layout.refcountBlocks; block++) {
    const used = Math.min(entries, layout.clusters - block * entries);
    if (used < entries || full === undefined) {
      const bytes = new Uint8Array(clusterBytes);
      for (let index = 0; index < used; index++) setOne(bytes, index, bits);
      if (used === entries) full = bytes;
      yield bytes;
    } else {
      yield full;
    }
  }
}

/** Below 8 bits entries count from the lowest bit of a byte; longer ones are big-endian. */
function setOne(block: Uint8Array, index: number, bits: number): void {
  const at = bits < 8 ? Math.floor((index * bits) / 8) : (index + 1) * (bits / 8) - 1;
  block[at] = (block[at] ?? 0) | (1 << (bits < 8 ? (index * bits) % 8 : 0));
}
