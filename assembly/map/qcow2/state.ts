// The state of a qcow2 mapping. Everything hangs off its base, in offsets from it: the region is
// moved by copying it. What follows the state is laid out by layout.ts.

import { COMMAND_SLOTS } from '../../../src/abi/limits.ts';
import {
  MAP_CORRUPT,
  MAP_CORRUPT_VALUE,
  MAP_COUNT_L2_HITS,
  MAP_COUNT_RESERVES,
  MAP_DIRTY,
  MAP_FILE_BYTES,
  MAP_FLUSH_INTERVAL,
  MAP_GRANULE_BITS,
  MAP_HEADER_AT,
  MAP_L1_AT,
  MAP_L1_OFFSET,
  MAP_RESERVED,
  MAP_STATE,
  MAP_TABLE_OFFSET,
  RESERVED_RUNS,
} from '../../../src/abi/map.ts';
import { Engine } from '../../engine.ts';

/** The bytes of the header that are kept, to be written again when a field changes. */
export const HEADER_COPY_BYTES: u32 = 512;
/** A job belongs to the flight of its index (command/flight.ts). */
export const JOBS: u32 = <u32>COMMAND_SLOTS + 1;
export const JOB_SIZE: u32 = 144;
export const IO_SIZE: u32 = 48;
export const FREE_SIZE: u32 = 40;
export const SLICE_SIZE: u32 = 48;
export const BUFFER_SIZE: u32 = 32;
export const RUN_SIZE: u32 = 16;
export const STAGED_SIZE: u32 = 24;
/** L1 tables are written in pieces of this size. */
export const L1_CHUNK_BITS: u32 = 9;
export const CHUNK_SIZE: u32 = 16;

/** The caches' records, the header copy and the reserved runs stand at fixed places. */
export const SPOT: u32 = 960;
export const L2_CACHE: u32 = 1024;
export const REFCOUNT_CACHE: u32 = 1088;
export const HEADER_COPY: u32 = 1152;
export const RESERVED_TABLE: u32 = HEADER_COPY + HEADER_COPY_BYTES;
export const MAP_TABLES: u32 = RESERVED_TABLE + RESERVED_RUNS * RUN_SIZE;

@unmanaged
export class Qcow2 {
  // 0: configuration and what the host may read, see src/abi/map.ts
  clusterBits: u32;
  flags: u32;
  refcountOrder: u32;
  l1Entries: u32;
  l1Offset: u64;
  tableOffset: u64;
  tableEntries: u32;
  tableRoom: u32;
  fileBytes: u64;
  backingBytes: u64;
  l2Slices: u32;
  refcountSlices: u32;
  buffers: u32;
  ranges: u32;
  flushInterval: u32;
  reserveClusters: u32;
  granuleBits: u32;
  granules: u32;
  // 88: state
  corruptValue: u64;
  corruptWhere: u64;
  dirty: u32;
  closing: u32;
  writeNow: u32;
  reserved: u32;
  l1At: u32;
  tableAt: u32;
  rangesAt: u32;
  headerAt: u32;
  granulesAt: u32;
  corrupt: u32;
  // 144: counters
  countL2Hits: u64;
  countL2Loads: u64;
  countRefcountLoads: u64;
  countMetadataWrites: u64;
  countAllocated: u64;
  countFreed: u64;
  countCopiedBytes: u64;
  countCycles: u64;
  countFences: u64;
  countReserves: u64;
  private unused2: u64;
  private unused3: u64;
  private unused4: u64;
  private unused5: u64;
  // 256: what the pump says (begin).
  /** Generation of now, and the last up to which every write is stable (schedule/flush.ts). */
  generation: u64;
  proven: u64;
  /** Time of this call in microseconds. */
  now: u64;
  /** 1: no sync succeeds any more. */
  latched: u32;
  /** 1: syncs are not asked for. */
  noFlush: u32;
  /** Sequence of the youngest flight, and of the oldest that is open. */
  youngestFlight: u64;
  oldestFlight: u64;
  // Geometry.
  clusterBytes: u64;
  /** log2 of the entries of an L2 table. */
  l2Bits: u32;
  /** log2 of the bytes of a slice. */
  sliceBits: u32;
  /** log2 of the bytes of an L2 entry. */
  entryBits: u32;
  /** log2 of the smallest thing that is mapped: a cluster or a subcluster. */
  unitBits: u32;
  /** log2 of the refcounts in a slice, and in a block. */
  sliceCountBits: u32;
  blockCountBits: u32;
  // Places, in bytes from the base.
  jobsAt: u32;
  iosAt: u32;
  freesAt: u32;
  buffersAt: u32;
  stagedAt: u32;
  chunksAt: u32;
  clearedAt: u32;
  stagedDataAt: u32;
  bufferDataAt: u32;
  // Jobs (job.ts).
  parkedHead: u32;
  parkedTail: u32;
  woken: u32;
  activeHead: u32;
  // Orders for the host (io.ts).
  ioFree: u32;
  ioHead: u32;
  ioTail: u32;
  ioOpen: u32;
  /** Buffers: a clock for who was used last. */
  bufferTick: u32;
  /** L1 pieces that are dirty. */
  dirtyChunks: u32;
  // Writing back (writeback.ts).
  /** Changes of L1 and L2 entries so far, and how many of them are written. */
  changes: u64;
  written: u64;
  /** Generation that makes what is written stable. */
  writtenGeneration: u64;
  cycleEnd: u64;
  cycleFence: u64;
  dirtySince: u64;
  cyclePhase: u32;
  cycleErrno: u32;
  cycleLeft: u32;
  /** Somebody waits for a cycle that has not begun. */
  cycleWanted: u32;
  /** Cycles that have ended, and the errno of the last. */
  cyclesEnded: u32;
  lastErrno: u32;
  staged: u32;
  stagedSent: u32;
  headerDirty: u32;
  headerBusy: u32;
  /** 1: a write of the header has failed, and is tried again with the next cycle. */
  headerHeld: u32;
  /** 0, or why it is not certain which refcount table the file's header names. */
  tableUnsure: u32;
  // The refcount worker (worker.ts).
  workerTask: u32;
  workerPhase: u32;
  workerErrno: u32;
  workerLeft: u32;
  workerFence: u64;
  /** What it works on: clusters from `workerStart` on. */
  workerStart: u64;
  workerCount: u64;
  workerAt: u64;
  /** First of the clusters in a row that have become free. */
  punchStart: u64;
  punchCount: u64;
  searchCluster: u64;
  workerOldEnd: u64;
  workerNewEnd: u64;
  takenStart: u64;
  workerBlocks: u32;
  workerTable: u32;
  /** Entries of the refcount table up to the last that is not 0. */
  tableUsed: u32;
  workerSlot: u32;
  /** Slot that findRefcounts has found. */
  foundSlot: u32;
  workerJumped: u32;
  workerScanned: u32;
  /** 1: nothing is released before the next cycle. */
  releaseHeld: u32;
  /** Slot of the slice that the worker waits for, or NONE; and the errno that it ended with. */
  workerAwaits: u32;
  loadErrno: u32;
  reserveWanted: u32;
  reserveSize: u32;
  reserveNext: u32;
  reservedRuns: u32;
  freeHead: u32;
  freeTail: u32;
  freeSpare: u32;
  freeCount: u32;
  freePromised: u32;
  /** Runs of tables among them. */
  freeTables: u32;
  // The copy of a shared L2 table (tables.ts).
  copyPhase: u32;
  copyIndex: u32;
  copyBuffer: u32;
  copyFrom: u64;
  copyTo: u64;
  copyErrno: u32;
  // Turns in loading slices (turns.ts).
  turns: u32;
  turnLimit: u32;
  /** 1: who asks now may load slices. */
  mayLoad: u32;
  /** Index + 1 of a refcount block that the table points to in memory, and in the file perhaps. */
  unlinked: u32;

  /** The mapping of an engine that has one. */
  static of(engine: usize): Qcow2 {
    return changetype<Qcow2>(engine + <usize>changetype<Engine>(engine).map);
  }

  /** The address of what lies `at` bytes from the base. */
  place(at: u32): usize {
    return changetype<usize>(this) + <usize>at;
  }

  /** True when the configuration has `flag` (MAP_*). */
  has(flag: u32): bool {
    return (this.flags & flag) != 0;
  }
}

/** `closing` as the host sets it, and after a cycle that has failed: the host may set it again. */
export const CLOSING: u32 = 1;
export const CLOSING_FAILED: u32 = 2;

/** Why `tableUnsure`: the header has to be written again; it was, and that is not stable yet. */
export const TABLE_UNKNOWN: u32 = 1;
export const TABLE_REWRITTEN: u32 = 2;

if (offsetof<Qcow2>('l1Offset') != MAP_L1_OFFSET) ERROR('Qcow2.l1Offset');
if (offsetof<Qcow2>('tableOffset') != MAP_TABLE_OFFSET) ERROR('Qcow2.tableOffset');
if (offsetof<Qcow2>('fileBytes') != MAP_FILE_BYTES) ERROR('Qcow2.fileBytes');
if (offsetof<Qcow2>('flushInterval') != MAP_FLUSH_INTERVAL) ERROR('Qcow2.flushInterval');
if (offsetof<Qcow2>('granuleBits') != MAP_GRANULE_BITS) ERROR('Qcow2.granuleBits');
if (offsetof<Qcow2>('corruptValue') != MAP_CORRUPT_VALUE) ERROR('Qcow2.corruptValue');
if (offsetof<Qcow2>('dirty') != MAP_DIRTY) ERROR('Qcow2.dirty');
if (offsetof<Qcow2>('reserved') != MAP_RESERVED) ERROR('Qcow2.reserved');
if (offsetof<Qcow2>('l1At') != MAP_L1_AT) ERROR('Qcow2.l1At');
if (offsetof<Qcow2>('headerAt') != MAP_HEADER_AT) ERROR('Qcow2.headerAt');
if (offsetof<Qcow2>('corrupt') != MAP_CORRUPT) ERROR('Qcow2.corrupt');
if (offsetof<Qcow2>('countL2Hits') != MAP_COUNT_L2_HITS) ERROR('Qcow2.countL2Hits');
if (offsetof<Qcow2>('countReserves') != MAP_COUNT_RESERVES) ERROR('Qcow2.countReserves');
if (offsetof<Qcow2>('generation') != MAP_STATE) ERROR('Qcow2.generation');
if (offsetof<Qcow2>() > <usize>SPOT) ERROR('Qcow2');

/** Where the entry of a guest address stands: the answer of `locate` (tables.ts). */
@unmanaged
export class Spot {
  /** Slot of its slice. */
  slot: u32;
  /** Its number in the slice, and the entries from it to the slice's end. */
  index: u32;
  left: u32;
  /** Why there is none: a reason to wait (job.ts), or an errno. */
  wait: u32;
  errno: u32;

  static of(map: Qcow2): Spot {
    return changetype<Spot>(map.place(SPOT));
  }
}

/** A cache of slices: the records of its slots, a hash of their keys, and their bytes. */
@unmanaged
export class Cache {
  slots: u32;
  sliceBits: u32;
  slotsAt: u32;
  hashAt: u32;
  hashMask: u32;
  dataAt: u32;
  /** Where the search for a slot to give up goes on. */
  hand: u32;
  /** Slots that are to be written. */
  dirty: u32;
  /** IO_LOAD_* of a load. */
  purpose: u32;

  static l2(map: Qcow2): Cache {
    return changetype<Cache>(map.place(L2_CACHE));
  }

  static refcounts(map: Qcow2): Cache {
    return changetype<Cache>(map.place(REFCOUNT_CACHE));
  }
}

if (offsetof<Cache>() > <usize>(REFCOUNT_CACHE - L2_CACHE)) ERROR('Cache');
