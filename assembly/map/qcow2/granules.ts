// What was written since the disk was opened: one bit for each granule of the disk, for those who
// keep account of it (persistent bitmaps). A bit that is set stays set, whatever becomes of the
// write: a granule without one has not changed.

import { Qcow2 } from './state.ts';

const BITS_PER_BYTE: u32 = 8;

/** Bytes of the bits, or 0 when nothing is noted. */
export function granuleBytes(map: Qcow2): u32 {
  return (map.granules >> 3) + u32((map.granules & 7) != 0);
}

/** Nothing was written yet. */
export function initGranules(map: Qcow2): void {
  memory.fill(map.place(map.granulesAt), 0, granuleBytes(map));
}

/** The `length` bytes at `guest` are about to change. */
export function noteChange(map: Qcow2, guest: u64, length: u64): void {
  if (map.granules == 0 || length == 0) return;
  const bits = <u64>map.granuleBits;
  const first = <u32>(guest >> bits);
  const last = <u32>((guest + length - 1) >> bits);
  const begin = map.place(map.granulesAt) + (first >> 3);
  const end = map.place(map.granulesAt) + (last >> 3);
  const head = <u8>((<u32>0xff) << (first & 7));
  const tail = <u8>(<u32>0xff >> (BITS_PER_BYTE - 1 - (last & 7)));
  if (begin == end) return setBits(begin, head & tail);
  setBits(begin, head);
  memory.fill(begin + 1, 0xff, end - begin - 1);
  setBits(end, tail);
}

function setBits(address: usize, bits: u8): void {
  store<u8>(address, load<u8>(address) | bits);
}
