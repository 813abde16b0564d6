// Requests that the engine makes itself, into the ring that the host's come in.

import { RING_ENTRIES } from '../../src/abi/limits.ts';
import { REQUEST_RING } from '../../src/abi/region.ts';
import {
  REQUEST_DATA,
  REQUEST_FLAGS,
  REQUEST_LENGTH,
  REQUEST_OFFSET,
  REQUEST_OP,
  REQUEST_QUEUE,
  REQUEST_SEGMENTS,
  REQUEST_SIZE,
  REQUEST_TAG,
} from '../../src/abi/request.ts';
import { Engine } from '../engine.ts';
import { VERIFY, verify } from '../verify.ts';

/**
 * Appends a request record. There is room: the ring holds twice what the engine does, and neither
 * the host nor the chains have more than that in it and in the engine.
 */
export function appendRequest(
  engine: usize,
  tag: u32,
  op: i32,
  flags: i32,
  queue: u32,
  segments: u32,
  data: u32,
  offset: u64,
  length: u64,
): void {
  const state = changetype<Engine>(engine);
  const tail = state.requestTail;
  if (VERIFY) verify(tail - state.requestHead < <u32>RING_ENTRIES);
  const record = engine + REQUEST_RING + (<usize>tail % RING_ENTRIES) * REQUEST_SIZE;
  store<u32>(record, tag, REQUEST_TAG);
  store<u8>(record, <u8>op, REQUEST_OP);
  store<u8>(record, <u8>flags, REQUEST_FLAGS);
  store<u16>(record, <u16>queue, REQUEST_QUEUE);
  store<u32>(record, segments, REQUEST_SEGMENTS);
  store<u32>(record, data, REQUEST_DATA);
  store<u64>(record, offset, REQUEST_OFFSET);
  store<u64>(record, length, REQUEST_LENGTH);
  state.requestTail = tail + 1;
}
