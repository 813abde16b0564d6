/**
 * The memory of a fuzzed device, and what lies where in the RAM of its guest:
 *
 *     0       COUNTERS   REGION   DEVICE   DEVICE_END   HOST_BUFFERS   RAM   BIG
 *     | guard | coverage | engine | device | guard      | the host's   | ... | ... | guard |
 *
 *     RAM     0           SMALL_RINGS    LONG         TABLES       BUFFERS
 *             | ring 0    | rings 1 to 3 | long table | indirect   | header, data, status |
 *
 * Places in RAM are `at`: bytes from its start. Their guest addresses depend on the setup.
 */

import { QUEUE_STRIDE, DEVICE_QUEUES, VIRTQUEUES } from '../../../src/abi/virtio-device.ts';
import { RING_EXTRA_BYTES } from '../../../src/abi/virtio-ring.ts';
import { COUNTERS, REGION, REGION_END } from '../layout.ts';

const PAGE_BYTES = 65536;
const FILLER = 0xa5;

export { COUNTERS, REGION, REGION_END };

/** Where the device begins. */
export const DEVICE = REGION_END;
/** Where the largest device ends. */
export const DEVICE_END = DEVICE + DEVICE_QUEUES + VIRTQUEUES * QUEUE_STRIDE;
/** Data of the host's own requests. */
export const HOST_BUFFERS = Math.ceil(DEVICE_END / PAGE_BYTES) * PAGE_BYTES + PAGE_BYTES;
/** The guest's RAM. */
export const RAM = HOST_BUFFERS + PAGE_BYTES;
/** Its size. */
export const RAM_BYTES = 0x2_0000;
/** A second part of it that is large and seldom there. */
export const BIG = RAM + RAM_BYTES;
/** So large that the descriptors of one chain name more than 4 GiB. */
export const BIG_BYTES = 6 * 1048576;
/** All of it. */
export const MEMORY_BYTES = BIG + BIG_BYTES + PAGE_BYTES;

/** Entries of the largest ring that has room. */
export const LARGE_RING = 1024;
const SMALL_RINGS = 0x7000;
const SMALL_RING_BYTES = 0x800;
/** Rings that have a place of their own. */
export const RINGS = 4;
/** An indirect table of many entries. */
export const LONG = 0x9000;
/** Other indirect tables. */
export const TABLES = 0xe000;
/** Where what is not a ring or a table begins. */
export const BUFFERS = 0x1_0000;

/** Where the three parts of a ring are. */
export interface RingPlaces {
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
}

/** The parts of ring `queue`, for the largest size that it can have. */
export function ringPlaces(queue: number): RingPlaces {
  if (queue === 0) return { desc: 0, driver: 0x4000, device: 0x4c00 };
  const start = SMALL_RINGS + (queue - 1) * SMALL_RING_BYTES;
  return { desc: start, driver: start + 0x400, device: start + 0x500 };
}

/** Bytes of the available ring of so many entries; the packed ring's part is smaller. */
export function driverBytes(size: number, packed: boolean): number {
  return packed ? 4 : RING_EXTRA_BYTES + 2 * size;
}

/** Bytes of the used ring. */
export function deviceBytes(size: number, packed: boolean): number {
  return packed ? 4 : RING_EXTRA_BYTES + 8 * size;
}

/** A memory as a run finds it. */
export function createGuestMemory(): WebAssembly.Memory {
  const memory = new WebAssembly.Memory({ initial: MEMORY_BYTES / PAGE_BYTES });
  const bytes = new Uint8Array(memory.buffer);
  bytes.fill(FILLER, 0, REGION);
  bytes.fill(FILLER, REGION_END);
  return memory;
}

/** What is behind a device of `deviceBytes` bytes has no traces of larger ones. */
export function clearBehind(bytes: Uint8Array, deviceBytes: number): void {
  bytes.fill(FILLER, DEVICE + deviceBytes, DEVICE_END);
}
