/** The words of the virtio device beside an engine (abi/virtio-device.ts). */
import { REGION_SIZE } from '../abi/region.ts';
import * as abi from '../abi/virtio-device.ts';
import type { EngineDevice } from '../engine-device.ts';
import { toPolicies, toSettings } from './virtqueue-checks.ts';
import { ringErrorText } from './virtqueue-texts.ts';
import type { DeviceSettings, HeldRequest, QueueFault } from './virtqueue-types.ts';

const HIGH_WORD = 2 ** 32;
/** What does not follow from what was negotiated. */
const KEPT_FLAGS = abi.DEVICE_RUNNING | abi.DEVICE_COPIED | abi.DEVICE_WATCHED;

/** See the head of the file. Offsets are relative to the start of the device. */
export class DeviceWords {
  readonly #device: EngineDevice;

  constructor(device: EngineDevice) {
    this.#device = device;
  }

  load(offset: number): number {
    return this.#device.engine.load(REGION_SIZE + offset);
  }

  store(offset: number, value: number): void {
    this.#device.engine.store(REGION_SIZE + offset, value);
  }

  /** Whether a queue is in a set: 64 bits, one for each. */
  has(set: number, queue: number): boolean {
    return (this.load(set + (queue >>> 5) * 4) & (1 << (queue & 31))) !== 0;
  }

  /** Adds a queue to a set, or removes it. */
  put(set: number, queue: number, on: boolean): void {
    const at = set + (queue >>> 5) * 4;
    const bit = 1 << (queue & 31);
    const word = this.load(at);
    this.store(at, on ? word | bit : word & ~bit);
  }

  /** Empties a set and calls back for each queue that was in it. */
  take(set: number, count: number, each: (queue: number) => void): void {
    for (let queue = 0; queue < count; queue++) {
      if (!this.has(set, queue)) continue;
      this.put(set, queue, false);
      each(queue);
    }
  }
}

/** Checks what was negotiated and writes it down; whether the device runs stays as it is. */
export function storeSettings(words: DeviceWords, settings: DeviceSettings): void {
  const { id, flags } = toSettings(settings);
  const { read, write } = toPolicies(settings);
  const kept = words.load(abi.DEVICE_FLAGS) & KEPT_FLAGS;
  words.store(abi.DEVICE_FLAGS, kept | flags);
  words.store(abi.DEVICE_BLOCK_SECTORS, settings.blockSectors);
  words.store(abi.DEVICE_DISCARD_SECTORS, settings.discardSectors);
  words.store(abi.DEVICE_DISCARD_SEGMENTS, settings.discardSegments);
  words.store(abi.DEVICE_ZEROES_SECTORS, settings.zeroesSectors);
  words.store(abi.DEVICE_ZEROES_SEGMENTS, settings.zeroesSegments);
  words.store(abi.DEVICE_READ_ERROR, read);
  words.store(abi.DEVICE_WRITE_ERROR, write);
  for (const [index, word] of id.entries()) words.store(abi.DEVICE_ID + index * 4, word);
}

/** Where the words of a queue are. */
export function queueWords(queue: number): number {
  return abi.DEVICE_QUEUES + queue * abi.QUEUE_STRIDE;
}

/** Why a queue was broken. */
export function faultOf(words: DeviceWords, queue: number): QueueFault {
  const at = queueWords(queue);
  const error = words.load(at + abi.QUEUE_ERROR);
  const head = words.load(at + abi.QUEUE_ERROR_HEAD);
  const descriptor = words.load(at + abi.QUEUE_ERROR_DESCRIPTOR);
  return { queue, error, reason: ringErrorText(error), head, descriptor };
}

/** The request that an error policy has stopped last. */
export function heldRequest(words: DeviceWords): HeldRequest {
  const high = words.load(abi.DEVICE_HELD_OFFSET + 4);
  return {
    held: words.load(abi.DEVICE_HELD),
    offset: words.load(abi.DEVICE_HELD_OFFSET) + high * HIGH_WORD,
    errno: words.load(abi.DEVICE_HELD_ERRNO),
  };
}
