// Writing command records.
//
// X1  A command carries the bytes of its flight that it names, each once. What its memory is,
//     stands in the record or in a table that stays as it is until the answer comes.

import { COMMAND_SLOTS, FILES, METADATA_IDS, RING_ENTRIES } from '../../src/abi/limits.ts';
import { MAP_IOS } from '../../src/abi/map.ts';
import {
  COMMAND_BLOCK_STATUS,
  COMMAND_DATA,
  COMMAND_DISCARD,
  COMMAND_FAST_ZERO,
  COMMAND_FILE,
  COMMAND_FLAGS,
  COMMAND_GUEST,
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
import { COMMAND_RING, COUNT_COMMANDS } from '../../src/abi/region.ts';
import {
  OP_BLOCK_STATUS,
  OP_DISCARD,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  REQUEST_FAST_ZERO,
  REQUEST_MAY_UNMAP,
  SEGMENT_ADDRESS,
  SEGMENT_SIZE,
} from '../../src/abi/request.ts';
import { count, Engine } from '../engine.ts';
import { Extent } from '../map/extent.ts';
import { Slot } from '../request/slot.ts';
import { VERIFY, verify } from '../verify.ts';
import { Flight } from './flight.ts';
import { addSegment, bytesThatFit, gather, tableOf } from './gather.ts';
import { CommandSlot, openCommand } from './slot.ts';

if (OP_READ != COMMAND_READ || OP_WRITE != COMMAND_WRITE) ERROR('operations');
if (OP_WRITE_ZEROES != COMMAND_WRITE_ZEROES || OP_DISCARD != COMMAND_DISCARD) ERROR('operations');
if (OP_BLOCK_STATUS != COMMAND_BLOCK_STATUS) ERROR('operations');
if (REQUEST_MAY_UNMAP != COMMAND_MAY_UNMAP || REQUEST_FAST_ZERO != COMMAND_FAST_ZERO)
  ERROR('flags');

/**
 * Emits the next command of a flight: up to `length` bytes that lie at `hostOffset` in `file`, as
 * far as one segment table holds them.
 */
export function emitPiece(
  engine: usize,
  flightId: u32,
  file: u32,
  hostOffset: u64,
  length: u64,
): void {
  const flight = Flight.at(engine, flightId);
  const first = Slot.at(engine, flight.head);
  const id = openCommand(engine, flightId, file);
  const zeroFlags = first.flags & (REQUEST_MAY_UNMAP | REQUEST_FAST_ZERO);
  const record = emitRecord(engine, id, first.op, flight.direct ? COMMAND_STABLE : zeroFlags);
  const isWhole = flight.parts == 1 && length == flight.length;
  let bytes = length;
  let segments = first.segments;
  let data = first.data;
  if (first.op <= OP_WRITE && !isWhole) {
    const table = tableOf(engine, id);
    bytes = bytesThatFit(engine, flight, length);
    segments = gather(engine, table, flight, bytes);
    data = segments == 1 ? load<u32>(table, SEGMENT_ADDRESS) : <u32>table;
  }
  store<u16>(record, <u16>file, COMMAND_FILE);
  store<u32>(record, segments, COMMAND_SEGMENTS);
  store<u32>(record, data, COMMAND_DATA);
  store<u64>(record, hostOffset, COMMAND_OFFSET);
  store<u64>(record, bytes, COMMAND_LENGTH);
  store<u64>(record, flight.offset + flight.sent, COMMAND_GUEST);
  flight.sent += bytes;
  flight.outstanding += 1;
  count(engine, COUNT_COMMANDS, 1);
}

/** Emits the write of what a mapping has given a place: head, data, tail (map/extent.ts). */
export function emitNew(engine: usize, flightId: u32, extent: Extent): void {
  const flight = Flight.at(engine, flightId);
  const id = openCommand(engine, flightId, extent.file);
  CommandSlot.at(engine, id).job = 1;
  const table = tableOf(engine, id);
  const head = addSegment(table, 0, extent.head, extent.headBytes);
  let segments = head;
  if (!extent.bare) {
    const data = table + <usize>head * SEGMENT_SIZE;
    segments += gather(engine, data, flight, extent.length);
  }
  segments = addSegment(table, segments, extent.tail, extent.tailBytes);
  const around = <u64>extent.headBytes + <u64>extent.tailBytes;
  const record = emitRecord(engine, id, COMMAND_WRITE, 0);
  store<u16>(record, <u16>extent.file, COMMAND_FILE);
  store<u32>(record, segments, COMMAND_SEGMENTS);
  store<u32>(record, segments == 1 ? load<u32>(table, SEGMENT_ADDRESS) : <u32>table, COMMAND_DATA);
  store<u64>(record, extent.hostOffset, COMMAND_OFFSET);
  store<u64>(record, extent.bare ? around : around + extent.length, COMMAND_LENGTH);
  flight.sent += extent.length;
  flight.outstanding += 1;
  count(engine, COUNT_COMMANDS, 1);
}

/** Emits an order of a mapping; `address` is where its bytes lie. */
export function emitOrder(
  engine: usize,
  order: u32,
  op: u32,
  flags: u32,
  file: u32,
  offset: u64,
  length: u64,
  address: usize,
): void {
  const record = emitRecord(engine, <u32>METADATA_IDS + order, <i32>op, <i32>flags);
  store<u16>(record, <u16>file, COMMAND_FILE);
  store<u32>(record, 1, COMMAND_SEGMENTS);
  store<u32>(record, <u32>address, COMMAND_DATA);
  store<u64>(record, offset, COMMAND_OFFSET);
  store<u64>(record, length, COMMAND_LENGTH);
}

/** Emits the sync of a host file. */
export function emitSync(engine: usize, file: u32): void {
  const record = emitRecord(engine, <u32>COMMAND_SLOTS + file, COMMAND_SYNC, 0);
  store<u16>(record, <u16>file, COMMAND_FILE);
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
  store<u64>(record, 0, COMMAND_GUEST);
  state.commandTail = tail + 1;
  return record;
}

if (COMMAND_SLOTS + FILES != METADATA_IDS) ERROR('METADATA_IDS');
if (METADATA_IDS + MAP_IOS > RING_ENTRIES) ERROR('the command ring must hold every id');
