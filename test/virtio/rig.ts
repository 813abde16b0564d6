/** A disk in memory that has moved to a guest's memory, its queues, and drivers for them. */
import { expect } from 'vitest';
import { MemoryBackend, type MemoryBackendOptions } from '../../src/backend/memory.ts';
import { Disk } from '../../src/disk.ts';
import type { DiskOptions } from '../../src/disk-types.ts';
import { footprintBytes } from '../../src/place.ts';
import { BlkDriver, createDriverQueue, GuestMemory } from '../../src/testing/guest/index.ts';
import {
  type DeviceSettings,
  type HeldRequest,
  type QueueFault,
  VirtQueues,
} from '../../src/virtio/virtqueues.ts';

export const DISK_BYTES = 1 << 20;
export const ARENA_BYTES = 65_536;
export const RAM_BYTES = 1 << 20;
/** Where guest RAM begins for the guest. */
export const RAM_START = 0x7f59_7f22_0000n;
const WASM_PAGE = 65_536;

export const SETTINGS: DeviceSettings = {
  fixedFraming: false,
  barrier: false,
  discard: true,
  writeZeroes: true,
  blockSectors: 1,
  discardSectors: 2048,
  discardSegments: 8,
  zeroesSectors: 2048,
  zeroesSegments: 8,
  id: new TextEncoder().encode('serial'),
  readError: 'report',
  writeError: 'report',
};

export interface RigOptions {
  readonly virtqueues?: number;
  readonly shared?: boolean;
  readonly settings?: Partial<DeviceSettings>;
  readonly disk?: DiskOptions;
  readonly backend?: Partial<MemoryBackendOptions>;
}

export interface Rig {
  readonly backend: MemoryBackend;
  readonly disk: Disk;
  readonly memory: WebAssembly.Memory;
  readonly ram: { guestAddress: bigint; sizeBytes: number; address: number };
  readonly guest: GuestMemory;
  readonly queues: VirtQueues;
  /** What the callbacks were told. */
  readonly interrupts: number[];
  readonly faults: QueueFault[];
  readonly stops: HeldRequest[];
  /** A driver whose queue is attached. */
  readonly driver: (queue: number, size?: number, packed?: boolean) => BlkDriver;
}

/** Guest RAM first, the disk behind it, as an emulator would have it. */
export function setUp(options: RigOptions = {}): Rig {
  const { virtqueues = 2, shared = false } = options;
  const backend = new MemoryBackend({ sizeBytes: DISK_BYTES, ...options.backend });
  const disk = new Disk(backend, { bufferBytes: ARENA_BYTES, ...options.disk });
  const base = RAM_BYTES;
  const footprint = footprintBytes({ base, virtqueues, arenaBytes: ARENA_BYTES });
  const initial = Math.ceil((base + footprint) / WASM_PAGE);
  const memory = new WebAssembly.Memory({ initial, maximum: 2 * initial, shared });
  disk.device.moveTo({ memory, base, virtqueues, arenaBytes: ARENA_BYTES });
  const interrupts: number[] = [];
  const faults: QueueFault[] = [];
  const stops: HeldRequest[] = [];
  const queues = new VirtQueues(disk.device, {
    onInterrupt: (queue) => interrupts.push(queue),
    onBroken: (fault) => faults.push(fault),
    onHeld: (stop) => stops.push(stop),
    onFailure: (error) => expect.fail(String(error)),
  });
  disk.attach(queues);
  queues.configure({ ...SETTINGS, ...options.settings });
  const ram = { guestAddress: RAM_START, sizeBytes: RAM_BYTES, address: 0 };
  queues.addRegion(ram);
  const guest = new GuestMemory(memory, [ram]);
  const driver = (queue: number, size = 16, packed = false): BlkDriver => {
    const ring = createDriverQueue(packed, { memory: guest, size });
    queues.attach(queue, ring.config());
    return new BlkDriver({ queue: ring });
  };
  queues.running = true;
  return { backend, disk, memory, ram, guest, queues, interrupts, faults, stops, driver };
}
