// Writing command records.
//
// X1  A command carries the bytes of its chain in ascending order, each request's once.
// X2  Neighbours in memory are one segment, so that a merged run is few iovecs.

import { COMMAND_SLOTS, MERGE_SEGMENTS, RING_ENTRIES } from '../../src/abi/limits.ts';
import {
  COMMAND_BLOCK_STATUS,
  COMMAND_DATA,
  COMMAND_DISCARD,
  COMMAND_FAST_ZERO,
  COMMAND_FILE,
  COMMAND_FLAGS,
  COMMAND_ID,
  COMMAND_LENGTH,
  COMMAND_MAY_UNMAP,
  COMMAND_OFFSET,
  COMMAND_OP,
  COMMAND_READ,
  COMMAND_SEGMENTS,
  COMMAND_SIZE,
  COMMAND_STABLE,
  COMMAND_SYNC,
  COMMAND_WRITE,
  COMMAND_WRITE_ZEROES,
} from '../../src/abi/command.ts';
import { COMMAND_RING, COUNT_COMMANDS, COUNT_MERGED } from '../../src/abi/region.ts';
import {
  OP_BLOCK_STATUS,
  OP_DISCARD,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  REQUEST_FAST_ZERO,
  REQUEST_MAY_UNMAP,
  SEGMENT_ADDRESS,
  SEGMENT_LENGTH,
  SEGMENT_SIZE,
} from '../../src/abi/request.ts';
import { count, Engine, NONE } from '../engine.ts';
import { SEGMENTS } from '../memory.ts';
import { Slot } from '../request/slot.ts';
import { VERIFY, verify } from '../verify.ts';
import { CommandSlot, openCommand, SYNC_ID } from './slot.ts';

if (OP_READ != COMMAND_READ || OP_WRITE != COMMAND_WRITE) ERROR('operations');
if (OP_WRITE_ZEROES != COMMAND_WRITE_ZEROES || OP_DISCARD != COMMAND_DISCARD) ERROR('operations');
if (OP_BLOCK_STATUS != COMMAND_BLOCK_STATUS) ERROR('operations');
if (REQUEST_MAY_UNMAP != COMMAND_MAY_UNMAP || REQUEST_FAST_ZERO != COMMAND_FAST_ZERO)
  ERROR('flags');

/** Bytes of the chain that starts at `head`. */
export function chainBytes(engine: usize, head: u32): u64 {
  let bytes: u64 = 0;
  for (let index = head; index != NONE;) {
    const slot = Slot.at(engine, index);
    bytes += slot.length;
    index = slot.next;
  }
  return bytes;
}

/**
 * Emits one command for the chain that starts at `head` and has `parts` requests.
 * `stable`: a write that must be stable when the host answers.
 */
export function emitChain(
  engine: usize,
  head: u32,
  parts: u32,
  file: u32,
  hostOffset: u64,
  length: u64,
  stable: bool,
): void {
  const first = Slot.at(engine, head);
  const id = openCommand(engine, head);
  CommandSlot.at(engine, id).stable = <u32>stable;
  const zeroFlags = first.flags & (REQUEST_MAY_UNMAP | REQUEST_FAST_ZERO);
  const record = emitRecord(engine, id, first.op, stable ? COMMAND_STABLE : zeroFlags);
  store<u16>(record, <u16>file, COMMAND_FILE);
  store<u64>(record, hostOffset, COMMAND_OFFSET);
  store<u64>(record, length, COMMAND_LENGTH);
  if (parts == 1 || first.op > OP_WRITE) {
    store<u32>(record, first.segments, COMMAND_SEGMENTS);
    store<u32>(record, first.data, COMMAND_DATA);
  } else gather(engine, id, head, record);
  count(engine, COUNT_COMMANDS, 1);
  if (parts > 1) count(engine, COUNT_MERGED, parts - 1);
}

/** Emits the sync. */
export function emitSync(engine: usize): void {
  const record = emitRecord(engine, SYNC_ID, COMMAND_SYNC, 0);
  store<u16>(record, 0, COMMAND_FILE);
  store<u32>(record, 0, COMMAND_SEGMENTS);
  store<u32>(record, 0, COMMAND_DATA);
  store<u64>(record, 0, COMMAND_OFFSET);
  store<u64>(record, 0, COMMAND_LENGTH);
}

/** Appends a record with its id, operation and flags. */
function emitRecord(engine: usize, id: u32, op: i32, flags: i32): usize {
  const state = changetype<Engine>(engine);
  const tail = state.commandTail;
  if (VERIFY) verify(tail - state.commandHead < <u32>RING_ENTRIES);
  const record = engine + COMMAND_RING + (<usize>tail % RING_ENTRIES) * COMMAND_SIZE;
  store<u32>(record, id, COMMAND_ID);
  store<u8>(record, <u8>op, COMMAND_OP);
  store<u8>(record, <u8>flags, COMMAND_FLAGS);
  state.commandTail = tail + 1;
  return record;
}

/** Builds the segment table of a merged command (X1, X2). */
function gather(engine: usize, id: u32, head: u32, record: usize): void {
  const table = engine + SEGMENTS + <usize>id * (MERGE_SEGMENTS * SEGMENT_SIZE);
  let entries: u32 = 0;
  for (let index = head; index != NONE;) {
    const slot = Slot.at(engine, index);
    if (slot.segments == 1) entries = append(table, entries, slot.data, <u32>slot.length);
    else {
      for (let i: u32 = 0; i < slot.segments; i++) {
        const entry = <usize>slot.data + <usize>i * SEGMENT_SIZE;
        const address = load<u32>(entry, SEGMENT_ADDRESS);
        entries = append(table, entries, address, load<u32>(entry, SEGMENT_LENGTH));
      }
    }
    index = slot.next;
  }
  store<u32>(record, entries, COMMAND_SEGMENTS);
  store<u32>(record, entries == 1 ? load<u32>(table, SEGMENT_ADDRESS) : <u32>table, COMMAND_DATA);
}

/** Adds a segment to a table of `entries`, or lengthens the last (X2); returns the new count. */
function append(table: usize, entries: u32, address: u32, length: u32): u32 {
  if (entries != 0) {
    const last = table + <usize>(entries - 1) * SEGMENT_SIZE;
    const lastLength = load<u32>(last, SEGMENT_LENGTH);
    if (<u64>load<u32>(last, SEGMENT_ADDRESS) + lastLength == <u64>address) {
      store<u32>(last, lastLength + length, SEGMENT_LENGTH);
      return entries;
    }
  }
  if (VERIFY) verify(entries < <u32>MERGE_SEGMENTS);
  const entry = table + <usize>entries * SEGMENT_SIZE;
  store<u32>(entry, address, SEGMENT_ADDRESS);
  store<u32>(entry, length, SEGMENT_LENGTH);
  return entries + 1;
}

if (COMMAND_SLOTS * 2 > RING_ENTRIES) ERROR('the command ring must hold every id');
