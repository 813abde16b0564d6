/**
 * Where a device lies in a memory:
 *
 *     base                        64-byte boundary
 *     | engine | virtqueues | .. | mapping | .. | arena |
 *                                page boundaries
 */
import { REGION_SIZE } from './abi/region.ts';
import { DEVICE_QUEUES, QUEUE_STRIDE, VIRTQUEUES } from './abi/virtio-device.ts';
import { isArenaSize, PAGE_SIZE } from './arena.ts';
import { invalid, toWhole } from './arguments.ts';
import { checkedInUse, checkOptions, type Checks } from './options.ts';

/** What a device is to take up. */
export interface Footprint {
  /** Start of it all, on a 64-byte boundary. Default 0. */
  readonly base?: number | undefined;
  /** Virtqueues beside the engine, 0 to 63. Default 0: no virtio device. */
  readonly virtqueues?: number | undefined;
  /**
   * Bytes of transfer buffers for calls and NBD clients, a power of two from 64 KiB to 1 GiB.
   * Default 4 MiB.
   */
  readonly arenaBytes?: number | undefined;
  /** Bytes of the region of a mapping. Default 0: none. */
  readonly mapBytes?: number | undefined;
}

/** A footprint in a memory. */
export interface Place extends Footprint {
  /** The memory to live in. Default: a new one that is just large enough. */
  readonly memory?: WebAssembly.Memory | undefined;
  /** A build of the engine that can live there; default: the inlined one that can. */
  readonly module?: WebAssembly.Module | undefined;
}

/** A footprint in addresses. */
export interface Layout {
  readonly base: number;
  readonly virtqueues: number;
  /** Where the region of the mapping begins, when there is one. */
  readonly mapAt: number;
  readonly mapBytes: number;
  readonly arenaAt: number;
  readonly arenaBytes: number;
  /** The first address behind it. */
  readonly end: number;
}

/** Enough for NBD clients, too. */
const DEFAULT_ARENA_BYTES = 4 * 1024 * 1024;
const BASE_ALIGN = 64;
const LARGEST_BASE = 2 ** 32 - BASE_ALIGN;
/** Bytes in a page of a WebAssembly memory. */
export const WASM_PAGE_SIZE = 65_536;

const FOOTPRINT: Checks<Footprint> = {
  base: checkedInUse,
  virtqueues: checkedInUse,
  arenaBytes: checkedInUse,
  mapBytes: checkedInUse,
};

/** Bytes of memory that a device takes up from `base` on. */
export function footprintBytes(footprint: Footprint = {}): number {
  checkOptions(footprint, FOOTPRINT, 'footprintBytes');
  const { base, end } = layOut(footprint);
  return end - base;
}

/** Checks a footprint and lays it out. */
export function layOut({
  base = 0,
  virtqueues = 0,
  arenaBytes = DEFAULT_ARENA_BYTES,
  mapBytes = 0,
}: Footprint = {}): Layout {
  toWhole(base, 'base', 0, LARGEST_BASE);
  if (base % BASE_ALIGN !== 0) {
    throw invalid(`base must be a multiple of ${BASE_ALIGN}, not ${base}`);
  }
  toWhole(virtqueues, 'virtqueues', 0, VIRTQUEUES);
  toArenaBytes(arenaBytes, 'arenaBytes');
  const deviceBytes = virtqueues === 0 ? 0 : DEVICE_QUEUES + virtqueues * QUEUE_STRIDE;
  const mapAt = toPage(base + REGION_SIZE + deviceBytes);
  const arenaAt = toPage(mapAt + mapBytes);
  return { base, virtqueues, mapAt, mapBytes, arenaAt, arenaBytes, end: arenaAt + arenaBytes };
}

function toPage(address: number): number {
  return Math.ceil(address / PAGE_SIZE) * PAGE_SIZE;
}

/** The memory of a place, large enough. */
export function memoryOf(
  given: WebAssembly.Memory | undefined,
  layout: Layout,
): WebAssembly.Memory {
  const { base, end } = layout;
  if (given === undefined) {
    const pages = Math.ceil(end / WASM_PAGE_SIZE);
    return new WebAssembly.Memory({ initial: pages, maximum: pages });
  }
  const { byteLength } = given.buffer;
  if (end <= byteLength) return given;
  throw invalid(
    `a memory of ${byteLength} bytes has no room for a disk at base ${base}: it needs ` +
      `${end - base} bytes from there, so ${end} in all; grow the memory or ask for less ` +
      '(footprintBytes says how much it is)',
  );
}

/** A size of an arena. */
export function toArenaBytes(bytes: number, name: string): number {
  if (typeof bytes === 'number' && isArenaSize(bytes)) return bytes;
  throw invalid(`${name} must be a power of two from 65536 to 1073741824, not ${bytes}`);
}

/** A part of a memory that a disk lives in. */
export interface Occupied {
  readonly start: number;
  readonly end: number;
  /** Gives it back. */
  release(): void;
}

/** Two disks in one place would destroy each other. */
const occupied = new WeakMap<WebAssembly.Memory, Set<Occupied>>();

/**
 * Refuses a place where another disk lives; this one lives in `leaving`.
 * @throws SluiceError ERR_SLUICE_INVALID_ARGUMENT
 */
export function refuseOccupied(
  memory: WebAssembly.Memory,
  { base: start, end }: Layout,
  leaving: Occupied | undefined,
): void {
  const taken = occupantOf(memory, start, end, leaving);
  if (taken === undefined) return;
  throw invalid(
    `addresses ${start} to ${end} of this memory are not free: a disk lives from ` +
      `${taken.start} to ${taken.end}; choose another base`,
  );
}

/** Takes a part of a memory for a disk that has been in `leaving` before. */
export function occupy(
  memory: WebAssembly.Memory,
  { base: start, end }: Layout,
  leaving: Occupied | undefined,
): Occupied {
  vacate(leaving);
  const parts = occupied.get(memory) ?? new Set();
  const part = { start, end, release: () => void parts.delete(part) };
  occupied.set(memory, parts.add(part));
  return part;
}

/** Gives a part of a memory back. */
export function vacate(part: Occupied | undefined): undefined {
  part?.release();
  return undefined;
}

/** The part of a memory, other than `except`, that has bytes in common with a range. */
export function occupantOf(
  memory: WebAssembly.Memory,
  start: number,
  end: number,
  except?: Occupied,
): Occupied | undefined {
  for (const part of occupied.get(memory) ?? []) {
    if (part !== except && start < part.end && end > part.start) return part;
  }
  return undefined;
}
