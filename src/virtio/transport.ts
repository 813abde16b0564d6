/**
 * What a transport (mmio.ts, pci.ts) needs of a device. VIRTIO 1.3, 2 and 4.
 *
 * A driver is on the other side of every call, so none of them throws for what it is told: what
 * makes no sense has no effect, and what breaks the device shows in its status.
 */
import {
  VIRTIO_CONFIG_S_ACKNOWLEDGE,
  VIRTIO_CONFIG_S_DRIVER,
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FAILED,
  VIRTIO_CONFIG_S_FEATURES_OK,
} from '../abi/virtio-ring.ts';
import type { QueueRegisters } from './queue-registers.ts';

/** `used`: buffers of a queue were used; `config`: the configuration or the status has changed. */
export type InterruptKind = 'used' | 'config';

/** ISR, bit 0: used buffers. VIRTIO 1.3, 4.1.4.5 and 4.2.2. */
export const ISR_USED = 1;
/** ISR, bit 1: a change of the configuration, or of the status. */
export const ISR_CONFIG = 2;

/** Bits of the status that a driver sets; NEEDS_RESET is the device's. VIRTIO 1.3, 2.1. */
export const DRIVER_STATUS_BITS =
  VIRTIO_CONFIG_S_ACKNOWLEDGE |
  VIRTIO_CONFIG_S_DRIVER |
  VIRTIO_CONFIG_S_DRIVER_OK |
  VIRTIO_CONFIG_S_FEATURES_OK |
  VIRTIO_CONFIG_S_FAILED;

/** A virtio device of any kind. */
export interface VirtioDevice {
  /** VIRTIO 1.3, 5: 2 for a block device. */
  readonly deviceId: number;
  /** Legacy drivers are served too. */
  readonly legacy: boolean;
  /** Size, addresses and state of the queues. */
  readonly registers: QueueRegisters;

  /** Word 0 or 1 of the bits that are offered; 0 for every other word. */
  deviceFeatures(word: number): number;
  /** Word 0 or 1 of the bits that the driver has accepted; 0 for every other word. */
  driverFeatures(word: number): number;
  /** A word of the bits that the driver accepts. No effect after FEATURES_OK. */
  writeDriverFeatures(word: number, bits: number): void;

  /** The device status byte, VIRTIO 1.3, 2.1. */
  readonly status: number;
  /**
   * Writes the status byte; 0 resets the device. While a reset waits for I/O that is in flight the
   * status reads as before, and everything that is written is ignored; then it reads 0.
   */
  writeStatus(status: number): void;

  /** Interrupts that are not acknowledged: ISR_USED, ISR_CONFIG. */
  readonly isr: number;
  /** Acknowledges interrupts. PCI reads and acknowledges in one. */
  acknowledge(bits: number): void;

  /** ConfigGeneration, unsigned 32 bits. */
  readonly configGeneration: number;
  /** Fills `into` from the configuration space; past its end there are zeroes. */
  readConfig(offset: number, into: Uint8Array): void;
  /**
   * Writes to the configuration space. Resolves when the write has taken effect, for transports
   * that acknowledge writes: true, or false when something about it failed (and was reported).
   */
  writeConfig(offset: number, bytes: Uint8Array): Promise<boolean>;

  /** A kick: the number of a queue, or with NOTIFICATION_DATA what 2.9 makes of it. */
  notify(value: number): void;
  /** Stops one queue and gives it its first registers back, VIRTIO 1.3, 2.6.1. */
  resetQueue(queue: number): void;
}
