/**
 * The memory of a fuzzed engine, and the bytes in it that inputs may point at:
 *
 *     0          COUNTERS    REGION            DATA        TABLES      BUFFERS       memoryBytes
 *     |  guard   | coverage  | the engine      |  guard    |  segment  |  guard      |
 *
 * The engine may write to its region and to nothing else: the rest is compared after each run.
 */

import { REGION_SIZE } from '../../src/abi/region.ts';
import { MAX_TRANSFER_BYTES } from '../../src/abi/limits.ts';
import { SEGMENT_SIZE } from '../../src/abi/request.ts';

const PAGE_BYTES = 65536;

/** Where the counters of the coverage build are. */
export const COUNTERS = 16384;
/** The base of the engine. */
export const REGION = PAGE_BYTES;
/** The end of the engine. */
export const REGION_END = REGION + REGION_SIZE;
/** The same, on a page boundary. */
export const DATA = REGION + Math.ceil(REGION_SIZE / PAGE_BYTES) * PAGE_BYTES;
/** Segment tables: first the fixed ones, then those that a run writes. */
export const TABLES = DATA + 4096;
/** Where transfers go. Nobody writes them: contents are the business of test/engine. */
export const BUFFERS = DATA + PAGE_BYTES;
/** All of it. */
export const MEMORY_BYTES = BUFFERS + 4 * PAGE_BYTES;

/** Two segments of 512 bytes each. */
export const TABLE_GOOD = TABLES;
/** The second segment ends outside of the memory. */
export const TABLE_OUTSIDE = TABLES + 64;
/** Lengths whose sum is 0 in 32 bits. */
export const TABLE_WRAPPING = TABLES + 128;
/** 512 bytes between two segments of none. */
export const TABLE_EMPTY = TABLES + 160;
/** IOV_MAX segments that add up to the longest transfer. */
export const TABLE_LONG = TABLES + 192;
const LONG_SEGMENTS = 1024;
/** The first table of a run. */
export const TABLES_FREE = TABLE_LONG + LONG_SEGMENTS * SEGMENT_SIZE;

const FILLER = 0xa5;

/** A memory as a run finds it. */
export function createMemory(): WebAssembly.Memory {
  const memory = new WebAssembly.Memory({ initial: MEMORY_BYTES / PAGE_BYTES });
  const bytes = new Uint8Array(memory.buffer);
  bytes.fill(FILLER, 0, REGION);
  bytes.fill(FILLER, REGION_END);
  const view = new DataView(memory.buffer);
  const table = (at: number, segments: readonly (readonly [number, number])[]): void => {
    for (const [index, [address, length]] of segments.entries()) {
      view.setUint32(at + index * SEGMENT_SIZE, address, true);
      view.setUint32(at + index * SEGMENT_SIZE + 4, length, true);
    }
  };
  table(TABLE_GOOD, [
    [BUFFERS, 512],
    [BUFFERS + 1024, 512],
  ]);
  table(TABLE_OUTSIDE, [
    [BUFFERS, 512],
    [MEMORY_BYTES - 511, 512],
  ]);
  table(TABLE_WRAPPING, [
    [0, 0x8000_0000],
    [0, 0x8000_0000],
  ]);
  table(TABLE_EMPTY, [
    [BUFFERS, 0],
    [BUFFERS, 512],
    [BUFFERS, 0],
  ]);
  const part = MAX_TRANSFER_BYTES / LONG_SEGMENTS;
  table(
    TABLE_LONG,
    Array.from({ length: LONG_SEGMENTS }, () => [BUFFERS, part] as const),
  );
  return memory;
}
