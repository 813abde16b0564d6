// Taking the host's answers off the result ring.

import {
  ERRNO_EDQUOT,
  ERRNO_EFBIG,
  ERRNO_ENOSPC,
  ERRNO_ENOTSUP,
  RESULT_ERRNO,
  RESULT_ID,
  RESULT_SIZE,
  RESULT_VALUE,
} from '../../src/abi/command.ts';
import { RING_ENTRIES } from '../../src/abi/limits.ts';
import { RESULT_RING } from '../../src/abi/region.ts';
import { STATUS_IO_ERROR, STATUS_NO_SPACE, STATUS_UNSUPPORTED } from '../../src/abi/request.ts';
import { Engine } from '../engine.ts';

/** One answer, in place in the ring. */
@unmanaged
export class Result {
  id: u32;
  errno: u32;
  value: u32;
}

if (offsetof<Result>('id') != RESULT_ID) ERROR('Result.id');
if (offsetof<Result>('errno') != RESULT_ERRNO) ERROR('Result.errno');
if (offsetof<Result>('value') != RESULT_VALUE) ERROR('Result.value');

/** Answers waiting in the ring. */
export function resultsWaiting(engine: usize): u32 {
  const state = changetype<Engine>(engine);
  return state.resultTail - state.resultHead;
}

/** The next answer; the caller has seen that one waits. It stays valid until the call ends. */
export function takeResult(engine: usize): Result {
  const state = changetype<Engine>(engine);
  const head = state.resultHead;
  state.resultHead = head + 1;
  return changetype<Result>(engine + RESULT_RING + (<usize>head % RING_ENTRIES) * RESULT_SIZE);
}

/** The errno that goes with it into the completion: an unsupported request is no host error. */
export function errnoShown(errno: u32): u32 {
  return errno == ERRNO_ENOTSUP ? 0 : errno;
}

/** The status that an errno of the host, not 0, means. */
export function statusOf(errno: u32): u32 {
  switch (errno) {
    case ERRNO_ENOSPC:
    case ERRNO_EDQUOT:
    case ERRNO_EFBIG:
      return STATUS_NO_SPACE;
    case ERRNO_ENOTSUP:
      return STATUS_UNSUPPORTED;
    default:
      return STATUS_IO_ERROR;
  }
}
