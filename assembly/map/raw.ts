// The raw mapping: guest offset and host offset are the same number in one file.

import { Extent } from './extent.ts';

/** Maps `length` bytes at `guestOffset`. */
export function mapRaw(engine: usize, guestOffset: u64, length: u64): Extent {
  const extent = Extent.of(engine);
  extent.hostOffset = guestOffset;
  extent.length = length;
  extent.file = 0;
  return extent;
}
