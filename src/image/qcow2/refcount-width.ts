/**
 * Refcounts of another width: a new table and new blocks, in an image that no engine has open.
 *
 * B1 The image is checked first: what is counted is what is in use.
 * B2 The new table and blocks lie in a row of clusters that are free, past the end of the file; on
 *    a block device in the first row that is long enough. They count themselves, and what held the
 *    refcounts before counts as free.
 * B3 They are stable before one sector of the header changes to them, width and all. A cut leaves
 *    the old ones or the new ones; in the one case what was written is free, in the other what was
 *    there before is. Nothing leaks.
 */
import {
  HEADER_REFCOUNT_ORDER,
  HEADER_REFCOUNT_TABLE_CLUSTERS,
  HEADER_REFCOUNT_TABLE_OFFSET,
  REFCOUNT_TABLE_BYTES_MAX,
} from '../../abi/qcow2.ts';
import type { ImageFile } from '../image-file.ts';
import { type EditOptions, refusal, takeBackPromises } from './begin-edit.ts';
import type { Scan } from './check-scan.ts';
import { hex } from './fields.ts';
import { type Qcow2Header, readHeader } from './header.ts';
import { setRefcount } from './repair-refcounts.ts';

const ENTRY_BYTES = 8;
/** What a check does not count further than this. */
const COUNTED_MAX = 2 ** 32 - 1;

/**
 * Gives the refcounts of an image of version 3 that was checked this many bits, a power of two up
 * to 64; the header as it is then.
 * @throws SluiceError ERR_SLUICE_UNSUPPORTED when a refcount does not fit, ERR_SLUICE_CORRUPT,
 *   ERR_SLUICE_NO_SPACE
 */
export async function setRefcountBits(
  file: ImageFile,
  scan: Scan,
  path: string,
  bits: number,
  options: EditOptions,
): Promise<Qcow2Header> {
  refuseNarrow(scan, path, bits);
  const layout = layOut(scan, path, bits, options.isBlockDevice === true);
  await takeBackPromises(file, await readHeader(file, path), path);
  const table = await writeBlocks(file, scan, layout, bits, options);
  await file.write(layout.tableOffset, table);
  await file.sync();
  options.signal?.throwIfAborted();
  await switchRefcounts(file, layout, bits);
  return readHeader(file, path);
}

/** Where the new structures lie: the blocks, then the table. */
interface Layout {
  readonly firstCluster: number;
  readonly endCluster: number;
  readonly tableOffset: number;
  readonly tableClusters: number;
  /** Indices in the table that have a block. */
  readonly groups: readonly number[];
}

/** Refuses a width that a refcount does not fit. */
export function refuseNarrow({ header, counts }: Scan, path: string, bits: number): void {
  const most = bits >= 32 ? COUNTED_MAX : 2 ** bits - 1;
  for (let cluster = 0; cluster < counts.usedClusters; cluster++) {
    const refcount = counts.refcounts[cluster] as number;
    const isInexact = refcount === COUNTED_MAX && header.refcountBits === 64;
    if (refcount <= most && !isInexact) continue;
    const place = `the cluster at offset ${hex(cluster * header.clusterBytes)}`;
    const found = `${place} has a refcount of ${refcount}, which ${bits} bits cannot hold`;
    const advice = 'use more bits, or delete snapshots';
    throw refusal('ERR_SLUICE_UNSUPPORTED', 'amend', path, found, advice);
  }
}

/** The refcount that a cluster will have: what holds refcounts now will be free. */
function refcountsToBe({ header, counts, refcountTable }: Scan): (cluster: number) => number {
  const { clusterBytes, refcountTableOffset, refcountTableClusters } = header;
  const freed = new Set(refcountTable.map(({ offset }) => offset / clusterBytes));
  const first = refcountTableOffset / clusterBytes;
  for (let at = first; at < first + refcountTableClusters; at++) freed.add(at);
  return (cluster) => {
    if (cluster >= counts.usedClusters || freed.has(cluster)) return 0;
    return counts.refcounts[cluster] as number;
  };
}

/** B2. The more clusters the structures take, the more may be needed: until it is enough. */
function layOut(scan: Scan, path: string, bits: number, isBlockDevice: boolean): Layout {
  const { header, counts } = scan;
  const { clusterBytes } = header;
  const perBlock = (clusterBytes * 8) / bits;
  const target = refcountsToBe(scan);
  const used = new Set<number>();
  let lastUsed = 0;
  for (let cluster = 0; cluster < counts.usedClusters; cluster++) {
    if (target(cluster) === 0) continue;
    lastUsed = Math.floor(cluster / perBlock);
    used.add(lastUsed);
  }
  for (let wanted = used.size + 1; ; wanted++) {
    const firstCluster = isBlockDevice ? findRun(scan, path, wanted) : counts.usedClusters;
    const endCluster = firstCluster + wanted;
    const groups = new Set(used);
    const lastGroup = Math.floor((endCluster - 1) / perBlock);
    for (let group = Math.floor(firstCluster / perBlock); group <= lastGroup; group++) {
      groups.add(group);
    }
    const entries = Math.max(lastUsed, lastGroup) + 1;
    const tableClusters = Math.ceil((entries * ENTRY_BYTES) / clusterBytes);
    refuseLongTable(path, tableClusters * clusterBytes);
    const needed = groups.size + tableClusters;
    if (needed > wanted) {
      wanted = needed - 1;
      continue;
    }
    const tableOffset = (firstCluster + groups.size) * clusterBytes;
    return { firstCluster, endCluster, tableOffset, tableClusters, groups: [...groups] };
  }
}

/** The first free clusters in a row. */
function findRun({ header, counts }: Scan, path: string, wanted: number): number {
  let first = 0;
  for (let cluster = 0; cluster < counts.clusters; cluster++) {
    const isFree = counts.refcounts[cluster] === 0 && counts.references[cluster] === 0;
    if (!isFree) first = cluster + 1;
    else if (cluster + 1 - first === wanted) return first;
  }
  const found = `the device has no ${wanted * header.clusterBytes} free bytes in a row`;
  throw refusal('ERR_SLUICE_NO_SPACE', 'amend', path, found, 'use a larger device');
}

function refuseLongTable(path: string, tableBytes: number): void {
  if (tableBytes <= REFCOUNT_TABLE_BYTES_MAX) return;
  const found = `its refcount table would have ${tableBytes} bytes`;
  const advice = `at most ${REFCOUNT_TABLE_BYTES_MAX} are allowed: use fewer bits`;
  throw refusal('ERR_SLUICE_UNSUPPORTED', 'amend', path, found, advice);
}

/** Writes the blocks; answers the table. */
async function writeBlocks(
  file: ImageFile,
  scan: Scan,
  { firstCluster, endCluster, tableClusters, groups }: Layout,
  bits: number,
  { signal, onProgress }: EditOptions,
): Promise<Uint8Array> {
  const { clusterBytes } = scan.header;
  const perBlock = (clusterBytes * 8) / bits;
  const target = refcountsToBe(scan);
  const table = new DataView(new ArrayBuffer(tableClusters * clusterBytes));
  for (const [order, group] of groups.entries()) {
    signal?.throwIfAborted();
    const block = new DataView(new ArrayBuffer(clusterBytes));
    for (let index = 0; index < perBlock; index++) {
      const cluster = group * perBlock + index;
      const isNew = cluster >= firstCluster && cluster < endCluster;
      const refcount = isNew ? 1 : target(cluster);
      if (refcount !== 0) setRefcount(block, index, bits, refcount);
    }
    const offset = (firstCluster + order) * clusterBytes;
    table.setBigUint64(group * ENTRY_BYTES, BigInt(offset));
    await file.write(offset, new Uint8Array(block.buffer));
    await onProgress?.(order + 1, groups.length);
  }
  return new Uint8Array(table.buffer);
}

/** B3: from the offset of the table to the width, as one write inside one sector. */
async function switchRefcounts(
  file: ImageFile,
  { tableOffset, tableClusters }: Layout,
  bits: number,
): Promise<void> {
  const from = HEADER_REFCOUNT_TABLE_OFFSET;
  const fields = await file.read(from, HEADER_REFCOUNT_ORDER + 4 - from);
  const view = new DataView(fields.buffer, fields.byteOffset, fields.length);
  view.setBigUint64(0, BigInt(tableOffset));
  view.setUint32(HEADER_REFCOUNT_TABLE_CLUSTERS - from, tableClusters);
  view.setUint32(HEADER_REFCOUNT_ORDER - from, Math.log2(bits));
  await file.write(from, fields);
  await file.sync();
}
