// The segment tables of commands that carry the bytes of several requests, or a part of one.
//
// G1  A table has the bytes of its flight from where the last command ended, in ascending order.
// G2  Neighbours in memory are one segment, so that a merged run is few iovecs.

import { MERGE_SEGMENTS } from '../../src/abi/limits.ts';
import { SEGMENT_ADDRESS, SEGMENT_LENGTH, SEGMENT_SIZE } from '../../src/abi/request.ts';
import { Engine, NONE } from '../engine.ts';
import { SEGMENTS, TABLE_ENTRIES } from '../memory.ts';
import { Slot } from '../request/slot.ts';
import { VERIFY, verify } from '../verify.ts';
import { Flight } from './flight.ts';

/** The table of the command `id`. */
export function tableOf(engine: usize, id: u32): usize {
  return engine + SEGMENTS + <usize>id * (TABLE_ENTRIES * SEGMENT_SIZE);
}

/**
 * How many of the next `bytes` bytes of a flight fit into one table: all, or as many as end at a
 * granule, or, when the table holds less than a granule, what it holds.
 */
export function bytesThatFit(engine: usize, flight: Flight, bytes: u64): u64 {
  const slot = Slot.at(engine, flight.part);
  // The elevator keeps runs of several requests within a table (elevator.ts, E2).
  if (slot.segments <= <u32>MERGE_SEGMENTS) return bytes;
  let fits: u64 = 0;
  let entries = 0;
  for (let at = flight.segment; at < slot.segments && entries < MERGE_SEGMENTS; at++) {
    const length = segmentLength(slot, at);
    fits += <u64>length;
    entries += i32(length != 0);
  }
  fits -= <u64>flight.skip;
  if (fits >= bytes) return bytes;
  const granule = <u64>changetype<Engine>(engine).blockSize;
  const start = flight.offset + flight.sent;
  const border = (start + fits) & ~(granule - 1);
  return border > start ? border - start : fits;
}

/** Fills a table with the next `bytes` bytes of a flight (G1); returns its entries. */
export function gather(engine: usize, table: usize, flight: Flight, bytes: u64): u32 {
  let entries: u32 = 0;
  for (let left = bytes; left != 0;) {
    const slot = Slot.at(engine, flight.part);
    const rest = segmentLength(slot, flight.segment) - flight.skip;
    const length = <u32>min(<u64>rest, left);
    if (length != 0) {
      const address = segmentAddress(slot, flight.segment) + flight.skip;
      entries = append(table, entries, address, length);
    }
    left -= <u64>length;
    if (length == rest) nextSegment(flight, slot);
    else flight.skip += length;
  }
  return entries;
}

/** Puts the next `bytes` bytes of a flight where they are wanted: from `source`, or zeroes (0). */
export function scatter(engine: usize, flight: Flight, source: usize, bytes: u64): void {
  let from = source;
  for (let left = bytes; left != 0;) {
    const slot = Slot.at(engine, flight.part);
    const rest = segmentLength(slot, flight.segment) - flight.skip;
    const length = <u32>min(<u64>rest, left);
    const to = <usize>(segmentAddress(slot, flight.segment) + flight.skip);
    if (source == 0) memory.fill(to, 0, <usize>length);
    else memory.copy(to, from, <usize>length);
    from += <usize>length;
    left -= <u64>length;
    if (length == rest) nextSegment(flight, slot);
    else flight.skip += length;
  }
}

/** Adds one segment to a table of `entries`; returns the new count. */
export function addSegment(table: usize, entries: u32, address: u32, length: u32): u32 {
  if (length == 0) return entries;
  const entry = table + <usize>entries * SEGMENT_SIZE;
  store<u32>(entry, address, SEGMENT_ADDRESS);
  store<u32>(entry, length, SEGMENT_LENGTH);
  return entries + 1;
}

/** Moves to the next segment that is to be sent. */
function nextSegment(flight: Flight, slot: Slot): void {
  flight.skip = 0;
  flight.segment += 1;
  if (flight.segment < slot.segments || slot.next == NONE) return;
  flight.segment = 0;
  flight.part = slot.next;
}

function segmentLength(slot: Slot, segment: u32): u32 {
  if (slot.segments == 1) return <u32>slot.length;
  return load<u32>(<usize>slot.data + <usize>segment * SEGMENT_SIZE, SEGMENT_LENGTH);
}

function segmentAddress(slot: Slot, segment: u32): u32 {
  if (slot.segments == 1) return slot.data;
  return load<u32>(<usize>slot.data + <usize>segment * SEGMENT_SIZE, SEGMENT_ADDRESS);
}

/** Adds a segment to a table of `entries`, or lengthens the last (G2); returns the new count. */
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
