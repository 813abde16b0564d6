/** Refcounts written anew: one by one where they are, or all of them at the end of the file. */

import {
  HEADER_REFCOUNT_TABLE_CLUSTERS,
  HEADER_REFCOUNT_TABLE_OFFSET,
  REFCOUNT_TABLE_BYTES_MAX,
} from '../../abi/qcow2.ts';
import { SluiceError } from '../../errors.ts';
import type { ImageFile } from '../image-file.ts';
import { USED_REFCOUNT_BLOCK, USED_REFCOUNT_TABLE } from './check-counts.ts';
import { refcountsPerBlock } from './check-refcounts.ts';
import type { Scan } from './check-scan.ts';
import type { Qcow2Header } from './header.ts';

/** The refcount that a cluster is to have. */
export type TargetRefcount = (cluster: number) => number;

const ENTRY_BYTES = 8;

/** True when every refcount that differs from its target has a place in a sound block. */
export function canSetInPlace(scan: Scan, target: TargetRefcount): boolean {
  const { header, counts } = scan;
  const tableBytes = header.refcountTableClusters * header.clusterBytes;
  if (!counts.isOnly(header.refcountTableOffset, tableBytes, USED_REFCOUNT_TABLE)) return false;
  const blocks = soundBlocks(scan);
  if (blocks === undefined) return false;
  const perBlock = refcountsPerBlock(scan);
  for (let cluster = 0; cluster < counts.usedClusters; cluster++) {
    if (counts.refcounts[cluster] === target(cluster)) continue;
    if (!blocks.has(Math.floor(cluster / perBlock))) return false;
  }
  return true;
}

/** Offsets by index in the refcount table; undefined when one of them is not a whole block. */
function soundBlocks(scan: Scan): Map<number, number> | undefined {
  const { header, fileBytes, counts, refcountTable } = scan;
  const blocks = new Map<number, number>();
  for (const { index, offset, low } of refcountTable) {
    const isEntry = (low & 0x1ff) === 0 && offset % header.clusterBytes === 0;
    const isWhole = isEntry && offset + header.clusterBytes <= fileBytes;
    if (!isWhole || !counts.isOnly(offset, header.clusterBytes, USED_REFCOUNT_BLOCK)) return;
    if (counts.references[offset / header.clusterBytes] !== 1) return;
    blocks.set(index, offset);
  }
  return blocks;
}

/** Writes the targets that `isWanted` wants; canSetInPlace has said that it can be done. */
export async function setRefcounts(
  file: ImageFile,
  scan: Scan,
  target: TargetRefcount,
  isWanted: (refcount: number, target: number) => boolean,
): Promise<void> {
  const { header, counts, refcountTable } = scan;
  const perBlock = refcountsPerBlock(scan);
  for (const { index, offset } of refcountTable) {
    const first = index * perBlock;
    const end = Math.min(first + perBlock, counts.usedClusters);
    let block: DataView | undefined;
    for (let cluster = first; cluster < end; cluster++) {
      const wanted = target(cluster);
      const refcount = counts.refcounts[cluster] as number;
      if (refcount === wanted || !isWanted(refcount, wanted)) continue;
      block ??= viewOf(await file.read(offset, header.clusterBytes));
      setRefcount(block, cluster - first, header.refcountBits, wanted);
      counts.refcounts[cluster] = wanted;
    }
    if (block !== undefined) await file.write(offset, new Uint8Array(block.buffer));
  }
}

/**
 * Writes a refcount table and blocks past everything else, makes them stable, and then lets the
 * header name them. What held the refcounts before is free afterwards.
 */
export async function rebuildRefcounts(
  file: ImageFile,
  scan: Scan,
  target: TargetRefcount,
): Promise<Qcow2Header> {
  const { header } = scan;
  const layout = layOut(scan, target);
  const { firstCluster, blockOffset, tableOffset, tableClusters, endCluster } = layout;
  const perBlock = refcountsPerBlock(scan);
  const table = new DataView(new ArrayBuffer(tableClusters * header.clusterBytes));
  for (const [order, group] of layout.groups.entries()) {
    const block = new DataView(new ArrayBuffer(header.clusterBytes));
    for (let index = 0; index < perBlock; index++) {
      const cluster = group * perBlock + index;
      const isNew = cluster >= firstCluster && cluster < endCluster;
      setRefcount(block, index, header.refcountBits, isNew ? 1 : target(cluster));
    }
    const offset = blockOffset + order * header.clusterBytes;
    table.setBigUint64(group * ENTRY_BYTES, BigInt(offset));
    await file.write(offset, new Uint8Array(block.buffer));
  }
  await file.write(tableOffset, new Uint8Array(table.buffer));
  await file.sync();
  await switchTable(file, tableOffset, tableClusters);
  return { ...header, refcountTableOffset: tableOffset, refcountTableClusters: tableClusters };
}

/**
 * Lets the header name another refcount table, which must be stable; so is the header afterwards.
 * The two fields stand beside each other in one sector.
 */
export async function switchTable(
  file: ImageFile,
  offset: number,
  clusters: number,
): Promise<void> {
  const length = HEADER_REFCOUNT_TABLE_CLUSTERS + 4 - HEADER_REFCOUNT_TABLE_OFFSET;
  const fields = new DataView(new ArrayBuffer(length));
  fields.setBigUint64(0, BigInt(offset));
  fields.setUint32(HEADER_REFCOUNT_TABLE_CLUSTERS - HEADER_REFCOUNT_TABLE_OFFSET, clusters);
  await file.write(HEADER_REFCOUNT_TABLE_OFFSET, new Uint8Array(fields.buffer));
  await file.sync();
}

interface Layout {
  /** The blocks begin there, then comes the table, up to `endCluster`. */
  readonly firstCluster: number;
  readonly endCluster: number;
  readonly blockOffset: number;
  readonly tableOffset: number;
  readonly tableClusters: number;
  /** Indices in the refcount table that have a block. */
  readonly groups: readonly number[];
}

/** Blocks for every group of clusters with one that is in use, those of the new table included. */
function layOut(scan: Scan, target: TargetRefcount): Layout {
  const { header, counts } = scan;
  const perBlock = refcountsPerBlock(scan);
  const firstCluster = counts.usedClusters;
  const groups = new Set<number>();
  for (let cluster = 0; cluster < firstCluster; cluster++) {
    if (target(cluster) !== 0) groups.add(Math.floor(cluster / perBlock));
  }
  let tableClusters = 1;
  for (let covered = firstCluster; covered < firstCluster + groups.size + tableClusters;) {
    const group = Math.floor(covered / perBlock);
    groups.add(group);
    tableClusters = Math.ceil(((group + 1) * ENTRY_BYTES) / header.clusterBytes);
    covered = (group + 1) * perBlock;
  }
  refuseLongTable(tableClusters * header.clusterBytes);
  const tableCluster = firstCluster + groups.size;
  return {
    firstCluster,
    endCluster: tableCluster + tableClusters,
    blockOffset: firstCluster * header.clusterBytes,
    tableOffset: tableCluster * header.clusterBytes,
    tableClusters,
    groups: [...groups],
  };
}

function refuseLongTable(tableBytes: number): void {
  if (tableBytes <= REFCOUNT_TABLE_BYTES_MAX) return;
  const found = `its refcount table would have ${tableBytes} bytes`;
  const rule = `at most ${REFCOUNT_TABLE_BYTES_MAX} are allowed; convert it to larger clusters`;
  throw new SluiceError('ERR_SLUICE_UNSUPPORTED', `cannot repair the image: ${found}; ${rule}`);
}

/** Changes an entry of a refcount block; entries of less than a byte begin at bit 0. */
export function setRefcount(block: DataView, index: number, bits: number, refcount: number): void {
  switch (bits) {
    case 64:
      return block.setBigUint64(index * 8, BigInt(refcount));
    case 32:
      return block.setUint32(index * 4, refcount);
    case 16:
      return block.setUint16(index * 2, refcount);
    default: {
      const at = (index * bits) >> 3;
      const shift = (index * bits) & 7;
      const others = block.getUint8(at) & ~((2 ** bits - 1) << shift);
      return block.setUint8(at, others | (refcount << shift));
    }
  }
}

function viewOf(bytes: Uint8Array): DataView {
  const copy = new Uint8Array(bytes);
  return new DataView(copy.buffer);
}
