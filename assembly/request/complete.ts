// Publishing completions.

import { RING_ENTRIES } from '../../src/abi/limits.ts';
import { COMPLETION_RING } from '../../src/abi/region.ts';
import {
  COMPLETION_ERRNO,
  COMPLETION_SIZE,
  COMPLETION_STATUS,
  COMPLETION_TAG,
  COMPLETION_VALUE,
} from '../../src/abi/request.ts';
import { Engine } from '../engine.ts';
import { VERIFY, verify } from '../verify.ts';
import { leaveQueue } from './reset.ts';
import { closeSlot, Slot } from './slot.ts';

/** Writes the completion of a finished request and frees its slot. */
export function publish(engine: usize, index: u32): void {
  const state = changetype<Engine>(engine);
  const slot = Slot.at(engine, index);
  const tail = state.completionTail;
  if (VERIFY) verify(tail - state.completionHead < <u32>RING_ENTRIES);
  const record = engine + COMPLETION_RING + (<usize>tail % RING_ENTRIES) * COMPLETION_SIZE;
  store<u32>(record, slot.tag, COMPLETION_TAG);
  store<u32>(record, slot.status, COMPLETION_STATUS);
  store<u32>(record, slot.value, COMPLETION_VALUE);
  store<u32>(record, slot.errno, COMPLETION_ERRNO);
  leaveQueue(engine, index);
  closeSlot(engine, index);
  state.completionTail = tail + 1;
}
