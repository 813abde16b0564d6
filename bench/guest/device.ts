// An engine with a virtio device over the bench's memory, its queues attached.

import { COMMAND_SLOTS } from '../../src/abi/limits.ts';
import { REGION_SIZE } from '../../src/abi/region.ts';
import * as device from '../../src/abi/virtio-device.ts';
import { WRAP_BIT } from '../../src/abi/virtio-ring.ts';
import { type Engine, type EngineOptions, resumeEngine } from '../../src/engine.ts';
import { ENGINE_PLACE, GUEST_MAP, type GuestRegion } from './memory.ts';

/** A virtqueue to attach: guest addresses, and QUEUE_PACKED and the like. */
export interface QueueConfig {
  readonly size: number;
  readonly flags: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
}

/** What benches run an engine with. */
export const BENCH_ENGINE: Omit<EngineOptions, 'memory'> = {
  capacityBytes: 2 ** 44,
  blockSizeBytes: 4096,
  depth: COMMAND_SLOTS,
  mergeBytes: 1 << 20,
  readOnly: false,
  noFlush: false,
  wce: true,
};

const WORD = 2 ** 32;
const MOST_SECTORS = 65536;

/** An engine whose device runs, with these queues. */
export function attachEngine(memory: WebAssembly.Memory, queues: readonly QueueConfig[]): Engine {
  const engine = resumeEngine(memory, ENGINE_PLACE, undefined, queues.length);
  engine.configure({ ...BENCH_ENGINE, memory });
  const { exports } = engine;
  if (exports.initDevice(ENGINE_PLACE, queues.length) !== 1) throw new Error('no device');
  for (const region of GUEST_MAP) mapRegion(engine, region);
  const store = (at: number, value: number): void => engine.store(REGION_SIZE + at, value);
  queues.forEach((queue, number) => attachQueue(engine, queue, number));
  store(device.DEVICE_BLOCK_SECTORS, 1);
  for (const limit of [device.DEVICE_DISCARD_SECTORS, device.DEVICE_ZEROES_SECTORS]) {
    store(limit, MOST_SECTORS);
  }
  for (const limit of [device.DEVICE_DISCARD_SEGMENTS, device.DEVICE_ZEROES_SEGMENTS]) {
    store(limit, 1);
  }
  const features = device.DEVICE_DISCARD | device.DEVICE_WRITE_ZEROES;
  store(device.DEVICE_FLAGS, device.DEVICE_RUNNING | features);
  return engine;
}

/** Has the device look at a queue. */
export function kick(engine: Engine, number: number): void {
  const at = REGION_SIZE + device.DEVICE_KICKED + (number >>> 5) * 4;
  engine.store(at, engine.load(at) | (1 << (number & 31)));
}

function mapRegion({ exports }: Engine, { start, sizeBytes, place }: GuestRegion): void {
  const error = exports.mapGuest(
    ENGINE_PLACE,
    start % WORD,
    Math.floor(start / WORD),
    sizeBytes,
    0,
    place,
  );
  if (error !== 0) throw new Error(`a region is refused: ${error}`);
}

function attachQueue(engine: Engine, queue: QueueConfig, number: number): void {
  const at = REGION_SIZE + device.DEVICE_QUEUES + number * device.QUEUE_STRIDE;
  const address = (word: number, value: number): void => {
    engine.store(at + word, value % WORD);
    engine.store(at + word + 4, Math.floor(value / WORD));
  };
  const first = (queue.flags & device.QUEUE_PACKED) === 0 ? 0 : WRAP_BIT;
  engine.store(at + device.QUEUE_SIZE, queue.size);
  engine.store(at + device.QUEUE_FLAGS, queue.flags);
  address(device.QUEUE_DESC, queue.desc);
  address(device.QUEUE_DRIVER, queue.driver);
  address(device.QUEUE_DEVICE, queue.device);
  engine.store(at + device.QUEUE_NEXT_AVAIL, first);
  engine.store(at + device.QUEUE_NEXT_USED, first);
  const error = engine.exports.attachQueue(ENGINE_PLACE, number);
  if (error !== 0) throw new Error(`queue ${number} is refused: ${error}`);
}
