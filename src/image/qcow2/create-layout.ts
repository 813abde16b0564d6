/**
 * Where the metadata of a new image lies, one after the other:
 *
 *   header | refcount table | refcount blocks | LUKS area | L1 table | L2 tables | data
 *
 * L2 tables are there where every cluster of the disk is mapped from the start; what they map is
 * here, or in a data file.
 */
import {
  EXTENDED_L2_ENTRY_BYTES,
  L1_BYTES_MAX,
  L2_ENTRY_BYTES,
  REFCOUNT_TABLE_BYTES_MAX,
} from '../../abi/qcow2.ts';
import { invalid } from '../../arguments.ts';
import type { NewImage } from './create-options.ts';
import { l1EntriesFor } from './header-layout.ts';
import { luksAreaBytes } from './luks-options.ts';

/** Sizes in clusters; entries are 8 bytes in the refcount table and the L1 table. */
export interface NewLayout {
  readonly refcountTableClusters: number;
  readonly refcountBlocks: number;
  readonly luksClusters: number;
  readonly l1Entries: number;
  readonly l1Clusters: number;
  /** Entries of one L2 table. */
  readonly l2Entries: number;
  readonly l2Tables: number;
  /** Of the disk. */
  readonly guestClusters: number;
  /** Of the disk that have their place in this file. */
  readonly dataClusters: number;
  /** All of the file. */
  readonly clusters: number;
}

const ENTRY_BYTES = 8;

/** @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT for a disk that is too large for its clusters */
export function layoutOf(image: NewImage): NewLayout {
  const { clusterBytes, sizeBytes, dataFile, encryption } = image;
  const entryBytes = image.extendedL2 ? EXTENDED_L2_ENTRY_BYTES : L2_ENTRY_BYTES;
  const l2Entries = clusterBytes / entryBytes;
  const guestClusters = Math.ceil(sizeBytes / clusterBytes);
  const l1Entries = l1EntriesFor({ clusterBytes, l2Entries }, sizeBytes);
  if (l1Entries * ENTRY_BYTES > L1_BYTES_MAX) throw tooLarge(image);
  const l1Clusters = Math.ceil((l1Entries * ENTRY_BYTES) / clusterBytes);
  const luksClusters = Math.ceil(luksAreaBytes(encryption) / clusterBytes);
  const isMapped = isMappedWhole(image);
  const l2Tables = isMapped ? l1Entries : 0;
  const dataClusters = isMapped && dataFile === undefined ? guestClusters : 0;
  const others = 1 + luksClusters + l1Clusters + l2Tables + dataClusters;
  const refcounts = refcountsOf(image, others);
  return {
    ...refcounts,
    luksClusters,
    l1Entries,
    l1Clusters,
    l2Entries,
    l2Tables,
    guestClusters,
    dataClusters,
    clusters: others + refcounts.refcountTableClusters + refcounts.refcountBlocks,
  };
}

/** Every cluster of the disk has its place from the start. */
export function isMappedWhole({ preallocation, dataFile }: NewImage): boolean {
  return preallocation !== 'off' || dataFile?.raw === true;
}

/** Clusters in front of the L1 table, and of the LUKS area. */
export function firstClusters(layout: NewLayout): { readonly l1: number; readonly luks: number } {
  const luks = 1 + layout.refcountTableClusters + layout.refcountBlocks;
  return { luks, l1: luks + layout.luksClusters };
}

/** The refcount structures count themselves, too; a block at least is there. */
function refcountsOf(image: NewImage, otherClusters: number) {
  const { clusterBytes, refcountOrder } = image;
  const blockEntries = (clusterBytes * 8) / 2 ** refcountOrder;
  let refcountBlocks = 1;
  let refcountTableClusters = 1;
  for (;;) {
    const clusters = otherClusters + refcountTableClusters + refcountBlocks;
    const blocks = Math.ceil(clusters / blockEntries);
    const tableClusters = Math.ceil((blocks * ENTRY_BYTES) / clusterBytes);
    if (tableClusters * clusterBytes > REFCOUNT_TABLE_BYTES_MAX) throw tooLarge(image);
    if (blocks === refcountBlocks && tableClusters === refcountTableClusters) break;
    refcountBlocks = blocks;
    refcountTableClusters = tableClusters;
  }
  return { refcountBlocks, refcountTableClusters };
}

function tooLarge({ sizeBytes, clusterBytes }: NewImage): Error {
  const advice = 'use larger clusters (clusterBits)';
  return invalid(`a disk of ${sizeBytes} bytes needs clusters of over ${clusterBytes}; ${advice}`);
}
