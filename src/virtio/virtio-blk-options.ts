/** The options of createVirtioBlk, and their checks. */
import { SECTOR_SIZE } from '../abi/limits.ts';
import { VIRTIO_BLK_ID_BYTES } from '../abi/virtio-blk.ts';
import { BLK_RANGES, VIRTQUEUES } from '../abi/virtio-device.ts';
import { QUEUE_SIZE_MAX } from '../abi/virtio-ring.ts';
import { invalid, toWhole } from '../arguments.ts';
import { checkedInUse, type Checks, isCallback, isSwitch } from '../options.ts';
import { type ConfigValues, SEG_MAX_LIMIT } from './config-space.ts';
import type { FeatureSwitches } from './features.ts';
import type { FixedSettings } from './negotiation.ts';
import type { VirtioBlkEvents } from './virtio-blk-types.ts';
import type { DeviceSettings, GuestRegion } from './virtqueue-types.ts';

/** Guest RAM that lies in one piece, and begins at guest address 0. */
export type FlatRam = Pick<GuestRegion, 'address' | 'sizeBytes'>;

/** How a virtio-blk device is made. */
export interface VirtioBlkOptions extends VirtioBlkEvents {
  /**
   * The memory of an emulator. The engine moves into it, at `base`; `footprintBytes` says how much
   * room it takes there.
   */
  readonly memory?: WebAssembly.Memory | undefined;
  /** With `memory`: where the engine may live, a multiple of 64. */
  readonly base?: number | undefined;
  /** With `memory`: where guest RAM lies in it. More can be added with `queues.addRegion`. */
  readonly ram?: FlatRam | readonly GuestRegion[] | undefined;
  /** Instead of `memory`: makes one with so much guest RAM, from guest address 0 on (`ram`). */
  readonly ramBytes?: number | undefined;
  /** Instead of `memory`: guest RAM outside of any WebAssembly memory, from guest address 0 on. */
  readonly guest?: ArrayBuffer | Uint8Array | undefined;
  /** Request queues, 1 to 63. Default 1. */
  readonly queues?: number | undefined;
  /** Largest queue that a driver can choose, a power of two from 4 to 32,768. Default 256. */
  readonly queueSizeMax?: number | undefined;
  /** What is offered; left out: everything that the disk can do, but IN_ORDER. */
  readonly features?: FeatureSwitches | undefined;
  /** What GET_ID answers, at most 20 bytes of UTF-8. Default: nothing. */
  readonly serial?: string | undefined;
  /** Logical block, a power of two from 512 to 65,536. Default 512. */
  readonly blockSizeBytes?: number | undefined;
  /** Data segments of a request, 1 to 1,022; less where the ring is smaller. Default 254. */
  readonly segMax?: number | undefined;
  /** Longest segment in bytes, at least a block. Default: no limit. */
  readonly sizeMaxBytes?: number | undefined;
  /** Serves legacy drivers too; `mmio` then shows version 1. Default false. */
  readonly legacy?: boolean | undefined;
  /** What an I/O error of a read does. Default 'report'. */
  readonly readError?: DeviceSettings['readError'] | undefined;
  /** What one of a write does. Default 'report'. */
  readonly writeError?: DeviceSettings['writeError'] | undefined;
  /**
   * Transfer buffers of the disk's own calls in the new memory, a power of two from 64 KiB.
   * Requests of the guest take none. Default 4 MiB.
   */
  readonly arenaBytes?: number | undefined;
  /**
   * With `memory`: where in it a request has written, before the driver hears of that. For
   * emulators that keep translations of the guest's code. The rings are not told of. Without
   * IN_ORDER.
   */
  readonly onWritten?: ((address: number, lengthBytes: number) => void) | undefined;
}

/** What the disk says about itself. */
export interface DiskFacts {
  readonly capacityBytes: number;
  /** Zeroing can give space back to the host. */
  readonly mayUnmap: boolean;
  /** What the host transfers without reading first. */
  readonly granuleBytes: number;
}

const DEFAULT_QUEUE_SIZE = 256;
const SMALLEST_QUEUE_SIZE = 4;
const DEFAULT_SEG_MAX = 254;
const LARGEST_BLOCK = 65_536;
const LARGEST_WORD = 0xffff_ffff;
/** 2 GiB less a block, so that no request takes for ever and every count fits 31 bits. */
const RANGE_BYTES = 2 ** 31 - LARGEST_BLOCK;

/** Checks of VirtioBlkOptions. */
export const VIRTIO_BLK_OPTIONS: Checks<VirtioBlkOptions> = {
  memory: checkedInUse,
  base: checkedInUse,
  ram: checkedInUse,
  ramBytes: checkedInUse,
  guest: checkedInUse,
  queues: checkedInUse,
  queueSizeMax: checkedInUse,
  features: checkedInUse,
  serial: checkedInUse,
  blockSizeBytes: checkedInUse,
  segMax: checkedInUse,
  sizeMaxBytes: checkedInUse,
  legacy: isSwitch,
  readError: checkedInUse,
  writeError: checkedInUse,
  arenaBytes: checkedInUse,
  onInterrupt: isCallback,
  onInterruptLine: isCallback,
  onError: isCallback,
  onStopped: isCallback,
  onClosed: isCallback,
  onWritten: isCallback,
};

/** Checks the options that have a place in the configuration space. */
export function toValues(options: VirtioBlkOptions, disk: DiskFacts): ConfigValues {
  const { queues = 1, queueSizeMax = DEFAULT_QUEUE_SIZE, segMax = DEFAULT_SEG_MAX } = options;
  const block = toPower(
    options.blockSizeBytes ?? SECTOR_SIZE,
    'blockSizeBytes',
    SECTOR_SIZE,
    LARGEST_BLOCK,
  );
  const { sizeMaxBytes } = options;
  return {
    capacityBytes: disk.capacityBytes,
    mayUnmap: disk.mayUnmap,
    blockSizeBytes: block,
    physicalBlockBytes: Math.max(block, disk.granuleBytes),
    queues: toWhole(queues, 'queues', 1, VIRTQUEUES),
    queueSizeMax: toPower(queueSizeMax, 'queueSizeMax', SMALLEST_QUEUE_SIZE, QUEUE_SIZE_MAX),
    segMax: toWhole(segMax, 'segMax', 1, SEG_MAX_LIMIT),
    sizeMaxBytes:
      sizeMaxBytes === undefined ? 0 : toWhole(sizeMaxBytes, 'sizeMaxBytes', block, LARGEST_WORD),
    discardSectors: RANGE_BYTES / SECTOR_SIZE,
    discardSegments: BLK_RANGES,
    zeroesSectors: RANGE_BYTES / SECTOR_SIZE,
    zeroesSegments: BLK_RANGES,
  };
}

/** Checks the options that only the engine sees. */
export function toFixed({
  serial = '',
  readError = 'report',
  writeError = 'report',
}: VirtioBlkOptions): FixedSettings {
  if (typeof serial !== 'string' || serial.includes('\0')) {
    throw invalid('serial must be a string without NUL');
  }
  const id = new TextEncoder().encode(serial);
  if (id.length > VIRTIO_BLK_ID_BYTES) {
    throw invalid(
      `serial must have at most ${VIRTIO_BLK_ID_BYTES} bytes of UTF-8, not ${id.length}`,
    );
  }
  return { id, readError, writeError };
}

/** What the device tells. */
export function toEvents(options: VirtioBlkOptions): VirtioBlkEvents {
  const { onInterrupt, onInterruptLine, onError, onStopped, onClosed } = options;
  return { onInterrupt, onInterruptLine, onError, onStopped, onClosed };
}

/** Guest RAM in a given memory, as regions. */
export function toRegions(ram: VirtioBlkOptions['ram']): readonly GuestRegion[] {
  if (ram === undefined) return [];
  if (typeof ram !== 'object' || ram === null) {
    throw invalid('ram must be { address, sizeBytes }, or a list of regions with guestAddress');
  }
  return isList(ram) ? ram : [{ guestAddress: 0n, ...ram }];
}

function isList(ram: FlatRam | readonly GuestRegion[]): ram is readonly GuestRegion[] {
  return Array.isArray(ram);
}

function toPower(value: number, name: string, from: number, to: number): number {
  const isInRange = value >= from && value <= to;
  if (Number.isInteger(value) && isInRange && Number.isInteger(Math.log2(value))) return value;
  throw invalid(`${name} must be a power of two from ${from} to ${to}, not ${String(value)}`);
}
