// The virtio device beside an engine: what the host configures, and what all queues share.

import { BLK_RANGE_SIZE } from '../src/abi/virtio-blk.ts';
import {
  BLK_RANGES,
  CHAIN_DESCRIPTORS,
  CHAIN_TABLES,
  CHAINS,
  DEVICE_BLOCK_SECTORS,
  DEVICE_BROKEN,
  DEVICE_DISCARD_SECTORS,
  DEVICE_DISCARD_SEGMENTS,
  DEVICE_FLAGS,
  DEVICE_HELD,
  DEVICE_HELD_ERRNO,
  DEVICE_HELD_OFFSET,
  DEVICE_ID,
  DEVICE_IN_FLIGHT,
  DEVICE_INTERRUPTS,
  DEVICE_KICKED,
  DEVICE_LANDED,
  DEVICE_LIST,
  DEVICE_QUEUE_COUNT,
  DEVICE_QUEUES,
  DEVICE_READ_ERROR,
  DEVICE_WRITE_ERROR,
  DEVICE_ZEROES_SECTORS,
  DEVICE_ZEROES_SEGMENTS,
  GUEST_REGIONS,
  QUEUE_STRIDE,
} from '../src/abi/virtio-device.ts';
import { CONFIG_DEVICE, REGION_SIZE } from '../src/abi/region.ts';
import { SEGMENT_SIZE } from '../src/abi/request.ts';
import { Engine, NONE } from './engine.ts';

// Map of the region: X = Y + Y_SIZE, checked below.
const DEVICE_SIZE: usize = 256;
export const GUEST_REGION_SIZE: usize = 32;
export const GUEST_TABLE: usize = DEVICE_SIZE;
export const WALK: usize = GUEST_TABLE + <usize>GUEST_REGIONS * GUEST_REGION_SIZE;
const WALK_SIZE: usize = 128;
/** The segments of the chain that is being walked, and room for one that the bound refuses. */
export const WALK_SEGMENTS: usize = WALK + WALK_SIZE;
export const CHAIN_SIZE: usize = 128;
/** The ranges of the DISCARD or WRITE_ZEROES that is being parsed. */
export const RANGES: usize = WALK_SEGMENTS + CHAIN_DESCRIPTORS * SEGMENT_SIZE + 64;
export const CHAIN_RECORDS: usize = RANGES + BLK_RANGES * BLK_RANGE_SIZE;
export const TABLE_LINKS: usize = CHAIN_RECORDS + <usize>CHAINS * CHAIN_SIZE;
export const TABLES: usize = TABLE_LINKS + CHAIN_TABLES * 4;
export const TABLE_SIZE: usize = CHAIN_DESCRIPTORS * SEGMENT_SIZE;
const TABLES_END: usize = TABLES + <usize>CHAIN_TABLES * TABLE_SIZE;

if (TABLES_END > <usize>DEVICE_QUEUES) ERROR('DEVICE_QUEUES');

/** The device from its base: the words of src/abi/virtio-device.ts, then what is private. */
@unmanaged
export class Device {
  queueCount: u32;
  flags: u32;
  blockSectors: u32;
  discardSectors: u32;
  discardSegments: u32;
  zeroesSectors: u32;
  zeroesSegments: u32;
  readError: u32;
  writeError: u32;
  private id0: u32;
  private id1: u64;
  private id2: u64;
  // 56
  kicked: u64;
  interrupts: u64;
  broken: u64;
  // 80
  held: u32;
  inFlight: u32;
  heldErrno: u32;
  landed: u32;
  heldOffset: u64;
  private reserved0: u64;
  private reserved1: u64;
  private reserved2: u64;
  // 128: private. Regions of guest memory in use, and the one found last.
  regions: u32;
  region: u32;
  /** First free chain record, first free segment table. */
  freeChain: u32;
  freeTable: u32;
  /** Requests of chains that are not answered. */
  outstanding: u32;
  /** Requests that are held (hold.ts), first come first. */
  heldHead: u32;
  heldTail: u32;
  /** Last chain that waits to be landed. */
  landedTail: u32;
  /** The queue that is looked at first next time. */
  turn: u32;
  /** Chains that are known to be available in the queue whose turn it is. */
  left: u32;
  /** Chains that this call may still take. */
  budget: u32;
  private reserved3: u32;
  /** Queues that this call still looks at. */
  open: u64;
  /** Queues that are on. */
  on: u64;
  /** Queues with used entries that are not published. */
  used: u64;

  /** The device of an engine that has one. */
  static of(engine: usize): Device {
    return changetype<Device>(engine + REGION_SIZE);
  }

  /** True when the host has set `flag` (DEVICE_*). */
  has(flag: u32): bool {
    return (this.flags & flag) != 0;
  }
}

/** True when a device lies beside the engine. */
export function hasDevice(engine: usize): bool {
  return changetype<Engine>(engine).has(CONFIG_DEVICE);
}

/** A device with nothing in flight, in a region of zeroes. */
export function initDeviceState(device: usize, queues: u32): void {
  const state = changetype<Device>(device);
  state.queueCount = queues;
  state.blockSectors = 1;
  state.heldHead = NONE;
  state.heldTail = NONE;
  state.landed = NONE;
}

/** Bytes of a device with so many queues. */
export function sizeOfDevice(queues: u32): u32 {
  return <u32>DEVICE_QUEUES + queues * QUEUE_STRIDE;
}

if (WALK_SEGMENTS != DEVICE_LIST) ERROR('DEVICE_LIST');
if (offsetof<Device>('queueCount') != DEVICE_QUEUE_COUNT) ERROR('Device.queueCount');
if (offsetof<Device>('flags') != DEVICE_FLAGS) ERROR('Device.flags');
if (offsetof<Device>('blockSectors') != DEVICE_BLOCK_SECTORS) ERROR('Device.blockSectors');
if (offsetof<Device>('discardSectors') != DEVICE_DISCARD_SECTORS) ERROR('Device.discardSectors');
if (offsetof<Device>('discardSegments') != DEVICE_DISCARD_SEGMENTS) ERROR('discardSegments');
if (offsetof<Device>('zeroesSectors') != DEVICE_ZEROES_SECTORS) ERROR('Device.zeroesSectors');
if (offsetof<Device>('zeroesSegments') != DEVICE_ZEROES_SEGMENTS) ERROR('Device.zeroesSegments');
if (offsetof<Device>('readError') != DEVICE_READ_ERROR) ERROR('Device.readError');
if (offsetof<Device>('writeError') != DEVICE_WRITE_ERROR) ERROR('Device.writeError');
if (offsetof<Device>('id0') != DEVICE_ID) ERROR('Device.id0');
if (offsetof<Device>('kicked') != DEVICE_KICKED) ERROR('Device.kicked');
if (offsetof<Device>('interrupts') != DEVICE_INTERRUPTS) ERROR('Device.interrupts');
if (offsetof<Device>('broken') != DEVICE_BROKEN) ERROR('Device.broken');
if (offsetof<Device>('held') != DEVICE_HELD) ERROR('Device.held');
if (offsetof<Device>('inFlight') != DEVICE_IN_FLIGHT) ERROR('Device.inFlight');
if (offsetof<Device>('heldErrno') != DEVICE_HELD_ERRNO) ERROR('Device.heldErrno');
if (offsetof<Device>('landed') != DEVICE_LANDED) ERROR('Device.landed');
if (offsetof<Device>('heldOffset') != DEVICE_HELD_OFFSET) ERROR('Device.heldOffset');
if (offsetof<Device>() > DEVICE_SIZE) ERROR('Device');
