/** The shapes of the virtio-blk device (virtio-blk.ts). */
import type { ConfigValues } from './config-space.ts';
import type { InterruptEvents } from './interrupts.ts';
import type { FixedSettings } from './negotiation.ts';
import type { RawQueues } from './raw-queues.ts';
import type { HeldRequest, QueueEvents } from './virtqueue-types.ts';

/** What a device tells its owner. */
export interface VirtioBlkEvents extends InterruptEvents {
  /** A fault of the driver or of the disk; the device's status says whether it needs a reset. */
  readonly onError?: ((error: Error) => void) | undefined;
  /** An error policy has stopped a request; `resume` sends it again. */
  readonly onStopped?: ((stop: HeldRequest) => void) | undefined;
  /** The device is closed, by its owner or with its disk. */
  readonly onClosed?: (() => void) | undefined;
}

/** What a device is made of; createVirtioBlk puts it together. */
export interface VirtioBlkParts {
  readonly makeQueues: (events: QueueEvents) => RawQueues;
  readonly values: ConfigValues;
  readonly offered: bigint;
  readonly legacy: boolean;
  /** The write cache is on at first. */
  readonly wce: boolean;
  readonly settings: FixedSettings;
  readonly events: VirtioBlkEvents;
  /** The guest's memory, where the device has made it. */
  readonly ram?: (() => Uint8Array) | undefined;
  /** The device begins to close. */
  readonly onClosing?: (() => void) | undefined;
  /** The device is closed. */
  readonly onClose?: (() => void | Promise<void>) | undefined;
}
