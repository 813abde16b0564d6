// Small copies between a chain that has just been walked and the device.

import { BLK_HEADER_SIZE } from '../../src/abi/virtio-blk.ts';
import { SEGMENT_ADDRESS, SEGMENT_LENGTH, SEGMENT_SIZE } from '../../src/abi/request.ts';
import { Walk } from '../ring/record.ts';

/** Copies `length` bytes from segment `first` on; the caller knows that they are there. */
export function copyReadable(walk: Walk, first: u32, target: usize, length: u32): void {
  let at = <usize>walk.list + <usize>first * SEGMENT_SIZE;
  for (let left = length; left != 0; at += SEGMENT_SIZE) {
    const bytes = min(left, load<u32>(at, SEGMENT_LENGTH));
    copyBytes(target, load<u32>(at, SEGMENT_ADDRESS), bytes);
    target += bytes;
    left -= bytes;
  }
}

/** Copies `length` bytes from `source` to the first writable ones; the caller knows them there. */
export function copyOut(walk: Walk, source: usize, length: u32): void {
  let at = <usize>walk.list + <usize>walk.readableSegments * SEGMENT_SIZE;
  for (let left = length; left != 0; at += SEGMENT_SIZE) {
    const bytes = min(left, load<u32>(at, SEGMENT_LENGTH));
    copyBytes(<usize>load<u32>(at, SEGMENT_ADDRESS), source, bytes);
    source += bytes;
    left -= bytes;
  }
}

/** Takes the header off the list; returns the first segment that has data, or would have. */
export function skipHeader(walk: Walk): u32 {
  let at = <usize>walk.list;
  let skip: u32 = BLK_HEADER_SIZE;
  let index: u32 = 0;
  while (skip != 0 && skip >= load<u32>(at, SEGMENT_LENGTH)) {
    skip -= load<u32>(at, SEGMENT_LENGTH);
    at += SEGMENT_SIZE;
    index += 1;
  }
  if (skip == 0) return index;
  store<u32>(at, load<u32>(at, SEGMENT_ADDRESS) + skip, SEGMENT_ADDRESS);
  store<u32>(at, load<u32>(at, SEGMENT_LENGTH) - skip, SEGMENT_LENGTH);
  return index;
}

/** Copies a few bytes: memory.copy costs more than they do. */
function copyBytes(target: usize, source: usize, length: u32): void {
  for (let i: usize = 0; i < <usize>length; i++) store<u8>(target + i, load<u8>(source + i));
}
