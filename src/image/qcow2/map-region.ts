/** The region of a qcow2 mapping (abi/map.ts): its configuration, and its first tables. */
import * as abi from '../../abi/map.ts';
import { CONFIG_MAP, REGION_SIZE } from '../../abi/region.ts';
import type { DiskGeometry } from '../../disk-geometry.ts';
import { type Engine, resumeEngine } from '../../engine.ts';
import type { Mapping } from '../../mapping.ts';

/** A run of bytes of the image file. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/** What the engine is told of an image. */
export interface MapOptions {
  readonly clusterBits: number;
  /** MAP_* of abi/map.ts. */
  readonly flags: number;
  readonly refcountOrder: number;
  readonly l1Offset: number;
  /** Entries to which the L1 table may grow. */
  readonly l1Room: number;
  readonly refcountTableOffset: number;
  /** Entries to which the refcount table may grow. */
  readonly refcountTableRoom: number;
  readonly fileBytes: number;
  readonly backingBytes: number;
  readonly l2Slices: number;
  readonly refcountSlices: number;
  readonly buffers: number;
  readonly flushIntervalMicros: number;
  readonly reserveClusters: number;
  /** The first 512 bytes of the image. */
  readonly header: Uint8Array;
  /** The active L1 table and the refcount table, as they lie in the file. */
  readonly l1: Uint8Array;
  readonly refcountTable: Uint8Array;
  /** Other metadata that no write may hit. */
  readonly ranges: readonly ByteRange[];
  /** Absent: what is written is not noted. */
  readonly granules?: Granules | undefined;
}

/** The parts of the disk of which it is noted whether they were written to. */
export interface Granules {
  /** log2 of the bytes of one. */
  readonly bits: number;
  readonly count: number;
}

const ENTRY_BYTES = 8;
const BITS_PER_BYTE = 8;
const HIGH_WORD = 0x1_0000_0000;
const PAGE_BYTES = 65_536;
/** Where a region lies while it is measured. */
const SCRATCH_MAP = 4096;

/**
 * Makes the mapping of an image.
 * @param module the build of the engine that the disk is made with
 * @throws RangeError when its tables do not fit into a memory
 */
export function createMapping(
  options: MapOptions,
  geometry: DiskGeometry,
  domains: number,
  module: WebAssembly.Module | undefined,
): Mapping {
  const config = configOf(options);
  const regionBytes = measure(withL1Entries(config, options.l1Room), module);
  if (regionBytes === 0) throw new RangeError('the tables of the image need too much memory');
  const install = (engine: Engine): void => {
    engine.exports.initMap(engine.base);
    const bytes = new Uint8Array(engine.memory.buffer, engine.base + engine.mapAt, regionBytes);
    const place = (word: number): number => engine.loadMap(word);
    bytes.set(options.header, place(abi.MAP_HEADER_AT));
    bytes.set(options.l1, place(abi.MAP_L1_AT));
    bytes.set(options.refcountTable, place(abi.MAP_TABLE_AT));
    bytes.set(rangeTable(options.ranges), place(abi.MAP_RANGES_AT));
  };
  return { geometry, domains, config, regionBytes, install };
}

/** The bits of the granules that were written to so far. */
export function writtenGranules(engine: Engine, { count }: Granules): Uint8Array {
  const at = engine.base + engine.mapAt + engine.loadMap(abi.MAP_GRANULES_AT);
  return new Uint8Array(engine.memory.buffer).slice(at, at + Math.ceil(count / BITS_PER_BYTE));
}

function configOf(options: MapOptions): Uint32Array {
  const words = new Uint32Array(abi.MAP_CONFIG_SIZE / 4);
  const set = (at: number, value: number): void => void (words[at / 4] = value);
  const set64 = (at: number, value: number): void => {
    set(at, value);
    set(at + 4, value / HIGH_WORD);
  };
  set(abi.MAP_CLUSTER_BITS, options.clusterBits);
  set(abi.MAP_FLAGS, options.flags);
  set(abi.MAP_REFCOUNT_ORDER, options.refcountOrder);
  set(abi.MAP_L1_ENTRIES, options.l1.length / ENTRY_BYTES);
  set64(abi.MAP_L1_OFFSET, options.l1Offset);
  set64(abi.MAP_TABLE_OFFSET, options.refcountTableOffset);
  set(abi.MAP_TABLE_ENTRIES, options.refcountTable.length / ENTRY_BYTES);
  set(abi.MAP_TABLE_ROOM, options.refcountTableRoom);
  set64(abi.MAP_FILE_BYTES, options.fileBytes);
  set64(abi.MAP_BACKING_BYTES, options.backingBytes);
  set(abi.MAP_L2_SLICES, options.l2Slices);
  set(abi.MAP_REFCOUNT_SLICES, options.refcountSlices);
  set(abi.MAP_BUFFERS, options.buffers);
  set(abi.MAP_RANGES, options.ranges.length);
  set(abi.MAP_FLUSH_INTERVAL, options.flushIntervalMicros);
  set(abi.MAP_RESERVE_CLUSTERS, options.reserveClusters);
  set(abi.MAP_GRANULE_BITS, options.granules?.bits ?? 0);
  set(abi.MAP_GRANULES, options.granules?.count ?? 0);
  return words;
}

function withL1Entries(config: Uint32Array, entries: number): Uint32Array {
  return config.with(abi.MAP_L1_ENTRIES / 4, entries);
}

/** The engine knows where the parts of its region lie; it is asked in a memory of its own. */
function measure(config: Uint32Array, module: WebAssembly.Module | undefined): number {
  const pages = Math.ceil((REGION_SIZE + PAGE_BYTES) / PAGE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages });
  const engine = resumeEngine(memory, 0, module);
  engine.store(CONFIG_MAP, SCRATCH_MAP);
  new Uint32Array(memory.buffer, SCRATCH_MAP, config.length).set(config);
  return engine.exports.measureMap(0) >>> 0;
}

function rangeTable(ranges: readonly ByteRange[]): Uint8Array {
  const bytes = new Uint8Array(ranges.length * abi.RANGE_SIZE);
  const view = new DataView(bytes.buffer);
  for (const [index, { offset, length }] of ranges.entries()) {
    const at = index * abi.RANGE_SIZE;
    view.setBigUint64(at + abi.RANGE_OFFSET, BigInt(offset), true);
    view.setBigUint64(at + abi.RANGE_LENGTH, BigInt(length), true);
  }
  return bytes;
}
