// Jobs: what a flight (command/flight.ts) of a mapped disk is in the middle of. A job has the index
// of its flight.
//
// B1  A flight that must wait is parked with one reason, and goes on when that reason is gone, in
//     the order of the parking. Nobody else waits for it.
// B2  While a job gives clusters a place, no other job touches their entries: whoever wants to,
//     waits until it has ended.

import { NONE } from '../../engine.ts';
import { VERIFY, verify } from '../../verify.ts';
import { JOB_SIZE, JOBS, Qcow2 } from './state.ts';

// Reasons: the kind in the high byte, which one in the rest.
export const WAIT_NOTHING: u32 = 0;
export const WAIT_SLICE: u32 = 1 << 24;
export const WAIT_BUFFER: u32 = 2 << 24;
export const WAIT_ANY_BUFFER: u32 = 3 << 24;
export const WAIT_SPACE: u32 = 4 << 24;
export const WAIT_JOB: u32 = 5 << 24;
export const WAIT_TABLE: u32 = 6 << 24;
export const WAIT_IO: u32 = 7 << 24;
export const WAIT_CYCLE: u32 = 8 << 24;
export const WAIT_FILL: u32 = 9 << 24;
/** For the host, which takes no more commands. */
export const WAIT_ROOM: u32 = 10 << 24;
/** For room in the list of frees. */
export const WAIT_FREE: u32 = 11 << 24;
export const WAIT_REFCOUNTS: u32 = 12 << 24;
/** For a turn in loading slices (turns.ts). */
export const WAIT_TURN: u32 = 13 << 24;

export const JOB_NONE: u32 = 0;
/** Its clusters have a place; what surrounds the data is being read. */
export const JOB_FILLING: u32 = 1;
/** Its write is at the host. */
export const JOB_WRITING: u32 = 2;

@unmanaged
export class Job {
  /** Reason why it is parked, or WAIT_NOTHING. */
  waiting: u32;
  /** Errno that the reason ended with; 1 in `woken`: it has ended. */
  errno: u32;
  woken: u32;
  next: u32;
  state: u32;
  nextActive: u32;
  /** Slice of its entries, which is pinned, and the first entry in it. */
  slot: u32;
  index: u32;
  clusters: u32;
  /** 1: the clusters are new ones. */
  isNew: u32;
  /** 1: the data must be stable before an entry points to it. */
  ordered: u32;
  /** 1: the data is zeroes, and stands in the buffer. */
  zero: u32;
  headBytes: u32;
  tailBytes: u32;
  headBuffer: u32;
  tailBuffer: u32;
  /** 1: every subcluster is filled, whatever it was. */
  whole: u32;
  wholeLast: u32;
  fillPending: u32;
  /** Entries in the list of frees that are kept for it. */
  promise: u32;
  /** 1: it may load slices; and the slots + 1 of what it keeps in the caches, or 0 (turns.ts). */
  hasTurn: u32;
  keptL2: u32;
  keptRefcounts: u32;
  /** The data: guest offset and bytes; and the host offset of its first byte. */
  guest: u64;
  length: u64;
  host: u64;
  fillAt: u64;
  /** Number of the flight. */
  sequence: u64;

  static at(map: Qcow2, id: u32): Job {
    if (VERIFY) verify(id < JOBS);
    return changetype<Job>(map.place(map.jobsAt) + <usize>id * JOB_SIZE);
  }
}

if (offsetof<Job>() > <usize>JOB_SIZE) ERROR('Job');

export function initJobs(map: Qcow2): void {
  memory.fill(map.place(map.jobsAt), 0, <usize>JOBS * JOB_SIZE);
  map.parkedHead = NONE;
  map.parkedTail = NONE;
  map.woken = 0;
  map.activeHead = NONE;
}

/** A flight has been opened. */
export function openJob(map: Qcow2, id: u32): void {
  const job = Job.at(map, id);
  job.state = JOB_NONE;
  job.sequence = ++map.youngestFlight;
}

/**
 * A flight is about to ask for its next piece. Those that write read nothing but what a job of
 * theirs fills, so what was dropped before is nothing to them (frees.ts, D1).
 */
export function renewJob(map: Qcow2, id: u32): void {
  const job = Job.at(map, id);
  if (job.state == JOB_NONE) job.sequence = ++map.youngestFlight;
}

/** It waits, and will ask again; what it then finds is no older than that (renewJob). */
export function restJob(map: Qcow2, id: u32): void {
  const job = Job.at(map, id);
  if (job.state == JOB_NONE) job.sequence = 0;
}

/** It has ended. */
export function closeJob(map: Qcow2, id: u32): void {
  const job = Job.at(map, id);
  if (VERIFY) verify(job.state == JOB_NONE && job.waiting == WAIT_NOTHING && !job.hasTurn);
  job.sequence = 0;
}

/** Sequence of the oldest open flight; past the youngest when there is none. */
export function oldestOpen(map: Qcow2): u64 {
  let oldest = map.youngestFlight + 1;
  for (let id: u32 = 0; id < JOBS; id++) {
    const sequence = Job.at(map, id).sequence;
    if (sequence != 0 && sequence < oldest) oldest = sequence;
  }
  return oldest;
}

/** True while a flight is parked. */
export function isParked(map: Qcow2, id: u32): bool {
  return Job.at(map, id).waiting != WAIT_NOTHING;
}

/** Lets a flight go on, whatever it waits for; unless the host has one of its buffers. */
export function rouse(map: Qcow2, id: u32): void {
  const job = Job.at(map, id);
  if (job.waiting == WAIT_NOTHING) park(map, id, WAIT_ROOM);
  if (job.fillPending != 0 && job.state == JOB_FILLING) return;
  if (job.woken) return;
  job.woken = 1;
  map.woken += 1;
}

/** Parks a flight (B1). */
export function park(map: Qcow2, id: u32, reason: u32): void {
  const job = Job.at(map, id);
  if (VERIFY) verify(job.waiting == WAIT_NOTHING);
  job.waiting = reason;
  job.woken = 0;
  job.errno = 0;
  job.next = NONE;
  if (map.parkedTail == NONE) map.parkedHead = id;
  else Job.at(map, map.parkedTail).next = id;
  map.parkedTail = id;
}

/** A reason is gone; `errno` is not 0 when what was waited for has failed. */
export function wake(map: Qcow2, reason: u32, errno: u32): void {
  wakeSome(map, reason, errno, <u32>-1);
}

/** A reason is gone for the `count` that have waited longest. */
export function wakeSome(map: Qcow2, reason: u32, errno: u32, count: u32): void {
  let left = count;
  for (let id = map.parkedHead; id != NONE && left != 0; id = Job.at(map, id).next) {
    const job = Job.at(map, id);
    if (job.waiting != reason || job.woken) continue;
    job.woken = 1;
    job.errno = errno;
    map.woken += 1;
    left -= 1;
  }
}

/** True while somebody waits for `reason`. */
export function isAwaited(map: Qcow2, reason: u32): bool {
  for (let id = map.parkedHead; id != NONE; id = Job.at(map, id).next) {
    const job = Job.at(map, id);
    if (job.waiting == reason && !job.woken) return true;
  }
  return false;
}

/** Takes the first flight that may go on, or NONE; its errno says how the waiting ended. */
export function takeWoken(map: Qcow2): u32 {
  if (map.woken == 0) return NONE;
  let before = NONE;
  let id = map.parkedHead;
  while (!Job.at(map, id).woken) {
    before = id;
    id = Job.at(map, id).next;
  }
  const job = Job.at(map, id);
  if (before == NONE) map.parkedHead = job.next;
  else Job.at(map, before).next = job.next;
  if (map.parkedTail == id) map.parkedTail = before;
  job.waiting = WAIT_NOTHING;
  job.woken = 0;
  map.woken -= 1;
  return id;
}

/** Enters a job that gives clusters a place (B2). */
export function enterJob(map: Qcow2, id: u32): void {
  const job = Job.at(map, id);
  job.nextActive = map.activeHead;
  map.activeHead = id;
}

/** It has ended. */
export function leaveJob(map: Qcow2, id: u32): void {
  const job = Job.at(map, id);
  job.state = JOB_NONE;
  if (map.activeHead == id) map.activeHead = job.nextActive;
  else {
    let at = map.activeHead;
    while (Job.at(map, at).nextActive != id) at = Job.at(map, at).nextActive;
    Job.at(map, at).nextActive = job.nextActive;
  }
}

/** B2: clusters from `cluster` on, at most `count`, that no job holds. */
export function unheldClusters(map: Qcow2, cluster: u64, count: u64): u64 {
  let free = count;
  for (let id = map.activeHead; id != NONE; id = Job.at(map, id).nextActive) {
    const job = Job.at(map, id);
    const first = job.guest >> <u64>map.clusterBits;
    const end = first + job.clusters;
    if (end <= cluster) continue;
    if (first <= cluster) return 0;
    free = min(free, first - cluster);
  }
  return free;
}
