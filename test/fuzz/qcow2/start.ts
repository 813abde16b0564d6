/** The start of a fuzzed engine with a mapping: what the host writes before the first pump. */

import { QCOW2_MAGIC } from '../../../src/abi/qcow2.ts';
import * as map from '../../../src/abi/map.ts';
import * as region from '../../../src/abi/region.ts';
import type { EngineExports } from '../../support/engine.ts';
import { Violation } from '../ledger.ts';
import type { HostFiles } from './files.ts';
import type { BuiltImage } from './image.ts';
import type { Setup } from './input.ts';
import { MAP, MAP_ROOM, REGION } from './layout.ts';

const HEADER_COPY_BYTES = 512;
const ENTRY_BYTES = 8;

/** Makes engine and mapping; returns the bytes of the mapping, 0 when they are too many. */
export function startMapping(
  exports: EngineExports,
  view: DataView,
  files: HostFiles,
  built: BuiltImage,
  setup: Setup,
): number {
  configureEngine(view, built, setup);
  if (exports.init(REGION) !== 1) throw new Violation('init refuses');
  configureMap(view, files, built, setup);
  const bytes = exports.measureMap(REGION) >>> 0;
  if (bytes === 0) return 0;
  if (bytes > MAP_ROOM) throw new Violation(`the mapping has ${bytes} bytes`);
  exports.initMap(REGION);
  const memory = new Uint8Array(view.buffer);
  const place = (word: number): number => MAP + view.getUint32(MAP + word, true);
  const { image } = files;
  const copy = (word: number, offset: number, length: number): void => {
    memory.set(image.subarray(offset, offset + length), place(word));
  };
  copy(map.MAP_HEADER_AT, 0, HEADER_COPY_BYTES);
  copy(map.MAP_L1_AT, built.l1Offset, built.l1Entries * ENTRY_BYTES);
  copy(map.MAP_TABLE_AT, built.tableOffset, 2 ** setup.shape.clusterBits);
  for (const [index, { offset, length }] of built.ranges.entries()) {
    const entry = place(map.MAP_RANGES_AT) + index * map.RANGE_SIZE;
    view.setBigUint64(entry + map.RANGE_OFFSET, BigInt(offset), true);
    view.setBigUint64(entry + map.RANGE_LENGTH, BigInt(length), true);
  }
  if (view.getUint32(place(map.MAP_HEADER_AT)) !== QCOW2_MAGIC) throw new Violation('no header');
  return bytes;
}

function configureEngine(view: DataView, { disk }: BuiltImage, setup: Setup): void {
  const words: readonly (readonly [number, number])[] = [
    [region.CONFIG_BLOCK_SIZE, setup.blockSize],
    [region.CONFIG_FLAGS, setup.flags],
    [region.CONFIG_DEPTH, setup.depth],
    [region.CONFIG_MERGE_BYTES, setup.mergeBytes],
    [region.CONFIG_FILES, setup.shape.files.includes('data') ? 2 : 1],
    [region.CONFIG_CHUNK_BYTES, 0],
    [region.CONFIG_READ_EXPIRY, 100],
    [region.CONFIG_WRITE_EXPIRY, 1000],
    [region.CONFIG_BATCH, 4],
    [region.CONFIG_WRITES_STARVED, 2],
    [region.CONFIG_FLUSH_WAIT, setup.flushWait],
    [region.CONFIG_MAP, MAP - REGION],
  ];
  view.setBigUint64(REGION + region.CONFIG_CAPACITY, BigInt(disk.length), true);
  for (const [at, value] of words) view.setUint32(REGION + at, value, true);
}

function configureMap(
  view: DataView,
  files: HostFiles,
  { disk, backing, ranges, l1Entries, l1Offset, tableOffset }: BuiltImage,
  setup: Setup,
): void {
  const { clusterBits, refcountOrder } = setup.shape;
  const perCluster = 2 ** clusterBits / ENTRY_BYTES;
  const granules = setup.granuleBits === 0 ? 0 : Math.ceil(disk.length / 2 ** setup.granuleBits);
  const words: readonly (readonly [number, number])[] = [
    [map.MAP_CLUSTER_BITS, clusterBits],
    [map.MAP_FLAGS, flagsOf(setup)],
    [map.MAP_REFCOUNT_ORDER, refcountOrder],
    [map.MAP_L1_ENTRIES, setup.shortL1 ? l1Entries >> 1 : l1Entries],
    [map.MAP_TABLE_ENTRIES, perCluster],
    [map.MAP_TABLE_ROOM, perCluster * setup.tableClusters],
    [map.MAP_L2_SLICES, setup.l2Slices],
    [map.MAP_REFCOUNT_SLICES, setup.refcountSlices],
    [map.MAP_BUFFERS, setup.buffers],
    [map.MAP_RANGES, ranges.length],
    [map.MAP_FLUSH_INTERVAL, setup.flushInterval],
    [map.MAP_RESERVE_CLUSTERS, setup.reserveClusters],
    [map.MAP_GRANULE_BITS, setup.granuleBits],
    [map.MAP_GRANULES, granules],
  ];
  for (const [at, value] of words) view.setUint32(MAP + at, value, true);
  view.setBigUint64(MAP + map.MAP_L1_OFFSET, BigInt(l1Offset), true);
  view.setBigUint64(MAP + map.MAP_TABLE_OFFSET, BigInt(tableOffset), true);
  view.setBigUint64(MAP + map.MAP_FILE_BYTES, BigInt(files.sizeBytes), true);
  view.setBigUint64(MAP + map.MAP_BACKING_BYTES, BigInt(backing.length), true);
}

function flagsOf({ shape, mapFlags }: Setup): number {
  const { version, extended, files } = shape;
  const flags: readonly (readonly [boolean, number])[] = [
    [version === 2, map.MAP_VERSION_2],
    [extended, map.MAP_EXTENDED_L2],
    [files.includes('backing'), map.MAP_BACKING],
    [files.includes('data'), map.MAP_DATA_FILE],
    [files === 'raw data', map.MAP_RAW_DATA_FILE],
    [files.includes('ciphered'), map.MAP_CIPHERED],
  ];
  return flags.reduce((word, [on, flag]) => (on ? word | flag : word), mapFlags);
}
