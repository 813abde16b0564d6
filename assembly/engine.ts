// The state of one engine. Everything hangs off its base address, so that a module serves many
// engines, lives in somebody else's memory, and is copied whole by copying its region.

import {
  COMMAND_HEAD,
  COMMAND_TAIL,
  COMPLETION_HEAD,
  COMPLETION_TAIL,
  CONFIG_BLOCK_SIZE,
  CONFIG_CAPACITY,
  CONFIG_DEPTH,
  CONFIG_FLAGS,
  CONFIG_MERGE_BYTES,
  ENGINE_STATE,
  REQUEST_HEAD,
  REQUEST_TAIL,
  RESULT_HEAD,
  RESULT_TAIL,
  STATE_LATCHED,
  STATE_WCE,
} from '../src/abi/region.ts';

/** The end of every list, and "no slot". */
export const NONE: u32 = 0xffff_ffff;

/**
 * The region from its base: the configuration and the words the host reads, then, from
 * ENGINE_STATE on, what is private. Rings and tables follow at the offsets of memory.ts.
 */
@unmanaged
export class Engine {
  // 0: configuration, see src/abi/region.ts
  capacity: u64;
  blockSize: u32;
  flags: u32;
  depth: u32;
  mergeBytes: u32;
  private reserved0: u64;
  private reserved1: v128;
  private reserved2: v128;
  // 64: ring positions
  requestHead: u32;
  requestTail: u32;
  commandHead: u32;
  commandTail: u32;
  resultHead: u32;
  resultTail: u32;
  completionHead: u32;
  completionTail: u32;
  // 96: state that the host may read
  wce: u32;
  latched: u32;
}

/** Adds `amount` to the counter at `counter` (a COUNT_* offset of src/abi/region.ts). */
export function count(engine: usize, counter: usize, amount: u64): void {
  store<u64>(engine + counter, load<u64>(engine + counter) + amount);
}

if (offsetof<Engine>('capacity') != CONFIG_CAPACITY) ERROR('Engine.capacity');
if (offsetof<Engine>('blockSize') != CONFIG_BLOCK_SIZE) ERROR('Engine.blockSize');
if (offsetof<Engine>('flags') != CONFIG_FLAGS) ERROR('Engine.flags');
if (offsetof<Engine>('depth') != CONFIG_DEPTH) ERROR('Engine.depth');
if (offsetof<Engine>('mergeBytes') != CONFIG_MERGE_BYTES) ERROR('Engine.mergeBytes');
if (offsetof<Engine>('requestHead') != REQUEST_HEAD) ERROR('Engine.requestHead');
if (offsetof<Engine>('requestTail') != REQUEST_TAIL) ERROR('Engine.requestTail');
if (offsetof<Engine>('commandHead') != COMMAND_HEAD) ERROR('Engine.commandHead');
if (offsetof<Engine>('commandTail') != COMMAND_TAIL) ERROR('Engine.commandTail');
if (offsetof<Engine>('resultHead') != RESULT_HEAD) ERROR('Engine.resultHead');
if (offsetof<Engine>('resultTail') != RESULT_TAIL) ERROR('Engine.resultTail');
if (offsetof<Engine>('completionHead') != COMPLETION_HEAD) ERROR('Engine.completionHead');
if (offsetof<Engine>('completionTail') != COMPLETION_TAIL) ERROR('Engine.completionTail');
if (offsetof<Engine>('wce') != STATE_WCE) ERROR('Engine.wce');
if (offsetof<Engine>('latched') != STATE_LATCHED) ERROR('Engine.latched');
if (offsetof<Engine>() > <usize>ENGINE_STATE) ERROR('Engine');
