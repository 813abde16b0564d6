// The range lists of DISCARD and WRITE_ZEROES. VIRTIO 1.3, 5.2.6.
//
// L1  The list is copied once; all of it is checked before any of it is begun.
// L2  It is whole ranges, at least one and at most as many as the configuration space says.
// L3  A flag that means nothing, and unmap of a discard, are unsupported.
// L4  A range lies on the disk and is no longer than the configuration space says.

import {
  BLK_HEADER_SIZE,
  BLK_RANGE_FLAGS,
  BLK_RANGE_SECTOR,
  BLK_RANGE_SECTORS,
  BLK_RANGE_SIZE,
  VIRTIO_BLK_RANGE_F_UNMAP,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
} from '../../src/abi/virtio-blk.ts';
import { BLK_RANGES } from '../../src/abi/virtio-device.ts';
import { SECTOR_SIZE } from '../../src/abi/limits.ts';
import { OP_DISCARD } from '../../src/abi/request.ts';
import { Device, RANGES } from '../device.ts';
import { Engine } from '../engine.ts';
import { Walk } from '../ring/record.ts';
import { copyReadable } from './blk-data.ts';

/** A range of the list that was copied. */
@unmanaged
export class Range {
  sector: u64;
  sectors: u32;
  flags: u32;

  static at(device: usize, index: u32): Range {
    return changetype<Range>(device + RANGES + <usize>index * BLK_RANGE_SIZE);
  }
}

/**
 * Copies and checks the list of the chain that has just been walked, from segment `first` on (L1).
 * Returns its status.
 */
export function parseRanges(engine: usize, first: u32, op: i32): i32 {
  const state = Device.of(engine);
  const device = changetype<usize>(state);
  const bytes = Walk.of(device).readable - BLK_HEADER_SIZE;
  const isDiscard: bool = op == OP_DISCARD;
  const limit = isDiscard ? state.discardSegments : state.zeroesSegments;
  const most = <u64>min(limit, <u32>BLK_RANGES) * BLK_RANGE_SIZE;
  if (bytes == 0 || bytes % BLK_RANGE_SIZE != 0 || bytes > most) return VIRTIO_BLK_S_IOERR;
  copyReadable(Walk.of(device), first, device + RANGES, <u32>bytes);
  const flags: u32 = isDiscard ? 0 : VIRTIO_BLK_RANGE_F_UNMAP;
  const longest = isDiscard ? state.discardSectors : state.zeroesSectors;
  const sectors = changetype<Engine>(engine).capacity / SECTOR_SIZE;
  const ranges = rangesOf(device);
  for (let i: u32 = 0; i < ranges; i++) {
    const range = Range.at(device, i);
    if ((range.flags & ~flags) != 0) return VIRTIO_BLK_S_UNSUPP;
    if (range.sectors > longest || <u64>range.sectors > sectors) return VIRTIO_BLK_S_IOERR;
    if (range.sector > sectors - range.sectors) return VIRTIO_BLK_S_IOERR;
  }
  return VIRTIO_BLK_S_OK;
}

/** Ranges in the list of the chain that has just been walked. */
export function rangesOf(device: usize): u32 {
  return <u32>(Walk.of(device).readable - BLK_HEADER_SIZE) / BLK_RANGE_SIZE;
}

if (offsetof<Range>('sector') != BLK_RANGE_SECTOR) ERROR('Range.sector');
if (offsetof<Range>('sectors') != BLK_RANGE_SECTORS) ERROR('Range.sectors');
if (offsetof<Range>('flags') != BLK_RANGE_FLAGS) ERROR('Range.flags');
if (offsetof<Range>() != BLK_RANGE_SIZE) ERROR('Range');
