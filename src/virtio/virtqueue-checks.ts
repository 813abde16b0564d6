/** Checks of what an embedder passes to virtqueues.ts, and its way into the engine's words. */
import {
  DEVICE_BARRIER,
  DEVICE_DISCARD,
  DEVICE_FIXED_FRAMING,
  DEVICE_WRITE_ZEROES,
  ON_ERROR_IGNORE,
  ON_ERROR_REPORT,
  ON_ERROR_STOP,
  ON_ERROR_STOP_ENOSPC,
  QUEUE_COUNTER,
  QUEUE_DESC,
  QUEUE_DEVICE,
  QUEUE_DRIVER,
  QUEUE_EVENT_IDX,
  QUEUE_FLAGS,
  QUEUE_IN_ORDER,
  QUEUE_INDIRECT,
  QUEUE_INFLIGHT,
  QUEUE_NEXT_AVAIL,
  QUEUE_NEXT_USED,
  QUEUE_NOTIFY_ON_EMPTY,
  QUEUE_PACKED,
  QUEUE_RESUBMITS,
  QUEUE_SIZE,
} from '../abi/virtio-device.ts';
import { VIRTIO_BLK_ID_BYTES } from '../abi/virtio-blk.ts';
import { WRAP_BIT } from '../abi/virtio-ring.ts';
import { invalid, toBytes, toSwitch, toWhole } from '../arguments.ts';
import { occupantOf } from '../place.ts';
import type { DeviceSettings, GuestRegion, QueueConfig } from './virtqueue-types.ts';

const LARGEST_WORD = 0xffff_ffff;
const LARGEST_INDEX = 0xffff;
/** 64 KiB, the largest block size of Linux. */
const LARGEST_BLOCK_SECTORS = 128;

/** A guest address: exact, so a bigint. */
export function toGuestAddress(value: bigint, name: string): bigint {
  if (typeof value === 'bigint' && value >= 0n && value < 2n ** 64n) return value;
  throw invalid(`${name} must be a bigint from 0n to 2n ** 64n - 1n, not ${String(value)}`);
}

/** A region whose numbers are numbers. */
export function toRegion({ guestAddress, sizeBytes, address }: GuestRegion): GuestRegion {
  return {
    guestAddress: toGuestAddress(guestAddress, 'guestAddress'),
    sizeBytes: toWhole(sizeBytes, 'sizeBytes', 1, 2 ** 32),
    address: toWhole(address, 'address', 0, LARGEST_WORD),
  };
}

/** The words of a queue that `attachQueue` reads, as [offset, value]. */
export function toConfig(config: QueueConfig): [offset: number, word: number][] {
  const { size, position, packed } = config;
  const start = toSwitch(packed, 'packed') ? WRAP_BIT : 0;
  const { nextAvail = start, nextUsed = start } = position ?? {};
  return [
    [QUEUE_SIZE, toWhole(size, 'size', 0, LARGEST_WORD)],
    [QUEUE_FLAGS, queueFlags(config)],
    ...wide(QUEUE_DESC, toGuestAddress(config.desc, 'desc')),
    ...wide(QUEUE_DRIVER, toGuestAddress(config.driver, 'driver')),
    ...wide(QUEUE_DEVICE, toGuestAddress(config.device, 'device')),
    [QUEUE_NEXT_AVAIL, toWhole(nextAvail, 'position.nextAvail', 0, LARGEST_INDEX)],
    [QUEUE_NEXT_USED, toWhole(nextUsed, 'position.nextUsed', 0, LARGEST_INDEX)],
    ...inflightWords(config.inflight),
  ];
}

function inflightWords(record: QueueConfig['inflight']): [offset: number, word: number][] {
  const { address = 0, resubmits = 0, counter = 0n } = record ?? {};
  return [
    [QUEUE_INFLIGHT, toWhole(address, 'inflight.address', 0, LARGEST_WORD)],
    [QUEUE_RESUBMITS, toWhole(resubmits, 'inflight.resubmits', 0, LARGEST_INDEX)],
    ...wide(QUEUE_COUNTER, counter),
  ];
}

function queueFlags(config: QueueConfig): number {
  return sum([
    [toSwitch(config.packed, 'packed'), QUEUE_PACKED],
    [toSwitch(config.indirect, 'indirect'), QUEUE_INDIRECT],
    [toSwitch(config.eventIdx, 'eventIdx'), QUEUE_EVENT_IDX],
    [toSwitch(config.inOrder, 'inOrder'), QUEUE_IN_ORDER],
    [toSwitch(config.notifyOnEmpty, 'notifyOnEmpty'), QUEUE_NOTIFY_ON_EMPTY],
  ]);
}

function wide(offset: number, value: bigint): [offset: number, word: number][] {
  return [
    [offset, Number(BigInt.asUintN(32, value))],
    [offset + 4, Number(value >> 32n)],
  ];
}

/** The settings, checked: the flags, and the id as words. */
export function toSettings(settings: DeviceSettings): { flags: number; id: Uint32Array } {
  const { blockSectors } = settings;
  toWhole(blockSectors, 'blockSectors', 1, LARGEST_BLOCK_SECTORS);
  if (!Number.isInteger(Math.log2(blockSectors))) {
    throw invalid(`blockSectors must be a power of two, not ${blockSectors}`);
  }
  toWhole(settings.discardSectors, 'discardSectors', 0, LARGEST_WORD);
  toWhole(settings.discardSegments, 'discardSegments', 0, LARGEST_WORD);
  toWhole(settings.zeroesSectors, 'zeroesSectors', 0, LARGEST_WORD);
  toWhole(settings.zeroesSegments, 'zeroesSegments', 0, LARGEST_WORD);
  const flags = sum([
    [toSwitch(settings.fixedFraming, 'fixedFraming'), DEVICE_FIXED_FRAMING],
    [toSwitch(settings.barrier, 'barrier'), DEVICE_BARRIER],
    [toSwitch(settings.discard, 'discard'), DEVICE_DISCARD],
    [toSwitch(settings.writeZeroes, 'writeZeroes'), DEVICE_WRITE_ZEROES],
  ]);
  return { flags, id: idWords(toBytes(settings.id, 'id')) };
}

function idWords(id: Uint8Array): Uint32Array {
  if (id.length > VIRTIO_BLK_ID_BYTES) {
    throw invalid(`id must have at most ${VIRTIO_BLK_ID_BYTES} bytes, not ${id.length}`);
  }
  const view = new DataView(new ArrayBuffer(VIRTIO_BLK_ID_BYTES));
  for (const [index, byte] of id.entries()) view.setUint8(index, byte);
  return Uint32Array.from({ length: VIRTIO_BLK_ID_BYTES / 4 }, (_, index) =>
    view.getUint32(index * 4, true),
  );
}

const POLICIES: ReadonlyMap<string, number> = new Map([
  ['report', ON_ERROR_REPORT],
  ['stop', ON_ERROR_STOP],
  ['ignore', ON_ERROR_IGNORE],
  ['enospc', ON_ERROR_STOP_ENOSPC],
]);

/** The error policies as ON_ERROR_* numbers. */
export function toPolicies({ readError, writeError }: DeviceSettings): {
  read: number;
  write: number;
} {
  const read = POLICIES.get(readError);
  if (read === undefined || read === ON_ERROR_STOP_ENOSPC) {
    throw invalid(`readError must be 'report', 'stop' or 'ignore', not ${readError}`);
  }
  const write = POLICIES.get(writeError);
  if (write !== undefined) return { read, write };
  const names = "'report', 'stop', 'ignore' or 'enospc'";
  throw invalid(`writeError must be ${names}, not ${writeError}`);
}

function sum(flags: readonly (readonly [boolean, number])[]): number {
  return flags.reduce((word, [on, flag]) => (on ? word | flag : word), 0);
}

/** A 64-bit number as the module takes it. */
export function halves(address: bigint): [low: number, high: number] {
  return [Number(BigInt.asUintN(32, address)), Number(BigInt.asUintN(32, address >> 32n))];
}

/** Why guest memory cannot lie there; undefined: it can, as far as the host knows. */
export function misplaced(
  memory: WebAssembly.Memory,
  address: number,
  sizeBytes: number,
): string | undefined {
  const { byteLength } = memory.buffer;
  const end = address + sizeBytes;
  if (end > byteLength) return `the memory has ${byteLength} bytes; grow it first`;
  const disk = occupantOf(memory, address, end);
  if (disk === undefined) return undefined;
  return `a disk lives at ${disk.start} to ${disk.end} of the memory, and no guest may reach it`;
}
