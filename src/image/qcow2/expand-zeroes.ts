/**
 * Clusters that read as zeroes without being there: version 2 does not know them, so they are
 * given up, or given a place, in the tables of the disk and of its snapshots.
 *
 *     zero, no place    without a backing file: nothing is there    with one: a cluster of zeroes
 *     zero, a place     if nothing else is there: zeroes are written there; otherwise as above
 *
 * E1 The place of an entry may hold what a snapshot reads. It is written only if its refcount says
 *    that this table alone refers to it.
 * E2 A table is changed where it is: each entry reads as zeroes before and after, so the table may
 *    be torn.
 * E3 New clusters have their refcounts, and zeroes in them, and that is stable, before a table
 *    names them; what a table does not name any more is given back when that is stable. A cut
 *    leaves leaks at worst, and an image of version 3 of which a part is done.
 */
import { L2_ENTRY_BYTES } from '../../abi/qcow2.ts';
import type { ImageFile } from '../image-file.ts';
import { entryOffset, type Scan } from './check-scan.ts';
import { type EditOptions, refusal } from './begin-edit.ts';
import { readHeader } from './header.ts';
import { ImageClusters } from './image-clusters.ts';
import { repairImage } from './repair.ts';

const COMPRESSED_HIGH = 0x40000000;
const COPIED = 1n << 63n;
const ZERO = 1n;
const ZERO_LOW = 1;
/** Entries that are given clusters at a time. */
const BATCH = 4096;

/** What is to be done with the zero clusters of an image. */
interface Expansion {
  readonly file: ImageFile;
  readonly clusters: ImageClusters;
  readonly clusterBytes: number;
  readonly hasBacking: boolean;
  readonly isEncrypted: boolean;
  readonly isBlockDevice: boolean;
  /** Something else has a cluster alone now, and its COPIED flag does not say so. */
  hasParted: boolean;
}

/** One entry, by its place in the file. */
interface ZeroEntry {
  readonly at: number;
  readonly entry: bigint;
  /** 0: no place. */
  readonly offset: number;
}

/**
 * Gives up every zero cluster of an image that was checked, of version 3 with standard entries.
 * `hasBacking`: something would show through where nothing is.
 */
export async function expandZeroes(
  file: ImageFile,
  scan: Scan,
  path: string,
  hasBacking: boolean,
  options: EditOptions,
): Promise<void> {
  const { header } = scan;
  const isBlockDevice = options.isBlockDevice === true;
  const expansion: Expansion = {
    file,
    clusters: await ImageClusters.of(file, await readHeader(file, path), isBlockDevice),
    clusterBytes: header.clusterBytes,
    hasBacking,
    isEncrypted: header.cryptMethod !== 0,
    isBlockDevice,
    hasParted: false,
  };
  let done = 0;
  for (const [offset, { total }] of scan.l2Tables) {
    options.signal?.throwIfAborted();
    await expandTable(expansion, offset, total);
    await options.onProgress?.(++done, scan.l2Tables.size);
  }
  if (expansion.hasParted) await repairImage(file, await readHeader(file, path), 'leaks');
}

/**
 * Refuses encrypted images with zero clusters that would need a place: zeroes in a cluster are
 * something else when they are decrypted.
 */
export async function refuseEncryptedZeroes(
  file: ImageFile,
  { header, l2Tables }: Scan,
  path: string,
  hasBacking: boolean,
): Promise<void> {
  if (header.cryptMethod === 0 || !hasBacking) return;
  for (const offset of l2Tables.keys()) {
    if (zeroEntries(await file.read(offset, header.clusterBytes), offset).length === 0) continue;
    const found = 'it is encrypted and has zero clusters over a backing file';
    const advice = 'version 2 cannot say that they are zero; convert the image';
    throw refusal('ERR_SLUICE_UNSUPPORTED', 'amend', path, found, advice);
  }
}

function zeroEntries(bytes: Uint8Array, tableOffset: number): ZeroEntry[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found: ZeroEntry[] = [];
  for (let at = 0; at < bytes.length; at += L2_ENTRY_BYTES) {
    const high = view.getUint32(at);
    const low = view.getUint32(at + 4);
    if ((low & ZERO_LOW) === 0 || (high & COMPRESSED_HIGH) !== 0) continue;
    const offset = entryOffset(high, low);
    found.push({ at: tableOffset + at, entry: view.getBigUint64(at), offset });
  }
  return found;
}

async function expandTable(expansion: Expansion, offset: number, uses: number): Promise<void> {
  const { file, clusterBytes } = expansion;
  const entries = zeroEntries(await file.read(offset, clusterBytes), offset);
  for (let from = 0; from < entries.length; from += BATCH) {
    await expandEntries(expansion, entries.slice(from, from + BATCH), uses);
  }
}

async function expandEntries(
  expansion: Expansion,
  entries: readonly ZeroEntry[],
  uses: number,
): Promise<void> {
  const { file, clusters, clusterBytes, hasBacking } = expansion;
  const inPlace = new Set<ZeroEntry>();
  for (const entry of entries) {
    if (await isOwn(expansion, entry, uses)) inPlace.add(entry);
  }
  const wanted = hasBacking ? entries.filter((entry) => !inPlace.has(entry)) : [];
  const places = new Map<ZeroEntry, number>();
  const taken = wanted.length === 0 ? [] : await clusters.take(wanted.length);
  for (const [index, entry] of wanted.entries()) places.set(entry, taken[index] ?? 0);
  for (const offset of places.values()) {
    if (uses > 1) await clusters.share(offset, uses);
    if (expansion.isBlockDevice) await file.write(offset, new Uint8Array(clusterBytes));
  }
  for (const { offset } of inPlace) await file.write(offset, new Uint8Array(clusterBytes));
  await file.sync();
  for (const entry of entries) {
    const place = places.get(entry) ?? 0;
    const copied = place !== 0 && uses === 1 ? COPIED : 0n;
    const own = (entry.entry & ~ZERO) | (uses === 1 ? COPIED : 0n);
    const value = inPlace.has(entry) ? own : BigInt(place) | copied;
    await file.write(entry.at, bytesOf(value));
  }
  await file.sync();
  for (const entry of entries) {
    if (entry.offset === 0 || inPlace.has(entry)) continue;
    for (let use = 0; use < uses; use++) await clusters.release(entry.offset, 1);
    if ((await clusters.refcount(entry.offset)) > 0) expansion.hasParted = true;
  }
  await file.sync();
}

/** E1. */
async function isOwn(
  { clusters, isEncrypted }: Expansion,
  { offset }: ZeroEntry,
  uses: number,
): Promise<boolean> {
  if (offset === 0 || isEncrypted) return false;
  return (await clusters.refcount(offset)) === uses;
}

function bytesOf(entry: bigint): Uint8Array {
  const bytes = new DataView(new ArrayBuffer(L2_ENTRY_BYTES));
  bytes.setBigUint64(0, entry);
  return new Uint8Array(bytes.buffer);
}
