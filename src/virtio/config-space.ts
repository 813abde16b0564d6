/**
 * The configuration space of virtio-blk: 96 bytes, little-endian. VIRTIO 1.3, 5.2.4.
 *
 * C1  A field reads as zero unless the feature that it belongs to is offered, 2.2.1; whether the
 *     driver accepts it makes no difference.
 * C2  What is past the end reads as zero. Only the byte `writeback` can be written, alone, and
 *     only when CONFIG_WCE was accepted (the device decides that); no other write has any effect.
 * C3  ConfigGeneration changes whenever a field does that the driver has not written.
 * C4  seg_max leaves room for header and status: where INDIRECT is not offered, or the driver has
 *     not accepted it, a chain must fit into the ring.
 */
import { SECTOR_SIZE } from '../abi/limits.ts';
import {
  BLK_CONFIG_BLK_SIZE,
  BLK_CONFIG_CAPACITY,
  BLK_CONFIG_CYLINDERS,
  BLK_CONFIG_DISCARD_SECTOR_ALIGNMENT,
  BLK_CONFIG_HEADS,
  BLK_CONFIG_MAX_DISCARD_SECTORS,
  BLK_CONFIG_MAX_DISCARD_SEG,
  BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS,
  BLK_CONFIG_MAX_WRITE_ZEROES_SEG,
  BLK_CONFIG_MIN_IO_SIZE,
  BLK_CONFIG_NUM_QUEUES,
  BLK_CONFIG_PHYSICAL_BLOCK_EXP,
  BLK_CONFIG_SECTORS,
  BLK_CONFIG_SEG_MAX,
  BLK_CONFIG_SIZE,
  BLK_CONFIG_SIZE_MAX,
  BLK_CONFIG_WRITEBACK,
  BLK_CONFIG_WRITE_ZEROES_MAY_UNMAP,
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_GEOMETRY,
  VIRTIO_BLK_F_MQ,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_SIZE_MAX,
  VIRTIO_BLK_F_TOPOLOGY,
  VIRTIO_BLK_F_WRITE_ZEROES,
} from '../abi/virtio-blk.ts';
import { CHAIN_DESCRIPTORS } from '../abi/virtio-device.ts';
import { VIRTIO_F_INDIRECT_DESC } from '../abi/virtio-ring.ts';
import { hasFeature } from './features.ts';

/** What the fields are made of. */
export interface ConfigValues {
  readonly capacityBytes: number;
  /** Zeroes that may be unmapped can give space back. */
  readonly mayUnmap: boolean;
  /** Logical block: sectors and lengths of requests are multiples of it. */
  readonly blockSizeBytes: number;
  /** What the host transfers without reading first. */
  readonly physicalBlockBytes: number;
  readonly queues: number;
  readonly queueSizeMax: number;
  /** Data segments of a request where INDIRECT_DESC is used. */
  readonly segMax: number;
  /** Longest segment; 0: no limit is shown. */
  readonly sizeMaxBytes: number;
  readonly discardSectors: number;
  readonly discardSegments: number;
  readonly zeroesSectors: number;
  readonly zeroesSegments: number;
}

/** Descriptors of a chain that carry no data: header and status. */
const FRAME_DESCRIPTORS = 2;
/** Largest seg_max: what fits into the longest chain beside the frame (C4). */
export const SEG_MAX_LIMIT = CHAIN_DESCRIPTORS - FRAME_DESCRIPTORS;

/** Geometry for drivers that want one: the usual translation, capped at what the fields hold. */
const HEADS = 16;
const SECTORS_PER_TRACK = 63;
const MOST_CYLINDERS = 65535;

type Width = 1 | 2 | 4 | 8;

/** [offset, bytes, the feature it belongs to, the value]. */
type Field = readonly [
  offset: number,
  width: Width,
  bit: number | undefined,
  value: (values: ConfigValues, hasIndirect: boolean) => number,
];

const FIELDS: readonly Field[] = [
  [BLK_CONFIG_CAPACITY, 8, undefined, capacitySectors],
  [BLK_CONFIG_SIZE_MAX, 4, VIRTIO_BLK_F_SIZE_MAX, ({ sizeMaxBytes }) => sizeMaxBytes],
  [BLK_CONFIG_SEG_MAX, 4, VIRTIO_BLK_F_SEG_MAX, segMax],
  [BLK_CONFIG_CYLINDERS, 2, VIRTIO_BLK_F_GEOMETRY, cylinders],
  [BLK_CONFIG_HEADS, 1, VIRTIO_BLK_F_GEOMETRY, () => HEADS],
  [BLK_CONFIG_SECTORS, 1, VIRTIO_BLK_F_GEOMETRY, () => SECTORS_PER_TRACK],
  [BLK_CONFIG_BLK_SIZE, 4, VIRTIO_BLK_F_BLK_SIZE, ({ blockSizeBytes }) => blockSizeBytes],
  [
    BLK_CONFIG_PHYSICAL_BLOCK_EXP,
    1,
    VIRTIO_BLK_F_TOPOLOGY,
    (values) => Math.log2(blocksPerPhysical(values)),
  ],
  [BLK_CONFIG_MIN_IO_SIZE, 2, VIRTIO_BLK_F_TOPOLOGY, blocksPerPhysical],
  [BLK_CONFIG_NUM_QUEUES, 2, VIRTIO_BLK_F_MQ, ({ queues }) => queues],
  [BLK_CONFIG_MAX_DISCARD_SECTORS, 4, VIRTIO_BLK_F_DISCARD, (values) => values.discardSectors],
  [BLK_CONFIG_MAX_DISCARD_SEG, 4, VIRTIO_BLK_F_DISCARD, (values) => values.discardSegments],
  [
    BLK_CONFIG_DISCARD_SECTOR_ALIGNMENT,
    4,
    VIRTIO_BLK_F_DISCARD,
    (values) => (values.blockSizeBytes * blocksPerPhysical(values)) / SECTOR_SIZE,
  ],
  [
    BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS,
    4,
    VIRTIO_BLK_F_WRITE_ZEROES,
    (values) => values.zeroesSectors,
  ],
  [
    BLK_CONFIG_MAX_WRITE_ZEROES_SEG,
    4,
    VIRTIO_BLK_F_WRITE_ZEROES,
    (values) => values.zeroesSegments,
  ],
  [
    BLK_CONFIG_WRITE_ZEROES_MAY_UNMAP,
    1,
    VIRTIO_BLK_F_WRITE_ZEROES,
    ({ mayUnmap }) => Number(mayUnmap),
  ],
];

/** The space of one device. */
export class ConfigSpace {
  readonly #bytes = new Uint8Array(BLK_CONFIG_SIZE);
  readonly #view = new DataView(this.#bytes.buffer);
  readonly #offered: bigint;
  #values: ConfigValues;
  #hasIndirect: boolean;
  #generation = 0;

  constructor(values: ConfigValues, offered: bigint) {
    this.#values = values;
    this.#offered = offered;
    this.#hasIndirect = hasFeature(offered, VIRTIO_F_INDIRECT_DESC);
    this.#fill();
  }

  /** ConfigGeneration, unsigned 32 bits (C3). PCI shows the lowest 8. */
  get generation(): number {
    return this.#generation;
  }

  set generation(generation: number) {
    this.#generation = generation >>> 0;
  }

  /** What the fields are made of now. */
  get values(): ConfigValues {
    return this.#values;
  }

  /** Fills `into` with what lies at `offset` (C2). */
  read(offset: number, into: Uint8Array): void {
    into.fill(0);
    if (!(offset >= 0 && offset < BLK_CONFIG_SIZE)) return;
    into.set(this.#bytes.subarray(offset, offset + into.length));
  }

  /** The write cache as the driver sees it: on (writeback) or off (writethrough). */
  showWriteback(on: boolean): void {
    const shown = on && hasFeature(this.#offered, VIRTIO_BLK_F_CONFIG_WCE);
    this.#bytes[BLK_CONFIG_WRITEBACK] = shown ? 1 : 0;
  }

  /** What the driver has accepted; everything that is offered, while it has not chosen (C4). */
  showFeatures(features: bigint): void {
    this.#hasIndirect = hasFeature(features & this.#offered, VIRTIO_F_INDIRECT_DESC);
    this.#fill();
  }

  /** A new capacity (C3). False: it is what it was. */
  resize(capacityBytes: number): boolean {
    const before = capacitySectors(this.#values);
    this.#values = { ...this.#values, capacityBytes };
    if (capacitySectors(this.#values) === before) return false;
    this.#fill();
    this.generation += 1;
    return true;
  }

  #fill(): void {
    for (const [offset, width, bit, value] of FIELDS) {
      const there = bit === undefined || hasFeature(this.#offered, bit);
      this.#put(offset, width, there ? value(this.#values, this.#hasIndirect) : 0);
    }
  }

  #put(offset: number, width: Width, value: number): void {
    switch (width) {
      case 1:
        return this.#view.setUint8(offset, value);
      case 2:
        return this.#view.setUint16(offset, value, true);
      case 4:
        return this.#view.setUint32(offset, value, true);
      case 8:
        return this.#view.setBigUint64(offset, BigInt(value), true);
    }
  }
}

/** Whether a write of `length` bytes at `offset` is one of the byte `writeback` (C2). */
export function isWritebackByte(offset: number, length: number): boolean {
  return offset === BLK_CONFIG_WRITEBACK && length === 1;
}

/** The capacity as it is shown: a last block that is not whole is left out. */
export function shownCapacity({ capacityBytes, blockSizeBytes }: ConfigValues): number {
  return Math.floor(capacityBytes / blockSizeBytes) * blockSizeBytes;
}

/** In sectors of 512 bytes whatever the block size. */
function capacitySectors(values: ConfigValues): number {
  return shownCapacity(values) / SECTOR_SIZE;
}

function segMax(values: ConfigValues, hasIndirect: boolean): number {
  if (hasIndirect) return values.segMax;
  return Math.min(values.segMax, values.queueSizeMax - FRAME_DESCRIPTORS);
}

function cylinders(values: ConfigValues): number {
  const whole = Math.floor(capacitySectors(values) / (HEADS * SECTORS_PER_TRACK));
  return Math.min(Math.max(whole, 1), MOST_CYLINDERS);
}

function blocksPerPhysical({ blockSizeBytes, physicalBlockBytes }: ConfigValues): number {
  return Math.max(1, physicalBlockBytes / blockSizeBytes);
}
