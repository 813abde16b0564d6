// The state of one engine. Everything hangs off its base address, so that a module serves many
// engines, lives in somebody else's memory, and is copied whole by copying its region.

import {
  COMMAND_HEAD,
  COMMAND_TAIL,
  COMPLETION_HEAD,
  COMPLETION_TAIL,
  CONFIG_BATCH,
  CONFIG_BLOCK_SIZE,
  CONFIG_CAPACITY,
  CONFIG_CHUNK_BYTES,
  CONFIG_DEPTH,
  CONFIG_FILES,
  CONFIG_FLAGS,
  CONFIG_FLUSH_WAIT,
  CONFIG_MAP,
  CONFIG_MERGE_BYTES,
  CONFIG_READ_EXPIRY,
  CONFIG_WRITE_EXPIRY,
  CONFIG_WRITES_STARVED,
  ENGINE_STATE,
  REQUEST_HEAD,
  REQUEST_TAIL,
  RESULT_HEAD,
  RESULT_TAIL,
  STATE_LATCHED,
  STATE_WAIT,
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
  files: u32;
  chunkBytes: u32;
  readExpiry: u32;
  writeExpiry: u32;
  batch: u32;
  writesStarved: u32;
  flushWait: u32;
  map: u32;
  private reserved1: u64;
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
  wait: u32;
  private reserved2: u32;
  /** Time of this call in microseconds. */
  now: u64;

  /** True when the configuration has `flag` (CONFIG_*). */
  has(flag: u32): bool {
    return (this.flags & flag) != 0;
  }
}

/** The largest number that is no longer exact in an f64. */
const TIME_END: f64 = 9007199254740992.0;

/** Sets the clock to `now` microseconds; time never goes back. */
export function setClock(engine: usize, now: f64): void {
  const state = changetype<Engine>(engine);
  const time: u64 = now >= 0.0 && now < TIME_END ? <u64>now : 0;
  if (time > state.now) state.now = time;
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
if (offsetof<Engine>('files') != CONFIG_FILES) ERROR('Engine.files');
if (offsetof<Engine>('chunkBytes') != CONFIG_CHUNK_BYTES) ERROR('Engine.chunkBytes');
if (offsetof<Engine>('readExpiry') != CONFIG_READ_EXPIRY) ERROR('Engine.readExpiry');
if (offsetof<Engine>('writeExpiry') != CONFIG_WRITE_EXPIRY) ERROR('Engine.writeExpiry');
if (offsetof<Engine>('batch') != CONFIG_BATCH) ERROR('Engine.batch');
if (offsetof<Engine>('writesStarved') != CONFIG_WRITES_STARVED) ERROR('Engine.writesStarved');
if (offsetof<Engine>('flushWait') != CONFIG_FLUSH_WAIT) ERROR('Engine.flushWait');
if (offsetof<Engine>('map') != CONFIG_MAP) ERROR('Engine.map');
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
if (offsetof<Engine>('wait') != STATE_WAIT) ERROR('Engine.wait');
if (offsetof<Engine>() > <usize>ENGINE_STATE) ERROR('Engine');
