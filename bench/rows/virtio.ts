// Whole virtio-blk requests: a driver fills the ring, the device takes, orders, merges and answers
// them, and the driver takes them back. The backend answers every command at once. The driver's
// part, the same for all, is in the time.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { REGION_SIZE } from '../../src/abi/region.ts';
import {
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_FLUSH_OUT,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from '../../src/abi/virtio-blk.ts';
import { DEVICE_INTERRUPTS } from '../../src/abi/virtio-device.ts';
import type { CommandRecord } from '../../src/engine.ts';
import { type GuestTraceRequest, parseGuestTrace } from '../../src/testing/guest/trace.ts';
import { attachEngine, kick } from '../guest/device.ts';
import {
  BenchDriver,
  type BlkRequest,
  DRIVER_DATA,
  type DriverShape,
  type PreparedRequest,
} from '../guest/driver.ts';
import { GUEST_MEMORY_BYTES } from '../guest/memory.ts';
import { ModelDevice } from '../guest/model-device.ts';
import { Random } from '../random.ts';
import { ROOT } from '../root.ts';
import type { Contender, Contest, Row } from '../row.ts';

const BLOCK_BYTES = 4096;
const BLOCK_SECTORS = 8;
const DISK_BLOCKS = 2 ** 28;
const DATA_BYTES = 11 * 2 ** 20;
const TRACES = 'test/corpus/guest-traces';
/** Longest batch of a captured stream, and longest chain. */
const TRACE_SLOTS = 64;
const TRACE_DESCRIPTORS = 128;

type Shape = 'random' | 'sequential';
type Batches = readonly (readonly BlkRequest[])[];

function deviceRow(packed: boolean, shape: Shape, batch: number): Row {
  return {
    name: `virtio ${packed ? 'packed' : 'split'} ${shape} ${batch}`,
    unit: 'request',
    setup: async (size) => {
      const batches = makeBatches(shape, batch, Math.max(2, Math.floor(size / batch)));
      return contest({ packed, indirect: false, descriptors: 3, slots: 64 }, batches);
    },
  };
}

function traceRow(name: string): Row {
  return {
    name: `virtio ${name}`,
    unit: 'request',
    setup: async (size) => {
      const layout = { descriptors: TRACE_DESCRIPTORS, slots: TRACE_SLOTS };
      return contest({ packed: false, indirect: true, ...layout }, readTrace(name, size));
    },
  };
}

/** 4 KiB requests in batches, and streams of real guests. */
export const VIRTIO_ROWS: readonly Row[] = [
  ...[false, true].flatMap((packed) =>
    (['random', 'sequential'] as const).flatMap((shape) =>
      [1, 8, 64].map((batch) => deviceRow(packed, shape, batch)),
    ),
  ),
  ...['qemu-ext4-sqlite-fio', 'qemu-nomerges', 'uml-mkfs-fio', 'v86-mkfs'].map(traceRow),
];

function makeBatches(shape: Shape, batch: number, batches: number): Batches {
  const random = new Random(batch);
  let next = 0;
  const request = (): BlkRequest => {
    const isRandom = shape === 'random';
    const block = isRandom ? random.below(DISK_BLOCKS) : next++;
    const isWrite = isRandom && random.below(2) === 0;
    const data = [{ address: dataAddress(random, BLOCK_BYTES), length: BLOCK_BYTES }];
    const type = isWrite ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
    return { type, sector: block * BLOCK_SECTORS, data };
  };
  return Array.from({ length: batches }, () => Array.from({ length: batch }, request));
}

/** The requests that came together, up to about `size` of them. */
function readTrace(name: string, size: number): Batches {
  const random = new Random(size);
  const text = gunzipSync(readFileSync(join(ROOT, TRACES, `${name}.trace.gz`))).toString();
  const batches: BlkRequest[][] = [];
  let total = 0;
  for (const { requests } of parseGuestTrace(text)) {
    if (total >= size) break;
    for (let first = 0; first < requests.length; first += TRACE_SLOTS) {
      const together = requests.slice(first, first + TRACE_SLOTS);
      batches.push(together.map((request) => traced(random, request)));
      total += together.length;
    }
  }
  return batches;
}

/** A recorded request: its data in as many segments, whole sectors but where it has none. */
function traced(
  random: Random,
  { type, sector, bytes, descriptors }: GuestTraceRequest,
): BlkRequest {
  if (type === VIRTIO_BLK_T_FLUSH || type === VIRTIO_BLK_T_FLUSH_OUT) {
    return { type, sector: 0, data: [] };
  }
  const segments = Math.max(1, descriptors - 2);
  const each = Math.ceil(bytes / segments / 512) * 512;
  const data = [];
  for (let left = bytes; left > 0; left -= each) {
    const length = Math.min(each, left);
    data.push({ address: dataAddress(random, length), length });
  }
  return { type, sector, data };
}

function dataAddress(random: Random, length: number): number {
  const pages = Math.floor((DATA_BYTES - length) / BLOCK_BYTES);
  return DRIVER_DATA + random.below(pages) * BLOCK_BYTES;
}

/** A device as the bench drives it. */
interface Device {
  kick(): void;
  /** Pumps, and answers the commands; false when there were none. Adds to `hash`. */
  step(): boolean;
  hash: number;
}

function contest(shape: DriverShape, batches: Batches): Contest {
  const operations = batches.reduce((sum, batch) => sum + batch.length, 0);
  return {
    operations,
    ours: contender('device', shape, batches, engineDevice),
    peers: [contender('TypeScript model', shape, batches, modelDevice)],
  };
}

function contender(
  name: string,
  shape: DriverShape,
  batches: Batches,
  attach: (memory: WebAssembly.Memory, driver: BenchDriver) => Device,
): Contender {
  const memory = new WebAssembly.Memory({ initial: GUEST_MEMORY_BYTES / 65536 });
  const driver = new BenchDriver(memory.buffer, shape);
  const device = attach(memory, driver);
  const prepared = batches.map((batch) => batch.map((request, i) => driver.prepare(i, request)));
  return {
    name,
    run: () => {
      device.hash = 0;
      for (const batch of prepared) runBatch(driver, device, batch);
    },
    hash: () => device.hash >>> 0,
  };
}

function runBatch(driver: BenchDriver, device: Device, batch: readonly PreparedRequest[]): void {
  for (let i = 0; i < batch.length; i++) driver.submit(i, batch[i]!);
  driver.publish();
  device.kick();
  while (device.step());
  device.hash += driver.reap(batch.length);
}

function engineDevice(memory: WebAssembly.Memory, driver: BenchDriver): Device {
  const engine = attachEngine(memory, [driver.config]);
  const command: CommandRecord = {
    id: 0,
    op: 0,
    flags: 0,
    file: 0,
    segments: 0,
    data: 0,
    offset: 0,
    length: 0,
    guest: 0,
  };
  const interrupts = REGION_SIZE + DEVICE_INTERRUPTS;
  const device = {
    hash: 0,
    kick: () => kick(engine, 0),
    step: () => {
      engine.pump(0);
      if (engine.load(interrupts) !== 0) {
        engine.store(interrupts, 0);
        device.hash++;
      }
      let answered = false;
      while (engine.takeCommand(command)) {
        device.hash += command.length;
        engine.result(command.id, 0, 0);
        answered = true;
      }
      return answered;
    },
  };
  return device;
}

function modelDevice(memory: WebAssembly.Memory, driver: BenchDriver): Device {
  const model = new ModelDevice(memory.buffer, driver.config);
  const device = {
    hash: 0,
    kick: () => undefined,
    step: () => {
      model.interrupts = 0;
      model.pump();
      device.hash += model.interrupts;
      const commands = model.engine.takeCommands();
      for (const { id, length } of commands) {
        device.hash += length;
        model.engine.result(id, 0);
      }
      return commands.length > 0;
    },
  };
  return device;
}
