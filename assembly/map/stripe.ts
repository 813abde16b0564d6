// The striped mapping: a disk over several raw files.
//
// M1  Chunk c of the disk is chunk c / files of file c mod files. With one file that is the raw
//     mapping: guest offset and host offset are the same number.
// M2  An answer never crosses a border of chunks, so no command does.

import { Engine } from '../engine.ts';
import { Extent } from './extent.ts';

/** Maps the start of `length` bytes at `guestOffset`. */
export function mapStripe(engine: usize, guestOffset: u64, length: u64): Extent {
  const state = changetype<Engine>(engine);
  const extent = Extent.of(engine);
  if (state.files == 1) {
    extent.file = 0;
    extent.hostOffset = guestOffset;
    extent.length = length;
    return extent;
  }
  const chunkBytes = <u64>state.chunkBytes;
  const files = <u64>state.files;
  const chunk = guestOffset / chunkBytes;
  const within = guestOffset % chunkBytes;
  extent.file = <u32>(chunk % files);
  extent.hostOffset = (chunk / files) * chunkBytes + within;
  extent.length = min(length, chunkBytes - within);
  return extent;
}
