/** What the engine's numbers about virtqueues mean, in words. */
import {
  ATTACH_ALIGN,
  ATTACH_BUSY,
  ATTACH_IN_ORDER,
  ATTACH_INFLIGHT,
  ATTACH_OVERLAP,
  ATTACH_POSITION,
  ATTACH_RANGE,
  ATTACH_SIZE,
  ATTACH_UNKNOWN,
  CHAIN_DESCRIPTORS,
  GUEST_REGIONS,
  MAP_ALIGN,
  MAP_ALIGN_BROKEN,
  MAP_FULL,
  MAP_RANGE,
  QUEUE_BROKEN,
  QUEUE_DEAD,
  QUEUE_OFF,
  QUEUE_ON,
  QUEUE_PAUSED,
  RING_ERROR_AVAIL_INDEX,
  RING_ERROR_BYTES,
  RING_ERROR_DESCRIPTORS,
  RING_ERROR_HEAD,
  RING_ERROR_IN_FLIGHT,
  RING_ERROR_INDIRECT_FEATURE,
  RING_ERROR_INDIRECT_LENGTH,
  RING_ERROR_INDIRECT_NESTED,
  RING_ERROR_INDIRECT_NEXT,
  RING_ERROR_LOOP,
  RING_ERROR_NEXT,
  RING_ERROR_ORDER,
  RING_ERROR_RANGE,
} from '../abi/virtio-device.ts';
import { QUEUE_SIZE_MAX } from '../abi/virtio-ring.ts';
import { SluiceError } from '../errors.ts';
import type { GuestRegion, QueueConfig, QueueState } from './virtqueue-types.ts';

const RING_ERRORS: Readonly<Record<number, string>> = {
  [RING_ERROR_AVAIL_INDEX]: 'more buffers are available or in flight than the queue has entries',
  [RING_ERROR_HEAD]: 'the head is no descriptor of the table',
  [RING_ERROR_IN_FLIGHT]: 'the head or buffer id is in flight already',
  [RING_ERROR_NEXT]: 'next points past the table',
  [RING_ERROR_LOOP]: 'the chain has more descriptors than its table: it loops',
  [RING_ERROR_INDIRECT_LENGTH]: 'the indirect table has no whole number of descriptors',
  [RING_ERROR_INDIRECT_FEATURE]: 'INDIRECT is set but was not negotiated',
  [RING_ERROR_INDIRECT_NESTED]: 'INDIRECT is set in an indirect table',
  [RING_ERROR_INDIRECT_NEXT]: 'INDIRECT is set together with NEXT',
  [RING_ERROR_ORDER]: 'a readable descriptor comes after a writable one',
  [RING_ERROR_RANGE]: 'a buffer or an indirect table is not in guest memory',
  [RING_ERROR_DESCRIPTORS]: `the chain has more than ${CHAIN_DESCRIPTORS} descriptors`,
  [RING_ERROR_BYTES]: 'the chain has more than 4 GiB',
};

/** What a driver has done wrong: the text of a RING_ERROR_*. */
export function ringErrorText(error: number): string {
  return RING_ERRORS[error] ?? `ring error ${error}`;
}

const STATES: Readonly<Record<number, QueueState>> = {
  [QUEUE_OFF]: 'off',
  [QUEUE_ON]: 'on',
  [QUEUE_PAUSED]: 'paused',
  [QUEUE_BROKEN]: 'broken',
  [QUEUE_DEAD]: 'dead',
};

/** The name of a QUEUE_* state. */
export function stateName(state: number): QueueState {
  const name = STATES[state];
  if (name === undefined) throw new Error(`the engine has a queue in state ${state}`);
  return name;
}

/** An error of the embedder's side. */
export function queueError(operation: string, what: string, why: string): SluiceError {
  return new SluiceError('ERR_SLUICE_VIRTQUEUE', `cannot ${operation} ${what}: ${why}`, {
    operation,
  });
}

/** Why a queue was not attached. */
export function attachText(
  code: number,
  config: QueueConfig,
  state: QueueState,
  regions: Iterable<GuestRegion>,
): string {
  const { size, packed, position } = config;
  switch (code) {
    case ATTACH_BUSY:
      return `it is ${state}; detach or reset it first`;
    case ATTACH_SIZE:
      return packed
        ? `a packed ring has 1 to ${QUEUE_SIZE_MAX} entries, not ${size}`
        : `a split ring has a power of two of entries up to ${QUEUE_SIZE_MAX}, not ${size}`;
    case ATTACH_ALIGN:
      return `${places(config)} must be multiples of ${packed ? '16, 4 and 4' : '16, 2 and 4'}`;
    case ATTACH_RANGE:
      return `${places(config)}, ${size} entries: a part does not lie in one of ${show(regions)}`;
    case ATTACH_OVERLAP:
      return `${places(config)}, ${size} entries: two parts overlap`;
    case ATTACH_POSITION:
      return `no ring of ${size} entries can go on at ${JSON.stringify(position)}`;
    case ATTACH_UNKNOWN:
      return 'the device has no such queue';
    case ATTACH_IN_ORDER:
      return 'a copied or watched guest has no IN_ORDER; do not offer it';
    case ATTACH_INFLIGHT:
      return 'only split rings have an inflight record, and no IN_ORDER, copied or watched guest';
    default:
      return `the engine refuses with ${code}`;
  }
}

/** Why a region was not mapped or unmapped. */
export function regionText(code: number): string {
  switch (code) {
    case ATTACH_BUSY:
      return 'rings of attached queues lie in it; detach these first';
    case ATTACH_UNKNOWN:
      return 'no region starts at this guest address';
    case MAP_RANGE:
      return 'it overlaps another region or the disk itself, or runs past the memory';
    case MAP_ALIGN_BROKEN:
      return `guest address and address must be equal modulo ${MAP_ALIGN}`;
    case MAP_FULL:
      return `there are ${GUEST_REGIONS - 1} regions already; join some of them`;
    default:
      return `the engine refuses with ${code}`;
  }
}

/** A region for messages. */
export function regionName({ guestAddress, sizeBytes, address }: GuestRegion): string {
  return `${hex(guestAddress)} (${sizeBytes} bytes at ${address})`;
}

/** An address for messages. */
export function hex(address: bigint): string {
  return `0x${address.toString(16)}`;
}

function places({ desc, driver, device }: QueueConfig): string {
  return `desc ${hex(desc)}, driver ${hex(driver)}, device ${hex(device)}`;
}

function show(regions: Iterable<GuestRegion>): string {
  const names = [...regions].map(regionName);
  return names.length === 0 ? 'no regions; add guest memory first' : `the regions ${names.join()}`;
}
