/**
 * Which features driver and device have agreed on, and what that means to the queues. VIRTIO 1.3,
 * 2.2 and 3.1.
 */
import { SECTOR_SIZE } from '../abi/limits.ts';
import {
  VIRTIO_BLK_F_BARRIER,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_WRITE_ZEROES,
} from '../abi/virtio-blk.ts';
import {
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIFY_ON_EMPTY,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../abi/virtio-ring.ts';
import type { ConfigValues } from './config-space.ts';
import { hasFeature, legacyFeatures, refusal } from './features.ts';
import type { DeviceSettings } from './virtqueue-types.ts';

const FEATURE_WORDS = 2;
const WORD_BITS = 32n;
const WORD_MASK = 0xffff_ffffn;
/** Stands for all bits of the words that no device has, so that they cannot take up memory. */
const BEYOND = 1n << 64n;

/** The features of one device, from reset to reset. */
export class Negotiation {
  readonly offered: bigint;
  readonly legacy: boolean;
  #accepted = 0n;
  #negotiated: bigint | undefined;
  #refusal: string | undefined;

  constructor(offered: bigint, legacy: boolean) {
    this.offered = offered;
    this.legacy = legacy;
  }

  /** What the driver has written. */
  get accepted(): bigint {
    return this.#accepted;
  }

  /** What was agreed on; undefined before FEATURES_OK, or a legacy driver's DRIVER_OK. */
  get negotiated(): bigint | undefined {
    return this.#negotiated;
  }

  /** Why FEATURES_OK did not stand the last time. */
  get refusal(): string | undefined {
    return this.#refusal;
  }

  /** What was agreed on, or before that, what a legacy driver has asked for so far. */
  get known(): bigint {
    if (this.#negotiated !== undefined) return this.#negotiated;
    return this.legacy ? legacyFeatures(this.offered, this.#accepted) : 0n;
  }

  /** A word of what is offered. */
  offeredWord(word: number): number {
    return wordOf(this.offered, word);
  }

  /** A word of what the driver has written. */
  acceptedWord(word: number): number {
    return wordOf(this.#accepted, word);
  }

  /** The driver writes a word of what it accepts. */
  accept(word: number, bits: number): void {
    if (word >= FEATURE_WORDS) {
      if (bits !== 0) this.#accepted |= BEYOND;
      return;
    }
    const shift = word === 0 ? 0n : WORD_BITS;
    this.#accepted &= ~(WORD_MASK << shift);
    this.#accepted |= BigInt(bits >>> 0) << shift;
  }

  /** FEATURES_OK: whether it may stand. VIRTIO 1.3, 2.2.2. */
  conclude(): boolean {
    this.#refusal = refusal(this.offered, this.#accepted);
    if (this.#refusal === undefined) this.#negotiated = this.#accepted;
    return this.#refusal === undefined;
  }

  /** DRIVER_OK without FEATURES_OK: whether the driver may do that, being a legacy one. */
  concludeLegacy(): boolean {
    if (this.#negotiated === undefined && this.legacy) this.#negotiated = this.known;
    return this.#negotiated !== undefined;
  }

  reset(): void {
    this.restore(0n, undefined);
  }

  restore(accepted: bigint, negotiated: bigint | undefined): void {
    this.#accepted = accepted;
    this.#negotiated = negotiated;
  }
}

function wordOf(features: bigint, word: number): number {
  if (word !== 0 && word !== 1) return 0;
  return Number((features >> (BigInt(word) * WORD_BITS)) & WORD_MASK);
}

/** What was negotiated, as a ring needs it. NOTIFY_ON_EMPTY is a legacy driver's alone. */
export function ringFlags(features: bigint) {
  return {
    packed: hasFeature(features, VIRTIO_F_RING_PACKED),
    indirect: hasFeature(features, VIRTIO_F_INDIRECT_DESC),
    eventIdx: hasFeature(features, VIRTIO_F_EVENT_IDX),
    inOrder: hasFeature(features, VIRTIO_F_IN_ORDER),
    notifyOnEmpty: isLegacy(features) && hasFeature(features, VIRTIO_F_NOTIFY_ON_EMPTY),
  };
}

/** The settings of a device that do not follow from what was negotiated. */
export type FixedSettings = Pick<DeviceSettings, 'id' | 'readError' | 'writeError'>;

/** What was negotiated, as the requests need it. */
export function requestSettings(
  features: bigint,
  values: ConfigValues,
  fixed: FixedSettings,
): DeviceSettings {
  return {
    ...fixed,
    fixedFraming: isLegacy(features) && !hasFeature(features, VIRTIO_F_ANY_LAYOUT),
    barrier: hasFeature(features, VIRTIO_BLK_F_BARRIER),
    discard: hasFeature(features, VIRTIO_BLK_F_DISCARD),
    writeZeroes: hasFeature(features, VIRTIO_BLK_F_WRITE_ZEROES),
    blockSectors: values.blockSizeBytes / SECTOR_SIZE,
    discardSectors: values.discardSectors,
    discardSegments: values.discardSegments,
    zeroesSectors: values.zeroesSectors,
    zeroesSegments: values.zeroesSegments,
  };
}

/** Whether the driver has a way to make volatile writes stable: FLUSH, or turning the cache off. */
export function canFlush(features: bigint): boolean {
  return [VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_CONFIG_WCE].some((bit) => hasFeature(features, bit));
}

/** Whether the write cache starts off whatever the disk is like. VIRTIO 1.3, 5.2.5.2. */
export function isOffAtFirst(features: bigint): boolean {
  const hasFlush = hasFeature(features, VIRTIO_BLK_F_FLUSH);
  return hasFeature(features, VIRTIO_BLK_F_CONFIG_WCE) && !hasFlush;
}

function isLegacy(features: bigint): boolean {
  return !hasFeature(features, VIRTIO_F_VERSION_1);
}
