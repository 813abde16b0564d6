/**
 * The memory of a fuzzed engine with a qcow2 mapping:
 *
 *     0       COUNTERS   REGION   MAP                       ARENA                    MEMORY_BYTES
 *     | guard | coverage | engine | mapping, then a guard | memory of the requests | guard |
 *
 * The engine may write to its region, to the mapping's, and to what a read or a block status names.
 */

import { COUNTERS, REGION, REGION_END } from '../layout.ts';

export { COUNTERS, REGION };

const PAGE_BYTES = 65536;

/** Where the mapping begins: right behind the engine. */
export const MAP = REGION_END;
/** Room for the largest mapping that is made. */
export const MAP_ROOM = 48 * PAGE_BYTES;
/** Where the bytes of requests lie, and their tables. */
export const ARENA = MAP + MAP_ROOM;
/** Its size. */
export const ARENA_BYTES = 24 * PAGE_BYTES;
/** The end of it. */
export const ARENA_END = ARENA + ARENA_BYTES;
const MEMORY_BYTES = ARENA_END + PAGE_BYTES;

/** What nobody has written. */
export const FILLER = 0xa5;

/** A memory as a run finds it. */
export function createQcow2Memory(): WebAssembly.Memory {
  const memory = new WebAssembly.Memory({ initial: MEMORY_BYTES / PAGE_BYTES });
  const bytes = new Uint8Array(memory.buffer);
  bytes.fill(FILLER, 0, REGION);
  bytes.fill(FILLER, MAP);
  return memory;
}
