/** Descriptors of packed virtqueues, as a driver writes them. VIRTIO 1.3, 2.8.13. */
import {
  DESC_ADDRESS,
  DESC_LENGTH,
  PACKED_DESC_FLAGS,
  PACKED_DESC_ID,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_USED,
} from '../../abi/virtio-ring.ts';
import type { GuestMemory, GuestPlace } from './memory.ts';

/** The fields of a packed descriptor. */
export interface PackedDescriptor {
  readonly address: GuestPlace;
  readonly length: number;
  readonly id: number;
  /** All sixteen bits, AVAIL and USED among them. */
  readonly flags: number;
}

/** Writes some fields of a descriptor, in the ring or in an indirect table. */
export function pokePackedDescriptor(
  memory: GuestMemory,
  at: number,
  fields: Partial<PackedDescriptor>,
): void {
  memory.refresh();
  if (fields.address !== undefined) memory.storeAddress(at + DESC_ADDRESS, fields.address);
  if (fields.length !== undefined) memory.setU32(at + DESC_LENGTH, fields.length);
  if (fields.id !== undefined) memory.setU16(at + PACKED_DESC_ID, fields.id);
  if (fields.flags !== undefined) {
    Atomics.store(memory.u16, (at + PACKED_DESC_FLAGS) >>> 1, fields.flags);
  }
}

/** Writes a descriptor without its flags; the memory's views are fresh. */
export function storePacked(
  memory: GuestMemory,
  at: number,
  address: GuestPlace,
  length: number,
  id: number,
): void {
  memory.storeAddress(at + DESC_ADDRESS, address);
  memory.u32[(at + DESC_LENGTH) >>> 2] = length;
  memory.u16[(at + PACKED_DESC_ID) >>> 1] = id;
}

/** 2.8.1: AVAIL and USED of a descriptor that is available in a lap with this wrap counter. */
export function availableFlags(wrap: boolean): number {
  return wrap ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED;
}

/** 2.8.1: AVAIL and USED of a descriptor that was used in a lap with this wrap counter. */
export function usedFlags(wrap: boolean): number {
  return wrap ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0;
}
