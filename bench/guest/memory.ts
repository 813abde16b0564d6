// One memory for everybody: an engine with its device, the peers' chains, and the guest.
//
//   0             4 MiB         8 MiB             24 MiB          40 MiB
//   | engine      | peers       | region 0        | region 1      | region 2 |
//
// Guest addresses of region 0 have 47 bits, as those of libblkio; region 1 is low memory, and
// region 2 goes on where it ends, at another place.

import { DEVICE_QUEUES, QUEUE_STRIDE, VIRTQUEUES } from '../../src/abi/virtio-device.ts';
import { REGION_SIZE } from '../../src/abi/region.ts';

/** Guest memory: bytes that the guest knows by other addresses. */
export interface GuestRegion {
  readonly start: number;
  readonly sizeBytes: number;
  readonly place: number;
}

const MIB = 1 << 20;

/** Where an engine may lie with a device of all queues. */
export const ENGINE_PLACE = 0;
/** Where the peers keep their chains. */
export const PEER_PLACE = 4 * MIB;

/** The regions; the first one has the rings and the headers. */
export const GUEST_MAP: readonly [GuestRegion, ...GuestRegion[]] = [
  { start: 0x7f59_7f22_a000, sizeBytes: 16 * MIB, place: 8 * MIB },
  { start: 0x10_0000, sizeBytes: 8 * MIB, place: 24 * MIB },
  { start: 0x10_0000 + 8 * MIB, sizeBytes: 4 * MIB, place: 40 * MIB },
];

/** Bytes of the whole memory. */
export const GUEST_MEMORY_BYTES = 44 * MIB;

if (ENGINE_PLACE + REGION_SIZE + DEVICE_QUEUES + QUEUE_STRIDE * VIRTQUEUES > PEER_PLACE) {
  throw new RangeError('the engine and its device do not fit in front of the peers');
}

/** The place of a guest address; it must be in the map. */
export function placeOf(address: number): number {
  const region = GUEST_MAP.find(
    ({ start, sizeBytes }) => address >= start && address < start + sizeBytes,
  );
  if (region === undefined) throw new RangeError(`no guest memory at ${address}`);
  return region.place + (address - region.start);
}
