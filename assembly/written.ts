// Requests that wait for a mapping's tables (schedule/unwritten.ts), between the two.

import { Engine, NONE } from './engine.ts';
import { isWritten, wantWritten } from './map/qcow2/index.ts';
import { Qcow2 } from './map/qcow2/state.ts';
import { finish } from './request/slot.ts';
import { awaitWritten, someAwaitWritten, takeWritten } from './schedule/unwritten.ts';
import { STATUS_IO_ERROR } from '../src/abi/request.ts';

/** True, and the request waits, while changes of the tables are in memory only. */
export function mustBeWritten(engine: usize, index: u32, after: u8): bool {
  if (changetype<Engine>(engine).map == 0) return false;
  const map = Qcow2.of(engine);
  if (isWritten(map)) return false;
  awaitWritten(engine, index, map.changes, after);
  return true;
}

/** The next one that waits and whose tables are written, or NONE. */
export function nextWritten(engine: usize): u32 {
  return takeWritten(engine, Qcow2.of(engine).written);
}

/** Fails those whose tables could not be written; true when there was one. */
export function failUnwritten(engine: usize): bool {
  const map = Qcow2.of(engine);
  const errno = map.lastErrno;
  if (map.cyclePhase != 0 || errno == 0) return false;
  map.lastErrno = 0;
  let any: bool = false;
  for (let index = takeWritten(engine, map.cycleEnd); index != NONE;) {
    any = true;
    finish(engine, index, STATUS_IO_ERROR, errno);
    index = takeWritten(engine, map.cycleEnd);
  }
  return any;
}

/** Has the tables written for those who still wait; true when that begins now. */
export function writeForWaiters(engine: usize): bool {
  return someAwaitWritten(engine) && wantWritten(Qcow2.of(engine));
}
