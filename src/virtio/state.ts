/**
 * The state of a virtio-blk device as plain JSON. What comes back is checked like any other input:
 * it may have been cut, edited, or made by another device, or for another disk. It is checked whole
 * before anything of it takes effect, its rings included.
 *
 * Numbers of 64 bits are hexadecimal strings, since JSON has no way to write them.
 */
import {
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FEATURES_OK,
  VIRTIO_CONFIG_S_NEEDS_RESET,
} from '../abi/virtio-ring.ts';
import { invalid, show, toWhole } from '../arguments.ts';
import { legacyFeatures, refusal } from './features.ts';
import type { MmioRegisters } from './mmio.ts';
import { ringFlags } from './negotiation.ts';
import type { PciRegisters } from './pci.ts';
import type { QueueSnapshot } from './queue-registers.ts';
import { refuseOther, type ShownDisk } from './shown-disk.ts';
import { DRIVER_STATUS_BITS, ISR_CONFIG, ISR_USED } from './transport.ts';
import type { QueueConfig } from './virtqueue-types.ts';

/** What `save` returns and `restore` takes. Its inside may change with the version. */
export interface VirtioBlkState {
  readonly version: 1;
  /** What the guest has seen of its disk. */
  readonly disk: ShownDisk;
  /** The bits that the driver has accepted. */
  readonly features: string;
  readonly status: number;
  readonly isr: number;
  readonly generation: number;
  readonly wce: boolean;
  readonly queues: readonly VirtioBlkQueueState[];
  /** The registers of `mmio`. */
  readonly mmio: MmioRegisters;
  /** Those of `pci`. */
  readonly pci: PciRegisters;
}

/** One queue of it. */
export interface VirtioBlkQueueState {
  readonly size: number;
  readonly desc: string;
  readonly driver: string;
  readonly device: string;
  readonly enabled: boolean;
  readonly broken: boolean;
  /** Where the ring goes on; null: it was never attached. */
  readonly nextAvail: number | null;
  readonly nextUsed: number | null;
}

/** A device at rest. */
export interface VirtioBlkSnapshot {
  readonly disk: ShownDisk;
  readonly accepted: bigint;
  readonly status: number;
  readonly isr: number;
  readonly generation: number;
  readonly wce: boolean;
  readonly queues: readonly QueueSnapshot[];
  readonly mmio: MmioRegisters;
  readonly pci: PciRegisters;
}

/** What a state must fit to: a device. */
export interface StateLimits {
  readonly shownDisk: ShownDisk;
  readonly features: { readonly offered: bigint };
  readonly legacy: boolean;
  /** Queues, and the largest size of each. */
  readonly registers: { readonly count: number; readonly sizeMax: number };
  readonly queues: { ringFault(config: QueueConfig): string | undefined };
}

const VERSION = 1;
const LARGEST_WORD = 0xffff_ffff;
const LARGEST_INDEX = 0xffff;
const LARGEST_ISR = ISR_USED | ISR_CONFIG;
const STATUS_BITS = DRIVER_STATUS_BITS | VIRTIO_CONFIG_S_NEEDS_RESET;
const HEX = /^0x[0-9a-f]{1,16}$/;

type Fields = Readonly<Record<string, unknown>>;

/** A device at rest as JSON. */
export function formatState(snapshot: VirtioBlkSnapshot): VirtioBlkState {
  const { disk, accepted, status, isr, generation, wce, queues, mmio, pci } = snapshot;
  return {
    version: VERSION,
    disk,
    features: hex(BigInt.asUintN(64, accepted)),
    status,
    isr,
    generation,
    wce,
    queues: queues.map(({ size, desc, driver, device, enabled, broken, position }) => ({
      size,
      desc: hex(desc),
      driver: hex(driver),
      device: hex(device),
      enabled,
      broken,
      nextAvail: position?.nextAvail ?? null,
      nextUsed: position?.nextUsed ?? null,
    })),
    mmio: { ...mmio },
    pci: { ...pci },
  };
}

/**
 * A device at rest from JSON, to be taken over by the device that it has to fit to.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT: which value, where
 */
export function parseState(
  state: unknown,
  limits: StateLimits,
): VirtioBlkSnapshot & { readonly negotiated: bigint | undefined } {
  const fields = toFields(state, 'the state');
  if (fields['version'] !== VERSION) {
    throw invalid('the state is not one of a virtio-blk device that this release can read');
  }
  const disk = toDisk(fields['disk']);
  refuseOther(disk, limits.shownDisk);
  const accepted = toAddress(fields['features'], 'features');
  const status = toCount(fields['status'], 'status', STATUS_BITS);
  if ((status & ~STATUS_BITS) !== 0) throw invalid(`the state has an impossible status ${status}`);
  const negotiated = negotiatedIn(status, accepted, limits);
  const queues = toQueues(fields['queues'], limits.registers);
  const isLive = (status & VIRTIO_CONFIG_S_DRIVER_OK) !== 0;
  queues.forEach((queue, index) => {
    checkRing(queue, `queues[${index}]`, isLive ? negotiated : undefined, limits);
  });
  return {
    disk,
    accepted,
    negotiated,
    status,
    isr: toCount(fields['isr'], 'isr', LARGEST_ISR),
    generation: toCount(fields['generation'], 'generation', LARGEST_WORD),
    wce: toTruth(fields['wce'], 'wce'),
    queues,
    mmio: toMmio(fields['mmio']),
    pci: toPci(fields['pci']),
  };
}

/** What was negotiated follows from the status, as it did when the driver wrote it. */
function negotiatedIn(
  status: number,
  accepted: bigint,
  { features: { offered }, legacy }: StateLimits,
): bigint | undefined {
  if ((status & VIRTIO_CONFIG_S_FEATURES_OK) !== 0) {
    const why = refusal(offered, accepted);
    if (why === undefined) return accepted;
    throw invalid(`the state does not fit this device: ${why}`);
  }
  if ((status & VIRTIO_CONFIG_S_DRIVER_OK) === 0) return undefined;
  if (legacy) return legacyFeatures(offered, accepted);
  throw invalid('the state does not fit this device: it is one of a legacy driver');
}

function toDisk(value: unknown): ShownDisk {
  const fields = toFields(value, 'disk');
  const { serial } = fields;
  if (typeof serial !== 'string') throw invalid(`disk.serial must be text, not ${show(serial)}`);
  return {
    capacityBytes: toCount(fields['capacityBytes'], 'disk.capacityBytes', Number.MAX_SAFE_INTEGER),
    blockSizeBytes: toCount(fields['blockSizeBytes'], 'disk.blockSizeBytes', LARGEST_WORD),
    readOnly: toTruth(fields['readOnly'], 'disk.readOnly'),
    serial,
  };
}

function toQueues(value: unknown, { count, sizeMax }: StateLimits['registers']): QueueSnapshot[] {
  if (!Array.isArray(value) || value.length !== count) {
    const found = Array.isArray(value) ? value.length : show(value);
    throw invalid(`queues must be a list of ${count}, as this device has, not ${found}`);
  }
  return value.map((queue: unknown, index) => toQueue(queue, `queues[${index}]`, sizeMax));
}

function toQueue(value: unknown, name: string, sizeMax: number): QueueSnapshot {
  const fields = toFields(value, name);
  const enabled = toTruth(fields['enabled'], `${name}.enabled`);
  // A driver may leave any number in the register of a queue that it does not use.
  const size = toCount(fields['size'], `${name}.size`, enabled ? sizeMax : LARGEST_WORD);
  if (enabled && size === 0) throw invalid(`${name}.size must not be 0 in an enabled queue`);
  return {
    size,
    desc: toAddress(fields['desc'], `${name}.desc`),
    driver: toAddress(fields['driver'], `${name}.driver`),
    device: toAddress(fields['device'], `${name}.device`),
    enabled,
    broken: toTruth(fields['broken'], `${name}.broken`),
    position: toPosition(fields['nextAvail'], fields['nextUsed'], name),
  };
}

function toPosition(avail: unknown, used: unknown, name: string): QueueSnapshot['position'] {
  if (avail === null && used === null) return undefined;
  return {
    nextAvail: toCount(avail, `${name}.nextAvail`, LARGEST_INDEX),
    nextUsed: toCount(used, `${name}.nextUsed`, LARGEST_INDEX),
  };
}

/**
 * A ring that the device would attach must be one, and has a place to go on from; only such a ring,
 * and one that is broken, has ever had a place.
 * @param live what was negotiated, when the driver has said DRIVER_OK
 */
function checkRing(
  queue: QueueSnapshot,
  name: string,
  live: bigint | undefined,
  { queues }: StateLimits,
): void {
  const { enabled, broken, position } = queue;
  if (!enabled || live === undefined) {
    if (position === undefined) return;
    throw invalid(`${name}.nextAvail must be null, since the queue is not in use`);
  }
  if (broken) return;
  if (position === undefined) {
    throw invalid(`${name}.nextAvail must be a number, not null, since the queue is in use`);
  }
  const why = queues.ringFault({ ...queue, ...ringFlags(live) });
  if (why !== undefined) throw invalid(`${name} of the state cannot be used: ${why}`);
}

function toMmio(value: unknown): MmioRegisters {
  const fields = toFields(value, 'mmio');
  const word = (name: keyof MmioRegisters): number =>
    toCount(fields[name], `mmio.${name}`, LARGEST_WORD);
  const power = (name: keyof MmioRegisters): number => {
    if (word(name) === 0 || Number.isInteger(Math.log2(word(name)))) return word(name);
    throw invalid(`mmio.${name} must be a power of two, not ${word(name)}`);
  };
  const pageSize = power('pageSize');
  if (pageSize === 0) throw invalid('mmio.pageSize must not be 0');
  return {
    deviceFeaturesSel: word('deviceFeaturesSel'),
    driverFeaturesSel: word('driverFeaturesSel'),
    queueSel: word('queueSel'),
    pageSize,
    queueAlign: power('queueAlign'),
  };
}

function toPci(value: unknown): PciRegisters {
  const fields = toFields(value, 'pci');
  const word = (name: keyof PciRegisters, most: number): number =>
    toCount(fields[name], `pci.${name}`, most);
  return {
    deviceFeatureSelect: word('deviceFeatureSelect', LARGEST_WORD),
    driverFeatureSelect: word('driverFeatureSelect', LARGEST_WORD),
    queueSelect: word('queueSelect', LARGEST_INDEX),
  };
}

function toFields(value: unknown, name: string): Fields {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Fields;
  throw invalid(`${name} must be an object as save() returns it, not ${show(value)}`);
}

function toCount(value: unknown, name: string, most: number): number {
  return toWhole(value as number, name, 0, most);
}

function toTruth(value: unknown, name: string): boolean {
  if (typeof value === 'boolean') return value;
  throw invalid(`${name} must be true or false, not ${show(value)}`);
}

function toAddress(value: unknown, name: string): bigint {
  if (typeof value === 'string' && HEX.test(value)) return BigInt(value);
  throw invalid(
    `${name} must be a hexadecimal string of up to 64 bits as '0x1000', not ${show(value)}`,
  );
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
