// The end of a flight: what it means for each request that rode in it.

import { Flight, closeFlight } from './command/flight.ts';
import { errnoShown, statusOf } from './command/result.ts';
import { count, Engine, NONE } from './engine.ts';
import { closeJob } from './map/qcow2/job.ts';
import { Qcow2 } from './map/qcow2/state.ts';
import { actionOf, hold } from './request/hold.ts';
import { abort, isResetting } from './request/reset.ts';
import { Slot, finish } from './request/slot.ts';
import { enqueue } from './schedule/elevator.ts';
import { awaitStable } from './schedule/flush.ts';
import { AFTER_STABLE } from './schedule/unwritten.ts';
import { mustBeWritten } from './written.ts';
import { COUNT_REISSUED } from '../src/abi/region.ts';
import { STATUS_OK } from '../src/abi/request.ts';
import { ON_ERROR_REPORT, ON_ERROR_STOP } from '../src/abi/virtio-device.ts';

/** A flight that is decided decides for every request that rode in it. */
export function land(engine: usize, id: u32): void {
  const flight = Flight.at(engine, id);
  const errno = flight.errno;
  const merged = flight.parts > 1;
  for (let index = flight.head; index != NONE;) {
    const slot = Slot.at(engine, index);
    const next = slot.next;
    slot.value = flight.value;
    if (errno == 0 && slot.stable && !flight.direct) makeStable(engine, index);
    else if (errno != 0 && merged) sendAgainAlone(engine, index);
    else if (errno != 0) fail(engine, index, errno);
    else finish(engine, index, STATUS_OK, 0);
    index = next;
  }
  closeFlight(engine, id);
  if (changetype<Engine>(engine).map != 0) closeJob(Qcow2.of(engine), id);
}

/** The I/O of a stable request is done: its tables must be written, and all of it be synced. */
function makeStable(engine: usize, index: u32): void {
  if (!mustBeWritten(engine, index, AFTER_STABLE)) awaitStable(engine, index);
}

/** A part of a failed merged flight gets a status of its own. */
function sendAgainAlone(engine: usize, index: u32): void {
  if (isResetting(engine, index)) {
    abort(engine, index);
    return;
  }
  Slot.at(engine, index).alone = 1;
  count(engine, COUNT_REISSUED, 1);
  enqueue(engine, index);
}

/** A request has failed: what that means is up to whoever it is from (hold.ts). */
function fail(engine: usize, index: u32, errno: u32): void {
  const action = actionOf(engine, index, errno);
  if (isResetting(engine, index) || action == ON_ERROR_REPORT) {
    finish(engine, index, statusOf(errno), errnoShown(errno));
  } else if (action == ON_ERROR_STOP) hold(engine, index, errno);
  else finish(engine, index, STATUS_OK, 0);
}
