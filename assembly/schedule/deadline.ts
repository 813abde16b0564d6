// The deadline elevator: sweeps by place, in batches of one direction, and nobody waits for ever.
// It chooses only while the host takes fewer commands than there are runs.
//
// D1  Runs of one direction, reads or writes, go in batches; a batch ends after its number of runs
//     or when its direction has none left.
// D2  Inside a batch the next run is the one at or after the place where the last one of that
//     direction ended; from the end of the disk the sweep goes back to its start.
// D3  A new batch is of reads while there are any, until waiting writes have been passed over a
//     set number of times: then it is of writes.
// D4  A new batch begins with the oldest run of its direction when that has waited for its expiry.
//
// So a run waits, beyond its expiry, for at most one batch of its own direction at a time between
// the batches of the other: with B runs a batch, S batches of reads before writes, and R older
// expired runs before it, at most (R + 1) * (S + 1) * B runs go first.

import { COUNT_EXPIRED } from '../../src/abi/region.ts';
import { count, Engine } from '../engine.ts';
import { DEADLINE_STATE } from '../memory.ts';
import { Run, runsFound } from './elevator.ts';

@unmanaged
class Sweep {
  /** 1: the batch is of reads. */
  reads: u32;
  /** Runs that the batch may still take. */
  left: u32;
  /** Batches of reads that have passed over waiting writes since the last batch of writes. */
  passed: u32;
  private reserved: u32;
  /** Where the last run of reads, of writes, ended. */
  readPlace: u64;
  writePlace: u64;

  static of(engine: usize): Sweep {
    return changetype<Sweep>(engine + DEADLINE_STATE);
  }
}

const NO_RUN: usize = 0;

export function initDeadline(engine: usize): void {
  const sweep = Sweep.of(engine);
  sweep.reads = 1;
  sweep.left = 0;
  sweep.passed = 0;
  sweep.readPlace = 0;
  sweep.writePlace = 0;
}

/** The run that goes next. The caller has seen that one waits. */
export function dueRun(engine: usize): Run {
  const sweep = Sweep.of(engine);
  let run = changetype<Run>(NO_RUN);
  if (sweep.left != 0) run = nextInSweep(engine, sweep.reads != 0);
  if (changetype<usize>(run) == NO_RUN) run = beginBatch(engine);
  sweep.left -= 1;
  const end = run.offset(engine) + run.bytes;
  if (sweep.reads) sweep.readPlace = end;
  else sweep.writePlace = end;
  return run;
}

/** D3, D4: chooses the direction of a new batch and its first run. */
function beginBatch(engine: usize): Run {
  const state = changetype<Engine>(engine);
  const sweep = Sweep.of(engine);
  const read = oldestOf(engine, true);
  const write = oldestOf(engine, false);
  const writesWait = changetype<usize>(write) != NO_RUN;
  const readsWait = changetype<usize>(read) != NO_RUN;
  const reads = readsWait && !(writesWait && sweep.passed >= state.writesStarved);
  if (!reads) sweep.passed = 0;
  else if (writesWait) sweep.passed += 1;
  sweep.reads = u32(reads);
  sweep.left = state.batch;
  const oldest = reads ? read : write;
  const expiry = reads ? state.readExpiry : state.writeExpiry;
  if (state.now - oldest.arrival < <u64>expiry) return nextInSweep(engine, reads);
  count(engine, COUNT_EXPIRED, 1);
  return oldest;
}

/** D2: the next run of a direction, or none. */
function nextInSweep(engine: usize, reads: bool): Run {
  const sweep = Sweep.of(engine);
  const place = reads ? sweep.readPlace : sweep.writePlace;
  const found = runsFound(engine);
  let ahead = changetype<Run>(NO_RUN);
  let lowest = changetype<Run>(NO_RUN);
  for (let i: u32 = 0; i < found; i++) {
    const run = Run.at(engine, i);
    if (run.parts == 0 || run.reads(engine) != reads) continue;
    if (isBefore(engine, run, lowest)) lowest = run;
    if (run.offset(engine) >= place && isBefore(engine, run, ahead)) ahead = run;
  }
  return changetype<usize>(ahead) == NO_RUN ? lowest : ahead;
}

/** True when `run` lies before `other`, or is older at the same place, or there is no other. */
function isBefore(engine: usize, run: Run, other: Run): bool {
  if (changetype<usize>(other) == NO_RUN) return true;
  const offset = run.offset(engine);
  const otherOffset = other.offset(engine);
  return offset < otherOffset || (offset == otherOffset && run.oldest < other.oldest);
}

/** The run of a direction with the oldest request, or none. */
function oldestOf(engine: usize, reads: bool): Run {
  const found = runsFound(engine);
  let oldest = changetype<Run>(NO_RUN);
  for (let i: u32 = 0; i < found; i++) {
    const run = Run.at(engine, i);
    if (run.parts == 0 || run.reads(engine) != reads) continue;
    if (changetype<usize>(oldest) == NO_RUN || run.oldest < oldest.oldest) oldest = run;
  }
  return oldest;
}
