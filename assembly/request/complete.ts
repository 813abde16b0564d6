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
import { Engine, NONE } from '../engine.ts';
import { VERIFY, verify } from '../verify.ts';
import { answerChain, isOfChain, writeStatus } from './blk-answer.ts';
import { leaveQueue } from './reset.ts';
import { closeSlot, Slot } from './slot.ts';

/**
 * Publishes a finished request and frees its slot: a host's by a completion, a guest's by the
 * status of its chain. Returns the chain that is decided by it, or NONE.
 */
export function publish(engine: usize, index: u32): u32 {
  const slot = Slot.at(engine, index);
  const tag = slot.tag;
  const status = slot.status;
  const isHosts = !isOfChain(engine, tag);
  if (isHosts) writeCompletion(engine, slot);
  leaveQueue(engine, index);
  closeSlot(engine, index);
  if (isHosts) return NONE;
  const chain = answerChain(engine, tag, status);
  if (chain != NONE) writeStatus(engine, chain);
  return chain;
}

function writeCompletion(engine: usize, slot: Slot): void {
  const state = changetype<Engine>(engine);
  const tail = state.completionTail;
  if (VERIFY) verify(tail - state.completionHead < <u32>RING_ENTRIES);
  const record = engine + COMPLETION_RING + (<usize>tail % RING_ENTRIES) * COMPLETION_SIZE;
  store<u32>(record, slot.tag, COMPLETION_TAG);
  store<u32>(record, slot.status, COMPLETION_STATUS);
  store<u32>(record, slot.value, COMPLETION_VALUE);
  store<u32>(record, slot.errno, COMPLETION_ERRNO);
  state.completionTail = tail + 1;
}
