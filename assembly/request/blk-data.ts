// The bytes of a chain: copying small ones, and keeping the places of large ones. Positions count
// from the first readable or the first writable byte of the chain that has just been walked.

import { SEGMENT_ADDRESS, SEGMENT_LENGTH, SEGMENT_SIZE } from '../../src/abi/request.ts';
import { WALK_SEGMENTS } from '../device.ts';
import { Chain, Walk } from '../ring/record.ts';
import { segmentsFor } from '../ring/slot.ts';

/** Copies `length` readable bytes from position `skip` on; the caller knows that they are there. */
export function copyReadable(device: usize, target: usize, skip: u32, length: u32): void {
  let at = device + WALK_SEGMENTS;
  while (skip >= load<u32>(at, SEGMENT_LENGTH)) {
    skip -= load<u32>(at, SEGMENT_LENGTH);
    at += SEGMENT_SIZE;
  }
  for (let left = length; left != 0; at += SEGMENT_SIZE) {
    const bytes = min(left, load<u32>(at, SEGMENT_LENGTH) - skip);
    copyBytes(target, <usize>load<u32>(at, SEGMENT_ADDRESS) + skip, bytes);
    target += bytes;
    left -= bytes;
    skip = 0;
  }
}

/** Copies `length` bytes from `source` to the first writable ones; the caller knows them there. */
export function copyOut(device: usize, source: usize, length: u32): void {
  let at = device + WALK_SEGMENTS + <usize>Walk.of(device).readableSegments * SEGMENT_SIZE;
  for (let left = length; left != 0; at += SEGMENT_SIZE) {
    const bytes = min(left, load<u32>(at, SEGMENT_LENGTH));
    copyBytes(<usize>load<u32>(at, SEGMENT_ADDRESS), source, bytes);
    source += bytes;
    left -= bytes;
  }
}

/**
 * Keeps the places of `length` bytes that begin `skip` bytes into the segment `first` of the walk,
 * which `parts` segments hold. Sets the chain's segments; returns what a request has as its data:
 * the place of a single segment, or the table.
 */
export function keepSegments(
  device: usize,
  chain: Chain,
  first: u32,
  parts: u32,
  skip: u32,
  length: u32,
): u32 {
  const table = segmentsFor(device, chain, parts);
  let from = device + WALK_SEGMENTS + <usize>first * SEGMENT_SIZE;
  let to = table;
  for (let left = length; left != 0; from += SEGMENT_SIZE) {
    const bytes = load<u32>(from, SEGMENT_LENGTH);
    if (skip >= bytes) {
      skip -= bytes;
      continue;
    }
    const kept = min(left, bytes - skip);
    store<u32>(to, load<u32>(from, SEGMENT_ADDRESS) + skip, SEGMENT_ADDRESS);
    store<u32>(to, kept, SEGMENT_LENGTH);
    to += SEGMENT_SIZE;
    left -= kept;
    skip = 0;
  }
  chain.segments = <u32>(to - table) / SEGMENT_SIZE;
  if (chain.segments > 1) return <u32>table;
  // A request without data names one segment of no bytes.
  const place = chain.segments == 1 ? load<u32>(table, SEGMENT_ADDRESS) : <u32>table;
  chain.segments = 1;
  return place;
}

/** A few bytes: memory.copy costs more than they do. */
function copyBytes(target: usize, source: usize, length: u32): void {
  if (length == 16) {
    v128.store(target, v128.load(source));
    return;
  }
  for (let i: usize = 0; i < <usize>length; i++) store<u8>(target + i, load<u8>(source + i));
}
