// Requests of a guest that have failed, by the host's error policy.
//
// O1  A request that is held keeps its place: what overlaps it waits, a barrier waits, and no chain
//     is taken. The host looks at the damage and lets everything go on, or resets the queue.
// O2  What the host ignores is told to have gone well. A write that was to be stable never is: only
//     reads and writes that a flush would have to make stable can be ignored.
// O3  What the backend cannot do is no error of the medium: it is always reported. So is a failed
//     sync (flush.ts, F6).
// O4  What fails while its queue is being reset is not held: nobody would let it go on.

import { ERRNO_EDQUOT, ERRNO_EFBIG, ERRNO_ENOSPC, ERRNO_ENOTSUP } from '../../src/abi/command.ts';
import { COUNT_HELD } from '../../src/abi/region.ts';
import {
  ON_ERROR_IGNORE,
  ON_ERROR_REPORT,
  ON_ERROR_STOP,
  ON_ERROR_STOP_ENOSPC,
} from '../../src/abi/virtio-device.ts';
import { Device } from '../device.ts';
import { count, NONE } from '../engine.ts';
import { VERIFY, verify } from '../verify.ts';
import { isOfChain, isOfDead } from './blk-answer.ts';
import { PLACE_ALONE, PLACE_HELD, Slot } from './slot.ts';
import { isWriteClass } from './take.ts';

/** What the failure of the request at `index` does: ON_ERROR_REPORT, STOP or IGNORE. */
export function actionOf(engine: usize, index: u32, errno: u32): u32 {
  const slot = Slot.at(engine, index);
  if (!isOfChain(engine, slot.tag) || errno == <u32>ERRNO_ENOTSUP) return ON_ERROR_REPORT;
  if (isOfDead(engine, slot.tag)) return ON_ERROR_REPORT; // O4
  const device = Device.of(engine);
  const action = isWriteClass(slot.op) ? device.writeError : device.readError;
  if (action == ON_ERROR_STOP_ENOSPC) return isFull(errno) ? ON_ERROR_STOP : ON_ERROR_REPORT;
  if (action == ON_ERROR_IGNORE && slot.stable != 0) return ON_ERROR_REPORT; // O2
  return action;
}

function isFull(errno: u32): bool {
  switch (errno) {
    case ERRNO_ENOSPC:
    case ERRNO_EDQUOT:
    case ERRNO_EFBIG:
      return true;
    default:
      return false;
  }
}

/** Holds a request that has failed (O1). */
export function hold(engine: usize, index: u32, errno: u32): void {
  const device = Device.of(engine);
  device.heldErrno = errno;
  device.heldOffset = Slot.at(engine, index).offset;
  count(engine, COUNT_HELD, 1);
  keepHeld(engine, index);
}

/** Adds a request to the end of the line of those that are held. */
export function keepHeld(engine: usize, index: u32): void {
  const device = Device.of(engine);
  const slot = Slot.at(engine, index);
  slot.place = PLACE_HELD;
  slot.next = NONE;
  if (device.heldHead == NONE) device.heldHead = index;
  else Slot.at(engine, device.heldTail).next = index;
  device.heldTail = index;
  device.held += 1;
}

/** Takes the request that was held first off the line; NONE: nothing is held. */
export function takeHeld(engine: usize): u32 {
  const device = Device.of(engine);
  const index = device.heldHead;
  if (index == NONE) return NONE;
  const slot = Slot.at(engine, index);
  if (VERIFY) verify(slot.place == PLACE_HELD);
  device.heldHead = slot.next;
  if (device.heldHead == NONE) device.heldTail = NONE;
  device.held -= 1;
  slot.place = PLACE_ALONE;
  slot.next = NONE;
  return index;
}
