// What the tasks of the refcount worker have in common (worker.ts).

import { IO_WORKER, order } from './io.ts';
import { Qcow2 } from './state.ts';
import { ERRNO_EIO } from '../../../src/abi/command.ts';
import { FILE_IMAGE } from '../../../src/abi/map.ts';

export const TASK_NONE: u32 = 0;
export const TASK_RESERVE: u32 = 1;
export const TASK_GROW: u32 = 2;
export const TASK_RELEASE: u32 = 3;

/** Phase of a reserve that looks for clusters; those before it mend what has failed. */
export const SEARCH: u32 = 3;

/** The host has answered an order of the worker. */
export function workerAnswered(map: Qcow2, errno: u32): void {
  map.workerLeft -= 1;
  if (errno != 0 && map.workerErrno == 0) map.workerErrno = errno;
}

/** Makes an order of the worker. */
export function workerOrder(map: Qcow2, op: u32, offset: u64, length: u64, at: u32): void {
  map.workerLeft += 1;
  order(map, op, FILE_IMAGE, offset, length, at, IO_WORKER, 0);
}

/** Begins to wait until all that was answered is stable. */
export function startFence(map: Qcow2): void {
  map.workerFence = map.generation;
}

/** True when it is, or never will be: then `workerErrno` says so. */
export function fenceIsOver(map: Qcow2): bool {
  const stable = map.noFlush != 0 || map.proven >= map.workerFence;
  if (!stable && map.latched == 0) return false;
  if (!stable) map.workerErrno = ERRNO_EIO;
  map.workerFence = 0;
  return true;
}

/** The first cluster behind the file. */
export function fileEnd(map: Qcow2): u64 {
  return (map.fileBytes + map.clusterBytes - 1) >> <u64>map.clusterBits;
}
