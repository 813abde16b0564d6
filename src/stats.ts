/** Counters of a disk, as a plain object. */
import {
  COUNT_ABORTED,
  COUNT_BARRIER_FLUSHES,
  COUNT_BARRIERS,
  COUNT_BLOCK_STATUSES,
  COUNT_BYTES_READ,
  COUNT_BYTES_WRITTEN,
  COUNT_COMMANDS,
  COUNT_DISCARDS,
  COUNT_EXPIRED,
  COUNT_FLUSHES,
  COUNT_FLUSHES_COALESCED,
  COUNT_FLUSHES_ELIDED,
  COUNT_GROUP_COMMITS,
  COUNT_MERGED,
  COUNT_ORDERED,
  COUNT_READS,
  COUNT_REFUSED,
  COUNT_REISSUED,
  COUNT_SUPERSEDED,
  COUNT_SYNCS,
  COUNT_SYNCS_DELAYED,
  COUNT_SYNCS_FAILED,
  COUNT_WRITE_ZEROES,
  COUNT_WRITES,
} from './abi/region.ts';
import * as map from './abi/map.ts';
import type { Engine } from './engine.ts';

/** What a disk has done since it was opened. Every field counts up. */
export interface DiskStats {
  /** Requests by kind, flushes included. */
  readonly requests: {
    readonly read: number;
    readonly write: number;
    readonly writeZeroes: number;
    readonly discard: number;
    readonly blockStatus: number;
    readonly flush: number;
    /** Refused before any I/O: out of range, read-only, malformed. */
    readonly refused: number;
  };
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Data commands handed to the host. */
  readonly commands: number;
  /** Requests that rode in another one's command. */
  readonly merged: number;
  /** Queued writes that were never sent, because a later one covers them. */
  readonly superseded: number;
  /** Runs that the deadline elevator chose because their time was up. */
  readonly expired: number;
  /** Requests that waited for an earlier overlapping one. */
  readonly ordered: number;
  /** Parts of failed merged commands that were sent again, alone. */
  readonly reissued: number;
  readonly flushes: {
    readonly received: number;
    /** Answered at once: nothing volatile had completed since the last good sync. */
    readonly elided: number;
    /** Syncs saved: flushes, and stable writes, that another one's sync served too. */
    readonly coalesced: number;
  };
  readonly barriers: {
    readonly received: number;
    /** Those that had something to flush before their own I/O. */
    readonly flushed: number;
  };
  /** Requests that the reset of a queue ended. */
  readonly aborted: number;
  /** Syncs handed to the host (fdatasync). */
  readonly syncs: number;
  readonly syncsFailed: number;
  /** Syncs that waited for companions. */
  readonly syncsDelayed: number;
  /** Stable writes that shared a sync instead of using the O_DSYNC descriptor. */
  readonly groupCommits: number;
  /** Images with tables (qcow2) only. */
  readonly tables?: TableStats;
}

/** What the tables of an image have cost. */
export interface TableStats {
  /** Lookups that found their slice of an L2 table in memory, and slices that were read. */
  readonly l2Hits: number;
  readonly l2Loads: number;
  readonly refcountLoads: number;
  /** Slices and pieces of tables that were written back. */
  readonly writes: number;
  /** Cycles of writing back, and those that had to make data stable first. */
  readonly cycles: number;
  readonly fences: number;
  /** Times that clusters were reserved ahead, and how many are reserved now. */
  readonly reserves: number;
  readonly reservedClusters: number;
  readonly allocatedClusters: number;
  readonly freedClusters: number;
  /** Bytes around the data of writes that were copied or zeroed. */
  readonly copiedBytes: number;
}

/** Reads the counters of an engine. */
export function readStats(engine: Engine): DiskStats {
  return {
    requests: {
      read: engine.counter(COUNT_READS),
      write: engine.counter(COUNT_WRITES),
      writeZeroes: engine.counter(COUNT_WRITE_ZEROES),
      discard: engine.counter(COUNT_DISCARDS),
      blockStatus: engine.counter(COUNT_BLOCK_STATUSES),
      flush: engine.counter(COUNT_FLUSHES),
      refused: engine.counter(COUNT_REFUSED),
    },
    bytesRead: engine.counter(COUNT_BYTES_READ),
    bytesWritten: engine.counter(COUNT_BYTES_WRITTEN),
    commands: engine.counter(COUNT_COMMANDS),
    merged: engine.counter(COUNT_MERGED),
    superseded: engine.counter(COUNT_SUPERSEDED),
    expired: engine.counter(COUNT_EXPIRED),
    ordered: engine.counter(COUNT_ORDERED),
    reissued: engine.counter(COUNT_REISSUED),
    flushes: {
      received: engine.counter(COUNT_FLUSHES),
      elided: engine.counter(COUNT_FLUSHES_ELIDED),
      coalesced: engine.counter(COUNT_FLUSHES_COALESCED),
    },
    barriers: {
      received: engine.counter(COUNT_BARRIERS),
      flushed: engine.counter(COUNT_BARRIER_FLUSHES),
    },
    aborted: engine.counter(COUNT_ABORTED),
    syncs: engine.counter(COUNT_SYNCS),
    syncsFailed: engine.counter(COUNT_SYNCS_FAILED),
    syncsDelayed: engine.counter(COUNT_SYNCS_DELAYED),
    groupCommits: engine.counter(COUNT_GROUP_COMMITS),
    ...(engine.mapAt === 0 ? {} : { tables: readTables(engine) }),
  };
}

function readTables(engine: Engine): TableStats {
  const counter = (at: number): number => Number(engine.loadMap64(at));
  return {
    l2Hits: counter(map.MAP_COUNT_L2_HITS),
    l2Loads: counter(map.MAP_COUNT_L2_LOADS),
    refcountLoads: counter(map.MAP_COUNT_REFCOUNT_LOADS),
    writes: counter(map.MAP_COUNT_METADATA_WRITES),
    cycles: counter(map.MAP_COUNT_CYCLES),
    fences: counter(map.MAP_COUNT_FENCES),
    reserves: counter(map.MAP_COUNT_RESERVES),
    reservedClusters: engine.loadMap(map.MAP_RESERVED),
    allocatedClusters: counter(map.MAP_COUNT_ALLOCATED),
    freedClusters: counter(map.MAP_COUNT_FREED),
    copiedBytes: counter(map.MAP_COUNT_COPIED_BYTES),
  };
}
