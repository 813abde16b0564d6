/**
 * A mock guest: memory, drivers of both rings and of virtio-blk, framings, recorded streams. It
 * needs the guest's memory only, never the device, so any transport can be tested with it.
 */
import type { DriverQueue, DriverQueueOptions } from './driver-queue.ts';
import { PackedDriver } from './packed.ts';
import { SplitDriver } from './split.ts';

export {
  BlkDriver,
  type BlkDriverOptions,
  type BlkRange,
  encodeRanges,
  type RawRequest,
} from './blk.ts';
export type { GuestRequest } from './blk-request.ts';
export type {
  Descriptor,
  DriverQueue,
  DriverQueueConfig,
  DriverQueueOptions,
  GuestRingPosition,
  RingFeatures,
  UsedBuffer,
} from './driver-queue.ts';
export {
  cutFraming,
  directFraming,
  type FramedRequest,
  type Framing,
  indirectFraming,
  joinedFraming,
  plainFraming,
  randomFraming,
  type RequestParts,
  segmentedFraming,
  withEmptyDescriptors,
} from './framing.ts';
export { GuestMemory, type GuestBytes, type GuestMemoryRegion, type GuestPlace } from './memory.ts';
export { PackedDriver } from './packed.ts';
export type { PackedDescriptor } from './packed-descriptor.ts';
export { SplitDriver } from './split.ts';
export { pokeSplitDescriptor, type SplitDescriptor } from './split-descriptor.ts';
export {
  type GuestTraceBatch,
  type GuestTraceRequest,
  parseGuestTrace,
  replayGuestRequest,
} from './trace.ts';

/** A queue of either kind. */
export function createDriverQueue(packed: boolean, options: DriverQueueOptions): DriverQueue {
  return packed ? new PackedDriver(options) : new SplitDriver(options);
}
