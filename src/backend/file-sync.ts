/**
 * Syncs of a file: on libuv's pool, or on the calling thread when somebody is alone with the file.
 * The two changes of threads and the wake-ups of a pooled one take a third as long as a fast disk
 * does. But nobody else of the thread is served while it waits for a disk, and syncs that could
 * have been one follow each other. So a sync is made here only when
 *
 *   L1  nothing else is in flight, and no read, write or sync came while the last QUIET_SYNCS
 *       pooled ones ran; every PROBE_INTERVAL-th is pooled all the same, to see whether that is
 *       still so
 *   L2  little was written since the last one, of which the disk has to see all
 *   L3  the disk answers soon (patience.ts)
 *   L4  the thread serves no second client (company.ts)
 */
import { mayWait } from './company.ts';
import type { FileCounters } from './file-counters.ts';
import type { Settle } from './file-transfer.ts';
import { DISK_PATIENCE, Patience, WAITED_BYTES } from './patience.ts';

/** Pooled syncs in a row that had no company. */
export const QUIET_SYNCS = 8;
/** From one pooled sync to the next. */
export const PROBE_INTERVAL = 32;

/** The two ways to sync. */
export interface SyncCalls {
  /** Settles with an errno, later. */
  pooled(settle: Settle): void;
  /** Waits for the disk; answers an errno. */
  here(): number;
}

/** See the head of the file. */
export class FileSync {
  readonly #calls: SyncCalls;
  readonly #counters: Readonly<FileCounters>;
  readonly #waits: boolean;
  readonly #patience = new Patience(DISK_PATIENCE);
  #quietSyncs = 0;
  #untilProbe = PROBE_INTERVAL;
  /** What had been written when the last sync began. */
  #syncedBytes = 0;

  /** @param waits the calling thread may wait for the disk */
  constructor(calls: SyncCalls, counters: Readonly<FileCounters>, waits: boolean) {
    this.#calls = calls;
    this.#counters = counters;
    this.#waits = waits;
  }

  /** @param alone nothing else is in flight */
  run(alone: boolean, settle: Settle): void {
    const unsyncedBytes = this.#counters.bytesWritten - this.#syncedBytes;
    this.#syncedBytes = this.#counters.bytesWritten;
    if (this.#isMadeHere(alone, unsyncedBytes)) settle(this.#syncHere());
    else this.#syncPooled(alone, settle);
  }

  #isMadeHere(alone: boolean, unsyncedBytes: number): boolean {
    if (!this.#waits || !alone || !mayWait() || unsyncedBytes > WAITED_BYTES) return false;
    if (this.#quietSyncs < QUIET_SYNCS || --this.#untilProbe === 0) return false;
    return this.#patience.ask();
  }

  #syncHere(): number {
    const start = performance.now();
    const errno = this.#calls.here();
    this.#patience.took(performance.now() - start);
    return errno;
  }

  #syncPooled(alone: boolean, settle: Settle): void {
    const before = this.#commands;
    this.#untilProbe = PROBE_INTERVAL;
    this.#calls.pooled((errno) => {
      const isQuiet = alone && this.#commands === before;
      this.#quietSyncs = isQuiet ? this.#quietSyncs + 1 : 0;
      settle(errno);
    });
  }

  get #commands(): number {
    const { reads, writes, syncs } = this.#counters;
    return reads + writes + syncs;
  }
}
