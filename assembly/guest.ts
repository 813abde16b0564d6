// Guest address -> Wasm address: the only place where a guest pointer is trusted.
//
// I1  A place is handed out only for bytes that lie wholly in one region of guest memory.
// I2  Regions do not overlap in guest addresses, and none of them lies over the engine and its
//     device, so that no guest buffer is ever the engine's state. The host keeps them off the rest
//     of what is its own.
// I3  Guest addresses have 64 bits, and sums of them never wrap: a difference is compared instead.

import {
  ATTACH_UNKNOWN,
  GUEST_REGIONS,
  MAP_ALIGN,
  MAP_ALIGN_BROKEN,
  MAP_FULL,
  MAP_RANGE,
} from '../src/abi/virtio-device.ts';
import { REGION_SIZE } from '../src/abi/region.ts';
import { Device, GUEST_REGION_SIZE, GUEST_TABLE, sizeOfDevice } from './device.ts';

/** No place: the bytes are not in guest memory. */
export const NOWHERE: usize = 0xffff_ffff;

/** A region of guest memory. */
@unmanaged
export class GuestRegion {
  start: u64;
  size: u64;
  address: u32;
  private reserved: u32;
  private reserved1: u64;

  static at(device: usize, index: u32): GuestRegion {
    return changetype<GuestRegion>(device + GUEST_TABLE + <usize>index * GUEST_REGION_SIZE);
  }

  /** True when `length` bytes at `address` lie in it (I1, I3). */
  holds(address: u64, length: u64): bool {
    const offset = address - this.start;
    return offset < this.size && length <= this.size - offset;
  }

  /** Where a guest address in it lies. */
  place(address: u64): usize {
    return <usize>this.address + <usize>(address - this.start);
  }
}

if (offsetof<GuestRegion>() != GUEST_REGION_SIZE) ERROR('GuestRegion');

/** The region that holds the byte at `address`, or a region of nothing; it becomes the last one. */
export function regionOf(device: usize, address: u64): GuestRegion {
  const state = changetype<Device>(device);
  for (let index: u32 = 0; index < state.regions; index++) {
    const region = GuestRegion.at(device, index);
    if (address - region.start >= region.size) continue;
    state.region = index;
    return region;
  }
  // The entry behind the last region is kept empty.
  return GuestRegion.at(device, state.regions);
}

/** Where `length` bytes at `address` lie, all in one region; NOWHERE: they do not. */
export function placeOf(device: usize, address: u64, length: u64): usize {
  const region = regionOf(device, address);
  return region.holds(address, length) ? region.place(address) : NOWHERE;
}

/** Adds a region; 0, or why not (I2). */
export function addRegion(engine: usize, start: u64, size: u64, address: u32): u32 {
  const device = engine + REGION_SIZE;
  const state = changetype<Device>(device);
  // One entry stays empty for regionOf.
  if (state.regions + 1 >= <u32>GUEST_REGIONS) return MAP_FULL;
  if (size == 0 || start + (size - 1) < start) return MAP_RANGE;
  const end = <u64>address + size;
  if (size > 1 << 32 || end > (<u64>memory.size()) << 16) return MAP_RANGE;
  const engineEnd = <u64>device + sizeOfDevice(state.queueCount);
  if (<u64>address < engineEnd && end > <u64>engine) return MAP_RANGE;
  if (((start ^ <u64>address) & (MAP_ALIGN - 1)) != 0) return MAP_ALIGN_BROKEN;
  for (let index: u32 = 0; index < state.regions; index++) {
    const other = GuestRegion.at(device, index);
    if (overlap(start, size, other.start, other.size)) return MAP_RANGE;
  }
  const region = GuestRegion.at(device, state.regions++);
  region.start = start;
  region.size = size;
  region.address = address;
  GuestRegion.at(device, state.regions).size = 0;
  return 0;
}

/** Removes the region that starts at `start`; 0, or ATTACH_UNKNOWN. Nothing may be in flight. */
export function removeRegion(device: usize, start: u64): u32 {
  const state = changetype<Device>(device);
  for (let index: u32 = 0; index < state.regions; index++) {
    const region = GuestRegion.at(device, index);
    if (region.start != start) continue;
    const last = GuestRegion.at(device, --state.regions);
    region.start = last.start;
    region.size = last.size;
    region.address = last.address;
    last.size = 0;
    state.region = 0;
    return 0;
  }
  return ATTACH_UNKNOWN;
}

/** True when two ranges that do not wrap have a byte in common. */
export function overlap(start: u64, size: u64, otherStart: u64, otherSize: u64): bool {
  return start < otherStart ? otherStart - start < size : start - otherStart < otherSize;
}
