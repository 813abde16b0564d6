/**
 * Why a ring cannot be attached, found without attaching it: for states, which are judged whole
 * before anything changes. The engine decides with the same rules when a queue is attached
 * (assembly/ring/queue.ts, N1 and N2).
 */
import {
  ATTACH_ALIGN,
  ATTACH_OVERLAP,
  ATTACH_POSITION,
  ATTACH_RANGE,
  ATTACH_SIZE,
} from '../abi/virtio-device.ts';
import {
  AVAIL_ALIGN,
  AVAIL_ENTRY_SIZE,
  DESC_ALIGN,
  DESC_SIZE,
  EVENT_ALIGN,
  EVENT_SIZE,
  QUEUE_SIZE_MAX,
  RING_EXTRA_BYTES,
  USED_ALIGN,
  USED_ELEMENT_SIZE,
  WRAP_BIT,
} from '../abi/virtio-ring.ts';
import type { GuestRegion, QueueConfig } from './virtqueue-types.ts';

interface Part {
  readonly start: bigint;
  readonly bytes: bigint;
  readonly align: number;
}

const LARGEST_INDEX = 0xffff;

/** The ATTACH_* that the engine would answer on an idle queue without a record; 0: none. */
export function ringFault(config: QueueConfig, regions: readonly GuestRegion[]): number {
  if (!isSize(config)) return ATTACH_SIZE;
  const parts = partsOf(config);
  if (parts.some(({ start, align }) => start % BigInt(align) !== 0n)) return ATTACH_ALIGN;
  if (!parts.every((part) => regions.some((region) => holds(region, part)))) return ATTACH_RANGE;
  const [desc, driver, device] = parts;
  if (overlap(desc, driver) || overlap(desc, device) || overlap(driver, device))
    return ATTACH_OVERLAP;
  return isPosition(config) ? 0 : ATTACH_POSITION;
}

function isSize({ size, packed }: QueueConfig): boolean {
  if (!(size >= 1 && size <= QUEUE_SIZE_MAX)) return false;
  return packed || Number.isInteger(Math.log2(size));
}

function partsOf({ size, desc, driver, device, packed }: QueueConfig): [Part, Part, Part] {
  const driverBytes = packed ? EVENT_SIZE : RING_EXTRA_BYTES + size * AVAIL_ENTRY_SIZE;
  const deviceBytes = packed ? EVENT_SIZE : RING_EXTRA_BYTES + size * USED_ELEMENT_SIZE;
  return [
    { start: desc, bytes: BigInt(size * DESC_SIZE), align: DESC_ALIGN },
    { start: driver, bytes: BigInt(driverBytes), align: packed ? EVENT_ALIGN : AVAIL_ALIGN },
    { start: device, bytes: BigInt(deviceBytes), align: packed ? EVENT_ALIGN : USED_ALIGN },
  ];
}

function holds({ guestAddress, sizeBytes }: GuestRegion, { start, bytes }: Part): boolean {
  return start >= guestAddress && start + bytes <= guestAddress + BigInt(sizeBytes);
}

function overlap(one: Part, other: Part): boolean {
  return one.start < other.start + other.bytes && other.start < one.start + one.bytes;
}

function isPosition({ size, packed, position }: QueueConfig): boolean {
  if (position === undefined) return true;
  const { nextAvail, nextUsed } = position;
  if (nextAvail > LARGEST_INDEX || nextUsed > LARGEST_INDEX) return false;
  if (!packed) return ((nextAvail - nextUsed) & LARGEST_INDEX) <= size;
  return nextAvail === nextUsed && (nextAvail & (WRAP_BIT - 1)) < size;
}
