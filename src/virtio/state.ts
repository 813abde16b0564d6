/**
 * The state of a virtio-blk device as plain JSON. What comes back is checked like any other input:
 * it may have been cut, edited, or made by another device.
 *
 * Numbers of 64 bits are hexadecimal strings, since JSON has no way to write them.
 */
import {
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FEATURES_OK,
  VIRTIO_CONFIG_S_NEEDS_RESET,
} from '../abi/virtio-ring.ts';
import { invalid, toWhole } from '../arguments.ts';
import { legacyFeatures, refusal } from './features.ts';
import type { MmioRegisters } from './mmio.ts';
import type { PciRegisters } from './pci.ts';
import type { QueueSnapshot } from './queue-registers.ts';
import { DRIVER_STATUS_BITS, ISR_CONFIG, ISR_USED } from './transport.ts';

/** What `save` returns and `restore` takes. Its inside may change with the version. */
export interface VirtioBlkState {
  readonly version: 1;
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
  readonly accepted: bigint;
  readonly status: number;
  readonly isr: number;
  readonly generation: number;
  readonly wce: boolean;
  readonly queues: readonly QueueSnapshot[];
  readonly mmio: MmioRegisters;
  readonly pci: PciRegisters;
}

/** What a state must fit to. */
export interface StateLimits {
  readonly offered: bigint;
  readonly legacy: boolean;
  /** Queues, and the largest size of each. */
  readonly count: number;
  readonly sizeMax: number;
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
  const { accepted, status, isr, generation, wce, queues, mmio, pci } = snapshot;
  return {
    version: VERSION,
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
 * A device at rest from JSON.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT
 */
export function parseState(
  state: unknown,
  limits: StateLimits,
): VirtioBlkSnapshot & { readonly negotiated: bigint | undefined } {
  const fields = toFields(state, 'the state');
  if (fields['version'] !== VERSION) {
    throw invalid('the state is not one of a virtio-blk device that this release can read');
  }
  const accepted = toAddress(fields['features'], 'features');
  const status = toCount(fields['status'], 'status', STATUS_BITS);
  if ((status & ~STATUS_BITS) !== 0) throw invalid(`the state has an impossible status ${status}`);
  const queues = toQueues(fields['queues'], limits);
  return {
    accepted,
    negotiated: negotiatedIn(status, accepted, limits),
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
  { offered, legacy }: StateLimits,
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

function toQueues(value: unknown, { count, sizeMax }: StateLimits): QueueSnapshot[] {
  if (!Array.isArray(value) || value.length !== count) {
    throw invalid(`the state must have ${count} queues, as this device has`);
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

function toMmio(value: unknown): MmioRegisters {
  const fields = toFields(value, 'mmio');
  const word = (name: keyof MmioRegisters): number =>
    toCount(fields[name], `mmio.${name}`, LARGEST_WORD);
  const power = (name: keyof MmioRegisters): number => {
    if (word(name) === 0 || Number.isInteger(Math.log2(word(name)))) return word(name);
    throw invalid(`mmio.${name} must be a power of two`);
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
  throw invalid(`${name} must be an object, as save() returns it`);
}

function toCount(value: unknown, name: string, most: number): number {
  return toWhole(typeof value === 'number' ? value : Number.NaN, name, 0, most);
}

function toTruth(value: unknown, name: string): boolean {
  if (typeof value === 'boolean') return value;
  throw invalid(`${name} must be true or false`);
}

function toAddress(value: unknown, name: string): bigint {
  if (typeof value === 'string' && HEX.test(value)) return BigInt(value);
  throw invalid(`${name} must be a hexadecimal string of up to 64 bits, as '0x1000'`);
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
