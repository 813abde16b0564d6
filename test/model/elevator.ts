/** The model's elevator: runs of neighbours (E2), the oldest first (E3), or deadlines (D1-D4). */

import { MERGE_RANGE_BYTES, MERGE_SEGMENTS } from '../../src/abi/limits.ts';
import * as abi from '../../src/abi/request.ts';
import type { FullConfig } from '../driver.ts';
import { byPlace, type Entry, kindOf } from './request.ts';

/** Neighbours that are sent together, in ascending order. */
export type Run = readonly Entry[];

/** E2: what waits, in order of place, cut where a neighbour cannot join. */
export function cutRuns(config: FullConfig, waiting: readonly Entry[]): Run[] {
  const runs: Entry[][] = [];
  for (const entry of waiting.toSorted(byPlace)) {
    const run = runs.at(-1);
    if (run !== undefined && joins(config, run, entry)) run.push(entry);
    else runs.push([entry]);
  }
  return runs;
}

function joins(config: FullConfig, run: Run, entry: Entry): boolean {
  const last = run.at(-1)!;
  if (kindOf(last) !== kindOf(entry) || last.offset + last.length !== entry.offset) return false;
  if (last.alone || entry.alone || entry.op === abi.OP_BLOCK_STATUS) return false;
  const bytes = run.reduce((sum, part) => sum + part.length, entry.length);
  if (entry.op > abi.OP_WRITE) return bytes <= MERGE_RANGE_BYTES;
  const segments = run.reduce((sum, part) => sum + part.segments, entry.segments);
  return bytes <= config.mergeBytes && segments <= MERGE_SEGMENTS;
}

/** E3: takes the run with the oldest request out of `runs`. */
export function takeOldest(runs: Run[]): Run {
  return take(runs, runs.toSorted((a, b) => oldest(a) - oldest(b))[0]!);
}

/** D1. */
type Direction = 'reads' | 'writes';

/** D1-D4: what the sweeps remember. */
export class Deadline {
  /** Runs that a batch began with because their time was up. */
  expired = 0;
  readonly #config: FullConfig;
  #direction: Direction = 'reads';
  #left = 0;
  #passedOver = 0;
  readonly #position = { reads: 0, writes: 0 };

  constructor(config: FullConfig) {
    this.#config = config;
  }

  /** Takes the next run out of `runs`, which is not empty. */
  take(runs: Run[], now: number): Run {
    const reads = runs.filter((run) => directionOf(run) === 'reads');
    const writes = runs.filter((run) => directionOf(run) === 'writes');
    const going = { reads, writes };
    let urgent: Run | undefined;
    if (this.#left === 0 || going[this.#direction].length === 0) {
      this.#direction = this.#nextDirection(reads, writes);
      this.#left = this.#config.batch;
      urgent = this.#urgent(going[this.#direction], now);
    }
    this.#left -= 1;
    const run = urgent ?? this.#swept(going[this.#direction]);
    this.#position[this.#direction] = endOf(run);
    return take(runs, run);
  }

  /** D3. */
  #nextDirection(reads: Run[], writes: Run[]): Direction {
    const mayRead = writes.length === 0 || this.#passedOver < this.#config.writesStarved;
    if (reads.length > 0 && mayRead) {
      if (writes.length > 0) this.#passedOver += 1;
      return 'reads';
    }
    this.#passedOver = 0;
    return 'writes';
  }

  /** D4: the run with the oldest request, when that one has waited too long. */
  #urgent(runs: readonly Run[], now: number): Run | undefined {
    const run = runs.toSorted((a, b) => oldest(a) - oldest(b))[0]!;
    const { readExpiry, writeExpiry } = this.#config;
    const expiry = this.#direction === 'reads' ? readExpiry : writeExpiry;
    const since = Math.min(...run.map((entry) => entry.taken));
    if (now - since < expiry) return undefined;
    this.expired += 1;
    return run;
  }

  /** D2. */
  #swept(runs: readonly Run[]): Run {
    const ascending = runs.toSorted((a, b) => startOf(a) - startOf(b) || oldest(a) - oldest(b));
    const ahead = ascending.find((run) => startOf(run) >= this.#position[this.#direction]);
    return ahead ?? ascending[0]!;
  }
}

function take(runs: Run[], run: Run): Run {
  runs.splice(runs.indexOf(run), 1);
  return run;
}

function directionOf(run: Run): Direction {
  const { op } = run[0]!;
  return op === abi.OP_READ || op === abi.OP_BLOCK_STATUS ? 'reads' : 'writes';
}

function oldest(run: Run): number {
  return Math.min(...run.map((entry) => entry.age));
}

function startOf(run: Run): number {
  return run[0]!.offset;
}

function endOf(run: Run): number {
  const last = run.at(-1)!;
  return last.offset + last.length;
}
