// What a process has cost so far.

import { readFileSync } from 'node:fs';

/** Of USER_HZ in /proc/PID/stat. */
const TICKS_PER_SECOND = 100;

/** Seconds of processor time of a process, user and system, all of its threads. */
export function processorSeconds(/** @type {number} */ pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
