/** Descriptors of split virtqueues, as a driver writes them. VIRTIO 1.3, 2.7.5. */
import {
  DESC_ADDRESS,
  DESC_LENGTH,
  SPLIT_DESC_FLAGS,
  SPLIT_DESC_NEXT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
} from '../../abi/virtio-ring.ts';
import type { Descriptor } from './driver-queue.ts';
import type { GuestMemory, GuestPlace } from './memory.ts';

/** The fields of a split descriptor. */
export interface SplitDescriptor {
  readonly address: GuestPlace;
  readonly length: number;
  readonly flags: number;
  readonly next: number;
}

/** Writes some fields of a descriptor, in the ring's table or in an indirect one. */
export function pokeSplitDescriptor(
  memory: GuestMemory,
  at: number,
  fields: Partial<SplitDescriptor>,
): void {
  memory.refresh();
  if (fields.address !== undefined) memory.storeAddress(at + DESC_ADDRESS, fields.address);
  if (fields.length !== undefined) memory.setU32(at + DESC_LENGTH, fields.length);
  if (fields.flags !== undefined) memory.setU16(at + SPLIT_DESC_FLAGS, fields.flags);
  if (fields.next !== undefined) memory.setU16(at + SPLIT_DESC_NEXT, fields.next);
}

/** Writes a descriptor of a chain, the last one or not. */
export function storeChained(
  memory: GuestMemory,
  at: number,
  { address, length, writable }: Descriptor,
  more: boolean,
  next: number,
): void {
  const flags = (writable ? VIRTQ_DESC_F_WRITE : 0) | (more ? VIRTQ_DESC_F_NEXT : 0);
  storeSplit(memory, at, address, length, flags, next);
}

/** Writes all fields of a descriptor; the memory's views are fresh. */
export function storeSplit(
  memory: GuestMemory,
  at: number,
  address: GuestPlace,
  length: number,
  flags: number,
  next: number,
): void {
  memory.storeAddress(at + DESC_ADDRESS, address);
  memory.u32[(at + DESC_LENGTH) >>> 2] = length;
  memory.u16[(at + SPLIT_DESC_FLAGS) >>> 1] = flags;
  memory.u16[(at + SPLIT_DESC_NEXT) >>> 1] = next;
}
